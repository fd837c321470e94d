// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Decides for each page of a packet.  encoder_packet.cc writes the packet.

#include "encoder.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <ctime>

namespace gang {

namespace {

static_assert(kFeatureBlock == kPatchBlock); // EqualBlocks() makes the mask
// From so many equal blocks on a patch is as small as a delta, and cheaper.
constexpr size_t kPatchAlways = 56;
// Without deltas, a patch pays from here on.
constexpr size_t kPatchAtLeast = 16;
// A last version that has less in common with the page is of no use.
constexpr size_t kOwnAtLeast = 4;

uint64_t Now(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

// One system call a packet.
LinkState LinkStateOf(int socket) {
    tcp_info info = {};
    socklen_t size = sizeof(info);
    LinkState state;
    if (socket >= 0 && getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
        size >= offsetof(tcp_info, tcpi_sndbuf_limited)) {
        state = {true, info.tcpi_notsent_bytes, info.tcpi_rwnd_limited, info.tcpi_bytes_acked};
    }
    return state;
}

} // namespace

Encoder::~Encoder() = default;

Status Encoder::Create(Directory *directory, StallWatch *stalls, uint32_t member, uint32_t channel,
                       const EncoderOptions &options, std::unique_ptr<Encoder> *out) {
    std::unique_ptr<Encoder> e(new Encoder());
    e->directory_ = directory;
    e->stalls_ = stalls;
    e->member_ = member;
    e->channel_ = channel;
    e->options_ = options;
    e->hasher_ = directory ? directory->hasher() : Hasher(options.seed, options.hash_kind);
    e->header_.resize(kPacketHeaderSize + kMaxMetadata);
    if (options.encoding == PayloadEncoding::kZstd || options.dedup == Dedup::kDelta) {
        Status status = Compressor::Create(
            options.encoding == PayloadEncoding::kZstd ? options.level : 1, &e->zstd_);
        if (!status.ok()) {
            return status;
        }
    }
    *out = std::move(e);
    return Status::Ok();
}

bool Encoder::NextSlot(uint32_t *slot) {
    if (next_slot_ == chunk_end_) {
        uint32_t first;
        if (!directory_->TakeChunk(member_, channel_, &first)) {
            return false;
        }
        next_slot_ = first;
        chunk_end_ = (first / kChunkSlots + 1) * kChunkSlots;
    }
    *slot = next_slot_;
    return true;
}

// Invariant 3: the copy is what travels and what the hash is of.  False: the
// guest wrote the page since it was hashed; it is dirty again, and a literal do.
bool Encoder::Stage(Page *page) {
    if (!page->staged) {
        uint8_t *copy = staging_.data() + staged_ * kPageSize;
        memcpy(copy, page->data, kPageSize);
        if (hasher_(copy, kPageSize) != page->hash) {
            return false;
        }
        staged_++;
        page->data = copy;
        page->staged = true;
    }
    return true;
}

bool Encoder::Publish(Page *page, const Decision &decision) {
    uint32_t slot;
    if (!NextSlot(&slot)) {
        directory_->AddStat(member_, Stat::kStoreFullPages, 1);
        return false;
    }
    if (!Stage(page) || !directory_->Claim(decision.entry, decision.claim, slot, packet_number_ + 1)) {
        return false; // written, or somebody else published it just now
    }
    if (decision.claim != 0) {
        directory_->AddStat(member_, Stat::kTakeovers, 1);
    }
    next_slot_++;
    page->slot = slot;
    page->kind = PageKind::kPublished;
    return true;
}

// Whether this channel's next acknowledgement is worth waiting for.
bool Encoder::Wait(uint32_t owner, uint32_t channel) {
    if (stalls_) {
        if (stalls_->Stalled(owner, channel)) {
            directory_->AddStat(member_, Stat::kStalledPages, 1);
            return false;
        }
        stalls_->Wait(owner, channel);
    }
    return true;
}

// Finds what the page might be coded against.  False: it is deferred, because
// the only such page is still under way.
bool Encoder::Resemble(Page *page, void *block, std::vector<Deferred> *deferred,
                       Similar *similar) {
    similar->features = FeaturesOf(page->data);
    directory_->Representatives(similar->features, &similar->slots, &similar->shared);
    uint32_t waits_for = Directory::kNoSlot;
    for (uint32_t &slot : similar->slots) {
        if (slot != Directory::kNoSlot && directory_->slot_state(slot) != SlotState::kConfirmed) {
            waits_for = slot;
            slot = Directory::kNoSlot;
        }
    }
    for (uint32_t slot : similar->slots) {
        if (slot != Directory::kNoSlot) {
            return true;
        }
    }
    uint32_t owner, channel;
    if (waits_for != Directory::kNoSlot && deferred &&
        directory_->OwnerOfSlot(waits_for, &owner, &channel) && Wait(owner, channel)) {
        page->kind = PageKind::kInvalid;
        deferred->push_back({block, page->number * kPageSize, nullptr, waits_for});
        return false;
    }
    return true;
}

// Chooses the base that has most in common with the page, and how to use it.
void Encoder::CodeAgainstBase(Page *page, void *block, const Similar &similar) {
    uint8_t *own = own_.data() + owns_ * kPageSize;
    const bool again = peers_.cache && peers_.cache->Get(block, page->number, own);
    const bool alike =
        std::any_of(similar.slots.begin(), similar.slots.end(), [&](uint32_t slot) {
            return slot != Directory::kNoSlot;
        });
    // What is compared is the copy, which nobody writes.
    if ((!again && !alike) || !Stage(page)) {
        return;
    }
    size_t equal = 0;
    auto consider = [&](uint32_t base, const uint8_t *data, size_t at_least) {
        uint64_t mask;
        const size_t n = EqualBlocks(page->data, data, &mask);
        if (n >= at_least && (!page->base_data || n > equal)) {
            page->base = base;
            page->base_data = data;
            page->mask = mask;
            equal = n;
        }
    };
    for (uint32_t slot : similar.slots) {
        if (slot != Directory::kNoSlot) { // kConfirmed, and so for good
            consider(slot, directory_->mirror(slot), 0);
        }
    }
    if (again) {
        consider(kOwnBase, own, kOwnAtLeast);
    }
    const bool deltas = options_.dedup == Dedup::kDelta && zstd_;
    if (!page->base_data || (equal < kPatchAtLeast && !deltas)) {
        return;
    }
    owns_ += page->base == kOwnBase;
    const bool published = page->kind == PageKind::kPublished;
    if (equal >= kPatchAlways || !deltas) {
        page->kind = published ? PageKind::kPatchedPublished : PageKind::kPatched;
    } else {
        page->kind = published ? PageKind::kDeltaPublished : PageKind::kDelta;
    }
}

void Encoder::Decide(Page *page, void *block, std::vector<Deferred> *deferred) {
    Decision d = directory_->Decide(page->hash, member_);
    Similar similar;
    similar.slots.fill(Directory::kNoSlot);
    const bool sharing = d.verdict == Verdict::kPublish || d.verdict == Verdict::kLiteral;
    const bool similar_pays = options_.dedup != Dedup::kPage && !fast_link();
    if (sharing && similar_pays && directory_->has_mirror() &&
        !Resemble(page, block, deferred, &similar)) {
        directory_->TakeBack(d);
        return;
    }
    // A page that stands for a feature is kept in the store even if no other
    // page is equal to it.
    if (d.verdict == Verdict::kPublish || (similar.shared && d.entry && d.claim == 0)) {
        if (Publish(page, d)) {
            if (similar.shared && directory_->Mirror(page->slot, page->data, packet_number_ + 1)) {
                directory_->Represent(similar.features, page->slot);
            }
        } else if (d.verdict == Verdict::kPublish) {
            // Lost the race for the claim: the winner's copy may serve.
            d = directory_->Decide(page->hash, member_);
        }
    }
    if (page->kind == PageKind::kPublished) {
        // as it is, or against a base
    } else if (d.verdict == Verdict::kReference) {
        page->kind = PageKind::kReference;
        page->slot = d.slot;
        return;
    } else if (d.verdict == Verdict::kDefer && deferred) {
        uint32_t owner, channel;
        if (!directory_->Owner(d.claim, &owner, &channel) || !Wait(owner, channel)) {
            return;
        }
        page->kind = PageKind::kInvalid;
        deferred->push_back({block, page->number * kPageSize, d.entry, 0});
        return;
    }
    if (similar_pays) {
        CodeAgainstBase(page, block, similar);
    }
}

// What the destination has of each page from now on.
void Encoder::Remember(void *block, size_t count, bool last_round) {
    PageCache *cache = peers_.cache;
    if (!cache || (cache->empty() && !resending_)) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const Page &page = pages_[i];
        if (page.staged && resending_ && !last_round) {
            cache->Put(block, page.number, page.data);
        } else {
            cache->Drop(block, page.number);
        }
    }
}

// Level and encoding for the next packet.
void Encoder::Steer(const EncodedPacket &packet, uint64_t started_ns, uint64_t cpu_ns) {
    const uint64_t now = Now(CLOCK_MONOTONIC);
    const uint64_t worked = Now(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
    const uint64_t waited = ended_ns_ ? started_ns - ended_ns_ : 0;
    ended_ns_ = now;
    if (packet.empty()) {
        return;
    }
    if (stream_size_) {
        policy_.Compressed(streamed_, now - started_ns);
    }
    policy_.Packet(worked, waited, streamed_, stream_size_, LinkStateOf(peers_.socket));
    const int level = policy_.level();
    options_.encoding = level == LevelPolicy::kRaw ? PayloadEncoding::kRaw : PayloadEncoding::kZstd;
    if (level != LevelPolicy::kRaw) {
        zstd_->set_level(level);
    }
    if (directory_) {
        directory_->SetStat(member_, Stat::kCompressionLevel, static_cast<uint64_t>(level));
    }
}

Status Encoder::Encode(const char *id, void *block, const uint8_t *host, const uint64_t *offsets,
                       size_t count, IsZeroFn is_zero, std::vector<Deferred> *deferred,
                       EncodedPacket *packet) {
    *packet = EncodedPacket{};
    if (count == 0 || count > kMaxPacketPages) {
        return {Code::kInvalid, "a packet holds 1 to " + std::to_string(kMaxPacketPages) + " pages"};
    }
    const uint64_t started_ns = options_.adaptive ? Now(CLOCK_MONOTONIC) : 0;
    const uint64_t cpu_ns = options_.adaptive ? Now(CLOCK_THREAD_CPUTIME_ID) : 0;
    if (pages_.size() < count) { // once: all packets of a channel have the same limit
        pages_.resize(count);
        staging_.resize(count * kPageSize);
        own_.resize(count * kPageSize);
        blocks_.resize(count * kPageSize);
        if (zstd_) {
            compressed_.resize(Compressor::Bound(count));
            prefix_.reserve(count * kPageSize);
            delta_pages_.reserve(count * kPageSize);
            bases_.reserve(count);
        }
        iov_.reserve(count + 1);
        shared_.reserve(count);
    }
    iov_.clear();
    shared_.clear();
    staged_ = owns_ = streamed_ = stream_size_ = 0;

    for (size_t i = 0; i < count; i++) {
        Page &page = pages_[i];
        page.data = host + offsets[i];
        page.number = offsets[i] / kPageSize;
        page.staged = false;
        page.base_data = nullptr;
        if (is_zero && is_zero(page.data, kPageSize)) {
            page.kind = PageKind::kZero;
            packet->zero_pages++;
            continue;
        }
        page.kind = PageKind::kLiteral;
        if (directory_) {
            page.hash = hasher_(page.data, kPageSize);
            directory_->Prefetch(page.hash);
        }
    }

    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        Page &page = pages_[i];
        if (page.kind == PageKind::kLiteral) {
            if (directory_) {
                Decide(&page, block, deferred);
            }
            if (page.kind == PageKind::kInvalid) {
                packet->deferred_pages++;
                continue;
            }
            if (page.kind == PageKind::kLiteral && resending_ && peers_.cache && directory_) {
                Stage(&page); // what the destination gets is what will be remembered
            }
            if (IsHashed(page.kind)) {
                shared_.push_back(page.hash);
            }
        }
        pages_[kept++] = page;
    }
    packet->sent_pages = kept - packet->zero_pages;

    PacketHeader h;
    if (kept) {
        Status status = Payload(kept, packet, &h);
        if (!status.ok()) {
            return status;
        }
        uint8_t *metadata = header_.data() + kPacketHeaderSize;
        const size_t more = hasher_.digest_more();
        h.metadata_size = static_cast<uint16_t>(more + Describe(id, kept, metadata + more));
        h.payload_size = static_cast<uint32_t>(packet->payload_size);
        h.pages = static_cast<uint16_t>(kept);
        h.encoding = options_.encoding;
        h.number = ++packet_number_;
        uint64_t digest_more = 0;
        h.digest =
            shared_.empty() ? 0 : hasher_.Digest(shared_.data(), shared_.size(), &digest_more);
        StoreDigestMore(digest_more, metadata, more);
        h.check = hasher_.Check(metadata, h.metadata_size, compressed_.data(),
                                stream_size_ + h.delta_size);
        StorePacketHeader(h, header_.data());
        packet->header = header_.data();
        packet->header_size = kPacketHeaderSize + h.metadata_size;
        Remember(block, kept, deferred == nullptr);
    }
    if (directory_) {
        CountPages(kept, *packet, h);
    }
    if (options_.adaptive) {
        Steer(*packet, started_ns, cpu_ns);
    }
    return Status::Ok();
}

} // namespace gang
