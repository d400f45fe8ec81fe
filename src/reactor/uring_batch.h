/*
 * uring_batch.h - when does a wait hold out for more than one completion?
 *
 * A server with hundreds of talkative connections, a little faster than its clients, sleeps after
 * every few messages, and each sleep costs both sides a system call, a wake-up and a switch. Since
 * Linux 6.12 a wait may ask for many completions and settle for one after a while
 * (io_uring_enter(2), min_wait_usec). It costs latency, so it is for the moment that has shown it
 * is one of many messages, and only if everyone heard from had been quiet for many rounds: then a
 * batch is a small part of those in conversation, and nobody who sends message by message, a
 * database connection among a thousand idle clients, say, is kept waiting.
 *
 * Tested by tests/unit/reactor/test_uring_batch.c.
 */
#ifndef PYL_REACTOR_URING_BATCH_H
#define PYL_REACTOR_URING_BATCH_H

#include "base/clock.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    PYL_URING_BATCH_MORE = 8,     /* receives to hold out for, beside what was just asked for */
    PYL_URING_BATCH_RECEIVED = 3, /* since the sleep before: less is no crowd */
    PYL_URING_BATCH_GAP = 16,     /* rounds between two messages of one connection */
    PYL_URING_BATCH_WAIT_US = 20, /* less than the messages of a crowd take; the kernel may add
                                   * the thread's timer slack, 50 us (prctl(2)) */
};

/* A shorter wait than this is the caller's own kind of holding out, or a timer that is near. */
#define PYL_URING_BATCH_TIMEOUT_MIN_NS PYL_NS_PER_MS

/* Owner thread only. */
struct pyl_uring_batch {
    bool is_supported; /* by the kernel */
    uint32_t received; /* deliveries since the last sleep */
    uint32_t gap;      /* the fewest rounds since its op's delivery before, of any of them */
};

/* A RECV op delivers, `gap` rounds after it last did, or was submitted. */
static inline void
pyl_uring_batch_note(struct pyl_uring_batch *batch, uint32_t gap)
{
    if (batch->received == 0 || gap < batch->gap) {
        batch->gap = gap;
    }
    batch->received++;
}

/* Before a sleep of `timeout_ns` (negative: without end): shall it hold out? Forgets what was
 * noted. */
static inline bool
pyl_uring_batch_begin_sleep(struct pyl_uring_batch *batch, int64_t timeout_ns)
{
    bool is_crowd = batch->is_supported && batch->received >= PYL_URING_BATCH_RECEIVED &&
                    batch->gap >= PYL_URING_BATCH_GAP;
    batch->received = 0;
    return is_crowd && (timeout_ns < 0 || timeout_ns >= PYL_URING_BATCH_TIMEOUT_MIN_NS);
}

#endif
