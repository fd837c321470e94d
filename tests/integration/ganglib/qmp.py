# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""A QEMU's monitor."""

import json
import socket
import threading


class QMPError(Exception):
    """QEMU refused a command."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error.get('desc')}")
        self.desc = error.get("desc", "")


class QMP:
    """One connection; commands from several threads take turns.  oob: with commands that
    QEMU's main loop need not wait for."""

    def __init__(self, path, timeout=60, oob=False):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        try:
            self.sock.connect(path)
            self.file = self.sock.makefile("r")
            self.lock = threading.Lock()
            self.events = []
            json.loads(self.file.readline())
            if oob:
                self.cmd("qmp_capabilities", enable=["oob"])
            else:
                self.cmd("qmp_capabilities")
        except BaseException:
            self.sock.close()
            raise

    def cmd(self, name, _how="execute", **arguments):
        """Runs a command; '_' in argument names stands for '-'."""
        request = {_how: name}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        with self.lock:
            self.sock.sendall(json.dumps(request).encode() + b"\n")
            while True:
                line = self.file.readline()
                if not line:
                    raise ConnectionError(f"QEMU went away during {name}")
                reply = json.loads(line)
                if "event" in reply:
                    self.events.append(reply)
                elif "error" in reply:
                    raise QMPError(name, reply["error"])
                else:
                    return reply["return"]

    def yank(self):
        """Ends a migration's connections though QEMU's main loop waits for them."""
        self.cmd("yank", "exec-oob", instances=[{"type": "migration"}])

    def hmp(self, line):
        return self.cmd("human-monitor-command", command_line=line)

    def capabilities(self, **states):
        self.cmd("migrate-set-capabilities", capabilities=[
            {"capability": k.replace("_", "-"), "state": v} for k, v in states.items()])

    def parameters(self, **values):
        self.cmd("migrate-set-parameters", **values)

    def close(self):
        self.file.close()
        self.sock.close()
