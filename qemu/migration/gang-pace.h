/*
 * Live gang migration: when a member sends
 *
 * Copyright the gang migration authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Between gang.c and gang-pace.c only.
 */

#ifndef QEMU_MIGRATION_GANG_PACE_H
#define QEMU_MIGRATION_GANG_PACE_H

#include "qapi/error.h"

struct GangSource;
struct MigrationState;

typedef enum {
    MIG_GANG_PACE_SEND,
    MIG_GANG_PACE_WAIT,   /* this iteration sends nothing */
    MIG_GANG_PACE_STUCK,  /* the migration is to fail; the error is set */
} MigGangPace;

/*
 * Asks the gang, and waits some ms at most.  @near_end: what is left may be
 * sent with the VM stopped, and nothing is under way.  @bytes_per_ms is what
 * the link has carried of late.
 */
MigGangPace migration_gang_pace(struct MigrationState *s,
                                struct GangSource *source, uint64_t remaining,
                                bool near_end, double bytes_per_ms,
                                Error **errp);
/* Whether others have kept this VM waiting since the last call. */
bool migration_gang_pace_waited(void);
/* For the next migration. */
void migration_gang_pace_reset(void);

#endif
