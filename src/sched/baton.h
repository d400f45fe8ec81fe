/*
 * baton.h - who of several threads may ask for the GIL next: first come, first served, so that at
 * most one of them waits for the GIL itself. For embedders with one lock (the GIL).
 *
 * Whoever holds the baton may give the GIL away in the middle (a blocking call in a callback). So
 * nobody waits for the baton longer than wait_ns: then it asks for the GIL without, which is slower
 * and never wrong.
 */
#ifndef PYL_SCHED_BATON_H
#define PYL_SCHED_BATON_H

#include "base/list.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct pyl_baton {
    int64_t wait_ns; /* constant */
    pthread_mutex_t lock;
    struct pyl_list waiters; /* guarded by lock; first comes first */
    bool is_held;            /* guarded by lock */
    _Atomic uint32_t wanted; /* how many wait; written under lock, read by anyone relaxed */
};

/* 0 or -errno. */
int pyl_baton_init(struct pyl_baton *baton, int64_t wait_ns);
/* Nobody holds it or waits for it. */
void pyl_baton_fini(struct pyl_baton *baton);

/* Waits for it. Returns false if it took too long: then it is not the caller's. Without the GIL. */
bool pyl_baton_take(struct pyl_baton *baton);
/* Gives it to whoever waits longest. After the GIL was given away. */
void pyl_baton_pass(struct pyl_baton *baton);

static inline bool
pyl_baton_is_wanted(const struct pyl_baton *baton)
{
    return atomic_load_explicit(&baton->wanted, memory_order_relaxed) > 0;
}

#endif
