/*
 * Live gang migration: what a destination keeps for another attempt
 *
 * Copyright the gang migration authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The destination's gangd keeps the store of a gang that failed or was
 * cancelled.  Before this QEMU leaves it, it saves what its guest's memory has
 * got and the store has not: what only this VM had is nowhere else.  A
 * migration that succeeds costs nothing.
 *
 * At the next attempt one member of the gang asks its destination, which
 * tells on the return path what the store holds.
 */

#include "qemu/osdep.h"
#include <gang/gang.h>
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/rcu.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "exec/ramblock.h"
#include "migration.h"
#include "qemu-file.h"
#include "ram.h"
#include "gang.h"
#include "trace.h"

/* Whoever ends this QEMU waits so long at most. */
#define GANG_SAVE_MS 5000

/* Main thread; @stop and @done are the thread's too. */
static struct {
    QemuThread thread;
    bool started;
    bool stop;
    bool done;
} teller;

static void *gang_tell(void *opaque)
{
    MigrationIncomingState *mis = opaque;
    uint8_t message[GANG_MAX_RETURN_MESSAGE];
    size_t len, messages = 0;

    while (!qatomic_read(&teller.stop)) {
        len = gang_destination_inventory(migration_gang_destination(),
                                         message);
        /* A return path that fails shows elsewhere, too. */
        if (!len || migrate_send_rp_gang(mis, message, len)) {
            break;
        }
        messages++;
    }
    trace_migration_gang_told(messages);
    qatomic_set(&teller.done, true);
    return NULL;
}

/* Not here in the main thread: the source may read as slowly as it likes. */
int migration_gang_incoming_tell(MigrationIncomingState *mis)
{
    if (!migration_gang_destination() || !mis->to_src_file || teller.started) {
        error_report("The source asks for the inventory of a gang's store %s",
                     teller.started ? "twice" : "where there is none");
        return -EINVAL;
    }
    teller.stop = teller.done = false;
    teller.started = true;
    qemu_thread_create(&teller.thread, "mig/gang/tell", gang_tell, mis,
                       QEMU_THREAD_JOINABLE);
    return 0;
}

void migration_gang_incoming_tell_end(bool completed)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    if (!teller.started) {
        return;
    }
    qatomic_set(&teller.stop, true);
    if (!completed && !qatomic_read(&teller.done) && mis->to_src_file) {
        qemu_file_shutdown(mis->to_src_file);
    }
    qemu_thread_join(&teller.thread);
    teller.started = false;
}

/* False: there is no more room, or no more time. */
static bool gang_save_block(RAMBlock *block, int64_t end)
{
    unsigned long pages = block->used_length / GANG_PAGE_SIZE, page = 0;

    while (block->receivedmap) {
        uint64_t offsets[GANG_MAX_SAVE_PAGES];
        size_t n = 0;

        while (n < GANG_MAX_SAVE_PAGES) {
            page = find_next_bit(block->receivedmap, pages, page);
            if (page >= pages) {
                break;
            }
            offsets[n++] = (uint64_t)page++ * GANG_PAGE_SIZE;
        }
        if (!n) {
            break;
        }
        migration_gang_find_hole(block, offsets[0],
                                 offsets[n - 1] + GANG_PAGE_SIZE);
        if (!gang_destination_save(migration_gang_destination(), block->host,
                                   offsets, n, migration_gang_is_zero) ||
            qemu_clock_get_ms(QEMU_CLOCK_REALTIME) >= end) {
            return false;
        }
    }
    return true;
}

/*
 * What has arrived, whole or not, is hashed as it is: a page that is not what
 * the source had will not be asked for.
 */
static void *gang_save(void *opaque)
{
    int64_t start = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    bool all = true;
    RAMBlock *block;

    rcu_register_thread();
    WITH_RCU_READ_LOCK_GUARD() {
        RAMBLOCK_FOREACH_NOT_IGNORED(block) {
            all = all && gang_save_block(block, start + GANG_SAVE_MS);
        }
    }
    trace_migration_gang_save(all,
                              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) - start);
    rcu_unregister_thread();
    return NULL;
}

/*
 * Called with the BQL, which keeps blocks where they are.  In a thread of its
 * own because of what migration_gang_find_hole() remembers of blocks.
 */
void migration_gang_incoming_save(void)
{
    QemuThread thread;

    if (migration_gang_destination()) {
        qemu_thread_create(&thread, "mig/gang/save", gang_save, NULL,
                           QEMU_THREAD_JOINABLE);
        qemu_thread_join(&thread);
    }
}
