/*
 * http_listen.c - HttpListener: accepts connections for an HTTP server.
 *
 * The listening socket is a Python object of the caller's; it is closed when listening stops. In
 * parallel mode one view accepts, and hands over to the listeners of the other views, its peers.
 */
#include "python/http.h"

#include "io/sockaddr.h"
#include "python/handover.h"
#include "python/views.h"

#include <string.h>

static struct pyl_http_listener *
listener_of(struct pyl_listener *listener)
{
    return PYL_CONTAINER_OF(listener, struct pyl_http_listener, listener);
}

/* A pyl_handover_fn. */
static void
open_in_view(struct pyl_loop *view, PyObject *acceptor, int fd)
{
    struct pyl_http_listener *listener = (struct pyl_http_listener *)(void *)acceptor;
    if (listener->is_detached || listener->server->is_draining) {
        pyl_reactor_close_now(&view->worker->reactor, fd);
    } else if (pyl_http_connection_open(listener, fd) < 0) {
        pyl_http_server_report(listener->server, "Accepting a connection failed");
    }
}

/* The listener for the next connection: itself, or a peer whose view is less loaded. */
static struct pyl_http_listener *
choose_peer(struct pyl_http_listener *listener)
{
    struct pyl_loop *view = pyl_views_lighter(listener->server->loop);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(listener->peers); i++) {
        struct pyl_http_listener *peer =
            (struct pyl_http_listener *)(void *)PyTuple_GET_ITEM(listener->peers, i);
        if (peer->server->loop == view) {
            return peer;
        }
    }
    return listener;
}

static void
on_accept(struct pyl_listener *io, int fd)
{
    struct pyl_http_listener *listener = listener_of(io);
    struct pyl_loop *own = listener->server->loop;
    struct pyl_http_listener *chosen =
        listener->peers == NULL || listener->is_detached ? listener : choose_peer(listener);
    if (chosen == listener) {
        open_in_view(own, (PyObject *)listener, fd);
    } else if (pyl_handover_post(chosen->server->loop, (PyObject *)chosen, open_in_view, fd) < 0) {
        pyl_reactor_close_now(&io->worker->reactor, fd);
        pyl_http_server_report(listener->server, "A connection could not be handed over");
    }
}

static void
on_error(struct pyl_listener *io, int error, bool will_retry)
{
    struct pyl_http_listener *listener = listener_of(io);
    if (listener->is_detached) {
        return;
    }
    pyl_raise_errno(error);
    pyl_http_server_report(listener->server,
                           will_retry ? "Accepting a connection failed; trying again in a second"
                                      : "Accepting connections failed for good");
}

static void
on_closed(struct pyl_listener *io)
{
    struct pyl_http_listener *listener = listener_of(io);
    if (!listener->is_detached) {
        pyl_fd_table_end(&listener->departed); /* may be the last reference */
    }
}

static const struct pyl_listener_ops listener_ops = {
    .on_accept = on_accept,
    .on_error = on_error,
    .on_closed = on_closed,
};

void
pyl_http_listener_detach(struct pyl_http_listener *listener)
{
    listener->is_detached = true;
}

/* scope["server"] if it is the same for every connection: [path, None] or a bound address. 0 or -1.
 */
static int
set_local(struct pyl_http_listener *listener)
{
    struct pyl_sockaddr address;
    char host[PYL_SOCKADDR_TEXT_SIZE];
    int rc = pyl_socket_local_address(listener->fd, &address);
    if (rc < 0) {
        pyl_raise_errno(rc);
        return -1;
    }
    if (address.u.any.sa_family == AF_UNIX) {
        pyl_sockaddr_print(&address, host, sizeof(host));
        listener->local = Py_BuildValue("(sO)", host, Py_None);
        return listener->local != NULL ? 0 : -1;
    }
    pyl_sockaddr_print_host(&address, host, sizeof(host));
    if (strcmp(host, "0.0.0.0") != 0 && strcmp(host, "::") != 0) {
        listener->local = Py_BuildValue("(si)", host, (int)pyl_sockaddr_port(&address));
        return listener->local != NULL ? 0 : -1;
    }
    return 0;
}

/* Neither open nor in the server's list. New reference or NULL. */
static struct pyl_http_listener *
listener_new(struct pyl_http_server *server, PyObject *sock)
{
    int fd = PyObject_AsFileDescriptor(sock);
    if (fd < 0) {
        return NULL;
    }
    struct pyl_http_listener *listener =
        PyObject_GC_New(struct pyl_http_listener, server->state->http_listener_type);
    if (listener == NULL) {
        return NULL;
    }
    memset((char *)listener + sizeof(PyObject), 0, sizeof(*listener) - sizeof(PyObject));
    listener->server = (struct pyl_http_server *)Py_NewRef((PyObject *)server);
    listener->fd = fd;
    listener->is_tcp = pyl_socket_set_nodelay(fd) == 0; /* accepted sockets inherit it */
    PyObject_GC_Track(listener);
    if (set_local(listener) < 0) {
        Py_DECREF(listener);
        return NULL;
    }
    if (server->template_local == Py_None && listener->local != NULL) {
        if (PyDict_SetItem(server->scope_template, server->state->str.server, listener->local) ==
            0) {
            server->template_local = listener->local; /* the usual case: one listener */
        }
        PyErr_Clear(); /* without it the key is set for each request */
    }
    return listener;
}

int
pyl_http_listen(struct pyl_http_server *server, PyObject *sock, PyObject *peers)
{
    struct pyl_http_listener *listener = listener_new(server, sock);
    if (listener == NULL) {
        return -1;
    }
    listener->sock = Py_NewRef(sock);
    listener->peers = Py_XNewRef(peers);
    if (PyList_Append(server->listeners, (PyObject *)listener) < 0 ||
        pyl_fd_table_add(&server->loop->fds, listener->fd, (PyObject *)listener) < 0) {
        Py_DECREF(listener);
        return -1;
    }
    listener->is_open = true;
    pyl_listener_init(&listener->listener, server->loop->worker, listener->fd, &listener_ops);
    pyl_listener_start(&listener->listener);
    Py_DECREF(listener);
    return 0;
}

PyObject *
pyl_http_listener_join(struct pyl_http_server *server, PyObject *sock)
{
    struct pyl_http_listener *listener = listener_new(server, sock);
    if (listener != NULL && PyList_Append(server->listeners, (PyObject *)listener) < 0) {
        Py_CLEAR(listener); /* the list keeps `local`, which the template borrows */
    }
    return (PyObject *)listener;
}

static int
stop(struct pyl_http_listener *listener)
{
    if (!listener->is_open) {
        return 0;
    }
    listener->is_open = false;
    if (!listener->is_detached) {
        pyl_listener_close(&listener->listener);
        pyl_fd_table_depart(&listener->server->loop->fds, listener->fd, (PyObject *)listener,
                            &listener->departed);
    }
    PyObject *result = PyObject_CallMethod(listener->sock, "close", NULL);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

int
pyl_http_stop_listening(struct pyl_http_server *server)
{
    int rc = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(server->listeners); i++) {
        if (stop((struct pyl_http_listener *)(void *)PyList_GET_ITEM(server->listeners, i)) < 0) {
            rc = -1;
        }
    }
    return rc;
}

/* ---- the type ---- */

static int
listener_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pyl_http_listener *listener = (struct pyl_http_listener *)(void *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)listener->server);
    Py_VISIT(listener->sock);
    Py_VISIT(listener->peers);
    Py_VISIT(listener->local);
    return 0;
}

static int
listener_clear(PyObject *self)
{
    struct pyl_http_listener *listener = (struct pyl_http_listener *)(void *)self;
    listener->is_detached = true;
    Py_CLEAR(listener->sock);
    Py_CLEAR(listener->peers);
    Py_CLEAR(listener->local);
    return 0;
}

static void
listener_dealloc(PyObject *self)
{
    struct pyl_http_listener *listener = (struct pyl_http_listener *)(void *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)listener_clear(self);
    Py_CLEAR(listener->server);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyType_Slot listener_slots[] = {
    {Py_tp_dealloc, listener_dealloc},
    {Py_tp_traverse, listener_traverse},
    {Py_tp_clear, listener_clear},
    {0, NULL},
};

static PyType_Spec listener_spec = {
    .name = "pyloop._core.HttpListener",
    .basicsize = sizeof(struct pyl_http_listener),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = listener_slots,
};

int
pyl_http_listener_type_add(PyObject *module, struct pyl_state *state)
{
    return pyl_add_type(module, &listener_spec, NULL, false, &state->http_listener_type);
}
