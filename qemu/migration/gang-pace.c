/*
 * Live gang migration: when a member sends
 *
 * Copyright the gang migration authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The gang's bandwidth, its turns and its order are decided by all members on
 * the board that they share (libgang).  Here is what QEMU adds: what this VM
 * asks for, QEMU's rate limit, and what becomes of a VM that does not
 * converge.  Everything is the migration thread's, but for the throttle.
 */

#include "qemu/osdep.h"
#include <gang/gang.h>
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "system/cpu-throttle.h"
#include "migration.h"
#include "migration-stats.h"
#include "options.h"
#include "gang.h"
#include "gang-pace.h"
#include "trace.h"

/* A VM that is to wait looks again after this time. */
#define GANG_PACE_MS 5

/* Looks at the dirty log before a VM asks for the link */
#define GANG_LOOKS_ALONE 3

static struct {
    bool waited;        /* since the last estimate of the bandwidth */
    bool limited;       /* QEMU's rate limit is the gang's */
    bool our_turn;
    bool last;          /* lets the others go first */
    bool throttles;     /* atomic: others ask too */
} pace;

bool migration_gang_throttles(void)
{
    return qatomic_read(&pace.throttles);
}

bool migration_gang_pace_waited(void)
{
    bool waited = pace.waited;

    pace.waited = false;
    return waited;
}

void migration_gang_pace_reset(void)
{
    memset(&pace, 0, sizeof(pace));
}

static void pace_throttle(bool on)
{
    if (on == pace.throttles) {
        return;
    }
    qatomic_set(&pace.throttles, on);
    if (!on) {
        /* As migration_iteration_finish() says */
        bql_lock();
        cpu_throttle_stop();
        bql_unlock();
    }
}

/*
 * @looks: at the dirty log, that of the setup too.  A VM that waits for the
 * others takes none, and is not throttled meanwhile.
 */
static bool pace_patience(MigrationState *s, uint64_t looks, bool waits,
                          Error **errp)
{
    uint64_t patience = s->parameters.gang_patience;
    uint64_t rounds = looks ? looks - 1 : 0;
    GangStuck stuck = s->parameters.gang_stuck;
    bool throttle = patience && rounds > patience && !waits;
    bool out = patience && rounds > 2 * patience;

    if (throttle != pace.throttles) {
        trace_migration_gang_throttle(throttle, rounds);
    }
    if (out && stuck == GANG_STUCK_FAIL) {
        error_setg(errp, "gang: the VM writes too much to converge: given up "
                   "after %" PRIu64 " rounds, the last %" PRIu64 " of them "
                   "with throttled CPUs (gang-patience %" PRIu64 ", gang-stuck "
                   "'fail'); it runs on here", rounds, rounds - patience,
                   patience);
        return false;
    }
    /* The others would wait for it, too, where they stop together */
    pace.last = out && stuck == GANG_STUCK_LAST && !migration_gang_joint();
    pace_throttle(throttle);
    return true;
}

/* QEMU's own max-bandwidth stays what one VM may send at most. */
static void pace_limit(uint64_t bytes)
{
    uint64_t own = migrate_max_bandwidth();

    if (bytes == UINT64_MAX) {
        if (pace.limited) {
            pace.limited = false;
            migration_rate_set(own);
        }
        return;
    }
    pace.limited = true;
    migration_rate_set(own);
    bytes += migration_transferred_bytes() -
             stat64_get(&mig_stats.rate_limit_start);
    own = stat64_get(&mig_stats.rate_limit_max);
    stat64_set(&mig_stats.rate_limit_max,
               MAX(own ? MIN(own, bytes) : bytes, 1));
}

MigGangPace migration_gang_pace(MigrationState *s, GangSource *source,
                                uint64_t remaining, bool near_end,
                                double bytes_per_ms, Error **errp)
{
    uint64_t looks = migration_gang_looks();
    /* VMs that stop together do not take turns: who is ready sends little. */
    bool turns = !migration_gang_joint();
    bool far = looks >= GANG_LOOKS_ALONE &&
               remaining > bytes_per_ms * migrate_downtime_limit();
    GangPaceState state = {
        .remaining_bytes = remaining,
        .wire_bytes = migration_transferred_bytes(),
        .first_round = looks <= 1,
        /* What is near the end of the first round only takes a look */
        .stops_next = turns && near_end && looks > 1,
        /* Who has the turn keeps it until it is over */
        .wants_turn = turns && looks > 1 && (far || pace.our_turn),
        .last = pace.last,
    };
    GangPace next;

    gang_source_pace(source, &state, &next);
    if (next.our_turn != pace.our_turn) {
        pace.our_turn = next.our_turn;
        trace_migration_gang_turn(next.our_turn, remaining, looks);
    }
    if (!pace_patience(s, looks, pace.last && !next.send, errp)) {
        return MIG_GANG_PACE_STUCK;
    }
    if (!next.send || (state.stops_next && !next.may_stop)) {
        pace.waited = true;
        g_usleep(GANG_PACE_MS * 1000);
        return MIG_GANG_PACE_WAIT;
    }
    pace_limit(next.bytes);
    return MIG_GANG_PACE_SEND;
}
