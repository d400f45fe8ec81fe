/*
 * keywords.h - the keyword arguments of a vectorcall method that takes just one.
 */
#ifndef PYL_PYTHON_KEYWORDS_H
#define PYL_PYTHON_KEYWORDS_H

#include "python/module.h"

/* `values` are the values of the keywords in `names` (a tuple or NULL). Writes *ret (borrowed) if
 * `name`, an interned string, is among them; any other name is a TypeError. 0 or -1. */
int pyl_keyword_get(const char *function, PyObject *const *values, PyObject *names, PyObject *name,
                    PyObject **ret);

/* The same for one argument that may also be positional: f(x=default). 0 or -1. */
int pyl_argument_get(const char *function, PyObject *const *args, Py_ssize_t count, PyObject *names,
                     PyObject *name, PyObject **ret);

#endif
