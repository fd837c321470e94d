/*
 * Live gang migration: parameters, QMP and HMP commands
 *
 * Copyright the gang migration authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <gang/gang.h>
#include "qemu/cutils.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-gang.h"
#include "qapi/qapi-commands-migration.h"
#include "qobject/qdict.h"
#include "hw/boards.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "migration.h"
#include "migration-stats.h"
#include "options.h"
#include "ram.h"
#include "gang.h"

/* How the last migration of each role ended. */
static struct {
    bool valid;
    GangRole role;
    const char *phase;
    GangStats stats;
    GangRates rates;
    uint64_t round;
} gang_last;

/* A GangHashKind: of the gang-migrate or gang-migrate-incoming under way. */
static int gang_hash_kind = GANG_HASH_BY_ANY;

/* Once: a later migrate by parameters alone asks for none. */
int migration_gang_take_hash(void)
{
    int kind = gang_hash_kind;

    gang_hash_kind = GANG_HASH_BY_ANY;
    return kind;
}

/* 1/1000 of the outgoing migration; atomic, never goes back. */
static int gang_progress;
/* By the main thread alone */
static uint64_t gang_saved;

/* ------------------------------------------------------------ parameters */

static const struct {
    MigrationCapability cap;
    const char *why;
} gang_conflicts[] = {
    { MIGRATION_CAPABILITY_POSTCOPY_RAM, "postcopy pulls pages one VM alone" },
    { MIGRATION_CAPABILITY_XBZRLE, "it does not work with multifd" },
    { MIGRATION_CAPABILITY_MAPPED_RAM, "a file has no return path" },
    { MIGRATION_CAPABILITY_X_COLO, "it migrates without end" },
    { MIGRATION_CAPABILITY_BACKGROUND_SNAPSHOT, "it does not use multifd" },
    { MIGRATION_CAPABILITY_RDMA_PIN_ALL, "RDMA does not use multifd" },
#ifdef CONFIG_LINUX
    { MIGRATION_CAPABILITY_ZERO_COPY_SEND, "gang packets are rewritten" },
#endif
};

bool migration_gang_check(const bool *caps, MultiFDCompression compression,
                          Error **errp)
{
    if (compression != MULTIFD_COMPRESSION_GANG) {
        return true;
    }
    for (size_t i = 0; i < ARRAY_SIZE(gang_conflicts); i++) {
        if (caps[gang_conflicts[i].cap]) {
            error_setg(errp, "Gang migration cannot be combined with the "
                       "capability %s (%s): switch it off, or set "
                       "multifd-compression to another method",
                       MigrationCapability_str(gang_conflicts[i].cap),
                       gang_conflicts[i].why);
            return false;
        }
    }
    if (migrate_mode() != MIG_MODE_NORMAL) {
        error_setg(errp, "Gang migration needs the migration mode 'normal'");
        return false;
    }
    /* Any kind of them: what QEMU can read is ciphertext, or not there */
    if (current_machine && current_machine->cgs) {
        error_setg(errp, "Gang migration is not for confidential guests "
                   "(this one has %s): their memory cannot be read, and not "
                   "be compared with others'",
                   object_get_typename(OBJECT(current_machine->cgs)));
        return false;
    }
    return true;
}

static bool gang_id_valid(const char *id)
{
    size_t n = strlen(id);

    return n <= 64 && strspn(id, "abcdefghijklmnopqrstuvwxyz"
                                 "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "0123456789._:-") == n;
}

bool migration_gang_params_check(const MigrationParameters *params,
                                 Error **errp)
{
    MigrationState *s = migrate_get_current();

    if (params->gang_id && !gang_id_valid(params->gang_id)) {
        error_setg(errp, "Parameter 'gang-id' expects at most 64 of the "
                   "characters A-Z a-z 0-9 . _ : -");
        return false;
    }
    if (params->gang_socket && strlen(params->gang_socket) > 107) {
        error_setg(errp, "Parameter 'gang-socket' expects a path of at most "
                   "107 bytes");
        return false;
    }
    if (params->gang_members < 1 || params->gang_members > 128) {
        error_setg(errp, "Parameter 'gang-members' expects a value between "
                   "1 and 128");
        return false;
    }
    return migration_gang_check(s->capabilities, params->multifd_compression,
                                errp);
}

void migration_gang_params_query(MigrationParameters *params)
{
    const MigrationParameters *p = &migrate_get_current()->parameters;

    params->gang_id = g_strdup(p->gang_id ? p->gang_id : "");
    params->gang_socket = g_strdup(p->gang_socket ? p->gang_socket : "");
    params->has_gang_members = true;
    params->gang_members = p->gang_members;
    params->has_gang_compression = true;
    params->gang_compression = p->gang_compression;
    params->has_gang_dedup = true;
    params->gang_dedup = p->gang_dedup;
    params->has_gang_policy = true;
    params->gang_policy = p->gang_policy;
    params->has_gang_max_bandwidth = true;
    params->gang_max_bandwidth = p->gang_max_bandwidth;
    params->has_gang_priority = true;
    params->gang_priority = p->gang_priority;
    params->has_gang_patience = true;
    params->gang_patience = p->gang_patience;
    params->has_gang_stuck = true;
    params->gang_stuck = p->gang_stuck;
}

void migration_gang_params_test_apply(const MigrateSetParameters *params,
                                      MigrationParameters *dest)
{
    if (params->gang_id) {
        dest->gang_id = params->gang_id;
    }
    if (params->gang_socket) {
        dest->gang_socket = params->gang_socket;
    }
    if (params->has_gang_members) {
        dest->gang_members = params->gang_members;
    }
    if (params->has_gang_compression) {
        dest->gang_compression = params->gang_compression;
    }
    if (params->has_gang_dedup) {
        dest->gang_dedup = params->gang_dedup;
    }
    if (params->has_gang_policy) {
        dest->gang_policy = params->gang_policy;
    }
    if (params->has_gang_max_bandwidth) {
        dest->gang_max_bandwidth = params->gang_max_bandwidth;
    }
    if (params->has_gang_priority) {
        dest->gang_priority = params->gang_priority;
    }
    if (params->has_gang_patience) {
        dest->gang_patience = params->gang_patience;
    }
    if (params->has_gang_stuck) {
        dest->gang_stuck = params->gang_stuck;
    }
}

void migration_gang_params_apply(const MigrateSetParameters *params)
{
    MigrationParameters *p = &migrate_get_current()->parameters;

    if (params->gang_id) {
        g_free(p->gang_id);
        p->gang_id = g_strdup(params->gang_id);
    }
    if (params->gang_socket) {
        g_free(p->gang_socket);
        p->gang_socket = g_strdup(params->gang_socket);
    }
    if (params->has_gang_members) {
        p->gang_members = params->gang_members;
    }
    if (params->has_gang_compression) {
        p->gang_compression = params->gang_compression;
    }
    if (params->has_gang_dedup) {
        p->gang_dedup = params->gang_dedup;
    }
    if (params->has_gang_policy) {
        p->gang_policy = params->gang_policy;
    }
    if (params->has_gang_max_bandwidth) {
        p->gang_max_bandwidth = params->gang_max_bandwidth;
        if (migration_gang_source()) {
            gang_source_set_max_bandwidth(migration_gang_source(),
                                          p->gang_max_bandwidth);
        }
    }
    if (params->has_gang_priority) {
        p->gang_priority = params->gang_priority;
    }
    if (params->has_gang_patience) {
        p->gang_patience = params->gang_patience;
    }
    if (params->has_gang_stuck) {
        p->gang_stuck = params->gang_stuck;
    }
}

/* ------------------------------------------------------------------- QMP */

static bool gang_set_caps(bool multifd, bool return_path, Error **errp)
{
    g_autoptr(MigrationCapabilityStatusList) list = NULL;
    MigrationCapabilityStatus *cap;
    ERRP_GUARD();

    cap = g_new0(MigrationCapabilityStatus, 1);
    cap->capability = MIGRATION_CAPABILITY_RETURN_PATH;
    cap->state = return_path;
    QAPI_LIST_PREPEND(list, cap);
    cap = g_new0(MigrationCapabilityStatus, 1);
    cap->capability = MIGRATION_CAPABILITY_MULTIFD;
    cap->state = multifd;
    QAPI_LIST_PREPEND(list, cap);
    qmp_migrate_set_capabilities(list, errp);
    return !*errp;
}

/* The part of the settings that gang-migrate changes, to put it back. */
typedef struct {
    bool multifd;
    bool return_path;
    MultiFDCompression compression;
    char *id;
    char *socket;
    uint16_t members;
    int hash;
} GangSettings;

static void gang_settings_save(GangSettings *old)
{
    MigrationState *s = migrate_get_current();

    old->multifd = s->capabilities[MIGRATION_CAPABILITY_MULTIFD];
    old->return_path = s->capabilities[MIGRATION_CAPABILITY_RETURN_PATH];
    old->compression = s->parameters.multifd_compression;
    old->id = g_strdup(s->parameters.gang_id);
    old->socket = g_strdup(s->parameters.gang_socket);
    old->members = s->parameters.gang_members;
    old->hash = gang_hash_kind;
}

/* Takes over the strings of @old. */
static void gang_settings_restore(GangSettings *old)
{
    MigrationState *s = migrate_get_current();

    s->capabilities[MIGRATION_CAPABILITY_MULTIFD] = old->multifd;
    s->capabilities[MIGRATION_CAPABILITY_RETURN_PATH] = old->return_path;
    s->parameters.multifd_compression = old->compression;
    g_free(s->parameters.gang_id);
    s->parameters.gang_id = g_steal_pointer(&old->id);
    g_free(s->parameters.gang_socket);
    s->parameters.gang_socket = g_steal_pointer(&old->socket);
    s->parameters.gang_members = old->members;
    gang_hash_kind = old->hash;
}

static void gang_settings_clear(GangSettings *old)
{
    g_free(old->id);
    g_free(old->socket);
}

static bool gang_settings_apply(const char *gang_id, const char *gang_socket,
                                bool has_members, uint16_t members,
                                bool has_hash, GangHash hash, Error **errp)
{
    ERRP_GUARD();
    MigrateSetParameters params = {
        .gang_id = (char *)gang_id,
        .gang_socket = (char *)gang_socket,
        .has_gang_members = has_members,
        .gang_members = members,
        .has_multifd_compression = true,
        .multifd_compression = MULTIFD_COMPRESSION_GANG,
    };

    if (!*gang_id) {
        error_setg(errp, "gang-id must not be empty: give all VMs that move "
                   "together the same id");
        return false;
    }
    gang_hash_kind = !has_hash                   ? GANG_HASH_BY_ANY
                     : hash == GANG_HASH_SHA256 ? GANG_HASH_BY_SHA256
                                                 : GANG_HASH_BY_XXH3;
    /* Before the capabilities: the messages here say more. */
    qmp_migrate_set_parameters(&params, errp);
    return !*errp && gang_set_caps(true, true, errp);
}

void qmp_gang_migrate(const char *uri, bool has_channels,
                      MigrationChannelList *channels, const char *gang_id,
                      const char *gang_socket, bool has_gang_members,
                      uint16_t gang_members, bool has_gang_hash,
                      GangHash gang_hash, Error **errp)
{
    ERRP_GUARD();
    GangSettings old = {};

    if (migration_is_running()) {
        error_setg(errp, "There's a migration process in progress");
        return;
    }
    gang_settings_save(&old);
    if (gang_settings_apply(gang_id, gang_socket, has_gang_members,
                            gang_members, has_gang_hash, gang_hash, errp)) {
        qmp_migrate(uri, has_channels, channels, false, false, false, false,
                    errp);
    }
    if (*errp) {
        gang_settings_restore(&old);
    }
    gang_settings_clear(&old);
}

void qmp_gang_migrate_incoming(const char *uri, bool has_channels,
                               MigrationChannelList *channels,
                               const char *gang_id, const char *gang_socket,
                               bool has_exit_on_error, bool exit_on_error,
                               bool has_gang_hash, GangHash gang_hash,
                               Error **errp)
{
    ERRP_GUARD();
    GangSettings old = {};

    gang_settings_save(&old);
    if (gang_settings_apply(gang_id, gang_socket, false, 0, has_gang_hash,
                            gang_hash, errp)) {
        qmp_migrate_incoming(uri, has_channels, channels, has_exit_on_error,
                             exit_on_error, errp);
    }
    if (*errp) {
        migration_gang_incoming_leave(false);
        migration_gang_incoming_cleanup();
        gang_settings_restore(&old);
    }
    gang_settings_clear(&old);
}

void migration_gang_rates_reset(void)
{
    qatomic_set(&gang_progress, 0);
    gang_saved = 0;
}

/*
 * Permille.  The first round is nine tenths of the way; the last one is how near
 * what is left is to what may be left when the guest stops: one that writes more
 * than the link carries stays where it is.
 */
static int gang_progress_now(MigrationState *s, uint64_t handled, uint64_t left)
{
    uint64_t enough = s->threshold_size / GANG_PAGE_SIZE;

    if (!handled) {
        return 0;
    }
    if (stat64_get(&mig_stats.dirty_sync_count) <= 1) {
        return handled * 900 / (handled + left);
    }
    /* Nothing is left at the end of each round: what counts is the next look */
    left = MAX(left, stat64_get(&mig_stats.dirty_bytes_last_sync) /
                     GANG_PAGE_SIZE);
    return 900 + (left <= enough ? 99 : enough * 99 / left);
}

/* Progress never goes back: where it would, it stands still. */
void migration_gang_rates(struct GangRates *rates)
{
    MigrationState *s = migrate_get_current();
    uint64_t left = ram_bytes_remaining() / GANG_PAGE_SIZE;
    uint64_t dirty = stat64_get(&mig_stats.dirty_pages_rate);
    uint64_t handled = ram_get_total_transferred_pages();
    double net = s->pages_per_second - dirty;
    int was = qatomic_read(&gang_progress);
    int now = gang_progress_now(s, handled, left);

    while (now > was) {
        int found = qatomic_cmpxchg(&gang_progress, was, now);

        was = found == was ? now : found;
    }
    rates->handled_pages = handled;
    rates->wire_bytes = migration_transferred_bytes();
    rates->bytes_per_second = s->mbps > 0 ? s->mbps * 125000 : 0;
    rates->dirty_bytes_per_second = dirty * GANG_PAGE_SIZE;
    rates->progress = was;
    rates->left_ms = handled && net >= 1 ? left * 1000 / net : UINT64_MAX;
}

void migration_gang_remember(const struct GangStats *stats, int result)
{
    static const char *const phases[] = {
        [GANG_COMPLETED] = "completed",
        [GANG_FAILED] = "failed",
        [GANG_CANCELLED] = "cancelled",
    };
    int reached = qatomic_read(&gang_progress);

    gang_last.valid = true;
    gang_last.role = migration_gang_source() ? GANG_ROLE_SOURCE
                                             : GANG_ROLE_DESTINATION;
    gang_last.phase = phases[result];
    gang_last.stats = *stats;
    migration_gang_rates(&gang_last.rates);
    /* Nothing is left of a migration that failed, either */
    gang_last.rates.progress = result == GANG_COMPLETED ? 1000 : reached;
    gang_last.rates.left_ms = result == GANG_COMPLETED ? 0 : UINT64_MAX;
    gang_last.round = stat64_get(&mig_stats.dirty_sync_count);
}

/* @handled_pages are those of the stats, zero ones too. */
static uint64_t gang_saved_bytes(const GangStats *stats, uint64_t handled)
{
    uint64_t size = (handled - MIN(stats->zero_pages, handled)) *
                    GANG_PAGE_SIZE;

    return size - MIN(size, stats->payload_bytes + stats->metadata_bytes);
}

GangInfo *qmp_query_gang(Error **errp)
{
    MigrationState *s = migrate_get_current();
    GangInfo *info = g_new0(GangInfo, 1);
    GangStats stats = {};
    GangRates rates = { .left_ms = UINT64_MAX };

    info->gang_id = g_strdup(s->parameters.gang_id ? s->parameters.gang_id
                                                   : "");
    if (migration_gang_source()) {
        info->role = GANG_ROLE_SOURCE;
        gang_source_stats(migration_gang_source(), &stats);
        migration_gang_rates(&rates);
        info->round = stat64_get(&mig_stats.dirty_sync_count);
        info->remaining_bytes = ram_bytes_remaining();
    } else if (migration_gang_destination()) {
        info->role = GANG_ROLE_DESTINATION;
        gang_destination_stats(migration_gang_destination(), &stats);
    } else if (gang_last.valid) {
        info->role = gang_last.role;
        stats = gang_last.stats;
        stats.phase = gang_last.phase;
        if (gang_last.role == GANG_ROLE_SOURCE) {
            rates = gang_last.rates;
            info->round = gang_last.round;
        }
    } else {
        info->role = GANG_ROLE_NONE;
        stats.phase = "none";
    }
    info->phase = g_strdup(stats.phase);
    info->hash = g_strdup(stats.hash ? stats.hash : "");
    info->directory = stats.directory;
    info->member_index = stats.member_index;
    info->joined = stats.joined;
    info->missing = stats.missing;
    if (migration_gang_source() && *stats.absent) {
        info->absent = g_strdup(stats.absent);
    }
    info->scanned_pages = stats.scanned_pages;
    info->scan_duplicate_pages = stats.scan_duplicate_pages;
    info->zero_pages = stats.zero_pages;
    info->literal_pages = stats.literal_pages;
    info->published_pages = stats.published_pages;
    info->referenced_pages = stats.referenced_pages;
    info->deferred_pages = stats.deferred_pages;
    info->stalled_pages = stats.stalled_pages;
    info->store_full_pages = stats.store_full_pages;
    info->takeovers = stats.takeovers;
    info->patched_pages = stats.patched_pages;
    info->delta_pages = stats.delta_pages;
    info->delta_bytes = stats.delta_bytes;
    info->own_base_pages = stats.own_base_pages;
    info->compression_level = stats.compression_level;
    info->mirror_bytes = stats.mirror_bytes;
    info->payload_bytes = stats.payload_bytes;
    info->metadata_bytes = stats.metadata_bytes;
    info->directory_bytes = stats.directory_bytes;
    info->store_slots = stats.store_slots;
    info->store_slots_used = stats.store_slots_used;
    if (info->role == GANG_ROLE_SOURCE) {
        info->has_policy = true;
        info->policy = s->parameters.gang_policy;
        info->has_late = true;
        info->late = stats.late;
        info->has_ready_members = true;
        info->ready_members = stats.ready_members;
        info->has_stopped_members = true;
        info->stopped_members = stats.stopped_members;
        info->has_skew = stats.stopped_members > 0;
        info->skew = stats.skew_ns / 1000;
        info->has_stopped_at = stats.stop_ns != 0;
        info->stopped_at = stats.stop_ns / 1000;
    }
    info->max_bandwidth = stats.max_bandwidth;
    info->turns = stats.turns;
    info->lost_turns = stats.lost_turns;
    info->percent = rates.progress / 10.0;
    info->sent_bytes = rates.wire_bytes;
    gang_saved = MAX(gang_saved,
                     gang_saved_bytes(&stats, rates.handled_pages));
    info->saved_bytes = gang_saved;
    info->rate = rates.bytes_per_second;
    info->dirty_rate = rates.dirty_bytes_per_second;
    info->has_estimated_ms = rates.left_ms != UINT64_MAX;
    info->estimated_ms = info->has_estimated_ms ? rates.left_ms : 0;
    return info;
}

/* ------------------------------------------------------------------- HMP */

void migration_gang_params_print(Monitor *mon,
                                 const MigrationParameters *params)
{
    monitor_printf(mon, "%s: '%s'\n",
                   MigrationParameter_str(MIGRATION_PARAMETER_GANG_ID),
                   params->gang_id);
    monitor_printf(mon, "%s: '%s'\n",
                   MigrationParameter_str(MIGRATION_PARAMETER_GANG_SOCKET),
                   params->gang_socket);
    monitor_printf(mon, "%s: %u\n",
                   MigrationParameter_str(MIGRATION_PARAMETER_GANG_MEMBERS),
                   params->gang_members);
    monitor_printf(mon, "%s: %s\n",
                   MigrationParameter_str(MIGRATION_PARAMETER_GANG_COMPRESSION),
                   GangCompression_str(params->gang_compression));
    monitor_printf(mon, "%s: %s\n",
                   MigrationParameter_str(MIGRATION_PARAMETER_GANG_DEDUP),
                   GangDedup_str(params->gang_dedup));
    monitor_printf(mon, "%s: %s\n",
                   MigrationParameter_str(MIGRATION_PARAMETER_GANG_POLICY),
                   GangPolicy_str(params->gang_policy));
    monitor_printf(mon, "%s: %" PRIu64 " bytes/second\n",
                   MigrationParameter_str(
                       MIGRATION_PARAMETER_GANG_MAX_BANDWIDTH),
                   params->gang_max_bandwidth);
    monitor_printf(mon, "%s: %u\n",
                   MigrationParameter_str(MIGRATION_PARAMETER_GANG_PRIORITY),
                   params->gang_priority);
    monitor_printf(mon, "%s: %u\n",
                   MigrationParameter_str(MIGRATION_PARAMETER_GANG_PATIENCE),
                   params->gang_patience);
    monitor_printf(mon, "%s: %s\n",
                   MigrationParameter_str(MIGRATION_PARAMETER_GANG_STUCK),
                   GangStuck_str(params->gang_stuck));
}

void hmp_gang_migrate(Monitor *mon, const QDict *qdict)
{
    Error *err = NULL;

    qmp_gang_migrate(qdict_get_str(qdict, "uri"), false, NULL,
                     qdict_get_str(qdict, "gang-id"),
                     qdict_get_try_str(qdict, "gang-socket"),
                     qdict_haskey(qdict, "gang-members"),
                     qdict_get_try_int(qdict, "gang-members", 1), false, 0,
                     &err);
    hmp_handle_error(mon, err);
}

void hmp_gang_migrate_incoming(Monitor *mon, const QDict *qdict)
{
    Error *err = NULL;

    qmp_gang_migrate_incoming(qdict_get_str(qdict, "uri"), false, NULL,
                              qdict_get_str(qdict, "gang-id"),
                              qdict_get_try_str(qdict, "gang-socket"),
                              true, false, false, 0, &err);
    hmp_handle_error(mon, err);
}

void hmp_info_gang(Monitor *mon, const QDict *qdict)
{
    g_autoptr(GangInfo) info = qmp_query_gang(NULL);

    monitor_printf(mon, "role: %s\n", GangRole_str(info->role));
    if (info->role == GANG_ROLE_NONE) {
        return;
    }
    monitor_printf(mon, "gang-id: '%s'\n", info->gang_id);
    monitor_printf(mon, "phase: %s\n", info->phase);
    monitor_printf(mon, "hash: %s\n", info->hash);
    if (info->role == GANG_ROLE_SOURCE) {
        monitor_printf(mon, "de-duplication: %s\n",
                       info->directory ? "on" : "off (no directory)");
        monitor_printf(mon, "members: %u joined, %u missing\n", info->joined,
                       info->missing);
        monitor_printf(mon, "deferred: %" PRIu64 " pages\n",
                       info->deferred_pages);
        monitor_printf(mon, "progress: %.1f %%, round %" PRIu64 "\n",
                       info->percent, info->round);
        monitor_printf(mon, "policy: %s\n", GangPolicy_str(info->policy));
        if (info->has_skew) {
            monitor_printf(mon, "stopped: %u VMs within %" PRIu64 " us\n",
                           info->stopped_members, info->skew);
        }
    }
    monitor_printf(mon, "zero: %" PRIu64 " pages\n", info->zero_pages);
    monitor_printf(mon, "literal: %" PRIu64 " pages\n", info->literal_pages);
    monitor_printf(mon, "published: %" PRIu64 " pages\n",
                   info->published_pages);
    monitor_printf(mon, "referenced: %" PRIu64 " pages\n",
                   info->referenced_pages);
    monitor_printf(mon, "patched: %" PRIu64 " pages\n", info->patched_pages);
    monitor_printf(mon, "delta: %" PRIu64 " pages\n", info->delta_pages);
    monitor_printf(mon, "payload: %" PRIu64 " bytes\n", info->payload_bytes);
    monitor_printf(mon, "metadata: %" PRIu64 " bytes\n",
                   info->metadata_bytes);
    monitor_printf(mon, "store: %" PRIu64 " of %" PRIu64 " slots\n",
                   info->store_slots_used, info->store_slots);
}
