// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// One execution: actors (fibres) of several processes that take turns at every
// access to shared memory, in an order that somebody else chooses, and processes
// that end between any two accesses.

#ifndef GANG_EXECUTION_H
#define GANG_EXECUTION_H

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hooked_atomic.h"

namespace gang::interleave {

// What may happen next: actor a takes a step (a), or process p ends (kCrash + p).
using Choice = uint8_t;
constexpr Choice kCrash = 0x80;
constexpr Choice kNone = 0xff;
// Of a run of choices: 2 steps of actor 0, then process 1 ends: "0*2 !1".
std::string ScheduleText(const std::vector<Choice> &schedule);
std::vector<Choice> ParseSchedule(const std::string &text);

// Decides what happens next.
class Chooser {
  public:
    virtual ~Chooser() = default;
    // One of `options`, or kNone: this execution is of no more interest.
    // `state`: a hash of shared memory and of all that every actor has seen, so
    // that equal states have equal futures.  `current`: who ran last, or kNone.
    virtual Choice Choose(const std::vector<Choice> &options, uint64_t state, Choice current) = 0;
    // What happens next for certain, because it did before; kNone: Choose() tells.
    virtual Choice Repeat() { return kNone; }
};

// Hears of every access; says what is wrong with it.
class Watcher {
  public:
    virtual ~Watcher() = default;
    virtual void Changed(const void *word, uint64_t before, uint64_t now) = 0;
    // False: the access is no step of its own.
    virtual bool Visible(const void *word) const = 0;
    virtual std::string Name(const void *word) const = 0;
};

// One at a time; the hooks find it by Execution::current().
class Execution {
  public:
    using Body = std::function<void()>;
    explicit Execution(Watcher *watcher);
    ~Execution();
    static Execution *current();

    // --- before Run()
    // Forgets actors, crashes and failure, and undoes every write since the last Reset().
    void Reset();
    // `daemon`: need not end.  At most kCrash actors.
    void Add(const std::string &name, uint32_t process, Body body, bool daemon = false);
    // Processes that may end at any step, as a mask; and how many of them, at most.
    void AllowCrashes(uint64_t processes, uint32_t most) {
        crashable_ = processes, most_crashes_ = most;
    }
    // A schedule's steps are kept as text.
    void set_tracing(bool on) { tracing_ = on; }

    // Until every actor has ended, the chooser gives up (false), or something fails.
    bool Run(Chooser *chooser);

    // --- inside an actor
    // Goes on when `ready` says so.  It must read through the hooked classes only
    // what never turns back.
    void Await(const char *what, const std::function<bool()> &ready);
    // From here on the actor is part of another process.
    void Become(uint32_t process);
    // Ends the execution, if in one.
    void Fail(const std::string &what);
    // Without steps, and unseen.
    template <typename F> auto Quietly(F f) {
        const bool was = std::exchange(passing_, true);
        struct Back {
            bool *at, was;
            ~Back() { *at = was; }
        } back{&passing_, was};
        return f();
    }

    bool crashed(uint32_t process) const { return crashed_ >> process & 1; }
    const std::string &failure() const { return failure_; }
    const std::vector<Choice> &schedule() const { return schedule_; }
    const std::vector<std::string> &trace() const { return trace_; }
    uint64_t crashes() const { return crashes_; }
    // Whose access this is; kNoProcess: the tester's own.
    static constexpr uint32_t kNoProcess = UINT32_MAX;
    uint32_t process() const {
        return running_ == kNobody ? kNoProcess : actors_[running_]->process;
    }
    // Bytes at `data` are about to change, not through a hooked class.
    void WroteBytes(uint8_t *data, size_t size);

    // For the hooks.
    void Step(Op op, const void *word);
    void Record(Op op, const void *word, uint32_t size, uint64_t before, uint64_t now,
                uint64_t seen);

  private:
    struct Actor {
        std::string name;
        uint32_t process;
        Body body;
        bool daemon, started, ended;
        uint64_t seen; // hash of all it has learned
        const std::function<bool()> *waits;
        std::string next; // tracing: what it is about to do
        ucontext_t context;
    };
    struct Undo {
        const void *word;
        uint32_t size;
        uint64_t before;
    };
    static void Entry();
    [[noreturn]] void Exit();
    void Dispatch();
    void SwitchTo(uint32_t actor);
    bool Enabled(const Actor &actor);
    uint64_t State() const;
    std::string Describe(Op op, const void *word) const;

    static constexpr size_t kStack = 128 * 1024;
    static constexpr size_t kMostSteps = 20000;
    static constexpr uint32_t kNobody = UINT32_MAX;
    Watcher *watcher_;
    Chooser *chooser_ = nullptr;
    std::vector<std::unique_ptr<Actor>> actors_;
    std::vector<std::unique_ptr<uint8_t[]>> stacks_;
    std::vector<Undo> undo_;
    std::vector<std::pair<uint8_t *, size_t>> bytes_;
    std::vector<Choice> schedule_, options_;
    std::vector<std::string> trace_;
    ucontext_t main_;
    uint32_t running_ = kNobody; // kNobody: nobody's access is a step
    bool tracing_ = false, pruned_ = false, passing_ = false;
    uint64_t memory_ = 0; // hash of what shared memory holds
    uint64_t crashable_ = 0, crashed_ = 0, crashes_ = 0;
    uint32_t most_crashes_ = 0;
    std::string failure_;
};

} // namespace gang::interleave

#endif
