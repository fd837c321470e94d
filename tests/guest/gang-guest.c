/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 * Copyright the gang migration authors
 *
 * What runs inside a test guest: reads files into the page cache, writes
 * memory and files, talks to redis and nginx, and says on the serial port that
 * the guest lives.
 *
 * Every workload checks what it finds in memory against what it put there, so
 * that a guest tells of a page that changed behind its back even where the
 * harness's comparison did not look.  The heartbeat reports those as errors.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

/* Shared by the processes of this program: see status_open(). */
struct status {
    _Atomic uint64_t ready;     /* workers that have reached their steady state */
    _Atomic uint64_t ops;       /* pages written, or requests answered */
    _Atomic uint64_t errors;    /* contents that were not what was put there */
    _Atomic uint64_t warm_kb;
};
static struct status *status;

static void die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    printf("GANG FAILED ");
    vprintf(fmt, ap);
    printf(": %s\n", strerror(errno));
    fflush(stdout);
    va_end(ap);
    exit(1);
}

static void status_open(void)
{
    int fd = open("/run/gang/status", O_RDWR | O_CREAT, 0644);

    if (fd < 0 || ftruncate(fd, PAGE) < 0) {
        die("status");
    }
    status = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (status == MAP_FAILED) {
        die("status");
    }
}

static uint64_t mix(uint64_t x) /* splitmix64's finaliser */
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void sleep_until(int64_t ns)
{
    struct timespec ts = { ns / 1000000000, ns % 1000000000 };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR) {
    }
}

/*
 * Runs op() rate times a second, in bursts of up to 10 ms, without catching up
 * on the time the guest was stopped.
 */
static void at_rate(unsigned rate, void (*op)(uint64_t n))
{
    unsigned burst = rate >= 100 ? rate / 100 : 1;
    int64_t period = 1000000000LL * burst / (rate ? rate : 1);
    int64_t next = now_ns();
    uint64_t n = 0;

    for (;;) {
        for (unsigned i = 0; i < burst; i++) {
            op(n++);
            atomic_fetch_add(&status->ops, 1);
        }
        next += period;
        if (next < now_ns() - period) {
            next = now_ns();
        }
        sleep_until(next);
    }
}

/* Text that zstd takes to about a third, as an application's records do. */
static void text(char *out, size_t len, uint64_t seed)
{
    static char words[1024][8];
    uint64_t r = 0;

    if (!words[0][0]) {
        for (unsigned i = 0; i < 1024; i++) {
            uint64_t x = mix(i);

            for (unsigned j = 0; j < 7; j++) {
                words[i][j] = 'a' + (x >> (j * 8)) % 26;
            }
            words[i][7] = ' ';
        }
    }
    for (size_t i = 0; i * 8 < len; i++) {
        if (i % 6 == 0) {
            r = mix(seed + i);
        }
        memcpy(out + i * 8, words[r & 1023], len - i * 8 < 8 ? len - i * 8 : 8);
        r >>= 10;
    }
}

/* warm LIST KIB: the first files of LIST into the page cache, KIB in all */

static FILE *list_open(const char *path)
{
    FILE *f = fopen(path, "r");

    if (!f) {
        die("%s", path);
    }
    return f;
}

static void cmd_warm(char **arg)
{
    static char line[4096], buf[1 << 17];
    uint64_t left = strtoull(arg[1], NULL, 10) * 1024;
    uint64_t done = 0;
    FILE *list = list_open(arg[0]);

    while (done < left && fgets(line, sizeof(line), list)) {
        int fd;
        ssize_t n;

        line[strcspn(line, "\n")] = 0;
        fd = open(line, O_RDONLY);
        if (fd < 0) {
            die("%s", line);
        }
        while ((n = read(fd, buf, sizeof(buf))) > 0) {
            done += (n + PAGE - 1) / PAGE * PAGE;
        }
        close(fd);
    }
    atomic_fetch_add(&status->warm_kb, done / 1024);
}

/*
 * write KIB own|same SEED RATE: rewrites the pages of a buffer in random order.
 * "own": text of this VM alone.  "same": all VMs write the same few contents
 * over and over, so that at any time some page is being sent by one VM while
 * another VM changes its copy.
 */

static struct {
    unsigned char *base;
    uint32_t *generation;
    uint64_t pages, seed;
    int same;
} buffer; /* of write and of random */

static void page_content(void *out, uint64_t index, uint64_t generation)
{
    uint64_t *header = out;

    if (buffer.same) {
        static char pattern[64][PAGE];

        if (!pattern[0][0]) {
            for (unsigned i = 0; i < 64; i++) {
                text(pattern[i], PAGE, i * 7919);
            }
        }
        generation %= 16;
        memcpy(out, pattern[(index + generation) % 64], PAGE);
    } else {
        text(out, PAGE, mix(buffer.seed) + index * 1000003 + generation * 7919);
    }
    header[0] = index;
    header[1] = generation;
}

static void write_one(uint64_t n)
{
    static unsigned char expected[PAGE];
    uint64_t i = mix(n ^ (buffer.seed << 32)) % buffer.pages;

    page_content(expected, i, buffer.generation[i]);
    if (memcmp(expected, buffer.base + i * PAGE, PAGE)) {
        atomic_fetch_add(&status->errors, 1);
    }
    buffer.generation[i]++;
    page_content(buffer.base + i * PAGE, i, buffer.generation[i]);
}

static void cmd_write(char **arg)
{
    buffer.pages = strtoull(arg[0], NULL, 10) / 4;
    buffer.same = !strcmp(arg[1], "same");
    buffer.seed = strtoull(arg[2], NULL, 10);
    buffer.base = mmap(NULL, buffer.pages * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    buffer.generation = calloc(buffer.pages, sizeof(uint32_t));
    if (buffer.base == MAP_FAILED || !buffer.generation) {
        die("buffer");
    }
    for (uint64_t i = 0; i < buffer.pages; i++) {
        page_content(buffer.base + i * PAGE, i, 0);
    }
    atomic_fetch_add(&status->ready, 1);
    at_rate(strtoul(arg[3], NULL, 10), write_one);
}

/*
 * random KIB SEED RATE: fills a buffer with bytes that no other page has and
 * that do not compress, then only reads it, a page at a time
 */

static void random_page(uint64_t *out, uint64_t index)
{
    uint64_t base = mix(mix(buffer.seed) + index);

    for (unsigned i = 0; i < PAGE / 8; i++) {
        out[i] = mix(base + i);
    }
}

static void random_check(uint64_t n)
{
    static uint64_t expected[PAGE / 8];
    uint64_t i = mix(n) % buffer.pages;

    random_page(expected, i);
    if (memcmp(expected, buffer.base + i * PAGE, PAGE)) {
        atomic_fetch_add(&status->errors, 1);
    }
}

static void cmd_random(char **arg)
{
    buffer.pages = strtoull(arg[0], NULL, 10) / 4;
    buffer.seed = strtoull(arg[1], NULL, 10) + 1000;
    buffer.base = mmap(NULL, buffer.pages * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer.base == MAP_FAILED) {
        die("buffer");
    }
    for (uint64_t i = 0; i < buffer.pages; i++) {
        random_page((uint64_t *)(buffer.base + i * PAGE), i);
    }
    atomic_fetch_add(&status->ready, 1);
    at_rate(strtoul(arg[2], NULL, 10), random_check);
}

/*
 * grow PATH KIB SEED RATE: appends records to a file and reads earlier ones
 * back; when it has its size, reads all of it and begins a new one
 */

#define RECORD 1000

static struct {
    const char *path;
    int fd;
    uint64_t records, most, seed;
} file;

static void grow_open(void)
{
    file.fd = open(file.path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0644);
    if (file.fd < 0) {
        die("%s", file.path);
    }
    file.records = 0;
    file.seed = mix(file.seed);
}

static void grow_check(uint64_t i)
{
    static char expected[RECORD], got[RECORD];

    text(expected, RECORD, file.seed + i * 1000003);
    if (pread(file.fd, got, RECORD, i * RECORD) != RECORD || memcmp(expected, got, RECORD)) {
        atomic_fetch_add(&status->errors, 1);
    }
}

static void grow_one(uint64_t n)
{
    static char record[RECORD];
    struct stat st;

    text(record, RECORD, file.seed + file.records * 1000003);
    if (write(file.fd, record, RECORD) != RECORD) {
        die("%s", file.path);
    }
    file.records++;
    if (fstat(file.fd, &st) < 0 || (uint64_t)st.st_size != file.records * RECORD) {
        atomic_fetch_add(&status->errors, 1);
    }
    grow_check(mix(n) % file.records);
    if (file.records == file.most) {
        for (uint64_t i = 0; i < file.records; i++) {
            grow_check(i);
        }
        close(file.fd);
        grow_open();
    }
}

static void cmd_grow(char **arg)
{
    file.path = arg[0];
    file.most = strtoull(arg[1], NULL, 10) * 1024 / RECORD + 1;
    file.seed = strtoull(arg[2], NULL, 10) + 2000;
    grow_open();
    atomic_fetch_add(&status->ready, 1);
    at_rate(strtoul(arg[3], NULL, 10), grow_one);
}

/* redis SOCKET KIB SEED RATE: fills redis, then sets and gets at random */

#define VALUE 4000

static struct {
    FILE *in, *out;
    uint32_t *version;
    uint64_t keys, seed;
} redis;

static void redis_value(char *out, uint64_t key)
{
    text(out, VALUE, mix(redis.seed) + key * 1000003 + redis.version[key] * 7919);
}

static void redis_set(uint64_t key)
{
    char value[VALUE], name[32];

    redis_value(value, key);
    snprintf(name, sizeof(name), "record:%llu", (unsigned long long)key);
    fprintf(redis.out, "*3\r\n$3\r\nSET\r\n$%zu\r\n%s\r\n$%d\r\n", strlen(name), name, VALUE);
    fwrite(value, 1, VALUE, redis.out);
    fputs("\r\n", redis.out);
}

static void redis_expect_ok(void)
{
    char line[64];

    fflush(redis.out);
    if (!fgets(line, sizeof(line), redis.in) || line[0] != '+') {
        die("redis did not take a value");
    }
}

static void redis_one(uint64_t n)
{
    uint64_t key = mix(n ^ (redis.seed << 32)) % redis.keys;
    char line[64], name[32], value[VALUE], got[VALUE + 2];

    redis.version[key]++;
    redis_set(key);
    redis_expect_ok();

    key = mix(n * 31 + 17) % redis.keys;
    snprintf(name, sizeof(name), "record:%llu", (unsigned long long)key);
    fprintf(redis.out, "*2\r\n$3\r\nGET\r\n$%zu\r\n%s\r\n", strlen(name), name);
    fflush(redis.out);
    redis_value(value, key);
    if (!fgets(line, sizeof(line), redis.in) || fread(got, 1, sizeof(got), redis.in) != sizeof(got)) {
        die("redis went away");
    }
    if (memcmp(value, got, VALUE)) {
        atomic_fetch_add(&status->errors, 1);
    }
}

static void cmd_redis(char **arg)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), tries = 0;

    strncpy(addr.sun_path, arg[0], sizeof(addr.sun_path) - 1);
    while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        if (++tries > 600) {
            die("redis");
        }
        usleep(50000);
    }
    redis.in = fdopen(fd, "r");
    redis.out = fdopen(dup(fd), "w");
    redis.keys = strtoull(arg[1], NULL, 10) * 1024 / 5120; /* the allocator's size class */
    redis.seed = strtoull(arg[2], NULL, 10);
    redis.version = calloc(redis.keys, sizeof(uint32_t));
    for (uint64_t i = 0; i < redis.keys; i += 16) {
        uint64_t end = i + 16 < redis.keys ? i + 16 : redis.keys;

        for (uint64_t j = i; j < end; j++) {
            redis_set(j);
        }
        for (uint64_t j = i; j < end; j++) {
            redis_expect_ok();
        }
    }
    atomic_fetch_add(&status->ready, 1);
    at_rate(strtoul(arg[3], NULL, 10), redis_one);
}

/*
 * web LIST KIB SEED RATE: asks nginx for the files of LIST, in an order of this
 * VM's own, and expects to get the same bytes each time
 */

static struct {
    FILE *in, *out;
    char *name[4096];
    uint64_t sum[4096];
    unsigned files;
    uint64_t seed;
} web;

static void web_one(uint64_t n)
{
    unsigned i = mix(n ^ (web.seed << 32)) % web.files;
    static char line[512], buf[1 << 16];
    uint64_t length = 0, sum = 1;
    int ok;

    fprintf(web.out, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", web.name[i]);
    fflush(web.out);
    if (!fgets(line, sizeof(line), web.in)) {
        die("nginx went away");
    }
    ok = strstr(line, " 200 ") != NULL;
    while (fgets(line, sizeof(line), web.in) && strcmp(line, "\r\n")) {
        sscanf(line, "Content-Length: %lu", &length);
    }
    while (length) {
        size_t want = length < sizeof(buf) ? length : sizeof(buf);
        uint64_t word;

        if (fread(buf, 1, want, web.in) != want) {
            die("nginx stopped in the middle of %s", web.name[i]);
        }
        for (size_t j = 0; j + 8 <= want; j += 8) {
            memcpy(&word, buf + j, 8);
            sum = sum * 31 + word;
        }
        length -= want;
    }
    if (!ok || (web.sum[i] && web.sum[i] != sum)) {
        atomic_fetch_add(&status->errors, 1);
    }
    web.sum[i] = sum;
}

static void cmd_web(char **arg)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET,
        .sin_port = htons(80),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    uint64_t left = strtoull(arg[1], NULL, 10) * 1024;
    int fd = socket(AF_INET, SOCK_STREAM, 0), tries = 0;
    FILE *list = list_open(arg[0]);
    char line[4096];

    while (left && web.files < 4096 && fgets(line, sizeof(line), list)) {
        struct stat st;

        line[strcspn(line, "\n")] = 0;
        if (stat(line, &st) < 0 || !(st.st_mode & S_IROTH) || strpbrk(line, " %?#")) {
            continue;
        }
        left -= (uint64_t)st.st_size < left ? (uint64_t)st.st_size : left;
        if (st.st_size && st.st_size < (1 << 20)) {
            web.name[web.files++] = strdup(line);
        }
    }
    while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        if (++tries > 600) {
            die("nginx");
        }
        usleep(50000);
    }
    web.in = fdopen(fd, "r");
    web.out = fdopen(dup(fd), "w");
    web.seed = strtoull(arg[2], NULL, 10);
    atomic_fetch_add(&status->ready, 1);
    at_rate(strtoul(arg[3], NULL, 10), web_one);
}

/*
 * pulse MS: a byte on QEMU's debug port every MS milliseconds, for a client
 * outside that wants to know when the guest stood still.  The port has no state
 * that would migrate, and neither tty nor interrupt between the guest and the
 * client.  Every PULSE_OPS pulses the operations done so far go along, in bytes
 * of seven bits with the eighth set.
 */

#define PULSE_PORT 0xe9
#define PULSE_OPS 20

static void cmd_pulse(char **arg)
{
    int64_t period = strtoll(arg[0], NULL, 10) * 1000000, next = now_ns();

    if (period <= 0 || ioperm(PULSE_PORT, 1, 1) < 0) {
        die("pulse");
    }
    for (uint64_t n = 0;; n++) {
        outb(0, PULSE_PORT);
        if (n % PULSE_OPS == 0) {
            uint64_t ops = atomic_load(&status->ops);

            for (int shift = 28; shift >= 0; shift -= 7) {
                outb(0x80 | ((ops >> shift) & 0x7f), PULSE_PORT);
            }
        }
        next += period;
        if (next < now_ns()) {
            next = now_ns() + period;
        }
        sleep_until(next);
    }
}

/* beat ID WORKLOAD MS: the guest's init from here on */

static void cmd_beat(char **arg)
{
    int64_t period = strtoll(arg[2], NULL, 10) * 1000000, next;
    int idle = !strcmp(arg[1], "idle");
    uint64_t n = 0;

    while (!idle && !atomic_load(&status->ready)) {
        usleep(50000);
        waitpid(-1, NULL, WNOHANG);
    }
    sync();
    printf("GANG READY id=%s workload=%s warm_kb=%llu\n", arg[0], arg[1],
           (unsigned long long)atomic_load(&status->warm_kb));
    fflush(stdout);
    for (next = now_ns();;) {
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
        printf("GANG BEAT id=%s n=%llu ops=%llu errors=%llu\n", arg[0],
               (unsigned long long)n++,
               (unsigned long long)atomic_load(&status->ops),
               (unsigned long long)atomic_load(&status->errors));
        fflush(stdout);
        next += period;
        if (next < now_ns()) {
            next = now_ns() + period;
        }
        sleep_until(next);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int args;
        void (*run)(char **arg);
    } commands[] = {
        { "warm", 2, cmd_warm }, { "write", 4, cmd_write }, { "redis", 4, cmd_redis },
        { "web", 4, cmd_web },   { "random", 3, cmd_random }, { "pulse", 1, cmd_pulse },
        { "beat", 3, cmd_beat }, { "grow", 4, cmd_grow },
    };

    signal(SIGPIPE, SIG_IGN);
    for (unsigned i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (!strcmp(argv[1], commands[i].name) && argc == commands[i].args + 2) {
            status_open();
            commands[i].run(argv + 2);
            return 0;
        }
    }
    fprintf(stderr, "usage: %s warm|write|random|grow|redis|web|pulse|beat ARGUMENT...\n", argv[0]);
    return 2;
}
