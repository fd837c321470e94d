# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
# shellcheck shell=bash
#
# What every script here shares: where things are, how to say what is going on,
# and the helpers for apt.  Sourced, never run.

GANG_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
GANG_BUILD=${GANG_BUILD:-$GANG_TOP/build}
GANG_JOBS=${GANG_JOBS:-$(nproc)}
GANG_LOGS=$GANG_BUILD/logs
export GANG_TOP GANG_BUILD GANG_JOBS GANG_LOGS

# A ccache shared by the stock build, the fork and the library; paths below
# build/ are made relative so that the two QEMU trees share their objects.
export CCACHE_BASEDIR=$GANG_BUILD CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-3G}

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# step TEXT LOGFILE CMD...: run CMD with its output in LOGFILE, say how long it
# took, and show the end of the log when it fails.
step() {
    local text=$1 log=$2 t0=$SECONDS
    shift 2
    mkdir -p "$(dirname "$log")"
    say "$text (log: ${log#"$GANG_TOP"/})"
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        die "$text failed; the whole log is in $log"
    fi
    say "$text: done in $((SECONDS - t0)) s"
}

# stamp_ok NAME KEY / stamp_set NAME KEY: a step is skipped when the key it was
# last done for (a checksum of its inputs) is unchanged.
stamp_ok() { [ -f "$GANG_BUILD/stamps/$1" ] && [ "$(cat "$GANG_BUILD/stamps/$1")" = "$2" ]; }
stamp_set() { mkdir -p "$GANG_BUILD/stamps" && printf '%s\n' "$2" >"$GANG_BUILD/stamps/$1"; }
tree_key() { # tree_key PATH...: checksum of names and contents
    find "$@" -type f -print0 2>/dev/null | sort -z | xargs -0 -r sha256sum | sha256sum | cut -d' ' -f1
}

# The Debian mirror this machine itself uses, from its own apt configuration
# (either sources format), or nothing.
debian_mirror() {
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format '$(CREATED_BY)|$(ORIGIN)|$(LABEL)|$(REPO_URI)' 2>/dev/null |
        awk -F'|' '$1 == "Packages" && $2 == "Debian" && $3 == "Debian" { print $4; exit }'
}
debian_mirror_any() {
    local uri
    uri=$(debian_mirror)
    if [ -z "$uri" ]; then
        uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
            grep -v '^#' | grep -oE '(https?|file|copy)://?[^ ]*/debian/?' | head -n 1)
    fi
    [ -n "$uri" ] || die "no Debian mirror found in this machine's apt configuration; add one to /etc/apt/sources.list"
    printf '%s\n' "${uri%/}"
}

# private_apt NAME LINE...: prepares an apt configuration of its own below
# build/apt/NAME that reads only the given sources, and sets APT_ARGS to use it.
private_apt() {
    local name=$1 dir=$GANG_BUILD/apt/$1
    shift
    mkdir -p "$dir/lists/partial" "$dir/parts" "$dir/cache/archives/partial"
    printf '%s\n' "$@" >"$dir/sources.list"
    APT_ARGS=(-o "Dir::Etc::sourcelist=$dir/sources.list" -o "Dir::Etc::sourceparts=$dir/parts"
        -o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o "APT::Get::List-Cleanup=0"
        -o "APT::Sandbox::User=root")
    apt-get "${APT_ARGS[@]}" update -qq || die "apt-get update failed for: $*"
    say "package lists of $name are up to date"
}
