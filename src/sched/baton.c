/*
 * baton.c - a FIFO of threads, each with a condition of its own, so that passing wakes one.
 *
 * Invariant: while somebody waits there is a holder, so it is passed or taken over.
 */
#include "sched/baton.h"

#include "base/check.h"

#include <time.h>

/* On the waiting thread's stack. */
struct waiter {
    struct pyl_list link;
    pthread_cond_t is_changed;
    int64_t queued_ns; /* when it entered the line */
    bool is_granted;   /* guarded by the baton's lock */
};

int
pyl_baton_init(struct pyl_baton *baton, int64_t wait_ns)
{
    baton->wait_ns = wait_ns;
    pyl_list_init(&baton->waiters);
    baton->last_ticket = 0;
    atomic_init(&baton->holder, 0);
    atomic_init(&baton->wanted, 0);
    atomic_init(&baton->attached_ns, PYL_NEVER_NS);
    return -pthread_mutex_init(&baton->lock, NULL);
}

void
pyl_baton_fini(struct pyl_baton *baton)
{
    PYL_CHECK(pyl_list_is_empty(&baton->waiters));
    (void)pthread_mutex_destroy(&baton->lock);
}

/* ---- under the lock ---- */

/* There is a new holder, which waits for the GIL. */
static void
change_holder(struct pyl_baton *baton)
{
    atomic_store_explicit(&baton->attached_ns, PYL_NEVER_NS, memory_order_relaxed);
    atomic_store_explicit(&baton->holder, ++baton->last_ticket, memory_order_relaxed);
}

static void
init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    int rc = pthread_condattr_init(&attributes);
    rc = rc != 0 ? rc : pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    rc = rc != 0 ? rc : pthread_cond_init(condition, &attributes);
    PYL_CHECK(rc == 0); /* takes no memory on the systems that we know */
    (void)pthread_condattr_destroy(&attributes);
}

static void
enter_line(struct pyl_baton *baton, struct waiter *waiter)
{
    init_condition(&waiter->is_changed);
    pyl_list_append(&baton->waiters, &waiter->link);
    (void)atomic_fetch_add_explicit(&baton->wanted, 1, memory_order_relaxed);
    waiter->queued_ns = pyl_clock_now_ns(); /* from here on the holder can know of it */
}

static void
leave_line(struct pyl_baton *baton, struct waiter *waiter)
{
    pyl_list_remove(&waiter->link);
    (void)atomic_fetch_sub_explicit(&baton->wanted, 1, memory_order_relaxed);
}

static struct waiter *
first_waiter(struct pyl_baton *baton)
{
    return PYL_CONTAINER_OF(baton->waiters.next, struct waiter, link);
}

/* When the waiter may take it over, as things are. */
static int64_t
takeover_ns(struct pyl_baton *baton, struct waiter *waiter)
{
    if (first_waiter(baton) != waiter) {
        return PYL_NEVER_NS;
    }
    /* What the holder did before it had the GIL is over for whoever takes the baton over. */
    int64_t since_ns = atomic_load_explicit(&baton->attached_ns, memory_order_acquire);
    since_ns = since_ns < waiter->queued_ns ? waiter->queued_ns : since_ns;
    return pyl_clock_after(since_ns, baton->wait_ns);
}

/* Until it is granted, or may be taken over. Nobody is woken because the holder got the GIL or the
 * place in the line has changed: the waiter looks again every wait_ns, so it may be late by that.
 */
static void
wait_in_line(struct pyl_baton *baton, struct waiter *waiter)
{
    int64_t now_ns = waiter->queued_ns;
    while (!waiter->is_granted) {
        int64_t due_ns = takeover_ns(baton, waiter);
        if (due_ns <= now_ns) {
            return;
        }
        int64_t look_ns = pyl_clock_after(now_ns, baton->wait_ns);
        look_ns = due_ns < look_ns ? due_ns : look_ns;
        struct timespec deadline = {
            .tv_sec = (time_t)(look_ns / PYL_NS_PER_S),
            .tv_nsec = (long)(look_ns % PYL_NS_PER_S),
        };
        (void)pthread_cond_timedwait(&waiter->is_changed, &baton->lock, &deadline);
        now_ns = pyl_clock_now_ns();
    }
}

/* Returns whether it was taken over. */
static bool
queue_up(struct pyl_baton *baton)
{
    struct waiter waiter = {0};
    enter_line(baton, &waiter);
    wait_in_line(baton, &waiter);
    if (!waiter.is_granted) {
        leave_line(baton, &waiter);
        change_holder(baton);
    }
    (void)pthread_cond_destroy(&waiter.is_changed);
    return !waiter.is_granted;
}

/* ---- the turn ---- */

uint64_t
pyl_baton_take(struct pyl_baton *baton, bool *ret_is_taken_over)
{
    (void)pthread_mutex_lock(&baton->lock);
    if (atomic_load_explicit(&baton->holder, memory_order_relaxed) == 0) {
        change_holder(baton);
        *ret_is_taken_over = false;
    } else {
        *ret_is_taken_over = queue_up(baton);
    }
    uint64_t ticket = baton->last_ticket; /* the holder has the GIL before there is another one */
    (void)pthread_mutex_unlock(&baton->lock);
    return ticket;
}

void
pyl_baton_pass(struct pyl_baton *baton, uint64_t ticket)
{
    (void)pthread_mutex_lock(&baton->lock);
    if (atomic_load_explicit(&baton->holder, memory_order_relaxed) != ticket) {
        /* It was taken over. */
    } else if (pyl_list_is_empty(&baton->waiters)) {
        atomic_store_explicit(&baton->holder, 0, memory_order_relaxed);
    } else {
        struct waiter *first = first_waiter(baton);
        leave_line(baton, first);
        change_holder(baton);
        first->is_granted = true;
        (void)pthread_cond_signal(&first->is_changed);
    }
    (void)pthread_mutex_unlock(&baton->lock);
}
