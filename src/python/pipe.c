/*
 * pipe.c - ReadPipeCore and WritePipeCore: what asyncio's pipe transports do for each message.
 *
 * The transports are asyncio's: pyloop._unix mixes these two, which have no fields, into its
 * classes and everything but the usual case is left to methods in Python. A pipe of a transport
 * does not block, so the lock is not given away around the calls. What a call has told is never
 * asked again: a second one may not see the same end or error.
 *
 * Loop thread, attached thread state.
 */
#include "python/loop.h"

#include "base/platform.h"
#include "python/keywords.h"

#include <errno.h>
#include <unistd.h>

/* What a pipe holds (pipe(7)); a read of more finds no more. */
enum { READ_MAX = 64 * 1024 };

static bool
is_transient(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* self.method(OSError of that errno): None, or NULL with an exception. */
static PyObject *
tell_error(PyObject *self, PyObject *method, int error)
{
    PyObject *exception = pyl_make_oserror(-error, NULL);
    PyObject *result =
        exception != NULL ? PyObject_CallMethodOneArg(self, method, exception) : NULL;
    Py_XDECREF(exception);
    return result;
}

/* The number in an attribute; -1 with an exception. */
static int
get_int(PyObject *self, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(self, name);
    int number = value != NULL ? (int)PyLong_AsLong(value) : -1;
    Py_XDECREF(value);
    return number;
}

/* ---- reading ---- */

/* self._protocol.data_received(data): None, or NULL with an exception. */
static PyObject *
deliver(PyObject *self, struct pyl_state *state, PyObject *data)
{
    PyObject *protocol = PyObject_GetAttr(self, state->str._protocol);
    PyObject *result = NULL;
    if (protocol != NULL) {
        result = PyObject_CallMethodOneArg(protocol, state->str.data_received, data);
    }
    Py_XDECREF(protocol);
    Py_XDECREF(result);
    return result != NULL ? Py_NewRef(Py_None) : NULL;
}

/* _read_ready(): one read. */
static PyObject *
read_ready(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
           PyObject *names)
{
    struct pyl_state *state = PyType_GetModuleState(type);
    (void)args;
    (void)names;
    if (count != 0) {
        PyErr_SetString(PyExc_TypeError, "_read_ready() takes no arguments");
        return NULL;
    }
    int fd = get_int(self, state->str._fileno);
    PyObject *data = PyErr_Occurred() ? NULL : PyBytes_FromStringAndSize(NULL, READ_MAX);
    if (data == NULL) {
        return NULL;
    }
    ssize_t size = read(fd, PyBytes_AS_STRING(data), READ_MAX);
    int error = size < 0 ? errno : 0;
    PyObject *result = NULL;
    if (PYL_LIKELY(size > 0)) {
        if (_PyBytes_Resize(&data, size) == 0) {
            result = deliver(self, state, data);
        }
    } else if (size == 0) {
        result = PyObject_CallMethodNoArgs(self, state->str._read_ended);
    } else if (is_transient(error)) {
        result = Py_NewRef(Py_None); /* the loop says again that it is readable */
    } else {
        result = tell_error(self, state->str._read_failed, error);
    }
    Py_XDECREF(data);
    return result;
}

static PyMethodDef read_methods[] = {
    {"_read_ready", (PyCFunction)(void (*)(void))read_ready,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, PyDoc_STR("The pipe is readable.")},
    {NULL},
};

static PyType_Slot read_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The C half of a pipe transport that reads.")},
    {Py_tp_methods, read_methods},
    {0, NULL},
};

static PyType_Spec read_spec = {
    .name = "pyloop._core.ReadPipeCore",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = read_slots,
};

/* ---- writing ---- */

/* An attribute is false (or empty): 1 or 0, -1 with an exception. */
static int
is_false(PyObject *self, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(self, name);
    int is_true = value != NULL ? PyObject_IsTrue(value) : -1;
    Py_XDECREF(value);
    return is_true < 0 ? -1 : !is_true;
}

/* Nothing waits to be written, and the transport is neither closing nor lost: 1 or 0, -1. */
static int
may_write_now(PyObject *self, struct pyl_state *state)
{
    PyObject *names[] = {state->str._buffer, state->str._closing, state->str._conn_lost};
    int status = 1;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && status > 0; i++) {
        status = is_false(self, names[i]);
    }
    return status;
}

/* What the pipe takes at once of `data`, in bytes; -1 with an exception. *ret_error: 0, or the
 * errno of a pipe that takes nothing any more. */
static Py_ssize_t
write_now(PyObject *self, struct pyl_state *state, PyObject *data, int *ret_error)
{
    int status = may_write_now(self, state);
    int fd = status > 0 ? get_int(self, state->str._fileno) : -1;
    *ret_error = 0;
    if (status < 0 || (fd < 0 && PyErr_Occurred())) {
        return -1;
    }
    ssize_t written = 0;
    if (status > 0) {
        written = write(fd, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data));
    }
    if (written < 0) {
        *ret_error = is_transient(errno) ? 0 : errno;
        written = 0;
    }
    return written;
}

/* What is left of `data` from `first` on, for asyncio's write(). New reference or NULL. */
static PyObject *
rest_of(PyObject *data, Py_ssize_t first)
{
    if (first == 0) {
        return Py_NewRef(data);
    }
    PyObject *view = PyMemoryView_FromObject(data);
    PyObject *rest = view != NULL ? PySequence_GetSlice(view, first, PY_SSIZE_T_MAX) : NULL;
    Py_XDECREF(view);
    return rest;
}

/* write(data): bytes go out at once where that is possible, asyncio's method does the rest. */
static PyObject *
write_data(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
           PyObject *names)
{
    struct pyl_state *state = PyType_GetModuleState(type);
    PyObject *data = NULL;
    if (pyl_argument_get("write", args, count, names, state->str.data, &data) < 0) {
        return NULL;
    }
    if (data == NULL) {
        PyErr_SetString(PyExc_TypeError, "write() takes exactly one argument");
        return NULL;
    }
    Py_ssize_t written = 0;
    if (PYL_LIKELY(PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data) > 0)) {
        int error;
        written = write_now(self, state, data, &error);
        if (error != 0) {
            return tell_error(self, state->str._write_failed, error);
        }
        if (written < 0 || written == PyBytes_GET_SIZE(data)) {
            return written < 0 ? NULL : Py_NewRef(Py_None);
        }
    }
    PyObject *rest = rest_of(data, written);
    if (rest == NULL) {
        return NULL;
    }
    PyObject *call[] = {state->asyncio_write_pipe, self, rest};
    PyObject *result = PyObject_VectorcallMethod(state->str.write, call, 3, NULL);
    Py_DECREF(rest);
    return result;
}

static PyMethodDef write_methods[] = {
    {"write", (PyCFunction)(void (*)(void))write_data, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("Write some data to the pipe, or keep it until there is room.")},
    {NULL},
};

static PyType_Slot write_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The C half of a pipe transport that writes.")},
    {Py_tp_methods, write_methods},
    {0, NULL},
};

static PyType_Spec write_spec = {
    .name = "pyloop._core.WritePipeCore",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = write_slots,
};

int
pyl_pipe_types_add(PyObject *module, struct pyl_state *state)
{
    return pyl_add_type(module, &read_spec, NULL, true, &state->read_pipe_type) < 0
               ? -1
               : pyl_add_type(module, &write_spec, NULL, true, &state->write_pipe_type);
}
