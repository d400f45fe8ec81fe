/*
 * listener_type.c - ServerSocket: what loop._start_serving() makes for each listening socket.
 *
 * A plain connection becomes a protocol and a transport here, without a socket object and without a
 * task; for TLS each new fd goes to a Python function.
 */
#include "python/listener.h"

#include "python/handover.h"
#include "python/transport.h"
#include "python/views.h"

#include "io/sockaddr.h"

static struct pyl_server_socket *
server_socket_of(struct pyl_listener *listener)
{
    return PYL_CONTAINER_OF(listener, struct pyl_server_socket, listener);
}

/* ---- accepting ---- */

static PyObject *
open_plain(struct pyl_server_socket *self, struct pyl_loop *view, int fd, PyObject *context)
{
    PyObject *protocol = PyObject_CallNoArgs(self->factory);
    if (protocol == NULL) {
        return NULL;
    }
    struct pyl_transport_args args = {
        .protocol = protocol, .context = context, .server = self->server, .is_tcp = self->is_tcp};
    PyObject *transport = pyl_transport_open(view, fd, NULL, &args);
    Py_DECREF(protocol);
    return transport;
}

static PyObject *
open_connection(struct pyl_server_socket *self, struct pyl_loop *view, int fd)
{
    PyObject *context = PyContext_Copy(self->context);
    if (context == NULL || PyContext_Enter(context) < 0) {
        Py_XDECREF(context);
        return NULL;
    }
    PyObject *result = self->accept == NULL
                           ? open_plain(self, view, fd, context)
                           : PyObject_CallFunction(self->accept, "Oi", (PyObject *)view, fd);
    PyObject *exception = result == NULL ? PyErr_GetRaisedException() : NULL;
    if (PyContext_Exit(context) < 0) {
        PyErr_WriteUnraisable(context);
    }
    if (exception != NULL) {
        PyErr_SetRaisedException(exception);
    }
    Py_DECREF(context);
    return result;
}

/* In the view's thread. */
static void
open_in_view(struct pyl_loop *view, PyObject *acceptor, int fd)
{
    struct pyl_server_socket *self = (struct pyl_server_socket *)acceptor;
    PyObject *result = NULL;
    if (atomic_load_explicit(&self->is_open, memory_order_relaxed)) {
        result = open_connection(self, view, fd);
        if (result == NULL) {
            pyl_loop_report(view, "Error on transport creation for incoming connection", NULL,
                            NULL);
        }
    }
    if (result == NULL) {
        pyl_reactor_close_now(&view->worker->reactor, fd);
    }
    Py_XDECREF(result);
}

static void
on_accept(struct pyl_listener *listener, int fd)
{
    struct pyl_server_socket *self = server_socket_of(listener);
    if (self->is_detached) {
        pyl_reactor_close_now(&listener->worker->reactor, fd);
        return;
    }
    Py_INCREF(self); /* the factory may close the server */
    struct pyl_loop *view = pyl_views_lighter(self->loop);
    if (view == self->loop) {
        open_in_view(view, (PyObject *)self, fd);
    } else if (pyl_handover_post(view, (PyObject *)self, open_in_view, fd) < 0) {
        pyl_reactor_close_now(&listener->worker->reactor, fd);
        pyl_loop_report(self->loop, "A connection could not be handed over", NULL, NULL);
    }
    Py_DECREF(self);
}

static void
on_error(struct pyl_listener *listener, int error, bool will_retry)
{
    struct pyl_server_socket *self = server_socket_of(listener);
    if (self->is_detached) {
        return;
    }
    PyObject *socket = PyObject_CallOneArg(self->loop->state->asyncio_transport_socket, self->sock);
    if (socket == NULL) {
        pyl_loop_report(self->loop, "Error in accept", NULL, NULL);
        return;
    }
    pyl_raise_errno(error);
    pyl_loop_report(self->loop,
                    will_retry ? "socket.accept() out of system resource"
                               : "socket.accept() failed: the server accepts no more",
                    "socket", socket);
    Py_DECREF(socket);
}

static void
on_closed(struct pyl_listener *listener)
{
    struct pyl_server_socket *self = server_socket_of(listener);
    if (!self->is_detached) {
        pyl_fd_table_end(&self->departed); /* may be the last reference */
    }
}

static const struct pyl_listener_ops listener_ops = {
    .on_accept = on_accept,
    .on_error = on_error,
    .on_closed = on_closed,
};

void
pyl_listener_detach(struct pyl_server_socket *server_socket)
{
    server_socket->is_detached = true;
}

/* ---- the type ---- */

static int
start(struct pyl_server_socket *self)
{
    if (pyl_loop_check_usable(self->loop) < 0 ||
        pyl_fd_table_add(&self->loop->fds, self->fd, (PyObject *)self) < 0) {
        return -1;
    }
    self->is_open = true;
    self->is_tcp = pyl_socket_set_nodelay(self->fd) == 0; /* accepted connections inherit it */
    pyl_listener_init(&self->listener, self->loop->worker, self->fd, &listener_ops);
    pyl_listener_start(&self->listener);
    return 0;
}

/* ServerSocket(loop, sock, factory, server, context, accept) */
static PyObject *
server_socket_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct pyl_state *state = pyl_state_of_type(type);
    PyObject *loop_object, *sock, *factory, *server, *context, *accept;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "ServerSocket() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOOOOO:ServerSocket", &loop_object, &sock, &factory, &server,
                          &context, &accept)) {
        return NULL;
    }
    struct pyl_loop *loop = pyl_loop_cast(state, loop_object);
    if (loop == NULL || (context != Py_None && !PyContext_CheckExact(context))) {
        PyErr_SetString(PyExc_TypeError,
                        loop == NULL ? "a pyloop.Loop is required" : "a Context is required");
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(sock);
    struct pyl_server_socket *self =
        fd < 0 ? NULL : (struct pyl_server_socket *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->loop = (struct pyl_loop *)Py_NewRef(loop_object);
    self->sock = Py_NewRef(sock);
    self->factory = Py_NewRef(factory);
    self->server = server == Py_None ? NULL : Py_NewRef(server);
    self->accept = accept == Py_None ? NULL : Py_NewRef(accept);
    self->context = context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
    self->fd = fd;
    if (self->context == NULL || start(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *
method_close(PyObject *self_object, PyObject *unused)
{
    struct pyl_server_socket *self = (struct pyl_server_socket *)self_object;
    (void)unused;
    if (!self->is_open) {
        Py_RETURN_NONE;
    }
    self->is_open = false;
    if (!self->is_detached) { /* else: the loop is gone, and the kernel has forgotten the fd */
        pyl_listener_close(&self->listener);
        pyl_fd_table_depart(&self->loop->fds, self->fd, (PyObject *)self, &self->departed);
    }
    return PyObject_CallMethod(self->sock, "close", NULL);
}

static int
server_socket_traverse(PyObject *self_object, visitproc visit, void *arg)
{
    struct pyl_server_socket *self = (struct pyl_server_socket *)self_object;
    Py_VISIT(Py_TYPE(self_object));
    Py_VISIT((PyObject *)self->loop);
    Py_VISIT(self->sock);
    Py_VISIT(self->factory);
    Py_VISIT(self->server);
    Py_VISIT(self->context);
    Py_VISIT(self->accept);
    return 0;
}

static int
server_socket_clear(PyObject *self_object)
{
    struct pyl_server_socket *self = (struct pyl_server_socket *)self_object;
    self->is_detached = true;
    Py_CLEAR(self->sock);
    Py_CLEAR(self->factory);
    Py_CLEAR(self->server);
    Py_CLEAR(self->context);
    Py_CLEAR(self->accept);
    Py_CLEAR(self->loop);
    return 0;
}

static void
server_socket_dealloc(PyObject *self_object)
{
    struct pyl_server_socket *self = (struct pyl_server_socket *)self_object;
    PyTypeObject *type = Py_TYPE(self_object);
    PyObject_GC_UnTrack(self_object);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self_object);
    }
    (void)server_socket_clear(self_object);
    type->tp_free(self_object);
    Py_DECREF(type);
}

static PyObject *
server_socket_repr(PyObject *self_object)
{
    struct pyl_server_socket *self = (struct pyl_server_socket *)self_object;
    return PyUnicode_FromFormat("<ServerSocket fd=%d%s>", self->fd, self->is_open ? "" : " closed");
}

static PyMethodDef server_socket_methods[] = {
    {"close", method_close, METH_NOARGS, PyDoc_STR("Stops accepting and closes the socket.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef server_socket_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct pyl_server_socket, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot server_socket_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Accepts connections on one listening socket.")},
    {Py_tp_new, server_socket_new},
    {Py_tp_traverse, server_socket_traverse},
    {Py_tp_clear, server_socket_clear},
    {Py_tp_dealloc, server_socket_dealloc},
    {Py_tp_repr, server_socket_repr},
    {Py_tp_methods, server_socket_methods},
    {Py_tp_members, server_socket_members},
    {0, NULL},
};

static PyType_Spec server_socket_spec = {
    .name = "pyloop._core.ServerSocket",
    .basicsize = sizeof(struct pyl_server_socket),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = server_socket_slots,
};

int
pyl_listener_type_add(PyObject *module, struct pyl_state *state)
{
    return pyl_add_type(module, &server_socket_spec, NULL, true, &state->listener_type);
}
