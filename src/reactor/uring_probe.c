/*
 * uring_probe.c - is io_uring usable here? A small reactor does on a socket pair what servers do:
 * versions say too little, because distributions take fixes, and breakage, into old numbers.
 *
 * Tested by tests/unit/reactor/test_reactor.c.
 */
#include "base/clock.h"
#include "reactor/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

enum {
    PROBE_BUFFERS = 2,
    PROBE_BUFFER_SIZE = 64,
    PROBE_CHUNKS = 5, /* more than there are buffers: some receive has to wait for one */
    PROBE_BYTES = PROBE_CHUNKS * PROBE_BUFFER_SIZE,
    PROBE_TURNS = 50,
};

/* Socket calls inside one process need no waiting; a turn that finds nothing in this time has
 * failed. */
static const int64_t PROBE_TURN_NS = 20 * PYL_NS_PER_MS;

struct probe_state {
    struct pyl_reactor reactor;
    int fds[2];
    struct pyl_op recv;
    uint8_t bytes[PROBE_BYTES];
    size_t received;
    bool is_ended;
    int32_t end;
};

static void
probe_received(struct pyl_op *op, const struct pyl_event *event)
{
    struct probe_state *state = PYL_CONTAINER_OF(op, struct probe_state, recv);
    if (event->data != NULL && state->received + (size_t)event->result <= PROBE_BYTES) {
        memcpy(state->bytes + state->received, event->data, (size_t)event->result);
        state->received += (size_t)event->result;
    }
    if ((event->flags & PYL_EVENT_MORE) == 0) {
        state->is_ended = true;
        state->end = event->result;
    }
}

static int
probe_turn(struct probe_state *state)
{
    int rc = pyl_reactor_wait(&state->reactor, PROBE_TURN_NS);
    pyl_reactor_dispatch(&state->reactor);
    return rc;
}

static bool
probe_receives(struct probe_state *state)
{
    uint8_t sent[PROBE_BYTES];
    for (size_t i = 0; i < sizeof(sent); i++) {
        sent[i] = (uint8_t)(i * 7);
    }
    pyl_reactor_submit(&state->reactor, &state->recv);
    for (size_t offset = 0; offset < sizeof(sent); offset += PROBE_BUFFER_SIZE) {
        if (write(state->fds[1], sent + offset, PROBE_BUFFER_SIZE) != PROBE_BUFFER_SIZE) {
            return false;
        }
    }
    for (int i = 0; i < PROBE_TURNS && state->received < sizeof(sent); i++) {
        if (probe_turn(state) < 0) {
            return false;
        }
    }
    return state->received == sizeof(sent) && memcmp(state->bytes, sent, sizeof(sent)) == 0 &&
           !state->is_ended;
}

static bool
probe_cancels(struct probe_state *state)
{
    pyl_reactor_cancel(&state->reactor, &state->recv);
    for (int i = 0; i < PROBE_TURNS && !state->is_ended; i++) {
        if (probe_turn(state) < 0) {
            return false;
        }
    }
    return state->is_ended && state->end == -ECANCELED;
}

static bool
probe_sees_end(struct probe_state *state)
{
    state->is_ended = false;
    pyl_reactor_submit(&state->reactor, &state->recv);
    (void)shutdown(state->fds[1], SHUT_WR);
    for (int i = 0; i < PROBE_TURNS && !state->is_ended; i++) {
        if (probe_turn(state) < 0) {
            return false;
        }
    }
    return state->is_ended && state->end == 0;
}

static bool
probe_wakes(struct probe_state *state)
{
    pyl_reactor_wake(&state->reactor);
    return probe_turn(state) == 0 && atomic_load(&state->reactor.stats.wakes) == 1;
}

/* Returns what does not work, or NULL. */
static const char *
probe_behaviour(struct probe_state *state)
{
    if (!probe_wakes(state)) {
        return "wake-up by eventfd";
    }
    if (!probe_receives(state)) {
        return "multishot receive into provided buffers";
    }
    if (!probe_cancels(state)) {
        return "cancellation";
    }
    if (!probe_sees_end(state)) {
        return "end of stream";
    }
    return NULL;
}

/* ---- cause texts ---- */

/* kernel.io_uring_disabled (Linux 6.6): 0, 1, 2; -1 where it does not exist. */
static int
sysctl_io_uring_disabled(void)
{
    char text[16] = "";
    int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t count = read(fd, text, sizeof(text) - 1);
    close(fd);
    return count > 0 ? (int)strtol(text, NULL, 10) : -1;
}

static void
explain_memory(char *cause, size_t cause_size)
{
    struct rlimit limit = {0};
    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    snprintf(cause, cause_size,
             "io_uring_setup(2) found no memory: RLIMIT_MEMLOCK (memlock) is %llu KiB",
             (unsigned long long)limit.rlim_cur / 1024);
}

static void
explain_setup(int error, char *cause, size_t cause_size)
{
    struct utsname system = {0};
    (void)uname(&system);
    int disabled = sysctl_io_uring_disabled();
    switch (-error) {
    case EPERM:
    case EACCES:
        if (disabled > 0) {
            snprintf(cause, cause_size,
                     "io_uring is switched off by sysctl kernel.io_uring_disabled=%d", disabled);
        } else {
            snprintf(cause, cause_size,
                     "io_uring_setup(2) is not permitted (EPERM): a seccomp filter, as in most "
                     "containers, or a security module forbids it");
        }
        break;
    case ENOSYS:
        snprintf(cause, cause_size,
                 "io_uring_setup(2) does not exist (ENOSYS): kernel %s is built without it, or a "
                 "seccomp filter hides it",
                 system.release);
        break;
    case EINVAL:
        snprintf(cause, cause_size, "kernel %s is too old: io_uring is used from Linux 6.1 on",
                 system.release);
        break;
    case ENOMEM:
        explain_memory(cause, cause_size);
        break;
    default:
        snprintf(cause, cause_size, "io_uring could not be set up: %s", strerror(-error));
    }
}

int
pyl_uring_probe(char *cause, size_t cause_size)
{
    static const struct pyl_reactor_options options = {
        .events_max = 16,
        .ring_entries = 8,
        .buffer_count = PROBE_BUFFERS,
        .buffer_size = PROBE_BUFFER_SIZE,
    };
    struct probe_state state = {.fds = {-1, -1}};
    cause[0] = '\0';
    int rc = pyl_reactor_init_backend(&state.reactor, &pyl_backend_uring, &options);
    if (rc < 0) {
        explain_setup(rc, cause, cause_size);
        return rc;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, state.fds) < 0) {
        rc = -errno;
        snprintf(cause, cause_size, "socketpair(2): %s", strerror(-rc));
    } else {
        state.recv.kind = PYL_OP_RECV;
        state.recv.fd = state.fds[0];
        state.recv.on_complete = probe_received;
        const char *broken = probe_behaviour(&state);
        if (broken != NULL) {
            struct utsname system = {0};
            (void)uname(&system);
            snprintf(cause, cause_size, "io_uring of kernel %s fails the behaviour test: %s",
                     system.release, broken);
            rc = -ENOTSUP;
        }
    }
    /* A kernel that failed the test may leave the op without an end; nothing of it outlives the
     * ring. */
    pyl_reactor_drop(&state.reactor);
    if (state.fds[0] >= 0) {
        close(state.fds[0]);
        close(state.fds[1]);
    }
    return rc;
}
