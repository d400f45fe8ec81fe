/*
 * worker.h - one thread's run loop: reactor, timers, ready jobs, inbox.
 *
 * One turn: take the inbox, wait (not at all when jobs are ready), move due timers to the ready
 * queue, dispatch completions, run the jobs that are ready at that moment, run the deferred jobs.
 * Nothing here is global: a process may have any number of workers. sched/README.md tells why no
 * wake-up is lost.
 *
 * Owner thread unless a function says otherwise. The owner is the thread that takes the first turn.
 */
#ifndef PYL_SCHED_WORKER_H
#define PYL_SCHED_WORKER_H

#include "base/block_cache.h"
#include "base/heap.h"
#include "base/inbox.h"
#include "reactor/reactor.h"
#include "sched/job.h"
#include "sched/sample.h"

struct pyl_worker;

/* Around every wait that may block, so that the embedder can give away its lock (the GIL).
 * after_wait also runs after an interrupted wait: the place to look for signals. Never called for a
 * poll. `linger`, if any, returns for how long such a wait may first block without the two, in
 * nanoseconds; when something happens meanwhile they are not called. `awaits_posts`: in a storm of
 * posts the worker waits some microseconds for the next one before it falls asleep, awake and with
 * the embedder's lock. For embedders whose lock keeps nobody from posting. */
struct pyl_worker_hooks {
    int64_t (*linger)(struct pyl_worker *worker, void *user);
    void (*before_wait)(struct pyl_worker *worker, void *user);
    void (*after_wait)(struct pyl_worker *worker, void *user);
    void *user;
    bool awaits_posts;
};

/* Written by the owner, relaxed, except where noted; read by anyone, relaxed. */
struct pyl_worker_stats {
    _Atomic uint64_t turns;
    _Atomic uint64_t jobs;
    _Atomic uint64_t turns_cut;     /* job phases that jobs_budget_ns ended */
    _Atomic uint64_t parks;         /* waits that were allowed to block */
    _Atomic uint64_t lingered;      /* those that ended before the hooks were called */
    _Atomic uint64_t wakes_written; /* by any thread */
    _Atomic uint64_t
        wakes_suppressed; /* by any thread: posts that found the worker awake or notified */
};

/* Values of pyl_worker.park. */
enum { PYL_WORKER_RUNNING, PYL_WORKER_SLEEPING, PYL_WORKER_NOTIFIED };

/* A job phase with a budget reads the clock once for so many jobs, if they are quick. */
enum { PYL_WORKER_JOBS_STRIDE = 16 };

enum { PYL_WORKER_UNSENT_MAX = PYL_TINY_LIMITS ? 64 : 256 * 1024 }; /* bytes */

struct pyl_worker {
    struct pyl_reactor reactor;
    struct pyl_heap timers;        /* of pyl_timer.node */
    struct pyl_job_queue ready;    /* run in order */
    struct pyl_job_queue deferred; /* run at the end of the turn: write flushes, clean-up */
    struct pyl_worker_hooks hooks;
    int64_t now_ns; /* read once per turn */
    /* A job phase ends after this long, or as long as the events before it took, if that is more
     * and they made jobs: for each no more than this. What is left stays in order. 0: it runs all
     * that were ready when it began. */
    int64_t jobs_budget_ns;
    bool is_initialized;
    bool is_interrupted; /* pyl_worker_interrupt() was called in this turn */
    bool is_turn_whole;  /* no budget counts: set by an owner that stops after this turn */
    bool is_dispatching;
    uint32_t storm_sleeps;    /* in a row, ended by a post: soon, or by several at once */
    bool is_closing;          /* no new op may be submitted: pyl_worker_fini() waits for the last */
    uint32_t flushes_wanted;  /* streams that asked in this turn to send at its end */
    uint32_t flushes_running; /* the same for the deferred phase that runs now */
    size_t unsent_size;       /* see pyl_worker_note_unsent() */
    struct pyl_sample sample; /* its histograms are read by anyone */
    struct pyl_block_cache sends; /* of io/stream_write.c */

    char owner_pad[PYL_CACHE_LINE]; /* other threads write below and only below */
    struct pyl_inbox inbox;         /* any thread pushes (release), the owner takes all (acquire) */
    _Atomic uint32_t park;          /* any thread, read-modify-write only: see sched/README.md */
    /* When this turn began, INT64_MAX while it waits. The owner writes, relaxed; any thread reads.
     */
    _Atomic int64_t busy_since_ns;
    struct pyl_worker_stats stats;
};

/* Returns 0 or what pyl_reactor_init() returns. `cause` as there. */
PYL_NODISCARD int pyl_worker_init(struct pyl_worker *worker,
                                  const struct pyl_reactor_options *options,
                                  const struct pyl_worker_hooks *hooks, char *cause,
                                  size_t cause_size);

/* Cancels all ops and turns until their terminal events were dispatched (without running ready
 * jobs). Only pyl_worker_wake(), post_remote and fini may follow, fini then from any thread. */
void pyl_worker_drain(struct pyl_worker *worker);

/* Drains, unless that was done, then frees everything. Jobs and timers still queued are dropped,
 * not run: their owner takes them out before. Accepts a zeroed worker. */
void pyl_worker_fini(struct pyl_worker *worker);

/* In the child of a fork: gives up the inherited worker without touching what it shares with the
 * parent; see pyl_reactor_abandon(). Queued jobs and timers are forgotten, not run. Only
 * pyl_worker_fini() may follow. */
void pyl_worker_abandon(struct pyl_worker *worker);

/* One turn. may_block false: never waits. Returns 0 or the reactor's fatal -errno. */
PYL_NODISCARD int pyl_worker_turn(struct pyl_worker *worker, bool may_block);

/* Ends the current turn's dispatch and job phases early; what was not run stays queued, in order.
 * The deferred jobs still run. Without effect between two turns. */
void pyl_worker_interrupt(struct pyl_worker *worker);

/* The owner stands still for a reason that is no callback's: it waits for the GIL. */
static inline void
pyl_worker_pause(struct pyl_worker *worker)
{
    atomic_store_explicit(&worker->busy_since_ns, INT64_MAX, memory_order_relaxed);
}

static inline void
pyl_worker_resume(struct pyl_worker *worker)
{
    atomic_store_explicit(&worker->busy_since_ns, worker->now_ns, memory_order_relaxed);
}

/* Runs the deferred jobs now: for an owner that stops turning and wants its last writes to leave.
 * Not from inside a deferred job. */
void pyl_worker_flush_deferred(struct pyl_worker *worker);

/* Of pyl_worker_post() in a timed turn: the last job in the ready queue was just posted. */
void pyl_worker_sample_post(struct pyl_worker *worker);

/* Appends to the ready queue; the job runs in this turn if its job phase has not begun, else in the
 * next one. The job must not be queued already. */
static inline void
pyl_worker_post(struct pyl_worker *worker, struct pyl_job *job)
{
    pyl_job_queue_push(&worker->ready, job);
    if (PYL_UNLIKELY(worker->sample.is_open)) {
        pyl_worker_sample_post(worker);
    }
}

/* As post, at the end of this turn (a job deferred by a deferred job: of the next one). */
static inline void
pyl_worker_defer(struct pyl_worker *worker, struct pyl_job *job)
{
    pyl_job_queue_push(&worker->deferred, job);
}

/* Many bytes wait for the deferred phase. It then comes early, so that their memory is used again
 * while it is still in the cache, and malloc gives none of it back to the kernel. Not where sends
 * enter the kernel with the next wait anyway. */
static inline bool
pyl_worker_is_full(const struct pyl_worker *worker)
{
    return PYL_UNLIKELY(worker->unsent_size >= PYL_WORKER_UNSENT_MAX) &&
           (worker->reactor.ops->features & PYL_BACKEND_BATCHES) == 0;
}

/* Bytes were queued that a deferred job will send; it is queued already, or this count would stay.
 */
static inline void
pyl_worker_note_unsent(struct pyl_worker *worker, size_t size)
{
    worker->unsent_size += size;
    if (pyl_worker_is_full(worker) && worker->is_dispatching) {
        pyl_reactor_stop_dispatch(&worker->reactor);
    }
}

/* Bytes were sent without waiting for the deferred job. */
static inline void
pyl_worker_note_sent(struct pyl_worker *worker, size_t size)
{
    worker->unsent_size -= size < worker->unsent_size ? size : worker->unsent_size;
}

/* Any thread and any signal handler: the job runs on the worker, FIFO per producer. At most one
 * wake-up is written per sleep. */
void pyl_worker_post_remote(struct pyl_worker *worker, struct pyl_job *job);

/* Any thread: makes the current or next blocking wait return. */
void pyl_worker_wake(struct pyl_worker *worker);

/* Post in two halves: as notify below. */
PYL_NODISCARD bool pyl_worker_queue_remote(struct pyl_worker *worker, struct pyl_job *job);

/* The two halves of wake, for a caller that has something to do between them. True: the worker is
 * asleep, and this caller must call signal, once; until then it may sleep on. */
PYL_NODISCARD bool pyl_worker_notify(struct pyl_worker *worker);
void pyl_worker_signal(struct pyl_worker *worker);

/*
 * Timers. Never early; equal deadlines in order of starting; a stopped timer leaves no trace. A due
 * timer's job is appended to the ready queue and `is_armed` becomes false at that moment.
 */
struct pyl_timer {
    struct pyl_heap_node node;
    struct pyl_job job; /* job.run is what fires */
    bool is_armed;
};

/* deadline_ns on the clock of pyl_reactor_now_ns(). A deadline already due when the turn began is
 * queued at once, behind the jobs that are ready. The timer must be neither armed nor its job
 * queued. Returns 0 or -ENOMEM. */
PYL_NODISCARD int pyl_timer_start(struct pyl_worker *worker, struct pyl_timer *timer,
                                  int64_t deadline_ns);
/* Only takes the timer out of the heap; a job already queued is the caller's to ignore. */
void pyl_timer_stop(struct pyl_worker *worker, struct pyl_timer *timer);

#endif
