/*
 * strand.c - the state of a strand, and its activation.
 *
 * Invariant: RESTING, and in no queue; or held by exactly one of: the poster that found it RESTING,
 * one queue of strands, one worker that runs it.
 */
#include "sched/strand.h"

#include "base/check.h"
#include "sched/lane.h"

/* tidy: global because it is a mark: its address says RESTING, and nobody reads it. */
static struct pyl_inbox_node resting_mark;

void
pyl_strand_init(struct pyl_strand *strand, const struct pyl_strand_ops *ops)
{
    *strand = (struct pyl_strand){.ops = ops};
    atomic_init(&strand->posted, NULL);
    pyl_list_init(&strand->live);
}

void
pyl_strand_post(struct pyl_strand *strand, struct pyl_job *job)
{
    const struct pyl_lane *lane = pyl_lane_current();
    if (lane != NULL && lane->current == strand) {
        pyl_job_queue_push(&strand->jobs, job);
        return;
    }
    struct pyl_inbox_node *top = atomic_load_explicit(&strand->posted, memory_order_relaxed);
    do {
        job->link.next = top == &resting_mark ? NULL : top;
        /* Release publishes the job; acquire gets what the last activation left, `home` at first.
         */
    } while (!atomic_compare_exchange_weak_explicit(&strand->posted, &top, &job->link,
                                                    memory_order_acq_rel, memory_order_relaxed));
    if (top == &resting_mark) {
        pyl_lane_schedule(strand);
    }
}

void
pyl_strand_end(struct pyl_strand *strand)
{
    strand->is_ended = true;
}

/* Appends what was posted, oldest first, behind what was posted from inside. */
static void
take_posted(struct pyl_strand *strand)
{
    if (atomic_load_explicit(&strand->posted, memory_order_relaxed) == NULL) {
        return; /* it cannot be RESTING: only the runner makes it so */
    }
    struct pyl_inbox_node *node =
        pyl_inbox_reverse(atomic_exchange_explicit(&strand->posted, NULL, memory_order_acquire));
    while (node != NULL) {
        struct pyl_inbox_node *next = node->next;
        pyl_job_queue_push(&strand->jobs, PYL_CONTAINER_OF(node, struct pyl_job, link));
        node = next;
    }
}

void
pyl_strand_take_rest(struct pyl_strand *strand, struct pyl_job_queue *ret_jobs)
{
    take_posted(strand);
    pyl_job_queue_append(ret_jobs, &strand->jobs);
}

/* Returns false if something was posted meanwhile: then the strand stays the caller's. */
static bool
begin_rest(struct pyl_strand *strand)
{
    struct pyl_inbox_node *expected = NULL;
    /* Release hands the strand to the poster that finds it RESTING. */
    return atomic_compare_exchange_strong_explicit(&strand->posted, &expected, &resting_mark,
                                                   memory_order_release, memory_order_relaxed);
}

enum pyl_strand_outcome
pyl_strand_run(struct pyl_strand *strand, struct pyl_lane *lane, int64_t start_ns,
               int64_t *ret_now_ns)
{
    PYL_CHECK(!strand->is_running);
    strand->is_running = true;
    take_posted(strand);
    int64_t now_ns = start_ns;
    struct pyl_job *job;
    while (now_ns - start_ns < PYL_STRAND_BUDGET_NS &&
           (job = pyl_job_queue_pop(&strand->jobs)) != NULL) {
        job->run(job);
        now_ns = pyl_reactor_now_ns(&lane->worker.reactor);
        if (strand->is_ended) {
            *ret_now_ns = now_ns;
            return PYL_STRAND_ENDED;
        }
    }
    *ret_now_ns = now_ns;
    strand->is_running = false;
    bool may_rest = strand->jobs.count == 0;
    return may_rest && begin_rest(strand) ? PYL_STRAND_RESTS : PYL_STRAND_AGAIN;
}
