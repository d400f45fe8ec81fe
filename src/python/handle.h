/*
 * handle.h - Handle, TimerHandle and _ThreadSafeHandle: a callback, its arguments and its context,
 * with the job that runs it inside.
 *
 * Loop thread with an attached thread state, unless said otherwise. The fields below `context` are
 * guarded by the object's critical section on free-threaded builds, because cancel() may come from
 * any thread.
 */
#ifndef PYL_PYTHON_HANDLE_H
#define PYL_PYTHON_HANDLE_H

#include "python/loop.h"

enum { PYL_HANDLE_INLINE_ARGS = 4 };

struct pyl_handle {
    PyObject_HEAD
    struct pyl_loop *loop;      /* strong */
    PyObject *context;          /* strong; a contextvars.Context, or whatever the caller gave;
                                 * NULL: a new one, made by pyl_handle_need_context() */
    PyObject *callback;         /* strong; NULL when cancelled */
    PyObject *args_tuple;       /* strong; more than PYL_HANDLE_INLINE_ARGS arguments, else NULL */
    PyObject *repr;             /* strong; kept by cancel() in debug mode */
    PyObject *source_traceback; /* strong; debug mode, else NULL */
    PyObject *weakrefs;
    PyObject *slots[1 + PYL_HANDLE_INLINE_ARGS]; /* [0] is scratch for vectorcall */
    uint8_t arg_count;                           /* of the inline ones */
    bool is_cancelled;
    bool is_queued;  /* `job` is in the ready queue, which holds a reference */
    bool is_running; /* cancel() leaves callback and arguments to the end of the run */
    struct pyl_job job;
};

struct pyl_timer_handle {
    struct pyl_handle handle;
    struct pyl_timer timer; /* armed or fired: holds a reference */
    double when;            /* on loop.time() */
};

/* All return a new reference, or NULL with an exception. context NULL: a copy of the current one.
 */
struct pyl_handle *pyl_handle_new(struct pyl_loop *loop, PyTypeObject *type, PyObject *callback,
                                  PyObject *const *args, Py_ssize_t count, PyObject *context);

/* The job of a one-shot handle: the queue takes over one reference. */
void pyl_handle_post(struct pyl_handle *handle);

/* Puts a handle that may run many times (a reader's) into the ready queue unless it is there. */
void pyl_handle_post_again(struct pyl_handle *handle);

/* handle.cancel(). Any thread; for a _ThreadSafeHandle it waits while the callback runs elsewhere.
 */
void pyl_handle_cancel(struct pyl_handle *handle);

/* The context, which is made now if nobody has needed it yet: the current one had no values when
 * the handle was made, and a thousand waiting handles are then a thousand objects less for the
 * garbage collector. Borrowed, or NULL with an exception. Any thread. */
PyObject *pyl_handle_need_context(struct pyl_handle *handle);

/* Runs callback(*args) in the context, and reports what it raises. */
void pyl_handle_run(struct pyl_handle *handle);

/* Arms a timer handle for handle->when; the timer takes a reference. 0 or -1 with an exception. */
int pyl_timer_handle_start(struct pyl_timer_handle *handle);

/* Looks at every armed timer handle with an overridden loop.time(), which no heap can follow, and
 * queues those that are due. 0 or -1 with an exception. */
int pyl_timer_handles_check_clock(struct pyl_loop *loop);

static inline bool
pyl_handle_is_threadsafe(const struct pyl_handle *handle)
{
    return Py_IS_TYPE((PyObject *)handle, handle->loop->state->threadsafe_handle_type);
}

/* What asyncio's messages call the callback: new reference, or NULL. The handle is not cancelled.
 */
PyObject *pyl_handle_format_callback(struct pyl_handle *handle);
/* The arguments as a tuple: new reference, or NULL. */
PyObject *pyl_handle_args(struct pyl_handle *handle);
/* Lets go of callback and arguments, whose release may run any code. */
void pyl_handle_drop_callback(struct pyl_handle *handle);

/* For a _ThreadSafeHandle, from any thread: returns with loop->running_lock held and the callback
 * not running, unless it is this thread that runs it. */
void pyl_handle_lock_running(struct pyl_handle *handle);

/* For the type specs. */
int pyl_handle_traverse(PyObject *self, visitproc visit, void *arg);
int pyl_handle_clear(PyObject *self);
void pyl_handle_dealloc(PyObject *self);
void pyl_handle_add_job_kinds(struct pyl_state *state);

static inline bool
pyl_handle_check(struct pyl_state *state, PyObject *object)
{
    return Py_IS_TYPE(object, state->handle_type) || Py_IS_TYPE(object, state->timer_handle_type) ||
           Py_IS_TYPE(object, state->threadsafe_handle_type);
}

#endif
