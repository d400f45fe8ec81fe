/*
 * views.h - parallel mode: one runtime, and for each of its lanes a loop that is the view of it.
 *
 * The first view is the Loop that the program made. Its thread runs lane 0, signals and all, while
 * the loop runs; lanes of other views have threads of their own, from the first run until the first
 * view is closed. What asyncio keeps per loop and per thread is then right in every view.
 *
 * Attached thread state, unless said otherwise.
 */
#ifndef PYL_PYTHON_VIEWS_H
#define PYL_PYTHON_VIEWS_H

#include "python/loop.h"

#include "sched/baton.h"
#include "sched/runtime.h"

struct pyl_views {
    struct pyl_runtime runtime;
    PyInterpreterState *interpreter;
    struct pyl_baton baton;      /* builds with a GIL: which lane asks for it next */
    _Atomic uint32_t references; /* loops that point here */
    _Atomic bool is_ending;      /* set once: spawned coroutines do not begin any more */
    _Atomic uint32_t places;     /* given out by pyl_views_lighter() */
    bool is_started;             /* first view's thread: the lanes have threads */
    bool is_forked_child;        /* there are no lanes but this thread */
    uint32_t loop_count;         /* of `loops`; constant once started */
    struct pyl_loop *loops[PYL_IDLE_WORKERS_MAX]; /* by lane; strong while is_started */
};

/* The view of the lane that runs in this thread, if it is one of these, or NULL. */
static inline struct pyl_loop *
pyl_views_here(const struct pyl_views *views)
{
    const struct pyl_lane *lane = pyl_lane_current();
    return lane != NULL && lane->runtime == &views->runtime ? views->loops[lane->index] : NULL;
}

/* The view that this thread runs if the object of `native` belongs to another one of the same
 * runtime, else NULL. native may be NULL. */
static inline struct pyl_loop *
pyl_views_other(const struct pyl_loop *native)
{
    if (PYL_LIKELY(native == NULL || native->views == NULL)) {
        return NULL;
    }
    struct pyl_loop *here = pyl_views_here(native->views);
    return here != native ? here : NULL;
}

/* Another thread runs this view. native may be NULL. */
static inline bool
pyl_views_is_elsewhere(const struct pyl_loop *native)
{
    return PYL_UNLIKELY(native != NULL && native->views != NULL) &&
           pyl_loop_is_foreign_thread(native);
}

/* The view for a new connection that `loop` accepted: one of the less loaded ones; `loop` itself in
 * serial mode. */
struct pyl_loop *pyl_views_lighter(struct pyl_loop *loop);

/* Something that will be there for a while lives in this view, or (-1) does no longer. The view's
 * thread. */
static inline void
pyl_views_count_guest(struct pyl_loop *loop, int change)
{
    if (loop->views != NULL) {
        pyl_counter_add(&loop->views->runtime.lanes[loop->lane_index].stats.guests,
                        (uint64_t)(int64_t)change);
    }
}

/* The same before it is there, or (-1) when it has come. Any thread. */
static inline void
pyl_views_count_coming(struct pyl_loop *loop, int change)
{
    if (loop->views != NULL) {
        (void)atomic_fetch_add_explicit(&loop->views->runtime.lanes[loop->lane_index].stats.coming,
                                        (uint64_t)(int64_t)change, memory_order_relaxed);
    }
}

/* Makes `loop` the first view of a new runtime; workers 0: one per processor. 0, or -errno with the
 * cause. */
int pyl_views_open(struct pyl_loop *loop, uint32_t workers, const char *backend, char *cause,
                   size_t cause_size);
/* Makes `loop` the next view of first's runtime. 0, or -1 with an exception. */
int pyl_views_join(struct pyl_loop *loop, struct pyl_loop *first);
/* In the child of a fork. Idempotent: every view's loop is told. */
void pyl_views_abandon(struct pyl_views *views);
/* Of a loop that dies. */
void pyl_views_leave(struct pyl_loop *loop);

/* Around a run of the first view. begin starts the lanes the first time. 0, or -1 with an
 * exception. */
int pyl_views_begin_run(struct pyl_loop *loop);
void pyl_views_end_run(struct pyl_loop *loop);
/* One turn of the first view's lane; without blocking if the loop is stopping. 0 or -errno. */
int pyl_views_turn(struct pyl_loop *loop);

/* Ends the lanes, when the first view is being closed and has dropped what it had queued: every
 * view is closed in its own thread, and the threads are joined. */
void pyl_views_stop(struct pyl_loop *first);

#endif
