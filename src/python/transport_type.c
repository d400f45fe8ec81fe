/*
 * transport_type.c - the type StreamTransport: memory, and its tables of methods and attributes.
 *
 * It derives from asyncio.Transport (by _FlowControlMixin), of which only the place of the slots is
 * left; every method and attribute is overridden. What the methods do is in transport.c (making and
 * closing), transport_protocol.c (reading), transport_write.c and transport_info.c.
 */
#include "python/transport.h"

#include "python/instance_dict.h"

/* transport.h says why. */
_Static_assert(PYL_FREE_THREADED || sizeof(void *) != 8 || sizeof(struct pyl_transport) <= 448,
               "a connection grew beyond its size class");

/* ---- memory ---- */

static int
transport_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(transport->extra);
    Py_VISIT((PyObject *)transport->loop);
    Py_VISIT(transport->protocol);
    Py_VISIT(transport->context);
    Py_VISIT(transport->read_method);
    if (transport->view != NULL) {
        Py_VISIT(transport->view->obj);
    }
    Py_VISIT(transport->server);
    Py_VISIT(transport->error);
    Py_VISIT(transport->empty_waiter);
    Py_VISIT(transport->dict);
    return pyl_transport_info_traverse(transport, visit, arg);
}

static int
transport_clear(PyObject *self)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    transport->is_detached = true;
    pyl_transport_return_view(transport);
    Py_CLEAR(transport->extra);
    Py_CLEAR(transport->protocol);
    Py_CLEAR(transport->context);
    Py_CLEAR(transport->read_method);
    Py_CLEAR(transport->server);
    Py_CLEAR(transport->error);
    Py_CLEAR(transport->empty_waiter);
    pyl_transport_info_clear(transport);
    Py_CLEAR(transport->dict);
    Py_CLEAR(transport->loop);
    return 0;
}

/* asyncio's __del__: nobody holds it, and nobody closed it. */
static void
transport_finalize(PyObject *self)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    if (transport->is_closed) {
        return;
    }
    PyObject *exception = PyErr_GetRaisedException();
    if (!transport->is_lost && PyErr_ResourceWarning(self, 1, "unclosed transport %R", self) < 0) {
        if (PyErr_ExceptionMatches(PyExc_Warning)) {
            PyErr_WriteUnraisable(self);
        } else {
            PyErr_Clear();
        }
    }
    /* Garbage together with a loop that is still open: its close() comes, then our memory goes. */
    if (transport->is_detached) {
        transport->is_lost = true;
        pyl_transport_let_go(transport);
        pyl_transport_end(transport);
    }
    PyErr_SetRaisedException(exception);
}

static void
transport_dealloc(PyObject *self)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    if (PyObject_CallFinalizerFromDealloc(self) < 0) {
        return; /* resurrected */
    }
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (transport->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    pyl_stream_dispose(&transport->stream);
    (void)transport_clear(self);
    PyMem_Free(transport->info);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
transport_repr(PyObject *self)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    const char *state = transport->is_lost ? " closed" : transport->is_closing ? " closing" : "";
    if (transport->loop == NULL || transport->loop->is_closed) {
        return PyUnicode_FromFormat("<StreamTransport%s fd=%d>", state, transport->stream.fd);
    }
    const struct pyl_stream *stream = &transport->stream;
    bool is_reading = stream->is_reading && !stream->has_eof;
    size_t size = pyl_stream_queued_size(stream);
    return PyUnicode_FromFormat("<StreamTransport%s fd=%d read=%s write=<%s, bufsize=%zu>>", state,
                                transport->stream.fd, is_reading ? "polling" : "idle",
                                size > 0 ? "polling" : "idle", size);
}

/* ---- methods ---- */

static PyObject *
method_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (PYL_UNLIKELY(pyl_transport_is_elsewhere((struct pyl_transport *)self))) {
        return pyl_transport_post_home((struct pyl_transport *)self, "close", NULL);
    }
    pyl_transport_close((struct pyl_transport *)self);
    Py_RETURN_NONE;
}

static PyObject *
method_abort(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (PYL_UNLIKELY(pyl_transport_is_elsewhere((struct pyl_transport *)self))) {
        return pyl_transport_post_home((struct pyl_transport *)self, "abort", NULL);
    }
    pyl_transport_force_close((struct pyl_transport *)self, NULL);
    Py_RETURN_NONE;
}

static PyObject *
method_force_close(PyObject *self, PyObject *error)
{
    pyl_transport_force_close((struct pyl_transport *)self, error == Py_None ? NULL : error);
    Py_RETURN_NONE;
}

static PyObject *
method_fatal_error(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"exc", "message", NULL};
    struct pyl_transport *transport = (struct pyl_transport *)self;
    PyObject *exception;
    const char *message = "Fatal error on transport";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|s:_fatal_error", names, &exception,
                                     &message)) {
        return NULL;
    }
    if (!PyExceptionInstance_Check(exception)) {
        PyErr_SetString(PyExc_TypeError, "exc must be an exception");
        return NULL;
    }
    if (transport->loop != NULL) {
        PyErr_SetRaisedException(Py_NewRef(exception));
        pyl_transport_fatal_error(transport, message);
    }
    Py_RETURN_NONE;
}

static PyObject *
method_is_closing(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(((struct pyl_transport *)self)->is_closing);
}

static PyObject *
method_set_protocol(PyObject *self, PyObject *protocol)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    if (pyl_transport_set_protocol(transport, protocol) < 0) {
        return NULL;
    }
    if (!transport->is_lost && !transport->is_detached) {
        pyl_stream_set_direct_read(&transport->stream, transport->is_buffered);
    }
    Py_RETURN_NONE;
}

static PyObject *
method_get_protocol(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *protocol = ((struct pyl_transport *)self)->protocol;
    return Py_NewRef(protocol != NULL ? protocol : Py_None);
}

static bool
is_reading(const struct pyl_transport *transport)
{
    return !transport->is_closing && !transport->is_paused;
}

static PyObject *
method_is_reading(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(is_reading((struct pyl_transport *)self));
}

static PyObject *
method_pause_reading(PyObject *self, PyObject *unused)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    (void)unused;
    if (PYL_UNLIKELY(pyl_transport_is_elsewhere(transport))) {
        return pyl_transport_post_home(transport, "pause_reading", NULL);
    }
    if (is_reading(transport)) {
        transport->is_paused = true;
        if (!transport->is_detached) {
            pyl_stream_read_stop(&transport->stream);
            if (transport->loop->is_debug) {
                pyl_transport_log_debug(transport, "%r pauses reading");
            }
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
method_resume_reading(PyObject *self, PyObject *unused)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    (void)unused;
    if (PYL_UNLIKELY(pyl_transport_is_elsewhere(transport))) {
        return pyl_transport_post_home(transport, "resume_reading", NULL);
    }
    if (!transport->is_closing && transport->is_paused) {
        transport->is_paused = false;
        if (!transport->is_detached) {
            pyl_stream_read_start(&transport->stream);
            if (transport->loop->is_debug) {
                pyl_transport_log_debug(transport, "%r resumes reading");
            }
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
method_can_write_eof(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    Py_RETURN_TRUE;
}

static int
convert_loop(PyObject *object, struct pyl_state *state, struct pyl_loop **ret_loop)
{
    *ret_loop = pyl_loop_cast(state, object);
    if (*ret_loop == NULL) {
        PyErr_Format(PyExc_TypeError, "a pyloop.Loop is required, not %.200s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    return 0;
}

static PyObject *
none_to_null(PyObject *object)
{
    return object == Py_None ? NULL : object;
}

/* StreamTransport._open(loop, sock, protocol, waiter, extra, server); sock: a socket, or the number
 * of an fd that from now on is the transport's. */
static PyObject *
method_open(PyObject *type, PyObject *args)
{
    struct pyl_state *state = pyl_state_of_type((PyTypeObject *)type);
    PyObject *loop_object, *sock, *protocol, *waiter, *extra, *server;
    struct pyl_loop *loop;
    if (!PyArg_ParseTuple(args, "OOOOOO:_open", &loop_object, &sock, &protocol, &waiter, &extra,
                          &server) ||
        convert_loop(loop_object, state, &loop) < 0) {
        return NULL;
    }
    struct pyl_transport_args open_args = {
        .protocol = protocol,
        .waiter = none_to_null(waiter),
        .extra = none_to_null(extra),
        .server = none_to_null(server),
    };
    if (open_args.extra != NULL && !PyDict_Check(open_args.extra)) {
        PyErr_SetString(PyExc_TypeError, "extra must be a dict");
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(sock);
    if (fd < 0) {
        return NULL;
    }
    return pyl_transport_open(loop, fd, PyLong_Check(sock) ? NULL : sock, &open_args);
}

/* ---- attributes that asyncio's own code and tests read ---- */

static PyObject *
get_loop(PyObject *self, void *closure)
{
    (void)closure;
    struct pyl_transport *transport = (struct pyl_transport *)self;
    return Py_NewRef(transport->is_lost ? Py_None : (PyObject *)transport->loop);
}

static PyObject *
get_protocol(PyObject *self, void *closure)
{
    (void)closure;
    return method_get_protocol(self, NULL);
}

static PyObject *
get_server(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *server = ((struct pyl_transport *)self)->server;
    return Py_NewRef(server != NULL ? server : Py_None);
}

static PyObject *
get_sock(PyObject *self, void *closure)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    (void)closure;
    if (transport->is_lost) {
        Py_RETURN_NONE;
    }
    PyObject *sock;
    Py_BEGIN_CRITICAL_SECTION(self);
    sock = Py_XNewRef(pyl_transport_socket(transport));
    Py_END_CRITICAL_SECTION();
    return sock;
}

static PyObject *
get_extra(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *extra;
    Py_BEGIN_CRITICAL_SECTION(self);
    extra = Py_XNewRef(pyl_transport_extra((struct pyl_transport *)self));
    Py_END_CRITICAL_SECTION();
    return extra;
}

static PyObject *
get_conn_lost(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLong(((struct pyl_transport *)self)->lost_writes);
}

static PyObject *
get_flag(PyObject *self, void *closure)
{
    return PyBool_FromLong(*((bool *)(void *)((char *)self + (uintptr_t)closure)));
}

#define FLAG(name, field)                                                         \
    {                                                                             \
        name, get_flag, NULL, NULL, (void *)offsetof(struct pyl_transport, field) \
    }

static PyObject *
get_dict(PyObject *self, void *closure)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    return pyl_instance_dict_get(transport->state, &transport->dict, self, closure);
}

static int
transport_setattro(PyObject *self, PyObject *name, PyObject *value)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    return pyl_instance_dict_set_attribute(transport->state, &transport->dict, self, name, value);
}

static PyGetSetDef transport_getset[] = {
    {"__dict__", get_dict, PyObject_GenericSetDict, NULL, NULL},
    {"_loop", get_loop, NULL, NULL, NULL},
    {"_protocol", get_protocol, NULL, NULL, NULL},
    {"_server", get_server, NULL, NULL, NULL},
    {"_sock", get_sock, NULL, NULL, NULL},
    {"_extra", get_extra, NULL, NULL, NULL},
    {"_conn_lost", get_conn_lost, NULL, NULL, NULL},
    FLAG("_closing", is_closing),
    FLAG("_paused", is_paused),
    FLAG("_eof", has_sent_eof),
    FLAG("_protocol_paused", is_protocol_paused),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef transport_members[] = {
    {"_sock_fd", Py_T_INT, offsetof(struct pyl_transport, stream.fd), Py_READONLY, NULL},
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(struct pyl_transport, dict), Py_READONLY, NULL},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct pyl_transport, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

#define KEYWORDS(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef transport_methods[] = {
    {"write", pyl_transport_write, METH_O, NULL},
    {"writelines", pyl_transport_writelines, METH_O, NULL},
    {"write_eof", pyl_transport_write_eof, METH_NOARGS, NULL},
    {"can_write_eof", method_can_write_eof, METH_NOARGS, NULL},
    {"close", method_close, METH_NOARGS, NULL},
    {"abort", method_abort, METH_NOARGS, NULL},
    {"is_closing", method_is_closing, METH_NOARGS, NULL},
    {"set_protocol", method_set_protocol, METH_O, NULL},
    {"get_protocol", method_get_protocol, METH_NOARGS, NULL},
    {"is_reading", method_is_reading, METH_NOARGS, NULL},
    {"pause_reading", method_pause_reading, METH_NOARGS, NULL},
    {"resume_reading", method_resume_reading, METH_NOARGS, NULL},
    {"get_extra_info", KEYWORDS(pyl_transport_get_extra_info), METH_VARARGS | METH_KEYWORDS, NULL},
    {"get_write_buffer_size", pyl_transport_get_write_buffer_size, METH_NOARGS, NULL},
    {"get_write_buffer_limits", pyl_transport_get_write_buffer_limits, METH_NOARGS, NULL},
    {"set_write_buffer_limits", KEYWORDS(pyl_transport_set_write_buffer_limits),
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"_force_close", method_force_close, METH_O, NULL},
    {"_fatal_error", KEYWORDS(method_fatal_error), METH_VARARGS | METH_KEYWORDS, NULL},
    {"_make_empty_waiter", pyl_transport_make_empty_waiter, METH_NOARGS, NULL},
    {"_reset_empty_waiter", pyl_transport_reset_empty_waiter, METH_NOARGS, NULL},
    {"_open", method_open, METH_VARARGS | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot transport_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The transport of a TCP or Unix stream socket.")},
    {Py_tp_traverse, transport_traverse},
    {Py_tp_clear, transport_clear},
    {Py_tp_finalize, transport_finalize},
    {Py_tp_dealloc, transport_dealloc},
    {Py_tp_repr, transport_repr},
    {Py_tp_methods, transport_methods},
    {Py_tp_members, transport_members},
    {Py_tp_getset, transport_getset},
    {PYL_INSTANCE_DICT_SETATTRO, transport_setattro},
    {0, NULL},
};

static PyType_Spec transport_spec = {
    .name = "pyloop._core.StreamTransport",
    .basicsize = sizeof(struct pyl_transport),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = transport_slots,
};

/* The class attributes by which loop.sendfile() and loop.start_tls() know what we can do. */
static int
set_abilities(struct pyl_state *state)
{
    PyObject *type = (PyObject *)state->transport_type;
    PyObject *mode = PyObject_GetAttrString(state->asyncio_sendfile_mode, "TRY_NATIVE");
    int status = mode == NULL ? -1 : PyObject_SetAttrString(type, "_sendfile_compatible", mode);
    Py_XDECREF(mode);
    return status < 0 ? -1 : PyObject_SetAttrString(type, "_start_tls_compatible", Py_True);
}

int
pyl_transport_type_add(PyObject *module, struct pyl_state *state)
{
    PyTypeObject *base = (PyTypeObject *)state->asyncio_flow_control;
    if (base->tp_basicsize != (Py_ssize_t)offsetof(struct pyl_transport, state)) {
        PyErr_SetString(PyExc_ImportError, "asyncio.Transport has slots that we do not know");
        return -1;
    }
    PyObject *bases = PyTuple_Pack(1, (PyObject *)base);
    if (bases == NULL) {
        return -1;
    }
    int status = pyl_add_type(module, &transport_spec, bases, true, &state->transport_type);
    Py_DECREF(bases);
    if (status < 0) {
        return -1;
    }
    pyl_state_add_job_kind(state, pyl_transport_start_run,
                           offsetof(struct pyl_transport, start_job));
    return set_abilities(state);
}
