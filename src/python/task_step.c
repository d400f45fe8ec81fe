/*
 * task_step.c - running a task: who wakes it, one step, the first step of an eager one.
 *
 * On a loop of ours the task itself is what the run queue holds: no Handle, no callable. On any
 * other loop, in debug mode, and where call_soon() is overridden, a step is a callable given to
 * loop.call_soon(), exactly as asyncio's tasks do it.
 *
 *   SUSPENDED --wake, schedule--> QUEUED --run--> STEPPING --yield--> SUSPENDED | QUEUED
 *                                                     \--return, raise--> done
 */
#include "python/crossing.h"

#include "base/check.h"

static PyObject *call_step(PyObject *task, PyObject *unused);
static PyObject *call_wakeup(PyObject *task, PyObject *future);

static PyMethodDef step_def = {"task_step", call_step, METH_NOARGS, NULL};
static PyMethodDef wakeup_def = {"task_wakeup", call_wakeup, METH_O, NULL};

/* ---- queueing */

/* The loop whose run queue may hold the task's job now, or NULL: go through loop.call_soon(). */
static struct pyl_loop *
direct_loop(struct pyl_task *task)
{
    struct pyl_loop *loop = task->future.native;
    if (PYL_LIKELY(loop != NULL && pyl_loop_is_direct(loop) && !task->future.is_queued &&
                   !task->has_odd_context)) {
        return loop;
    }
    return NULL;
}

static void
post(struct pyl_task *task, struct pyl_loop *loop)
{
    task->future.is_queued = true;
    Py_INCREF(task);
    if (PYL_LIKELY(pyl_loop_owns_queues(loop))) {
        pyl_worker_post(loop->worker, &task->job);
    } else {
        pyl_worker_post_remote(loop->worker, &task->job);
    }
}

int
pyl_task_schedule(struct pyl_task *task)
{
    struct pyl_loop *loop = direct_loop(task);
    if (PYL_LIKELY(loop != NULL)) {
        post(task, loop);
        return 0;
    }
    PyObject *step = PyCFunction_New(&step_def, (PyObject *)task);
    if (step == NULL) {
        return -1;
    }
    PyObject *context = Py_NewRef(task->context); /* a call_soon() in Python may change ours */
    int rc = pyl_future_call_soon(&task->future, step, NULL, context);
    Py_DECREF(context);
    Py_DECREF(step);
    return rc;
}

PyObject *
pyl_task_make_wakeup(struct pyl_task *task)
{
    return PyCFunction_New(&wakeup_def, (PyObject *)task);
}

int
pyl_task_wake(struct pyl_task *task, struct pyl_future *future)
{
    struct pyl_loop *loop = direct_loop(task);
    if (PYL_LIKELY(loop != NULL && task->fut_waiter == (PyObject *)future)) {
        task->future.is_woken = true;
        post(task, loop);
        return 0;
    }
    PyObject *wakeup = pyl_task_make_wakeup(task);
    if (wakeup == NULL) {
        return -1;
    }
    PyObject *context = Py_NewRef(task->context);
    int rc = pyl_future_call_soon(future, wakeup, (PyObject *)future, context);
    Py_DECREF(context);
    Py_DECREF(wakeup);
    return rc;
}

/* ---- one step */

/* coro.throw(exception), with the result of a send. */
static PySendResult
throw_into(struct pyl_state *state, PyObject *coro, PyObject *exception, PyObject **ret)
{
    *ret = PyObject_CallMethodOneArg(coro, state->str.throw, exception);
    if (*ret != NULL) {
        return PYGEN_NEXT;
    }
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return PYGEN_ERROR;
    }
    PyObject *stop = PyErr_GetRaisedException();
    *ret = Py_NewRef(((PyStopIterationObject *)(void *)stop)->value);
    Py_DECREF(stop);
    return PYGEN_RETURN;
}

/* The coroutine returned. Steals the value. 0 or -1. */
static int
finish_returned(struct pyl_task *task, PyObject *value)
{
    int rc;
    if (PYL_UNLIKELY(task->future.must_cancel)) {
        /* Cancelled right before it stopped. */
        task->future.must_cancel = false;
        rc = pyl_future_finish_cancelled(&task->future,
                                         pyl_future_rare(&task->future, PYL_FUTURE_CANCEL_MESSAGE));
    } else {
        rc = pyl_future_finish_result(&task->future, value);
    }
    Py_DECREF(value);
    return rc < 0 ? -1 : 0;
}

/* The coroutine raised the current exception. 0, or -1 with an exception. */
static int
finish_raised(struct pyl_task *task)
{
    bool is_cancelled = PyErr_ExceptionMatches(task->future.state->cancelled_error);
    PyObject *exception = PyErr_GetRaisedException();
    if (is_cancelled) {
        pyl_future_keep_cancelled(&task->future, exception);
        return pyl_future_finish_cancelled(&task->future, NULL) < 0 ? -1 : 0;
    }
    int rc = pyl_future_finish_exception(&task->future, exception);
    if (rc == 0 && (PyErr_GivenExceptionMatches(exception, PyExc_KeyboardInterrupt) ||
                    PyErr_GivenExceptionMatches(exception, PyExc_SystemExit))) {
        PyErr_SetRaisedException(exception);
        return -1;
    }
    Py_DECREF(exception);
    return rc;
}

/* Which exception this step starts with: the given one, or the cancellation that is due. 0 or -1.
 */
static int
choose_thrown(struct pyl_task *task, PyObject *given, PyObject **ret)
{
    *ret = Py_XNewRef(given);
    if (PYL_LIKELY(!task->future.must_cancel)) {
        return 0;
    }
    if (given == NULL || !PyErr_GivenExceptionMatches(given, task->future.state->cancelled_error)) {
        PyObject *error = pyl_future_make_cancelled(&task->future);
        if (error == NULL) {
            Py_CLEAR(*ret);
            return -1;
        }
        Py_XSETREF(*ret, error);
    }
    task->future.must_cancel = false;
    return 0;
}

/* The step proper; the task is current. `exception` (borrowed or NULL) is raised in the coroutine.
 * 0, or -1 with an exception. */
static int
step_entered(struct pyl_task *task, PyObject *exception)
{
    if (PYL_UNLIKELY(task->future.status != PYL_FUTURE_PENDING)) {
        PyErr_Format(task->future.state->invalid_state_error, "__step(): already done: %R %R", task,
                     exception != NULL ? exception : Py_None);
        return -1;
    }
    PyObject *thrown;
    if (choose_thrown(task, exception, &thrown) < 0) {
        return -1;
    }
    Py_CLEAR(task->fut_waiter);
    PyObject *coro = Py_XNewRef(task->coro);
    if (coro == NULL) {
        Py_XDECREF(thrown);
        PyErr_SetString(PyExc_RuntimeError, "uninitialized Task object");
        return -1;
    }

    PyObject *value;
    PySendResult status;
    if (PYL_LIKELY(thrown == NULL)) {
        status = PyIter_Send(coro, Py_None, &value);
    } else {
        status = throw_into(task->future.state, coro, thrown, &value);
        Py_DECREF(thrown);
    }
    Py_DECREF(coro);

    switch (status) {
    case PYGEN_NEXT:
        return pyl_task_handle_yield(task, value);
    case PYGEN_RETURN:
        return finish_returned(task, value);
    case PYGEN_ERROR:
        break;
    }
    return finish_raised(task);
}

/* As step_entered(), but never in two threads at once: before CPython 3.15 that corrupts the
 * coroutine. */
static int
step_exclusively(struct pyl_task *task, PyObject *exception)
{
    if (!PYL_FREE_THREADED) {
        return step_entered(task, exception);
    }
    if (atomic_exchange_explicit(&task->is_stepping, true, memory_order_acquire)) {
        PyErr_SetString(PyExc_RuntimeError, "the task is being stepped already");
        return -1;
    }
    int rc = step_entered(task, exception);
    /* Pairs with the exchange above: the next stepper sees the coroutine as we left it. */
    atomic_store_explicit(&task->is_stepping, false, memory_order_release);
    return rc;
}

static int
step(struct pyl_task *task, PyObject *exception)
{
    if (pyl_task_enter(task) < 0) {
        return -1;
    }
    if (PYL_LIKELY(step_exclusively(task, exception) == 0)) {
        return pyl_task_leave(task);
    }
    PyObject *raised = PyErr_GetRaisedException();
    if (pyl_task_leave(task) < 0) {
        PyErr_Clear();
    }
    PyErr_SetRaisedException(raised);
    return -1;
}

/* The step after `future`, which is done. */
static int
step_woken(struct pyl_task *task, PyObject *object)
{
    struct pyl_state *state = task->future.state;
    PyObject *value;
    if (PYL_UNLIKELY(!pyl_future_is_final(state, object))) {
        if (pyl_future_is_ours(state, object) &&
            pyl_future_awaited_by_discard(pyl_future_cast(object), (PyObject *)task) < 0) {
            return -1;
        }
        value = PyObject_CallMethodNoArgs(object, state->str.result);
        if (value != NULL) {
            Py_DECREF(value);
            return step(task, NULL);
        }
        value = PyErr_GetRaisedException();
    } else {
        struct pyl_future *future = pyl_future_cast(object);
        if (PYL_LIKELY(future->status == PYL_FUTURE_FINISHED && future->exception == NULL)) {
            return step(task, NULL);
        }
        if (future->status == PYL_FUTURE_CANCELLED) {
            value = pyl_future_make_cancelled(future);
        } else if (pyl_future_get_result(future, &value) < 0) {
            value = PyErr_GetRaisedException();
        }
    }
    if (value == NULL) {
        return -1;
    }
    int rc = step(task, value);
    Py_DECREF(value);
    return rc;
}

static int
step_scheduled(struct pyl_task *task)
{
    PyObject *exception = task->raise_next;
    task->raise_next = NULL;
    int rc = step(task, exception);
    Py_XDECREF(exception);
    return rc;
}

/* ---- how a step is run */

static PyObject *
call_step(PyObject *op, PyObject *unused)
{
    if (step_scheduled(pyl_task_cast(op)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
call_wakeup(PyObject *op, PyObject *future)
{
    if (step_woken(pyl_task_cast(op), future) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
run_in_context(struct pyl_task *task, PyObject *context, bool is_woken)
{
    if (PyContext_Enter(context) < 0) {
        return -1;
    }
    int rc;
    if (is_woken && task->fut_waiter != NULL) {
        PyObject *future = Py_NewRef(task->fut_waiter);
        rc = step_woken(task, future);
        Py_DECREF(future);
    } else {
        rc = step_scheduled(task);
    }
    if (PYL_LIKELY(rc == 0)) {
        return PyContext_Exit(context);
    }
    PyObject *raised = PyErr_GetRaisedException();
    if (PyContext_Exit(context) < 0) {
        PyErr_Clear();
    }
    PyErr_SetRaisedException(raised);
    return -1;
}

void
pyl_task_run_job(struct pyl_job *job)
{
    struct pyl_task *task = PYL_CONTAINER_OF(job, struct pyl_task, job);
    struct pyl_loop *loop = (struct pyl_loop *)(void *)Py_XNewRef((PyObject *)task->future.native);
    PyObject *context = Py_XNewRef(task->context);
    bool is_woken = task->future.is_woken;
    task->future.is_queued = false;
    task->future.is_woken = false;

    /* Both are missing only if somebody called __init__() again and it failed. */
    if (PYL_LIKELY(loop != NULL && context != NULL) &&
        run_in_context(task, context, is_woken) < 0) {
        pyl_loop_report(loop, "Exception in callback Task.task_step()", "task", (PyObject *)task);
    }
    Py_XDECREF(context);
    Py_XDECREF(loop);
    Py_DECREF(task);
}

/* ---- eager start */

/* Step and what belongs around it, with the context entered. */
static int
eager_step(struct pyl_task *task)
{
    PyObject *previous = pyl_task_swap_current(task, (PyObject *)task);
    if (previous == NULL) {
        return -1;
    }
    int rc = step_exclusively(task, NULL);
    PyObject *raised = rc < 0 ? PyErr_GetRaisedException() : NULL;
    PyObject *current = pyl_task_swap_current(task, previous);
    Py_DECREF(previous);
    if (raised != NULL) {
        if (current == NULL) {
            PyErr_Clear();
        }
        PyErr_SetRaisedException(raised);
    } else if (current == NULL) {
        rc = -1;
    }
    Py_XDECREF(current);
    return rc;
}

int
pyl_task_start_eagerly(struct pyl_task *task)
{
    if (task->future.state->tasks.has_own_registry) {
        (void)pyl_task_register(task); /* two stores: be visible from the first step on */
    }
    PyObject *context = task->context;
    bool is_entered = !pyl_context_is_current(context);
    if (is_entered && PyContext_Enter(context) < 0) {
        return -1;
    }
    Py_INCREF(context);
    int rc = eager_step(task);
    if (is_entered) {
        PyObject *raised = PyErr_GetRaisedException();
        if (PyContext_Exit(context) < 0) {
            rc = -1;
            if (raised != NULL) {
                PyErr_Clear();
            }
        }
        pyl_restore_exception(raised);
    }
    Py_DECREF(context);
    if (task->future.status != PYL_FUTURE_PENDING) {
        Py_CLEAR(task->coro);
    } else if (rc == 0) {
        rc = pyl_task_register(task);
    }
    return rc;
}
