/*
 * Live gang migration: what a migration would send, without one
 *
 * Copyright the gang migration authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The client (gangctl estimate) makes a directory and gives it to all VMs of
 * the gang.  Each scans its memory into it, and, when all have, codes a
 * part of it as the first round would; the packets are forgotten.  A thread of
 * its own does that, without the big lock, while the VM runs.
 */

#include "qemu/osdep.h"
#include <gang/gang.h>
#include <sys/mman.h>
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/rcu.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-gang.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/target_page.h"
#include "hw/boards.h"
#include "monitor/monitor.h"
#include "system/runstate.h"
#include "migration/misc.h"
#include "migration.h"
#include "options.h"
#include "ram.h"
#include "gang.h"
#include "trace.h"

/* A slice holds RCU's read lock, not longer than this. */
#define ESTIMATE_SLICE_MS 20
#define ESTIMATE_BATCH 128 /* pages, as in a packet of multifd */
/* Pages side by side that are coded or not: zstd looks back one such packet. */
#define ESTIMATE_STRIPE 1024
#define ESTIMATE_PAGES (128 * 1024)
/* A client that has gone does not say so. */
#define ESTIMATE_IDLE_MS 30000

typedef struct {
    RAMBlock *block;
    unsigned long *discarded;
    uint64_t pages;
} EstimateHole;

/* Main thread, but for what the thread is given or stores atomically. */
static struct {
    GangEstimate *estimate;
    QemuThread thread;
    bool threaded;         /* there is a thread to join */
    bool stop;             /* atomic: asks it to end */
    int status;            /* atomic: GangEstimateStatus; the thread's end */
    char *message;         /* why it failed; as libgang's, for free() */
    bool code;
    uint32_t member, members;
    uint64_t stride;       /* every so many stripes one is coded */
    uint64_t ram_pages;    /* of all migrated RAMBlocks */
    uint32_t version;      /* of the list of RAMBlocks */
    GArray *holes;         /* EstimateHole: what is logically unplugged */
    QEMUTimer *idle;
} est;

/* ---------------------------------------------------------------- thread */

/* Memory that is plugged and not used may be protected: do not even read it. */
static bool estimate_discarded(RAMBlock *block, uint64_t page)
{
    for (guint i = 0; i < est.holes->len; i++) {
        EstimateHole *hole = &g_array_index(est.holes, EstimateHole, i);

        if (hole->block == block) {
            return page >= hole->pages || test_bit(page, hole->discarded);
        }
    }
    return false;
}

/*
 * To read a huge page that is not there would allocate it.  Small ones of
 * private memory cost nothing (the kernel maps its page of zeros), and holes
 * of shared memory are found by estimate_find_holes().
 */
static bool estimate_absent(RAMBlock *block, uint64_t offset)
{
    unsigned char in_core = 1;

    return qemu_ram_pagesize(block) > qemu_real_host_page_size() &&
           mincore(block->host + offset, qemu_real_host_page_size(),
                   &in_core) == 0 && !(in_core & 1);
}

/*
 * The pages of the thread's batch, in order, and which of them are in holes of
 * the file that is mapped there.  A stretch of the file that is all data, or
 * all hole, is looked for once.  The migration itself only finds holes that a
 * packet begins with; here nobody is going to need the memory afterwards.
 */
static __thread struct {
    const uint8_t *host;
    const uint64_t *offsets;
    size_t n, next;
    bool hole[ESTIMATE_BATCH];
    int fd;
    bool is_hole;      /* of the stretch */
    off_t start, end;
} batch;

static bool estimate_in_hole(int fd, off_t offset)
{
    if (fd != batch.fd || offset < batch.start || offset >= batch.end) {
        off_t data = lseek(fd, offset, SEEK_DATA);

        batch.fd = fd;
        batch.start = offset;
        batch.is_hole = data < 0 ? errno == ENXIO : data > offset;
        if (batch.is_hole) {
            batch.end = data < 0 ? INT64_MAX : data;
        } else {
            batch.end = lseek(fd, offset, SEEK_HOLE);
        }
    }
    return batch.is_hole;
}

/* As in migration_gang_find_hole(), read() has the last word. */
static void estimate_find_holes(RAMBlock *block, const uint64_t *offsets,
                                size_t n)
{
    uint8_t content[16 * GANG_PAGE_SIZE];
    int fd = migration_gang_file(block);

    batch.host = block->host;
    batch.offsets = offsets;
    batch.n = n;
    batch.next = 0;
    memset(batch.hole, 0, sizeof(batch.hole));
    for (size_t i = 0, run; fd >= 0 && i < n; i += run) {
        off_t offset = block->fd_offset + offsets[i];
        size_t bytes;

        run = 1;
        if (!estimate_in_hole(fd, offset)) {
            continue;
        }
        while (i + run < n && run < 16 &&
               offsets[i + run] == offsets[i] + run * GANG_PAGE_SIZE &&
               offset + run * GANG_PAGE_SIZE < batch.end) {
            run++;
        }
        bytes = run * GANG_PAGE_SIZE;
        if (pread(fd, content, bytes, offset) == bytes &&
            buffer_is_zero(content, bytes)) {
            memset(batch.hole + i, true, run);
        }
    }
}

/* Asked for the batch's pages in their order. */
static bool estimate_is_zero(const void *page, size_t size)
{
    while (batch.next < batch.n &&
           batch.host + batch.offsets[batch.next] != page) {
        batch.next++;
    }
    return (batch.next < batch.n && batch.hole[batch.next]) ||
           buffer_is_zero(page, size);
}

static size_t estimate_batch(RAMBlock *block, uint64_t *page, uint64_t end,
                             uint64_t *offsets)
{
    uint64_t huge = UINT64_MAX;
    bool absent = false;
    size_t n = 0;

    while (*page < end && n < ESTIMATE_BATCH) {
        uint64_t offset = *page * GANG_PAGE_SIZE;

        if (offset / qemu_ram_pagesize(block) != huge) {
            huge = offset / qemu_ram_pagesize(block);
            absent = estimate_absent(block, offset);
        }
        if (est.code && *page / ESTIMATE_STRIPE % est.stride != 0) {
            *page = QEMU_ALIGN_UP(*page + 1, ESTIMATE_STRIPE);
            if (n) {
                break; /* neighbours only */
            }
            continue;
        }
        if (!absent && !estimate_discarded(block, *page)) {
            offsets[n++] = offset;
        }
        (*page)++;
    }
    return n;
}

/* The pages from @page to @end, until the time is over.  False: failed. */
static bool estimate_range(RAMBlock *block, uint64_t *page, uint64_t end,
                           int64_t until)
{
    while (*page < end && !qatomic_read(&est.stop)) {
        uint64_t offsets[ESTIMATE_BATCH];
        size_t n = estimate_batch(block, page, end, offsets);

        estimate_find_holes(block, offsets, n);
        if (n && !est.code) {
            gang_estimate_scan(est.estimate, block->host, offsets, n,
                               estimate_is_zero);
        } else if (n && !gang_estimate_code(est.estimate, block->idstr, block,
                                            block->host, offsets, n,
                                            estimate_is_zero,
                                            &est.message)) {
            return false;
        }
        if (qemu_clock_get_ms(QEMU_CLOCK_REALTIME) >= until) {
            break;
        }
    }
    return true;
}

typedef struct {
    unsigned block; /* n-th migrated RAMBlock */
    uint64_t done;  /* pages of it */
} EstimatePlace;

/* As members do, each begins with another part of its first block. */
static uint64_t estimate_first_page(unsigned nth, uint64_t pages)
{
    return est.code && nth == 0 ? pages * (est.member % est.members) /
                                  est.members
                                : 0;
}

/* True: that was the last one, or est.message says what went wrong. */
static bool estimate_slice(EstimatePlace *place)
{
    int64_t until = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ESTIMATE_SLICE_MS;
    unsigned nth = 0;
    RAMBlock *block;

    batch.start = batch.end = 0; /* look at the file anew */

    RCU_READ_LOCK_GUARD();

    if (qatomic_read(&ram_list.version) != est.version) {
        est.message = strdup("memory was plugged or unplugged meanwhile: "
                             "try again");
        return true;
    }
    RAMBLOCK_FOREACH_NOT_IGNORED(block) {
        uint64_t pages = block->used_length / GANG_PAGE_SIZE;
        uint64_t first = estimate_first_page(nth, pages);

        if (nth++ < place->block) {
            continue;
        }
        while (place->done < pages) {
            /* Twice around the corner: first..pages, 0..first */
            bool wrapped = place->done >= pages - first;
            uint64_t page = wrapped ? place->done - (pages - first)
                                    : place->done + first;
            uint64_t end = wrapped ? first : pages;

            if (!estimate_range(block, &page, end, until)) {
                return true;
            }
            page = MIN(page, end);
            place->done = wrapped ? page + (pages - first) : page - first;
            if (qatomic_read(&est.stop) ||
                qemu_clock_get_ms(QEMU_CLOCK_REALTIME) >= until) {
                return false;
            }
        }
        if (est.code && !gang_estimate_code_deferred(est.estimate,
                                                     block->idstr, block,
                                                     block->host,
                                                     &est.message)) {
            return true;
        }
        place->block++;
        place->done = 0;
    }
    return true;
}

static void *estimate_thread(void *opaque)
{
    EstimatePlace place = {};
    int status = est.code ? GANG_ESTIMATE_STATUS_DONE
                          : GANG_ESTIMATE_STATUS_SCANNED;

    rcu_register_thread();
    while (!qatomic_read(&est.stop) && !estimate_slice(&place)) {
        /* RCU's grace periods end here */
    }
    if (est.message) {
        status = GANG_ESTIMATE_STATUS_FAILED;
    }
    trace_migration_gang_estimate(status, est.code);
    qatomic_store_release(&est.status, status);
    rcu_unregister_thread();
    return NULL;
}

/* ----------------------------------------------------------- main thread */

static void *estimate_free(void *opaque)
{
    gang_estimate_free(opaque);
    return NULL;
}

static void estimate_join(void)
{
    if (est.threaded) {
        qatomic_set(&est.stop, true);
        qemu_thread_join(&est.thread); /* milliseconds: a batch */
        est.threaded = false;
    }
    qatomic_set(&est.stop, false);
}

static void estimate_end(void *opaque)
{
    estimate_join();
    if (est.estimate) {
        /* It has much to unmap */
        GThread *thread = g_thread_try_new("mig/gang/free", estimate_free,
                                           est.estimate, NULL);
        if (thread) {
            g_thread_unref(thread);
        } else {
            estimate_free(est.estimate);
        }
        est.estimate = NULL;
    }
    for (guint i = 0; est.holes && i < est.holes->len; i++) {
        g_free(g_array_index(est.holes, EstimateHole, i).discarded);
    }
    g_clear_pointer(&est.holes, g_array_unref);
    free(est.message);
    est.message = NULL;
    if (est.idle) {
        timer_del(est.idle);
    }
    qatomic_set(&est.status, GANG_ESTIMATE_STATUS_NONE);
}

/* Somebody still cares. */
static void estimate_touch(void)
{
    if (!est.idle) {
        est.idle = timer_new_ms(QEMU_CLOCK_REALTIME, estimate_end, NULL);
    }
    timer_mod(est.idle,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ESTIMATE_IDLE_MS);
}

static void estimate_mark_discarded(MemoryRegionSection *section,
                                    void *opaque)
{
    EstimateHole *hole = opaque;
    uint64_t start = section->offset_within_region / GANG_PAGE_SIZE;
    uint64_t n = int128_get64(section->size) / GANG_PAGE_SIZE;

    if (start < hole->pages) {
        bitmap_set(hole->discarded, start, MIN(n, hole->pages - start));
    }
}

/* Remembers what is unplugged now, and what the list of blocks is. */
static void estimate_look_at_ram(void)
{
    RAMBlock *block;

    RCU_READ_LOCK_GUARD();

    est.version = qatomic_read(&ram_list.version);
    est.ram_pages = ram_bytes_total() / GANG_PAGE_SIZE;
    est.holes = g_array_new(false, false, sizeof(EstimateHole));
    RAMBLOCK_FOREACH_NOT_IGNORED(block) {
        if (block->mr && memory_region_has_ram_discard_manager(block->mr)) {
            EstimateHole hole = {
                .block = block,
                .pages = qemu_ram_get_used_length(block) / GANG_PAGE_SIZE,
            };
            MemoryRegionSection section = {
                .mr = block->mr,
                .size = int128_make64(qemu_ram_get_used_length(block)),
            };

            hole.discarded = bitmap_new(hole.pages);
            ram_discard_manager_replay_discarded(
                memory_region_get_ram_discard_manager(block->mr), &section,
                estimate_mark_discarded, &hole);
            g_array_append_val(est.holes, hole);
        }
    }
}

static void estimate_run(bool code)
{
    est.code = code;
    qatomic_set(&est.status, code ? GANG_ESTIMATE_STATUS_CODING
                                  : GANG_ESTIMATE_STATUS_SCANNING);
    qemu_thread_create(&est.thread, "mig/gang/est", estimate_thread, NULL,
                       QEMU_THREAD_JOINABLE);
    est.threaded = true;
}

static GangDedupKind estimate_dedup(GangDedup dedup)
{
    switch (dedup) {
    case GANG_DEDUP_PAGE:
        return GANG_SHARE_PAGES;
    case GANG_DEDUP_SUBPAGE:
        return GANG_SHARE_BLOCKS;
    default:
        return GANG_SHARE_DELTAS;
    }
}

void qmp_gang_estimate_scan(const char *fdname, uint32_t member,
                            bool has_channels, uint8_t channels,
                            bool has_compression, GangCompression compression,
                            bool has_level, uint8_t level,
                            Error **errp)
{
    MigrationParameters *p = &migrate_get_current()->parameters;
    GangEstimateConfig config = {
        .member = member,
        .channels = has_channels ? channels : migrate_multifd_channels(),
        .level = has_level ? level : migrate_multifd_zstd_level(),
        .dedup = estimate_dedup(p->gang_dedup),
    };
    char *message = NULL;
    int fd;

    if (migration_is_running()) {
        error_setg(errp, "There's a migration process in progress");
        return;
    }
    if (runstate_check(RUN_STATE_INMIGRATE) ||
        migration_in_incoming_postcopy()) {
        error_setg(errp, "This VM has not arrived yet");
        return;
    }
    if (current_machine->cgs) {
        error_setg(errp, "The memory of a confidential guest cannot be read");
        return;
    }
    if (qemu_target_page_size() != GANG_PAGE_SIZE) {
        error_setg(errp, "Gang migration needs guest pages of %d bytes",
                   GANG_PAGE_SIZE);
        return;
    }
    if (config.level < 1 || config.level > 20) {
        config.level = 1;
    }
    switch (has_compression ? compression : p->gang_compression) {
    case GANG_COMPRESSION_NONE:
        config.compression = GANG_COMPRESS_NONE;
        break;
    case GANG_COMPRESSION_ZSTD:
        config.compression = GANG_COMPRESS_ZSTD;
        break;
    default:
        config.compression = GANG_COMPRESS_AUTO;
        break;
    }
    estimate_end(NULL);
    fd = monitor_get_fd(monitor_cur(), fdname, errp);
    if (fd < 0) {
        return;
    }
    config.directory = fd;
    est.estimate = gang_estimate_new(&config, &message);
    close(fd); /* what was opened is mapped */
    if (!est.estimate) {
        error_setg(errp, "gang: %s", message ? message : "unknown error");
        free(message);
        return;
    }
    est.member = member;
    estimate_look_at_ram();
    estimate_touch();
    estimate_run(false);
}

void qmp_gang_estimate_code(uint32_t members, bool has_pages, uint64_t pages,
                            Error **errp)
{
    GangEstimateStats stats;

    estimate_touch();
    if (qatomic_load_acquire(&est.status) != GANG_ESTIMATE_STATUS_SCANNED) {
        error_setg(errp, "There is no scan that has ended: "
                   "gang-estimate-scan comes first");
        return;
    }
    estimate_join();
    gang_estimate_stats(est.estimate, &stats);
    pages = has_pages ? MAX(pages, 1) : ESTIMATE_PAGES;
    est.members = MAX(members, 1);
    est.stride = DIV_ROUND_UP(MAX(stats.scanned_pages, 1), pages);
    estimate_run(true);
}

void qmp_gang_estimate_stop(Error **errp)
{
    estimate_end(NULL);
}

GangEstimateInfo *qmp_query_gang_estimate(Error **errp)
{
    GangEstimateInfo *info = g_new0(GangEstimateInfo, 1);

    info->status = qatomic_load_acquire(&est.status);
    if (info->status == GANG_ESTIMATE_STATUS_FAILED && est.message) {
        info->error_desc = g_strdup(est.message);
    }
    if (est.estimate) {
        GangEstimateStats stats;

        estimate_touch();
        gang_estimate_stats(est.estimate, &stats);
        info->ram_pages = est.ram_pages;
        info->zero_pages = stats.zero_pages;
        info->scanned_pages = stats.scanned_pages;
        info->distinct_pages = stats.distinct_pages;
        info->sent_pages = stats.sent_pages;
        info->referenced_pages = stats.referenced_pages;
        info->published_pages = stats.published_pages;
        info->payload_bytes = stats.payload_bytes;
        info->metadata_bytes = stats.metadata_bytes;
    }
    return info;
}
