/*
 * Migrates domains as a gang, with nothing but libvirt's public API.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 * Copyright the gang migration authors
 *
 *     gang-migrate [-c URI] [-s] GANG DESTINATION-URI DOMAIN...
 *
 * One thread a domain, each with a connection of its own to both hosts: the
 * calls wait for each other inside QEMU, and a daemon serves only so many
 * calls of one connection at a time.  An event loop keeps the connections
 * alive, so that a host that is lost is noticed.  -s leaves the domains paused at
 * the destination.  Exits with 0 if all arrived, else says which did not.
 *
 * Build: gcc gang-migrate.c $(pkg-config --cflags --libs libvirt) -pthread
 */

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    pthread_t thread;
    const char *name;
    const char *source;      /* URI, NULL for libvirt's default */
    const char *destination; /* URI */
    const char *gang;
    int members;
    unsigned int flags;
    char error[512];         /* empty: it arrived */
} Member;

/* A host that has not answered for 30 s is lost. */
enum { KEEPALIVE_INTERVAL_S = 5, KEEPALIVE_COUNT = 6, WAKE_MS = 200 };

static atomic_bool over;

/* So that the loop sees that all is over. */
static void wake(int timer, void *opaque)
{
    (void)timer;
    (void)opaque;
}

static void *run_events(void *opaque)
{
    (void)opaque;
    while (!over && virEventRunDefaultImpl() == 0)
        ;
    return NULL;
}

static virConnectPtr connect_to(const char *uri)
{
    virConnectPtr connection = virConnectOpen(uri);

    /* Not all drivers have it: some run within this process. */
    if (connection)
        (void)virConnectSetKeepAlive(connection, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT);
    return connection;
}

/* Errors are per thread in libvirt. */
static void remember_error(Member *member)
{
    snprintf(member->error, sizeof(member->error), "%s", virGetLastErrorMessage());
}

static void *migrate(void *opaque)
{
    Member *member = opaque;
    virConnectPtr source = NULL, destination = NULL;
    virDomainPtr domain = NULL, arrived = NULL;
    virTypedParameterPtr params = NULL;
    int nparams = 0, maxparams = 0;

    if (!(source = connect_to(member->source)) ||
        !(destination = connect_to(member->destination)) ||
        !(domain = virDomainLookupByName(source, member->name)) ||
        virTypedParamsAddString(&params, &nparams, &maxparams,
                                VIR_MIGRATE_PARAM_GANG, member->gang) < 0 ||
        virTypedParamsAddInt(&params, &nparams, &maxparams,
                             VIR_MIGRATE_PARAM_GANG_MEMBERS, member->members) < 0 ||
        !(arrived = virDomainMigrate3(domain, destination, params, nparams,
                                      member->flags))) {
        remember_error(member);
    }

    virTypedParamsFree(params, nparams);
    if (arrived)
        virDomainFree(arrived);
    if (domain)
        virDomainFree(domain);
    if (destination)
        virConnectClose(destination);
    if (source)
        virConnectClose(source);
    return NULL;
}

/* Without this libvirt prints each error to stderr. */
static void be_quiet(void *opaque, virErrorPtr error)
{
    (void)opaque;
    (void)error;
}

int main(int argc, char **argv)
{
    unsigned int flags = VIR_MIGRATE_LIVE | VIR_MIGRATE_PARALLEL;
    const char *source = NULL;
    int option, members, failed = 0;
    pthread_t events;
    Member *gang;

    while ((option = getopt(argc, argv, "c:s")) != -1) {
        if (option == 'c')
            source = optarg;
        else if (option == 's')
            flags |= VIR_MIGRATE_PAUSED;
        else
            return 2;
    }
    members = argc - optind - 2;
    if (members < 1) {
        fprintf(stderr, "usage: %s [-c URI] [-s] GANG DESTINATION-URI DOMAIN...\n", argv[0]);
        return 2;
    }
    /* The loop has to be there before the first connection. */
    if (virInitialize() < 0 || virEventRegisterDefaultImpl() < 0 ||
        virEventAddTimeout(WAKE_MS, wake, NULL, NULL) < 0 ||
        !(gang = calloc(members, sizeof(*gang))) ||
        pthread_create(&events, NULL, run_events, NULL) != 0)
        return 1;
    virSetErrorFunc(NULL, be_quiet);

    for (int i = 0; i < members; i++) {
        gang[i] = (Member) {
            .name = argv[optind + 2 + i],
            .source = source,
            .destination = argv[optind + 1],
            .gang = argv[optind],
            .members = members,
            .flags = flags,
        };
        if (pthread_create(&gang[i].thread, NULL, migrate, &gang[i]) != 0) {
            /* The others would wait for it at most as long as gangd says. */
            snprintf(gang[i].error, sizeof(gang[i].error), "no thread");
            gang[i].flags = 0;
        }
    }
    for (int i = 0; i < members; i++) {
        if (gang[i].flags)
            pthread_join(gang[i].thread, NULL);
        if (gang[i].error[0]) {
            fprintf(stderr, "%s: %s\n", gang[i].name, gang[i].error);
            failed++;
        }
    }
    over = 1;
    pthread_join(events, NULL);
    free(gang);
    return failed ? 1 : 0;
}
