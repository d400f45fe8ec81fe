/*
 * awaitable.h - what our coroutine-like objects share: types with am_send whose tp_iternext and
 * send() are made from it.
 */
#ifndef PYL_PYTHON_AWAITABLE_H
#define PYL_PYTHON_AWAITABLE_H

#include "python/compat.h"

/* What am_send gave, in the form of tp_iternext: StopIteration carries the value, which must be
 * neither a tuple nor an exception (those would be taken apart). */
static inline PyObject *
pyl_next_of_send(PySendResult status, PyObject *value)
{
    if (status != PYGEN_RETURN) {
        return value;
    }
    if (Py_IsNone(value)) {
        PyErr_SetNone(PyExc_StopIteration);
    } else {
        PyErr_SetObject(PyExc_StopIteration, value);
    }
    Py_DECREF(value);
    return NULL;
}

#endif
