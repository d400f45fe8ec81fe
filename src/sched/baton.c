/*
 * baton.c - a FIFO of threads, each with a condition of its own, so that passing wakes one.
 */
#include "sched/baton.h"

#include "base/check.h"
#include "base/clock.h"

#include <time.h>

/* On the waiting thread's stack. */
struct waiter {
    struct pyl_list link;
    pthread_cond_t is_changed;
    bool is_granted; /* guarded by the baton's lock */
};

int
pyl_baton_init(struct pyl_baton *baton, int64_t wait_ns)
{
    baton->wait_ns = wait_ns;
    pyl_list_init(&baton->waiters);
    baton->is_held = false;
    atomic_init(&baton->wanted, 0);
    return -pthread_mutex_init(&baton->lock, NULL);
}

void
pyl_baton_fini(struct pyl_baton *baton)
{
    PYL_CHECK(pyl_list_is_empty(&baton->waiters));
    (void)pthread_mutex_destroy(&baton->lock);
}

/* Under the lock. */
static void
wait_for_grant(struct pyl_baton *baton, struct waiter *waiter)
{
    int64_t deadline_ns = pyl_clock_after(pyl_clock_now_ns(), baton->wait_ns);
    struct timespec deadline = {
        .tv_sec = (time_t)(deadline_ns / PYL_NS_PER_S),
        .tv_nsec = (long)(deadline_ns % PYL_NS_PER_S),
    };
    int rc = 0;
    while (!waiter->is_granted && rc == 0) {
        rc = pthread_cond_timedwait(&waiter->is_changed, &baton->lock, &deadline);
    }
}

/* Under the lock. No memory for a condition is as good as having waited too long. */
static bool
queue_up(struct pyl_baton *baton)
{
    struct waiter waiter = {0};
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0) {
        return false;
    }
    int rc = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    rc = rc != 0 ? rc : pthread_cond_init(&waiter.is_changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    if (rc != 0) {
        return false;
    }
    pyl_list_append(&baton->waiters, &waiter.link);
    (void)atomic_fetch_add_explicit(&baton->wanted, 1, memory_order_relaxed);
    wait_for_grant(baton, &waiter);
    if (!waiter.is_granted) {
        pyl_list_remove(&waiter.link);
        (void)atomic_fetch_sub_explicit(&baton->wanted, 1, memory_order_relaxed);
    }
    (void)pthread_cond_destroy(&waiter.is_changed);
    return waiter.is_granted;
}

bool
pyl_baton_take(struct pyl_baton *baton)
{
    (void)pthread_mutex_lock(&baton->lock);
    bool is_taken = !baton->is_held;
    if (is_taken) {
        baton->is_held = true;
    } else {
        is_taken = queue_up(baton);
    }
    (void)pthread_mutex_unlock(&baton->lock);
    return is_taken;
}

void
pyl_baton_pass(struct pyl_baton *baton)
{
    (void)pthread_mutex_lock(&baton->lock);
    if (pyl_list_is_empty(&baton->waiters)) {
        baton->is_held = false;
    } else {
        struct waiter *first = PYL_CONTAINER_OF(baton->waiters.next, struct waiter, link);
        pyl_list_remove(&first->link);
        (void)atomic_fetch_sub_explicit(&baton->wanted, 1, memory_order_relaxed);
        first->is_granted = true;
        (void)pthread_cond_signal(&first->is_changed);
    }
    (void)pthread_mutex_unlock(&baton->lock);
}
