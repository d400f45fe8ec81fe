/*
 * strand.h - a serial queue of jobs: they run one after the other, in the order of posting per
 * poster, on whichever worker the strand is, and never on two at once. The unit that a runtime
 * places, steals and keeps serial.
 *
 * A new strand may be run by any worker. The one that runs its first job becomes its home, and from
 * then on it stays there.
 *
 *   RESTING --post--> SCHEDULED --a worker runs it--> RUNNING --no job left--> RESTING
 *                         ^                              |
 *                         +-- posted meanwhile, or its time is used up
 *
 * Embedded in its owner's object, which lives until on_ended.
 */
#ifndef PYL_SCHED_STRAND_H
#define PYL_SCHED_STRAND_H

#include "base/list.h"
#include "sched/job.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PYL_STRAND_BUDGET_NS INT64_C(25000) /* one activation; then the others are served */

struct pyl_lane;
struct pyl_strand;

struct pyl_strand_ops {
    /* The runtime stops: the strand is to end soon by pyl_strand_end(). On its home, between two
     * jobs, once; before the first job of a strand that had not begun. May post. NULL: it ends by
     * itself. */
    void (*on_stop)(struct pyl_strand *strand);
    /* Last call, on its home: the memory is the callee's. */
    void (*on_ended)(struct pyl_strand *strand);
};

struct pyl_strand {
    const struct pyl_strand_ops *ops;
    /* Constant once spawned: a lane that begins it does not hand it over to a lighter one. For what
     * is bound to something that stays, and counted there; thieves may still take it. */
    bool is_bound;
    /* Posted jobs, latest first, or the mark of a RESTING strand. Any thread, read-modify-write
     * only: the push and the change of state are one operation, so a poster is done with the strand
     * then, unless it has to schedule it. See sched/README.md. */
    _Atomic(struct pyl_inbox_node *) posted;

    /* Whoever holds the strand: the poster that found it RESTING, the queue it is in, its runner.
     */
    struct pyl_job_queue jobs;
    bool is_running;    /* checks that the above is so */
    bool is_ended;      /* pyl_strand_end() was called */
    int64_t queued_ns;  /* when it was scheduled */
    struct pyl_job job; /* its place in a queue of strands: injector, ready queue, inbox of home */

    struct pyl_lane
        *home; /* NULL until the first activation, then constant; published by `posted` */
    struct pyl_list live; /* home only: lane->strands */
};

/* A strand that belongs to no runtime yet: pyl_runtime_spawn() gives it to one. */
void pyl_strand_init(struct pyl_strand *strand, const struct pyl_strand_ops *ops);

/* The job runs in the strand, later. The job must not be queued. After the end it does not run any
 * more: see pyl_strand_take_rest(). Any thread, as long as the strand's memory lives. */
void pyl_strand_post(struct pyl_strand *strand, struct pyl_job *job);

/* No job runs any more, not even one posted; on_ended follows when the current job returns. Inside
 * a job of the strand. */
void pyl_strand_end(struct pyl_strand *strand);

/* What was posted and never run, after the end: appended to `ret_jobs`. Nobody posts any more. */
void pyl_strand_take_rest(struct pyl_strand *strand, struct pyl_job_queue *ret_jobs);

enum pyl_strand_outcome {
    PYL_STRAND_RESTS, /* no job left: somebody may have scheduled it again already */
    PYL_STRAND_AGAIN, /* SCHEDULED, and the caller's to queue */
    PYL_STRAND_ENDED, /* the caller calls on_ended */
};

/* For the lane: one activation of a SCHEDULED strand that is in no queue, from start_ns until its
 * jobs or its time are used up. *ret_now_ns is when that was. */
enum pyl_strand_outcome pyl_strand_run(struct pyl_strand *strand, struct pyl_lane *lane,
                                       int64_t start_ns, int64_t *ret_now_ns);

#endif
