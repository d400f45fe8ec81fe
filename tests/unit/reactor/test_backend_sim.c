/*
 * test_backend_sim.c - what is the simulation's own: virtual time, scripts, the seed, faults. The
 * contract is tested by tests/backend.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "reactor/sim.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct pyl_reactor reactor;
static int calls;
static int terminals;
static int32_t last_result;
static uint64_t trace; /* hash of everything that was delivered, in order */

static void
on_complete(struct pyl_op *op, const struct pyl_event *event)
{
    calls++;
    terminals += (event->flags & PYL_EVENT_MORE) == 0;
    last_result = event->result;
    trace = (trace ^ (uint32_t)event->result ^ (uint64_t)op->fd << 20) * UINT64_C(0x100000001b3);
    trace ^= (uint64_t)pyl_reactor_now_ns(&reactor);
}

static void
start(uint64_t seed)
{
    struct pyl_reactor_options options = {.backend = "sim", .sim_seed = seed};
    cr_assert_eq(pyl_reactor_init(&reactor, &options, NULL, 0), 0);
    calls = terminals = 0;
    trace = 0;
}

static void
turn(int64_t timeout_ns)
{
    cr_assert_eq(pyl_reactor_wait(&reactor, timeout_ns), 0);
    pyl_reactor_dispatch(&reactor);
}

static void
submit(struct pyl_op *op, enum pyl_op_kind kind, int fd)
{
    *op = (struct pyl_op){.kind = (uint8_t)kind, .fd = fd, .on_complete = on_complete};
    pyl_reactor_submit(&reactor, op);
}

/* Goal: a wait of a day takes no time, and exactly a day passes. */
Test(backend_sim, time_jumps)
{
    start(1);
    int64_t day_ns = 86400 * PYL_NS_PER_S;
    int64_t real_ns = pyl_clock_now_ns();
    int64_t virtual_ns = pyl_reactor_now_ns(&reactor);
    turn(day_ns);
    cr_assert_lt(pyl_clock_now_ns() - real_ns, PYL_NS_PER_S);
    cr_assert_eq(pyl_reactor_now_ns(&reactor) - virtual_ns, day_ns);
    pyl_reactor_fini(&reactor);
}

/* Goal: a program that only polls gets older too. */
Test(backend_sim, polling_takes_time)
{
    start(1);
    int64_t start_ns = pyl_reactor_now_ns(&reactor);
    turn(0);
    cr_assert_gt(pyl_reactor_now_ns(&reactor), start_ns);
    pyl_reactor_fini(&reactor);
}

static int acts;

static void
act(struct pyl_reactor *target, void *user)
{
    int fd = *(int *)user;
    cr_assert_eq(pyl_sim_write(target, fd, "x", 1), 1);
    acts++;
}

/* Goal: scripts run at their time, in order, and can feed ops. */
Test(backend_sim, scripts_act_on_time)
{
    static struct pyl_op op;
    int fds[2];
    start(1);
    cr_assert_eq(pyl_sim_pair(&reactor, 0, fds), 0);
    submit(&op, PYL_OP_RECV, fds[0]);
    int64_t start_ns = pyl_reactor_now_ns(&reactor);
    for (int i = 1; i <= 3; i++) {
        cr_assert_eq(pyl_sim_at(&reactor, start_ns + i * PYL_NS_PER_S, act, &fds[1]), 0);
    }
    for (int i = 1; i <= 3; i++) {
        turn(-1);
        cr_assert_eq(acts, i);
        cr_assert_eq(calls, i);
        cr_assert_geq(pyl_reactor_now_ns(&reactor), start_ns + i * PYL_NS_PER_S);
        cr_assert_lt(pyl_reactor_now_ns(&reactor), start_ns + i * PYL_NS_PER_S + PYL_NS_PER_MS);
    }
    pyl_reactor_drop(&reactor);
}

/* Goal: a script that never ran is freed with the reactor. */
Test(backend_sim, unused_script_is_freed)
{
    static int fd;
    start(1);
    cr_assert_eq(pyl_sim_at(&reactor, PYL_NEVER_NS, act, &fd), 0);
    pyl_alloc_inject_failure(1, 0);
    cr_assert_eq(pyl_sim_at(&reactor, PYL_NEVER_NS, act, &fd), -ENOMEM);
    pyl_alloc_inject_failure(2, 0);
    pyl_alloc_inject_failure(0, 0);
    pyl_reactor_fini(&reactor);
    cr_assert_eq(acts, 0);
}

/* Ten connections that talk; returns a hash of all events and their times. */
static uint64_t
run_world(uint64_t seed)
{
    enum { PAIRS = 10 };
    static struct pyl_op ops[PAIRS];
    static const uint8_t data[5000];
    int fds[PAIRS][2];
    start(seed);
    for (int i = 0; i < PAIRS; i++) {
        cr_assert_eq(pyl_sim_pair(&reactor, 0, fds[i]), 0);
        submit(&ops[i], PYL_OP_RECV, fds[i][0]);
        cr_assert_eq(pyl_sim_write(&reactor, fds[i][1], data, sizeof(data)), sizeof(data));
        cr_assert_eq(pyl_sim_shutdown(&reactor, fds[i][1]), 0);
    }
    while (terminals < PAIRS) {
        turn(PYL_NS_PER_S);
    }
    for (int i = 0; i < PAIRS; i++) {
        pyl_sim_close(&reactor, fds[i][0], false);
        pyl_sim_close(&reactor, fds[i][1], false);
    }
    cr_assert_eq(pyl_sim_fd_count(&reactor), 0);
    pyl_reactor_fini(&reactor);
    return trace;
}

/* Goal: one seed is one history; other seeds are others. */
Test(backend_sim, seed_decides_everything)
{
    uint64_t first = run_world(1);
    cr_assert_eq(run_world(1), first);
    int different = 0;
    for (uint64_t seed = 2; seed < 12; seed++) {
        different += run_world(seed) != first;
    }
    cr_assert_eq(different, 10);
}

/* Goal: starved receives are late, never lost, and a wait without a limit does not hang on them. */
Test(backend_sim, starvation_only_delays)
{
    static struct pyl_op op;
    int fds[2];
    start(3);
    pyl_sim_set_faults(&reactor, &(struct pyl_sim_faults){.starve = 200});
    cr_assert_eq(pyl_sim_pair(&reactor, 0, fds), 0);
    submit(&op, PYL_OP_RECV, fds[0]);
    for (int i = 1; i <= 50; i++) {
        cr_assert_eq(pyl_sim_write(&reactor, fds[1], "x", 1), 1);
        while (calls < i) {
            turn(-1);
        }
    }
    cr_assert_gt(atomic_load(&reactor.stats.starvations), 0);
    pyl_reactor_drop(&reactor);
}

/* Goal: an injected reset reaches both sides, once as an error and then as the end. */
Test(backend_sim, injected_reset)
{
    static struct pyl_op op;
    int fds[2];
    uint8_t byte;
    start(1);
    pyl_sim_set_faults(&reactor, &(struct pyl_sim_faults){.reset = 255});
    cr_assert_eq(pyl_sim_pair(&reactor, 0, fds), 0);
    submit(&op, PYL_OP_RECV, fds[0]);
    cr_assert_eq(pyl_sim_write(&reactor, fds[1], "x", 1), 1);
    while (terminals == 0) {
        turn(PYL_NS_PER_S);
    }
    cr_assert_eq(last_result, -ECONNRESET);
    cr_assert_eq(pyl_sim_read(&reactor, fds[0], &byte, 1), 0);
    cr_assert_eq(pyl_sim_write(&reactor, fds[0], "x", 1), -EPIPE);
    cr_assert_eq(pyl_sim_read(&reactor, fds[1], &byte, 1), -ECONNRESET);
    pyl_reactor_fini(&reactor);
}

/* Goal: early, empty returns of wait happen when asked for, and an op still completes. */
Test(backend_sim, early_returns)
{
    start(1);
    pyl_sim_set_faults(&reactor, &(struct pyl_sim_faults){.early_wait = 128});
    int early = 0;
    for (int i = 0; i < 100; i++) {
        int64_t start_ns = pyl_reactor_now_ns(&reactor);
        turn(PYL_NS_PER_S);
        early += pyl_reactor_now_ns(&reactor) - start_ns < PYL_NS_PER_S;
    }
    cr_assert_gt(early, 10);
    cr_assert_lt(early, 90);
    pyl_reactor_fini(&reactor);
}

/* Goal: an accept without memory ends the op and does not leak the connection. */
Test(backend_sim, accept_without_memory)
{
    static struct pyl_op op;
    struct sockaddr_storage address;
    socklen_t size;
    start(1);
    pyl_sim_set_faults(&reactor, &(struct pyl_sim_faults){.no_memory = 255});
    int listener = pyl_sim_listen(&reactor, &address, &size);
    int peer = pyl_sim_socket(&reactor);
    cr_assert_eq(pyl_sim_connect(&reactor, peer, (struct sockaddr *)&address, size), 0);
    submit(&op, PYL_OP_ACCEPT, listener);
    while (terminals == 0) {
        turn(PYL_NS_PER_S);
    }
    cr_assert_eq(last_result, -ENOMEM);
    cr_assert_eq(pyl_sim_fd_count(&reactor), 2);
    pyl_reactor_fini(&reactor);
}

/* Goal: data that was sent before a close arrives after it; unread data at a close is a reset. */
Test(backend_sim, close_is_orderly_or_not)
{
    int fds[2];
    uint8_t bytes[8];
    start(1);
    cr_assert_eq(pyl_sim_pair(&reactor, 0, fds), 0);
    cr_assert_eq(pyl_sim_write(&reactor, fds[1], "bye", 3), 3);
    pyl_sim_close(&reactor, fds[1], false);
    pyl_sim_advance(&reactor, PYL_NS_PER_S);
    cr_assert_eq(pyl_sim_read(&reactor, fds[0], bytes, sizeof(bytes)), 3);
    cr_assert_eq(pyl_sim_read(&reactor, fds[0], bytes, sizeof(bytes)), 0);
    pyl_sim_close(&reactor, fds[0], false);

    cr_assert_eq(pyl_sim_pair(&reactor, 0, fds), 0);
    cr_assert_eq(pyl_sim_write(&reactor, fds[1], "unread", 6), 6);
    pyl_sim_close(&reactor, fds[0], false);
    pyl_sim_advance(&reactor, PYL_NS_PER_S);
    cr_assert_eq(pyl_sim_read(&reactor, fds[1], bytes, sizeof(bytes)), -ECONNRESET);
    pyl_reactor_fini(&reactor);
}

/* Goal: the lowest free number is given out again, as a kernel does. */
Test(backend_sim, numbers_are_reused)
{
    int fds[2];
    start(1);
    cr_assert_eq(pyl_sim_pair(&reactor, 0, fds), 0);
    int first = fds[0];
    pyl_sim_close(&reactor, fds[0], false);
    cr_assert_eq(pyl_sim_socket(&reactor), first);
    for (int i = 0; i < 100; i++) {
        cr_assert_geq(pyl_sim_socket(&reactor), first);
    }
    cr_assert_eq(pyl_sim_fd_count(&reactor), 102);
    pyl_reactor_fini(&reactor);
}

/* Goal: every allocation of a small world may fail without a crash or a leak. */
Test(backend_sim, without_memory)
{
    for (uint64_t nth = 1; nth < 60; nth++) {
        static struct pyl_op op;
        int fds[2] = {-1, -1};
        start(1);
        pyl_alloc_inject_failure(nth, 0);
        int rc = pyl_sim_pair(&reactor, 0, fds);
        if (rc == 0) {
            submit(&op, PYL_OP_RECV, fds[0]);
            for (int i = 0; i < 10; i++) {
                (void)pyl_sim_write(&reactor, fds[1], "abcdefgh", 8);
                turn(PYL_NS_PER_MS);
                if (pyl_op_is_idle(&op)) {
                    submit(&op, PYL_OP_RECV, fds[0]);
                }
            }
        } else {
            cr_assert_eq(rc, -ENOMEM);
        }
        pyl_alloc_inject_failure(0, 0);
        pyl_reactor_drop(&reactor);
    }
}
