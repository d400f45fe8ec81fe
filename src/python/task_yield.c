/*
 * task_yield.c - what a coroutine yielded decides when its task runs again.
 *
 * A future of ours is told in C. Every other object with a _asyncio_future_blocking that is not
 * None is asked through its attributes. None gives up the rest of the turn. The rest is a mistake,
 * which is raised in the coroutine.
 */
#include "python/crossing.h"

/* Raises RuntimeError(text) in the coroutine at its next step. 0 or -1. */
static int
raise_soon(struct pyl_task *task, const char *format, PyObject *first, PyObject *second)
{
    PyObject *text = PyUnicode_FromFormat(format, first, second);
    if (text == NULL) {
        return -1;
    }
    PyObject *error = PyObject_CallOneArg(PyExc_RuntimeError, text);
    Py_DECREF(text);
    if (error == NULL) {
        return -1;
    }
    Py_XSETREF(task->raise_next, error);
    return pyl_task_schedule(task);
}

static int
raise_different_loop(struct pyl_task *task, PyObject *yielded)
{
    return raise_soon(task, "Task %R got Future %R attached to a different loop", (PyObject *)task,
                      yielded);
}

static int
raise_not_awaited(struct pyl_task *task, PyObject *yielded)
{
    return raise_soon(task, "yield was used instead of yield from in task %R with %R",
                      (PyObject *)task, yielded);
}

/* The cancellation that came before there was something to wait for. 0 or -1. */
static int
pass_on_cancel(struct pyl_task *task)
{
    if (PYL_LIKELY(!task->future.must_cancel)) {
        return 0;
    }
    int rc =
        pyl_task_cancel_waiter(task, pyl_future_rare(&task->future, PYL_FUTURE_CANCEL_MESSAGE));
    if (rc > 0) {
        task->future.must_cancel = false;
    }
    return rc < 0 ? -1 : 0;
}

static int
await_ours(struct pyl_task *task, PyObject *yielded)
{
    struct pyl_future *future = pyl_future_cast(yielded);
    if (PYL_UNLIKELY(future->loop != task->future.loop)) {
        return raise_different_loop(task, yielded);
    }
    if (PYL_UNLIKELY(!future->is_blocking)) {
        return raise_not_awaited(task, yielded);
    }
    future->is_blocking = false;
    task->fut_waiter = Py_NewRef(yielded); /* it was cleared before the step */
    if (pyl_future_add_waiter(future, task) < 0) {
        Py_CLEAR(task->fut_waiter);
        return -1;
    }
    return pass_on_cancel(task);
}

/* asyncio.futures._get_loop(future). New reference or NULL. */
static PyObject *
loop_of(struct pyl_state *state, PyObject *future)
{
    PyObject *get_loop;
    if (PyObject_GetOptionalAttr(future, state->str.get_loop, &get_loop) < 0) {
        return NULL;
    }
    if (get_loop == NULL) {
        return PyObject_GetAttr(future, state->str._loop);
    }
    PyObject *loop = PyObject_CallNoArgs(get_loop);
    Py_DECREF(get_loop);
    return loop;
}

/* future.add_done_callback(wakeup, context=task.context). 0 or -1. */
static int
add_wakeup(struct pyl_task *task, PyObject *future)
{
    struct pyl_state *state = task->future.state;
    PyObject *wakeup = pyl_task_make_wakeup(task);
    if (wakeup == NULL) {
        return -1;
    }
    PyObject *stack[] = {future, wakeup, task->context};
    PyObject *answer =
        PyObject_VectorcallMethod(state->str.add_done_callback, stack,
                                  2 | PY_VECTORCALL_ARGUMENTS_OFFSET, state->tasks.context_names);
    Py_DECREF(wakeup);
    Py_XDECREF(answer);
    return answer != NULL ? 0 : -1;
}

static int
await_foreign(struct pyl_task *task, PyObject *yielded, bool is_blocking)
{
    struct pyl_state *state = task->future.state;
    PyObject *loop = loop_of(state, yielded);
    if (loop == NULL) {
        return -1;
    }
    bool is_same_loop = loop == task->future.loop;
    Py_DECREF(loop);
    if (!is_same_loop) {
        return raise_different_loop(task, yielded);
    }
    if (!is_blocking) {
        return raise_not_awaited(task, yielded);
    }
    if (PyObject_SetAttr(yielded, state->str._asyncio_future_blocking, Py_False) < 0 ||
        add_wakeup(task, yielded) < 0) {
        return -1;
    }
    /* A class derived from ours does not know its waiter as one: it was given a callable. Once it
     * is done, step_woken() takes that back. */
    if (pyl_future_is_ours(state, yielded) &&
        pyl_future_awaited_by_add(pyl_future_cast(yielded), (PyObject *)task) < 0) {
        return -1;
    }
    Py_XSETREF(task->fut_waiter, Py_NewRef(yielded));
    return pass_on_cancel(task);
}

static int
handle_foreign(struct pyl_task *task, PyObject *yielded)
{
    PyObject *blocking;
    if (PyObject_GetOptionalAttr(yielded, task->future.state->str._asyncio_future_blocking,
                                 &blocking) < 0) {
        return -1;
    }
    if (blocking != NULL && !Py_IsNone(blocking)) {
        int is_blocking = PyObject_IsTrue(blocking);
        Py_DECREF(blocking);
        return is_blocking < 0 ? -1 : await_foreign(task, yielded, is_blocking);
    }
    Py_XDECREF(blocking);

    int is_generator = PyObject_IsInstance(yielded, (PyObject *)&PyGen_Type);
    if (is_generator < 0) {
        return -1;
    }
    if (is_generator) {
        return raise_soon(task,
                          "yield was used instead of yield from for generator in task %R with %R",
                          (PyObject *)task, yielded);
    }
    return raise_soon(task, "Task got bad yield: %R", yielded, NULL);
}

int
pyl_task_handle_yield(struct pyl_task *task, PyObject *yielded)
{
    int rc;
    if (PYL_UNLIKELY(yielded == (PyObject *)task)) {
        rc = raise_soon(task, "Task cannot await on itself: %R", yielded, NULL);
    } else if (PYL_LIKELY(pyl_future_is_final(task->future.state, yielded))) {
        rc = await_ours(task, yielded);
    } else if (Py_IsNone(yielded)) {
        rc = pyl_task_schedule(task);
    } else {
        rc = handle_foreign(task, yielded);
    }
    Py_DECREF(yielded);
    return rc;
}
