// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Defects that can be switched on in copies of directory.cc and store.cc; see
// mutants.cmake, which plants them.

#ifndef GANG_MUTANTS_H
#define GANG_MUTANTS_H

namespace gang {

namespace interleave {

enum class Mutant {
    kNothing,
    kHiFirst,         // hash_hi before hash_lo
    kHalfIgnored,     // a hash whose writer has ended is completed by nobody
    kHiByStore,       // hash_hi not by compare-and-swap
    kLoByStore,       // hash_lo neither
    kClaimInTwoSteps, // the slot first, then the packet's number
    kClaimByStore,    // the race for a claim has two winners
    kClaimAnything,   // whatever the claim is by now is replaced
    kSameSlot,        // a take-over claims the dead member's slot
    kStateAfterAck,   // an owner's state is read after its acknowledgement
    kConfirmedEarly,  // by the packet before
    kBaseEarly,       // the same, of a mirrored slot
    kClaimReadTwice,  // the slot from one word, the confirmation from another
    kChunkTwice,      // next_chunk in two steps
    kMirroredFirst,   // the mirror's number before its bytes
    kNoTakeOver,      // a dead member's claim blocks its content
    kSeenInTwoSteps,  // occurrences get lost
    kValidFirst,      // a slot of the store is valid before its bytes are there
};
inline Mutant planted = Mutant::kNothing;
inline bool Planted(Mutant mutant) {
    return planted == mutant;
}

// The entry whose hash_lo a process has written last.
inline const void *taken[64];

} // namespace interleave

using interleave::Planted;
using interleave::taken;
using enum interleave::Mutant;

} // namespace gang

#endif
