/*
 * blocking.h - a pool of threads for calls that block: name resolution, executor jobs, files.
 *
 * Threads are started on demand up to a limit and end after being idle for a while. A work item
 * runs on one of them and is then handed back to its worker. All signals are blocked in pool
 * threads. One pool may serve any number of workers.
 */
#ifndef PYL_SCHED_BLOCKING_H
#define PYL_SCHED_BLOCKING_H

#include "base/list.h"
#include "sched/worker.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct pyl_work;

/*
 * IDLE --submit--> QUEUED --a thread takes it--> RUNNING --run() returned--+
 *                     |                                                     |
 *                     +-- pyl_work_cancel, pyl_blocking_close --> CANCELLED +--done()--> IDLE
 */
enum pyl_work_state {
    PYL_WORK_IDLE,
    PYL_WORK_QUEUED,
    PYL_WORK_RUNNING,
    PYL_WORK_CANCELLED,
};

/* Embedded in the object that needs it, which lives until done() is called. Zero before first use.
 */
struct pyl_work {
    /* Set by the submitter. */
    void (*run)(struct pyl_work *work);                /* on a pool thread */
    void (*done)(struct pyl_work *work, bool was_run); /* on the worker, exactly once, later */

    /* Private. */
    struct pyl_blocking_pool *pool;
    struct pyl_worker *worker;
    struct pyl_list link; /* guarded by pool->lock */
    uint8_t state;        /* guarded by pool->lock until job is posted; enum pyl_work_state */
    struct pyl_job job;
};

struct pyl_blocking_options {
    uint32_t threads_max; /* 0: 32 */
    int64_t idle_ns;      /* an idle thread ends after this; 0: 10 s */
    size_t stack_size;    /* 0: the system's */
};

struct pyl_blocking_stats {
    uint32_t threads;
    uint32_t threads_idle; /* those that run no item */
    uint32_t queued;
    uint64_t threads_started;
};

struct pyl_blocking_pool {
    pthread_mutex_t lock;
    struct pyl_blocking_options options;
    struct pyl_list queue;           /* guarded by lock: QUEUED items, oldest first */
    struct pyl_list threads;         /* guarded by lock: running threads */
    struct pyl_list waiting;         /* guarded by lock: those that wait, the last to come last */
    struct pyl_list ended;           /* guarded by lock: threads to be joined */
    struct pyl_list spare;           /* guarded by lock: memory of joined threads */
    struct pyl_blocking_stats stats; /* guarded by lock */
    uint32_t waiting_count;          /* guarded by lock */
    bool is_closing;                 /* guarded by lock */
    bool is_initialized;             /* owner */
};

/* `options` may be NULL. Starts no thread yet. Returns 0 or -errno. */
PYL_NODISCARD int pyl_blocking_init(struct pyl_blocking_pool *pool,
                                    const struct pyl_blocking_options *options);

/*
 * Cancels what has not started, waits for what runs, joins every thread. Blocks as long as the
 * longest run() does. The done() calls are on their way when it returns: each worker concerned
 * takes them in its next turn. Accepts a zeroed or closed pool. Not from a pool thread.
 */
void pyl_blocking_close(struct pyl_blocking_pool *pool);

/* In the child of a fork, where the threads do not exist: forgets them. Work is neither run nor
 * done. The pool may then be initialised anew. */
void pyl_blocking_abandon(struct pyl_blocking_pool *pool);

/*
 * Queues the item; its state must be IDLE.
 *
 * Thread:  any, but done() is called on `worker`, which must still be turning then; and this must
 *          return before pyl_blocking_close() does.
 * Returns: 0; -ECANCELED when the pool is closing; -EAGAIN when the first thread cannot be started.
 *          On failure nothing is kept and done() is not called.
 */
PYL_NODISCARD int pyl_blocking_submit(struct pyl_blocking_pool *pool, struct pyl_worker *worker,
                                      struct pyl_work *work);

/* Takes back an item that has not started: done(work, false) follows, from a job. Returns false,
 * and does nothing, when it is too late. Thread: any, before done() is called. */
bool pyl_work_cancel(struct pyl_work *work);

/* The item whose done() this job calls, or NULL if it is another kind of job: for an owner that
 * ends a worker with items on their way and empties its queues. */
struct pyl_work *pyl_work_of_job(struct pyl_job *job);

/* A consistent copy. Any thread. */
void pyl_blocking_get_stats(struct pyl_blocking_pool *pool, struct pyl_blocking_stats *ret_stats);

#endif
