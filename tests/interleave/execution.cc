// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Fibres by ucontext.  An actor that is left in the middle of something is never
// resumed and its stack not unwound: actors own nothing on their stacks.

#include "execution.h"

#include <cstdlib>
#include <cstring>

namespace gang::interleave {

namespace {

Execution *the_execution;

uint64_t Mix(uint64_t a, uint64_t b) {
    unsigned __int128 m =
        static_cast<unsigned __int128>(a ^ 0x9e3779b97f4a7c15) * (b ^ 0xd1342543de82ef95);
    uint64_t h = static_cast<uint64_t>(m) ^ static_cast<uint64_t>(m >> 64);
    return h * 0xff51afd7ed558ccd ^ (a << 17 | a >> 47) ^ b;
}

const char *const kOps[] = {"load", "store", "add", "cas", "write"};

} // namespace

void Before(Op op, const void *word) {
    if (the_execution) {
        the_execution->Step(op, word);
    }
}

void After(Op op, const void *word, uint32_t size, uint64_t before, uint64_t now, uint64_t seen) {
    if (the_execution) {
        the_execution->Record(op, word, size, before, now, seen);
    }
}

std::string ScheduleText(const std::vector<Choice> &schedule) {
    std::string text;
    for (size_t i = 0; i < schedule.size();) {
        size_t run = 1;
        while (i + run < schedule.size() && schedule[i + run] == schedule[i]) {
            run++;
        }
        text += text.empty() ? "" : " ";
        text += (schedule[i] & kCrash ? "!" : "") + std::to_string(schedule[i] & ~kCrash);
        text += run > 1 ? "*" + std::to_string(run) : "";
        i += run;
    }
    return text;
}

std::vector<Choice> ParseSchedule(const std::string &text) {
    std::vector<Choice> schedule;
    for (const char *p = text.c_str(); *p;) {
        if (*p == ' ') {
            p++;
            continue;
        }
        const bool crash = *p == '!';
        char *end;
        const auto choice =
            static_cast<Choice>(strtoul(p + crash, &end, 10) | (crash ? kCrash : 0));
        size_t run = *end == '*' ? strtoul(end + 1, &end, 10) : 1;
        if (end == p + crash || run > 100000) {
            break;
        }
        schedule.insert(schedule.end(), run, choice);
        p = end;
    }
    return schedule;
}

Execution::Execution(Watcher *watcher) : watcher_(watcher) {
    the_execution = this;
}
Execution::~Execution() {
    the_execution = nullptr;
}
Execution *Execution::current() {
    return the_execution;
}

void Execution::Reset() {
    for (size_t i = undo_.size(); i > 0; i--) {
        const Undo &u = undo_[i - 1];
        memcpy(const_cast<void *>(u.word), &u.before, u.size); // little-endian
    }
    // What is read without having been written must not look right.
    for (auto &[data, size] : bytes_) {
        memset(data, 0xdd, size);
    }
    undo_.clear();
    bytes_.clear();
    actors_.clear();
    schedule_.clear();
    trace_.clear();
    failure_.clear();
    memory_ = crashed_ = crashes_ = 0;
    pruned_ = false;
}

void Execution::Add(const std::string &name, uint32_t process, Body body, bool daemon) {
    if (stacks_.size() == actors_.size()) {
        stacks_.emplace_back(new uint8_t[kStack]);
    }
    actors_.emplace_back(new Actor{name,
                                   process,
                                   std::move(body),
                                   daemon,
                                   false,
                                   false,
                                   Mix(process, actors_.size()),
                                   nullptr,
                                   "begin",
                                   {}});
}

void Execution::Entry() {
    Execution *e = the_execution;
    e->actors_[e->running_]->body();
    e->Exit();
}

void Execution::Exit() {
    actors_[running_]->ended = true;
    Dispatch();
    abort(); // nobody resumes who has ended
}

bool Execution::Run(Chooser *chooser) {
    chooser_ = chooser;
    running_ = kNobody;
    Dispatch();
    running_ = kNobody;
    chooser_ = nullptr;
    return !pruned_;
}

bool Execution::Enabled(const Actor &actor) {
    if (actor.ended || (crashed_ >> actor.process & 1)) {
        return false;
    }
    if (!actor.waits) {
        return true;
    }
    return Quietly(*actor.waits);
}

uint64_t Execution::State() const {
    uint64_t state = Mix(memory_, crashed_);
    for (const auto &actor : actors_) {
        state = Mix(state, actor->seen + actor->ended + 2 * actor->process);
    }
    return state;
}

void Execution::SwitchTo(uint32_t actor) {
    ucontext_t *from = running_ == kNobody ? &main_ : &actors_[running_]->context;
    Actor &a = *actors_[actor];
    if (actor == running_) {
        return;
    }
    running_ = actor;
    if (!a.started) {
        a.started = true;
        getcontext(&a.context);
        a.context.uc_stack.ss_sp = stacks_[actor].get();
        a.context.uc_stack.ss_size = kStack;
        a.context.uc_link = nullptr;
        makecontext(&a.context, &Execution::Entry, 0);
    }
    swapcontext(from, &a.context);
}

// Lets somebody run: returns when it is the caller's turn.
void Execution::Dispatch() {
    // Up to its first step an actor does nothing that others could see.
    for (uint32_t i = 0; i < actors_.size(); i++) {
        if (!actors_[i]->started) {
            return SwitchTo(i);
        }
    }
    while (true) {
        Choice choice = failure_.empty() ? chooser_->Repeat() : kNone;
        if (choice == kNone) {
            uint64_t alive = 0, left = 0;
            options_.clear();
            if (running_ != kNobody && Enabled(*actors_[running_])) {
                options_.push_back(static_cast<Choice>(running_));
            }
            for (uint32_t i = 0; i < actors_.size(); i++) {
                const Actor &a = *actors_[i];
                const bool exists = !a.ended && !(crashed_ >> a.process & 1);
                alive |= uint64_t{exists} << a.process;
                left += exists && !a.daemon;
                if (i != running_ && Enabled(a)) {
                    options_.push_back(static_cast<Choice>(i));
                }
            }
            const bool stuck = options_.empty();
            if (stuck && left && failure_.empty()) {
                failure_ = "blocked for good:";
                for (const auto &a : actors_) {
                    if (!a->ended && !a->daemon && !crashed(a->process)) {
                        failure_ += " " + a->name + " (" + a->next + ")";
                    }
                }
            }
            if (schedule_.size() > kMostSteps && failure_.empty()) {
                failure_ = "no end after " + std::to_string(kMostSteps) + " steps";
            }
            if (!stuck && failure_.empty()) {
                for (uint32_t p = 0; most_crashes_ > crashes_ && p < 64; p++) {
                    if (alive & crashable_ & uint64_t{1} << p) {
                        options_.push_back(static_cast<Choice>(kCrash | p));
                    }
                }
                choice = chooser_->Choose(
                    options_, State(), running_ == kNobody ? kNone : static_cast<Choice>(running_));
                pruned_ = choice == kNone;
            }
        }
        if (choice == kNone) { // back to Run()
            if (running_ != kNobody) {
                Actor &a = *actors_[running_];
                running_ = kNobody;
                swapcontext(&a.context, &main_);
            }
            return;
        }
        schedule_.push_back(choice);
        if (choice & kCrash) {
            crashed_ |= uint64_t{1} << (choice & ~kCrash);
            crashes_++;
            if (tracing_) {
                trace_.push_back("process " + std::to_string(choice & ~kCrash) + " ends");
            }
            continue;
        }
        if (tracing_) {
            trace_.push_back(actors_[choice]->name + ": " + actors_[choice]->next);
        }
        if (actors_[choice]->ended || crashed(actors_[choice]->process)) {
            failure_ = "the tester's own defect: an execution is not repeatable";
            continue;
        }
        SwitchTo(choice); // Run() comes back when all is over
        return;
    }
}

std::string Execution::Describe(Op op, const void *word) const {
    return std::string(kOps[static_cast<size_t>(op)]) + " " + watcher_->Name(word);
}

void Execution::Step(Op op, const void *word) {
    if (running_ == kNobody || passing_ || !watcher_->Visible(word)) {
        return;
    }
    if (tracing_) {
        actors_[running_]->next = Describe(op, word);
    }
    Dispatch();
}

void Execution::Record(Op op, const void *word, uint32_t size, uint64_t before, uint64_t now,
                       uint64_t seen) {
    if (running_ != kNobody && !passing_) {
        Actor &a = *actors_[running_];
        a.seen = Mix(a.seen, seen);
        if (tracing_ && !trace_.empty()) {
            trace_.push_back("    " + Describe(op, word) + ": " + std::to_string(before) + " -> " +
                             std::to_string(now));
        }
    }
    if (before != now) {
        const auto at = reinterpret_cast<uintptr_t>(word);
        undo_.push_back({word, size, before});
        memory_ += Mix(at, now) - Mix(at, before);
        Quietly([&] { watcher_->Changed(word, before, now); });
        if (!failure_.empty() && running_ != kNobody && !passing_) {
            Dispatch(); // ends it
        }
    }
}

void Execution::WroteBytes(uint8_t *data, size_t size) {
    bytes_.emplace_back(data, size);
}

void Execution::Await(const char *what, const std::function<bool()> &ready) {
    Actor &a = *actors_[running_];
    a.waits = &ready;
    a.next = what;
    if (!Enabled(a)) {
        Dispatch();
    }
    a.waits = nullptr;
    a.seen = Mix(a.seen, 1);
}

void Execution::Become(uint32_t process) {
    actors_[running_]->process = process;
}

void Execution::Fail(const std::string &what) {
    if (failure_.empty()) {
        failure_ = what;
    }
    if (running_ != kNobody && !passing_) {
        Dispatch(); // ends it
    }
}

} // namespace gang::interleave
