/*
 * lane.h - a worker of a runtime: the worker, the queue of new strands that it runs and others may
 * steal, and what it does before it sleeps. Owner thread only where nothing else is said.
 */
#ifndef PYL_SCHED_LANE_H
#define PYL_SCHED_LANE_H

#include "base/counter.h"
#include "sched/lane_queue.h"
#include "sched/strand.h"
#include "sched/worker.h"

struct pyl_runtime;

#define PYL_LANE_TURN_NS INT64_C(50000) /* of strands, then the reactor is looked at */
/* Of other jobs, which are callbacks and steps of an embedder. More than of strands, so that the
 * turn of a lane with a hundred connections stays whole and its writes leave together; and the end
 * of a turn is where lanes hand the GIL on, which costs two switches of threads. */
#define PYL_LANE_JOBS_NS INT64_C(1000000)
/* A busy lane takes one strand of the injector's for so many activations and turns of its own. */
enum { PYL_LANE_INJECTOR_SHARE = 61 };
/* So much more than twice the load of a late lane makes a lane hand over to it all the same. */
enum { PYL_LANE_LATE_SLACK = 32 };

/* Written by the owner, read by anyone, relaxed where nothing else is said. */
struct pyl_lane_stats {
    _Atomic uint64_t spawned;     /* strands spawned by this lane; stored seq_cst */
    _Atomic uint64_t ended;       /* strands that ended here; stored seq_cst */
    _Atomic uint64_t homes;       /* strands whose home this became or will be; any thread adds */
    _Atomic uint64_t activations; /* of strands */
    _Atomic uint64_t budget_ends; /* activations ended by their time */
    _Atomic uint64_t searches;    /* looks at the other lanes' queues */
    _Atomic uint64_t steals;      /* searches that found something */
    _Atomic uint64_t stolen;      /* strands taken by them */
    _Atomic uint64_t injected;    /* strands taken from the injector */
    _Atomic uint64_t overflowed;  /* strands given to the injector because the queue was full */
    _Atomic uint64_t handed_over; /* new strands given to a lighter lane instead of begun here */
    _Atomic uint64_t watches;     /* short waits for entries to become old enough */
    _Atomic uint64_t coming;      /* guests that are on their way here; any thread adds */
    _Atomic uint64_t guests;      /* what an embedder counts as load beside strands at home */
    struct pyl_duration_histogram queue_delay; /* from scheduled to running */
};

/* What a lane is to pyl_idle. */
enum pyl_lane_mode {
    PYL_LANE_AWAKE,
    PYL_LANE_SEARCHING,
    PYL_LANE_WATCHING, /* waits until the watch timer, searching goes on after that */
    PYL_LANE_SLEEPING,
};

struct pyl_lane {
    struct pyl_worker worker;
    struct pyl_runtime *runtime;
    uint32_t index;
    uint8_t mode;            /* enum pyl_lane_mode */
    bool is_queue_job_ready; /* queue_job is in worker.ready */
    bool may_linger;         /* woken for work in another queue: it may be there in a moment */
    bool is_stop_told;       /* the strands were told that the runtime stops */
    uint64_t injector_debt;  /* activations and turns since the injector was looked at */
    uint64_t activations_seen;
    uint64_t random_state;
    uint32_t
        next_compared; /* how far the lane is whose load pyl_runtime_lighter_than() looked at */
    struct pyl_strand *current;  /* runs now */
    struct pyl_list strands;     /* at home here and not ended */
    struct pyl_job queue_job;    /* runs what is in `queue` */
    struct pyl_timer watch;      /* ends PYL_LANE_WATCHING */
    struct pyl_lane_stats stats; /* any thread reads */

    char owner_pad[PYL_CACHE_LINE];
    struct pyl_lane_queue queue; /* new strands: any lane may steal */
};

/* One more in a counter that the end of a runtime is found by, see pyl_runtime_advance(). Owner. */
static inline void
pyl_lane_count(_Atomic uint64_t *counter)
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, value + 1, memory_order_seq_cst);
}

/* Takes one back that was counted and is none. Owner. */
static inline void
pyl_lane_uncount(_Atomic uint64_t *counter)
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, value - 1, memory_order_seq_cst);
}

/* Returns 0 or what pyl_worker_init() returns, with the cause. Any thread. */
PYL_NODISCARD int pyl_lane_init(struct pyl_lane *lane, struct pyl_runtime *runtime, uint32_t index,
                                uint64_t seed, const struct pyl_reactor_options *options,
                                char *cause, size_t cause_size);
/* Frees it. Strands that are left are forgotten. If the lane was turned, pyl_worker_drain() came
 * before it in its thread; then any thread may call this. */
void pyl_lane_fini(struct pyl_lane *lane);

/* One turn: look, turn the worker, settle, advance the end. 0 or the reactor's fatal -errno. */
PYL_NODISCARD int pyl_lane_turn(struct pyl_lane *lane);

/* Looks for work if there is none. Returns true if there is nothing, and the lane counts as
 * sleeping or watching: pyl_worker_turn() may then block. pyl_lane_settle() follows after that. */
PYL_NODISCARD bool pyl_lane_look(struct pyl_lane *lane);
/* After the worker's turn: the lane is awake, or searches because it was woken for that. */
void pyl_lane_settle(struct pyl_lane *lane);

/* The lane that runs in this thread, or NULL. */
struct pyl_lane *pyl_lane_current(void);
/* This thread runs the lane from now on; NULL: none. */
void pyl_lane_set_current(struct pyl_lane *lane);

/* A SCHEDULED strand that has a home is queued there. Any thread. */
void pyl_lane_schedule(struct pyl_strand *strand);
/* A SCHEDULED strand without a home is queued here, where any lane may steal it. */
void pyl_lane_push(struct pyl_lane *lane, struct pyl_strand *strand);

/* A SCHEDULED strand without a home gets this one at once. Any thread. */
void pyl_lane_place(struct pyl_lane *lane, struct pyl_strand *strand);
/* The runtime stops: calls on_stop of the strands that are at home here, and of those to come. */
void pyl_lane_tell_stop(struct pyl_lane *lane);

/* steal.c: takes new strands from other lanes. Returns true if it found some; else *ret_mature_ns
 * is when the oldest one that it saw may be taken, INT64_MAX if it saw none. The lane is searching,
 * its own queue is empty. */
PYL_NODISCARD bool pyl_steal(struct pyl_lane *lane, int64_t *ret_mature_ns);
/* steal.c: takes up to `limit` strands from the injector into the empty queue. Returns how many. */
uint32_t pyl_steal_injected(struct pyl_lane *lane, uint32_t limit);
/* The queue is not empty: it will be run. For steal.c. */
void pyl_lane_ready_queue(struct pyl_lane *lane);

#endif
