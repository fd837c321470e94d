// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// spdlog on stderr, with or without journald.

#include "log.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <systemd/sd-daemon.h>

namespace gangd {

namespace {

// The journal's stream says which one it is: a stderr that was redirected since
// the service manager set the variable is not the journal any more.
bool StderrIsJournal() {
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat st;
    if (!stream || fstat(STDERR_FILENO, &st) != 0) {
        return false;
    }
    return fmt::format("{}:{}", st.st_dev, st.st_ino) == stream;
}

class PriorityFlag : public spdlog::custom_flag_formatter {
  public:
    void format(const spdlog::details::log_msg &message, const std::tm &,
                spdlog::memory_buf_t &out) override {
        const char *prefix = SD_INFO;
        switch (message.level) {
        case spdlog::level::trace:
        case spdlog::level::debug:
            prefix = SD_DEBUG;
            break;
        case spdlog::level::warn:
            prefix = SD_WARNING;
            break;
        case spdlog::level::err:
            prefix = SD_ERR;
            break;
        case spdlog::level::critical:
            prefix = SD_CRIT;
            break;
        default:
            break;
        }
        out.append(prefix, prefix + 3);
    }
    std::unique_ptr<custom_flag_formatter> clone() const override {
        return std::make_unique<PriorityFlag>();
    }
};

} // namespace

void SetUpLog(const std::string &level) {
    auto logger = std::make_shared<spdlog::logger>(
        "gangd", std::make_shared<spdlog::sinks::stderr_sink_st>());
    if (StderrIsJournal()) {
        auto formatter = std::make_unique<spdlog::pattern_formatter>();
        formatter->add_flag<PriorityFlag>('*').set_pattern("%*%v");
        logger->set_formatter(std::move(formatter));
    } else {
        logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e gangd[%P] %l: %v");
    }
    logger->flush_on(spdlog::level::trace);
    spdlog::set_default_logger(logger);
    spdlog::set_level(spdlog::level::from_str(level));
}

} // namespace gangd
