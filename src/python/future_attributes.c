/*
 * future_attributes.c - the attributes of a future: asyncio's underscored ones, which its own
 * helpers and third parties read, and the __class__ that makes isinstance() say yes.
 */
#include "python/future.h"

#include "python/instance_dict.h"

static int
refuse_delete(PyObject *value)
{
    if (value != NULL) {
        return 0;
    }
    PyErr_SetString(PyExc_AttributeError, "cannot delete attribute");
    return -1;
}

/* isinstance(x, asyncio.Future) tries type(x) first and then x.__class__, while asyncio's C code
 * looks at the type only: Python is satisfied, and C takes its path for foreign futures. */
static PyObject *
get_class(PyObject *op, void *unused)
{
    struct pyl_future *future = pyl_future_cast(op);
    return Py_NewRef(future->is_task ? future->state->asyncio_task : future->state->asyncio_future);
}

static PyObject *
get_state(PyObject *op, void *unused)
{
    struct pyl_future *future = pyl_future_cast(op);
    if (pyl_future_ensure_init(future) < 0) {
        return NULL;
    }
    switch ((enum pyl_future_status)future->status) {
    case PYL_FUTURE_PENDING:
        return Py_NewRef(future->state->str.PENDING);
    case PYL_FUTURE_CANCELLED:
        return Py_NewRef(future->state->str.CANCELLED);
    case PYL_FUTURE_FINISHED:
        break;
    }
    return Py_NewRef(future->state->str.FINISHED);
}

static PyObject *
get_blocking(PyObject *op, void *unused)
{
    return PyBool_FromLong(pyl_future_cast(op)->is_blocking);
}

static int
set_blocking(PyObject *op, PyObject *value, void *unused)
{
    struct pyl_future *future = pyl_future_cast(op);
    if (pyl_future_ensure_init(future) < 0 || refuse_delete(value) < 0) {
        return -1;
    }
    int is_true = PyObject_IsTrue(value);
    if (is_true < 0) {
        return -1;
    }
    future->is_blocking = is_true;
    return 0;
}

static PyObject *
get_log_traceback(PyObject *op, void *unused)
{
    struct pyl_future *future = pyl_future_cast(op);
    return pyl_future_ensure_init(future) < 0 ? NULL : PyBool_FromLong(future->log_traceback);
}

static int
set_log_traceback(PyObject *op, PyObject *value, void *unused)
{
    if (refuse_delete(value) < 0) {
        return -1;
    }
    int is_true = PyObject_IsTrue(value);
    if (is_true < 0) {
        return -1;
    }
    if (is_true) {
        PyErr_SetString(PyExc_ValueError, "_log_traceback can only be set to False");
        return -1;
    }
    pyl_future_cast(op)->log_traceback = false;
    return 0;
}

static PyObject *
get_callbacks(PyObject *op, void *unused)
{
    struct pyl_future *future = pyl_future_cast(op);
    return pyl_future_ensure_init(future) < 0 ? NULL : pyl_future_list_callbacks(future);
}

static PyObject *
get_dict(PyObject *op, void *closure)
{
    struct pyl_future *future = pyl_future_cast(op);
    return pyl_instance_dict_get(future->state, &future->dict, op, closure);
}

/* Attributes that are a plain object or None; the closure is the offset of the field. */
static PyObject *
get_object(PyObject *op, void *offset)
{
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(op);
    PyObject **field = (PyObject **)(void *)((char *)op + (uintptr_t)offset);
    value = Py_NewRef(*field != NULL ? *field : Py_None);
    Py_END_CRITICAL_SECTION();
    return value;
}

static PyObject *
get_object_of_initialized(PyObject *op, void *offset)
{
    return pyl_future_ensure_init(pyl_future_cast(op)) < 0 ? NULL : get_object(op, offset);
}

/* One of the rare ones or None; the closure is an enum pyl_future_rare. */
static PyObject *
get_rare(PyObject *op, void *which)
{
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(op);
    value = pyl_future_rare(pyl_future_cast(op), (enum pyl_future_rare)(uintptr_t)which);
    value = Py_NewRef(value != NULL ? value : Py_None);
    Py_END_CRITICAL_SECTION();
    return value;
}

static int
set_cancel_message(PyObject *op, PyObject *value, void *unused)
{
    int rc;
    if (refuse_delete(value) < 0) {
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(op);
    rc = pyl_future_set_cancel_message(pyl_future_cast(op), value);
    Py_END_CRITICAL_SECTION();
    return rc;
}

static int
collect_awaited_by(struct pyl_future *future, PyObject *set)
{
    if (pyl_future_collect_waiters(future, set) < 0) {
        return -1;
    }
    PyObject *awaited_by = pyl_future_rare(future, PYL_FUTURE_AWAITED_BY);
    if (awaited_by == NULL) {
        return 0;
    }
    PyObject *joined = PyNumber_InPlaceOr(set, awaited_by);
    Py_XDECREF(joined);
    return joined != NULL ? 0 : -1;
}

/* The tasks of ours that await this future are its waiters anyway; nobody has to write them down.
 */
static PyObject *
get_awaited_by(PyObject *op, void *unused)
{
    int rc;
    PyObject *set = PySet_New(NULL);
    if (set == NULL) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(op);
    rc = collect_awaited_by(pyl_future_cast(op), set);
    Py_END_CRITICAL_SECTION();
    PyObject *ret = NULL;
    if (rc == 0) {
        ret = PySet_GET_SIZE(set) == 0 ? Py_NewRef(Py_None) : PyFrozenSet_New(set);
    }
    Py_DECREF(set);
    return ret;
}

#define OFFSET(field) ((void *)offsetof(struct pyl_future, field))
#define RARE(which) ((void *)(uintptr_t)(which))

PyGetSetDef pyl_future_attributes[] = {
    {"__class__", get_class},
    {"_state", get_state},
    {"_asyncio_future_blocking", get_blocking, set_blocking},
    {"_loop", get_object, NULL, NULL, OFFSET(loop)},
    {"_callbacks", get_callbacks},
    {"_result", get_object_of_initialized, NULL, NULL, OFFSET(result)},
    {"_exception", get_object_of_initialized, NULL, NULL, OFFSET(exception)},
    {"_log_traceback", get_log_traceback, set_log_traceback},
    {"_source_traceback", get_rare, NULL, NULL, RARE(PYL_FUTURE_SOURCE_TRACEBACK)},
    {"_cancel_message", get_rare, set_cancel_message, NULL, RARE(PYL_FUTURE_CANCEL_MESSAGE)},
    {"_asyncio_awaited_by", get_awaited_by},
    {"__dict__", get_dict, PyObject_GenericSetDict},
    {NULL},
};
