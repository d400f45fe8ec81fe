/*
 * python.h - for extension modules: the pyloop loop that runs in this thread, and its runtime.
 *
 * There is no library to link: everything is reached through a capsule of the installed pyloop, and
 * in a source file that includes this header the functions of task.h are reached in the same way.
 * Headers: `python -c "import pyloop; print(pyloop.get_include())"`.
 *
 * Each source file that includes this header calls pyloop_py_import() before anything else, usually
 * when its module is executed.
 *
 * "Attached" says: the thread may use the Python API (it holds the GIL, where there is one).
 * Functions without that word need no thread state and touch no Python object, so they are for any
 * thread, attached or not. Functions given to pyloop that get attached say so; the others must not
 * use the Python API.
 */
#ifndef PYLOOP_PYTHON_H
#define PYLOOP_PYTHON_H

#include <Python.h>

#include <pyloop/task.h>

#include <errno.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when the meaning of anything here changes. What is added comes at the end of struct
 * pyloop_py_api and leaves it as it is. */
#define PYLOOP_PY_ABI 1
#define PYLOOP_PY_CAPSULE "pyloop._core._C_API"

/* The way into one loop from any thread; it may outlive the loop. Counted. */
struct pyloop_port;
/* The duty to complete one Python future. */
struct pyloop_promise;

/* Makes a Python object out of `argument`, which is its to free. New reference, or NULL with an
 * exception, which is then the outcome. Attached, in the loop's thread. */
typedef PyObject *pyloop_make(void *argument);
/* Frees what was not used. */
typedef void pyloop_drop(void *argument);
/* How a coroutine ended. Both objects are borrowed. `result` is NULL if it raised `exception`, or
 * was cancelled (an asyncio.CancelledError); both are NULL if its loop was closed before it ended.
 * Called once, attached. */
typedef void pyloop_coroutine_done(void *argument, PyObject *result, PyObject *exception);
/* The same for pyloop_wait_coroutine(): makes the `result` of the wait out of how the coroutine
 * ended, 0 or a positive value, or -errno. `result` is NULL if it raised `exception`. Attached, in
 * the loop's thread; what it raises is written to sys.unraisablehook. */
typedef int64_t pyloop_take(void *argument, PyObject *result, PyObject *exception);

/* What the capsule holds; constant, and valid as long as the process. `core` is what
 * pyloop_py_import() finds. Use the functions below. */
struct pyloop_py_api {
    uint32_t abi;
    uint32_t size; /* sizeof(struct pyloop_py_api) of the installed pyloop */

    PyObject *(*future_new)(PyObject *core, struct pyloop_promise **ret_promise);
    int (*promise_complete)(struct pyloop_promise *promise, pyloop_make *make, pyloop_drop *drop,
                            void *argument);
    int (*promise_is_wanted)(struct pyloop_promise *promise);

    struct pyloop_port *(*port_running)(PyObject *core);
    void (*port_ref)(struct pyloop_port *port);
    void (*port_unref)(struct pyloop_port *port);
    int (*port_call)(struct pyloop_port *port, void (*call)(void *argument), pyloop_drop *drop,
                     void *argument);
    int (*coroutine_start)(struct pyloop_port *port, pyloop_make *make, pyloop_coroutine_done *done,
                           void *argument);

    PyObject *(*lend)(PyObject *core, void *data, size_t size, int is_writable,
                      void (*release)(void *owner), void *owner);

    PyObject *(*task_start)(PyObject *core, pyloop_step *first, void *state,
                            PyObject *(*make_result)(void *state), void (*on_end)(void *state));
    struct pyloop_runtime *(*runtime)(PyObject *core);

    /* task.h */
    int (*spawn)(struct pyloop_runtime *runtime, pyloop_step *first, void *state,
                 void (*on_end)(void *state), struct pyloop_task **ret_task);
    void (*task_cancel)(struct pyloop_task *task);
    void (*task_ref)(struct pyloop_task *task);
    void (*task_unref)(struct pyloop_task *task);
    struct pyloop_runtime *(*task_runtime)(const struct pyloop_task *task);
    uint32_t (*task_worker)(const struct pyloop_task *task);
    void (*sleep)(struct pyloop_task *task, int64_t duration_ns, pyloop_step *next);
    void (*yield)(struct pyloop_task *task, pyloop_step *next);
    void (*accept)(struct pyloop_task *task, int fd, pyloop_step *next);
    void (*connect)(struct pyloop_task *task, const struct sockaddr *address, socklen_t size,
                    int64_t timeout_ns, pyloop_step *next);
    void (*receive)(struct pyloop_task *task, int fd, void *buffer, size_t size, pyloop_step *next);
    void (*send)(struct pyloop_task *task, int fd, const void *data, size_t size,
                 pyloop_step *next);
    void (*close)(struct pyloop_task *task, int fd);
    void (*wait_process)(struct pyloop_task *task, pid_t pid, pyloop_step *next);
    void (*call)(struct pyloop_task *task, int64_t (*call)(void *argument), void *argument,
                 pyloop_step *next);
    void (*read_file)(struct pyloop_task *task, int fd, void *buffer, size_t size, int64_t offset,
                      pyloop_step *next);
    void (*write_file)(struct pyloop_task *task, int fd, const void *data, size_t size,
                       int64_t offset, pyloop_step *next);
    int (*post)(struct pyloop_task *task, void *message, void (*on_dropped)(void *message));
    void (*wait_message)(struct pyloop_task *task, pyloop_step *next);
    int (*take_message)(struct pyloop_task *task, void **ret_message);
    int (*timer_start)(struct pyloop_runtime *runtime, int64_t delay_ns,
                       void (*fire)(void *argument), void *argument,
                       struct pyloop_timer **ret_timer);
    void (*timer_stop)(struct pyloop_timer *timer);

    void (*wait_coroutine)(struct pyloop_task *task, struct pyloop_port *port, pyloop_make *make,
                           pyloop_take *take, void *argument, pyloop_step *next);
};

#ifndef PYLOOP_PY_IS_CORE /* pyloop itself, where these are functions */

static const struct pyloop_py_api *pyloop_py __attribute__((unused));
static PyObject *pyloop_py_core __attribute__((unused)); /* a reference that is kept for good */

/*
 * Finds the installed pyloop. Repeating it does no harm. In an extension for several interpreters:
 * each of them has a `core` of its own, so keep to one interpreter, or call `pyloop_py->...` with
 * the right one.
 *
 * Thread:  attached.
 * Returns: 0, or -1 with an ImportError: there is no pyloop, or it is older or newer than these
 *          headers allow.
 */
static inline int
pyloop_py_import(void)
{
    if (pyloop_py != NULL) {
        return 0;
    }
    const struct pyloop_py_api *api =
        (const struct pyloop_py_api *)PyCapsule_Import(PYLOOP_PY_CAPSULE, 0);
    if (api == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_ImportError)) { /* a pyloop without a capsule */
            PyErr_SetString(PyExc_ImportError, "this pyloop has no C interface");
        }
        return -1;
    }
    if (api->abi != PYLOOP_PY_ABI || api->size < sizeof(struct pyloop_py_api)) {
        PyErr_Format(PyExc_ImportError,
                     "this extension needs version %d of pyloop's C interface with %zu bytes; the "
                     "installed pyloop has version %u with %u bytes",
                     PYLOOP_PY_ABI, sizeof(struct pyloop_py_api), (unsigned)api->abi,
                     (unsigned)api->size);
        return -1;
    }
    PyObject *core = PyImport_ImportModule("pyloop._core");
    if (core == NULL) {
        return -1;
    }
    pyloop_py_core = core;
    pyloop_py = api;
    return 0;
}

/* ---- futures that are completed by any thread ---- */

/*
 * A future of the running loop, and the promise of its outcome.
 *
 * Thread:  attached, and a pyloop loop runs in it.
 * Owns:    returns a new reference to an asyncio future. *ret_promise is the caller's until
 *          pyloop_promise_complete(), _complete_object(), _complete_error() or _abandon(), one of
 *          which is due also when nobody wants the outcome any more and when the loop is closed.
 * Returns: NULL with RuntimeError (no pyloop loop is running) or MemoryError, and no promise.
 */
static inline PyObject *
pyloop_future_new(struct pyloop_promise **ret_promise)
{
    return pyloop_py->future_new(pyloop_py_core, ret_promise);
}

/*
 * Completes the future, soon and in its loop's thread, with what make(argument) returns or raises.
 *
 * Thread:  any.
 * Owns:    takes the promise in any case. On success `argument` goes to one call, attached: to
 *          `make`, or to `drop` if the future is done (cancelled) or the loop is closed before.
 *          `drop` may be NULL. On failure `argument` stays the caller's and nothing is called.
 * Returns: 0; -ECANCELED when the loop is closed. Never anything else.
 */
static inline int
pyloop_promise_complete(struct pyloop_promise *promise, pyloop_make *make, pyloop_drop *drop,
                        void *argument)
{
    return pyloop_py->promise_complete(promise, make, drop, argument);
}

/* For pyloop_promise_complete(). */
static inline PyObject *
pyloop_py_make_same(void *object)
{
    return (PyObject *)object;
}
static inline void
pyloop_py_drop_object(void *object)
{
    Py_DECREF((PyObject *)object);
}
static inline PyObject *
pyloop_py_make_error(void *error)
{
    errno = (int)(intptr_t)error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* The same with an object that exists. On success takes the reference; on failure it is still the
 * caller's, who must attach to give it back. */
static inline int
pyloop_promise_complete_object(struct pyloop_promise *promise, PyObject *value)
{
    return pyloop_py->promise_complete(promise, pyloop_py_make_same, pyloop_py_drop_object, value);
}

/* The same with an OSError; `error` is a negative errno. */
static inline int
pyloop_promise_complete_error(struct pyloop_promise *promise, int error)
{
    return pyloop_py->promise_complete(promise, pyloop_py_make_error, NULL,
                                       (void *)(intptr_t)-error);
}

/* The same by cancelling the future. */
static inline int
pyloop_promise_abandon(struct pyloop_promise *promise)
{
    return pyloop_py->promise_complete(promise, NULL, NULL, NULL);
}

/* 0: the future is done (cancelled) or its loop is closed, so that the work may be given up; the
 * promise is still to be completed. Else 1. Any thread that has the promise. */
static inline int
pyloop_promise_is_wanted(struct pyloop_promise *promise)
{
    return pyloop_py->promise_is_wanted(promise);
}

/* ---- into a loop from any thread ---- */

/* The port of the loop that runs in this thread: a new reference, or NULL with RuntimeError or
 * MemoryError. Attached. */
static inline struct pyloop_port *
pyloop_port_running(void)
{
    return pyloop_py->port_running(pyloop_py_core);
}

/* One more reference. Any thread that has one. */
static inline void
pyloop_port_ref(struct pyloop_port *port)
{
    pyloop_py->port_ref(port);
}

/* Gives a reference back. Any thread, also when the loop is gone. */
static inline void
pyloop_port_unref(struct pyloop_port *port)
{
    pyloop_py->port_unref(port);
}

/*
 * Has call(argument) called in the loop's thread, attached, soon. An exception that it leaves goes
 * to the loop's exception handler.
 *
 * Thread:  any that has a reference. Calls of one thread keep their order.
 * Owns:    on success `argument` goes to one call, attached: to `call`, or to `drop` (may be NULL)
 *          if the loop is closed before. On failure it stays the caller's.
 * Returns: 0; -ECANCELED when the loop is closed; -ENOMEM.
 */
static inline int
pyloop_port_call(struct pyloop_port *port, void (*call)(void *argument), pyloop_drop *drop,
                 void *argument)
{
    return pyloop_py->port_call(port, call, drop, argument);
}

/*
 * Runs the coroutine that make(argument) returns as a task of the loop (loop.create_task()), and
 * tells how it ended.
 *
 * Thread:  any that has a reference.
 * Owns:    `make` is called at most once and only uses `argument`; done(argument, ...) is called
 *          exactly once after success, in the loop's thread or in the one that closes the loop,
 *          and is the last use of `argument`; an exception that `make` raises comes to it too.
 *          pyloop keeps the task alive. On failure nothing is called.
 * Returns: 0; -ECANCELED when the loop is closed; -ENOMEM.
 */
static inline int
pyloop_coroutine_start(struct pyloop_port *port, pyloop_make *make, pyloop_coroutine_done *done,
                       void *argument)
{
    return pyloop_py->coroutine_start(port, make, done, argument);
}

/* ---- memory without a copy ---- */

/*
 * A memoryview of memory that C owns.
 *
 * Thread:  attached; no loop is needed.
 * Owns:    the memory stays as it is until release(owner), which is called once, attached, in
 *          whichever thread lets go of the last view; `release` may be NULL. On failure nothing is
 *          kept and it is not called.
 * Returns: a new reference, or NULL with MemoryError or OverflowError.
 *
 * The other way round, memory of Python for C: PyObject_GetBuffer() into the `state` of a task and
 * PyBuffer_Release() in its on_end(), see pyloop_task_start(); or release it in the `make` and in
 * the `drop` of pyloop_promise_complete().
 */
static inline PyObject *
pyloop_lend(void *data, size_t size, int is_writable, void (*release)(void *owner), void *owner)
{
    return pyloop_py->lend(pyloop_py_core, data, size, is_writable, release, owner);
}

/* ---- native tasks ---- */

/*
 * Starts a task of task.h on the runtime of the running loop: the loop's own workers in parallel
 * mode without a GIL, else a worker thread beside the loop (in parallel mode: beside each worker
 * that needs one), which the first use starts. Its steps must not use the Python API, and run
 * without the GIL; to use Python, they wait with pyloop_wait_coroutine().
 *
 * Cancelling the future cancels the task. loop.close() cancels it too and waits for its end. A step
 * may take a reference (pyloop_task_ref()) and give it to any thread, for pyloop_post() and
 * pyloop_task_cancel(): the loop may be closed meanwhile, or have been.
 *
 * Thread:  attached, and a pyloop loop runs in it.
 * Owns:    returns a new reference to an asyncio future. On success `state` is the task's until
 *          its last step has returned; then, attached, in the loop's thread: make_result(state) if
 *          the future still waits, whose new reference or exception is the outcome (NULL: None),
 *          and at last on_end(state), always and once. on_end may be NULL. It is called by the
 *          thread that closes the loop, or by a worker, if the loop does not run any more. Neither
 *          is called in the child of a fork.
 * Returns: NULL with RuntimeError, MemoryError or OSError, and nothing is kept.
 */
static inline PyObject *
pyloop_task_start(pyloop_step *first, void *state, PyObject *(*make_result)(void *state),
                  void (*on_end)(void *state))
{
    return pyloop_py->task_start(pyloop_py_core, first, state, make_result, on_end);
}

/*
 * A wait of task.h: for the coroutine that make(argument) returns, run as a task of the loop
 * (loop.create_task()). pyloop_port_running(), called when the native task is started, gives the
 * port.
 *
 *     the loop's thread, attached      make(argument) ... take(argument, result, exception)
 *     the task's worker             step                                                    next
 *
 * result: what `take` returns. -ECANCELED without a call of `take`: the task was cancelled, or the
 * loop was closed before the coroutine ended. -ENOMEM: nothing was called.
 *
 * A cancellation of the task ends the wait at once and cancels the coroutine, whose end nobody
 * waits for; only a `make` or `take` that runs at the time is waited for. A coroutine that is
 * cancelled by others is an outcome: `take` gets the asyncio.CancelledError.
 *
 * Thread:  in a step of the task, attached or not. Any loop's port does.
 * Owns:    `argument` is lent until the next step, as is usual for waits: it may be the state of
 * the task, for neither call runs at the same time as a step. `make` is called at most once, `take`
 * at most once after it, and also with what `make` raised. Both objects are borrowed: a `take` that
 * keeps one takes a reference, which is to be given back attached; the make_result() and on_end()
 * of pyloop_task_start() are. The port may be given back as soon as this returns.
 */
static inline void
pyloop_wait_coroutine(struct pyloop_task *task, struct pyloop_port *port, pyloop_make *make,
                      pyloop_take *take, void *argument, pyloop_step *next)
{
    pyloop_py->wait_coroutine(task, port, make, take, argument, next);
}

/*
 * The runtime of the running loop, for pyloop_spawn() and pyloop_timer_start(): tasks and timers
 * of which Python hears nothing. loop.close() cancels and ends them.
 *
 * Thread:  attached, and a pyloop loop runs in it.
 * Owns:    the loop's; valid until loop.close() begins, in steps of its tasks always: a call of
 *          another thread on it must have returned by then. References to its tasks, and its
 *          timers, are good for any thread for as long as they are held: see pyloop_post(). In
 *          parallel mode with a GIL each worker of the loop has another runtime.
 * Returns: NULL with RuntimeError, MemoryError or OSError.
 */
static inline struct pyloop_runtime *
pyloop_runtime_running(void)
{
    return pyloop_py->runtime(pyloop_py_core);
}

#define pyloop_spawn (pyloop_py->spawn)
#define pyloop_task_cancel (pyloop_py->task_cancel)
#define pyloop_task_ref (pyloop_py->task_ref)
#define pyloop_task_unref (pyloop_py->task_unref)
#define pyloop_task_runtime (pyloop_py->task_runtime)
#define pyloop_task_worker (pyloop_py->task_worker)
#define pyloop_sleep (pyloop_py->sleep)
#define pyloop_yield (pyloop_py->yield)
#define pyloop_accept (pyloop_py->accept)
#define pyloop_connect (pyloop_py->connect)
#define pyloop_receive (pyloop_py->receive)
#define pyloop_send (pyloop_py->send)
#define pyloop_close (pyloop_py->close)
#define pyloop_wait_process (pyloop_py->wait_process)
#define pyloop_call (pyloop_py->call)
#define pyloop_read_file (pyloop_py->read_file)
#define pyloop_write_file (pyloop_py->write_file)
#define pyloop_post (pyloop_py->post)
#define pyloop_wait_message (pyloop_py->wait_message)
#define pyloop_take_message (pyloop_py->take_message)
#define pyloop_timer_start (pyloop_py->timer_start)
#define pyloop_timer_stop (pyloop_py->timer_stop)

#endif

#ifdef __cplusplus
}
#endif

#endif
