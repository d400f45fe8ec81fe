/*
 * idle.h - which workers sleep and how many search for work: decides who searches, who is woken,
 * and who has to look once more before it sleeps. The argument that no wake-up is lost:
 * sched/README.md.
 *
 * Changes are made under a lock, because each of them stands beside a system call; that nobody
 * needs to be woken, which is the normal case of a busy runtime, is found with two loads.
 */
#ifndef PYL_SCHED_IDLE_H
#define PYL_SCHED_IDLE_H

#include "base/platform.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { PYL_IDLE_WORKERS_MAX = 64 };

struct pyl_idle {
    pthread_mutex_t lock;
    uint32_t worker_count;     /* constant after init */
    _Atomic uint64_t sleepers; /* bit per worker; stored under lock (seq_cst), loaded by anyone */
    _Atomic uint64_t
        watchers; /* bit per worker; read-modify-write by it (seq_cst), loaded by anyone */
    _Atomic uint32_t searching; /* the same: how many search, watchers included */
};

/* worker_count: 1 to PYL_IDLE_WORKERS_MAX. Returns 0 or -errno. */
PYL_NODISCARD int pyl_idle_init(struct pyl_idle *idle, uint32_t worker_count);
/* No worker uses it any more. */
void pyl_idle_fini(struct pyl_idle *idle);

/* A worker that runs wants to search. Returns false when half of the workers (at least one) search
 * already. After true: pyl_idle_end_search() or pyl_idle_enter(). */
PYL_NODISCARD bool pyl_idle_begin_search(struct pyl_idle *idle);

/* The search is over, the worker runs. Returns true if nobody searches any more: who found
 * something then wakes one more worker by pyl_idle_claim(). */
PYL_NODISCARD bool pyl_idle_end_search(struct pyl_idle *idle);

/* The worker is about to sleep; ends its search. Returns true if nobody searches any more: then the
 * caller must look at everything once more before it sleeps. */
PYL_NODISCARD bool pyl_idle_enter(struct pyl_idle *idle, uint32_t worker, bool is_searching);

/* The worker runs again. Returns true if it was claimed in between: it is searching then. */
PYL_NODISCARD bool pyl_idle_leave(struct pyl_idle *idle, uint32_t worker);

/* A searcher is about to wait for a short time with its search unfinished: meanwhile nobody else is
 * woken for work that can wait. It looks at urgent work once more before it waits. */
void pyl_idle_watch(struct pyl_idle *idle, uint32_t worker);
/* The wait is over, the search goes on. */
void pyl_idle_unwatch(struct pyl_idle *idle, uint32_t worker);

/*
 * There is new work for any worker, published before by a sequentially consistent store.
 * `is_urgent`: nobody else will see to it. Returns true if *ret_worker must be woken for it: a
 * sleeper, which counts as searching from now on, or for urgent work a watcher.
 *
 * Thread: any.
 */
PYL_NODISCARD bool pyl_idle_claim(struct pyl_idle *idle, bool is_urgent, uint32_t *ret_worker);

#endif
