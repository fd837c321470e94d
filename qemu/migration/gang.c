/*
 * Live gang migration: one VM's membership, at either end
 *
 * Copyright the gang migration authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The way of an outgoing migration:
 *
 *   main thread       migration_gang_source_prepare   connect to gangd
 *   return path       migration_gang_rp_message       the greeting comes
 *   migration thread  migration_gang_iterate          join, scan, barrier:
 *                                                     iterations without pages
 *   channel threads   multifd-gang.c                  pages
 *   return path       migration_gang_rp_message       acknowledgements
 *   migration thread  migration_gang_take_deferred    end of each round
 *   migration thread  migration_gang_last_round       the VM is stopped
 *   main thread       migration_gang_source_cleanup
 *
 * and of an incoming one: migration_gang_incoming_prepare (the store),
 * migration_gang_incoming_greet, multifd-gang.c, ..._cleanup.
 */

#include "qemu/osdep.h"
#include <gang/gang.h>
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/rcu.h"
#include "qemu/bitmap.h"
#include <sys/vfs.h>
#include <linux/magic.h>
#include "qapi/error.h"
#include "qapi/qapi-commands-migration.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/target_page.h"
#include "system/system.h"
#include "migration/misc.h"
#include "migration.h"
#include "migration-stats.h"
#include "multifd.h"
#include "options.h"
#include "ram.h"
#include "savevm.h"
#include "gang.h"
#include "gang-pace.h"
#include "trace.h"

#define GANG_DEFAULT_SOCKET "/run/gang/gangd.sock"

/* An iteration that waits or scans takes about this long. */
#define GANG_WAIT_MS 20
#define GANG_SCAN_SLICE_MS 50
#define GANG_SCAN_BATCH 128

/* Packets that may wait at the destination, in the bulk and at the end. */
#define GANG_MAX_PACKETS 512
#define GANG_SWITCHOVER_PACKETS 0

/*
 * While a member waits for others it sends nothing.  A threshold of zero would
 * make QEMU stop the VM without another look at the dirty log; and what the
 * link could carry a moment ago is still true: it is forgotten by halves.
 */
#define GANG_LEAST_BYTES_PER_MS 1.0
#define GANG_FORGET_BANDWIDTH 0.5

/* Rounds before what is left is compared with pages instead of bytes */
#define GANG_PATIENT_ROUNDS 4

/*
 * @source is created and freed by the main thread, while no migration thread
 * runs; the rest belongs to the migration thread.
 */
static struct {
    GangSource *source;
    bool running;            /* past the start barrier */
    unsigned scan_block;     /* where the scan is: n-th migrated RAMBlock, */
    unsigned long scan_page; /* page in it */
    double bytes_per_ms;     /* what the link has carried of late */
} gang_out;

static GangDestination *gang_in;

/* Turns libgang's message into an Error; frees it. */
static void gang_error(Error **errp, char *message)
{
    error_setg(errp, "gang: %s", message ? message : "unknown error");
    free(message);
}

static __thread const uint8_t *hole_start, *hole_end;

/*
 * The block that this thread has last been asked about, its file, and where its
 * last look for content has found nothing.  No thread that is asked outlives
 * its migration, during which blocks stay.
 */
static __thread struct {
    RAMBlock *block;
    int fd;
    off_t start, end;
} hole_hint;

int migration_gang_file(RAMBlock *block)
{
    struct statfs fs;

    if (hole_hint.block != block) {
        hole_hint.block = block;
        hole_hint.start = hole_hint.end = 0;
        hole_hint.fd = qemu_ram_is_shared(block) && block->fd >= 0 &&
            !(block->flags & (RAM_READONLY_FD | RAM_PMEM)) &&
            qemu_ram_pagesize(block) == qemu_real_host_page_size() &&
            !fstatfs(block->fd, &fs) && fs.f_type == TMPFS_MAGIC
            ? block->fd : -1;
    }
    return hole_hint.fd;
}

/*
 * With shmem_enabled=advise, memory is only backed by huge pages if it is
 * touched through a mapping that asks for it, as QEMU's does.
 */
int migration_gang_file_to_write(RAMBlock *block)
{
    static int advised = -1; /* any thread may be the first: same answer */
    g_autofree char *text = NULL;

    if (qatomic_read(&advised) < 0) {
        qatomic_set(&advised,
                    g_file_get_contents("/sys/kernel/mm/transparent_hugepage/"
                                        "shmem_enabled", &text, NULL, NULL) &&
                    strstr(text, "[advise]"));
    }
    return qatomic_read(&advised) ? -1 : migration_gang_file(block);
}

/*
 * To read a page that the guest has never had, through the mapping, makes the
 * kernel allocate it; read() does not.  SEEK_DATA alone is no proof: it tells
 * by a flag that a page does not have while the kernel moves it.  A guest that writes into
 * the hole from now on makes the page dirty, as it does when its zeros have
 * been read.
 */
void migration_gang_find_hole(RAMBlock *block, uint64_t offset, uint64_t end)
{
    int fd = migration_gang_file(block);
    off_t start = block->fd_offset + offset;
    uint8_t content[16 * GANG_PAGE_SIZE];

    hole_start = hole_end = block->host + offset;
    if (fd < 0) {
        return;
    }
    if (start < hole_hint.start || start >= hole_hint.end) {
        off_t data = lseek(fd, start, SEEK_DATA);

        if (data < 0) {
            data = errno == ENXIO ? block->fd_offset + block->used_length
                                  : start;
        }
        hole_hint.start = start;
        hole_hint.end = data;
    }
    end = MIN(end, hole_hint.end - block->fd_offset);
    while (offset < end) {
        size_t n = MIN(end - offset, sizeof(content));

        if (pread(fd, content, n, block->fd_offset + offset) != n ||
            !buffer_is_zero(content, n)) {
            hole_hint.end = hole_hint.start;
            return;
        }
        offset += n;
        hole_end = block->host + offset;
    }
}

bool migration_gang_is_zero(const void *page, size_t size)
{
    const uint8_t *p = page;

    return (p >= hole_start && p < hole_end) || buffer_is_zero(page, size);
}

/*
 * Frees in a thread of its own: a store of gigabytes takes a tenth of a second
 * to unmap, for which the big lock would keep the guest.
 */
static void gang_free(GThreadFunc free_object, void *object)
{
    GThread *thread = g_thread_try_new("mig/gang/free", free_object, object,
                                       NULL);

    if (thread) {
        g_thread_unref(thread);
    } else {
        free_object(object);
    }
}

bool migrate_gang(void)
{
    return migrate_multifd() &&
           migrate_multifd_compression() == MULTIFD_COMPRESSION_GANG;
}

struct GangSource *migration_gang_source(void)
{
    return gang_out.source;
}

struct GangDestination *migration_gang_destination(void)
{
    return gang_in;
}

static const char *gang_socket(void)
{
    const char *path = migrate_get_current()->parameters.gang_socket;

    return path && *path ? path : GANG_DEFAULT_SOCKET;
}

/* The VM's name as the coordinator takes it: [A-Za-z0-9._:-]{1,64} */
static char *gang_member_name(void)
{
    const char *name = qemu_get_vm_name();
    char *s;

    if (!name || !*name) {
        return g_strdup_printf("pid-%d", (int)getpid());
    }
    s = g_strndup(name, 64);
    return g_strcanon(s, "abcdefghijklmnopqrstuvwxyz"
                         "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-", '_');
}

/* What both ends need. */
static bool gang_prepare(Error **errp)
{
    MigrationState *s = migrate_get_current();

    if (!migration_gang_check(s->capabilities, MULTIFD_COMPRESSION_GANG,
                              errp)) {
        return false;
    }
    if (!s->parameters.gang_id || !*s->parameters.gang_id) {
        error_setg(errp, "multifd-compression=gang needs the migration "
                   "parameter gang-id: set it to the same id for all VMs "
                   "that move together");
        return false;
    }
    if (migrate_multifd_channels() > GANG_MAX_CHANNELS) {
        error_setg(errp, "A gang migration has at most %d channels: lower "
                   "the migration parameter multifd-channels",
                   GANG_MAX_CHANNELS);
        return false;
    }
    if (migrate_multifd_flush_after_each_section()) {
        error_setg(errp, "Gang migration does not support the per-section "
                   "flush of this machine type: use -global "
                   "migration.multifd-flush-after-each-section=off on both "
                   "hosts");
        return false;
    }
    if (qemu_target_page_size() != GANG_PAGE_SIZE) {
        error_setg(errp, "Gang migration needs guest pages of %d bytes",
                   GANG_PAGE_SIZE);
        return false;
    }
    return true;
}

/* ---------------------------------------------------------------- source */

static GangCompressionKind gang_compression(GangCompression compression)
{
    switch (compression) {
    case GANG_COMPRESSION_NONE:
        return GANG_COMPRESS_NONE;
    case GANG_COMPRESSION_ZSTD:
        /* Level 0 is no compression for multifd's zstd method, too */
        return migrate_multifd_zstd_level() > 0 ? GANG_COMPRESS_ZSTD
                                                : GANG_COMPRESS_NONE;
    case GANG_COMPRESSION_AUTO:
    default:
        return GANG_COMPRESS_AUTO;
    }
}

static GangDedupKind gang_dedup(GangDedup dedup)
{
    switch (dedup) {
    case GANG_DEDUP_PAGE:
        return GANG_SHARE_PAGES;
    case GANG_DEDUP_SUBPAGE:
        return GANG_SHARE_BLOCKS;
    case GANG_DEDUP_DELTA:
    default:
        return GANG_SHARE_DELTAS;
    }
}

bool migration_gang_source_prepare(Error **errp)
{
    MigrationState *s = migrate_get_current();
    g_autofree char *member = NULL;
    GangSourceConfig config = {};
    char *message = NULL;

    migration_gang_source_cleanup();
    if (!migrate_gang()) {
        return true;
    }
    if (!gang_prepare(errp)) {
        return false;
    }
    if (!migrate_return_path()) {
        error_setg(errp, "Gang migration needs the capability return-path: "
                   "switch it on, or use gang-migrate, which does");
        return false;
    }

    member = gang_member_name();
    config.socket = gang_socket();
    config.gang = s->parameters.gang_id;
    config.member = member;
    config.members = MAX(s->parameters.gang_members, 1);
    config.channels = migrate_multifd_channels();
    config.ram_pages = ram_bytes_total() / GANG_PAGE_SIZE;
    config.level = migrate_multifd_zstd_level();
    config.compression = gang_compression(s->parameters.gang_compression);
    config.dedup = gang_dedup(s->parameters.gang_dedup);
    config.hash = migration_gang_take_hash();
    config.policy = migration_gang_switchover_prepare();
    config.priority = s->parameters.gang_priority;
    config.max_bandwidth = s->parameters.gang_max_bandwidth;
    /* Only while all pages, zero ones too, go through libgang */
    if (migrate_zero_page_detection() == ZERO_PAGE_DETECTION_MULTIFD) {
        config.cache_bytes = migrate_xbzrle_cache_size();
    }
    gang_out.source = gang_source_new(&config, &message);
    if (!gang_out.source) {
        gang_error(errp, message);
        return false;
    }
    migration_gang_rates_reset();
    trace_migration_gang_source_prepare(config.gang, member, config.members,
                                        config.ram_pages);
    return true;
}

static void *gang_free_source(void *opaque)
{
    gang_source_free(opaque);
    return NULL;
}

void migration_gang_source_cleanup(void)
{
    MigrationState *s = migrate_get_current();
    GangResult result = GANG_FAILED;
    GangStats stats;

    if (!gang_out.source) {
        return;
    }
    migration_gang_switchover_cleanup();
    if (s->state == MIGRATION_STATUS_COMPLETED) {
        result = GANG_COMPLETED;
    } else if (s->state == MIGRATION_STATUS_CANCELLING ||
               s->state == MIGRATION_STATUS_CANCELLED) {
        result = GANG_CANCELLED;
    }
    gang_source_stats(gang_out.source, &stats);
    trace_migration_gang_source_cleanup(result, stats.literal_pages,
                                        stats.published_pages,
                                        stats.referenced_pages,
                                        stats.deferred_pages);
    migration_gang_remember(&stats, result);
    gang_source_leave(gang_out.source, result);
    gang_free(gang_free_source, gang_out.source);
    memset(&gang_out, 0, sizeof(gang_out));
    migration_gang_pace_reset();
}

/*
 * Hashes pages for at most GANG_SCAN_SLICE_MS.  Only what the dirty bitmap
 * holds: pages that the guest gave up (free page hints, discarded memory) are
 * not there, and neither read nor counted.  The bitmap is read without its
 * lock: a page whose bit changes meanwhile is counted or not, both harmless,
 * since every page is hashed again when it is sent.
 */
static bool gang_scan_slice(void)
{
    int64_t end = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + GANG_SCAN_SLICE_MS;
    unsigned nth = 0;
    RAMBlock *block;

    RCU_READ_LOCK_GUARD();

    RAMBLOCK_FOREACH_NOT_IGNORED(block) {
        unsigned long pages = block->used_length / GANG_PAGE_SIZE;

        if (nth++ < gang_out.scan_block) {
            continue;
        }
        while (gang_out.scan_page < pages) {
            uint64_t offsets[GANG_SCAN_BATCH];
            size_t n = 0;

            while (n < GANG_SCAN_BATCH) {
                gang_out.scan_page = find_next_bit(block->bmap, pages,
                                                   gang_out.scan_page);
                if (gang_out.scan_page >= pages) {
                    break;
                }
                offsets[n++] = (uint64_t)gang_out.scan_page++ * GANG_PAGE_SIZE;
            }
            if (n) {
                migration_gang_find_hole(block, offsets[0],
                                         offsets[n - 1] + GANG_PAGE_SIZE);
            }
            gang_source_scan(gang_out.source, block->host, offsets, n,
                             migration_gang_is_zero);
            if (qemu_clock_get_ms(QEMU_CLOCK_REALTIME) >= end) {
                return false;
            }
        }
        gang_out.scan_block++;
        gang_out.scan_page = 0;
    }
    return true;
}

static MigGangStep gang_fail(MigrationState *s, Error *err)
{
    migrate_set_error(s, err);
    error_free(err);
    migrate_set_state(&s->state, MIGRATION_STATUS_ACTIVE,
                      MIGRATION_STATUS_FAILED);
    return MIG_GANG_FAILED;
}

static MigGangStep gang_start(MigrationState *s)
{
    char *message = NULL;
    Error *err = NULL;
    GangStats stats;

    /* Nothing is written yet that would show that the other end is gone. */
    if (migrate_has_error(s)) {
        migrate_set_state(&s->state, MIGRATION_STATUS_ACTIVE,
                          MIGRATION_STATUS_FAILED);
        return MIG_GANG_FAILED;
    }

    if (gang_source_wants_inventory(gang_out.source)) {
        trace_migration_gang_ask();
        qemu_savevm_send_gang_inventory(s->to_dst_file);
    }
    switch (gang_source_step(gang_out.source, GANG_WAIT_MS, &message)) {
    case GANG_STEP_WAIT:
        return MIG_GANG_WAIT;
    case GANG_STEP_SCAN:
        if (gang_scan_slice()) {
            gang_source_scan_done(gang_out.source);
            trace_migration_gang_scan_done();
        }
        return MIG_GANG_WAIT;
    case GANG_STEP_RUN:
        break;
    case GANG_STEP_ERROR:
    default:
        gang_error(&err, message);
        return gang_fail(s, err);
    }

    gang_source_stats(gang_out.source, &stats);
    if (!stats.directory) {
        warn_report("gang: the coordinator went away before the migration "
                    "started; going on without de-duplication");
    } else if (stats.missing) {
        warn_report("gang: started with %u of %u members; the others did not "
                    "come in time%s%s", stats.joined,
                    stats.joined + stats.missing, *stats.absent ? ": " : "",
                    stats.absent);
    }
    trace_migration_gang_start(stats.joined, stats.missing,
                               stats.scanned_pages,
                               stats.scan_duplicate_pages);
    gang_out.running = true;
    return MIG_GANG_READY;
}

/* At most 10 ms: until the destination has no more than @limit to do. */
static bool gang_destination_keeps_up(uint64_t limit)
{
    for (int i = 0; i < 10 && migration_is_running(); i++) {
        if (gang_source_in_flight(gang_out.source) <= limit) {
            return true;
        }
        g_usleep(1000);
    }
    return false;
}

/*
 * When only deferred pages are left, wait for what they wait for, rather than
 * turn rounds over them.  Bounded: a member that stalls makes its pages ready.
 */
static bool gang_deferred_pages_ready(uint64_t deferred)
{
    uint64_t ready = 0;

    for (int i = 0; i < 10 && migration_is_running(); i++) {
        ready = gang_source_deferred_ready(gang_out.source);
        if (ready >= deferred) {
            break;
        }
        g_usleep(1000);
    }
    trace_migration_gang_deferred(deferred, ready);
    return ready > 0;
}

/*
 * downtime-limit is what may be, not what should be: on a fast link it is hundreds
 * of MiB, which would be sent while the VM stands still.  A few more looks at the
 * dirty log cost a running VM next to nothing, so the first ones go for a part of
 * it; only a VM that writes too much for that gets the whole.
 */
static void gang_aim_below_limit(MigrationState *s)
{
    static const double parts[] = { 0.05, 0.05, 0.05, 0.1, 0.2, 0.5 };
    uint64_t looks = stat64_get(&mig_stats.dirty_sync_count);
    uint64_t set = migrate_avail_switchover_bandwidth() / 1000;
    double bytes_per_ms = set ? set : gang_out.bytes_per_ms;

    if (looks < ARRAY_SIZE(parts) && bytes_per_ms) {
        uint64_t part = bytes_per_ms * migrate_downtime_limit() * parts[looks];

        s->threshold_size = MIN(s->threshold_size, MAX(part, GANG_PAGE_SIZE));
    }
}

MigGangStep migration_gang_iterate(MigrationState *s)
{
    uint64_t remaining = ram_bytes_remaining(), deferred;
    MigGangStep step;
    bool near_end, keeps_up;
    Error *err = NULL;
    GangRates rates;

    if (!gang_out.source) {
        return MIG_GANG_READY;
    }
    if (!gang_out.running) {
        step = gang_start(s);
        if (step != MIG_GANG_READY) {
            return step;
        }
    }
    step = migration_gang_switchover_step(s);
    if (step != MIG_GANG_READY) {
        return step;
    }
    gang_aim_below_limit(s);
    gang_source_set_progress(gang_out.source, false,
                             remaining / GANG_PAGE_SIZE,
                             stat64_get(&mig_stats.dirty_sync_count));
    migration_gang_rates(&rates);
    gang_source_set_rates(gang_out.source, &rates);

    /*
     * A packet of references is a hundred bytes and half a MiB of work: the
     * socket's buffer alone does not hold the source back.  Before the VM is
     * stopped, the destination must have caught up.
     */
    near_end = remaining <= s->threshold_size;
    keeps_up = gang_destination_keeps_up(near_end ? GANG_SWITCHOVER_PACKETS
                                                  : GANG_MAX_PACKETS);
    switch (migration_gang_pace(s, gang_out.source, remaining,
                                near_end && keeps_up, gang_out.bytes_per_ms,
                                &err)) {
    case MIG_GANG_PACE_STUCK:
        return gang_fail(s, err);
    case MIG_GANG_PACE_WAIT:
        return MIG_GANG_WAIT;
    case MIG_GANG_PACE_SEND:
        break;
    }
    if (!keeps_up) {
        return MIG_GANG_WAIT;
    }
    deferred = gang_source_deferred(gang_out.source);
    if (deferred && remaining <= deferred * GANG_PAGE_SIZE &&
        !gang_deferred_pages_ready(deferred)) {
        return MIG_GANG_WAIT;
    }
    return MIG_GANG_READY;
}

static void gang_rp_failed(MigrationState *s, Error *err)
{
    migrate_set_error(s, err);
    if (s->state == MIGRATION_STATUS_SETUP ||
        s->state == MIGRATION_STATUS_ACTIVE) {
        migrate_set_state(&s->state, s->state, MIGRATION_STATUS_FAILED);
    }
}

bool migration_gang_rp_message(MigrationState *s, const uint8_t *buf,
                               size_t len, Error **errp)
{
    ERRP_GUARD();
    char *message = NULL;

    trace_migration_gang_rp_message(len);
    if (!gang_out.source) {
        error_setg(errp, "The destination is set up for gang migration, the "
                   "source is not: use gang-migrate");
    } else if (!gang_source_return_message(gang_out.source, buf, len,
                                           &message)) {
        gang_error(errp, message);
    } else {
        return true;
    }
    gang_rp_failed(s, *errp);
    return false;
}

/* The greeting comes before the answer to the first ping, or never. */
bool migration_gang_rp_pong(MigrationState *s, uint32_t value, Error **errp)
{
    ERRP_GUARD();

    if (value == GANG_PING_LOADED) {
        migration_gang_loaded();
    }
    if (!gang_out.source || gang_source_greeted(gang_out.source)) {
        return true;
    }
    error_setg(errp, "The destination has no gang store: start it with "
               "gang-migrate-incoming (QEMU with gang support, gangd running "
               "there)");
    gang_rp_failed(s, *errp);
    return false;
}

void migration_gang_take_deferred(bool all, MigGangRedirty *redirty,
                                  void *opaque)
{
    if (gang_out.source) {
        uint64_t n = gang_source_take_deferred(gang_out.source, all, redirty,
                                               opaque);
        if (n) {
            trace_migration_gang_take_deferred(n, all);
        }
    }
}

uint64_t migration_gang_deferred_pages(void)
{
    return gang_out.source ? gang_source_deferred(gang_out.source) : 0;
}

void migration_gang_last_round(void)
{
    if (gang_out.source) {
        gang_source_set_defer(gang_out.source, false);
        gang_source_set_progress(gang_out.source, true,
                                 ram_bytes_remaining() / GANG_PAGE_SIZE,
                                 stat64_get(&mig_stats.dirty_sync_count));
    }
}

/*
 * A page that is a reference or a delta costs a few bytes on the wire: counted
 * in these, a guest that writes what others have, or what it had, may never be
 * near enough to its end.  So count its pages, if a few rounds have not brought
 * it there.  Those of the last round cost more than others, since none of them
 * waits for a reference: hence a quarter of their rate.
 */
double migration_gang_bandwidth(double bytes_per_ms, uint64_t pages,
                                uint64_t ms)
{
    if (!gang_out.source || !ms) {
        return bytes_per_ms;
    }
    if (migration_gang_pace_waited() && bytes_per_ms < gang_out.bytes_per_ms) {
        return gang_out.bytes_per_ms; /* of what it had when it could send */
    }
    if (stat64_get(&mig_stats.dirty_sync_count) > GANG_PATIENT_ROUNDS) {
        bytes_per_ms = MAX(bytes_per_ms,
                           (double)pages * GANG_PAGE_SIZE / ms / 4);
    }
    /* One that waits for others sends little, and forgets nothing. */
    bytes_per_ms = MAX(bytes_per_ms, gang_out.bytes_per_ms *
                                     (migration_gang_waits()
                                      ? 1 : GANG_FORGET_BANDWIDTH));
    gang_out.bytes_per_ms = MAX(bytes_per_ms, GANG_LEAST_BYTES_PER_MS);
    return gang_out.bytes_per_ms;
}

/*
 * Clones have the same content at about the same place.  If all began there,
 * they would meet it at the same time, and defer what is not confirmed yet;
 * so each begins with another part of its memory.
 */
unsigned long migration_gang_first_page(RAMBlock *first)
{
    GangStats stats;

    if (!gang_out.source) {
        return 0;
    }
    gang_source_stats(gang_out.source, &stats);
    if (!stats.joined) {
        return 0;
    }
    return first->used_length / GANG_PAGE_SIZE *
           (stats.member_index % stats.joined) / stats.joined;
}

/* ----------------------------------------------------------- destination */

bool migration_gang_incoming_prepare(Error **errp)
{
    MigrationState *s = migrate_get_current();
    g_autofree char *member = NULL;
    char *message = NULL;

    /* Left over from an attempt that could not listen */
    migration_gang_incoming_leave(false);
    migration_gang_incoming_cleanup();
    if (!migrate_gang()) {
        return true;
    }
    if (!gang_prepare(errp)) {
        return false;
    }
    member = gang_member_name();
    gang_in = gang_destination_new(gang_socket(), s->parameters.gang_id,
                                   member, migration_gang_take_hash(), &message);
    if (!gang_in) {
        gang_error(errp, message);
        return false;
    }
    trace_migration_gang_incoming_prepare(s->parameters.gang_id, member);
    return true;
}

int migration_gang_incoming_greet(MigrationIncomingState *mis)
{
    uint8_t greeting[GANG_MAX_RETURN_MESSAGE];
    size_t len;

    if (!gang_in) {
        return 0;
    }
    len = gang_destination_greeting(gang_in, greeting);
    trace_migration_gang_incoming_greet(len);
    return migrate_send_rp_gang(mis, greeting, len);
}

void migration_gang_incoming_stop(MigrationIncomingState *mis)
{
    if (gang_in && mis->to_src_file &&
        mis->state != MIGRATION_STATUS_COMPLETED) {
        qemu_file_shutdown(mis->to_src_file);
    }
}

void migration_gang_incoming_leave(bool completed)
{
    GangResult result = completed ? GANG_COMPLETED : GANG_FAILED;
    GangStats stats;

    if (!gang_in) {
        return;
    }
    migration_gang_incoming_tell_end(completed);
    if (!completed) {
        migration_gang_incoming_save();
    }
    gang_destination_stats(gang_in, &stats);
    trace_migration_gang_incoming_cleanup(result, stats.published_pages,
                                          stats.referenced_pages);
    migration_gang_remember(&stats, result);
    gang_destination_leave(gang_in, result);
}

static void *gang_free_destination(void *opaque)
{
    gang_destination_free(opaque);
    return NULL;
}

void migration_gang_incoming_cleanup(void)
{
    if (gang_in) {
        gang_free(gang_free_destination, gang_in);
        gang_in = NULL;
    }
}
