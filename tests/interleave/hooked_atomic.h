// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// gang::Atomic as the interleaving tester has it (see migration-gang/src/atomic.h):
// before every access another actor may run, or the accessing process may end.
// One thread only; memory orders are not modelled, every access is
// sequentially consistent.

#ifndef GANG_HOOKED_ATOMIC_H
#define GANG_HOOKED_ATOMIC_H

#include <atomic>
#include <cstdint>

namespace gang {

namespace interleave {

enum class Op : uint8_t {
    kLoad,
    kStore,
    kAdd,
    kCas,
    kWrite
};

// May run other actors first; does not return in a process that crashes here.
void Before(Op op, const void *word);
// `before` and `now`: of the word; `seen`: what the caller learns.
void After(Op op, const void *word, uint32_t size, uint64_t before, uint64_t now, uint64_t seen);

} // namespace interleave

template <typename T> class Atomic {
  public:
    Atomic() = default;
    Atomic(const Atomic &) = delete;
    Atomic &operator=(const Atomic &) = delete;

    T load(std::memory_order = std::memory_order_seq_cst) const {
        interleave::Before(interleave::Op::kLoad, this);
        interleave::After(interleave::Op::kLoad, this, sizeof(T), value_, value_, value_);
        return value_;
    }
    void store(T value, std::memory_order = std::memory_order_seq_cst) {
        interleave::Before(interleave::Op::kStore, this);
        const T before = value_;
        value_ = value;
        interleave::After(interleave::Op::kStore, this, sizeof(T), before, value, 0);
    }
    T exchange(T value, std::memory_order = std::memory_order_seq_cst) {
        interleave::Before(interleave::Op::kStore, this);
        const T before = value_;
        value_ = value;
        interleave::After(interleave::Op::kStore, this, sizeof(T), before, value, before);
        return before;
    }
    T fetch_add(T n, std::memory_order = std::memory_order_seq_cst) {
        interleave::Before(interleave::Op::kAdd, this);
        const T before = value_;
        value_ = static_cast<T>(before + n);
        interleave::After(interleave::Op::kAdd, this, sizeof(T), before, value_, before);
        return before;
    }
    T fetch_sub(T n, std::memory_order order = std::memory_order_seq_cst) {
        return fetch_add(static_cast<T>(0 - n), order);
    }
    bool compare_exchange_strong(T &expected, T value,
                                 std::memory_order = std::memory_order_seq_cst) {
        interleave::Before(interleave::Op::kCas, this);
        const T before = value_;
        const bool done = before == expected;
        if (done) {
            value_ = value;
        }
        expected = before;
        interleave::After(interleave::Op::kCas, this, sizeof(T), before, value_, before);
        return done;
    }

  private:
    T value_;
};

} // namespace gang

#endif
