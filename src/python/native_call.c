/*
 * native_call.c - C functions called off the loop's thread, awaited as futures.
 *
 * A call is a work item of the loop's own blocking pool. Its end is posted to the worker, so any
 * number of calls that end while the loop sleeps cost one wake-up. No thread of the pool ever
 * attaches to the interpreter.
 */
#include "python/native_call.h"

#include <errno.h>
#include <unistd.h>

#include "base/alloc.h"
#include "python/task.h"
#include "sched/blocking.h"

enum {
    ERRNO_MAX = 4095,
    THREADS_MAX = 32, /* and at most 4 more than processors, as ThreadPoolExecutor has it */
    THREADS_MORE = 4,
};

typedef int64_t native_fn(void *argument);

struct pyl_native {
    struct pyl_blocking_pool pool;
    struct pyl_list calls; /* every call whose done() did not run; loop thread */
};

struct native_call {
    struct pyl_work work;
    struct pyl_list link; /* in pyl_native.calls */
    struct pyl_loop *loop;
    PyObject *future; /* owned */
    PyObject *keep;   /* owned */
    Py_buffer view;   /* obj NULL: the argument is an address */
    native_fn *function;
    void *argument;
    int64_t result; /* written by the pool's thread, read after its post */
    bool is_checked;
};

static void
call_free(struct native_call *call)
{
    pyl_list_remove(&call->link);
    pyl_future_clear_done_hook(call->future);
    PyBuffer_Release(&call->view);
    Py_DECREF(call->keep);
    Py_DECREF(call->future);
    pyl_free(call);
}

/* On a thread of the pool, without a thread state. */
static void
call_run(struct pyl_work *work)
{
    struct native_call *call = PYL_CONTAINER_OF(work, struct native_call, work);
    call->result = call->function(call->argument);
}

/* 0, or -1 with an exception. */
static int
set_outcome(struct native_call *call)
{
    bool is_error = call->is_checked && call->result < 0 && call->result >= -ERRNO_MAX;
    PyObject *outcome =
        is_error ? pyl_make_oserror((int)call->result, NULL) : PyLong_FromLongLong(call->result);
    if (outcome == NULL) {
        return -1;
    }
    int status = is_error ? pyl_future_set_exception(call->future, outcome)
                          : pyl_future_set_result(call->future, outcome);
    Py_DECREF(outcome);
    return status;
}

static void
call_done(struct pyl_work *work, bool was_run)
{
    struct native_call *call = PYL_CONTAINER_OF(work, struct native_call, work);
    struct pyl_loop *loop = call->loop;
    pyl_future_clear_done_hook(call->future);
    if (was_run && set_outcome(call) < 0) {
        pyl_loop_report(loop, "A native call could not give its result", "future", call->future);
    }
    call_free(call);
}

/* The future is done: only a cancellation comes before call_done(). */
static void
on_cancelled(PyObject *future, void *user)
{
    struct native_call *call = user;
    (void)pyl_work_cancel(&call->work); /* else it runs, and nobody hears of it */
}

static struct pyl_native *
native_of(struct pyl_loop *loop)
{
    if (loop->native != NULL) {
        return loop->native;
    }
    struct pyl_native *native = pyl_alloc_zero(sizeof(*native));
    if (native == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    long threads = sysconf(_SC_NPROCESSORS_ONLN) + THREADS_MORE;
    struct pyl_blocking_options options = {
        .threads_max = (uint32_t)(threads < THREADS_MAX ? threads : THREADS_MAX),
    };
    int error = pyl_blocking_init(&native->pool, &options);
    if (error < 0) {
        pyl_free(native);
        pyl_raise_errno(error);
        return NULL;
    }
    pyl_list_init(&native->calls);
    loop->native = native;
    return native;
}

/* 0, or -1 with an exception. */
static int
read_argument(struct native_call *call, PyObject *argument)
{
    if (Py_IsNone(argument)) {
        return 0;
    }
    if (PyLong_Check(argument)) {
        call->argument = PyLong_AsVoidPtr(argument);
        return call->argument == NULL && PyErr_Occurred() ? -1 : 0;
    }
    if (PyObject_GetBuffer(argument, &call->view, PyBUF_WRITABLE) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_BufferError)) {
            return -1;
        }
        PyErr_Clear();
        if (PyObject_GetBuffer(argument, &call->view, PyBUF_SIMPLE) < 0) {
            return -1;
        }
    }
    call->argument = call->view.buf;
    return 0;
}

/* A call in the list, not yet submitted; or NULL with an exception. */
static struct native_call *
call_new(struct pyl_loop *loop, PyObject *const *args)
{
    void *function = PyLong_AsVoidPtr(args[0]);
    if (function == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "the function is a NULL pointer");
        }
        return NULL;
    }
    int is_checked = PyObject_IsTrue(args[3]);
    PyObject *future = is_checked < 0 ? NULL : pyl_future_new(loop);
    struct native_call *call = future == NULL ? NULL : pyl_alloc_zero(sizeof(*call));
    if (call == NULL) {
        Py_XDECREF(future);
        return PyErr_Occurred() ? NULL : (void *)PyErr_NoMemory();
    }
    call->work.run = call_run;
    call->work.done = call_done;
    call->loop = loop;
    call->function = (native_fn *)function;
    call->future = future;
    call->keep = Py_NewRef(args[2]);
    call->is_checked = is_checked;
    pyl_list_append(&loop->native->calls, &call->link);
    if (read_argument(call, args[1]) < 0) {
        call_free(call);
        return NULL;
    }
    return call;
}

PyObject *
pyl_loop_py_native_call(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct pyl_loop *loop = (struct pyl_loop *)(void *)self;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "_native_call() takes 4 arguments");
        return NULL;
    }
    if (pyl_loop_check_usable(loop) < 0 || native_of(loop) == NULL) {
        return NULL;
    }
    if (pyl_loop_is_foreign_thread(loop)) {
        PyErr_SetString(PyExc_RuntimeError, "the loop runs in another thread");
        return NULL;
    }
    struct native_call *call = call_new(loop, args);
    if (call == NULL) {
        return NULL;
    }
    PyObject *future = Py_NewRef(call->future);
    pyl_future_set_done_hook(future, on_cancelled, call);
    int error = pyl_blocking_submit(&loop->native->pool, loop->worker, &call->work);
    if (error < 0) {
        call_free(call);
        Py_DECREF(future);
        PyErr_SetString(PyExc_RuntimeError, "can't start new thread");
        return NULL;
    }
    return future;
}

bool
pyl_native_owns_job(struct pyl_job *job)
{
    const struct pyl_work *work = pyl_work_of_job(job);
    return work != NULL && work->done == call_done;
}

void
pyl_native_close(struct pyl_loop *loop)
{
    if (loop->native != NULL) {
        Py_BEGIN_ALLOW_THREADS;
        pyl_blocking_close(&loop->native->pool);
        Py_END_ALLOW_THREADS;
    }
}

void
pyl_native_release(struct pyl_loop *loop)
{
    struct pyl_native *native = loop->native;
    if (native == NULL) {
        return;
    }
    loop->native = NULL;
    while (!pyl_list_is_empty(&native->calls)) {
        call_free(PYL_CONTAINER_OF(native->calls.next, struct native_call, link));
    }
    pyl_free(native);
}

void
pyl_native_abandon(struct pyl_loop *loop)
{
    if (loop->native != NULL) {
        pyl_blocking_abandon(&loop->native->pool);
    }
}

int
pyl_native_traverse(struct pyl_loop *loop, visitproc visit, void *arg)
{
    if (loop->native == NULL) {
        return 0;
    }
    struct pyl_list *head = &loop->native->calls;
    for (struct pyl_list *link = head->next; link != head; link = link->next) {
        struct native_call *call = PYL_CONTAINER_OF(link, struct native_call, link);
        Py_VISIT(call->future);
        Py_VISIT(call->keep);
        Py_VISIT(call->view.obj);
    }
    return 0;
}
