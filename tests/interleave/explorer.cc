// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Stateless search: to go back, the execution is repeated from its start.

#include "explorer.h"

#include <algorithm>
#include <chrono>
#include <ostream>
#include <random>
#include <unordered_set>

namespace gang::interleave {

namespace {

class Clock {
  public:
    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
    }

  private:
    std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

// True: it ended and nothing is wrong, or it joined another.
bool RunOnce(Case *c, Chooser *chooser, Figures *figures) {
    Execution &e = c->execution();
    c->Begin();
    figures->executions++;
    const bool whole = e.Run(chooser);
    if (whole && e.failure().empty()) {
        figures->ends++;
        c->End();
    }
    return e.failure().empty();
}

class DepthFirst : public Chooser {
  public:
    DepthFirst(uint32_t preemptions, Figures *figures)
        : preemptions_(preemptions), figures_(figures) {}

    Choice Choose(const std::vector<Choice> &options, uint64_t state, Choice current) override {
        Node node{{}, 0, current, preempted()};
        if (preemptions_ == kUnbounded) {
            node.options = options;
        } else {
            Narrow(options, &node);
            state ^= (uint64_t{node.preemptions} << 8 | current) * 0x9e3779b97f4a7c15;
        }
        if (!visited_.insert(state).second) {
            return kNone;
        }
        figures_->states++;
        path_.push_back(std::move(node));
        return Repeat();
    }
    Choice Repeat() override {
        if (depth_ == path_.size()) {
            return kNone;
        }
        const Node &node = path_[depth_++];
        return node.options[node.at];
    }
    // On to the next execution; false: there is none.
    bool Next() {
        depth_ = 0;
        while (!path_.empty()) {
            Node &node = path_.back();
            if (++node.at < node.options.size()) {
                figures_->crashes += (node.options[node.at] & kCrash) != 0;
                return true;
            }
            path_.pop_back();
        }
        return false;
    }

  private:
    struct Node {
        std::vector<Choice> options;
        size_t at;
        Choice current;
        uint32_t preemptions; // before
    };
    uint32_t preempted() const {
        if (path_.empty()) {
            return 0;
        }
        const Node &last = path_.back();
        const Choice choice = last.options[last.at];
        const bool could = last.options[0] == last.current;
        return last.preemptions + (could && !(choice & kCrash) && choice != last.current);
    }
    void Narrow(const std::vector<Choice> &options, Node *node) {
        const bool could = options[0] == node->current;
        for (Choice choice : options) {
            if (choice & kCrash || !could || choice == node->current ||
                node->preemptions < preemptions_) {
                node->options.push_back(choice);
            }
        }
    }
    uint32_t preemptions_;
    Figures *figures_;
    std::vector<Node> path_;
    size_t depth_ = 0;
    std::unordered_set<uint64_t> visited_;
};

class Random : public Chooser {
  public:
    Random(uint64_t seed, Figures *figures) : rng_(seed), figures_(figures) {
        stay_ = rng_() % 100;
        crash_ = rng_() % 3 ? 1 + rng_() % 200 : 0;
    }
    Choice Choose(const std::vector<Choice> &options, uint64_t, Choice current) override {
        figures_->states++;
        const auto crashes = std::find_if(options.begin(), options.end(),
                                          [](Choice c) { return (c & kCrash) != 0; });
        const size_t actors = static_cast<size_t>(crashes - options.begin());
        if (crashes != options.end() && crash_ && rng_() % crash_ == 0) {
            figures_->crashes++;
            return options[actors + rng_() % (options.size() - actors)];
        }
        return options[0] == current && rng_() % 100 < stay_ ? current : options[rng_() % actors];
    }

  private:
    std::mt19937_64 rng_;
    Figures *figures_;
    uint64_t stay_, crash_;
};

class Fixed : public Chooser {
  public:
    explicit Fixed(const std::vector<Choice> &schedule) : schedule_(schedule) {}
    Choice Choose(const std::vector<Choice> &options, uint64_t, Choice) override {
        const Choice choice = at_ < schedule_.size() ? schedule_[at_++] : options[0];
        return std::find(options.begin(), options.end(), choice) == options.end() ? options[0]
                                                                                  : choice;
    }

  private:
    std::vector<Choice> schedule_;
    size_t at_ = 0;
};

// The failure once more, step by step.
void Explain(Case *c, Figures *figures, const std::string &how) {
    const std::vector<Choice> schedule = c->execution().schedule();
    figures->failure =
        Replay(c, schedule).failure + "\n" + how + "GANG_SCHEDULE='" + ScheduleText(schedule) + "'";
}

} // namespace

std::ostream &operator<<(std::ostream &out, const Figures &f) {
    return out << f.executions << " schedules (" << f.ends << " to their end), " << f.states
               << " states, " << f.crashes << " crash points, " << f.seconds << " s"
               << (f.complete ? ", complete" : "");
}

Figures Explore(Case *c, uint32_t preemptions, uint64_t most_executions) {
    Figures figures;
    Clock clock;
    DepthFirst search(preemptions, &figures);
    do {
        if (!RunOnce(c, &search, &figures)) {
            Explain(c, &figures, "");
            break;
        }
        figures.complete = !search.Next();
    } while (!figures.complete && figures.executions < most_executions);
    figures.seconds = clock.seconds();
    return figures;
}

Figures Wander(Case *c, uint64_t seed, uint64_t executions) {
    Figures figures;
    Clock clock;
    for (uint64_t i = 0; i < executions; i++) {
        Random random(seed + i, &figures);
        if (!RunOnce(c, &random, &figures)) {
            Explain(c, &figures, "GANG_SEED=" + std::to_string(seed + i) + " ");
            break;
        }
    }
    figures.seconds = clock.seconds();
    return figures;
}

Figures Replay(Case *c, const std::vector<Choice> &schedule) {
    Figures figures;
    Fixed fixed(schedule);
    Execution &e = c->execution();
    e.set_tracing(true);
    RunOnce(c, &fixed, &figures);
    e.set_tracing(false);
    for (const std::string &line : e.trace()) {
        figures.failure += line + "\n";
    }
    figures.failure += e.failure().empty() ? "no failure" : "FAILED: " + e.failure();
    return figures;
}

} // namespace gang::interleave
