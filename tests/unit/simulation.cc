// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The simulation's steps.

#include "simulation.h"

namespace gang::test {

namespace {
// What the guest does while a packet is made; set for the time of one Encode().
thread_local std::function<void()> during_encode;
} // namespace

Simulation::Simulation(const Config &config)
    : gang_(config.slots, config.members * config.pages, config.mirror_pages),
      contents_(config.contents) {
    for (size_t i = 0; i < config.members; i++) {
        auto m = std::make_unique<Member>();
        m->alone = config.alone >> i & 1;
        EncoderOptions options = config.zstd >> i & 1 ? kZstd : kRaw;
        options.dedup = config.subpage >> i & 1 ? Dedup::kSubpage : Dedup::kDelta;
        m->stalls = std::make_unique<StallWatch>(gang_.directory.get(), 1000);
        m->vm = std::make_unique<TestVm>(gang_, m->alone ? nullptr : gang_.directory.get(),
                                         config.pages, options, m->stalls.get());
        m->vm->encoder->set_peers({&m->cache, -1});
        m->vm->encoder->set_resending(true);
        memset(m->vm->destination.data(), 0xdd, m->vm->destination.bytes());
        Rng rng(i);
        for (size_t page = 0; page < config.pages; page++) {
            FillPage(m->vm->source.page(page), Content(rng));
            m->dirty.insert(page);
        }
        vms_.push_back(std::move(m));
    }
}

Simulation::~Simulation() = default;

// Half of the contents are much like others.
uint64_t Simulation::Content(Rng &rng) const {
    const uint64_t content = Below(rng, contents_);
    return content % 2 ? content : content ? SimilarContent(content / 16, content % 16) : 0;
}

void Simulation::ScanAll() {
    for (auto &m : vms_) {
        if (!m->alone) {
            m->vm->Scan();
        }
    }
}

void Simulation::WriteOne(Member *m, Rng &rng) {
    size_t page = Below(rng, m->vm->source.pages());
    FillPage(m->vm->source.page(page), Content(rng));
    m->dirty.insert(page);
}

void Simulation::Write(size_t member, size_t count, Rng &rng) {
    Member *m = vms_[member].get();
    for (; m->state == State::kRunning && count; count--) {
        WriteOne(m, rng);
    }
}

bool Simulation::HookedIsZero(const void *page, size_t size) {
    during_encode();
    return IsZero(page, size);
}

void Simulation::Encode(size_t member, size_t count, size_t writes, Rng &rng) {
    Member *m = vms_[member].get();
    if (m->state != State::kRunning || m->dirty.empty() || count == 0) {
        return;
    }
    std::vector<size_t> pages;
    while (pages.size() < count && !m->dirty.empty()) {
        pages.push_back(*m->dirty.begin());
        m->dirty.erase(m->dirty.begin());
    }
    size_t left = writes;
    during_encode = [&] {
        if (left && Below(rng, pages.size()) < 2) {
            WriteOne(m, rng);
            left--;
        }
    };
    std::vector<uint64_t> offsets;
    for (size_t page : pages) {
        offsets.push_back(page * kPageSize);
    }
    TestVm &vm = *m->vm;
    Status status = vm.encoder->Encode("pc.ram", m, vm.source.data(), offsets.data(),
                                       offsets.size(), HookedIsZero, &vm.deferred, &vm.packet);
    if (!status.ok()) {
        throw std::runtime_error(status.message());
    }
    for (; left; left--) {
        WriteOne(m, rng); // a raw payload is read from guest memory only now
    }
    if (!vm.packet.empty()) {
        m->packets.push_back(Flatten(vm.packet));
    }
}

Status Simulation::Deliver(size_t member) {
    Member *m = vms_[member].get();
    if (m->packets.empty()) {
        return Status::Ok();
    }
    Status status = m->vm->Deliver(m->packets.front());
    m->packets.pop_front();
    m->acks.push_back(m->vm->to_ack);
    return status;
}

void Simulation::Ack(size_t member) {
    Member *m = vms_[member].get();
    if (m->state == State::kRunning && !m->acks.empty()) {
        gang_.directory->SetAcked(m->vm->member, 0, m->acks.front());
        m->acks.pop_front();
    }
}

void Simulation::TakeReady(size_t member) {
    Member *m = vms_[member].get();
    std::vector<Deferred> kept;
    for (const Deferred &page : m->vm->deferred) {
        if (Decidable(*gang_.directory, m->stalls.get(), page)) {
            m->dirty.insert(page.offset / kPageSize);
        } else {
            kept.push_back(page);
        }
    }
    m->vm->deferred = kept;
}

void Simulation::Kill(size_t member) {
    Member *m = vms_[member].get();
    if (m->state == State::kRunning) {
        m->state = State::kDead;
        gang_.directory->SetMemberState(m->vm->member, MemberState::kDead);
        m->acks.clear(); // what is on its way to the destination may still arrive
    }
}

void Simulation::Pass(uint64_t ms) {
    now_ms_ += ms;
    for (auto &m : vms_) {
        m->stalls->Observe(now_ms_);
    }
}

Status Simulation::Finish(size_t member) {
    Member *m = vms_[member].get();
    if (m->state != State::kRunning) {
        return Status::Ok();
    }
    for (const Deferred &page : m->vm->deferred) {
        m->dirty.insert(page.offset / kPageSize);
    }
    m->vm->deferred.clear();
    while (!m->dirty.empty()) {
        std::vector<size_t> pages;
        while (pages.size() < 64 && !m->dirty.empty()) {
            pages.push_back(*m->dirty.begin());
            m->dirty.erase(m->dirty.begin());
        }
        m->packets.push_back(m->vm->Encode(pages, false));
    }
    while (!m->packets.empty()) {
        Status status = Deliver(member);
        if (!status.ok()) {
            return status;
        }
        Ack(member);
    }
    m->state = State::kFinished;
    gang_.directory->SetMemberState(m->vm->member, MemberState::kLeft);
    return Status::Ok();
}

} // namespace gang::test
