/*
 * Live gang migration
 *
 * Copyright the gang migration authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The hooks that the rest of the migration code calls.  VMs that move
 * together share one directory of page contents at the source and one store
 * of pages at the destination, so that equal content crosses the wire once.
 * See docs/devel/migration/gang.rst.
 */

#ifndef QEMU_MIGRATION_GANG_H
#define QEMU_MIGRATION_GANG_H

#include "qapi/qapi-types-migration.h"
#include "qapi/error.h"
#include "exec/cpu-common.h"

typedef enum {
    MIG_GANG_READY,   /* pages may be sent */
    MIG_GANG_WAIT,    /* this iteration sends nothing */
    MIG_GANG_FAILED,  /* the state is FAILED and the error is set */
    MIG_GANG_SWITCHOVER, /* the VM is to be stopped now */
} MigGangStep;

typedef void MigGangRedirty(void *opaque, void *block, uint64_t offset);

#ifdef CONFIG_GANG

struct GangSource;
struct GangDestination;
struct GangStats;
struct GangRates;

/* Is multifd set up to use the gang method? */
bool migrate_gang(void);

/*
 * Refuse what cannot work with multifd-compression=gang: called with the
 * capabilities and the compression as they are about to be.
 */
bool migration_gang_check(const bool *caps, MultiFDCompression compression,
                          Error **errp);
bool migration_gang_params_check(const MigrationParameters *params,
                                 Error **errp);
void migration_gang_params_query(MigrationParameters *params);
void migration_gang_params_test_apply(const MigrateSetParameters *params,
                                      MigrationParameters *dest);
void migration_gang_params_apply(const MigrateSetParameters *params);
/* For "info migrate_parameters" */
void migration_gang_params_print(Monitor *mon,
                                 const MigrationParameters *params);

/* A GangHashKind: what the last gang-migrate(-incoming) asked for. */
int migration_gang_take_hash(void);

/* Source, main thread: join the coordinator before a migration starts. */
bool migration_gang_source_prepare(Error **errp);
void migration_gang_source_cleanup(void);
/* Source, migration thread: greeting, scan, barrier, deferred pages. */
MigGangStep migration_gang_iterate(MigrationState *s);
/* Source, return-path thread. */
bool migration_gang_rp_message(MigrationState *s, const uint8_t *buf,
                               size_t len, Error **errp);
bool migration_gang_rp_pong(MigrationState *s, uint32_t value, Error **errp);

/* gang-switchover.c: the gang-policy.  A GangPolicyKind. */
int migration_gang_switchover_prepare(void);
void migration_gang_switchover_cleanup(void);
/* Source, migration thread: may the VM be stopped? */
MigGangStep migration_gang_switchover_step(MigrationState *s);
bool migration_gang_switchover(bool near_end);
/* It could be stopped, and waits for other VMs. */
bool migration_gang_waits(void);
/* VMs of this gang are to be stopped together. */
bool migration_gang_joint(void);
/* At the dirty log so far, but for those while it has waited. */
uint64_t migration_gang_looks(void);
/* It has been. */
void migration_gang_stopped(MigrationState *s);
/* After pre-switchover; false: the error is set. */
bool migration_gang_may_continue(MigrationState *s);
/* All is written but the end: 0, or the destination must not start. */
int migration_gang_commit(QEMUFile *f);
/* Source, return-path thread: the destination has loaded what was written. */
#define GANG_PING_LOADED 0x6c6f6164
void migration_gang_loaded(void);
/* Source, main thread: false, if it is too late. */
bool migration_gang_cancel(void);

/* Source, migration thread, called with the bitmap lock held. */
void migration_gang_take_deferred(bool all, MigGangRedirty *redirty,
                                  void *opaque);
/* Pages taken off the dirty bitmap, but not sent. */
uint64_t migration_gang_deferred_pages(void);
/* From now on every page is sent. */
void migration_gang_last_round(void);
/* Where in the first block the first round begins. */
unsigned long migration_gang_first_page(RAMBlock *first);

/*
 * @bytes_per_ms is what crosses the wire.  What counts for the switchover is
 * how fast dirty memory gets there.
 */
double migration_gang_bandwidth(double bytes_per_ms, uint64_t pages,
                                uint64_t ms);

/* As auto-converge does: any thread. */
bool migration_gang_throttles(void);

/* Destination, main thread. */
bool migration_gang_incoming_prepare(Error **errp);
int migration_gang_incoming_greet(MigrationIncomingState *mis);
/*
 * Before multifd's channels are waited for: of a migration that failed, nobody
 * acknowledges to a source that takes no acknowledgements.
 */
void migration_gang_incoming_stop(MigrationIncomingState *mis);
/* Before the source is told that all is done; then, when it has been. */
void migration_gang_incoming_leave(bool completed);
void migration_gang_incoming_cleanup(void);

/* gang-keep.c: destination, main thread */
/* The source asks what the store holds: says so from a thread of its own. */
int migration_gang_incoming_tell(MigrationIncomingState *mis);
void migration_gang_incoming_tell_end(bool completed);
/* Puts what has arrived into the store, for another attempt. */
void migration_gang_incoming_save(void);

/* The tmpfs or memfd file that is mapped shared as @block, or -1. */
int migration_gang_file(RAMBlock *block);
/* The same, if its pages are better written than touched. */
int migration_gang_file_to_write(RAMBlock *block);
/*
 * Whether a page is zero, without touching it if it is in the hole that the
 * same thread's last migration_gang_find_hole() has found from @offset to at
 * most @end.
 */
void migration_gang_find_hole(RAMBlock *block, uint64_t offset, uint64_t end);
bool migration_gang_is_zero(const void *page, size_t size);

/* For the multifd method; NULL when there is no gang migration. */
struct GangSource *migration_gang_source(void);
struct GangDestination *migration_gang_destination(void);

/* How the outgoing migration gets on.  Any thread. */
void migration_gang_rates(struct GangRates *rates);
void migration_gang_rates_reset(void);

/* Keeps the figures of a migration that ended, for query-gang. */
void migration_gang_remember(const struct GangStats *stats, int result);

#else

static inline bool migrate_gang(void)
{
    return false;
}

static inline bool migration_gang_check(const bool *caps,
                                        MultiFDCompression compression,
                                        Error **errp)
{
    return true;
}

static inline bool
migration_gang_params_check(const MigrationParameters *params, Error **errp)
{
    return true;
}

static inline void migration_gang_params_query(MigrationParameters *params)
{
}

static inline void
migration_gang_params_test_apply(const MigrateSetParameters *params,
                                 MigrationParameters *dest)
{
}

static inline void
migration_gang_params_apply(const MigrateSetParameters *params)
{
}

static inline void
migration_gang_params_print(Monitor *mon, const MigrationParameters *params)
{
}

static inline bool migration_gang_source_prepare(Error **errp)
{
    return true;
}

static inline void migration_gang_source_cleanup(void)
{
}

static inline MigGangStep migration_gang_iterate(MigrationState *s)
{
    return MIG_GANG_READY;
}

static inline bool migration_gang_rp_message(MigrationState *s,
                                             const uint8_t *buf, size_t len,
                                             Error **errp)
{
    error_setg(errp, "This QEMU was built without gang migration");
    return false;
}

static inline bool migration_gang_rp_pong(MigrationState *s, uint32_t value,
                                          Error **errp)
{
    return true;
}

static inline bool migration_gang_switchover(bool near_end)
{
    return near_end;
}

static inline bool migration_gang_waits(void)
{
    return false;
}

static inline void migration_gang_stopped(MigrationState *s)
{
}

static inline bool migration_gang_may_continue(MigrationState *s)
{
    return true;
}

static inline int migration_gang_commit(QEMUFile *f)
{
    return 0;
}

static inline bool migration_gang_cancel(void)
{
    return true;
}

static inline void migration_gang_take_deferred(bool all,
                                                MigGangRedirty *redirty,
                                                void *opaque)
{
}

static inline uint64_t migration_gang_deferred_pages(void)
{
    return 0;
}

static inline void migration_gang_last_round(void)
{
}

static inline unsigned long migration_gang_first_page(RAMBlock *first)
{
    return 0;
}

static inline bool migration_gang_throttles(void)
{
    return false;
}

static inline bool migration_gang_incoming_prepare(Error **errp)
{
    return true;
}

static inline int migration_gang_incoming_greet(MigrationIncomingState *mis)
{
    return 0;
}

static inline double migration_gang_bandwidth(double bytes_per_ms,
                                              uint64_t pages, uint64_t ms)
{
    return bytes_per_ms;
}

static inline void migration_gang_incoming_stop(MigrationIncomingState *mis)
{
}

static inline void migration_gang_incoming_leave(bool completed)
{
}

static inline void migration_gang_incoming_cleanup(void)
{
}

static inline int migration_gang_incoming_tell(MigrationIncomingState *mis)
{
    return -1;
}

static inline void migration_gang_incoming_save(void)
{
}

#endif

#endif
