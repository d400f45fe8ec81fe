/*
 * reader_protocol.c - StreamProtocolCore: the way from a transport to a StreamReader.
 *
 * A transport of ours feeds the reader through pyl_reader_protocol_feed(), without a bytes object
 * and without a call, unless somebody has overridden data_received() or feed_data().
 */
#include "python/reader.h"

#include "python/future.h"

static struct pyl_reader_protocol *
protocol_of(PyObject *self)
{
    return (struct pyl_reader_protocol *)(void *)self;
}

/* self._stream_reader.feed_data(data), for readers that are not plainly ours. */
static int
feed_slowly(PyObject *self, PyObject *data)
{
    PyObject *reader = PyObject_GetAttrString(self, "_stream_reader");
    if (reader == NULL || Py_IsNone(reader)) {
        Py_XDECREF(reader);
        return reader == NULL ? -1 : 0;
    }
    PyObject *result =
        PyObject_CallMethodOneArg(reader, protocol_of(self)->state->str.feed_data, data);
    Py_DECREF(reader);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

int
pyl_reader_protocol_feed(PyObject *self, const void *data, size_t size)
{
    struct pyl_reader_protocol *protocol = protocol_of(self);
    if (PYL_UNLIKELY(!protocol->is_reader_plain)) {
        PyObject *bytes = PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
        int status = bytes != NULL ? feed_slowly(self, bytes) : -1;
        Py_XDECREF(bytes);
        return status;
    }
    PyObject *reader = pyl_weakref_get(protocol->reader_ref);
    if (reader == NULL) {
        return PyErr_Occurred() ? -1 : 0; /* nobody will ever read it */
    }
    int status = pyl_reader_feed((struct pyl_reader *)(void *)reader, data, size);
    Py_DECREF(reader);
    return status;
}

/* data_received(data) */
static PyObject *
protocol_data_received(PyObject *self, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    int status = pyl_reader_protocol_feed(self, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

/* Is the method of that name this C function, of this very object? */
static bool
is_method(PyObject *object, PyObject *name, PyCFunction function)
{
    PyObject *method = PyObject_GetAttr(object, name);
    if (method == NULL) {
        PyErr_Clear();
        return false;
    }
    bool is_it = PyCFunction_Check(method) && PyCFunction_GET_FUNCTION(method) == function &&
                 PyCFunction_GET_SELF(method) == object;
    Py_DECREF(method);
    return is_it;
}

bool
pyl_reader_protocol_is_plain(struct pyl_state *state, PyObject *protocol)
{
    return PyObject_TypeCheck(protocol, state->reader_protocol_type) &&
           is_method(protocol, state->str.data_received, protocol_data_received);
}

/* ---- fields under asyncio's names ---- */

static PyObject *
get_reader_ref(PyObject *self, void *unused)
{
    PyObject *ref = protocol_of(self)->reader_ref;
    (void)unused;
    return Py_NewRef(ref != NULL ? ref : Py_None);
}

static int
set_reader_ref(PyObject *self, PyObject *value, void *unused)
{
    struct pyl_reader_protocol *protocol = protocol_of(self);
    (void)unused;
    protocol->is_reader_plain = false;
    Py_XSETREF(protocol->reader_ref, value == NULL || Py_IsNone(value) ? NULL : Py_NewRef(value));
    if (protocol->reader_ref == NULL || !PyWeakref_Check(protocol->reader_ref)) {
        return 0;
    }
    PyObject *reader = pyl_weakref_get(protocol->reader_ref);
    if (reader == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    protocol->is_reader_plain =
        PyObject_TypeCheck(reader, protocol->state->reader_type) &&
        is_method(reader, protocol->state->str.feed_data, pyl_reader_feed_data);
    Py_DECREF(reader);
    return 0;
}

/* ---- fields that are made when somebody asks ---- */

static PyObject *
get_field(PyObject *self, PyObject **field)
{
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(self);
    value = Py_XNewRef(*field);
    Py_END_CRITICAL_SECTION();
    return value;
}

/* Steals the value, which may be NULL. Returns what was there. */
static PyObject *
swap_field(PyObject *self, PyObject **field, PyObject *value)
{
    PyObject *before;
    Py_BEGIN_CRITICAL_SECTION(self);
    before = *field;
    *field = value;
    Py_END_CRITICAL_SECTION();
    return before;
}

/* Steals `fresh`, which stays unless another thread was faster; NULL is passed on. */
static PyObject *
first_of(PyObject *self, PyObject **field, PyObject *fresh)
{
    if (fresh == NULL) {
        return NULL;
    }
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (*field == NULL) {
        *field = Py_NewRef(fresh);
    }
    value = Py_NewRef(*field);
    Py_END_CRITICAL_SECTION();
    Py_DECREF(fresh);
    return value;
}

/* Few connections ever wait in drain(), and an empty deque is larger than all of the protocol. */
static PyObject *
get_drain_waiters(PyObject *self, void *unused)
{
    struct pyl_reader_protocol *protocol = protocol_of(self);
    PyObject *deque = get_field(self, &protocol->drain_waiters);
    (void)unused;
    return deque != NULL ? deque
                         : first_of(self, &protocol->drain_waiters,
                                    PyObject_CallNoArgs(protocol->state->deque));
}

/* What __init__() sets is empty: there is nothing to keep. */
static int
set_drain_waiters(PyObject *self, PyObject *value, void *unused)
{
    Py_ssize_t count = value != NULL ? PyObject_Size(value) : 0;
    (void)unused;
    if (count < 0) {
        return -1;
    }
    PyObject *kept = count > 0 ? Py_NewRef(value) : NULL;
    Py_XDECREF(swap_field(self, &protocol_of(self)->drain_waiters, kept));
    return 0;
}

/* While a connection lasts, hardly anybody awaits the future of wait_closed(). */
static PyObject *
get_closed(PyObject *self, void *unused)
{
    struct pyl_reader_protocol *protocol = protocol_of(self);
    PyObject *future = get_field(self, &protocol->closed);
    (void)unused;
    if (future != NULL) {
        return future;
    }
    PyObject *loop = PyObject_GetAttr(self, protocol->state->str._loop);
    if (loop == NULL) {
        return NULL;
    }
    future = PyObject_CallMethod(loop, "create_future", NULL);
    Py_DECREF(loop);
    return first_of(self, &protocol->closed, future);
}

/* What __init__() sets is pending and known to nobody else: there is nothing to keep. */
static int
set_closed(PyObject *self, PyObject *value, void *unused)
{
    struct pyl_state *state = protocol_of(self)->state;
    bool is_fresh = value == NULL || (Py_IS_TYPE(value, state->future_type) &&
                                      pyl_is_temporary(value) && !pyl_future_is_done(value));
    (void)unused;
    PyObject *kept = is_fresh ? NULL : Py_NewRef(value);
    Py_XDECREF(swap_field(self, &protocol_of(self)->closed, kept));
    return 0;
}

/* An object field that is None on the Python side while it is NULL; closure: its offset. */
static PyObject *
get_object(PyObject *self, void *offset)
{
    PyObject *value = get_field(self, (PyObject **)(void *)((char *)self + (size_t)offset));
    return value != NULL ? value : Py_NewRef(Py_None);
}

static int
set_object(PyObject *self, PyObject *value, void *offset)
{
    PyObject *kept = value == NULL || Py_IsNone(value) ? NULL : Py_NewRef(value);
    Py_XDECREF(swap_field(self, (PyObject **)(void *)((char *)self + (size_t)offset), kept));
    return 0;
}

#define OBJECT(name, field)                                                                     \
    {                                                                                           \
        name, get_object, set_object, NULL, (void *)offsetof(struct pyl_reader_protocol, field) \
    }

static PyGetSetDef protocol_getset[] = {
    OBJECT("_strong_reader", strong_reader),
    OBJECT("_source_traceback", source_traceback),
    OBJECT("_transport", transport),
    OBJECT("_stream_writer", writer),
    OBJECT("_client_connected_cb", callback),
    OBJECT("_task", task),
    OBJECT("_task_transport", task_transport),
    {"_drain_waiters", get_drain_waiters, set_drain_waiters,
     PyDoc_STR("Futures of those who wait in drain()."), NULL},
    {"_closed", get_closed, set_closed, PyDoc_STR("The future that wait_closed() awaits."), NULL},
    {"_stream_reader_wr", get_reader_ref, set_reader_ref,
     PyDoc_STR("A weak reference to the reader, or None."), NULL},
    {NULL},
};

static PyMemberDef protocol_members[] = {
    {"_loop", Py_T_OBJECT_EX, offsetof(struct pyl_reader_protocol, loop), 0, NULL},
    {"_paused", Py_T_BOOL, offsetof(struct pyl_reader_protocol, is_paused), 0, NULL},
    {"_connection_lost", Py_T_BOOL, offsetof(struct pyl_reader_protocol, is_lost), 0, NULL},
    {"_reject_connection", Py_T_BOOL, offsetof(struct pyl_reader_protocol, is_rejecting), 0, NULL},
    {"_over_ssl", Py_T_BOOL, offsetof(struct pyl_reader_protocol, is_over_ssl), 0, NULL},
    {NULL},
};

/* ---- the handler of a connection ---- */

PyObject *
pyl_reader_protocol_callback(PyObject *self)
{
    return PyObject_GetAttr(self, protocol_of(self)->state->str._handler_ended);
}

int
pyl_reader_protocol_handler_ended(PyObject *self, struct pyl_task *task)
{
    struct pyl_future *future = &task->future;
    if (future->status == PYL_FUTURE_FINISHED && future->exception == NULL) {
        Py_XDECREF(swap_field(self, &protocol_of(self)->task_transport, NULL));
        return 0;
    }
    PyObject *callback = pyl_reader_protocol_callback(self);
    if (callback == NULL) {
        return -1;
    }
    PyObject *context = Py_NewRef(task->context); /* call_soon() may be anybody's */
    int rc = pyl_future_call_soon(future, callback, (PyObject *)future, context);
    Py_DECREF(context);
    Py_DECREF(callback);
    return rc;
}

/* _watch_handler(task, transport): task.add_done_callback(self._handler_ended), without an object
 * for it where that is possible. */
static PyObject *
protocol_watch_handler(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct pyl_reader_protocol *protocol = protocol_of(self);
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "_watch_handler() takes a task and a transport");
        return NULL;
    }
    PyObject *task = args[0];
    Py_XDECREF(swap_field(self, &protocol->task_transport, Py_NewRef(args[1])));
    int rc = Py_IS_TYPE(task, protocol->state->task_type)
                 ? pyl_future_add_protocol(pyl_future_cast(task), self)
                 : 0;
    if (rc != 0) {
        return rc < 0 ? NULL : Py_NewRef(Py_None);
    }
    PyObject *callback = pyl_reader_protocol_callback(self);
    if (callback == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_CallMethod(task, "add_done_callback", "O", callback);
    Py_DECREF(callback);
    return result;
}

static PyMethodDef protocol_methods[] = {
    {"data_received", protocol_data_received, METH_O, PyDoc_STR("Feed the reader.")},
    {"_watch_handler", (PyCFunction)(void (*)(void))protocol_watch_handler, METH_FASTCALL, NULL},
    {NULL},
};

/* ---- life ---- */

static PyObject *
protocol_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    /* Not object.__new__(): before 3.13 it makes the values of a __dict__ that stays empty. */
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL) {
        protocol_of(self)->state = pyl_state_of_type(type);
    }
    return self;
}

static int
protocol_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    struct pyl_reader_protocol *protocol = protocol_of(self);
    Py_VISIT(protocol->reader_ref);
    Py_VISIT(protocol->strong_reader);
    Py_VISIT(protocol->source_traceback);
    Py_VISIT(protocol->drain_waiters);
    Py_VISIT(protocol->closed);
    Py_VISIT(protocol->loop);
    Py_VISIT(protocol->transport);
    Py_VISIT(protocol->writer);
    Py_VISIT(protocol->callback);
    Py_VISIT(protocol->task);
    Py_VISIT(protocol->task_transport);
    return 0;
}

static int
protocol_clear(PyObject *self)
{
    struct pyl_reader_protocol *protocol = protocol_of(self);
    protocol->is_reader_plain = false;
    Py_CLEAR(protocol->reader_ref);
    Py_CLEAR(protocol->strong_reader);
    Py_CLEAR(protocol->source_traceback);
    Py_CLEAR(protocol->drain_waiters);
    Py_CLEAR(protocol->closed);
    Py_CLEAR(protocol->loop);
    Py_CLEAR(protocol->transport);
    Py_CLEAR(protocol->writer);
    Py_CLEAR(protocol->callback);
    Py_CLEAR(protocol->task);
    Py_CLEAR(protocol->task_transport);
    return 0;
}

static void
protocol_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)protocol_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot protocol_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The C half of pyloop.StreamReaderProtocol.")},
    {Py_tp_new, protocol_new},
    {Py_tp_traverse, protocol_traverse},
    {Py_tp_clear, protocol_clear},
    {Py_tp_dealloc, protocol_dealloc},
    {Py_tp_methods, protocol_methods},
    {Py_tp_getset, protocol_getset},
    {Py_tp_members, protocol_members},
    {0, NULL},
};

static PyType_Spec protocol_spec = {
    .name = "pyloop._core.StreamProtocolCore",
    .basicsize = sizeof(struct pyl_reader_protocol),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = protocol_slots,
};

int
pyl_reader_protocol_type_add(PyObject *module, struct pyl_state *state)
{
    return pyl_add_type(module, &protocol_spec, NULL, true, &state->reader_protocol_type);
}
