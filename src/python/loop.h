/*
 * loop.h - the C half of pyloop.Loop: what transports, futures and the HTTP server use of it.
 *
 * Everything here: the loop's own thread, with an attached thread state, unless said otherwise.
 */
#ifndef PYL_PYTHON_LOOP_H
#define PYL_PYTHON_LOOP_H

#include "python/bytes_pool.h"
#include "python/fd_table.h"
#include "python/loop_post.h"
#include "python/metrics.h"
#include "python/module.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "sched/worker.h"

struct pyl_views;
struct pyl_watch_entry;
struct pyl_native;
struct pyloop_port;

/* `_core.LoopCore`; pyloop.Loop is the Python class over it and asyncio.BaseEventLoop. */
struct pyl_loop {
    PyObject_HEAD
    struct pyl_state *state;   /* never NULL; kept alive by the type */
    struct pyl_worker *worker; /* own_worker, or of the lane whose view this is; constant */
    struct pyl_worker own_worker;
    struct pyl_views *views;  /* parallel mode: all views of the runtime; NULL in serial mode */
    uint32_t lane_index;      /* in `views` */
    uint64_t baton_ticket;    /* builds with a GIL: what views->baton gave the thread last */
    struct pyl_list spawned;  /* of pyl_spawned.live: begun in this view and not done */
    struct pyl_list stolen;   /* of pyl_http_strand.live: the same, of requests of other views */
    struct pyl_list siblings; /* state->loops, while the worker is open */
    bool is_worker_open;      /* pyl_worker_init() done, pyl_worker_fini() not */
    atomic_bool is_closed;    /* written under remote_lock, read by any thread relaxed */
    bool is_stopping;
    atomic_bool is_debug; /* any thread, relaxed */
    bool is_forked_child; /* abandoned after fork: every use raises RuntimeError */
    bool
        has_own_call_soon; /* call_soon is overridden in Python, by a subclass or on the instance */
    bool has_own_clock;    /* time() is overridden: by the class, or set on the instance */
    bool has_native_tasks; /* create_task() and create_future() may make ours */
    bool makes_tasks;      /* and do: see pyl_loop_choose_types() */
    bool makes_futures;
    bool has_blocking_cancel; /* call_soon_threadsafe() returns a _ThreadSafeHandle (3.14) */
    bool keeps_current_task;  /* the type has our hash: current_task is used */
    bool did_park;            /* the turn gave the GIL away: after_wait ran */
    int gil_contested;        /* so many more waits: beside a thread that computes (loop_run.c) */
    int64_t gil_slow_ns;      /* getting the GIL back takes that long only beside such a thread */
    int64_t gil_linger_ns;    /* how long a wait then keeps the GIL */
    atomic_ulong thread_id;   /* PyThread_get_thread_ident() while running, else 0; any thread */
    unsigned long owner_thread_id; /* of the thread that ran it last: the reactor's owner */
    PyThreadState *parked_tstate;  /* between before_wait and after_wait */
    PyObject *raised;              /* BaseException a callback let through: leaves run_forever */
    PyObject *task_factory;        /* NULL: none */
    PyObject *current_task;        /* borrowed; task_current.c. Thread that runs the loop, or GIL */
    PyObject *current_handle;      /* borrowed; only in debug mode, while its callback runs */
    double slow_callback_duration;

    struct pyl_fd_table fds; /* open transports and listeners: see fd_table.h for close() */
    struct pyl_loop_metrics metrics;
    struct pyl_native *native;        /* native_call.c; NULL before the first call */
    struct pyloop_port *port;         /* port.c; NULL before the first use */
    struct pyl_runtime *companion;    /* native_task.c; the same */
    struct pyl_bytes_pool bytes_pool; /* for what is read; empty when the worker is closed */
    struct pyl_freelists freelists;   /* free-threaded builds: of the thread that runs the loop */

    /* Descriptors watched by add_reader() and add_writer(), indexed by number; loop_fd.c. */
    struct pyl_watch_entry *watch_table;
    size_t watch_capacity;
    struct pyl_list watches; /* every watch whose op is not IDLE, also the removed ones */

    /* Free-threaded builds: guards is_closed, changes of thread_id, and the queues while no thread
     * runs the loop. Who runs it owns the queues without the lock; others use the inbox. */
    struct pyl_gil_lock remote_lock;
    struct pyl_loop_wakes wakes;

    /* 3.14's _ThreadSafeHandle: cancel() on another thread waits while the callback runs. Never
     * held while acquiring the GIL. */
    pthread_mutex_t running_lock;
    pthread_cond_t running_done;
    PyObject *running_handle; /* guarded by running_lock; borrowed */
};

/* True while a callback may be queued without calling loop.call_soon() by name: nothing is
 * overridden and that call would neither raise nor note anything for debugging. */
static inline bool
pyl_loop_is_direct(const struct pyl_loop *loop)
{
    return !(atomic_load_explicit(&loop->is_closed, memory_order_relaxed) ||
             atomic_load_explicit(&loop->is_debug, memory_order_relaxed) || loop->is_forked_child ||
             loop->has_own_call_soon);
}

/* May this thread touch the queues? With the GIL: every thread that holds it. Without: under
 * remote_lock, if no other thread runs the loop. In parallel mode: the thread that runs it. */
static inline bool
pyl_loop_owns_queues(const struct pyl_loop *loop)
{
    if (!PYL_FREE_THREADED && PYL_LIKELY(loop->views == NULL)) {
        return true;
    }
    unsigned long thread_id = atomic_load_explicit(&loop->thread_id, memory_order_relaxed);
    return thread_id == PyThread_get_thread_ident() || (thread_id == 0 && loop->views == NULL);
}

/* The loop is running in another thread than this one. */
static inline bool
pyl_loop_is_foreign_thread(const struct pyl_loop *loop)
{
    unsigned long thread_id = atomic_load_explicit(&loop->thread_id, memory_order_relaxed);
    return thread_id != 0 && thread_id != PyThread_get_thread_ident();
}

/* Called with an exception set, which is consumed. An Exception goes to
 * loop.call_exception_handler({message, exception, <key>: <object>}); key may be NULL.
 * KeyboardInterrupt and SystemExit are kept in loop->raised and the turn is interrupted. */
void pyl_loop_report(struct pyl_loop *loop, const char *message, const char *key, PyObject *object);

/* Called with an exception set, which is consumed, when it must leave run_forever() as it is. */
void pyl_loop_raise(struct pyl_loop *loop);

/* loop.call_soon(callback, *args) without building an argument tuple; context NULL: the current
 * one. Returns a new Handle, or NULL with an exception. */
PyObject *pyl_loop_call_soon(struct pyl_loop *loop, PyObject *callback, PyObject *const *args,
                             Py_ssize_t count, PyObject *context);

/* Queues a job that holds a reference to its object, from any thread. Returns false when the loop
 * is closed: then the reference is still the caller's. May give the GIL away for a moment; the job
 * may have run by then. */
PYL_NODISCARD bool pyl_loop_post(struct pyl_loop *loop, struct pyl_job *job);

static inline bool
pyl_loop_is_open(const struct pyl_loop *loop)
{
    return loop->is_worker_open && !atomic_load_explicit(&loop->is_closed, memory_order_relaxed);
}

/* Raises RuntimeError('Event loop is closed') or the fork error. 0 or -1. */
int pyl_loop_check_usable(struct pyl_loop *loop);

/* In debug mode: RuntimeError when called from another thread than the one that runs the loop. 0 or
 * -1. */
int pyl_loop_check_thread(struct pyl_loop *loop);

/* Around the run of a callback or a step of a task: in debug mode writes the 'Executing %s took
 * %.3f seconds' warning if it was slow. `start` is 0 outside debug mode; `what` is a Handle or a
 * Task, and is what _format_handle() makes of it. Neither changes the exception that may be set. */
static inline int64_t
pyl_loop_slow_start(struct pyl_loop *loop)
{
    return atomic_load_explicit(&loop->is_debug, memory_order_relaxed) ? pyl_clock_now_ns() : 0;
}
/* See above; `start` as pyl_loop_slow_start() returned it. */
void pyl_loop_slow_end(struct pyl_loop *loop, int64_t start, PyObject *what);

/* OSError (or the subclass for that errno) from a negative errno; sets it and returns NULL. */
PyObject *pyl_raise_errno(int error);
/* The same as an object: new reference, or NULL with an exception set. text NULL: strerror(). */
PyObject *pyl_make_oserror(int error, const char *text);

/* If the object is a loop of ours (pyloop.Loop or a subclass) the struct, otherwise NULL without an
 * exception. */
struct pyl_loop *pyl_loop_cast(struct pyl_state *state, PyObject *object);

#endif
