/*
 * loop_post.c - the way into the queues from any thread that may run Python, and the wake-up of a
 * loop that sleeps.
 *
 * The loop needs the GIL first of all when it wakes. A poster that kept the GIL while it writes the
 * wake-up would make it wait at once: on one core it is scheduled inside the poster's write(2),
 * finds the GIL taken, waits for it, is woken while the poster still has the lock inside the GIL,
 * and waits for that. That costs four futex calls and four switches more than handing the GIL over.
 * So the poster gives it away for the time of the write, except where that is known to cost more:
 *
 * - in a burst, where the loop would run once for each callback instead of once for all of them:
 *   if posts followed the last wake-up before the loop slept again, this one keeps the GIL. That
 *   is not seen while the GIL is given away, so one of PROBE_EVERY wake-ups keeps it to find out;
 * - where other threads compute: whoever lets go of the GIL waits for a switch interval.
 */
#include "python/loop_post.h"

#include "python/loop.h"

enum {
    PROBE_EVERY = 16,
    KEEP_AFTER_WAIT = 64,          /* wake-ups that keep the GIL after one that waited for it */
    LONG_WAIT_NS = 1 * 1000 * 1000 /* a fifth of the default switch interval */
};

void
pyl_loop_wakes_init(struct pyl_loop_wakes *wakes)
{
    *wakes = (struct pyl_loop_wakes){0};
    pthread_rwlock_init(&wakes->writing, NULL);
}

void
pyl_loop_wakes_fini(struct pyl_loop_wakes *wakes)
{
    pthread_rwlock_destroy(&wakes->writing);
}

void
pyl_loop_wakes_settle(struct pyl_loop_wakes *wakes)
{
    pthread_rwlock_wrlock(&wakes->writing);
    pthread_rwlock_unlock(&wakes->writing);
}

/* What pyl_worker_notify() has returned; keeps the worker for pyl_loop_signal(). */
static bool
begin_signal(struct pyl_loop *loop, bool is_asleep)
{
    if (is_asleep) {
        pthread_rwlock_rdlock(&loop->wakes.writing);
    }
    return is_asleep;
}

bool
pyl_loop_queue_remote(struct pyl_loop *loop, struct pyl_job *job)
{
    return begin_signal(loop, pyl_worker_queue_remote(loop->worker, job));
}

bool
pyl_loop_notify(struct pyl_loop *loop)
{
    return begin_signal(loop, pyl_worker_notify(loop->worker));
}

void
pyl_loop_signal(struct pyl_loop *loop)
{
    pyl_worker_signal(loop->worker);
    pthread_rwlock_unlock(&loop->wakes.writing);
}

static bool
gives_gil(struct pyl_loop_wakes *wakes)
{
    if (wakes->followers > 0) {
        wakes->followers = 0;
        wakes->to_keep = wakes->to_keep > 0 ? wakes->to_keep : 1;
    }
    if (wakes->to_keep > 0) {
        wakes->to_keep--;
        return false;
    }
    wakes->given++;
    return wakes->given % PROBE_EVERY != 0;
}

/* Nothing but the wake-up itself may be touched without the GIL: the loop may be closed meanwhile,
 * up to the point where its worker ends. */
static void
signal_without_gil(struct pyl_loop *loop)
{
    struct pyl_loop_wakes *wakes = &loop->wakes;
    pthread_rwlock_rdlock(&wakes->writing);
    PyThreadState *tstate = PyEval_SaveThread();
    pyl_loop_signal(loop);
    int64_t wanted_ns = pyl_clock_now_ns();
    PyEval_RestoreThread(tstate);
    if (pyl_clock_now_ns() - wanted_ns > LONG_WAIT_NS) {
        wakes->to_keep = KEEP_AFTER_WAIT;
    }
}

/* With the GIL, which makes the queue ours. */
static void
wake_with_gil(struct pyl_loop *loop)
{
    if (!pyl_worker_notify(loop->worker)) {
        loop->wakes.followers++;
    } else if (gives_gil(&loop->wakes)) {
        signal_without_gil(loop);
    } else {
        pyl_worker_signal(loop->worker);
    }
}

/*
 * Holding the GIL makes the queue ours: the loop's thread gives it away only where it does not look
 * at the queue. So everything keeps one order, as in asyncio. Without a GIL only the thread that
 * runs the loop may touch the queue, or anybody while none does, and others go through the inbox;
 * they write the wake-up when remote_lock is free again.
 */
bool
pyl_loop_post(struct pyl_loop *loop, struct pyl_job *job)
{
    unsigned long thread_id = atomic_load_explicit(&loop->thread_id, memory_order_relaxed);
    bool is_foreign = thread_id != PyThread_get_thread_ident();
    pyl_gil_lock_acquire(&loop->remote_lock);
    bool is_open = pyl_loop_is_open(loop);
    bool must_signal = false;
    if (is_open && !pyl_loop_owns_queues(loop)) {
        must_signal = pyl_loop_queue_remote(loop, job);
    } else if (is_open) {
        pyl_worker_post(loop->worker, job);
        if (is_foreign && thread_id != 0) {
            wake_with_gil(loop);
        }
    }
    pyl_gil_lock_release(&loop->remote_lock);
    if (must_signal) {
        pyl_loop_signal(loop);
    }
    return is_open;
}
