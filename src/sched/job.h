/*
 * job.h - a callback that is queued at most once, and the FIFO that holds it. Owner thread only.
 */
#ifndef PYL_SCHED_JOB_H
#define PYL_SCHED_JOB_H

#include "base/inbox.h"

#include <stddef.h>

struct pyl_job;
typedef void pyl_job_fn(struct pyl_job *job);

struct pyl_job {
    pyl_job_fn *run;
    struct pyl_inbox_node link; /* in exactly one of: a job queue, an inbox, nothing */
};

struct pyl_job_queue {
    struct pyl_inbox_node *head;
    struct pyl_inbox_node *tail;
    size_t count;
};

static inline void
pyl_job_queue_push(struct pyl_job_queue *queue, struct pyl_job *job)
{
    job->link.next = NULL;
    if (queue->tail == NULL) {
        queue->head = &job->link;
    } else {
        queue->tail->next = &job->link;
    }
    queue->tail = &job->link;
    queue->count++;
}

static inline struct pyl_job *
pyl_job_queue_pop(struct pyl_job_queue *queue)
{
    struct pyl_inbox_node *node = queue->head;
    if (node == NULL) {
        return NULL;
    }
    queue->head = node->next;
    if (queue->head == NULL) {
        queue->tail = NULL;
    }
    queue->count--;
    return PYL_CONTAINER_OF(node, struct pyl_job, link);
}

/* Moves all of `from` to the end of `queue`. */
static inline void
pyl_job_queue_append(struct pyl_job_queue *queue, struct pyl_job_queue *from)
{
    if (from->head == NULL) {
        return;
    }
    if (queue->tail == NULL) {
        queue->head = from->head;
    } else {
        queue->tail->next = from->head;
    }
    queue->tail = from->tail;
    queue->count += from->count;
    *from = (struct pyl_job_queue){0};
}

#endif
