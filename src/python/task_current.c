/*
 * task_current.c - what asyncio knows of our tasks: which one is current, and which ones exist.
 *
 * Up to 3.13 the current tasks are a dict keyed by loop, which asyncio's C and Python code share;
 * we use the dict itself. From 3.14 on the current task is in the thread state, to be reached
 * through asyncio's functions only.
 */
#include "python/future.h"

#include "base/check.h"

/* ---- current_task() */

static int
raise_other_current(struct pyl_task *task, PyObject *current)
{
    PyErr_Format(PyExc_RuntimeError,
                 "Cannot enter into task %R while another task %R is being executed.", task,
                 current);
    return -1;
}

static int
call_with_task(PyObject *function, struct pyl_task *task)
{
    PyObject *stack[] = {task->future.loop, (PyObject *)task};
    PyObject *answer = PyObject_Vectorcall(function, stack, 2, NULL);
    Py_XDECREF(answer);
    return answer != NULL ? 0 : -1;
}

int
pyl_task_enter(struct pyl_task *task)
{
    PyObject *currents = task->future.state->current_tasks;
    if (currents == NULL) {
        return call_with_task(task->future.state->enter_task, task);
    }
    PyObject *current = PyDict_SetDefault(currents, task->future.loop, (PyObject *)task);
    if (PYL_LIKELY(current == (PyObject *)task)) {
        return 0;
    }
    return current == NULL ? -1 : raise_other_current(task, current);
}

int
pyl_task_leave(struct pyl_task *task)
{
    PyObject *currents = task->future.state->current_tasks;
    PyObject *loop = task->future.loop;
    if (currents == NULL) {
        return call_with_task(task->future.state->leave_task, task);
    }
    PyObject *current = PyDict_GetItemWithError(currents, loop);
    if (PYL_LIKELY(current == (PyObject *)task)) {
        return PyDict_DelItem(currents, loop);
    }
    if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_RuntimeError, "Leaving task %R does not match the current task %R.",
                     task, current != NULL ? current : Py_None);
    }
    return -1;
}

static PyObject *
swap_in_dict(PyObject *currents, PyObject *loop, PyObject *task)
{
    PyObject *previous = Py_XNewRef(PyDict_GetItemWithError(currents, loop));
    if (previous == NULL && PyErr_Occurred()) {
        return NULL;
    }
    int rc = 0;
    if (!Py_IsNone(task)) {
        rc = PyDict_SetItem(currents, loop, task);
    } else if (previous != NULL) {
        rc = PyDict_DelItem(currents, loop);
    }
    if (rc < 0) {
        Py_XDECREF(previous);
        return NULL;
    }
    return previous != NULL ? previous : Py_NewRef(Py_None);
}

PyObject *
pyl_task_swap_current(struct pyl_state *state, PyObject *loop, PyObject *task)
{
    if (state->current_tasks != NULL) {
        return swap_in_dict(state->current_tasks, loop, task);
    }
    PyObject *stack[] = {loop, task};
    return PyObject_Vectorcall(state->swap_current_task, stack, 2, NULL);
}

/* ---- all_tasks() */

static int
call_registry(PyObject *function, struct pyl_task *task)
{
    PyObject *answer = PyObject_CallOneArg(function, (PyObject *)task);
    Py_XDECREF(answer);
    return answer != NULL ? 0 : -1;
}

int
pyl_task_register(struct pyl_task *task)
{
    if (task->future.is_registered || task->future.status != PYL_FUTURE_PENDING) {
        return 0;
    }
    task->future.is_registered = true;
    return call_registry(task->future.state->register_task, task);
}

int
pyl_task_register_eager(struct pyl_task *task)
{
    PyObject *function = task->future.state->register_eager_task;
    return function != NULL ? call_registry(function, task) : 0;
}

int
pyl_task_unregister_eager(struct pyl_task *task)
{
    PyObject *function = task->future.state->unregister_eager_task;
    return function != NULL ? call_registry(function, task) : 0;
}

void
pyl_task_unregister(struct pyl_task *task)
{
    task->future.is_registered = false;
}
