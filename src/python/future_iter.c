/*
 * future_iter.c - `await future`, and the awaitable that is always done.
 *
 * In C a future is its own iterator: whether it was already yielded is its is_blocking flag, so
 * an await allocates nothing. Python code that calls __await__() or iter() by hand gets a
 * FutureIter with send(), throw() and close(), which must not be methods of the future itself, or
 * asyncio.iscoroutine() would take it for a coroutine.
 */
#include "python/awaitable.h"
#include "python/crossing.h"
#include "python/views.h"

#include "base/check.h"

/* ---- the future as its own iterator */

PyObject *
pyl_future_await(PyObject *op)
{
    return pyl_future_ensure_init(pyl_future_cast(op)) < 0 ? NULL : Py_NewRef(op);
}

PySendResult
pyl_future_send(PyObject *op, PyObject *value, PyObject **ret)
{
    struct pyl_future *future = pyl_future_cast(op);
    *ret = NULL;
    if (future->status == PYL_FUTURE_PENDING) {
        struct pyl_loop *here = pyl_views_other(future->native);
        if (PYL_UNLIKELY(here != NULL)) {
            return pyl_proxy_send(future, here, ret);
        }
        if (future->is_blocking) {
            PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
            return PYGEN_ERROR;
        }
        future->is_blocking = true;
        *ret = Py_NewRef(op);
        return PYGEN_NEXT;
    }
    *ret = pyl_future_result(op, NULL);
    return *ret != NULL ? PYGEN_RETURN : PYGEN_ERROR;
}

/* Raises StopIteration(value). PyErr_SetObject() would take a tuple for arguments and an exception
 * for the instance itself. */
static void
raise_stop_iteration(PyObject *value)
{
    if (!PyTuple_Check(value) && !PyExceptionInstance_Check(value)) {
        PyErr_SetObject(PyExc_StopIteration, value);
        return;
    }
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
}

/* tp_iternext from a send: the value of a return travels in a StopIteration; without one it is
 * None. */
static PyObject *
next_of_send(PySendResult status, PyObject *value)
{
    if (status == PYGEN_RETURN) {
        if (!Py_IsNone(value)) {
            raise_stop_iteration(value);
        }
        Py_DECREF(value);
        return NULL;
    }
    return value;
}

PyObject *
pyl_future_next(PyObject *op)
{
    PyObject *value;
    PySendResult status = pyl_future_send(op, Py_None, &value);
    return next_of_send(status, value);
}

/* ---- FutureIter */

struct future_iter {
    PyObject_HEAD
    PyObject *future; /* NULL after throw() and close() */
};

static struct future_iter *
iter_cast(PyObject *op)
{
    return (struct future_iter *)(void *)op;
}

PyObject *
pyl_future_iter(PyObject *op)
{
    struct pyl_future *future = pyl_future_cast(op);
    if (pyl_future_ensure_init(future) < 0) {
        return NULL;
    }
    struct future_iter *iter = PyObject_GC_New(struct future_iter, future->state->future_iter_type);
    if (iter == NULL) {
        return NULL;
    }
    iter->future = Py_NewRef(op);
    PyObject_GC_Track(iter);
    return (PyObject *)iter;
}

PyObject *
pyl_future_dunder_await(PyObject *op, PyObject *unused)
{
    return pyl_future_iter(op);
}

static int
iter_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(iter_cast(op)->future);
    return 0;
}

static int
iter_clear(PyObject *op)
{
    Py_CLEAR(iter_cast(op)->future);
    return 0;
}

static void
iter_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)iter_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PySendResult
iter_am_send(PyObject *op, PyObject *value, PyObject **ret)
{
    if (iter_cast(op)->future == NULL) {
        *ret = Py_NewRef(Py_None); /* exhausted */
        return PYGEN_RETURN;
    }
    PyObject *future = Py_NewRef(iter_cast(op)->future);
    PySendResult status = pyl_future_send(future, value, ret);
    Py_DECREF(future);
    return status;
}

static PyObject *
iter_next(PyObject *op)
{
    PyObject *value;
    PySendResult status = iter_am_send(op, Py_None, &value);
    return next_of_send(status, value);
}

static PyObject *
iter_send(PyObject *op, PyObject *value)
{
    PyObject *yielded = iter_next(op);
    if (yielded == NULL && !PyErr_Occurred()) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    return yielded;
}

PyObject *
pyl_future_make_thrown(PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 3) {
        return PyErr_Format(PyExc_TypeError, "throw() takes 1 to 3 arguments (%zd given)", count);
    }
    PyObject *type = args[0];
    PyObject *value = count > 1 && !Py_IsNone(args[1]) ? args[1] : NULL;
    PyObject *traceback = count > 2 && !Py_IsNone(args[2]) ? args[2] : NULL;
    PyObject *exception;

    if (traceback != NULL && !PyTraceBack_Check(traceback)) {
        PyErr_SetString(PyExc_TypeError, "throw() third argument must be a traceback");
        return NULL;
    }
    if (PyExceptionClass_Check(type)) {
        if (value != NULL && PyObject_TypeCheck(value, (PyTypeObject *)type)) {
            exception = Py_NewRef(value);
        } else if (value == NULL) {
            exception = PyObject_CallNoArgs(type);
        } else {
            exception = PyTuple_Check(value) ? PyObject_CallObject(type, value)
                                             : PyObject_CallOneArg(type, value);
        }
    } else if (PyExceptionInstance_Check(type)) {
        if (value != NULL) {
            PyErr_SetString(PyExc_TypeError, "instance exception may not have a separate value");
            return NULL;
        }
        exception = Py_NewRef(type);
    } else {
        PyErr_SetString(PyExc_TypeError, "exceptions must be classes deriving BaseException or "
                                         "instances of such a class");
        return NULL;
    }
    if (exception != NULL && traceback != NULL &&
        PyException_SetTraceback(exception, traceback) < 0) {
        Py_CLEAR(exception);
    }
    return exception;
}

static int
warn_three_argument_throw(void)
{
    if (Py_Version < 0x030C0000) {
        return 0;
    }
    return PyErr_WarnEx(PyExc_DeprecationWarning,
                        "the (type, exc, tb) signature of throw() is deprecated, use the "
                        "single-arg signature instead.",
                        1);
}

static PyObject *
iter_throw(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 3) {
        return PyErr_Format(PyExc_TypeError, "throw expected %s argument%s, got %zd",
                            count < 1 ? "at least 1" : "at most 3", count < 1 ? "" : "s", count);
    }
    if (count > 1 && warn_three_argument_throw() < 0) {
        return NULL;
    }
    PyObject *exception = pyl_future_make_thrown(args, count);
    if (exception == NULL) {
        return NULL;
    }
    (void)iter_clear(op);
    PyErr_SetRaisedException(exception);
    return NULL;
}

static PyObject *
iter_close(PyObject *op, PyObject *unused)
{
    (void)iter_clear(op);
    Py_RETURN_NONE;
}

static PyMethodDef iter_methods[] = {
    {"send", iter_send, METH_O, NULL},
    {"throw", (PyCFunction)(void (*)(void))iter_throw, METH_FASTCALL, NULL},
    {"close", iter_close, METH_NOARGS, NULL},
    {NULL},
};

static PyType_Slot iter_slots[] = {
    {Py_tp_dealloc, iter_dealloc}, {Py_tp_traverse, iter_traverse},
    {Py_tp_clear, iter_clear},     {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iter_next},   {Py_tp_methods, iter_methods},
    {Py_am_send, iter_am_send},    {0, NULL},
};

static PyType_Spec iter_spec = {
    .name = "pyloop._core.FutureIter",
    .basicsize = sizeof(struct future_iter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = iter_slots,
};

/* ---- the awaitable that is done
 *
 * Without state, so one instance serves everybody at once. It has a coroutine's methods, because
 * applications hand what an ASGI send() returned to create_task() and wait_for().
 */

static PySendResult
done_am_send(PyObject *op, PyObject *value, PyObject **ret)
{
    *ret = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

static PyObject *
done_next(PyObject *op)
{
    return NULL; /* StopIteration, whose value is None */
}

static PyObject *
done_repr(PyObject *op)
{
    return PyUnicode_FromString("<pyloop done awaitable>");
}

static void
done_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot done_slots[] = {
    {Py_tp_dealloc, done_dealloc},
    {Py_tp_repr, done_repr},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, done_next},
    {Py_tp_methods, pyl_awaitable_methods},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, done_am_send},
    {0, NULL},
};

static PyType_Spec done_spec = {
    .name = "pyloop._core.DoneAwaitable",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = done_slots,
};

PyObject *
pyl_done_awaitable(struct pyl_state *state)
{
    return Py_NewRef(state->tasks.done_awaitable);
}

int
pyl_future_iter_types_add(PyObject *module, struct pyl_state *state)
{
    PyTypeObject *done_type;
    if (pyl_add_type(module, &iter_spec, NULL, false, &state->future_iter_type) < 0 ||
        pyl_add_type(module, &done_spec, NULL, false, &done_type) < 0) {
        return -1;
    }
    state->tasks.done_awaitable = (PyObject *)PyObject_New(PyObject, done_type);
    Py_DECREF(done_type); /* the instance keeps it */
    return state->tasks.done_awaitable != NULL ? 0 : -1;
}
