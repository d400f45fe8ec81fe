/*
 * keywords.c - see keywords.h.
 */
#include "python/keywords.h"

int
pyl_keyword_get(const char *function, PyObject *const *values, PyObject *names, PyObject *name,
                PyObject **ret)
{
    Py_ssize_t count = names != NULL ? PyTuple_GET_SIZE(names) : 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *given = PyTuple_GET_ITEM(names, i);
        if (given != name && PyUnicode_Compare(given, name) != 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function,
                         given);
            return -1;
        }
        *ret = values[i];
    }
    return 0;
}

int
pyl_argument_get(const char *function, PyObject *const *args, Py_ssize_t count, PyObject *names,
                 PyObject *name, PyObject **ret)
{
    if (count + (names != NULL ? PyTuple_GET_SIZE(names) : 0) > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument", function);
        return -1;
    }
    if (count == 1) {
        *ret = args[0];
        return 0;
    }
    return pyl_keyword_get(function, args, names, name, ret);
}
