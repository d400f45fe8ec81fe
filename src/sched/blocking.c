/*
 * blocking.c - the blocking pool. One mutex guards everything; an item costs a few microseconds
 * anyway for the thread switch, so nothing cleverer would be noticed.
 *
 * Invariant: stats.threads is the length of `threads`; a thread is on `threads` or `ended` until it
 * is joined.
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

struct pool_thread {
    struct pyl_blocking_pool *pool;
    struct pyl_list link; /* guarded by pool->lock: in threads or ended */
    pthread_t id;         /* written by pthread_create() while the creator holds the lock */
};

static int
init_sync(struct pyl_blocking_pool *pool)
{
    pthread_condattr_t attributes;
    int rc = pthread_condattr_init(&attributes);
    if (rc != 0) {
        return -rc;
    }
    rc = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (rc == 0) {
        rc = pthread_cond_init(&pool->is_changed, &attributes);
    }
    (void)pthread_condattr_destroy(&attributes);
    if (rc != 0) {
        return -rc;
    }
    rc = pthread_mutex_init(&pool->lock, NULL);
    if (rc != 0) {
        (void)pthread_cond_destroy(&pool->is_changed);
    }
    return -rc;
}

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
    pyl_list_init(&pool->ended);
    int rc = init_sync(pool);
    pool->is_initialized = rc == 0;
    return rc;
}

static void
run_done(struct pyl_job *job)
{
    struct pyl_work *work = PYL_CONTAINER_OF(job, struct pyl_work, job);
    /* Whoever set the final state posted this job afterwards, so no lock is needed to read it. */
    bool was_run = work->state == PYL_WORK_FINISHED;
    work->state = PYL_WORK_IDLE;
    work->done(work, was_run);
}

/* Under the lock. */
static struct pyl_work *
take_work(struct pyl_blocking_pool *pool)
{
    struct pyl_work *work = PYL_CONTAINER_OF(pool->queue.next, struct pyl_work, link);
    pyl_list_remove(&work->link);
    pool->stats.queued--;
    return work;
}

/* Under the lock. Returns false when the thread has been idle for too long. */
static bool
wait_for_work(struct pyl_blocking_pool *pool)
{
    int64_t deadline_ns = pyl_clock_after(pyl_clock_now_ns(), pool->options.idle_ns);
    struct timespec deadline = {
        .tv_sec = (time_t)(deadline_ns / PYL_NS_PER_S),
        .tv_nsec = (long)(deadline_ns % PYL_NS_PER_S),
    };
    int rc = 0;
    pool->stats.threads_idle++;
    while (pyl_list_is_empty(&pool->queue) && !pool->is_closing && rc == 0) {
        rc = pthread_cond_timedwait(&pool->is_changed, &pool->lock, &deadline);
    }
    pool->stats.threads_idle--;
    return !pyl_list_is_empty(&pool->queue);
}

static void *
run_thread(void *argument)
{
    struct pool_thread *thread = argument;
    struct pyl_blocking_pool *pool = thread->pool;
    (void)pthread_mutex_lock(&pool->lock);
    while (wait_for_work(pool)) {
        struct pyl_work *work = take_work(pool);
        work->state = PYL_WORK_RUNNING;
        (void)pthread_mutex_unlock(&pool->lock);

        struct pyl_worker *worker = work->worker;
        work->run(work);

        (void)pthread_mutex_lock(&pool->lock);
        work->state = PYL_WORK_FINISHED;
        /* The item belongs to its worker from here on. Posted under the lock, so that a closed pool
         * has posted everything and pyl_work_cancel() never sees an item that is already done. */
        pyl_worker_post_remote(worker, &work->job);
    }
    pyl_list_remove(&thread->link);
    pyl_list_append(&pool->ended, &thread->link);
    pool->stats.threads--;
    (void)pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Under the lock. Returns 0 or -errno. */
static int
start_thread(struct pyl_blocking_pool *pool)
{
    struct pool_thread *thread = pyl_alloc_zero(sizeof(*thread));
    if (thread == NULL) {
        return -EAGAIN;
    }
    thread->pool = pool;
    pthread_attr_t attributes;
    int rc = pthread_attr_init(&attributes);
    if (rc != 0) {
        pyl_free(thread);
        return -EAGAIN;
    }
    if (pool->options.stack_size != 0) {
        (void)pthread_attr_setstacksize(&attributes, pool->options.stack_size);
    }
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* the new thread inherits it */
    rc = pthread_create(&thread->id, &attributes, run_thread, thread);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    if (rc != 0) {
        pyl_free(thread);
        return -EAGAIN;
    }
    pyl_list_append(&pool->threads, &thread->link);
    pool->stats.threads++;
    pool->stats.threads_started++;
    return 0;
}

/* Takes the ended threads off the pool; they hold no lock any more or are about to let it go. */
static void
join_ended(struct pyl_list *ended)
{
    while (!pyl_list_is_empty(ended)) {
        struct pool_thread *thread = PYL_CONTAINER_OF(ended->next, struct pool_thread, link);
        pyl_list_remove(&thread->link);
        (void)pthread_join(thread->id, NULL);
        pyl_free(thread);
    }
}

int
pyl_blocking_submit(struct pyl_blocking_pool *pool, struct pyl_worker *worker,
                    struct pyl_work *work)
{
    struct pyl_list ended;
    int rc = 0;
    (void)pthread_mutex_lock(&pool->lock);
    PYL_DCHECK(work->state == PYL_WORK_IDLE);
    pyl_list_move_all(&ended, &pool->ended);
    if (pool->is_closing) {
        rc = -ECANCELED;
    } else if (pool->stats.queued >= pool->stats.threads_idle &&
               pool->stats.threads < pool->options.threads_max) {
        rc = start_thread(pool);
        if (pool->stats.threads > 0) {
            rc = 0; /* one of the others will take it */
        }
    }
    if (rc == 0) {
        work->pool = pool;
        work->worker = worker;
        work->job.run = run_done;
        work->state = PYL_WORK_QUEUED;
        pyl_list_append(&pool->queue, &work->link);
        pool->stats.queued++;
        (void)pthread_cond_signal(&pool->is_changed);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    join_ended(&ended);
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
    (void)pthread_cond_broadcast(&pool->is_changed);
    /* Threads move themselves from `threads` to `ended`; each is joined where it is found. */
    while (!pyl_list_is_empty(&pool->threads) || !pyl_list_is_empty(&pool->ended)) {
        struct pyl_list *list = pyl_list_is_empty(&pool->ended) ? &pool->threads : &pool->ended;
        struct pool_thread *thread = PYL_CONTAINER_OF(list->next, struct pool_thread, link);
        (void)pthread_mutex_unlock(&pool->lock);
        (void)pthread_join(thread->id, NULL);
        (void)pthread_mutex_lock(&pool->lock);
        pyl_list_remove(&thread->link);
        pyl_free(thread);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    (void)pthread_mutex_destroy(&pool->lock);
    (void)pthread_cond_destroy(&pool->is_changed);
    pool->is_initialized = false;
}

static void
forget_threads(struct pyl_list *threads)
{
    while (!pyl_list_is_empty(threads)) {
        struct pool_thread *thread = PYL_CONTAINER_OF(threads->next, struct pool_thread, link);
        pyl_list_remove(&thread->link);
        pyl_free(thread);
    }
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
        forget_threads(&pool->threads);
        forget_threads(&pool->ended);
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
