// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The actors' steps.

#include "actors.h"

#include <algorithm>
#include <array>

namespace gang::interleave {

GangCase::GangCase(const Plan &plan) : plan_(plan), world_(plan.world), d_(world_.directory()) {
    for (uint32_t m = 0; m < plan_.world.members; m++) {
        stalls_.push_back(std::make_unique<StallWatch>(&d_, 1000));
    }
}

void GangCase::Begin() {
    world_.Reset();
    Execution &e = execution();
    channels_.assign(plan_.world.members, {});
    scanned_.assign(plan_.world.members, false);
    left_.assign(plan_.world.members, false);
    uint64_t processes = 0;
    for (uint32_t m = 0; m < plan_.world.members; m++) {
        for (uint32_t c = 0; c < plan_.world.channels; c++) {
            channels_[m].emplace_back();
            channels_[m].back().member = m;
            channels_[m].back().channel = c;
        }
        processes |= uint64_t{1} << world_.source(m);
        processes |= uint64_t{plan_.destinations_crash} << world_.destination(m);
    }
    for (auto &member : channels_) {
        for (Channel &ch : member) {
            const std::string name = std::to_string(ch.member) + "." + std::to_string(ch.channel);
            e.Add("channel " + name, world_.source(ch.member), [this, c = &ch] { Send(c); });
            e.Add(
                "destination " + name, world_.destination(ch.member),
                [this, c = &ch] { Destination(c); }, true);
        }
    }
    e.Add(
        "gangd", world_.gangd(), [this] { Gangd(); }, true);
    if (plan_.hang_up >= 0) {
        e.Add(
            "hang-up", world_.gangd(),
            [this] { d_.SetMemberState(static_cast<uint32_t>(plan_.hang_up), MemberState::kDead); },
            true);
    }
    if (plan_.gangd_crashes) {
        processes |= uint64_t{1} << world_.gangd();
    }
    e.AllowCrashes(processes, plan_.crashes);
}

void GangCase::End() {
    world_.CheckEnd();
    // Where nobody failed, nothing crosses the link twice for want of a slot.
    if (execution().crashes() || plan_.leave_early || plan_.hang_up >= 0) {
        return;
    }
    std::vector<size_t> times(plan_.world.contents.size());
    for (const auto &member : channels_) {
        for (const Channel &ch : member) {
            for (const Sent &packet : ch.sent) {
                for (const Published &page : packet.published) {
                    if (++times[page.content] > 1) {
                        execution().Fail("content " + std::to_string(page.content) +
                                         " was published twice, though nobody failed");
                    }
                }
            }
        }
    }
}

// ----------------------------------------------------------------- sources

void GangCase::Scan(Channel *ch) {
    if (ch->channel == 0 && ch->member < plan_.scans.size()) {
        for (size_t content : plan_.scans[ch->member]) {
            world_.Counting();
            const bool known = d_.Count(plan_.world.contents[content].hash);
            world_.Counted();
            if (!known && d_.has_mirror()) {
                d_.CountFeatures(plan_.world.contents[content].features);
            }
        }
    }
    if (ch->channel == 0) {
        scanned_[ch->member] = true;
    }
    if (plan_.barrier) {
        execution().Await("the barrier", [this] { return ScansDone(); });
    }
}

bool GangCase::ScansDone() {
    for (uint32_t m = 0; m < scanned_.size(); m++) {
        if (!scanned_[m] && !execution().crashed(world_.source(m))) {
            return false;
        }
    }
    return true;
}

void GangCase::Send(Channel *ch) {
    constexpr size_t kMostTurns = 50;
    Scan(ch);
    if (ch->member < plan_.sends.size() && ch->channel < plan_.sends[ch->member].size()) {
        for (const Plan::Packet &pages : plan_.sends[ch->member][ch->channel]) {
            for (size_t content : pages) {
                Page(ch, content, true);
            }
            Flush(ch);
        }
    }
    for (size_t turn = 0; !ch->deferred.empty() && !ch->failed; turn++) {
        if (turn == kMostTurns) {
            execution().Fail("a page that is deferred for ever");
        }
        ch->again = ch->deferred.front();
        ch->deferred.pop_front();
        const bool may_defer = AwaitDecision(ch);
        if (!ch->failed) {
            Page(ch, ch->again.content, may_defer);
            Flush(ch);
        }
    }
    Finish(ch);
}

void GangCase::Flush(Channel *ch) {
    const Sent &p = ch->building;
    if (!p.published.empty() || !p.referenced.empty() || p.literals) {
        ch->sent.push_back(p);
    }
    ch->building = {};
}

bool GangCase::Publish(Channel *ch, const Decision &decision, size_t content, uint32_t *slot) {
    if (ch->next_slot == ch->chunk_end) {
        uint32_t first;
        if (!d_.TakeChunk(ch->member, ch->channel, &first)) {
            return false;
        }
        ch->next_slot = first;
        ch->chunk_end = first + kChunkSlots;
    }
    *slot = ch->next_slot;
    if (plan_.misdeed == Misdeed::kReuseSlot && decision.claim) {
        *slot = static_cast<uint32_t>(decision.claim >> 32) - 1;
    }
    if (!d_.Claim(decision.entry, decision.claim, *slot,
                  static_cast<uint32_t>(ch->sent.size() + 1))) {
        return false;
    }
    ch->next_slot += plan_.misdeed != Misdeed::kKeepSlot;
    ch->building.published.push_back({*slot, content});
    return true;
}

void GangCase::Page(Channel *ch, size_t content, bool may_defer) {
    const Content &c = plan_.world.contents[content];
    world_.Decided();
    Decision d = d_.Decide(c.hash, ch->member);
    std::array<uint32_t, kFeatures> slots;
    slots.fill(Directory::kNoSlot);
    bool shared = false;
    uint32_t owner, channel;
    if ((d.verdict == Verdict::kPublish || d.verdict == Verdict::kLiteral) && d_.has_mirror()) {
        uint32_t waits_for = Directory::kNoSlot;
        bool base = false;
        d_.Representatives(c.features, &slots, &shared);
        for (uint32_t &slot : slots) {
            if (slot != Directory::kNoSlot && plan_.misdeed != Misdeed::kBaseUnchecked &&
                d_.slot_state(slot) != SlotState::kConfirmed) {
                waits_for = slot;
                slot = Directory::kNoSlot;
            }
            base |= slot != Directory::kNoSlot;
        }
        if (!base && waits_for != Directory::kNoSlot && may_defer &&
            d_.OwnerOfSlot(waits_for, &owner, &channel)) {
            d_.TakeBack(d);
            ch->deferred.push_back({content, {nullptr, 0, nullptr, waits_for}});
            return;
        }
    }
    bool published = false;
    if (d.verdict == Verdict::kPublish || (shared && d.entry && d.claim == 0)) {
        uint32_t slot;
        published = Publish(ch, d, content, &slot);
        if (published) {
            if (shared &&
                d_.Mirror(slot, world_.page(content), static_cast<uint32_t>(ch->sent.size() + 1))) {
                d_.Represent(c.features, slot);
            }
        } else if (d.verdict == Verdict::kPublish) {
            world_.Decided();
            d = d_.Decide(c.hash, ch->member);
        }
    }
    if (published) {
        // as it is, or against a base
    } else if (d.verdict == Verdict::kReference) {
        world_.CheckReference(d.slot, content);
        ch->building.referenced.push_back({d.slot, content});
        return;
    } else if (d.verdict == Verdict::kDefer && may_defer && d_.Owner(d.claim, &owner, &channel)) {
        ch->deferred.push_back({content, {nullptr, 0, d.entry, 0}});
        return;
    } else {
        ch->building.literals++;
    }
    for (uint32_t slot : slots) {
        if (slot != Directory::kNoSlot) {
            world_.CheckBase(slot);
            ch->building.bases.push_back(slot);
        }
    }
}

bool GangCase::Known(const Channel &ch) {
    return Decidable(d_, stalls_[ch.member].get(), ch.again.page);
}

// The member that the page waits for has ended, and so has gangd, which would have
// said so: what StallWatch is for.
bool GangCase::OwnerLost(const Channel &ch) {
    uint32_t m, c;
    const Deferred &page = ch.again.page;
    return (page.entry ? d_.Owner(page.entry->claim.load(), &m, &c)
                       : d_.OwnerOfSlot(page.slot, &m, &c)) &&
           execution().crashed(world_.gangd()) && execution().crashed(world_.source(m));
}

// False: the page is not to be deferred again.
bool GangCase::AwaitDecision(Channel *ch) {
    execution().Await("what it waits for",
                      [this, ch] { return Known(*ch) || OwnerLost(*ch) || DestinationGone(*ch); });
    ch->failed = DestinationGone(*ch);
    return execution().Quietly([&] { return Known(*ch) || !OwnerLost(*ch); });
}

bool GangCase::Drained(uint32_t member) {
    for (const Channel &ch : channels_[member]) {
        // Whoever does not allow for late acknowledgements ends the return path first.
        if (ch.acknowledged && !plan_.world.late_acks) {
            return false;
        }
        if (!ch.finished || (!plan_.leave_early && !DestinationGone(ch) &&
                             d_.acked(member, ch.channel) < ch.sent.size())) {
            return false;
        }
    }
    return true;
}

void GangCase::Finish(Channel *ch) {
    ch->finished = true;
    if (ch->channel == 0) {
        execution().Await("acknowledgements", [this, ch] { return Drained(ch->member); });
        left_[ch->member] = true;
        d_.SetMemberState(ch->member, MemberState::kLeft);
    }
}

// ------------------------------------------------------------ destinations

void GangCase::CheckStored(uint32_t slot, size_t content) {
    uint8_t page[kPageSize];
    Hash hash;
    if (!world_.store().Get(slot, page, &hash).ok()) {
        execution().Fail("the destination has nothing in slot " + std::to_string(slot));
    }
    world_.CheckPage(page, content, "what the destination has in slot " + std::to_string(slot));
}

// One actor is the destination's channel thread and the source's return path.
void GangCase::Destination(Channel *ch) {
    for (uint32_t packet = 1;; packet++) {
        execution().Await("a packet", [this, ch] {
            return ch->sent.size() > world_.applied(ch->member, ch->channel);
        });
        const Sent &sent = ch->sent[packet - 1];
        if (plan_.misdeed == Misdeed::kAckBeforeApply) {
            world_.Applied(ch->member, ch->channel);
            Acknowledge(ch, packet);
        }
        for (const Published &page : sent.published) {
            Hash hash;
            if (!world_.store().Put(page.slot, world_.page(page.content), &hash).ok()) {
                execution().Fail("the store does not take slot " + std::to_string(page.slot));
            }
        }
        for (const Published &page : sent.referenced) {
            CheckStored(page.slot, page.content);
        }
        if (plan_.misdeed != Misdeed::kAckBeforeApply) {
            world_.Applied(ch->member, ch->channel);
            Acknowledge(ch, packet + (plan_.misdeed == Misdeed::kAckAhead));
        }
    }
}

void GangCase::Acknowledge(Channel *ch, uint32_t packet) {
    const uint32_t source = world_.source(ch->member);
    if (execution().crashed(source) || (left_[ch->member] && !plan_.world.late_acks)) {
        return; // nobody there to read it
    }
    execution().Become(source);
    ch->acknowledged = true;
    d_.SetAcked(ch->member, ch->channel, packet);
    ch->acknowledged = false;
    execution().Become(world_.destination(ch->member));
}

// ------------------------------------------------------------------- gangd

int GangCase::Unmarked() {
    for (uint32_t m = 0; m < plan_.world.members; m++) {
        if (execution().crashed(world_.source(m)) && d_.member_state(m) == MemberState::kAlive) {
            return static_cast<int>(m);
        }
    }
    return -1;
}

void GangCase::Gangd() {
    while (true) {
        execution().Await("somebody's end", [this] { return Unmarked() >= 0; });
        const int m = execution().Quietly([&] { return Unmarked(); });
        d_.SetMemberState(static_cast<uint32_t>(m), MemberState::kDead);
    }
}

} // namespace gang::interleave
