/*
 * convert.c - negative errno to OSError.
 */
#include "python/loop.h"

#include <errno.h>
#include <string.h>

PyObject *
pyl_make_oserror(int error, const char *text)
{
    int number = error < 0 ? -error : error;
    /* Called like this, OSError picks the subclass: ConnectionResetError and so on. */
    return PyObject_CallFunction(PyExc_OSError, "is", number,
                                 text != NULL ? text : strerror(number));
}

PyObject *
pyl_raise_errno(int error)
{
    if (error == -ENOMEM) {
        return PyErr_NoMemory();
    }
    PyObject *exception = pyl_make_oserror(error, NULL);
    if (exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
    }
    return NULL;
}
