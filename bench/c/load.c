/*
 * load.c - the load generator of the benchmarks: N connections to 127.0.0.1, one message in
 * flight on each, every received byte compared with what was sent.
 *
 *   load WHERE --connections N --size BYTES [--reconnect] [--seconds S | --messages M]
 *   load WHERE --connections N --http PATH --expect BODY [--seconds S | --messages M]
 *
 * WHERE is --port P [--udp | --tls], --unix PATH, or --pipes READ:WRITE,... (inherited descriptors,
 * a pair for each connection). With --reconnect every message has a connection of its own.
 *
 * Without --seconds and --messages it obeys one command per line on standard input, so that a
 * measuring script can put its counters exactly around a run:
 *
 *   run SECONDS                    load for that long
 *   count MESSAGES                 that many messages in all
 *   pace MESSAGES_PER_S SECONDS    that many in a second, evenly
 *
 * A paced message that is late, because the one before it on its connection has no answer yet,
 * counts its time from when it was due.
 *
 * After connecting it prints "ready"; each run prints one line of JSON. End of input ends it.
 * Each connection is proved by one message before "ready": nothing waits in a backlog unserved.
 * Exit status: 0; 1 for a wrong byte, a lost connection or a stall; 2 for bad usage.
 *
 * Not for anything but this machine's loopback address: there is no way to name a host.
 */
#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_MAX 512
#define PATTERN_SHIFT_MAX 4096u /* messages differ by where in the pattern they start */
#define SCRATCH_BYTES (256u * 1024u)
#define SIZE_BYTES_MAX (64u * 1024u * 1024u)
#define CONNECT_BATCH 64u /* connections opened before each proves itself */
#define STALL_MS 10000
#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000ull
#define WAIT_FOR_ANSWER (STALL_MS * NS_PER_MS)

static uint64_t
now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static uint64_t
timeval_ns(struct timeval tv)
{
    return (uint64_t)tv.tv_sec * NS_PER_S + (uint64_t)tv.tv_usec * 1000u;
}

void
load_fail(const struct load *load, const struct conn *conn, const char *what, int error)
{
    fprintf(stderr, "load: connection %td, message %" PRIu64 ": %s%s%s\n",
            conn != NULL ? conn - load->conns : (ptrdiff_t)-1,
            conn != NULL ? conn->sequence : (uint64_t)0, what, error != 0 ? ": " : "",
            error != 0 ? strerror(error) : "");
    exit(1);
}

/* Asks to be told when more can be sent, or no longer. */
static void
watch_write(struct load *load, struct conn *conn, bool want_write)
{
    bool apart = conn->fd_out != conn->fd;
    struct epoll_event event = {
        .events = (apart ? 0u : EPOLLIN) | (want_write ? EPOLLOUT : 0u),
        .data.ptr = conn,
    };
    int operation = !apart ? EPOLL_CTL_MOD : want_write ? EPOLL_CTL_ADD : EPOLL_CTL_DEL;
    if (epoll_ctl(load->epoll_fd, operation, conn->fd_out, &event) < 0) {
        load_fail(load, conn, "epoll_ctl", errno);
    }
    conn->want_write = want_write;
}

static ssize_t
send_some(struct conn *conn, const char *bytes, size_t count)
{
    return conn->tls != NULL ? load_tls_send(conn, bytes, count)
                             : write(conn->fd_out, bytes, count);
}

static const char *
message_bytes(const struct load *load, const struct conn *conn)
{
    return load->path != NULL ? load->request : load->pattern + conn->shift;
}

static void
send_more(struct load *load, struct conn *conn)
{
    const char *bytes = message_bytes(load, conn);
    while (conn->sent < load->size) {
        ssize_t n = send_some(conn, bytes + conn->sent, load->size - conn->sent);
        if (n >= 0) {
            conn->sent += (uint32_t)n;
        } else if (errno == EAGAIN) {
            break;
        } else if (errno != EINTR) {
            load_fail(load, conn, "send", errno);
        }
    }
    bool want_write = conn->sent < load->size;
    if (want_write != conn->want_write) {
        watch_write(load, conn, want_write);
    }
}

static void
start_message(struct load *load, struct conn *conn, uint64_t now)
{
    if (load->reconnect && conn->sequence > 0) {
        load_close(conn);
        load_open(load, conn);
    }
    uint64_t key = (uint64_t)(conn - load->conns) * 2654435761u + conn->sequence * 40503u;
    conn->shift = (uint32_t)(key % PATTERN_SHIFT_MAX);
    conn->sequence++;
    conn->sent = 0;
    conn->received = 0;
    conn->started_ns = now;
    conn->busy = true;
    load->started++;
    load->in_flight++;
    send_more(load, conn);
}

static void
message_done(struct load *load, struct conn *conn)
{
    uint64_t now = now_ns();
    hist_add(&load->hist, now - conn->started_ns);
    conn->busy = false;
    conn->served++;
    load->completed++;
    load->in_flight--;
    if (load->pace_ns == 0 && load->started < load->target && now < load->deadline_ns) {
        start_message(load, conn, now);
    }
}

/* Starts what is due at `now`. Returns the nanoseconds until the next is; WAIT_FOR_ANSWER when none
 * is to come, or only behind an answer. */
static uint64_t
start_due(struct load *load, uint64_t now)
{
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < load->connections; i++) {
        struct conn *conn = &load->conns[i];
        if (conn->busy || conn->due_ns >= load->deadline_ns) {
            continue;
        }
        if (conn->due_ns <= now) {
            start_message(load, conn, conn->due_ns);
            conn->due_ns += load->pace_ns;
        } else if (conn->due_ns < next) {
            next = conn->due_ns;
        }
    }
    return next == UINT64_MAX ? WAIT_FOR_ANSWER : next - now;
}

/* The number of events within `wait_ns`; -1 when a signal came first. */
static int
wait_events(struct load *load, struct epoll_event *events, uint64_t wait_ns)
{
    struct timespec timeout = {.tv_sec = (time_t)(wait_ns / NS_PER_S),
                               .tv_nsec = (long)(wait_ns % NS_PER_S)};
    int count = epoll_pwait2(load->epoll_fd, events, EVENTS_MAX, &timeout, NULL);
    if (count < 0 && errno != EINTR) {
        load_fail(load, NULL, "epoll_pwait2", errno);
    }
    return count;
}

/* Compares what arrived with the same stretch of the message. */
static void
echo_received(struct load *load, struct conn *conn, uint32_t count)
{
    if (!conn->busy || count > conn->sent - conn->received) {
        load_fail(load, conn, "more bytes came back than were sent", 0);
    }
    if (memcmp(load->scratch, message_bytes(load, conn) + conn->received, count) != 0) {
        load_fail(load, conn, "a byte came back changed", 0);
    }
    conn->received += count;
    if (conn->received == load->size) {
        message_done(load, conn);
    }
}

/* The body's length as the header fields say; fails on chunked or missing framing. */
static uint32_t
content_length(struct load *load, struct conn *conn, const char *head, size_t head_bytes)
{
    static const char name[] = "\r\ncontent-length:";
    for (size_t i = 0; i + sizeof(name) - 1 < head_bytes; i++) {
        if (strncasecmp(head + i, name, sizeof(name) - 1) == 0) {
            return (uint32_t)strtoul(head + i + sizeof(name) - 1, NULL, 10);
        }
    }
    load_fail(load, conn, "response without content-length", 0);
}

static void
http_received(struct load *load, struct conn *conn, uint32_t count)
{
    if (!conn->busy || conn->received + count >= RESPONSE_BYTES_MAX) {
        load_fail(load, conn, "unexpected or too long response", 0);
    }
    memcpy(conn->response + conn->received, load->scratch, count);
    conn->received += count;
    conn->response[conn->received] = '\0';
    char *end = strstr(conn->response, "\r\n\r\n");
    if (end == NULL) {
        return;
    }
    size_t head_bytes = (size_t)(end - conn->response) + 4;
    size_t body_bytes = content_length(load, conn, conn->response, head_bytes);
    if (conn->received < head_bytes + body_bytes) {
        return;
    }
    if (strncmp(conn->response, "HTTP/1.1 200 ", 13) != 0) {
        load_fail(load, conn, "status is not 200", 0);
    }
    if (conn->received != head_bytes + body_bytes || strcmp(end + 4, load->expect) != 0) {
        load_fail(load, conn, "wrong body", 0);
    }
    message_done(load, conn);
}

/* Reads once; false when there is nothing to read now. */
static bool
receive(struct load *load, struct conn *conn)
{
    ssize_t n = conn->tls != NULL ? load_tls_recv(conn, load->scratch, SCRATCH_BYTES)
                                  : read(conn->fd, load->scratch, SCRATCH_BYTES);
    if (n < 0) {
        if (errno == EAGAIN || errno == EINTR) {
            return false;
        }
        load_fail(load, conn, "read", errno);
    }
    if (n == 0) {
        load_fail(load, conn, "closed by the server", 0);
    }
    load->bytes += (uint64_t)n;
    if (load->path != NULL) {
        http_received(load, conn, (uint32_t)n);
    } else {
        echo_received(load, conn, (uint32_t)n);
    }
    return true;
}

/* OpenSSL may hold more than epoll knows of, so there it is read until nothing is left. */
static void
receive_ready(struct load *load, struct conn *conn)
{
    while (receive(load, conn) && conn->tls != NULL) {
    }
}

static void
serve_events(struct load *load, const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        struct conn *conn = events[i].data.ptr;
        if ((events[i].events & EPOLLOUT) != 0) {
            send_more(load, conn);
        }
        if ((events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) {
            receive_ready(load, conn);
        }
    }
}

/* Waits that long and serves what came; ends the program when an answer is overdue. */
static void
serve(struct load *load, uint64_t wait_ns)
{
    struct epoll_event events[EVENTS_MAX];
    int count = wait_events(load, events, wait_ns);
    if (count == 0 && load->in_flight > 0 && wait_ns >= WAIT_FOR_ANSWER) {
        fprintf(stderr, "load: %u of %u connections got no answer for %d ms\n", load->in_flight,
                load->connections, STALL_MS);
        exit(1);
    }
    serve_events(load, events, count);
}

/* Serves the connections until nothing is in flight. */
static void
drain(struct load *load)
{
    while (load->in_flight > 0) {
        serve(load, WAIT_FOR_ANSWER);
    }
}

/* Starts messages when they are due. Those that were late at the deadline are sent after it: left
 * out, they would be the ones that waited longest. */
static void
keep_pace(struct load *load)
{
    uint64_t wait_ns = start_due(load, now_ns());
    while (load->in_flight > 0 || wait_ns != WAIT_FOR_ANSWER) {
        serve(load, wait_ns);
        wait_ns = start_due(load, now_ns());
    }
}

static void
reset_run(struct load *load, uint64_t target, uint64_t deadline_ns)
{
    load->started = 0;
    load->completed = 0;
    load->bytes = 0;
    load->target = target;
    load->deadline_ns = deadline_ns;
    hist_reset(&load->hist);
    for (uint32_t i = 0; i < load->connections; i++) {
        load->conns[i].served = 0;
    }
}

static void
report(const struct load *load, uint64_t wall_ns, const struct rusage *before)
{
    struct rusage after;
    getrusage(RUSAGE_SELF, &after);
    uint64_t served_min = UINT64_MAX;
    uint64_t served_max = 0;
    uint32_t served_connections = 0;
    for (uint32_t i = 0; i < load->connections; i++) {
        uint64_t served = load->conns[i].served;
        served_min = served < served_min ? served : served_min;
        served_max = served > served_max ? served : served_max;
        served_connections += served > 0;
    }
    printf("{\"messages\": %" PRIu64 ", \"wall_ns\": %" PRIu64 ", \"bytes\": %" PRIu64
           ", \"connections\": %u, \"connections_served\": %u, \"served_min\": %" PRIu64
           ", \"served_max\": %" PRIu64 ", ",
           load->completed, wall_ns, load->bytes, load->connections, served_connections, served_min,
           served_max);
    printf("\"p50_ns\": %" PRIu64 ", \"p99_ns\": %" PRIu64 ", \"p999_ns\": %" PRIu64
           ", \"max_ns\": %" PRIu64 ", \"client_user_ns\": %" PRIu64 ", \"client_sys_ns\": %" PRIu64
           "}\n",
           hist_percentile(&load->hist, 0.5), hist_percentile(&load->hist, 0.99),
           hist_percentile(&load->hist, 0.999), load->hist.max,
           timeval_ns(after.ru_utime) - timeval_ns(before->ru_utime),
           timeval_ns(after.ru_stime) - timeval_ns(before->ru_stime));
    fflush(stdout);
}

static void
run(struct load *load, uint64_t messages, double seconds)
{
    struct rusage before;
    getrusage(RUSAGE_SELF, &before);
    uint64_t start = now_ns();
    uint64_t deadline = seconds > 0 ? start + (uint64_t)(seconds * (double)NS_PER_S) : UINT64_MAX;
    reset_run(load, messages > 0 ? messages : UINT64_MAX, deadline);
    for (uint32_t i = 0; i < load->connections && load->started < load->target; i++) {
        start_message(load, &load->conns[i], now_ns());
    }
    drain(load);
    report(load, now_ns() - start, &before);
}

static void
run_paced(struct load *load, double messages_per_s, double seconds)
{
    struct rusage before;
    getrusage(RUSAGE_SELF, &before);
    uint64_t start = now_ns();
    reset_run(load, UINT64_MAX, start + (uint64_t)(seconds * (double)NS_PER_S));
    load->pace_ns = (uint64_t)((double)NS_PER_S / messages_per_s * load->connections);
    for (uint32_t i = 0; i < load->connections; i++) {
        load->conns[i].due_ns = start + load->pace_ns * i / load->connections;
    }
    keep_pace(load);
    load->pace_ns = 0;
    report(load, now_ns() - start, &before);
}

/* Opens in batches and has each batch answered, so that no backlog overflows. */
static void
open_all(struct load *load)
{
    reset_run(load, load->connections, UINT64_MAX);
    for (uint32_t i = 0; i < load->connections; i++) {
        load_open(load, &load->conns[i]);
        start_message(load, &load->conns[i], now_ns());
        if (load->in_flight == CONNECT_BATCH || i + 1 == load->connections) {
            drain(load);
        }
    }
}

static void
prepare(struct load *load)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (load->path != NULL) {
        int n = snprintf(load->request, sizeof(load->request),
                         "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n\r\n", load->path, load->port);
        if (n < 0 || (size_t)n >= sizeof(load->request)) {
            fprintf(stderr, "load: the path is too long\n");
            exit(2);
        }
        load->size = (uint32_t)n;
    }
    size_t pattern_bytes = (size_t)load->size + PATTERN_SHIFT_MAX;
    load->pattern = malloc(pattern_bytes);
    load->scratch = malloc(SCRATCH_BYTES);
    load->conns = calloc(load->connections, sizeof(*load->conns));
    load->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (load->pattern == NULL || load->scratch == NULL || load->conns == NULL ||
        load->epoll_fd < 0) {
        load_fail(load, NULL, "set-up", errno);
    }
    uint64_t state = 0x9e3779b97f4a7c15ull; /* xorshift64: any fixed odd start will do */
    for (size_t i = 0; i < pattern_bytes; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        load->pattern[i] = (char)state;
    }
}

static _Noreturn void
usage(void)
{
    fprintf(stderr,
            "usage: load (--port P [--udp | --tls] | --unix PATH | --pipes READ:WRITE,...)\n"
            "            --connections N (--size BYTES | --http PATH --expect BODY)\n"
            "            [--reconnect] [--seconds S | --messages M]\n");
    exit(2);
}

static void
check_options(const struct load *load)
{
    bool http = load->path != NULL && load->expect != NULL;
    bool inet = load->kind != LOAD_UNIX && load->kind != LOAD_PIPE;
    if (load->connections == 0 || (load->port != 0) != inet || (!http && load->size == 0) ||
        (load->kind == LOAD_PIPE && load->reconnect)) {
        usage();
    }
}

static void
parse_options(struct load *load, int argc, char **argv)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},
        {"connections", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 's'},
        {"seconds", required_argument, NULL, 't'},
        {"messages", required_argument, NULL, 'm'},
        {"http", required_argument, NULL, 'h'},
        {"expect", required_argument, NULL, 'e'},
        {"unix", required_argument, NULL, 'x'},
        {"pipes", required_argument, NULL, 'i'},
        {"udp", no_argument, NULL, 'u'},
        {"tls", no_argument, NULL, 'l'},
        {"reconnect", no_argument, NULL, 'r'},
        {NULL, 0, NULL, 0},
    };
    unsigned long port = 0;
    unsigned long size = 0;
    int letter;
    while ((letter = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (letter) {
        case 'p':
            port = strtoul(optarg, NULL, 10);
            break;
        case 'c':
            load->connections = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 's':
            size = strtoul(optarg, NULL, 10);
            break;
        case 't':
            load->seconds = strtod(optarg, NULL);
            break;
        case 'm':
            load->messages = strtoull(optarg, NULL, 10);
            break;
        case 'h':
            load->path = optarg;
            break;
        case 'e':
            load->expect = optarg;
            break;
        case 'x':
            load->kind = LOAD_UNIX;
            load->unix_path = optarg;
            break;
        case 'i':
            load->kind = LOAD_PIPE;
            load->pipes = optarg;
            break;
        case 'u':
            load->kind = LOAD_UDP;
            break;
        case 'l':
            load->kind = LOAD_TLS;
            break;
        case 'r':
            load->reconnect = true;
            break;
        default:
            usage();
        }
    }
    if (port > UINT16_MAX || size > SIZE_BYTES_MAX || optind != argc) {
        usage();
    }
    load->port = (uint16_t)port;
    load->size = (uint32_t)size;
    check_options(load);
}

static void
obey(struct load *load)
{
    char line[128];
    double rate;
    double seconds;
    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (strncmp(line, "run ", 4) == 0) {
            run(load, 0, strtod(line + 4, NULL));
        } else if (strncmp(line, "count ", 6) == 0) {
            run(load, strtoull(line + 6, NULL, 10), 0);
        } else if (sscanf(line, "pace %lf %lf", &rate, &seconds) == 2 && rate > 0) {
            run_paced(load, rate, seconds);
        } else {
            fprintf(stderr, "load: unknown command: %s", line);
            exit(2);
        }
    }
}

int
main(int argc, char **argv)
{
    static struct load load;
    signal(SIGPIPE, SIG_IGN);      /* a lost peer is told by write(2) */
    prctl(PR_SET_TIMERSLACK, 1ul); /* messages that are paced start when they are due */
    parse_options(&load, argc, argv);
    prepare(&load);
    open_all(&load);
    if (load.seconds > 0 || load.messages > 0) {
        run(&load, load.messages, load.seconds);
    } else {
        printf("ready\n");
        fflush(stdout);
        obey(&load);
    }
    return 0;
}
