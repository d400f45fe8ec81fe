/*
 * injector.h - the queue that all workers of a runtime share: strands from threads that are no
 * workers, and what a full run queue cannot take. A lock and a list: it is off the normal path.
 *
 * Any thread.
 */
#ifndef PYL_SCHED_INJECTOR_H
#define PYL_SCHED_INJECTOR_H

#include "sched/job.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct pyl_injector {
    pthread_mutex_t lock;
    struct pyl_job_queue queue; /* guarded by lock, oldest first */
    bool is_closed;             /* guarded by lock: no more from outside */
    uint64_t outside;           /* guarded by lock: admitted by pyl_injector_admit() */
    _Atomic uint32_t depth;     /* written under the lock (seq_cst), read by anyone */
};

/* Returns 0 or -errno. */
PYL_NODISCARD int pyl_injector_init(struct pyl_injector *injector);
/* The queue is empty. */
void pyl_injector_fini(struct pyl_injector *injector);

/* Appends all jobs of `chain`, in order, and empties it. */
void pyl_injector_push(struct pyl_injector *injector, struct pyl_job_queue *chain);

/* Moves at most `limit` of the oldest to the end of `into`. Returns how many. */
uint32_t pyl_injector_take(struct pyl_injector *injector, uint32_t limit,
                           struct pyl_job_queue *into);

/* Counts something that comes from outside the workers. Returns false after pyl_injector_close(),
 * and then it must not come. */
PYL_NODISCARD bool pyl_injector_admit(struct pyl_injector *injector);

/* Nothing is admitted any more when this returns. */
void pyl_injector_close(struct pyl_injector *injector);

/* How many were admitted; final after pyl_injector_close(). */
uint64_t pyl_injector_admitted(struct pyl_injector *injector);

/* Ordered after the caller's earlier sequentially consistent operations: see pyl_idle_enter(). */
static inline uint32_t
pyl_injector_depth(const struct pyl_injector *injector)
{
    return atomic_load_explicit(&injector->depth, memory_order_seq_cst);
}

#endif
