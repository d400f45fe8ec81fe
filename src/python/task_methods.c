/*
 * task_methods.c - what a Task has beyond a Future: cancelling, its name, its stack, its parts.
 */
#include "python/crossing.h"

#include "python/instance_dict.h"
#include "python/keywords.h"
#include "python/views.h"

/* ---- cancelling */

static int task_cancel(struct pyl_task *task, PyObject *message);

/* object.cancel(message): 1, 0 or -1 */
static int
cancel_object(struct pyl_state *state, PyObject *object, PyObject *message)
{
    /* An instance with a __dict__ may have a cancel() of its own there. */
    if (pyl_future_is_exact(state, object) &&
        !pyl_instance_dict_is_used(state, pyl_future_cast(object)->dict)) {
        struct pyl_future *future = pyl_future_cast(object);
        if (!future->is_task) {
            return pyl_future_finish_cancelled(future, message);
        }
        if (Py_EnterRecursiveCall(" while cancelling a task")) {
            return -1;
        }
        int rc = task_cancel(pyl_task_cast(object), message);
        Py_LeaveRecursiveCall();
        return rc;
    }
    PyObject *answer = PyObject_CallMethodOneArg(object, state->str.cancel, message);
    if (answer == NULL) {
        return -1;
    }
    int rc = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return rc;
}

int
pyl_task_cancel_waiter(struct pyl_task *task, PyObject *message)
{
    PyObject *waiter = Py_NewRef(task->fut_waiter); /* cancel() may run anything */
    PyObject *text = Py_NewRef(message != NULL ? message : Py_None);
    int rc = cancel_object(task->future.state, waiter, text);
    Py_DECREF(text);
    Py_DECREF(waiter);
    return rc;
}

/* 1, 0 (done already) or -1 */
static int
task_cancel(struct pyl_task *task, PyObject *message)
{
    task->future.log_traceback = false;
    if (task->future.status != PYL_FUTURE_PENDING) {
        return 0;
    }
    task->cancel_requests++;
    if (task->fut_waiter != NULL) {
        int rc = pyl_task_cancel_waiter(task, message);
        if (rc != 0) {
            /* The waiter stays: it may be a task that ignores this, to be cancelled again. */
            return rc;
        }
    }
    if (pyl_future_set_cancel_message(&task->future, message) < 0) {
        return -1;
    }
    task->future.must_cancel = true;
    return 1;
}

static int
task_cancel_in_section(struct pyl_task *task, PyObject *message)
{
    int rc;
    if (PYL_UNLIKELY(pyl_views_is_elsewhere(task->future.native))) {
        return pyl_crossing_cancel(task, message);
    }
    Py_BEGIN_CRITICAL_SECTION(task);
    rc = task_cancel(task, message);
    Py_END_CRITICAL_SECTION();
    return rc;
}

int
pyl_task_request_cancel(PyObject *op, PyObject *message)
{
    return task_cancel_in_section(pyl_task_cast(op), message);
}

PyDoc_STRVAR(cancel_doc, "cancel($self, /, msg=None)\n--\n\n"
                         "Request that this task cancel itself.\n\n"
                         "This arranges for a CancelledError to be thrown into the\n"
                         "wrapped coroutine on the next cycle through the event loop.\n"
                         "The coroutine then has a chance to clean up or even deny\n"
                         "the request using try/except/finally.\n\n"
                         "Unlike Future.cancel, this does not guarantee that the\n"
                         "task will be cancelled: the exception might be caught and\n"
                         "acted upon, delaying cancellation of the task or preventing\n"
                         "cancellation completely.  The task may also return a value or\n"
                         "raise a different exception.\n\n"
                         "This also increases the task's count of cancellation requests.");

static PyObject *
method_cancel(PyObject *op, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct pyl_task *task = pyl_task_cast(op);
    PyObject *message = Py_None;
    if (pyl_argument_get("cancel", args, count, names, task->future.state->str.msg, &message) < 0 ||
        pyl_future_ensure_init(&task->future) < 0) {
        return NULL;
    }
    int rc = task_cancel_in_section(task, message);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

PyDoc_STRVAR(cancelling_doc, "cancelling($self, /)\n--\n\n"
                             "Return the count of the task's cancellation requests.\n\n"
                             "This count is incremented when .cancel() is called\n"
                             "and may be decremented using .uncancel().");

static PyObject *
method_cancelling(PyObject *op, PyObject *unused)
{
    return PyLong_FromLong(pyl_task_cast(op)->cancel_requests);
}

PyDoc_STRVAR(uncancel_doc, "uncancel($self, /)\n--\n\n"
                           "Decrement the task's count of cancellation requests.\n\n"
                           "This should be used by tasks that catch CancelledError\n"
                           "and wish to continue indefinitely until they are cancelled again.\n\n"
                           "Returns the remaining number of cancellation requests.");

static PyObject *
method_uncancel(PyObject *op, PyObject *unused)
{
    struct pyl_task *task = pyl_task_cast(op);
    long left;
    Py_BEGIN_CRITICAL_SECTION(op);
    if (task->cancel_requests > 0) {
        task->cancel_requests--;
        /* Since 3.13 the last uncancel() also takes back a request not yet delivered. */
        if (task->cancel_requests == 0 && Py_Version >= 0x030D0000) {
            task->future.must_cancel = false;
        }
    }
    left = task->cancel_requests;
    Py_END_CRITICAL_SECTION();
    return PyLong_FromLong(left);
}

/* ---- refused */

static PyObject *
method_set_result(PyObject *op, PyObject *result)
{
    PyErr_SetString(PyExc_RuntimeError, "Task does not support set_result operation");
    return NULL;
}

static PyObject *
method_set_exception(PyObject *op, PyObject *exception)
{
    PyErr_SetString(PyExc_RuntimeError, "Task does not support set_exception operation");
    return NULL;
}

/* ---- its parts */

static PyObject *
or_none(PyObject *object)
{
    return Py_NewRef(object != NULL ? object : Py_None);
}

static PyObject *
method_get_coro(PyObject *op, PyObject *unused)
{
    return or_none(pyl_task_cast(op)->coro);
}

static PyObject *
method_get_context(PyObject *op, PyObject *unused)
{
    return or_none(pyl_task_cast(op)->context);
}

static PyObject *
method_get_name(PyObject *op, PyObject *unused)
{
    struct pyl_task *task = pyl_task_cast(op);
    PyObject *name;
    Py_BEGIN_CRITICAL_SECTION(op);
    if (task->name == NULL && task->number != 0) {
        task->name = PyUnicode_FromFormat("Task-%llu", task->number);
        name = Py_XNewRef(task->name);
    } else {
        name = or_none(task->name);
    }
    Py_END_CRITICAL_SECTION();
    return name;
}

static PyObject *
method_set_name(PyObject *op, PyObject *value)
{
    struct pyl_task *task = pyl_task_cast(op);
    PyObject *name = PyUnicode_CheckExact(value) ? Py_NewRef(value) : PyObject_Str(value);
    if (name == NULL) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(op);
    Py_XSETREF(task->name, name);
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_stack_doc,
             "get_stack($self, /, *, limit=None)\n--\n\n"
             "Return the list of stack frames for this task's coroutine.\n\n"
             "If the coroutine is not done, this returns the stack where it is\n"
             "suspended.  If the coroutine has completed successfully or was\n"
             "cancelled, this returns an empty list.  If the coroutine was\n"
             "terminated by an exception, this returns the list of traceback\n"
             "frames.\n\n"
             "The frames are always ordered from oldest to newest. The optional limit gives the\n"
             "maximum number of frames to return; by default all available frames are returned.");

static PyObject *
method_get_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", NULL};
    PyObject *limit = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:get_stack", names, &limit)) {
        return NULL;
    }
    PyObject *stack[] = {op, limit};
    return PyObject_Vectorcall(pyl_future_cast(op)->state->task_get_stack, stack, 2, NULL);
}

PyDoc_STRVAR(print_stack_doc, "print_stack($self, /, *, limit=None, file=None)\n--\n\n"
                              "Print the stack or traceback for this task's coroutine.\n\n"
                              "This produces output similar to that of the traceback module,\n"
                              "for the frames retrieved by get_stack().  The limit argument\n"
                              "is passed to get_stack().  The file argument is an I/O stream\n"
                              "to which the output is written; by default output is written\n"
                              "to sys.stderr.");

static PyObject *
method_print_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", "file", NULL};
    PyObject *limit = Py_None, *file = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OO:print_stack", names, &limit, &file)) {
        return NULL;
    }
    PyObject *stack[] = {op, limit, file};
    return PyObject_Vectorcall(pyl_future_cast(op)->state->task_print_stack, stack, 3, NULL);
}

PyMethodDef pyl_task_methods[] = {
    {"cancel", (PyCFunction)(void (*)(void))method_cancel, METH_FASTCALL | METH_KEYWORDS,
     cancel_doc},
    {"cancelling", method_cancelling, METH_NOARGS, cancelling_doc},
    {"uncancel", method_uncancel, METH_NOARGS, uncancel_doc},
    {"set_result", method_set_result, METH_O, NULL},
    {"set_exception", method_set_exception, METH_O, NULL},
    {"get_coro", method_get_coro, METH_NOARGS, NULL},
    {"get_context", method_get_context, METH_NOARGS, NULL},
    {"get_name", method_get_name, METH_NOARGS, NULL},
    {"set_name", method_set_name, METH_O, NULL},
    {"get_stack", (PyCFunction)(void (*)(void))method_get_stack, METH_VARARGS | METH_KEYWORDS,
     get_stack_doc},
    {"print_stack", (PyCFunction)(void (*)(void))method_print_stack, METH_VARARGS | METH_KEYWORDS,
     print_stack_doc},
    {NULL},
};

/* ---- attributes */

static PyObject *
get_must_cancel(PyObject *op, void *unused)
{
    return PyBool_FromLong(pyl_future_cast(op)->must_cancel);
}

static PyObject *
get_log_destroy_pending(PyObject *op, void *unused)
{
    return PyBool_FromLong(pyl_future_cast(op)->log_destroy_pending);
}

static int
set_log_destroy_pending(PyObject *op, PyObject *value, void *unused)
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete attribute");
        return -1;
    }
    int is_true = PyObject_IsTrue(value);
    if (is_true < 0) {
        return -1;
    }
    pyl_future_cast(op)->log_destroy_pending = is_true;
    return 0;
}

static PyObject *
get_coro(PyObject *op, void *unused)
{
    return or_none(pyl_task_cast(op)->coro);
}

static PyObject *
get_fut_waiter(PyObject *op, void *unused)
{
    PyObject *waiter;
    Py_BEGIN_CRITICAL_SECTION(op);
    waiter = or_none(pyl_task_cast(op)->fut_waiter);
    Py_END_CRITICAL_SECTION();
    return waiter;
}

PyGetSetDef pyl_task_attributes[] = {
    {"_must_cancel", get_must_cancel},
    {"_log_destroy_pending", get_log_destroy_pending, set_log_destroy_pending},
    {"_coro", get_coro},
    {"_fut_waiter", get_fut_waiter},
    {NULL},
};
