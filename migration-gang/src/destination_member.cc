// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Joins a gang at the destination.

#include "destination_member.h"

#include <unistd.h>

#include <algorithm>

#include "control_message.h"

namespace gang {

namespace {
constexpr int kTimeoutMs = 2500;
} // namespace

Status DestinationMember::Create(const std::string &socket, const std::string &gang,
                                 const std::string &member, HashKind hash_kind,
                                 std::unique_ptr<DestinationMember> *out) {
    std::unique_ptr<DestinationMember> m(new DestinationMember());
    std::unique_ptr<ControlClient> control;
    StoreGrant grant;
    Status status = ControlClient::Connect(socket, kTimeoutMs, &control);
    if (status.ok()) {
        status = control->Hello("qemu", true, kTimeoutMs);
    }
    if (status.ok()) {
        status = control->JoinDestination(gang, member, &grant, kTimeoutMs, hash_kind);
    }
    if (status.ok()) {
        status = Store::Open(grant.fd, &m->store_);
        close(grant.fd);
    }
    if (status.ok() && hash_kind != HashKind::kInvalid && m->store_->hash_kind() != hash_kind) {
        // A coordinator that does not know the request's "hash"
        status = {Code::kIncompatible, "the gang's store has the hash " +
                                           HashKindText(m->store_->hash_kind()) + ", not " +
                                           HashKindText(hash_kind)};
    }
    if (status.ok()) {
        const nlohmann::json again = {{"op", "rejoin-destination"},
                                      {"gang", gang},
                                      {"member", member},
                                      {"pid", static_cast<uint32_t>(getpid())},
                                      {"page-size", kPageSize},
                                      {"store", ToHex(m->store_->uuid())}};
        m->keeper_ = std::make_unique<ControlKeeper>(
            std::move(control), socket,
            std::vector<ControlKeeper::Piece>{{again, m->store_->fd()}});
        m->teller_ = std::make_unique<Teller>(m->store_.get());
        *out = std::move(m);
    }
    return status;
}

Greeting DestinationMember::greeting() const {
    Greeting g;
    g.hash_kind = store_->hash_kind();
    g.store = store_->uuid();
    g.seed = store_->seed();
    // Of a kept store any slot may be referenced; the inventory tells which may be filled.
    g.slots = store_->kept() ? store_->slots() : store_->open_slots();
    if (store_->kept()) {
        g.filled =
            static_cast<uint32_t>(std::clamp<uint64_t>(store_->slots_used(), 1, store_->slots()));
    }
    return g;
}

bool DestinationMember::Save(const uint8_t *host, const uint64_t *offsets, size_t count,
                             bool (*is_zero)(const void *page, size_t size)) {
    if (store_->open_slots() == store_->slots()) {
        return false;
    }
    if (!saver_) {
        saver_ = std::make_unique<Saver>(store_.get());
    }
    return saver_->Save(host, offsets, count, is_zero);
}

Decoder *DestinationMember::channel(uint32_t channel) {
    if (channel >= kMaxChannels) {
        return nullptr;
    }
    std::unique_ptr<Decoder> &d = channels_[channel];
    if (!d && !Decoder::Create(store_.get(), &d).ok()) {
        return nullptr;
    }
    return d.get();
}

void DestinationMember::Count(const Decoder &decoder) {
    uint64_t zero = 0, literal = 0, published = 0, referenced = 0, patched = 0, delta = 0;
    for (const Decoder::Page &page : decoder.pages()) {
        zero += page.kind == PageKind::kZero;
        literal += page.kind == PageKind::kLiteral;
        published += IsPublished(page.kind);
        referenced += page.kind == PageKind::kReference;
        patched += IsPatched(page.kind);
        delta += IsDelta(page.kind);
    }
    counters_.zero += zero;
    counters_.literal += literal;
    counters_.published += published;
    counters_.referenced += referenced;
    counters_.patched += patched;
    counters_.delta += delta;
    counters_.payload_bytes += decoder.payload_size();
    counters_.metadata_bytes += kPacketHeaderSize + decoder.metadata_size();
}

} // namespace gang
