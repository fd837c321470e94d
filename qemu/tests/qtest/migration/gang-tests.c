/*
 * QTest testcases for gang migration
 *
 * Copyright the gang migration authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * They need a coordinator: QTEST_GANGD names the gangd to run.  One serves
 * both ends, which are on one host here.
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "migration/framework.h"
#include "migration/migration-qmp.h"
#include "migration/migration-util.h"
#ifdef CONFIG_GNUTLS
#include "crypto/tlscredspsk.h"
#include "tests/unit/crypto-tls-psk-helpers.h"
#endif

static char *tmpfs;

typedef struct {
    GPid pid;
    char *socket;
#ifdef CONFIG_GNUTLS
    char *psk_dir;
    char *psk_file;
#endif
} GangTest;

static GangTest *gangd_start(void)
{
    GangTest *t = g_new0(GangTest, 1);
    char *argv[] = {
        getenv("QTEST_GANGD"), (char *)"--socket", NULL,
        (char *)"--store-size", (char *)"64MiB",
        (char *)"--log-level", (char *)"error", NULL
    };
    GError *err = NULL;

    t->socket = g_strdup_printf("%s/gangd.sock", tmpfs);
    argv[2] = t->socket;
    g_spawn_async(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL,
                  &t->pid, &err);
    g_assert_no_error(err);
    for (int i = 0; i < 500 && access(t->socket, F_OK) != 0; i++) {
        g_usleep(10000);
    }
    return t;
}

static void gangd_stop(GangTest *t)
{
    /* gangd leaves its lock file: taking it away would be a race */
    g_autofree char *lock = g_strdup_printf("%s.lock", t->socket);

    kill(t->pid, SIGTERM);
    g_assert_cmpint(waitpid(t->pid, NULL, 0), ==, t->pid);
    unlink(t->socket);
    unlink(lock);
    g_free(t->socket);
    g_free(t);
}

static void gang_set(QTestState *who, GangTest *t, int channels)
{
    migrate_set_parameter_str(who, "gang-id", "qtest");
    migrate_set_parameter_str(who, "gang-socket", t->socket);
    migrate_set_parameter_int(who, "multifd-channels", channels);
}

static GangTest *gang_hook_start(QTestState *from, QTestState *to,
                                 int channels)
{
    GangTest *t = gangd_start();

    gang_set(from, t, channels);
    gang_set(to, t, channels);
    migrate_set_capability(from, "return-path", true);
    return t;
}

static void *migrate_hook_start_gang(QTestState *from, QTestState *to)
{
    GangTest *t = gang_hook_start(from, to, 4);

    /* This starts the incoming side, so it comes last */
    migrate_hook_start_precopy_tcp_multifd_common(from, to, "gang");
    return t;
}

static void *migrate_hook_start_gang_one_channel(QTestState *from,
                                                 QTestState *to)
{
    GangTest *t = gang_hook_start(from, to, 1);

    migrate_set_parameter_str(from, "multifd-compression", "gang");
    migrate_set_parameter_str(to, "multifd-compression", "gang");
    migrate_set_capability(from, "multifd", true);
    migrate_set_capability(to, "multifd", true);
    migrate_incoming_qmp(to, "tcp:127.0.0.1:0", NULL, "{}");
    return t;
}

static void *migrate_hook_start_gang_raw(QTestState *from, QTestState *to)
{
    migrate_set_parameter_str(from, "gang-compression", "none");
    return migrate_hook_start_gang(from, to);
}

static void *migrate_hook_start_gang_legacy_zero(QTestState *from,
                                                 QTestState *to)
{
    migrate_set_parameter_str(from, "zero-page-detection", "legacy");
    return migrate_hook_start_gang(from, to);
}

static void migrate_hook_end_gang(QTestState *from, QTestState *to,
                                  void *opaque)
{
    gangd_stop(opaque);
}

static void test_gang_common(TestMigrateStartHook start, bool live)
{
    MigrateCommon args = {
        .listen_uri = "defer",
        .start_hook = start,
        .end_hook = migrate_hook_end_gang,
        .live = live,
    };

    test_precopy_common(&args);
}

static void test_gang_plain(void)
{
    test_gang_common(migrate_hook_start_gang, false);
}

/* Live, because pages have to change between the scan and the last round. */
static void test_gang_live(void)
{
    test_gang_common(migrate_hook_start_gang, true);
}

static void test_gang_raw(void)
{
    test_gang_common(migrate_hook_start_gang_raw, false);
}

static void test_gang_one_channel(void)
{
    test_gang_common(migrate_hook_start_gang_one_channel, false);
}

static void test_gang_legacy_zero(void)
{
    test_gang_common(migrate_hook_start_gang_legacy_zero, false);
}

/* A KVM that does not work makes QEMU fall back to TCG: not what is tested. */
static void assert_kvm(QTestState *who)
{
    QDict *rsp = qtest_qmp_assert_success_ref(who,
                                              "{ 'execute': 'query-kvm' }");

    g_assert_true(qdict_get_bool(rsp, "enabled"));
    qobject_unref(rsp);
}

static bool file_has_text(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && st.st_size > 0;
}

/*
 * Live: what the guest writes has to come out of KVM's dirty log, or its memory
 * is not what migrate_end() expects.  Not test_precopy_common(), which waits for
 * more writes after the first pass: a guest that is slow, as in a nested
 * machine, has moved before, since pages that differ in a byte cost nearly
 * nothing, whatever the bandwidth.
 *
 * A KVM that emulates real mode may write more pages than its ring holds before
 * it says that the ring is full: QTEST_KVM_RING_OVERRUNS tells that this one does.
 */
static void test_gang_kvm_common(bool ring)
{
    g_autofree char *trace = g_strdup_printf("%s/ring-full", tmpfs);
    g_autofree char *opts = g_strdup_printf("-trace kvm_dirty_ring_full -D %s",
                                            trace);
    MigrateStart args = {
        .use_dirty_ring = ring,
        .dirty_ring_size = 65536, /* the largest: it is not to be full */
        .opts_source = ring ? opts : NULL,
    };
    bool know_memory = true;
    QTestState *from, *to;
    GangTest *t;

    if (migrate_start(&from, &to, "defer", &args)) {
        return;
    }
    assert_kvm(from);
    assert_kvm(to);
    migrate_ensure_non_converge(from);
    t = migrate_hook_start_gang(from, to);
    wait_for_serial("src_serial");
    migrate_qmp(from, to, NULL, NULL, "{}");
    wait_for_migration_pass(from, get_src());
    migrate_ensure_converge(from);
    wait_for_stop(from, get_src());
    qtest_qmp_eventwait(to, "RESUME");
    wait_for_serial("dest_serial");
    wait_for_migration_complete(from);
    /* The first look, at least one at a running guest, and the last */
    g_assert_cmpint(get_migration_pass(from), >=, 3);
    if (ring && getenv("QTEST_KVM_RING_OVERRUNS") && file_has_text(trace)) {
        know_memory = false;
    }
    migrate_end(from, to, know_memory);
    gangd_stop(t);
    unlink(trace);
    if (!know_memory) {
        g_test_skip("the ring was full: this KVM loses writes then");
    }
}

static void test_gang_kvm_dirty_bitmap(void)
{
    test_gang_kvm_common(false);
}

static void test_gang_kvm_dirty_ring(void)
{
    test_gang_kvm_common(true);
}

#ifdef CONFIG_GNUTLS
static void *migrate_hook_start_gang_tls(QTestState *from, QTestState *to)
{
    g_autofree char *dir = g_strdup_printf("%s/gangpsk", tmpfs);
    g_autofree char *file = g_strdup_printf("%s/%s", dir,
                                            QCRYPTO_TLS_CREDS_PSKFILE);
    GangTest *t;

    g_mkdir_with_parents(dir, 0700);
    test_tls_psk_init(file);
    qtest_qmp_assert_success(from,
                             "{ 'execute': 'object-add', 'arguments': {"
                             " 'qom-type': 'tls-creds-psk', 'id': 'psk',"
                             " 'endpoint': 'client', 'dir': %s,"
                             " 'username': 'qemu'} }", dir);
    qtest_qmp_assert_success(to,
                             "{ 'execute': 'object-add', 'arguments': {"
                             " 'qom-type': 'tls-creds-psk', 'id': 'psk',"
                             " 'endpoint': 'server', 'dir': %s} }", dir);
    migrate_set_parameter_str(from, "tls-creds", "psk");
    migrate_set_parameter_str(to, "tls-creds", "psk");
    t = migrate_hook_start_gang(from, to);
    t->psk_dir = g_steal_pointer(&dir);
    t->psk_file = g_steal_pointer(&file);
    return t;
}

static void migrate_hook_end_gang_tls(QTestState *from, QTestState *to,
                                      void *opaque)
{
    GangTest *t = opaque;

    test_tls_psk_cleanup(t->psk_file);
    rmdir(t->psk_dir);
    g_free(t->psk_dir);
    g_free(t->psk_file);
    gangd_stop(t);
}

static void test_gang_tls_psk(void)
{
    MigrateCommon args = {
        .listen_uri = "defer",
        .start_hook = migrate_hook_start_gang_tls,
        .end_hook = migrate_hook_end_gang_tls,
    };

    test_precopy_common(&args);
}
#endif

/* The source must not send anything to a destination without a store. */
static void *migrate_hook_start_gang_to_plain(QTestState *from,
                                              QTestState *to)
{
    GangTest *t = gangd_start();

    gang_set(from, t, 2);
    migrate_set_capability(from, "return-path", true);
    migrate_set_parameter_str(from, "multifd-compression", "gang");
    migrate_set_capability(from, "multifd", true);
    migrate_set_capability(to, "multifd", true);
    migrate_incoming_qmp(to, "tcp:127.0.0.1:0", NULL,
                         "{ 'exit-on-error': false }");
    return t;
}

static void test_gang_to_plain_destination(void)
{
    MigrateCommon args = {
        .start = {
            .hide_stderr = true,
        },
        .listen_uri = "defer",
        .start_hook = migrate_hook_start_gang_to_plain,
        .end_hook = migrate_hook_end_gang,
        .result = MIG_TEST_FAIL,
    };

    test_precopy_common(&args);
}

static void test_gang_cancel(void)
{
    MigrateStart args = {
        .hide_stderr = true,
    };
    QTestState *from, *to;
    GangTest *t;

    if (migrate_start(&from, &to, "defer", &args)) {
        return;
    }
    migrate_ensure_non_converge(from);
    migrate_prepare_for_dirty_mem(from);
    t = migrate_hook_start_gang(from, to);
    wait_for_serial("src_serial");
    migrate_qmp(from, to, NULL, NULL, "{}");
    migrate_wait_for_dirty_mem(from, to);
    migrate_cancel(from);
    qtest_set_expected_status(to, EXIT_FAILURE);
    qtest_wait_qemu(to);
    qtest_quit(to);
    wait_for_migration_status(from, "cancelled", NULL);

    /* And once more, to the end */
    args = (MigrateStart){
        .only_target = true,
    };
    if (migrate_start(&from, &to, "defer", &args)) {
        return;
    }
    /* The first attempt's hook left other numbers of channels behind */
    gang_set(from, t, 4);
    gang_set(to, t, 4);
    migrate_set_parameter_str(to, "multifd-compression", "gang");
    migrate_set_capability(to, "multifd", true);
    migrate_incoming_qmp(to, "tcp:127.0.0.1:0", NULL, "{}");
    migrate_ensure_converge(from);
    migrate_qmp(from, to, NULL, NULL, "{}");
    wait_for_stop(from, get_src());
    qtest_qmp_eventwait(to, "RESUME");
    wait_for_serial("dest_serial");
    wait_for_migration_complete(from);
    migrate_end(from, to, true);
    gangd_stop(t);
}

/* @rsp must be an error that names @what. */
static void assert_refused(QDict *rsp, const char *what)
{
    const char *desc;

    g_assert(qdict_haskey(rsp, "error"));
    desc = qdict_get_str(qdict_get_qdict(rsp, "error"), "desc");
    if (!strstr(desc, what)) {
        g_test_message("'%s' does not name '%s'", desc, what);
        g_assert_not_reached();
    }
    qobject_unref(rsp);
}

static QDict *gang_migrate(QTestState *who, const char *id)
{
    return qtest_qmp(who, "{ 'execute': 'gang-migrate', 'arguments': {"
                     " 'uri': 'tcp:127.0.0.1:1', 'gang-id': %s,"
                     " 'gang-socket': '/nonexistent/gangd.sock' } }", id);
}

static void test_gang_refused(void)
{
    static const char *const caps[] = {
        "postcopy-ram", "xbzrle", "mapped-ram", "background-snapshot",
        "zero-copy-send", "x-colo",
    };
    MigrateStart args = {
        .hide_stderr = true,
    };
    QTestState *from, *to;
    QDict *rsp;

    if (migrate_start(&from, &to, "defer", &args)) {
        return;
    }

    /* Off by default, and reported */
    rsp = qtest_qmp_assert_success_ref(
        from, "{ 'execute': 'query-migrate-parameters' }");
    g_assert_cmpstr(qdict_get_str(rsp, "gang-id"), ==, "");
    g_assert_cmpstr(qdict_get_str(rsp, "gang-socket"), ==, "");
    g_assert_cmpint(qdict_get_int(rsp, "gang-members"), ==, 1);
    g_assert_cmpstr(qdict_get_str(rsp, "gang-compression"), ==, "auto");
    g_assert_cmpstr(qdict_get_str(rsp, "gang-dedup"), ==, "delta");
    qobject_unref(rsp);

    assert_refused(gang_migrate(from, "qtest"), "/nonexistent/gangd.sock");
    assert_refused(gang_migrate(from, ""), "gang-id");
    assert_refused(gang_migrate(from, "not ok"), "gang-id");
    rsp = qtest_qmp(to, "{ 'execute': 'gang-migrate-incoming',"
                    " 'arguments': { 'uri': 'tcp:127.0.0.1:0',"
                    " 'gang-id': 'qtest',"
                    " 'gang-socket': '/nonexistent/gangd.sock' } }");
    assert_refused(rsp, "/nonexistent/gangd.sock");

    for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
        rsp = qtest_qmp(from, "{ 'execute': 'migrate-set-capabilities',"
                        "  'arguments': { 'capabilities': [ {"
                        "  'capability': %s, 'state': true } ] } }", caps[i]);
        if (!qdict_haskey(rsp, "error")) {
            assert_refused(gang_migrate(from, "qtest"), caps[i]);
            migrate_set_capability(from, caps[i], false);
        }
        qobject_unref(rsp);
    }

    /* What was refused has changed nothing */
    rsp = qtest_qmp_assert_success_ref(
        from, "{ 'execute': 'query-migrate-parameters' }");
    g_assert_cmpstr(qdict_get_str(rsp, "gang-id"), ==, "");
    g_assert_cmpstr(qdict_get_str(rsp, "multifd-compression"), ==, "none");
    qobject_unref(rsp);

    migrate_end(from, to, false);
}

void migration_test_add_gang(MigrationTestEnv *env)
{
    tmpfs = env->tmpfs;

    migration_test_add("/migration/gang/refused", test_gang_refused);
    if (!getenv("QTEST_GANGD")) {
        g_test_message("QTEST_GANGD not set: no gang migrations tested");
        return;
    }
    migration_test_add("/migration/gang/plain", test_gang_plain);
    migration_test_add("/migration/gang/live", test_gang_live);
    migration_test_add("/migration/gang/raw", test_gang_raw);
    migration_test_add("/migration/gang/channels/1", test_gang_one_channel);
    migration_test_add("/migration/gang/legacy-zero", test_gang_legacy_zero);
    migration_test_add("/migration/gang/cancel", test_gang_cancel);
    migration_test_add("/migration/gang/plain-destination",
                       test_gang_to_plain_destination);
#ifdef CONFIG_GNUTLS
    migration_test_add("/migration/gang/tls/psk", test_gang_tls_psk);
#endif
    if (env->has_kvm) {
        migration_test_add("/migration/gang/kvm/dirty-bitmap",
                           test_gang_kvm_dirty_bitmap);
        if (env->has_dirty_ring) {
            migration_test_add("/migration/gang/kvm/dirty-ring",
                               test_gang_kvm_dirty_ring);
        }
    }
}
