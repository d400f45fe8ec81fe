/*
 * awaitable.h - what our coroutine-like objects share. Such a type has am_send, and tp_clear, which
 * ends what it waits for; the rest of a coroutine's interface is made from the two.
 */
#ifndef PYL_PYTHON_AWAITABLE_H
#define PYL_PYTHON_AWAITABLE_H

#include "python/compat.h"

/* tp_iternext. StopIteration carries what am_send returned, which must be neither a tuple nor an
 * exception (those would be taken apart). */
PyObject *pyl_awaitable_next(PyObject *self);
/* Method send(value). */
PyObject *pyl_awaitable_send(PyObject *self, PyObject *value);

/* Py_tp_methods: send; throw, which clears the object and raises; close, which clears it. */
extern PyMethodDef pyl_awaitable_methods[];

#endif
