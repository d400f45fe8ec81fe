/*
 * baton.h - who of several threads may wait for the GIL next: first come, first served, so that at
 * most one of them does. For embedders with one lock (the GIL).
 *
 * A turn: take the baton, wait for the GIL, note that it is there, run, give the GIL away, pass the
 * baton. Whoever has the GIL may keep it for long, or give it away in the middle (a blocking call
 * in a callback) and wait for another of the threads there. So the first in the line takes the
 * baton over from a holder that got the GIL wait_ns ago or more; what that one passes later is not
 * the baton any more. While the holder still waits for the GIL nobody takes it over: that would be
 * two who wait for the GIL.
 */
#ifndef PYL_SCHED_BATON_H
#define PYL_SCHED_BATON_H

#include "base/clock.h"
#include "base/list.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct pyl_baton {
    int64_t wait_ns; /* constant */
    pthread_mutex_t lock;
    struct pyl_list waiters; /* guarded by lock; first comes first */
    uint64_t last_ticket;    /* guarded by lock */
    _Atomic uint64_t holder; /* its ticket, 0: none; written under lock, read by anyone relaxed */
    _Atomic uint32_t wanted; /* how many wait; written under lock, read by anyone relaxed */
    /* PYL_NEVER_NS while the holder waits for the GIL (stored under lock). Then when it got it, or
     * 0: nobody was waiting (stored by the holder, release; read under lock, acquire). */
    _Atomic int64_t attached_ns;
};

/* 0 or -errno. */
int pyl_baton_init(struct pyl_baton *baton, int64_t wait_ns);
/* Nobody waits for it. */
void pyl_baton_fini(struct pyl_baton *baton);

/* Waits for it, without the GIL. Returns the holder's ticket, never 0. */
uint64_t pyl_baton_take(struct pyl_baton *baton, bool *ret_is_taken_over);
/* Gives it to whoever waits longest, if the ticket is the holder's still. The holder should have
 * given the GIL away, or the next one waits for that. */
void pyl_baton_pass(struct pyl_baton *baton, uint64_t ticket);

static inline bool
pyl_baton_is_wanted(const struct pyl_baton *baton)
{
    return atomic_load_explicit(&baton->wanted, memory_order_relaxed) > 0;
}

/* The holder, once: it has the GIL now. A waiter that it does not see yet counts from its own
 * beginning. */
static inline void
pyl_baton_note_attached(struct pyl_baton *baton)
{
    int64_t now_ns = pyl_baton_is_wanted(baton) ? pyl_clock_now_ns() : 0;
    atomic_store_explicit(&baton->attached_ns, now_ns, memory_order_release);
}

/* Whoever has this ticket should give the GIL away: somebody waits for the baton, or took it over
 * and waits for the GIL. */
static inline bool
pyl_baton_is_due(const struct pyl_baton *baton, uint64_t ticket)
{
    return pyl_baton_is_wanted(baton) ||
           atomic_load_explicit(&baton->holder, memory_order_relaxed) != ticket;
}

#endif
