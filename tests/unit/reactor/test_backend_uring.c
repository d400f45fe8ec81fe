/*
 * test_backend_uring.c - what is io_uring's own: how often the kernel is entered, starvation,
 * small rings. The contract is tested by tests/backend.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "reactor/uring.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAIRS = 40 };

struct receiver {
    struct pyl_op op;
    int peer;
    uint64_t bytes;
    int calls;
    int terminals;
    int32_t last_result;
    uint8_t expected; /* next byte of the pattern 0, 1, 2, ... */
};

static struct pyl_reactor reactor;
static struct receiver receivers[PAIRS];

static void
on_receive(struct pyl_op *op, const struct pyl_event *event)
{
    struct receiver *receiver = PYL_CONTAINER_OF(op, struct receiver, op);
    receiver->calls++;
    receiver->last_result = event->result;
    receiver->terminals += (event->flags & PYL_EVENT_MORE) == 0;
    for (int32_t i = 0; i < event->result && event->data != NULL; i++) {
        cr_assert_eq(event->data[i], receiver->expected++);
        receiver->bytes++;
    }
}

/* A kernel that has io_uring and fails the probe's behaviour test is a failure, or our own bug. */
static void
need_io_uring(char *cause, size_t cause_size)
{
    int rc = pyl_reactor_probe("io_uring", cause, cause_size);
    cr_assert_neq(rc, -ENOTSUP, "%s", cause);
    if (rc < 0) {
        cr_skip_test("SKIPPED: %s", cause);
    }
}

static void
start(const struct pyl_reactor_options *options)
{
    char cause[PYL_REACTOR_CAUSE_SIZE];
    need_io_uring(cause, sizeof(cause));
    struct pyl_reactor_options all = *options;
    all.backend = "io_uring";
    cr_assert_eq(pyl_reactor_init(&reactor, &all, cause, sizeof(cause)), 0, "%s", cause);
}

static void
start_receivers(int count)
{
    for (int i = 0; i < count; i++) {
        int fds[2];
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
        receivers[i].peer = fds[1];
        receivers[i].op =
            (struct pyl_op){.kind = PYL_OP_RECV, .fd = fds[0], .on_complete = on_receive};
        pyl_reactor_submit(&reactor, &receivers[i].op);
    }
}

static void
write_pattern(int i, uint32_t size, uint8_t *next)
{
    uint8_t data[4096];
    for (uint32_t k = 0; k < size; k++) {
        data[k] = (*next)++;
    }
    cr_assert_eq(write(receivers[i].peer, data, size), (ssize_t)size);
}

static void
turn(int64_t timeout_ns)
{
    cr_assert_eq(pyl_reactor_wait(&reactor, timeout_ns), 0);
    pyl_reactor_dispatch(&reactor);
}

static void
finish(void)
{
    pyl_reactor_cancel_all(&reactor);
    for (int i = 0; i < 1000 && reactor.active_count > 0; i++) {
        turn(10 * PYL_NS_PER_MS);
    }
    cr_assert_eq(reactor.active_count, 0);
    pyl_reactor_fini(&reactor);
}

static uint64_t
enters(void)
{
    return atomic_load(&reactor.stats.enters);
}

/* Goal: submitting and waiting are one system call, and a poll without work is none. */
Test(backend_uring, one_enter_per_turn)
{
    uint8_t next = 0;
    start(&(struct pyl_reactor_options){
        .events_max = 64, .ring_entries = 64, .buffer_count = 16, .buffer_size = 64});
    start_receivers(PAIRS);
    turn(0);
    cr_assert_eq(enters(), 1);
    for (int i = 0; i < 10; i++) {
        turn(0);
    }
    cr_assert_eq(enters(), 1);
    for (int i = 0; i < 10; i++) {
        uint64_t before = enters();
        write_pattern(0, 5, &next);
        turn(-1);
        cr_assert_eq(enters(), before + 1);
        cr_assert_eq(receivers[0].bytes, 5u * (unsigned)(i + 1));
    }
    cr_assert_eq(atomic_load(&reactor.stats.rearms), 0);
    finish();
}

static void
turns_until(uint64_t bytes)
{
    while (receivers[0].bytes < bytes) {
        turn(PYL_NS_PER_S);
    }
    cr_assert_eq(receivers[0].bytes, bytes);
}

/* Goal: who fills a buffer gets large pieces from then on, and buffers again when messages are
 * small. */
Test(backend_uring, large_messages_come_in_one_piece)
{
    uint8_t next = 0;
    start(&(struct pyl_reactor_options){
        .events_max = 64, .ring_entries = 64, .buffer_count = 16, .buffer_size = 256});
    start_receivers(1);
    write_pattern(0, 2000, &next);
    turns_until(2000);
    for (int i = 0; i < 5; i++) {
        int calls = receivers[0].calls;
        write_pattern(0, 2000, &next);
        turns_until(2000u * (unsigned)(i + 2));
        cr_assert_eq(receivers[0].calls, calls + 1);
    }
    for (unsigned i = 1; i <= 3; i++) {
        write_pattern(0, 10, &next);
        turns_until(12000 + 10 * i);
    }
    uint64_t rearms = atomic_load(&reactor.stats.rearms);
    for (unsigned i = 1; i <= 5; i++) {
        write_pattern(0, 10, &next);
        turns_until(12030 + 10 * i);
    }
    cr_assert_eq(atomic_load(&reactor.stats.rearms), rearms);
    cr_assert_eq(receivers[0].terminals, 0);
    finish();
}

/* Goal: without memory for the large pieces the small ones do. */
/* Goal: what the last op left in an entry of the ring does not become a part of the next. */
Test(backend_uring, entry_is_empty_whatever_it_held)
{
    static const struct io_uring_sqe empty;
    start(&(struct pyl_reactor_options){
        .events_max = 64, .ring_entries = 64, .buffer_count = 16, .buffer_size = 64});
    struct io_uring_sq *sq = &pyl_uring_of(&reactor)->ring.sq;
    memset(&sq->sqes[sq->sqe_tail & sq->ring_mask], 0xff, sizeof(empty));
    struct io_uring_sqe *sqe = pyl_uring_sqe_get(&reactor);
    cr_assert_eq(memcmp(sqe, &empty, sizeof(empty)), 0);
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data64(sqe, PYL_URING_DATA_IGNORED);
    pyl_reactor_fini(&reactor);
}

Test(backend_uring, large_messages_without_memory)
{
    uint8_t next = 0;
    start(&(struct pyl_reactor_options){
        .events_max = 64, .ring_entries = 64, .buffer_count = 16, .buffer_size = 256});
    start_receivers(1);
    pyl_alloc_inject_failure(1, 1);
    for (unsigned i = 1; i <= 3; i++) {
        write_pattern(0, 2000, &next);
        turns_until(2000 * i);
    }
    pyl_alloc_inject_failure(0, 0);
    cr_assert_geq(receivers[0].calls, 3 * 2000 / 256);
    finish();
}

/* Goal: with far fewer buffers than busy connections every byte arrives, nobody is left out, and no
 * op sees ENOBUFS. */
Test(backend_uring, starved_receivers_all_finish)
{
    enum { ROUNDS = 50, SIZE = 300 };
    uint8_t next[PAIRS] = {0};
    start(&(struct pyl_reactor_options){.buffer_count = 2, .buffer_size = 64});
    start_receivers(PAIRS);
    for (int round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < PAIRS; i++) {
            write_pattern(i, SIZE, &next[i]);
        }
        for (int i = 0; i < PAIRS; i++) {
            while (receivers[i].bytes < (uint64_t)round * SIZE) {
                turn(PYL_NS_PER_S);
                cr_assert_eq(receivers[i].terminals, 0);
            }
        }
    }
    cr_assert_gt(atomic_load(&reactor.stats.starvations), 0);
    finish();
}

static void
exchange(int count, uint8_t *next)
{
    uint64_t expected[PAIRS];
    for (int i = 0; i < count; i++) {
        expected[i] = receivers[i].bytes + 10;
        write_pattern(i, 10, &next[i]);
    }
    for (int i = 0; i < count; i++) {
        while (receivers[i].bytes < expected[i]) {
            turn(PYL_NS_PER_S);
        }
    }
}

/* Goal: as many buffers as there are messages at once, so that none has to wait for one; and no
 * more than needed when the crowd has gone. Nothing is lost on the way, in a trim begun anew by
 * another crowd either. */
Test(backend_uring, buffers_become_as_many_as_needed)
{
    enum { FEW = 4, QUIET_ROUNDS = 8 * 1024 };
    uint8_t next[PAIRS] = {0};
    start(&(struct pyl_reactor_options){.buffer_count = FEW, .buffer_size = 64});
    const struct pyl_uring_buffers *buffers = &pyl_uring_of(&reactor)->buffers;
    start_receivers(PAIRS);
    for (int crowd = 0; crowd < 3; crowd++) {
        for (int i = 0; i < 10; i++) {
            exchange(PAIRS, next);
        }
        uint64_t starvations = atomic_load(&reactor.stats.starvations);
        cr_assert_gt(starvations, 0);
        exchange(PAIRS, next);
        if (!PYL_TINY_LIMITS) {
            cr_assert_eq(atomic_load(&reactor.stats.starvations), starvations);
            cr_assert_gt(buffers->count, FEW); /* a kernel may complete 20 at a time only */
        }
        for (int i = 0; i < QUIET_ROUNDS && (crowd > 0 || buffers->keep == buffers->count); i++) {
            exchange(1, next);
        }
        if (crowd == 0) {
            cr_assert_lt(buffers->keep, buffers->count); /* the next crowd comes in the middle */
        } else {
            cr_assert_eq(buffers->count, FEW);
        }
    }
    finish();
}

/* Goal: a ring and an event array smaller than the number of ops lose nothing. */
Test(backend_uring, tiny_ring)
{
    uint8_t next[PAIRS] = {0};
    start(&(struct pyl_reactor_options){
        .ring_entries = 2, .events_max = 3, .buffer_count = 4, .buffer_size = 128});
    start_receivers(PAIRS);
    for (int i = 0; i < PAIRS; i++) {
        write_pattern(i, 1000, &next[i]);
    }
    for (int i = 0; i < PAIRS; i++) {
        while (receivers[i].bytes < 1000) {
            turn(PYL_NS_PER_S);
        }
    }
    finish();
    for (int i = 0; i < PAIRS; i++) {
        cr_assert_eq(receivers[i].terminals, 1);
        cr_assert_eq(receivers[i].last_result, -ECANCELED);
    }
}

/* Goal: a cancelled op that has completions left in the backlog delivers them first, then ends. */
Test(backend_uring, cancel_with_backlog)
{
    uint8_t next = 0;
    start(&(struct pyl_reactor_options){.buffer_count = 16, .buffer_size = 64});
    start_receivers(1);
    turn(0);
    write_pattern(0, 640, &next);
    turn(PYL_NS_PER_S);
    cr_assert_eq(receivers[0].bytes, 64);
    pyl_reactor_cancel(&reactor, &receivers[0].op);
    while (receivers[0].terminals == 0) {
        int calls = receivers[0].calls;
        turn(PYL_NS_PER_S);
        cr_assert_leq(receivers[0].calls, calls + 1);
    }
    cr_assert_eq(receivers[0].last_result, -ECANCELED);
    uint64_t rest = 640 - receivers[0].bytes;
    pyl_reactor_submit(&reactor, &receivers[0].op);
    receivers[0].terminals = 0;
    while (receivers[0].bytes < 640) {
        turn(PYL_NS_PER_S);
    }
    cr_assert_lt(rest, 640);
    finish();
}

/* Goal: wrong buffer counts are refused. */
Test(backend_uring, options_are_checked)
{
    static const uint32_t counts[] = {3, 65536};
    char cause[PYL_REACTOR_CAUSE_SIZE];
    need_io_uring(cause, sizeof(cause));
    for (size_t i = 0; i < 2; i++) {
        struct pyl_reactor_options options = {.backend = "io_uring", .buffer_count = counts[i]};
        cr_assert_eq(pyl_reactor_init(&reactor, &options, cause, sizeof(cause)), -EINVAL);
    }
}

static void *
run_and_leave(void *argument)
{
    (void)argument;
    turn(0);
    return NULL;
}

/* Goal: data that waits in the kernel when the owner's thread ends reaches the next owner, also
 * when receivers were starved. */
Test(backend_uring, next_owner_loses_nothing)
{
    uint8_t next[PAIRS] = {0};
    start(&(struct pyl_reactor_options){.ring_entries = 64, .buffer_count = 4, .buffer_size = 64});
    start_receivers(PAIRS);
    for (int round = 1; round <= 5; round++) {
        for (int i = 0; i < PAIRS; i++) {
            write_pattern(i, 200, &next[i]);
        }
        pthread_t thread;
        pthread_create(&thread, NULL, run_and_leave, NULL);
        pthread_join(thread, NULL);
        for (int i = 0; i < PAIRS; i++) {
            while (receivers[i].bytes < (uint64_t)round * 200) {
                turn(PYL_NS_PER_S);
                cr_assert_eq(receivers[i].terminals, 0);
            }
        }
    }
    finish();
}

/* Every one of the receivers gets a message, four in a wait: 20 rounds from one to its next. */
static void
crowd_speaks(uint8_t *next)
{
    enum { AT_ONCE = 4 };
    for (int i = 0; i < PAIRS; i += AT_ONCE) {
        turn(0);
        for (int k = i; k < i + AT_ONCE; k++) {
            write_pattern(k, 3, &next[k]);
        }
        turn(-1);
        for (int k = i; k < i + AT_ONCE; k++) {
            cr_assert_eq(receivers[k].bytes, next[k]);
        }
    }
}

static uint64_t
holdouts(void)
{
    return atomic_load(&reactor.stats.holdouts);
}

static void *
wake_from_thread(void *unused)
{
    (void)unused;
    pyl_reactor_wake(&reactor);
    return NULL;
}

/* Goal: in a crowd a wait holds out for more, and yet ends: with fewer, when another thread wakes
 * it, and at its timeout. */
Test(backend_uring, holds_out_in_a_crowd)
{
    uint8_t next[PAIRS] = {0};
    start(&(struct pyl_reactor_options){.ring_entries = 64, .buffer_count = 64});
    if (!pyl_uring_of(&reactor)->batch.is_supported) {
        pyl_reactor_fini(&reactor);
        cr_skip_test("SKIPPED: io_uring has no min_wait_usec here (Linux 6.12)");
    }
    start_receivers(PAIRS);
    for (int i = 0; i < 5; i++) {
        crowd_speaks(next);
    }
    cr_assert_gt(holdouts(), 20);

    uint64_t before = holdouts();
    int64_t begun_ns = pyl_clock_now_ns();
    turn(5 * PYL_NS_PER_MS);
    cr_assert_geq(pyl_clock_now_ns() - begun_ns, 5 * PYL_NS_PER_MS);
    cr_assert_eq(holdouts(), before + 1);

    crowd_speaks(next);
    before = holdouts();
    pthread_t thread;
    pthread_create(&thread, NULL, wake_from_thread, NULL);
    turn(-1);
    pthread_join(thread, NULL);
    cr_assert_eq(atomic_load(&reactor.stats.wakes), 1);
    cr_assert_eq(holdouts(), before + 1);
    finish();
}

/* Goal: who sends message by message is never kept waiting, whoever else is there; nor is a timer
 * that is near. */
Test(backend_uring, holds_out_for_nobody_alone)
{
    uint8_t next[PAIRS] = {0};
    start(&(struct pyl_reactor_options){.ring_entries = 64, .buffer_count = 64});
    start_receivers(PAIRS);
    for (int i = 0; i < 10 * PAIRS; i++) {
        for (int k = 0; k < 5; k++) {
            int quiet = 1 + (5 * i + k) % (PAIRS - 1);
            write_pattern(quiet, 1, &next[quiet]);
        }
        write_pattern(0, 1, &next[0]);
        turn(-1);
    }
    cr_assert_eq(holdouts(), 0);
    for (int i = 0; i < 100; i++) {
        turn(0);
    }
    for (int i = 0; i < PAIRS; i++) {
        write_pattern(i, 1, &next[i]);
    }
    turn(-1);
    turn(PYL_NS_PER_MS / 2);
    cr_assert_eq(holdouts(), 0);
    finish();
}

/* Goal: without memory for the replacement of the ring the wait says so instead of losing ops. */
Test(backend_uring, next_owner_without_memory)
{
    start(&(struct pyl_reactor_options){0});
    start_receivers(2);
    pthread_t thread;
    pthread_create(&thread, NULL, run_and_leave, NULL);
    pthread_join(thread, NULL);
    pyl_reactor_wake(&reactor);
    pyl_alloc_inject_failure(1, 0);
    cr_assert_eq(pyl_reactor_wait(&reactor, PYL_NS_PER_MS), -ENOMEM);
    pyl_alloc_inject_failure(0, 0);
    uint8_t next = 0;
    write_pattern(1, 10, &next);
    while (receivers[1].bytes < 10) {
        turn(PYL_NS_PER_S);
    }
    finish();
}
