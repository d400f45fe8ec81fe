/*
 * awaitable.c - next(), send(), throw() and close() of our coroutine-like objects.
 */
#include "python/awaitable.h"

#include "python/future.h"

PyObject *
pyl_awaitable_send(PyObject *self, PyObject *value)
{
    PyObject *result;
    PySendResult status = Py_TYPE(self)->tp_as_async->am_send(self, value, &result);
    if (status != PYGEN_RETURN) {
        return result;
    }
    if (Py_IsNone(result)) {
        PyErr_SetNone(PyExc_StopIteration);
    } else {
        PyErr_SetObject(PyExc_StopIteration, result);
    }
    Py_DECREF(result);
    return NULL;
}

PyObject *
pyl_awaitable_next(PyObject *self)
{
    return pyl_awaitable_send(self, Py_None);
}

static void
clear(PyObject *self)
{
    inquiry tp_clear = Py_TYPE(self)->tp_clear;
    if (tp_clear != NULL) { /* else there is nothing to end */
        (void)tp_clear(self);
    }
}

static PyObject *
method_throw(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *exception = pyl_future_make_thrown(args, count);
    if (exception != NULL) {
        clear(self);
        PyErr_SetRaisedException(exception);
    }
    return NULL;
}

static PyObject *
method_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    clear(self);
    Py_RETURN_NONE;
}

PyMethodDef pyl_awaitable_methods[] = {
    {"send", pyl_awaitable_send, METH_O, NULL},
    {"throw", (PyCFunction)(void (*)(void))method_throw, METH_FASTCALL, NULL},
    {"close", method_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
