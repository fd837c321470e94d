// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The C API over the C++ classes.  The only exception that can come up from
// below is std::bad_alloc; like g_malloc() in QEMU, it ends the process, which
// is what noexcept does.

#include <gang/gang.h>

#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>

#include "control_message.h"
#include "destination_member.h"
#include "source_member.h"

using namespace gang;

static_assert(GANG_PAGE_SIZE == kPageSize && GANG_MAX_CHANNELS == kMaxChannels);
static_assert(GANG_MAX_PACKET_PAGES == kMaxPacketPages);
static_assert(GANG_MAX_SAVE_PAGES <= Store::kMaxPut);
static_assert(GANG_HASH_BY_ANY == static_cast<int>(HashKind::kInvalid) &&
              GANG_HASH_BY_XXH3 == static_cast<int>(HashKind::kXxh3_128) &&
              GANG_HASH_BY_SHA256 == static_cast<int>(HashKind::kSha256));
static_assert(GANG_STOP_INDEPENDENT == static_cast<int>(SwitchoverPolicy::kIndependent) &&
              GANG_STOP_TOGETHER == static_cast<int>(SwitchoverPolicy::kTogether) &&
              GANG_STOP_ALL_OR_NOTHING == static_cast<int>(SwitchoverPolicy::kAllOrNothing));
static_assert(GANG_PACKET_HEADER_SIZE == kPacketHeaderSize);
static_assert(GANG_MAX_RETURN_MESSAGE >= kGreetingSize && GANG_MAX_RETURN_MESSAGE >= kAckSize);
static_assert(GANG_MAX_RETURN_MESSAGE >= kMaxReturnMessage);

struct GangSource {
    std::unique_ptr<SourceMember> member;
};

struct GangDestination {
    std::unique_ptr<DestinationMember> member;
};

namespace {

bool Check(const Status &status, char **error) {
    if (!status.ok() && error) {
        *error = strdup(status.message().c_str());
    }
    return status.ok();
}

LeaveResult ToLeave(GangResult result) {
    switch (result) {
    case GANG_COMPLETED:
        return LeaveResult::kCompleted;
    case GANG_CANCELLED:
        return LeaveResult::kCancelled;
    case GANG_FAILED:
        break;
    }
    return LeaveResult::kFailed;
}

Dedup ToDedup(GangDedupKind dedup) {
    switch (dedup) {
    case GANG_SHARE_PAGES:
        return Dedup::kPage;
    case GANG_SHARE_BLOCKS:
        return Dedup::kSubpage;
    case GANG_SHARE_DELTAS:
        break;
    }
    return Dedup::kDelta;
}

uint64_t MonotonicNs() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000000000 + static_cast<uint64_t>(t.tv_nsec);
}

GangVerdict ToVerdict(const Switchover &s, Switchover::Verdict verdict, char **error) {
    switch (verdict) {
    case Switchover::Verdict::kWait:
        return GANG_VERDICT_WAIT;
    case Switchover::Verdict::kGo:
        return GANG_VERDICT_GO;
    case Switchover::Verdict::kGivenUp:
        break;
    }
    Check({Code::kInvalid, s.Why()}, error);
    return GANG_VERDICT_ERROR;
}

const char *HashName(HashKind kind) {
    const char *name = HashKindName(kind);
    return name ? name : "";
}

Decoder *ChannelOf(GangDestination *d, uint32_t channel, char **error) {
    Decoder *decoder = d->member->channel(channel);
    if (!decoder) {
        Check({Code::kInvalid, "gang channel " + std::to_string(channel) +
                                   " cannot be set up: use at most " +
                                   std::to_string(kMaxChannels) + " multifd channels"},
              error);
    }
    return decoder;
}

} // namespace

GangSource *gang_source_new(const GangSourceConfig *config, char **error) {
    SourceMemberConfig c;
    c.socket = config->socket;
    c.gang = config->gang;
    c.member = config->member;
    c.members = config->members;
    c.channels = config->channels;
    c.ram_pages = config->ram_pages;
    c.encoder.encoding = config->compression == GANG_COMPRESS_NONE ? PayloadEncoding::kRaw
                                                                   : PayloadEncoding::kZstd;
    c.encoder.adaptive = config->compression == GANG_COMPRESS_AUTO;
    c.encoder.level = c.encoder.adaptive ? 1 : config->level;
    c.encoder.dedup = ToDedup(config->dedup);
    c.cache_bytes = config->cache_bytes;
    c.hash_kind = static_cast<HashKind>(config->hash);
    if (config->policy) {
        c.policy = static_cast<SwitchoverPolicy>(config->policy);
    }
    c.priority = config->priority;
    c.max_bandwidth = config->max_bandwidth;
    auto source = std::make_unique<GangSource>();
    return Check(SourceMember::Create(c, &source->member), error) ? source.release() : nullptr;
}

void gang_source_leave(GangSource *source, GangResult result) {
    source->member->Leave(ToLeave(result));
}

void gang_source_free(GangSource *source) { delete source; }

bool gang_source_return_message(GangSource *source, const uint8_t *message, size_t size,
                                char **error) {
    return Check(source->member->ReturnMessage(message, size), error);
}

bool gang_source_greeted(const GangSource *source) { return source->member->greeted(); }

GangStep gang_source_step(GangSource *source, int timeout_ms, char **error) {
    SourceMember::Step step;
    if (!Check(source->member->Advance(timeout_ms, &step), error)) {
        return GANG_STEP_ERROR;
    }
    switch (step) {
    case SourceMember::Step::kScan:
        return GANG_STEP_SCAN;
    case SourceMember::Step::kRun:
        return GANG_STEP_RUN;
    case SourceMember::Step::kWait:
        break;
    }
    return GANG_STEP_WAIT;
}

void gang_source_scan(GangSource *source, const uint8_t *host, const uint64_t *offsets,
                      size_t count, GangIsZero *is_zero) {
    source->member->Scan(host, offsets, count, is_zero);
}

void gang_source_scan_done(GangSource *source) {
    source->member->ScanDone();
}

bool gang_source_wants_inventory(GangSource *source) {
    return source->member->WantsInventory();
}

void gang_source_set_socket(GangSource *source, uint32_t channel, int fd) {
    source->member->SetSocket(channel, fd);
}

bool gang_source_encode(GangSource *source, uint32_t channel, const char *id, void *block,
                        const uint8_t *host, const uint64_t *offsets, size_t count,
                        GangIsZero *is_zero, GangPacket *packet, char **error) {
    EncodedPacket p;
    if (!Check(source->member->Encode(channel, id, block, host, offsets, count, is_zero, &p),
               error)) {
        return false;
    }
    *packet = {p.header,       p.header_size, p.payload,    p.payload_count,
               p.payload_size, p.zero_pages,  p.sent_pages, p.deferred_pages};
    return true;
}

void gang_source_set_defer(GangSource *source, bool on) { source->member->set_defer(on); }

uint64_t gang_source_deferred(const GangSource *source) { return source->member->deferred(); }

uint64_t gang_source_in_flight(const GangSource *source) { return source->member->in_flight(); }

uint64_t gang_source_deferred_ready(GangSource *source) {
    return source->member->DeferredReady();
}

uint64_t gang_source_take_deferred(GangSource *source, bool all,
                                   void (*take)(void *opaque, void *block, uint64_t offset),
                                   void *opaque) {
    return source->member->TakeDeferred(all, take, opaque);
}

void gang_source_pace(GangSource *source, const GangPaceState *state, GangPace *pace) {
    Pacer::State s;
    s.remaining = state->remaining_bytes;
    s.wire_bytes = state->wire_bytes;
    s.first_round = state->first_round;
    s.wants_turn = state->wants_turn;
    s.stops_next = state->stops_next;
    s.last = state->last;
    const Pacer::Pace p = source->member->NextPace(s);
    *pace = {p.send, p.may_stop, p.our_turn, p.bytes};
}

void gang_source_release_turn(GangSource *source) { source->member->ReleaseTurn(); }

bool gang_source_set_max_bandwidth(GangSource *source, uint64_t rate) {
    return source->member->SetMaxBandwidth(rate);
}

void gang_source_set_progress(GangSource *source, bool switchover, uint64_t remaining_pages,
                              uint64_t round) {
    source->member->SetProgress(switchover, remaining_pages, round);
}

void gang_source_set_rates(GangSource *source, const GangRates *rates) {
    SourceMember &m = *source->member;
    m.SetFigure(Stat::kHandledPages, rates->handled_pages);
    m.SetFigure(Stat::kWireBytes, rates->wire_bytes);
    m.SetFigure(Stat::kByteRate, rates->bytes_per_second);
    m.SetFigure(Stat::kDirtyRate, rates->dirty_bytes_per_second);
    m.SetFigure(Stat::kProgress, rates->progress);
    m.SetFigure(Stat::kLeftMs, rates->left_ms);
}

GangVerdict gang_source_must_stop(GangSource *source, char **error) {
    Switchover *s = source->member->switchover();
    return s ? ToVerdict(*s, s->MustStop(MonotonicNs()), error) : GANG_VERDICT_WAIT;
}

GangVerdict gang_source_may_stop(GangSource *source, bool near_end, char **error) {
    Switchover *s = source->member->switchover();
    if (!s) {
        return near_end ? GANG_VERDICT_GO : GANG_VERDICT_WAIT;
    }
    return ToVerdict(*s, s->MayStop(near_end, MonotonicNs()), error);
}

void gang_source_stopped(GangSource *source) {
    if (Switchover *s = source->member->switchover()) {
        s->Stopped(MonotonicNs());
    }
}

GangVerdict gang_source_may_leave(GangSource *source, bool prepared, char **error) {
    Switchover *s = source->member->switchover();
    return s ? ToVerdict(*s, s->MayLeave(prepared, MonotonicNs()), error) : GANG_VERDICT_GO;
}

bool gang_source_give_up(GangSource *source, GangResult why) {
    Switchover *s = source->member->switchover();
    return !s || s->GiveUp(why == GANG_CANCELLED ? GiveUpReason::kCancelled
                                                 : GiveUpReason::kFailed);
}

void gang_source_stats(const GangSource *source, GangStats *stats) {
    const SourceMember &m = *source->member;
    *stats = {};
    stats->phase = m.phase();
    stats->absent = "";
    stats->hash = HashName(m.hash_kind());
    stats->board = m.board() != nullptr;
    if (const Board *board = m.board()) {
        stats->board_index = m.board_index();
        const BoardRecord &mine = board->record(m.board_index());
        stats->turns = mine.turns.load(std::memory_order_relaxed);
        stats->lost_turns = mine.lost_turns.load(std::memory_order_relaxed);
        stats->max_bandwidth = board->header().budget.load(std::memory_order_relaxed);
    }
    if (const Switchover *s = m.switchover()) {
        const SwitchoverFigures figures = ReadSwitchover(*m.board());
        stats->stop_ns = s->stop_ns();
        stats->late = s->late();
        stats->ready_members = figures.ready;
        stats->stopped_members = figures.stopped;
        stats->skew_ns = figures.skew_ns;
    }
    const Directory *d = m.directory();
    if (!d) {
        return;
    }
    auto get = [&](Stat s) { return d->stat(m.index(), s); };
    stats->directory = true;
    stats->member_index = m.index();
    stats->absent = m.absent().c_str();
    stats->joined = m.joined();
    stats->missing = m.missing();
    stats->scanned_pages = get(Stat::kScannedPages);
    stats->scan_zero_pages = get(Stat::kScanZeroPages);
    stats->scan_duplicate_pages = get(Stat::kScanDuplicates);
    stats->zero_pages = get(Stat::kZeroPages);
    stats->literal_pages = get(Stat::kLiteralPages);
    stats->published_pages = get(Stat::kPublishedPages);
    stats->referenced_pages = get(Stat::kReferencedPages);
    stats->deferred_pages = get(Stat::kDeferredPages);
    stats->stalled_pages = get(Stat::kStalledPages);
    stats->store_full_pages = get(Stat::kStoreFullPages);
    stats->takeovers = get(Stat::kTakeovers);
    stats->patched_pages = get(Stat::kPatchedPages);
    stats->delta_pages = get(Stat::kDeltaPages);
    stats->delta_bytes = get(Stat::kDeltaBytes);
    stats->own_base_pages = get(Stat::kOwnPages);
    stats->compression_level = static_cast<int64_t>(get(Stat::kCompressionLevel));
    stats->mirror_bytes = d->mirror_used() * kPageSize;
    stats->payload_bytes = get(Stat::kPayloadBytes);
    stats->metadata_bytes = get(Stat::kMetadataBytes);
    stats->directory_bytes = d->size();
    stats->store_slots = d->header().slots;
    stats->store_slots_used = d->slots_taken();
}

GangDestination *gang_destination_new(const char *socket, const char *gang, const char *member,
                                      GangHashKind hash, char **error) {
    auto d = std::make_unique<GangDestination>();
    return Check(DestinationMember::Create(socket, gang, member, static_cast<HashKind>(hash),
                                           &d->member),
                 error)
               ? d.release()
               : nullptr;
}

void gang_destination_leave(GangDestination *destination, GangResult result) {
    destination->member->Leave(ToLeave(result));
}

void gang_destination_free(GangDestination *destination) { delete destination; }

size_t gang_destination_greeting(const GangDestination *destination,
                                 uint8_t out[GANG_MAX_RETURN_MESSAGE]) {
    StoreGreeting(destination->member->greeting(), out);
    return kGreetingSize;
}

size_t gang_destination_inventory(GangDestination *destination,
                                  uint8_t out[GANG_MAX_RETURN_MESSAGE]) {
    return destination->member->Inventory(out);
}

bool gang_destination_save(GangDestination *destination, const uint8_t *host,
                           const uint64_t *offsets, size_t count, GangIsZero *is_zero) {
    return destination->member->Save(host, offsets, count, is_zero);
}

bool gang_destination_header(GangDestination *destination, uint32_t channel,
                             const uint8_t header[GANG_PACKET_HEADER_SIZE], size_t *metadata_size,
                             size_t *payload_size, size_t *pages, bool *raw, char **error) {
    Decoder *d = ChannelOf(destination, channel, error);
    if (!d || !Check(d->ParseHeader(header), error)) {
        return false;
    }
    *metadata_size = d->metadata_size();
    *payload_size = d->payload_size();
    *pages = d->page_count();
    *raw = d->encoding() == PayloadEncoding::kRaw;
    return true;
}

const char *gang_destination_metadata(GangDestination *destination, uint32_t channel,
                                      const uint8_t *metadata, size_t size, char **error) {
    Decoder *d = ChannelOf(destination, channel, error);
    return d && Check(d->ParseMetadata(metadata, size), error) ? d->block() : nullptr;
}

bool gang_destination_bind(GangDestination *destination, uint32_t channel, uint8_t *host,
                           uint64_t used_length, int fd, uint64_t fd_offset, char **error) {
    Decoder *d = ChannelOf(destination, channel, error);
    return d && Check(d->Bind({host, used_length, fd, fd_offset}), error);
}

bool gang_destination_page(GangDestination *destination, uint32_t channel, size_t i,
                           uint64_t *offset) {
    const Decoder::Page &page = destination->member->channel(channel)->pages()[i];
    *offset = page.number * kPageSize;
    return page.kind == PageKind::kZero;
}

const struct iovec *gang_destination_raw_iov(GangDestination *destination, uint32_t channel,
                                             size_t *count) {
    const std::vector<iovec> &iov = destination->member->channel(channel)->RawIov();
    *count = iov.size();
    return iov.data();
}

bool gang_destination_inflate(GangDestination *destination, uint32_t channel,
                              const uint8_t *payload, char **error) {
    Decoder *d = ChannelOf(destination, channel, error);
    return d && Check(d->Inflate(payload), error);
}

int gang_destination_finish(GangDestination *destination, uint32_t channel,
                            uint8_t out[GANG_MAX_RETURN_MESSAGE], char **error) {
    Decoder *d = ChannelOf(destination, channel, error);
    if (!d || !Check(d->Finish(), error)) {
        return -1;
    }
    destination->member->Count(*d);
    StoreAck(static_cast<uint16_t>(channel), d->ack_number(), out);
    return kAckSize;
}

void gang_destination_stats(const GangDestination *destination, GangStats *stats) {
    const DestinationMember &m = *destination->member;
    *stats = {};
    stats->phase = "incoming";
    stats->hash = HashName(m.store().hash_kind());
    stats->zero_pages = m.counters().zero;
    stats->literal_pages = m.counters().literal;
    stats->published_pages = m.counters().published;
    stats->referenced_pages = m.counters().referenced;
    stats->patched_pages = m.counters().patched;
    stats->delta_pages = m.counters().delta;
    stats->payload_bytes = m.counters().payload_bytes;
    stats->metadata_bytes = m.counters().metadata_bytes;
    stats->store_slots = m.store().slots();
    stats->store_slots_used = m.store().slots_used();
}
