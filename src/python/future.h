/*
 * future.h - the structs behind Future and Task, and what their files use of one another. Everybody
 * else includes python/task.h.
 *
 * Thread: the loop's own. On free-threaded builds every operation that changes a future takes its
 * critical section, so that misuse from another thread is answered in some order and never corrupts
 * memory.
 */
#ifndef PYL_PYTHON_FUTURE_H
#define PYL_PYTHON_FUTURE_H

#include "python/task.h"

#include "sched/job.h"

/*
 * PENDING --finish--> CANCELLED | FINISHED, and never back (but for a second __init__()).
 * Only future_state.c assigns.
 */
enum pyl_future_status { PYL_FUTURE_PENDING, PYL_FUTURE_CANCELLED, PYL_FUTURE_FINISHED };

/* What few futures have. */
enum pyl_future_rare {
    PYL_FUTURE_EXCEPTION_TB,     /* as it was when the exception was set; given back once */
    PYL_FUTURE_CANCEL_MESSAGE,   /* never None */
    PYL_FUTURE_CANCELLED_ERROR,  /* the CancelledError that ended a task; given out once */
    PYL_FUTURE_SOURCE_TRACEBACK, /* where it was made, in debug mode */
    PYL_FUTURE_AWAITED_BY,       /* set of those who said so by pyl_future_awaited_by_add() */
    PYL_FUTURE_RARE_COUNT
};

struct pyl_future {
    PyObject_HEAD
    struct pyl_state *state; /* never NULL; kept alive by the type */
    PyObject *loop;          /* NULL: __init__() did not run */
    struct pyl_loop *native; /* `loop` if it is one of ours, else NULL; borrowed from `loop` */

    /* The callbacks in order: callback0, then `callbacks`. A task of ours that awaits this future
     * stands there itself, without a callable: callback0 with context0 NULL, or an item of
     * `callbacks` that is not a tuple (callback, context[, view]). So does a proxy, and the stream
     * protocol whose handler this task is. See future_callbacks.c. */
    PyObject *callback0;
    PyObject *context0;
    PyObject
        *callbacks; /* list or NULL; never set while callback0 is NULL, unless it was removed */

    PyObject *result;
    PyObject *exception;
    PyObject **rare; /* by enum pyl_future_rare, each may be NULL; NULL: all are. See
                      * pyl_future_set_rare() */

    pyl_future_done_fn *done; /* NULL: no hook, or it ran */
    void *done_user;

    PyObject *dict;
    PyObject *weakrefs;

    /* enum pyl_future_status. Written under the critical section; release publishes the outcome to
     * who reads it without. */
    _Atomic uint8_t status;
    bool is_task;
    bool is_blocking;   /* yielded by an await and not yet seen by the task */
    bool log_traceback; /* an exception nobody asked for */

    /* From here on for tasks only; in this struct because there is room. */
    bool must_cancel;
    bool log_destroy_pending;
    bool is_queued; /* the job is in a queue, which owns one reference to the task */
    bool is_woken;  /* the queued step was caused by fut_waiter */
};

struct pyl_task {
    struct pyl_future future;
    struct pyl_job job;
    struct pyl_list node; /* in the registry; next NULL: it is not */
    PyObject *coro;       /* NULL: __init__() did not succeed, or finished in its eager step */
    PyObject *context;
    PyObject *name;       /* NULL: "Task-<number>", made when somebody asks */
    PyObject *fut_waiter; /* what it awaits */
    PyObject *raise_next; /* exception for the scheduled step */
    unsigned long long number;
    long cancel_requests;
    bool has_odd_context; /* `context` is no contextvars.Context: only loop.call_soon() may judge it
                           */
    bool is_registered;   /* asyncio.all_tasks() can see it */
    /* Owns the coroutine, on builds without a GIL. Any thread; exchange acquire, store release. */
    _Atomic bool is_stepping;
};

static inline struct pyl_future *
pyl_future_cast(PyObject *object)
{
    return (struct pyl_future *)(void *)object;
}

static inline struct pyl_task *
pyl_task_cast(PyObject *object)
{
    return (struct pyl_task *)(void *)object;
}

/* Exactly our Future or Task: its fields may be used instead of its methods. A subclass may have
 * other methods. */
static inline bool
pyl_future_is_exact(struct pyl_state *state, PyObject *object)
{
    return Py_IS_TYPE(object, state->task_type) || Py_IS_TYPE(object, state->future_type);
}

/* Our Future, our Task, or a subclass of one. */
static inline bool
pyl_future_is_ours(struct pyl_state *state, PyObject *object)
{
    return pyl_future_is_exact(state, object) || PyObject_TypeCheck(object, state->future_type);
}

/* Borrowed; or NULL. */
static inline PyObject *
pyl_future_rare(const struct pyl_future *future, enum pyl_future_rare which)
{
    return PYL_LIKELY(future->rare == NULL) ? NULL : future->rare[which];
}

/* Raises for a future whose __init__() did not run. 0 or -1. */
static inline int
pyl_future_ensure_init(struct pyl_future *future)
{
    if (PYL_LIKELY(future->loop != NULL)) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError, "Future object is not initialized.");
    return -1;
}

/* future_type.c */

/* A zeroed instance of exactly our Future (or Task), tracked; or NULL. */
struct pyl_future *pyl_future_alloc(struct pyl_state *state, PyTypeObject *type);
/* Gives the memory back: freelist for exact types, tp_free for others. The fields are clear. */
void pyl_future_free(struct pyl_future *future);
int pyl_future_traverse_fields(struct pyl_future *future, visitproc visit, void *arg);
void pyl_future_clear_fields(struct pyl_future *future);
/* Steals the value, which may be NULL. 0, or -1 with MemoryError: then it is forgotten, and NULL
 * stands there. */
int pyl_future_set_rare(struct pyl_future *future, enum pyl_future_rare which, PyObject *value);
/* Tells loop.call_exception_handler() of an exception nobody asked for. Keeps the current
 * exception. */
void pyl_future_warn_unretrieved(struct pyl_future *future);
/* call_exception_handler({message, <key>: future, source_traceback[, exception]}). Consumes
 * message. Errors are unraisable. */
void pyl_future_complain(struct pyl_future *future, PyObject *key, PyObject *message,
                         PyObject *exception);

/* <Type info>, with the info from asyncio's helper. */
PyObject *pyl_future_repr(PyObject *future, PyObject *info_function);
/* The name of the type without its module: "Future", "Task", or a subclass's own. */
const char *pyl_future_type_name(PyObject *future);
/* future.result() */
PyObject *pyl_future_result(PyObject *future, PyObject *unused);

extern PyGetSetDef pyl_future_attributes[]; /* future_attributes.c */
extern PyMethodDef pyl_task_methods[];      /* task_methods.c */
extern PyGetSetDef pyl_task_attributes[];   /* task_methods.c */

/* What __init__() does: `loop` None or NULL means asyncio.get_event_loop(). 0 or -1. */
int pyl_future_init(struct pyl_future *future, PyObject *loop);
/* The same for a fresh object and a loop of ours. */
int pyl_future_init_native(struct pyl_future *future, struct pyl_loop *loop);

/* future_state.c: each finishes a pending future, runs the hook and schedules the callbacks.
 * InvalidStateError if it is not pending (cancel: returns 0). */
int pyl_future_finish_result(struct pyl_future *future, PyObject *result);       /* 0 or -1 */
int pyl_future_finish_exception(struct pyl_future *future, PyObject *exception); /* 0 or -1 */
int pyl_future_finish_cancelled(struct pyl_future *future, PyObject *message);   /* 1, 0 or -1 */
/* None is no message. 0 or -1. */
int pyl_future_set_cancel_message(struct pyl_future *future, PyObject *message);

/* What future.result() does: 0 result in *ret, 1 exception to be raised in *ret, -1 raised
 * (cancelled, not done). New references. */
int pyl_future_get_result(struct pyl_future *future, PyObject **ret);
/* The CancelledError to raise, before the future is finished as cancelled. Steals it. */
void pyl_future_keep_cancelled(struct pyl_future *future, PyObject *error);
/* New reference to the CancelledError to raise; a saved one is given out once. NULL: exception. */
PyObject *pyl_future_make_cancelled(struct pyl_future *future);

/* future_callbacks.c */

/* Calls loop.call_soon(callback, [argument], context=...). argument and context may be NULL. 0 or
 * -1. */
int pyl_future_call_soon(struct pyl_future *future, PyObject *callback, PyObject *argument,
                         PyObject *context);
/* add_done_callback(); context NULL: a copy of the current one. 0 or -1. */
int pyl_future_add_callback(struct pyl_future *future, PyObject *callback, PyObject *context);
/* remove_done_callback(): the number removed, or -1. */
Py_ssize_t pyl_future_remove_callback(struct pyl_future *future, PyObject *callback);
/* Wakes the task, in its turn among the callbacks. 0 or -1. */
int pyl_future_add_waiter(struct pyl_future *future, struct pyl_task *task);
/* Adds what stands there without a callable to a pending future, in its critical section. Steals
 * the entry. 0 or -1. */
int pyl_future_add_entry(struct pyl_future *future, PyObject *entry);
/* Tells the stream protocol how the task, its handler, ends: 1 it will; 0 the task is done, or
 * another view's, and add_done_callback() is the way; or -1. */
int pyl_future_add_protocol(struct pyl_future *task, PyObject *protocol);
/* Hands all callbacks to the loop and forgets them. 0 or -1. Called once it is not pending. */
int pyl_future_schedule_callbacks(struct pyl_future *future);
/* future._callbacks: new list of (callback, context), or None. */
PyObject *pyl_future_list_callbacks(struct pyl_future *future);
/* Adds the tasks that await this future to a set. 0 or -1. */
int pyl_future_collect_waiters(struct pyl_future *future, PyObject *set);

/* Edges of the call graph beyond the awaits of our own tasks. 0 or -1. */
int pyl_future_awaited_by_add(struct pyl_future *future, PyObject *waiter);
int pyl_future_awaited_by_discard(struct pyl_future *future, PyObject *waiter);

/* future_iter.c: the awaitable side. */
PyObject *pyl_future_await(PyObject *future); /* am_await: itself */
PyObject *pyl_future_next(PyObject *future);  /* tp_iternext */
PySendResult pyl_future_send(PyObject *future, PyObject *value, PyObject **ret); /* am_send */
PyObject *pyl_future_iter(PyObject *future);                           /* tp_iter: a FutureIter */
PyObject *pyl_future_dunder_await(PyObject *future, PyObject *unused); /* the method of that name */
/* The arguments of a coroutine's throw() as an exception. New reference or NULL. */
PyObject *pyl_future_make_thrown(PyObject *const *args, Py_ssize_t count);
int pyl_future_iter_types_add(PyObject *module, struct pyl_state *state);

/* task_step.c */

/* The future of ours that `task` awaits is done: queues the step. 0 or -1. */
int pyl_task_wake(struct pyl_task *task, struct pyl_future *future);
/* Queues a step that raises task->raise_next if set. 0 or -1. */
int pyl_task_schedule(struct pyl_task *task);
/* New reference to what stands for the task among callbacks: callable with the future as argument.
 */
PyObject *pyl_task_make_wakeup(struct pyl_task *task);
/* The first step, inside the constructor. 0, or -1 with an exception (KeyboardInterrupt, ...). */
int pyl_task_start_eagerly(struct pyl_task *task);
/* What the coroutine yielded decides what happens next. Steals it. 0 or -1. (task_yield.c) */
int pyl_task_handle_yield(struct pyl_task *task, PyObject *yielded);
/* The run function of task->job. */
void pyl_task_run_job(struct pyl_job *job);

/* task_methods.c: task.fut_waiter.cancel(message), NULL for None: 1, 0 or -1. */
int pyl_task_cancel_waiter(struct pyl_task *task, PyObject *message);

static inline unsigned long long
pyl_task_next_number(struct pyl_task_state *state)
{
    if (PYL_FREE_THREADED) {
        return atomic_fetch_add_explicit(&state->name_counter, 1, memory_order_relaxed) + 1;
    }
    /* The GIL keeps others out: no locked instruction is needed. */
    unsigned long long number =
        atomic_load_explicit(&state->name_counter, memory_order_relaxed) + 1;
    atomic_store_explicit(&state->name_counter, number, memory_order_relaxed);
    return number;
}

/* task_current.c */

/* asyncio.current_task() from here to leave is this task; another one being current is an error. */
int pyl_task_enter(struct pyl_task *task);
int pyl_task_leave(struct pyl_task *task);
/* Makes `current` (a task, which the caller keeps, or None) current in the loop of `task`. New
 * reference to the previous one or None, or NULL. */
PyObject *pyl_task_swap_current(struct pyl_task *task, PyObject *current);
/* asyncio.all_tasks(). Registering twice does no harm. 0 or -1. */
int pyl_task_register(struct pyl_task *task);
int pyl_task_register_eager(struct pyl_task *task);
int pyl_task_unregister_eager(struct pyl_task *task);
void pyl_task_unregister(struct pyl_task *task);
extern PyMethodDef pyl_task_functions[]; /* of the module */

#endif
