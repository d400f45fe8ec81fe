/*
 * reader_type.c - StreamReaderCore: what is received, until somebody reads it.
 */
#include "python/reader.h"

#include "python/future.h"
#include "python/keywords.h"

static struct pyl_reader *
reader_of(PyObject *self)
{
    return (struct pyl_reader *)(void *)self;
}

/* asyncio's code would stumble over a missing attribute here. */
static int
check_init(struct pyl_reader *reader)
{
    if (PYL_LIKELY(reader->loop != NULL)) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError, "StreamReader.__init__() was not called");
    return -1;
}

/* ---- waking ---- */

/* Ends the wait of a future that may be asyncio's or anybody's. */
static int
settle_foreign(PyObject *waiter, const char *method, PyObject *value)
{
    PyObject *cancelled = PyObject_CallMethod(waiter, "cancelled", NULL);
    int is_cancelled = cancelled != NULL ? PyObject_IsTrue(cancelled) : -1;
    Py_XDECREF(cancelled);
    if (is_cancelled != 0) {
        return is_cancelled < 0 ? -1 : 0;
    }
    PyObject *result = PyObject_CallMethod(waiter, method, "(O)", value);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

/* Wakes the read that waits: with an exception, or to look again when exception is NULL. */
static int
wake(struct pyl_reader *reader, PyObject *exception)
{
    PyObject *waiter = reader->waiter;
    if (waiter == NULL) {
        return 0;
    }
    reader->waiter = NULL;
    int status;
    if (PYL_LIKELY(pyl_future_is_exact(reader->state, waiter))) {
        status = exception != NULL ? pyl_future_set_exception(waiter, exception)
                                   : pyl_future_set_result(waiter, Py_None);
    } else {
        status = settle_foreign(waiter, exception != NULL ? "set_exception" : "set_result",
                                exception != NULL ? exception : Py_None);
    }
    Py_DECREF(waiter);
    return status;
}

/* ---- flow control ---- */

static int
call_transport(struct pyl_reader *reader, const char *method)
{
    PyObject *result = PyObject_CallMethod(reader->transport, method, NULL);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

static bool
is_too_full(const struct pyl_reader *reader)
{
    size_t limit = (size_t)reader->limit;
    return pyl_reader_buffer_size(&reader->buffer) / 2 >= limit &&
           pyl_reader_buffer_size(&reader->buffer) > 2 * limit;
}

static int
pause_transport(struct pyl_reader *reader)
{
    if (call_transport(reader, "pause_reading") == 0) {
        reader->is_paused = true;
        return 0;
    }
    if (!PyErr_ExceptionMatches(PyExc_NotImplementedError)) {
        return -1;
    }
    /* It cannot be paused: everything is kept, and nobody asks it again. */
    PyErr_Clear();
    Py_CLEAR(reader->transport);
    return 0;
}

int
pyl_reader_resume(struct pyl_reader *reader)
{
    if (PYL_LIKELY(!reader->is_paused) ||
        pyl_reader_buffer_size(&reader->buffer) > (size_t)reader->limit) {
        return 0;
    }
    reader->is_paused = false;
    return reader->transport != NULL ? call_transport(reader, "resume_reading") : 0;
}

static int
feed(struct pyl_reader *reader, const void *data, size_t size)
{
    if (PYL_UNLIKELY(reader->is_eof)) {
        PyErr_SetString(PyExc_AssertionError, "feed_data after feed_eof");
        return -1;
    }
    if (size == 0) {
        return 0;
    }
    if (pyl_reader_buffer_append(&reader->buffer, reader->native, data, size) < 0 ||
        wake(reader, NULL) < 0) {
        return -1;
    }
    if (PYL_UNLIKELY(is_too_full(reader)) && reader->transport != NULL && !reader->is_paused) {
        return pause_transport(reader);
    }
    return 0;
}

int
pyl_reader_feed(struct pyl_reader *reader, const void *data, size_t size)
{
    int status;
    Py_BEGIN_CRITICAL_SECTION(reader);
    status = check_init(reader) < 0 ? -1 : feed(reader, data, size);
    Py_END_CRITICAL_SECTION();
    return status;
}

PyObject *
pyl_reader_wait(struct pyl_reader *reader, const char *method)
{
    if (reader->waiter != NULL) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s() called while another coroutine is already waiting for incoming data",
                     method);
        return NULL;
    }
    /* Waiting for data while paused would never end: readexactly() of more than the limit. */
    if (reader->is_paused) {
        reader->is_paused = false;
        if (reader->transport != NULL && call_transport(reader, "resume_reading") < 0) {
            return NULL;
        }
    }
    PyObject *future = PYL_LIKELY(reader->native != NULL && reader->native->has_native_tasks)
                           ? pyl_future_new(reader->native)
                           : PyObject_CallMethod(reader->loop, "create_future", NULL);
    if (future == NULL) {
        return NULL;
    }
    reader->waiter = Py_NewRef(future);
    return future;
}

/* ---- methods ---- */

PyObject *
pyl_reader_feed_data(PyObject *self, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    int status = pyl_reader_feed(reader_of(self), view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
reader_feed_eof(PyObject *self, PyObject *unused)
{
    struct pyl_reader *reader = reader_of(self);
    (void)unused;
    int status;
    Py_BEGIN_CRITICAL_SECTION(self);
    reader->is_eof = true;
    status = wake(reader, NULL);
    Py_END_CRITICAL_SECTION();
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
reader_at_eof(PyObject *self, PyObject *unused)
{
    struct pyl_reader *reader = reader_of(self);
    (void)unused;
    return PyBool_FromLong(reader->is_eof && pyl_reader_buffer_size(&reader->buffer) == 0);
}

static PyObject *
reader_exception(PyObject *self, PyObject *unused)
{
    PyObject *exception = reader_of(self)->exception;
    (void)unused;
    return Py_NewRef(exception != NULL ? exception : Py_None);
}

static PyObject *
reader_set_exception(PyObject *self, PyObject *exception)
{
    struct pyl_reader *reader = reader_of(self);
    int status;
    Py_BEGIN_CRITICAL_SECTION(self);
    Py_XSETREF(reader->exception, Py_NewRef(exception));
    status = wake(reader, exception);
    Py_END_CRITICAL_SECTION();
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
reader_set_transport(PyObject *self, PyObject *transport)
{
    struct pyl_reader *reader = reader_of(self);
    if (reader->transport != NULL) {
        PyErr_SetString(PyExc_AssertionError, "Transport already set");
        return NULL;
    }
    reader->transport = Py_NewRef(transport);
    Py_RETURN_NONE;
}

static PyMethodDef reader_methods[] = {
    {"feed_data", pyl_reader_feed_data, METH_O, PyDoc_STR("Append bytes that were received.")},
    {"feed_eof", reader_feed_eof, METH_NOARGS, PyDoc_STR("Nothing more will be received.")},
    {"at_eof", reader_at_eof, METH_NOARGS,
     PyDoc_STR("Return True if the buffer is empty and feed_eof() was called.")},
    {"exception", reader_exception, METH_NOARGS, PyDoc_STR("The exception that was set, or None.")},
    {"set_exception", reader_set_exception, METH_O, PyDoc_STR("Let every later read raise it.")},
    {"set_transport", reader_set_transport, METH_O,
     PyDoc_STR("Name the transport to pause when too much is waiting.")},
    {"read", (PyCFunction)(void (*)(void))pyl_reader_read, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("Read up to n bytes, or until EOF if n is -1.")},
    {"readexactly", (PyCFunction)(void (*)(void))pyl_reader_readexactly,
     METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("Read exactly n bytes, or raise IncompleteReadError.")},
    {"readuntil", (PyCFunction)(void (*)(void))pyl_reader_readuntil, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("Read until the separator, or one of a tuple of separators, was found.")},
    {"readline", pyl_reader_readline, METH_NOARGS, PyDoc_STR("Read until a newline was found.")},
    {NULL},
};

/* ---- fields under asyncio's names ---- */

static PyObject *
get_buffer(PyObject *self, void *unused)
{
    struct pyl_reader_buffer *buffer = &reader_of(self)->buffer;
    (void)unused;
    return PyByteArray_FromStringAndSize(pyl_reader_buffer_data(buffer),
                                         (Py_ssize_t)pyl_reader_buffer_size(buffer));
}

/* del reader._buffer: nothing of it is left to read. */
static int
set_buffer(PyObject *self, PyObject *value, void *unused)
{
    struct pyl_reader *reader = reader_of(self);
    (void)unused;
    if (value != NULL) {
        PyErr_SetString(PyExc_AttributeError, "_buffer can only be deleted");
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    pyl_reader_buffer_clear(&reader->buffer, reader->native);
    Py_END_CRITICAL_SECTION();
    return 0;
}

/* An object field that is None on the Python side while it is NULL; closure: its offset. */
static PyObject *
get_object(PyObject *self, void *offset)
{
    PyObject *value = *(PyObject **)(void *)((char *)self + (size_t)offset);
    return Py_NewRef(value != NULL ? value : Py_None);
}

static int
set_object(PyObject *self, PyObject *value, void *offset)
{
    PyObject **field = (PyObject **)(void *)((char *)self + (size_t)offset);
    Py_XSETREF(*field, value == NULL || Py_IsNone(value) ? NULL : Py_NewRef(value));
    return 0;
}

static PyGetSetDef reader_getset[] = {
    {"_buffer", get_buffer, set_buffer, PyDoc_STR("A copy of what has not been read yet."), NULL},
    {"_waiter", get_object, set_object, NULL, (void *)offsetof(struct pyl_reader, waiter)},
    {"_exception", get_object, set_object, NULL, (void *)offsetof(struct pyl_reader, exception)},
    {"_transport", get_object, set_object, NULL, (void *)offsetof(struct pyl_reader, transport)},
    {NULL},
};

static PyMemberDef reader_members[] = {
    {"_loop", Py_T_OBJECT_EX, offsetof(struct pyl_reader, loop), Py_READONLY, NULL},
    {"_limit", Py_T_PYSSIZET, offsetof(struct pyl_reader, limit), 0, NULL},
    {"_eof", Py_T_BOOL, offsetof(struct pyl_reader, is_eof), 0, NULL},
    {"_paused", Py_T_BOOL, offsetof(struct pyl_reader, is_paused), 0, NULL},
    {NULL},
};

/* ---- life ---- */

static int
parse_limit(PyObject *limit, Py_ssize_t *ret)
{
    if (limit == NULL) {
        *ret = 64 * 1024;
        return 0;
    }
    *ret = PyFloat_Check(limit) && PyFloat_AS_DOUBLE(limit) >= (double)PY_SSIZE_T_MAX
               ? PY_SSIZE_T_MAX
               : PyNumber_AsSsize_t(limit, NULL);
    if (*ret == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (*ret <= 0) {
        PyErr_SetString(PyExc_ValueError, "Limit cannot be <= 0");
        return -1;
    }
    return 0;
}

static int
note_source(PyObject *self)
{
    struct pyl_reader *reader = reader_of(self);
    PyObject *debug = PyObject_CallMethodNoArgs(reader->loop, reader->state->str.get_debug);
    int is_debug = debug != NULL ? PyObject_IsTrue(debug) : -1;
    Py_XDECREF(debug);
    if (is_debug <= 0 || pyl_is_finalizing()) {
        return is_debug < 0 ? -1 : 0;
    }
    PyObject *stack = PyObject_CallNoArgs(reader->state->extract_stack);
    int status = stack != NULL ? PyObject_SetAttrString(self, "_source_traceback", stack) : -1;
    Py_XDECREF(stack);
    return status;
}

/* StreamReader(limit=65536, loop=None) */
static int
reader_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", "loop", NULL};
    struct pyl_reader *reader = reader_of(self);
    PyObject *limit = NULL;
    PyObject *loop = Py_None;
    Py_ssize_t limit_size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:StreamReader", names, &limit, &loop) ||
        parse_limit(limit, &limit_size) < 0) {
        return -1;
    }
    struct pyl_state *state = pyl_state_of_type(Py_TYPE(self));
    loop = Py_IsNone(loop) ? PyObject_CallNoArgs(state->get_event_loop) : Py_NewRef(loop);
    if (loop == NULL) {
        return -1;
    }
    reader->state = state;
    reader->limit = limit_size;
    reader->native = pyl_loop_cast(state, loop);
    Py_XSETREF(reader->loop, loop);
    return note_source(self);
}

static int
reader_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pyl_reader *reader = reader_of(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(reader->loop);
    Py_VISIT(reader->waiter);
    Py_VISIT(reader->exception);
    Py_VISIT(reader->transport);
    return 0;
}

static int
reader_clear(PyObject *self)
{
    struct pyl_reader *reader = reader_of(self);
    pyl_reader_buffer_clear(&reader->buffer, reader->native);
    reader->native = NULL;
    Py_CLEAR(reader->waiter);
    Py_CLEAR(reader->exception);
    Py_CLEAR(reader->transport);
    Py_CLEAR(reader->loop);
    return 0;
}

static void
reader_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)reader_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The C half of pyloop.StreamReader.")},
    {Py_tp_new, PyType_GenericNew}, /* see protocol_new() */
    {Py_tp_init, reader_init},
    {Py_tp_traverse, reader_traverse},
    {Py_tp_clear, reader_clear},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_methods, reader_methods},
    {Py_tp_getset, reader_getset},
    {Py_tp_members, reader_members},
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, pyl_reader_anext},
    {0, NULL},
};

static PyType_Spec reader_spec = {
    .name = "pyloop._core.StreamReaderCore",
    .basicsize = sizeof(struct pyl_reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = reader_slots,
};

int
pyl_reader_type_add(PyObject *module, struct pyl_state *state)
{
    return pyl_add_type(module, &reader_spec, NULL, true, &state->reader_type);
}
