/*
 * pipe.c - ReadPipeCore and WritePipeCore: what asyncio's pipe transports do for each message.
 *
 * The transports are asyncio's: pyloop._unix mixes these two, which have no fields, into its
 * classes and everything but the usual case is left to asyncio's own methods. A pipe of a transport
 * does not block, so the lock is not given away around the calls.
 *
 * Loop thread, attached thread state.
 */
#include "python/module.h"

#include "base/platform.h"

#include <errno.h>
#include <unistd.h>

/* What a pipe holds (pipe(7)); a read of more finds no more. */
enum { READ_MAX = 64 * 1024 };

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

static PyObject *
deliver(PyObject *self, struct pyl_state *state, const char *data, ssize_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize(data, size);
    PyObject *protocol = bytes != NULL ? PyObject_GetAttr(self, state->str._protocol) : NULL;
    PyObject *result = NULL;
    if (protocol != NULL) {
        result = PyObject_CallMethodOneArg(protocol, state->str.data_received, bytes);
    }
    Py_XDECREF(protocol);
    Py_XDECREF(bytes);
    Py_XDECREF(result);
    return result != NULL ? Py_NewRef(Py_None) : NULL;
}

/* _read_ready(): one read; its end and its errors are asyncio's, which reads once more. */
static PyObject *
read_ready(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
           PyObject *names)
{
    struct pyl_state *state = PyType_GetModuleState(type);
    char buffer[READ_MAX];
    (void)args;
    (void)names;
    if (count != 0) {
        PyErr_SetString(PyExc_TypeError, "_read_ready() takes no arguments");
        return NULL;
    }
    int fd = get_int(self, state->str._fileno);
    if (fd < 0 && PyErr_Occurred()) {
        return NULL;
    }
    ssize_t size = read(fd, buffer, sizeof(buffer));
    if (PYL_LIKELY(size > 0)) {
        return deliver(self, state, buffer, size);
    }
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        Py_RETURN_NONE; /* the loop says again that it is readable */
    }
    return PyObject_CallMethodOneArg(state->asyncio_read_pipe, state->str._read_ready, self);
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

/* What the pipe takes at once of `data`, in bytes; -1 with an exception of Python's. */
static Py_ssize_t
write_now(PyObject *self, struct pyl_state *state, PyObject *data)
{
    int status = may_write_now(self, state);
    int fd = status > 0 ? get_int(self, state->str._fileno) : -1;
    if (status < 0 || (fd < 0 && PyErr_Occurred())) {
        return -1;
    }
    ssize_t written =
        status > 0 ? write(fd, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data)) : 0;
    return written > 0 ? written : 0; /* an error: asyncio's write() meets it, too */
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
    if (count != 1 || (names != NULL && PyTuple_GET_SIZE(names) > 0)) {
        PyErr_SetString(PyExc_TypeError, "write() takes exactly one argument");
        return NULL;
    }
    PyObject *data = args[0];
    Py_ssize_t written = 0;
    if (PYL_LIKELY(PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data) > 0)) {
        written = write_now(self, state, data);
        if (written < 0) {
            return NULL;
        }
        if (PYL_LIKELY(written == PyBytes_GET_SIZE(data))) {
            Py_RETURN_NONE;
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
