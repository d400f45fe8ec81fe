/*
 * injector.c - the shared queue behind one lock.
 *
 * Invariant: `depth` is queue.count whenever the lock is free.
 */
#include "sched/injector.h"

static void
publish_depth(struct pyl_injector *injector)
{
    atomic_store_explicit(&injector->depth, (uint32_t)injector->queue.count, memory_order_seq_cst);
}

int
pyl_injector_init(struct pyl_injector *injector)
{
    *injector = (struct pyl_injector){0};
    return -pthread_mutex_init(&injector->lock, NULL);
}

void
pyl_injector_fini(struct pyl_injector *injector)
{
    (void)pthread_mutex_destroy(&injector->lock);
}

void
pyl_injector_push(struct pyl_injector *injector, struct pyl_job_queue *chain)
{
    (void)pthread_mutex_lock(&injector->lock);
    pyl_job_queue_append(&injector->queue, chain);
    publish_depth(injector);
    (void)pthread_mutex_unlock(&injector->lock);
}

uint32_t
pyl_injector_take(struct pyl_injector *injector, uint32_t limit, struct pyl_job_queue *into)
{
    uint32_t count = 0;
    (void)pthread_mutex_lock(&injector->lock);
    struct pyl_job *job;
    while (count < limit && (job = pyl_job_queue_pop(&injector->queue)) != NULL) {
        pyl_job_queue_push(into, job);
        count++;
    }
    publish_depth(injector);
    (void)pthread_mutex_unlock(&injector->lock);
    return count;
}

bool
pyl_injector_admit(struct pyl_injector *injector)
{
    (void)pthread_mutex_lock(&injector->lock);
    bool is_admitted = !injector->is_closed;
    injector->outside += is_admitted;
    (void)pthread_mutex_unlock(&injector->lock);
    return is_admitted;
}

void
pyl_injector_close(struct pyl_injector *injector)
{
    (void)pthread_mutex_lock(&injector->lock);
    injector->is_closed = true;
    (void)pthread_mutex_unlock(&injector->lock);
}

uint64_t
pyl_injector_admitted(struct pyl_injector *injector)
{
    (void)pthread_mutex_lock(&injector->lock);
    uint64_t outside = injector->outside;
    (void)pthread_mutex_unlock(&injector->lock);
    return outside;
}
