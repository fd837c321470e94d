# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
#
# Copies of directory.cc and store.cc with the defects of mutants.h.  A text that is
# no longer found makes a test fail, which names it: adapt it here then.

set(GANG_MUTANTS_MISSING "")

# plant(SOURCE TEXT INSTEAD): in the copy at hand
function(plant old new)
    string(FIND "${mutated}" "${old}" at)
    if(at EQUAL -1)
        string(APPEND GANG_MUTANTS_MISSING "[${old}] ")
        set(GANG_MUTANTS_MISSING "${GANG_MUTANTS_MISSING}" PARENT_SCOPE)
    endif()
    string(REPLACE "${old}" "${new}" result "${mutated}")
    set(mutated "${result}" PARENT_SCOPE)
endfunction()

macro(begin_mutating source)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${core}/${source}.cc)
    file(READ ${core}/${source}.cc mutated)
    string(PREPEND mutated "#include \"execution.h\"\n#include \"mutants.h\"\n")
endmacro()
macro(end_mutating source)
    file(CONFIGURE OUTPUT ${source}_mutants.cc CONTENT "${mutated}" @ONLY)
endmacro()

begin_mutating(directory)
plant([[e.hash_lo.compare_exchange_strong(lo, hash.lo, std::memory_order_acq_rel)]]
      [[(Planted(kHiFirst) ? e.hash_hi.store(hash.hi) : void(),
          Planted(kLoByStore)
              ? (e.hash_lo.store(hash.lo), true)
              : e.hash_lo.compare_exchange_strong(lo, hash.lo, std::memory_order_acq_rel))]])
plant([[e.hash_hi.compare_exchange_strong(hi, hash.hi, std::memory_order_acq_rel)]]
      [[(Planted(kHiByStore)
          ? (e.hash_hi.store(hash.hi), true)
          : e.hash_hi.compare_exchange_strong(hi, hash.hi, std::memory_order_acq_rel))]])
plant([[uint64_t hi = e.hash_hi.load(std::memory_order_acquire);]]
      [[uint64_t hi = e.hash_hi.load(std::memory_order_acquire);
            if (Planted(kHalfIgnored) && hi == 0 &&
                taken[interleave::Execution::current()->process() % 64] != &e) {
                continue;
            }]])
plant([[header_->entries_used.fetch_add(1, std::memory_order_relaxed);]]
      [[taken[interleave::Execution::current()->process() % 64] = &e;
                    header_->entries_used.fetch_add(1, std::memory_order_relaxed);]])
plant([[e->seen.fetch_add(1, std::memory_order_relaxed)]]
      [[Planted(kSeenInTwoSteps) ? e->seen.store(e->seen.load() + 1)
                                 : void(e->seen.fetch_add(1, std::memory_order_relaxed))]])
plant([[bool Directory::Claim(Entry *entry, uint64_t expected, uint32_t slot, uint32_t packet) {]]
      [[bool Directory::Claim(Entry *entry, uint64_t expected, uint32_t slot, uint32_t packet) {
    if (Planted(kClaimInTwoSteps)) {
        if (!entry->claim.compare_exchange_strong(expected, MakeClaim(slot, 0))) {
            return false;
        }
        entry->claim.store(MakeClaim(slot, packet));
        return true;
    }
    if (Planted(kClaimByStore)) {
        entry->claim.store(MakeClaim(slot, packet));
        return true;
    }
    if (Planted(kClaimAnything)) {
        expected = entry->claim.load();
    }
    if (Planted(kSameSlot) && expected) {
        slot = ClaimSlot(expected);
    }]])
plant([[d.slot = ClaimSlot(d.claim);]]
      [[d.slot = ClaimSlot(d.claim);
        if (Planted(kClaimReadTwice)) {
            d.claim = d.entry->claim.load();
        }]])
plant([[bool alive = member_state(owner) == MemberState::kAlive;]]
      [[bool alive = Planted(kStateAfterAck) || member_state(owner) == MemberState::kAlive;]])
plant([[d.verdict = alive ? Verdict::kDefer : Verdict::kPublish;]]
      [[if (Planted(kStateAfterAck)) {
                alive = member_state(owner) == MemberState::kAlive;
            }
            d.verdict = alive || Planted(kNoTakeOver) ? Verdict::kDefer : Verdict::kPublish;]])
plant([[ClaimPacket(d.claim)) {]] [[ClaimPacket(d.claim) - Planted(kConfirmedEarly)) {]])
plant([[.load(std::memory_order_acquire) >= packet) {]]
      [[.load(std::memory_order_acquire) >= packet - Planted(kBaseEarly)) {]])
plant([[header_->next_chunk.fetch_add(1, std::memory_order_relaxed)]]
      [[Planted(kChunkTwice) ? [this] {
        const uint64_t next = header_->next_chunk.load();
        header_->next_chunk.store(next + 1);
        return next;
    }() : header_->next_chunk.fetch_add(1, std::memory_order_relaxed)]])
plant([[// Not through the mapping: a page fault costs more]]
      [[if (Planted(kMirroredFirst)) {
        mirrored_[slot].store(packet);
    }
    // Not through the mapping: a page fault costs more]])
end_mutating(directory)

begin_mutating(store)
plant([[ssize_t n = pwritev(]]
      [[if (Planted(kValidFirst)) {
        meta_[slot].state.store(kSlotValid);
    }
    ssize_t n = pwritev(]])
end_mutating(store)

string(REPLACE "\"" "'" GANG_MUTANTS_MISSING "${GANG_MUTANTS_MISSING}")
file(CONFIGURE OUTPUT mutants_missing.h CONTENT
     "inline constexpr char kMissingMutants[] = R\"(${GANG_MUTANTS_MISSING})\";\n")
