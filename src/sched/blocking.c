/*
 * blocking.c - the blocking pool. One mutex guards everything, but nobody is woken under it: who is
 * woken may run at once, in the place of the waker, and must not find it held.
 *
 * Threads come one after the other: while one is on its way to the queue (woken, just started, or
 * back from an item) no other is called; when it has taken an item and left others, it calls the
 * next. So many short items do not cost a wake-up each. Of those that wait the last to come is
 * woken first: its caches are warm, and those that are not needed come to their end.
 *
 * Invariants: while items are queued, a thread is on its way, or all run items and no more could be
 * started. stats.threads is the length of `threads`, waiting_count that of `waiting`; a thread is
 * on one of `threads`, `ended` and `spare`, and on `waiting` while it waits and nobody has woken
 * it.
 */
#include "sched/blocking.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

enum { THREADS_DEFAULT = 32 };
#define IDLE_DEFAULT_NS (10 * PYL_NS_PER_S)

/* Lives as long as the pool, because a waker may still be about to signal `wake` when the thread
 * has ended. */
struct pool_thread {
    struct pyl_blocking_pool *pool;
    struct pyl_list link;    /* guarded by pool->lock: in threads, ended or spare */
    struct pyl_list waiting; /* guarded by pool->lock: in pool->waiting, or nowhere */
    pthread_cond_t wake;
    pthread_t id; /* written by pthread_create() while the creator holds the lock */
};

int
pyl_blocking_init(struct pyl_blocking_pool *pool, const struct pyl_blocking_options *options)
{
    memset(pool, 0, sizeof(*pool));
    if (options != NULL) {
        pool->options = *options;
    }
    if (pool->options.threads_max == 0) {
        pool->options.threads_max = THREADS_DEFAULT;
    }
    if (pool->options.idle_ns == 0) {
        pool->options.idle_ns = IDLE_DEFAULT_NS;
    }
    pyl_list_init(&pool->queue);
    pyl_list_init(&pool->threads);
    pyl_list_init(&pool->waiting);
    pyl_list_init(&pool->ended);
    pyl_list_init(&pool->spare);
    int rc = -pthread_mutex_init(&pool->lock, NULL);
    pool->is_initialized = rc == 0;
    return rc;
}

static void
run_done(struct pyl_job *job)
{
    struct pyl_work *work = PYL_CONTAINER_OF(job, struct pyl_work, job);
    /* Nobody writes the state after this job was posted, so no lock is needed to read it. */
    bool was_run = work->state == PYL_WORK_RUNNING;
    work->state = PYL_WORK_IDLE;
    work->done(work, was_run);
}

/* ---- who waits; all under the lock ---- */

static int start_thread(struct pyl_blocking_pool *pool);

static void
end_wait(struct pool_thread *thread)
{
    if (!pyl_list_is_empty(&thread->waiting)) {
        pyl_list_remove(&thread->waiting);
        thread->pool->waiting_count--;
    }
}

/* Sees to it that somebody comes if items are queued. Returns whom to signal once the lock is free,
 * or NULL. */
static pthread_cond_t *
call_thread(struct pyl_blocking_pool *pool)
{
    bool is_one_coming = pool->stats.threads_idle > pool->waiting_count;
    if (is_one_coming || pyl_list_is_empty(&pool->queue)) {
        return NULL;
    }
    if (pyl_list_is_empty(&pool->waiting)) {
        if (pool->stats.threads < pool->options.threads_max) {
            (void)start_thread(pool); /* failed: one of those that run takes it, if there are any */
        }
        return NULL;
    }
    struct pool_thread *thread = PYL_CONTAINER_OF(pool->waiting.prev, struct pool_thread, waiting);
    end_wait(thread);
    return &thread->wake;
}

/* ---- the threads ---- */

/* Under the lock. Returns false when the thread has been idle for too long, or the pool closes. */
static bool
wait_for_work(struct pool_thread *thread)
{
    struct pyl_blocking_pool *pool = thread->pool;
    if (!pyl_list_is_empty(&pool->queue)) {
        return true; /* without a look at the clock */
    }
    int64_t deadline_ns = pyl_clock_after(pyl_clock_now_ns(), pool->options.idle_ns);
    struct timespec deadline = {
        .tv_sec = (time_t)(deadline_ns / PYL_NS_PER_S),
        .tv_nsec = (long)(deadline_ns % PYL_NS_PER_S),
    };
    int rc = 0;
    while (pyl_list_is_empty(&pool->queue) && !pool->is_closing && rc == 0) {
        pyl_list_append(&pool->waiting, &thread->waiting);
        pool->waiting_count++;
        rc = pthread_cond_timedwait(&thread->wake, &pool->lock, &deadline);
        end_wait(thread);
    }
    return !pyl_list_is_empty(&pool->queue);
}

/* Under the lock, which it lets go of meanwhile. */
static void
run_oldest(struct pyl_blocking_pool *pool)
{
    struct pyl_work *work = PYL_CONTAINER_OF(pool->queue.next, struct pyl_work, link);
    struct pyl_worker *worker = work->worker;
    pyl_list_remove(&work->link);
    work->state = PYL_WORK_RUNNING;
    pool->stats.queued--;
    pool->stats.threads_idle--;
    pthread_cond_t *next = call_thread(pool);
    (void)pthread_mutex_unlock(&pool->lock);

    if (next != NULL) {
        (void)pthread_cond_signal(next);
    }
    work->run(work);

    (void)pthread_mutex_lock(&pool->lock);
    pool->stats.threads_idle++; /* before the worker hears of it, and comes with the next item */
    (void)pthread_mutex_unlock(&pool->lock);
    pyl_worker_post_remote(worker, &work->job); /* the item is the worker's from here on */
    (void)pthread_mutex_lock(&pool->lock);
}

static void *
run_thread(void *argument)
{
    struct pool_thread *thread = argument;
    struct pyl_blocking_pool *pool = thread->pool;
    (void)pthread_mutex_lock(&pool->lock);
    while (wait_for_work(thread)) {
        run_oldest(pool);
    }
    pyl_list_remove(&thread->link);
    pyl_list_append(&pool->ended, &thread->link);
    pool->stats.threads--;
    pool->stats.threads_idle--;
    (void)pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static int
init_wake(pthread_cond_t *wake)
{
    pthread_condattr_t attributes;
    int rc = pthread_condattr_init(&attributes);
    if (rc != 0) {
        return -rc;
    }
    rc = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (rc == 0) {
        rc = pthread_cond_init(wake, &attributes);
    }
    (void)pthread_condattr_destroy(&attributes);
    return -rc;
}

/* Under the lock. On `spare`; or NULL. */
static struct pool_thread *
spare_thread(struct pyl_blocking_pool *pool)
{
    if (!pyl_list_is_empty(&pool->spare)) {
        return PYL_CONTAINER_OF(pool->spare.next, struct pool_thread, link);
    }
    struct pool_thread *thread = pyl_alloc_zero(sizeof(*thread));
    if (thread == NULL || init_wake(&thread->wake) < 0) {
        pyl_free(thread);
        return NULL;
    }
    thread->pool = pool;
    pyl_list_init(&thread->waiting);
    pyl_list_append(&pool->spare, &thread->link);
    return thread;
}

/* Under the lock. The new thread is on its way. Returns 0 or -EAGAIN. */
static int
start_thread(struct pyl_blocking_pool *pool)
{
    struct pool_thread *thread = spare_thread(pool);
    pthread_attr_t attributes;
    if (thread == NULL || pthread_attr_init(&attributes) != 0) {
        return -EAGAIN;
    }
    if (pool->options.stack_size != 0) {
        (void)pthread_attr_setstacksize(&attributes, pool->options.stack_size);
    }
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* the new thread inherits it */
    int rc = pthread_create(&thread->id, &attributes, run_thread, thread);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    if (rc != 0) {
        return -EAGAIN;
    }
    pyl_list_remove(&thread->link);
    pyl_list_append(&pool->threads, &thread->link);
    pool->stats.threads++;
    pool->stats.threads_idle++;
    pool->stats.threads_started++;
    return 0;
}

/* Under the lock. They hold it no longer, or are about to let it go for the last time. */
static void
join_ended(struct pyl_blocking_pool *pool)
{
    while (!pyl_list_is_empty(&pool->ended)) {
        struct pool_thread *thread = PYL_CONTAINER_OF(pool->ended.next, struct pool_thread, link);
        (void)pthread_join(thread->id, NULL);
        pyl_list_remove(&thread->link);
        pyl_list_append(&pool->spare, &thread->link);
    }
}

/* ---- items ---- */

int
pyl_blocking_submit(struct pyl_blocking_pool *pool, struct pyl_worker *worker,
                    struct pyl_work *work)
{
    pthread_cond_t *called = NULL;
    (void)pthread_mutex_lock(&pool->lock);
    PYL_DCHECK(work->state == PYL_WORK_IDLE);
    int rc = pool->is_closing ? -ECANCELED : 0;
    if (rc == 0) {
        join_ended(pool);
        rc = pool->stats.threads == 0 ? start_thread(pool) : 0;
    }
    if (rc == 0) {
        work->pool = pool;
        work->worker = worker;
        work->job.run = run_done;
        work->state = PYL_WORK_QUEUED;
        pyl_list_append(&pool->queue, &work->link);
        pool->stats.queued++;
        called = call_thread(pool);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    if (called != NULL) {
        (void)pthread_cond_signal(called);
    }
    return rc;
}

/* Under the lock. */
static void
cancel_queued(struct pyl_work *work)
{
    pyl_list_remove(&work->link);
    work->pool->stats.queued--;
    work->state = PYL_WORK_CANCELLED;
    pyl_worker_post_remote(work->worker, &work->job);
}

bool
pyl_work_cancel(struct pyl_work *work)
{
    struct pyl_blocking_pool *pool = work->pool;
    if (pool == NULL) {
        return false; /* never submitted */
    }
    (void)pthread_mutex_lock(&pool->lock);
    bool is_queued = work->state == PYL_WORK_QUEUED;
    if (is_queued) {
        cancel_queued(work);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return is_queued;
}

struct pyl_work *
pyl_work_of_job(struct pyl_job *job)
{
    return job->run == run_done ? PYL_CONTAINER_OF(job, struct pyl_work, job) : NULL;
}

static void
free_threads(struct pyl_list *threads)
{
    while (!pyl_list_is_empty(threads)) {
        struct pool_thread *thread = PYL_CONTAINER_OF(threads->next, struct pool_thread, link);
        pyl_list_remove(&thread->link);
        pyl_free(thread);
    }
}

void
pyl_blocking_close(struct pyl_blocking_pool *pool)
{
    if (!pool->is_initialized) {
        return;
    }
    (void)pthread_mutex_lock(&pool->lock);
    pool->is_closing = true;
    while (!pyl_list_is_empty(&pool->queue)) {
        cancel_queued(PYL_CONTAINER_OF(pool->queue.next, struct pyl_work, link));
    }
    while (!pyl_list_is_empty(&pool->threads)) {
        struct pool_thread *thread = PYL_CONTAINER_OF(pool->threads.next, struct pool_thread, link);
        (void)pthread_cond_signal(&thread->wake);
        (void)pthread_mutex_unlock(&pool->lock);
        (void)pthread_join(thread->id, NULL); /* it has moved to `ended` */
        (void)pthread_mutex_lock(&pool->lock);
        pyl_list_remove(&thread->link);
        pyl_list_append(&pool->spare, &thread->link);
    }
    join_ended(pool);
    (void)pthread_mutex_unlock(&pool->lock);
    struct pyl_list *head = &pool->spare;
    for (struct pyl_list *link = head->next; link != head; link = link->next) {
        (void)pthread_cond_destroy(&PYL_CONTAINER_OF(link, struct pool_thread, link)->wake);
    }
    free_threads(head);
    (void)pthread_mutex_destroy(&pool->lock);
    pool->is_initialized = false;
}

void
pyl_blocking_abandon(struct pyl_blocking_pool *pool)
{
    if (!pool->is_initialized) {
        return;
    }
    /* The lock may have been held by a thread that is gone: it is left as it is, and the lists only
     * if it was free, because otherwise they may be half changed. */
    if (pthread_mutex_trylock(&pool->lock) == 0) {
        free_threads(&pool->threads);
        free_threads(&pool->ended);
        free_threads(&pool->spare);
    }
    memset(pool, 0, sizeof(*pool));
}

void
pyl_blocking_get_stats(struct pyl_blocking_pool *pool, struct pyl_blocking_stats *ret_stats)
{
    (void)pthread_mutex_lock(&pool->lock);
    *ret_stats = pool->stats;
    (void)pthread_mutex_unlock(&pool->lock);
}
