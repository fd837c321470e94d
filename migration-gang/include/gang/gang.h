/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright the gang migration authors */
/*
 * libgang: the C API that QEMU's migration code uses.
 *
 * One GangSource lives as long as one outgoing migration, one GangDestination
 * as long as one incoming migration.
 *
 * Errors: functions that can fail take `char **error`; on failure they return
 * what is documented and set *error to a sentence for the administrator, which
 * the caller frees with free().  No C++ exception crosses this interface.
 *
 * Sizes are in bytes, times in milliseconds.  A page is 4096 bytes; an offset
 * is that of a page in its RAMBlock and a multiple of 4096.
 */

#ifndef GANG_GANG_H
#define GANG_GANG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GANG_API __attribute__((visibility("default")))

#define GANG_PAGE_SIZE 4096
#define GANG_PACKET_HEADER_SIZE 44
#define GANG_MAX_CHANNELS 64
#define GANG_MAX_PACKET_PAGES 1024
#define GANG_MAX_RETURN_MESSAGE 512
#define GANG_MAX_SAVE_PAGES 64

typedef struct GangSource GangSource;
typedef struct GangDestination GangDestination;

typedef enum GangResult {
    GANG_COMPLETED,
    GANG_FAILED,
    GANG_CANCELLED,
} GangResult;

/* Pages of one VM by what became of them, and where its migration stands. */
typedef struct GangStats {
    const char *phase;     /* static string: "greeting", "joining", "scanning",
                              "barrier", "migrating", "switchover", "completed",
                              "failed", "cancelled"; destination: "incoming" */
    const char *hash;      /* static string: what names a content in this gang,
                              "xxh3-128" or "sha256"; "" before the greeting */
    bool directory;        /* source: de-duplication is possible */
    uint32_t member_index;
    uint32_t joined;       /* members that came before the directory was made */
    uint32_t missing;      /* members that had not come by then */
    uint64_t scanned_pages;
    uint64_t scan_zero_pages;
    uint64_t scan_duplicate_pages;
    uint64_t zero_pages;
    uint64_t literal_pages;
    uint64_t published_pages;
    uint64_t referenced_pages;
    uint64_t deferred_pages;
    uint64_t stalled_pages;
    uint64_t store_full_pages;
    uint64_t takeovers;
    uint64_t patched_pages;    /* sent as blocks that differ from another page */
    uint64_t delta_pages;      /* sent compressed against similar pages */
    uint64_t delta_bytes;      /* of those on the wire; source only */
    uint64_t own_base_pages;   /* of both, against their own last version */
    int64_t compression_level; /* now; 0: raw */
    uint64_t mirror_bytes;     /* at the source, of pages that others are coded against */
    uint64_t payload_bytes;
    uint64_t metadata_bytes;
    uint64_t directory_bytes;
    uint64_t store_slots;
    uint64_t store_slots_used;
    bool board;            /* source: the gang's members see each other's progress */
    uint32_t board_index;
    /* Of a gang that does not move independently; source only: */
    uint32_t ready_members;   /* that are near their end, or further */
    uint32_t stopped_members; /* whose VMs have been stopped */
    uint64_t skew_ns;         /* between the first of these stops and the last */
    uint64_t stop_ns;         /* CLOCK_MONOTONIC; 0: this VM has not stopped */
    bool late;                /* the others did not wait for this VM */
    uint64_t max_bandwidth; /* source: of the whole gang, bytes/s; 0: no limit */
    uint64_t turns;        /* source: that this member has had */
    uint64_t lost_turns;   /* of those, lost before its switchover */
    const char *absent;    /* source: names of the missing, "" if not known; lives as
                              long as the GangSource */
} GangStats;

/*
 * What names a page's content inside a gang; the store at the destination has it.
 * ANY at the first destination member: what gangd is configured with.
 */
typedef enum GangHashKind {
    GANG_HASH_BY_ANY = 0,
    GANG_HASH_BY_XXH3 = 1,   /* keyed, fast: for members that trust each other */
    GANG_HASH_BY_SHA256 = 2, /* HMAC-SHA-256 */
} GangHashKind;

/* buffer_is_zero() or its like; any thread. */
typedef bool GangIsZero(const void *page, size_t size);

/* ------------------------------------------------------------------ source */

typedef enum GangCompressionKind {
    GANG_COMPRESS_AUTO, /* as the link and the CPU allow */
    GANG_COMPRESS_NONE,
    GANG_COMPRESS_ZSTD, /* at `level` */
} GangCompressionKind;

/* Each shares what the one before does, and more. */
typedef enum GangDedupKind {
    GANG_SHARE_PAGES,
    GANG_SHARE_BLOCKS, /* equal 64-byte blocks of similar pages */
    GANG_SHARE_DELTAS, /* what zstd finds in similar pages */
} GangDedupKind;

/* When the members' VMs stop, and whether they leave (docs/architecture.md). */
typedef enum GangPolicyKind {
    GANG_STOP_INDEPENDENT = 1,    /* each by itself */
    GANG_STOP_TOGETHER = 2,       /* all at about the same time */
    GANG_STOP_ALL_OR_NOTHING = 3, /* and none leaves the source until all can */
} GangPolicyKind;

typedef struct GangSourceConfig {
    const char *socket;   /* of this host's gangd */
    const char *gang;     /* id of the gang */
    const char *member;   /* name of this VM, unique in the gang */
    uint32_t members;     /* in the whole gang, at least 1 */
    uint32_t channels;    /* multifd channels, 1 to GANG_MAX_CHANNELS */
    uint64_t ram_pages;   /* of all migrated RAMBlocks */
    GangCompressionKind compression; /* of pages sent in full */
    int level;            /* of GANG_COMPRESS_ZSTD, 1 to 20 */
    GangDedupKind dedup;
    uint64_t cache_bytes; /* for last versions of pages that are sent again; 0 when
                             zero pages may travel outside of gang packets */
    GangHashKind hash;    /* another kind at the destination: no migration */
    GangPolicyKind policy; /* 0: GANG_STOP_INDEPENDENT; the same for all members */
    uint32_t priority;    /* in the bulk phase; the higher, the earlier */
    uint64_t max_bandwidth; /* of the whole gang, bytes/s; 0: as it is */
} GangSourceConfig;

/*
 * Connects to gangd and agrees on versions; waits 2 s at most.  NULL on
 * failure.  Strings are copied.
 */
GANG_API GangSource *gang_source_new(const GangSourceConfig *config, char **error);

/*
 * Ends the membership; does not block.  Only free may follow.  What this member
 * published and the destination confirmed stays of use to the others.
 */
GANG_API void gang_source_leave(GangSource *source, GangResult result);
/* Any thread.  Takes its time: gigabytes may have to be unmapped. */
GANG_API void gang_source_free(GangSource *source);

/*
 * A gang message from the return path (greeting or acknowledgement), size at
 * most GANG_MAX_RETURN_MESSAGE.  Return-path thread only.  False: the
 * migration must fail with *error.
 */
GANG_API bool gang_source_return_message(GangSource *source, const uint8_t *message, size_t size,
                                         char **error);
/* True once the greeting has come.  Any thread. */
GANG_API bool gang_source_greeted(const GangSource *source);

typedef enum GangStep {
    GANG_STEP_ERROR = -1, /* the migration must fail with *error */
    GANG_STEP_WAIT = 0,   /* nothing to do yet: call again */
    GANG_STEP_SCAN,       /* scan all pages, then gang_source_scan_done() */
    GANG_STEP_RUN,        /* pages may be sent */
} GangStep;

/*
 * Brings the membership forward: greeting, join, directory, scan, start
 * barrier.  Waits at most timeout_ms.  Migration thread only.  A coordinator
 * that goes away does not fail the migration: it goes on without
 * de-duplication, or, once the directory is there, with it.
 */
GANG_API GangStep gang_source_step(GangSource *source, int timeout_ms, char **error);

/*
 * Hashes `count` pages at host + offsets[i] into the directory.  Any number of
 * threads at once, between GANG_STEP_SCAN and gang_source_scan_done().
 */
GANG_API void gang_source_scan(GangSource *source, const uint8_t *host, const uint64_t *offsets,
                               size_t count, GangIsZero *is_zero);
GANG_API void gang_source_scan_done(GangSource *source);

/*
 * True: the caller asks the destination what its store, which was kept from an attempt
 * before, holds (gang_destination_inventory() there; the answers come to
 * gang_source_return_message()).  At each step until GANG_STEP_RUN: one member of
 * the gang asks, and if that one ends another.  Migration thread only.
 */
GANG_API bool gang_source_wants_inventory(GangSource *source);

/*
 * One encoded packet; buffers stay valid until the channel's next encode.  At most
 * one iovec a page, and one more.
 */
typedef struct GangPacket {
    const uint8_t *header; /* NULL: every page was deferred, nothing to send */
    size_t header_size;
    const struct iovec *payload;
    size_t payload_count;
    size_t payload_size;
    size_t zero_pages;
    size_t sent_pages; /* without zero pages */
    size_t deferred_pages;
} GangPacket;

/*
 * The TCP socket that `channel` sends through, for GANG_COMPRESS_AUTO; -1: none.
 * Stays the caller's, and open as long as the channel encodes.  The channel's
 * thread only.
 */
GANG_API void gang_source_set_socket(GangSource *source, uint32_t channel, int fd);

/*
 * Encodes `count` (1 to GANG_MAX_PACKET_PAGES) pages of RAMBlock `id`, whose
 * memory is at `host`, for `channel`.  The guest may write the pages meanwhile.
 * `block` is a cookie that comes back with deferred pages.  is_zero NULL: do
 * not look for zero pages.  One thread a channel.  False on failure.
 */
GANG_API bool gang_source_encode(GangSource *source, uint32_t channel, const char *id, void *block,
                                 const uint8_t *host, const uint64_t *offsets, size_t count,
                                 GangIsZero *is_zero, GangPacket *packet, char **error);

/*
 * Whether pages may be deferred; true at first.  Switched off before the last
 * round, when all channels are idle.
 */
GANG_API void gang_source_set_defer(GangSource *source, bool on);
/* Pages deferred and not taken back.  Any thread. */
GANG_API uint64_t gang_source_deferred(const GangSource *source);
/*
 * Packets that the destination has not applied yet.  References are small:
 * what fills the socket's buffer can keep the destination busy for seconds.
 * Any thread.
 */
GANG_API uint64_t gang_source_in_flight(const GangSource *source);
/* Deferred pages that can be decided now.  Migration thread only. */
GANG_API uint64_t gang_source_deferred_ready(GangSource *source);
/*
 * Hands each deferred page that can now be decided (all of them if `all`) to
 * take(opaque, block, offset), which makes it dirty again.  Migration thread
 * only.  Returns how many.
 */
GANG_API uint64_t gang_source_take_deferred(GangSource *source, bool all,
                                            void (*take)(void *opaque, void *block,
                                                         uint64_t offset),
                                            void *opaque);

/* How this member stands, and what it may do next. */
typedef struct GangPaceState {
    uint64_t remaining_bytes; /* of memory */
    uint64_t wire_bytes;      /* sent so far */
    bool first_round;
    bool wants_turn;          /* it does not converge beside the others */
    bool stops_next;          /* near enough to stop the VM */
    bool last;                /* lets all others go first */
} GangPaceState;
typedef struct GangPace {
    bool send;      /* false: nothing now; ask again soon */
    bool may_stop;  /* stop the VM, if near enough */
    bool our_turn;  /* the others wait for this member */
    uint64_t bytes; /* that may be sent now; UINT64_MAX: no limit */
} GangPace;
/*
 * What the gang's bandwidth, turns and order allow; see pacer.h.  Does not wait.
 * Migration thread only, at least ten times a second: a member that does not ask for
 * two seconds counts as stopped, unless its channels send.
 */
GANG_API void gang_source_pace(GangSource *source, const GangPaceState *state, GangPace *pace);
/* Gives the turn back.  Migration thread only. */
GANG_API void gang_source_release_turn(GangSource *source);
/*
 * Bytes a second of the whole gang, 0: no limit.  Any thread.  False: the gang is
 * not complete, and will have it when it is; or there is no coordinator.
 */
GANG_API bool gang_source_set_max_bandwidth(GangSource *source, uint64_t rate);

/* For status only. */
GANG_API void gang_source_set_progress(GangSource *source, bool switchover,
                                       uint64_t remaining_pages, uint64_t round);

/* How a migration gets on, for those who look at it from outside. */
typedef struct GangRates {
    uint64_t handled_pages;    /* zero pages too, each time one was sent */
    uint64_t wire_bytes;       /* of the whole migration */
    uint64_t bytes_per_second; /* on the wire */
    uint64_t dirty_bytes_per_second; /* that the guest writes, as last measured */
    uint64_t progress;         /* 1/1000; never goes back */
    uint64_t left_ms;          /* UINT64_MAX: cannot be told */
} GangRates;
/* For status only, a few times a second. */
GANG_API void gang_source_set_rates(GangSource *source, const GangRates *rates);
/*
 * The switchover of a gang that does not move independently.  ERROR: the gang was
 * given up, *error says why; the migration must fail and the VM go on at the
 * source.  All are short; any thread, but for what is said there.
 */
typedef enum GangVerdict {
    GANG_VERDICT_ERROR = -1,
    GANG_VERDICT_WAIT = 0,
    GANG_VERDICT_GO,
} GangVerdict;

/* Each iteration.  GO: stop the VM now, whatever is still to be sent. */
GANG_API GangVerdict gang_source_must_stop(GangSource *source, char **error);
/*
 * Each iteration that has looked at the dirty log; near_end: so little is left
 * that the VM would be stopped now.  WAIT: go on with iterations.
 */
GANG_API GangVerdict gang_source_may_stop(GangSource *source, bool near_end, char **error);
/* The VM has been stopped. */
GANG_API void gang_source_stopped(GangSource *source);
/*
 * From when the VM is stopped and nothing but the gang keeps it, until it does not
 * say WAIT.  `prepared`: the destination has loaded all and waits for the word to
 * start.  GO: it may have it, and nothing is given up any more.
 */
GANG_API GangVerdict gang_source_may_leave(GangSource *source, bool prepared, char **error);
/*
 * This member cannot or shall not leave, so nobody does.  False: too late, it is
 * decided that all leave.
 */
GANG_API bool gang_source_give_up(GangSource *source, GangResult why);

/* Any thread. */
GANG_API void gang_source_stats(const GangSource *source, GangStats *stats);

/* ------------------------------------------------------------- destination */

/*
 * Connects to gangd and maps the gang's store; waits 5 s at most.  Fails if the
 * store's hash is another than `hash`.
 */
GANG_API GangDestination *gang_destination_new(const char *socket, const char *gang,
                                               const char *member, GangHashKind hash,
                                               char **error);
/* As gang_source_leave() and gang_source_free(). */
GANG_API void gang_destination_leave(GangDestination *destination, GangResult result);
GANG_API void gang_destination_free(GangDestination *destination);

/* Writes the greeting; returns its size. */
GANG_API size_t gang_destination_greeting(const GangDestination *destination,
                                          uint8_t out[GANG_MAX_RETURN_MESSAGE]);

/*
 * Writes the next message that tells the source what the store holds; returns its
 * size, 0 when the last one has been written.  One thread; takes the time to hash
 * the pages.
 */
GANG_API size_t gang_destination_inventory(GangDestination *destination,
                                           uint8_t out[GANG_MAX_RETURN_MESSAGE]);

/*
 * After a failure: puts those of `count` (at most GANG_MAX_SAVE_PAGES) pages at
 * host + offsets[i] into the store that it does not hold yet, for another attempt.
 * False: no more can be saved, or none at all.  Main thread.
 */
GANG_API bool gang_destination_save(GangDestination *destination, const uint8_t *host,
                                    const uint64_t *offsets, size_t count, GangIsZero *is_zero);

/*
 * Taking one packet apart, in this order, one thread a channel.  Any failure
 * must fail the migration.  Guest memory is written by the last call, when all
 * has been checked; zero pages are the caller's to clear after it.
 *
 *   gang_destination_header    its bytes   -> sizes of what follows
 *   gang_destination_metadata  the metadata -> id of the RAMBlock
 *   gang_destination_bind      where that RAMBlock lies, its used length, and
 *                              the file that is mapped shared there, or -1
 *   gang_destination_raw_iov   raw: where to read the payload to; or
 *   gang_destination_inflate   zstd: the payload
 *   gang_destination_finish    -> bytes to send on the return path
 */
GANG_API bool gang_destination_header(GangDestination *destination, uint32_t channel,
                                      const uint8_t header[GANG_PACKET_HEADER_SIZE],
                                      size_t *metadata_size, size_t *payload_size, size_t *pages,
                                      bool *raw, char **error);
GANG_API const char *gang_destination_metadata(GangDestination *destination, uint32_t channel,
                                               const uint8_t *metadata, size_t size, char **error);
GANG_API bool gang_destination_bind(GangDestination *destination, uint32_t channel, uint8_t *host,
                                    uint64_t used_length, int fd, uint64_t fd_offset,
                                    char **error);
/* The page `i` of the packet.  True: it is a zero page, the caller clears it. */
GANG_API bool gang_destination_page(GangDestination *destination, uint32_t channel, size_t i,
                                    uint64_t *offset);
GANG_API const struct iovec *gang_destination_raw_iov(GangDestination *destination,
                                                      uint32_t channel, size_t *count);
GANG_API bool gang_destination_inflate(GangDestination *destination, uint32_t channel,
                                       const uint8_t *payload, char **error);
/* -1 on failure. */
GANG_API int gang_destination_finish(GangDestination *destination, uint32_t channel,
                                     uint8_t out[GANG_MAX_RETURN_MESSAGE], char **error);

GANG_API void gang_destination_stats(const GangDestination *destination, GangStats *stats);

/* ---------------------------------------------------------------- estimate */

/*
 * What a source would send, without a destination: every VM of the gang scans
 * its memory into a directory that the client made, then each does what its
 * first round would do, and forgets the packets.  One thread at a time.
 */
typedef struct GangEstimate GangEstimate;

typedef struct GangEstimateConfig {
    int directory;        /* sealed memfd; stays the caller's */
    uint32_t member;      /* number of this VM's record there */
    uint32_t channels;    /* 1 to GANG_MAX_CHANNELS */
    GangCompressionKind compression; /* GANG_COMPRESS_AUTO: as zstd at level 1 */
    int level;
    GangDedupKind dedup;
} GangEstimateConfig;

/* NULL on failure. */
GANG_API GangEstimate *gang_estimate_new(const GangEstimateConfig *config, char **error);
/* As gang_source_scan(). */
GANG_API void gang_estimate_scan(GangEstimate *estimate, const uint8_t *host,
                                 const uint64_t *offsets, size_t count, GangIsZero *is_zero);
/* As gang_source_encode(), for a channel of its choice. */
GANG_API bool gang_estimate_code(GangEstimate *estimate, const char *id, void *block,
                                 const uint8_t *host, const uint64_t *offsets, size_t count,
                                 GangIsZero *is_zero, char **error);
/* Those of the RAMBlock's pages that had to wait for other members; at the end. */
GANG_API bool gang_estimate_code_deferred(GangEstimate *estimate, const char *id, void *block,
                                          const uint8_t *host, char **error);

typedef struct GangEstimateStats {
    uint64_t scanned_pages;    /* without zero pages */
    uint64_t zero_pages;
    uint64_t distinct_pages;   /* different contents in this VM, about */
    uint64_t sent_pages;       /* coded, without zero pages */
    uint64_t referenced_pages; /* of those */
    uint64_t published_pages;
    uint64_t payload_bytes;
    uint64_t metadata_bytes;
} GangEstimateStats;
/* Any thread. */
GANG_API void gang_estimate_stats(const GangEstimate *estimate, GangEstimateStats *stats);
GANG_API void gang_estimate_free(GangEstimate *estimate);

#ifdef __cplusplus
}
#endif

#endif
