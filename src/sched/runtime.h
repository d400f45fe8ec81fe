/*
 * runtime.h - N workers that share strands: their threads, where new strands go, and the end.
 *
 * The end has phases, each of which begins when the one before is complete:
 *
 *   RUNNING --pyl_runtime_stop()--> STOPPING   only strands still spawn; every one is
 *                                              told
 *           --the last strand ended--> DRAINED   the blocking pool is closed
 *           --pyl_runtime_join()--> ENDED        each worker drains its reactor on its own thread;
 *                                                threads are joined; memory is freed
 */
#ifndef PYL_SCHED_RUNTIME_H
#define PYL_SCHED_RUNTIME_H

#include "sched/blocking.h"
#include "sched/idle.h"
#include "sched/injector.h"
#include "sched/lane.h"
#include "sched/strand.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PYL_RUNTIME_STEAL_DELAY_NS INT64_C(100000)

/* What an embedder does in the threads of the lanes, each call in the lane's own; all optional. */
struct pyl_runtime_embedder {
    /* In threads that the runtime has made. */
    void (*on_start)(struct pyl_lane *lane, void *user); /* before the first turn */
    void (*on_end)(struct pyl_lane *lane, void *user);   /* ops are drained */
    /* In each lane, after its last turn: all that is left to it is to drain its ops. */
    void (*on_drain)(struct pyl_lane *lane, void *user);
    /* In each lane: no strand runs, a lock may be given to others. */
    void (*after_turn)(struct pyl_lane *lane, void *user);
    struct pyl_worker_hooks wait; /* around waits that block, with its own user */
    void *user;
};

/* Zero means the default everywhere. */
struct pyl_runtime_options {
    uint32_t workers; /* 0: one per processor, at most 64 */
    /* A new strand is stolen when it has waited this long. < 0: it begins where it was spawned. */
    int64_t steal_delay_ns;
    uint64_t seed; /* where searches begin; also each simulated reactor's seed */
    struct pyl_reactor_options reactor;
    struct pyl_blocking_options blocking;
    struct pyl_runtime_embedder embedder;
    /* Lane 0 gets no thread: one of the embedder's calls pyl_runtime_run_first() and join. */
    bool is_first_external;
};

enum pyl_runtime_phase {
    PYL_RUNTIME_RUNNING,
    PYL_RUNTIME_STOPPING,
    PYL_RUNTIME_DRAINED,
    PYL_RUNTIME_ENDED,
};

struct pyl_runtime {
    struct pyl_lane *lanes; /* constant after init, as the next two */
    uint32_t lane_count;
    int64_t steal_delay_ns; /* negative: nothing is stolen */
    struct pyl_idle idle;
    struct pyl_injector injector;
    struct pyl_blocking_pool blocking;
    struct pyl_runtime_embedder embedder; /* constant after init, as the next one */
    bool is_first_external;
    _Atomic uint32_t phase; /* enum pyl_runtime_phase; only grows, under `lock`, seq_cst */
    _Atomic int error;      /* of a reactor beyond use; 0 */
    pthread_mutex_t lock;
    pthread_cond_t is_changed; /* phase has grown */
    /* Read-locked by threads that are no lanes of this runtime, from before they queue a strand at
     * its home until they have woken that: the strand may end meanwhile, and nothing else keeps the
     * lanes. Join takes it for writing, once, when nobody can come any more. */
    pthread_rwlock_t outsiders;
    pthread_t *threads; /* started ones; by start and join only */
    uint32_t thread_count;
};

/*
 * Starts no thread yet: a simulation turns the lanes itself.
 *
 * Thread:  any. `options` may be NULL.
 * Returns: 0; -EINVAL for more than 64 workers; what pyl_reactor_init() returns, with the cause in
 *          `cause` (may be NULL); -ENOMEM. On failure nothing is kept.
 */
PYL_NODISCARD int pyl_runtime_init(struct pyl_runtime *runtime,
                                   const struct pyl_runtime_options *options, char *cause,
                                   size_t cause_size);

/* One thread per lane; all signals are blocked in them. Returns 0; -EAGAIN, and then none is left
 * and pyl_runtime_fini() follows. */
PYL_NODISCARD int pyl_runtime_start(struct pyl_runtime *runtime);

/*
 * Runs lane 0 in the calling thread, with that thread's signals, until `*is_done` is true after a
 * turn or every strand has ended because the runtime stops. May be called again by the same thread.
 *
 * Returns: 0, or the reactor's fatal -errno.
 */
PYL_NODISCARD int pyl_runtime_run_first(struct pyl_runtime *runtime, const bool *is_done);

/* Begins the end; returns at once. Any thread, also a worker; harmless when repeated. */
void pyl_runtime_stop(struct pyl_runtime *runtime);

/* Waits until the runtime was stopped and every strand has ended, closes the blocking pool, joins
 * the threads, and waits for outsiders that are about to wake a lane. Blocks; not on a worker.
 * Returns 0, or the -errno of a reactor that was beyond use:
 * then strands were forgotten without on_ended. pyl_runtime_fini() follows. */
PYL_NODISCARD int pyl_runtime_join(struct pyl_runtime *runtime);

/* After join, or without start. No other thread is in a call on the runtime or will make one, not
 * even one that would be refused; posts to strands that have ended are none. Frees the memory.
 * Accepts a zeroed runtime. */
void pyl_runtime_fini(struct pyl_runtime *runtime);

/*
 * A new strand with its first job. From a worker it goes to that worker's queue, from elsewhere to
 * the injector; whoever runs it first keeps it.
 *
 * Thread:  any.
 * Owns:    on success the runtime has the strand until on_ended.
 * Returns: 0; -ECANCELED when the runtime stops and the caller is no job of a strand of it: nothing
 *          is kept.
 */
PYL_NODISCARD int pyl_runtime_spawn(struct pyl_runtime *runtime, struct pyl_strand *strand,
                                    struct pyl_job *job);

/* The same, with the lane of that index as its home. */
PYL_NODISCARD int pyl_runtime_spawn_on(struct pyl_runtime *runtime, uint32_t index,
                                       struct pyl_strand *strand, struct pyl_job *job);

/* Of two lanes, chosen by `turn`, the index of the one with fewer strands at home and guests;
 * callers count `turn` up, so that equal lanes take turns. Any thread. */
uint32_t pyl_runtime_lighter(const struct pyl_runtime *runtime, uint32_t turn);

/* The next one of the other lanes if it has fewer strands at home and guests than `lane`, and keeps
 * up: it waits, or its turn began no longer ago than the steal delay. A late one must have less
 * than half. Else NULL, also where nothing is stolen. Owner of `lane`. */
struct pyl_lane *pyl_runtime_lighter_than(struct pyl_runtime *runtime, struct pyl_lane *lane);

static inline enum pyl_runtime_phase
pyl_runtime_phase_of(const struct pyl_runtime *runtime)
{
    return (enum pyl_runtime_phase)atomic_load_explicit(&runtime->phase, memory_order_seq_cst);
}

static inline bool
pyl_steal_is_on(const struct pyl_runtime *runtime)
{
    return runtime->lane_count > 1 && runtime->steal_delay_ns >= 0;
}

/* For lanes: there is work for others; wakes one that sleeps if that is useful. Any thread. */
void pyl_runtime_offer(struct pyl_runtime *runtime, bool is_urgent);

/* For lanes: a SCHEDULED strand goes into the inbox of its home, which this thread does not run.
 * Any thread. Strand and runtime may be gone when it returns to one that is no lane. */
void pyl_runtime_queue_home(struct pyl_runtime *runtime, struct pyl_strand *strand);

/* For lanes, after each turn: does the lane's part of the end. Owner of the lane. */
void pyl_runtime_advance(struct pyl_runtime *runtime, struct pyl_lane *lane);

#endif
