/*
 * Multifd gang method: pages to packets and back
 *
 * Copyright the gang migration authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A gang packet has a header and page descriptions of its own instead of
 * MultiFDPacket_t's array of offsets; libgang writes and reads them.  SYNC
 * packets are multifd's.
 */

#include "qemu/osdep.h"
#include <gang/gang.h>
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "exec/ramblock.h"
#include "io/channel-socket.h"
#include "io/channel-tls.h"
#include "qapi/error.h"
#include "migration.h"
#include "migration-stats.h"
#include "multifd.h"
#include "options.h"
#include "ram.h"
#include "gang.h"
#include "trace.h"

QEMU_BUILD_BUG_ON(sizeof(ram_addr_t) != sizeof(uint64_t));
QEMU_BUILD_BUG_ON(MULTIFD_PACKET_SIZE / GANG_PAGE_SIZE >
                  GANG_MAX_PACKET_PAGES);

#define GANG_SMALL_BLOCK (32 * MiB)

/* What the packet at hand on a receiving channel consists of. */
typedef struct {
    size_t metadata_size;
    size_t payload_size;
    bool raw;
    uint8_t *buf;       /* metadata, then a compressed payload */
    size_t buf_size;
} MultiFDGangRecv;

static void gang_error(Error **errp, uint8_t id, char *message)
{
    error_setg(errp, "multifd %u: %s", id, message ? message : "gang error");
    free(message);
}

/* The socket below a channel, to ask what the link does; -1 for none. */
static int multifd_gang_socket(QIOChannel *ioc)
{
    QIOChannelTLS *tls = (QIOChannelTLS *)
        object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_TLS);

    if (tls) {
        ioc = tls->master;
    }
    if (object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_SOCKET)) {
        return QIO_CHANNEL_SOCKET(ioc)->fd;
    }
    return -1;
}

static int multifd_gang_send_setup(MultiFDSendParams *p, Error **errp)
{
    /* Two extra: header with page descriptions, and the delta. */
    p->iov = g_new0(struct iovec, multifd_ram_page_count() + 2);
    gang_source_set_socket(migration_gang_source(), p->id,
                           multifd_gang_socket(p->c));
    return 0;
}

static void multifd_gang_send_cleanup(MultiFDSendParams *p, Error **errp)
{
    g_clear_pointer(&p->iov, g_free);
}

static int multifd_gang_send_prepare(MultiFDSendParams *p, Error **errp)
{
    MultiFDPages_t *pages = &p->data->u.ram;
    bool detect = migrate_zero_page_detection() == ZERO_PAGE_DETECTION_MULTIFD;
    char *message = NULL;
    GangPacket packet;

    migration_gang_find_hole(pages->block, pages->offset[0],
                             pages->offset[pages->num - 1] + GANG_PAGE_SIZE);
    if (!gang_source_encode(migration_gang_source(), p->id,
                            pages->block->idstr, pages->block,
                            pages->block->host,
                            (const uint64_t *)pages->offset, pages->num,
                            detect ? migration_gang_is_zero : NULL, &packet, &message)) {
        gang_error(errp, p->id, message);
        return -1;
    }
    stat64_add(&mig_stats.normal_pages, packet.sent_pages);
    stat64_add(&mig_stats.zero_pages, packet.zero_pages);
    trace_multifd_gang_send(p->id, pages->num, packet.zero_pages,
                            packet.deferred_pages, packet.header_size,
                            packet.payload_size);

    p->flags |= MULTIFD_FLAG_GANG;
    p->next_packet_size = packet.payload_size;
    if (!packet.header) {
        return 0;
    }
    p->packets_sent++;
    p->iov[p->iovs_num].iov_base = (void *)packet.header;
    p->iov[p->iovs_num].iov_len = packet.header_size;
    p->iovs_num++;
    for (size_t i = 0; i < packet.payload_count; i++) {
        p->iov[p->iovs_num++] = packet.payload[i];
    }
    return 0;
}

static int multifd_gang_recv_setup(MultiFDRecvParams *p, Error **errp)
{
    if (!migration_gang_destination()) {
        error_setg(errp, "multifd-compression=gang without a gang store");
        return -1;
    }
    p->compress_data = g_new0(MultiFDGangRecv, 1);
    return 0;
}

static void multifd_gang_recv_cleanup(MultiFDRecvParams *p)
{
    MultiFDGangRecv *r = p->compress_data;

    if (r) {
        g_free(r->buf);
        g_clear_pointer(&p->compress_data, g_free);
    }
}

size_t multifd_gang_packet_len(void)
{
    return GANG_PACKET_HEADER_SIZE;
}

int multifd_gang_unfill_packet(MultiFDRecvParams *p, Error **errp)
{
    GangDestination *destination = migration_gang_destination();
    MultiFDGangRecv *r = p->compress_data;
    char *message = NULL;
    size_t pages;

    if (!destination || !migrate_gang()) {
        error_setg(errp, "multifd %u: gang packet, but no gang migration is "
                   "set up here: use gang-migrate-incoming", p->id);
        return -1;
    }
    if (!gang_destination_header(destination, p->id, (uint8_t *)p->packet,
                                 &r->metadata_size, &r->payload_size, &pages,
                                 &r->raw, &message)) {
        gang_error(errp, p->id, message);
        return -1;
    }
    p->next_packet_size = r->metadata_size + r->payload_size;
    p->normal_num = pages;
    p->zero_num = 0;
    return 0;
}

/* Where the RAMBlock of the packet's pages lies, checked. */
static RAMBlock *multifd_gang_block(MultiFDRecvParams *p, const char *id,
                                    Error **errp)
{
    RAMBlock *block = qemu_ram_block_by_name(id);
    char *message = NULL;

    if (!block || migrate_ram_is_ignored(block)) {
        error_setg(errp, "multifd %u: RAM block %s %s", p->id, id,
                   block ? "should not be migrated" : "is unknown");
        return NULL;
    }
    if (!gang_destination_bind(migration_gang_destination(), p->id,
                               block->host, block->used_length,
                               migration_gang_file_to_write(block),
                               block->fd_offset,
                               &message)) {
        gang_error(errp, p->id, message);
        return NULL;
    }
    return block;
}

static int multifd_gang_read_payload(MultiFDRecvParams *p, Error **errp)
{
    GangDestination *destination = migration_gang_destination();
    MultiFDGangRecv *r = p->compress_data;
    const struct iovec *iov;
    char *message = NULL;
    size_t n;
    int ret;

    if (!r->payload_size) {
        return 0;
    }
    if (r->raw) {
        iov = gang_destination_raw_iov(destination, p->id, &n);
        return qio_channel_readv_all(p->c, iov, n, errp);
    }
    ret = qio_channel_read_all(p->c, (char *)r->buf, r->payload_size, errp);
    if (ret == 0 && !gang_destination_inflate(destination, p->id, r->buf,
                                              &message)) {
        gang_error(errp, p->id, message);
        ret = -1;
    }
    return ret;
}

/*
 * Memory that is new is zero, as multifd_recv_zero_page_process() has it: not
 * so in small blocks, which firmware and tables of this host may be in.
 */
static void multifd_gang_zero_pages(MultiFDRecvParams *p)
{
    RAMBlock *block = p->block;

    for (size_t i = 0; i < p->normal_num; i++) {
        uint64_t offset;

        if (gang_destination_page(migration_gang_destination(), p->id, i,
                                  &offset) &&
            (ramblock_recv_bitmap_test_byte_offset(block, offset) ||
             (block->used_length <= GANG_SMALL_BLOCK &&
              !buffer_is_zero(block->host + offset, GANG_PAGE_SIZE)))) {
            memset(block->host + offset, 0, GANG_PAGE_SIZE);
        }
        ramblock_recv_bitmap_set_offset(block, offset);
    }
}

static int multifd_gang_recv(MultiFDRecvParams *p, Error **errp)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    GangDestination *destination = migration_gang_destination();
    MultiFDGangRecv *r = p->compress_data;
    uint8_t reply[GANG_MAX_RETURN_MESSAGE];
    char *message = NULL;
    const char *id;
    int len;

    if ((p->flags & MULTIFD_FLAG_COMPRESSION_MASK) != MULTIFD_FLAG_GANG) {
        error_setg(errp, "multifd %u: flags received %x flags expected %x",
                   p->id, p->flags & MULTIFD_FLAG_COMPRESSION_MASK,
                   MULTIFD_FLAG_GANG);
        return -1;
    }

    /* The header bounds both sizes; the buffer only ever grows to that. */
    if (r->buf_size < MAX(r->metadata_size, r->payload_size)) {
        r->buf_size = MAX(r->metadata_size, r->payload_size);
        g_free(r->buf);
        r->buf = g_malloc(r->buf_size);
    }
    if (qio_channel_read_all(p->c, (char *)r->buf, r->metadata_size, errp)) {
        return -1;
    }
    id = gang_destination_metadata(destination, p->id, r->buf,
                                   r->metadata_size, &message);
    if (!id) {
        gang_error(errp, p->id, message);
        return -1;
    }
    p->block = multifd_gang_block(p, id, errp);
    if (!p->block) {
        return -1;
    }

    if (multifd_gang_read_payload(p, errp)) {
        return -1;
    }

    len = gang_destination_finish(destination, p->id, reply, &message);
    trace_multifd_gang_recv(p->id, p->normal_num, r->metadata_size,
                            r->payload_size, len);
    if (len < 0) {
        gang_error(errp, p->id, message);
        return -1;
    }
    multifd_gang_zero_pages(p);
    if (migrate_send_rp_gang(mis, reply, len)) {
        error_setg(errp, "multifd %u: cannot acknowledge to the source",
                   p->id);
        return -1;
    }
    return 0;
}

static const MultiFDMethods multifd_gang_ops = {
    .send_setup = multifd_gang_send_setup,
    .send_cleanup = multifd_gang_send_cleanup,
    .send_prepare = multifd_gang_send_prepare,
    .recv_setup = multifd_gang_recv_setup,
    .recv_cleanup = multifd_gang_recv_cleanup,
    .recv = multifd_gang_recv
};

static void multifd_gang_register(void)
{
    multifd_register_ops(MULTIFD_COMPRESSION_GANG, &multifd_gang_ops);
}

migration_init(multifd_gang_register);
