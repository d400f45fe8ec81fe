/*
 * writer_type.c - StreamWriterCore: write() and drain() without a Python frame.
 */
#include "python/reader.h"

#include "python/awaitable.h"
#include "python/future.h"
#include "python/transport.h"

static struct pyl_writer *
writer_of(PyObject *self)
{
    return (struct pyl_writer *)(void *)self;
}

/* ---- drain ---- */

/* The coroutine of drain(): over at once while nothing is in the way; else _drain_slowly(), which
 * is asyncio's own, takes over. */
struct drain {
    PyObject_HEAD
    struct pyl_state *state; /* kept alive by the type */
    PyObject *writer;        /* NULL: finished */
    PyObject *coroutine;     /* of _drain_slowly(), or NULL */
};

static struct drain *
drain_of(PyObject *op)
{
    return (struct drain *)(void *)op;
}

/* The connection is up, and the transport has not asked to stop. */
static bool
may_go_on(struct pyl_state *state, const struct pyl_writer *writer)
{
    if (!Py_IS_TYPE(writer->transport, state->transport_type) ||
        !PyObject_TypeCheck(writer->protocol, state->reader_protocol_type)) {
        return false;
    }
    const struct pyl_reader_protocol *protocol =
        (const struct pyl_reader_protocol *)(void *)writer->protocol;
    if (((const struct pyl_transport *)(void *)writer->transport)->is_closing ||
        protocol->is_lost || protocol->is_paused) {
        return false;
    }
    return Py_IsNone(writer->reader) ||
           (PyObject_TypeCheck(writer->reader, state->reader_type) &&
            ((const struct pyl_reader *)(void *)writer->reader)->exception == NULL);
}

static int
drain_clear(PyObject *op)
{
    Py_CLEAR(drain_of(op)->coroutine);
    Py_CLEAR(drain_of(op)->writer);
    return 0;
}

static PySendResult
drain_am_send(PyObject *op, PyObject *value, PyObject **ret)
{
    struct drain *drain = drain_of(op);
    *ret = NULL;
    if (drain->writer == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    if (drain->coroutine == NULL) {
        if (PYL_LIKELY(may_go_on(drain->state, writer_of(drain->writer)))) {
            (void)drain_clear(op);
            *ret = Py_NewRef(Py_None);
            return PYGEN_RETURN;
        }
        drain->coroutine = PyObject_CallMethod(drain->writer, "_drain_slowly", NULL);
        if (drain->coroutine == NULL) {
            return PYGEN_ERROR;
        }
    }
    PySendResult status = PyIter_Send(drain->coroutine, value, ret);
    if (status != PYGEN_NEXT) {
        (void)drain_clear(op);
    }
    return status;
}

static PyObject *
drain_throw(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    struct drain *drain = drain_of(op);
    PyObject *exception = pyl_future_make_thrown(args, count);
    if (exception == NULL) {
        return NULL;
    }
    if (drain->coroutine == NULL) {
        (void)drain_clear(op);
        PyErr_SetRaisedException(exception);
        return NULL;
    }
    PyObject *yielded =
        PyObject_CallMethodOneArg(drain->coroutine, drain->state->str.throw, exception);
    Py_DECREF(exception);
    if (yielded == NULL) {
        (void)drain_clear(op);
    }
    return yielded;
}

static PyObject *
drain_close(PyObject *op, PyObject *unused)
{
    struct drain *drain = drain_of(op);
    (void)unused;
    PyObject *result = drain->coroutine != NULL
                           ? PyObject_CallMethod(drain->coroutine, "close", NULL)
                           : Py_NewRef(Py_None);
    (void)drain_clear(op);
    return result;
}

static int
drain_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(drain_of(op)->writer);
    Py_VISIT(drain_of(op)->coroutine);
    return 0;
}

static void
drain_dealloc(PyObject *op)
{
    struct pyl_state *state = drain_of(op)->state;
    PyObject_GC_UnTrack(op);
    (void)drain_clear(op);
    pyl_freelist_free(pyl_freelist_of(state, PYL_FREELIST_DRAIN), op);
}

static PyMethodDef drain_methods[] = {
    {"send", pyl_awaitable_send, METH_O, NULL},
    {"throw", (PyCFunction)(void (*)(void))drain_throw, METH_FASTCALL, NULL},
    {"close", drain_close, METH_NOARGS, NULL},
    {NULL},
};

static PyType_Slot drain_slots[] = {
    {Py_tp_dealloc, drain_dealloc},
    {Py_tp_traverse, drain_traverse},
    {Py_tp_clear, drain_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, pyl_awaitable_next},
    {Py_tp_methods, drain_methods},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, drain_am_send},
    {0, NULL},
};

static PyType_Spec drain_spec = {
    .name = "pyloop._core.StreamDrain",
    .basicsize = sizeof(struct drain),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = drain_slots,
};

/* ---- the writer ---- */

static int
check_init(struct pyl_writer *writer)
{
    if (PYL_LIKELY(writer->transport != NULL && writer->protocol != NULL)) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError, "StreamWriter.__init__() was not called");
    return -1;
}

/* write(data) */
static PyObject *
writer_write(PyObject *self, PyObject *data)
{
    struct pyl_writer *writer = writer_of(self);
    if (check_init(writer) < 0) {
        return NULL;
    }
    PyObject *transport = writer->transport;
    if (PYL_LIKELY(Py_IS_TYPE(transport, writer->state->transport_type))) {
        return pyl_transport_write(transport, data);
    }
    PyObject *result = PyObject_CallMethodOneArg(transport, writer->state->str.write, data);
    Py_XDECREF(result);
    return result != NULL ? Py_NewRef(Py_None) : NULL;
}

/* drain() */
static PyObject *
writer_drain(PyObject *self, PyObject *unused)
{
    struct pyl_writer *writer = writer_of(self);
    (void)unused;
    if (check_init(writer) < 0) {
        return NULL;
    }
    struct pyl_state *state = writer->state;
    struct drain *drain = (struct drain *)(void *)pyl_freelist_new(
        pyl_freelist_of(state, PYL_FREELIST_DRAIN), state->drain_type);
    if (drain == NULL) {
        return NULL;
    }
    drain->state = state;
    drain->writer = Py_NewRef(self);
    drain->coroutine = NULL;
    PyObject_GC_Track(drain);
    return (PyObject *)drain;
}

static PyMethodDef writer_methods[] = {
    {"write", writer_write, METH_O, PyDoc_STR("Hand data to the transport.")},
    {"drain", writer_drain, METH_NOARGS,
     PyDoc_STR("Wait until the transport takes more: `w.write(data); await w.drain()`.")},
    {NULL},
};

static PyMemberDef writer_members[] = {
    {"_transport", Py_T_OBJECT_EX, offsetof(struct pyl_writer, transport), 0, NULL},
    {"_protocol", Py_T_OBJECT_EX, offsetof(struct pyl_writer, protocol), 0, NULL},
    {"_reader", Py_T_OBJECT_EX, offsetof(struct pyl_writer, reader), 0, NULL},
    {"_loop", Py_T_OBJECT_EX, offsetof(struct pyl_writer, loop), 0, NULL},
    {NULL},
};

/* StreamWriter(transport, protocol, reader, loop) */
static int
writer_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"transport", "protocol", "reader", "loop", NULL};
    struct pyl_writer *writer = writer_of(self);
    PyObject *transport, *protocol, *reader, *loop;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO:StreamWriter", names, &transport,
                                     &protocol, &reader, &loop)) {
        return -1;
    }
    writer->state = pyl_state_of_type(Py_TYPE(self));
    Py_XSETREF(writer->transport, Py_NewRef(transport));
    Py_XSETREF(writer->protocol, Py_NewRef(protocol));
    Py_XSETREF(writer->reader, Py_NewRef(reader));
    Py_XSETREF(writer->loop, Py_NewRef(loop));
    return 0;
}

/* asyncio's __del__(), which closes what was left open, called only where it would do something. */
static void
writer_finalize(PyObject *self)
{
    struct pyl_writer *writer = writer_of(self);
    if (writer->transport == NULL || pyl_is_finalizing() ||
        (Py_IS_TYPE(writer->transport, writer->state->transport_type) &&
         ((struct pyl_transport *)(void *)writer->transport)->is_closing)) {
        return;
    }
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *finalizer;
    if (PyObject_GetOptionalAttr(writer->state->asyncio_stream_writer, writer->state->str.__del__,
                                 &finalizer) > 0) {
        Py_XDECREF(PyObject_CallOneArg(finalizer, self));
        Py_DECREF(finalizer);
    }
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(self);
    }
    pyl_restore_exception(raised);
}

static int
writer_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pyl_writer *writer = writer_of(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(writer->transport);
    Py_VISIT(writer->protocol);
    Py_VISIT(writer->reader);
    Py_VISIT(writer->loop);
    return 0;
}

static int
writer_clear(PyObject *self)
{
    struct pyl_writer *writer = writer_of(self);
    Py_CLEAR(writer->transport);
    Py_CLEAR(writer->protocol);
    Py_CLEAR(writer->reader);
    Py_CLEAR(writer->loop);
    return 0;
}

static void
writer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0) {
        return; /* resurrected */
    }
    PyObject_GC_UnTrack(self);
    (void)writer_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot writer_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The C half of pyloop.StreamWriter.")},
    {Py_tp_new, PyType_GenericNew}, /* see protocol_new() of reader_protocol.c */
    {Py_tp_init, writer_init},
    {Py_tp_finalize, writer_finalize},
    {Py_tp_traverse, writer_traverse},
    {Py_tp_clear, writer_clear},
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_methods, writer_methods},
    {Py_tp_members, writer_members},
    {0, NULL},
};

static PyType_Spec writer_spec = {
    .name = "pyloop._core.StreamWriterCore",
    .basicsize = sizeof(struct pyl_writer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = writer_slots,
};

int
pyl_writer_types_add(PyObject *module, struct pyl_state *state)
{
    if (pyl_add_type(module, &drain_spec, NULL, false, &state->drain_type) < 0) {
        return -1;
    }
    return pyl_add_type(module, &writer_spec, NULL, true, &state->writer_type);
}
