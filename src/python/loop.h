/*
 * loop.h - the C half of pyloop.Loop: what transports, futures and the HTTP server use of it.
 *
 * Everything here: the loop's own thread, with an attached thread state, unless said otherwise.
 */
#ifndef PYL_PYTHON_LOOP_H
#define PYL_PYTHON_LOOP_H

#include "python/fd_table.h"
#include "python/module.h"

#include "sched/worker.h"

/* `_core.LoopCore`; pyloop.Loop is the Python class over it and asyncio.BaseEventLoop. */
struct pyl_loop {
    PyObject_HEAD
    struct pyl_state *state; /* never NULL; kept alive by the type */
    struct pyl_worker worker;
    bool is_worker_open;     /* pyl_worker_init() done, pyl_worker_fini() not */
    bool is_closed;
    bool is_stopping;
    bool is_debug;
    bool is_forked_child;    /* abandoned after fork: every use raises RuntimeError */
    bool has_own_call_soon;  /* call_soon is overridden in Python, by a subclass or on the instance */
    unsigned long thread_id; /* PyThread_get_thread_ident() while running, else 0 */
    PyThreadState *parked_tstate; /* between before_wait and after_wait */
    PyObject *raised;        /* BaseException a callback let through: leaves run_forever */
    double slow_callback_duration;
    struct pyl_fd_table fds; /* open transports and listeners: see fd_table.h for close() */
    PyObject *dict;          /* __dict__: asyncio's loops have one */
    PyObject *weakrefs;
};

static inline struct pyl_loop *
pyl_loop_of_worker(struct pyl_worker *worker)
{
    return PYL_CONTAINER_OF(worker, struct pyl_loop, worker);
}

/* True while a callback may be queued without calling loop.call_soon() by name: nothing is overridden and
 * that call would neither raise nor note anything for debugging. */
static inline bool
pyl_loop_is_direct(const struct pyl_loop *loop)
{
    return !(loop->is_closed || loop->is_debug || loop->is_forked_child || loop->has_own_call_soon);
}

/* The loop is running in another thread than this one. */
static inline bool
pyl_loop_is_foreign_thread(const struct pyl_loop *loop)
{
    return loop->thread_id != 0 && loop->thread_id != PyThread_get_thread_ident();
}

/* Called with an exception set, which is consumed. An Exception goes to
 * loop.call_exception_handler({message, exception, <key>: <object>}); key may be NULL.
 * KeyboardInterrupt and SystemExit are kept in loop->raised and the turn is interrupted. */
void pyl_loop_report(struct pyl_loop *loop, const char *message, const char *key, PyObject *object);

/* loop.call_soon(callback, *args) without building an argument tuple; context NULL: the current one.
 * Returns a new Handle, or NULL with an exception. */
PyObject *pyl_loop_call_soon(struct pyl_loop *loop, PyObject *callback, PyObject *const *args,
                             Py_ssize_t count, PyObject *context);

/* Raises RuntimeError('Event loop is closed') or the fork error. 0 or -1. */
int pyl_loop_check_usable(struct pyl_loop *loop);

/* OSError (or the subclass for that errno) from a negative errno; sets it and returns NULL. */
PyObject *pyl_raise_errno(int error);
/* The same as an object: new reference, or NULL with an exception set. */
PyObject *pyl_make_oserror(int error, const char *text);

/* If the object is a loop of ours (pyloop.Loop or a subclass) the struct, otherwise NULL without an
 * exception. */
struct pyl_loop *pyl_loop_cast(struct pyl_state *state, PyObject *object);

#endif
