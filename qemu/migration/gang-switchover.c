/*
 * Live gang migration: when this VM stops, and whether it leaves the source
 *
 * Copyright the gang migration authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The gang-policy is libgang's (switchover.h has its states); here is what QEMU
 * does at each of them.
 *
 *   migration thread  ..._step        each iteration: is it time to stop?
 *                     ..._switchover  near its end: tell the others, and wait
 *                                     for them, with rounds at a modest pace
 *                     ..._stopped     the VM has been stopped; with
 *                                     all-or-nothing a thread of its own looks
 *                                     after the others
 *                     ..._may_continue  after pre-switchover
 *                     ..._commit      all is sent but QEMU_VM_EOF, at which the
 *                                     destination starts: wait for the others
 *   return path       ..._loaded      the destination has loaded all that
 *   main thread       ..._cancel, ..._cleanup
 *
 * With all-or-nothing a VM that is given up fails as any migration that fails
 * before its end does: block devices are activated again, the VM goes on.
 */

#include "qemu/osdep.h"
#include <gang/gang.h>
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-yank.h"
#include "migration/misc.h"
#include "migration.h"
#include "migration-stats.h"
#include "options.h"
#include "qemu-file.h"
#include "savevm.h"
#include "gang.h"
#include "trace.h"

/* A VM that waits for others looks at its dirty log so often. */
#define GANG_READY_MS 20
/* How often a stopped VM looks whether the others still come, */
#define GANG_WATCH_MS 10
/* and one that has sent all, whether they have. */
#define GANG_COMMIT_US 500

/*
 * Set by the main thread, while no other runs, but for what is said there.
 */
static struct {
    bool joint;    /* stops with others */
    bool all_or_nothing;
    bool waits;    /* migration thread's: it is ready, others are not */
    uint64_t idle; /* migration thread's: looks at the dirty log meanwhile */
    bool loaded;   /* atomic: the destination has */
    bool watching; /* migration thread's, then the main thread's */
    bool stop;     /* atomic: the watcher is to end */
    QemuThread watcher;
} gang_switchover;

int migration_gang_switchover_prepare(void)
{
    GangPolicy policy = migrate_get_current()->parameters.gang_policy;

    memset(&gang_switchover, 0, sizeof(gang_switchover));
    gang_switchover.joint = policy != GANG_POLICY_INDEPENDENT;
    switch (policy) {
    case GANG_POLICY_TOGETHER:
        return GANG_STOP_TOGETHER;
    case GANG_POLICY_ALL_OR_NOTHING:
        gang_switchover.all_or_nothing = true;
        return GANG_STOP_ALL_OR_NOTHING;
    case GANG_POLICY_INDEPENDENT:
    default:
        return GANG_STOP_INDEPENDENT;
    }
}

/* Frees the message.  One that was cancelled itself has no error. */
static void gang_given_up(MigrationState *s, char *message)
{
    Error *err = NULL;

    if (s->state != MIGRATION_STATUS_CANCELLING) {
        trace_migration_gang_given_up(message ? message : "");
        error_setg(&err, "gang: %s", message ? message : "given up");
        migrate_set_error(s, err);
        error_free(err);
    }
    free(message);
}

MigGangStep migration_gang_switchover_step(MigrationState *s)
{
    char *message = NULL;

    switch (gang_source_must_stop(migration_gang_source(), &message)) {
    case GANG_VERDICT_GO:
        return MIG_GANG_SWITCHOVER;
    case GANG_VERDICT_WAIT:
        return MIG_GANG_READY;
    case GANG_VERDICT_ERROR:
    default:
        gang_given_up(s, message);
        migrate_set_state(&s->state, MIGRATION_STATUS_ACTIVE,
                          MIGRATION_STATUS_FAILED);
        return MIG_GANG_FAILED;
    }
}

bool migration_gang_switchover(bool near_end)
{
    GangSource *source = migration_gang_source();

    if (!source) {
        return near_end;
    }
    for (int i = 0;; i++) {
        char *message = NULL;
        GangVerdict verdict = gang_source_may_stop(source, near_end, &message);

        free(message); /* the next iteration fails with it */
        gang_switchover.waits = near_end && verdict == GANG_VERDICT_WAIT;
        if (verdict == GANG_VERDICT_GO) {
            return true;
        }
        if (!gang_switchover.waits || i == GANG_READY_MS ||
            !migration_is_running()) {
            gang_switchover.idle += gang_switchover.waits;
            return false;
        }
        g_usleep(1000);
    }
}

bool migration_gang_waits(void)
{
    return gang_switchover.waits;
}

bool migration_gang_joint(void)
{
    return gang_switchover.joint;
}

uint64_t migration_gang_looks(void)
{
    uint64_t looks = stat64_get(&mig_stats.dirty_sync_count);

    return looks - MIN(looks, gang_switchover.idle);
}

/* All channels: what is blocked in one of them fails. */
static void gang_shut_channels(void)
{
    YankInstance instance = { .type = YANK_INSTANCE_TYPE_MIGRATION };
    YankInstanceList list = { .value = &instance };

    qmp_yank(&list, NULL);
}

/*
 * The migration thread may be blocked, in pre-switchover by the management
 * layer, and later by the link, then with the big lock held.  A gang that is
 * given up must not leave its VMs stopped because of that.
 */
static void *gang_watch(void *opaque)
{
    MigrationState *s = opaque;
    GangSource *source = migration_gang_source();
    bool given_up = false, shut = false;

    while (!qatomic_read(&gang_switchover.stop)) {
        MigrationStatus state = qatomic_read(&s->state);
        bool leaving = state == MIGRATION_STATUS_DEVICE;

        if (!given_up) {
            char *message = NULL;
            GangVerdict verdict =
                leaving ? gang_source_may_leave(source, false, &message)
                        : gang_source_must_stop(source, &message);

            if (leaving && verdict == GANG_VERDICT_GO) {
                break; /* committed */
            }
            given_up = verdict == GANG_VERDICT_ERROR;
            if (given_up) {
                gang_given_up(s, message);
            }
        }
        if (given_up && state == MIGRATION_STATUS_PRE_SWITCHOVER) {
            qemu_sem_post(&s->pause_sem);
        } else if (given_up && leaving && !shut) {
            gang_shut_channels();
            shut = true;
        }
        g_usleep(GANG_WATCH_MS * 1000);
    }
    return NULL;
}

void migration_gang_stopped(MigrationState *s)
{
    if (!migration_gang_source()) {
        return;
    }
    gang_source_stopped(migration_gang_source());
    trace_migration_gang_stopped(gang_switchover.all_or_nothing);
    if (gang_switchover.all_or_nothing) {
        gang_switchover.watching = true;
        qemu_thread_create(&gang_switchover.watcher, "mig/gang/watch",
                           gang_watch, s, QEMU_THREAD_JOINABLE);
    }
}

bool migration_gang_may_continue(MigrationState *s)
{
    char *message = NULL;

    if (!migration_gang_source() ||
        gang_source_must_stop(migration_gang_source(), &message) !=
        GANG_VERDICT_ERROR) {
        return true;
    }
    gang_given_up(s, message);
    return false;
}

/*
 * Called with the big lock held; gives it up meanwhile, so that the monitor
 * answers, and a cancellation comes through.  The VM is stopped, and cannot be
 * started by a command in this state.
 */
int migration_gang_commit(QEMUFile *f)
{
    MigrationState *s = migrate_get_current();
    GangSource *source = migration_gang_source();
    GangVerdict verdict;
    char *message = NULL;

    if (!source || !gang_switchover.all_or_nothing) {
        return 0;
    }
    /* What comes before it has been loaded when the answer comes. */
    qemu_savevm_send_ping(f, GANG_PING_LOADED);
    qemu_fflush(f);

    bql_unlock();
    while (true) {
        bool failed = qemu_file_get_error(f) || migrate_has_error(s) ||
                      qatomic_read(&s->state) != MIGRATION_STATUS_DEVICE;
        bool loaded = qatomic_read(&gang_switchover.loaded);

        if (failed) {
            /* In vain when all are committed: then it fails by itself. */
            gang_source_give_up(source,
                                s->state == MIGRATION_STATUS_CANCELLING
                                ? GANG_CANCELLED : GANG_FAILED);
        }
        verdict = gang_source_may_leave(source, loaded && !failed, &message);
        if (verdict != GANG_VERDICT_WAIT) {
            break;
        }
        g_usleep(GANG_COMMIT_US);
    }
    bql_lock();

    trace_migration_gang_commit(verdict == GANG_VERDICT_GO);
    if (verdict == GANG_VERDICT_GO) {
        return 0;
    }
    gang_given_up(s, message);
    return -ECANCELED;
}

void migration_gang_loaded(void)
{
    qatomic_set(&gang_switchover.loaded, true);
}

bool migration_gang_cancel(void)
{
    GangSource *source = migration_gang_source();

    if (!source || !gang_switchover.all_or_nothing ||
        gang_source_give_up(source, GANG_CANCELLED)) {
        return true;
    }
    warn_report("gang: too late to cancel, all its members leave");
    return false;
}

void migration_gang_switchover_cleanup(void)
{
    if (gang_switchover.watching) {
        qatomic_set(&gang_switchover.stop, true);
        qemu_thread_join(&gang_switchover.watcher);
    }
    memset(&gang_switchover, 0, sizeof(gang_switchover));
}
