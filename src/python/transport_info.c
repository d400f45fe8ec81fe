/*
 * transport_info.c - get_extra_info(): addresses and the socket object, made when asked for.
 *
 * asyncio fills a dictionary for every connection. Here an accepted connection has no socket object
 * until somebody wants one; the peer's address is taken at accept (a connection that was reset has
 * none any more), our own address when asked for or before the fd is closed.
 */
#include "python/transport.h"

#include "python/address.h"

#include <string.h>

/* sock.getsockname() or sock.getpeername(); None when the kernel has no answer. */
static PyObject *
ask_socket(struct pyl_transport *transport, const char *method)
{
    PyObject *sock = pyl_transport_socket(transport);
    PyObject *name = sock == NULL ? NULL : PyObject_CallMethod(sock, method, NULL);
    if (name == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear();
        name = Py_NewRef(Py_None);
    }
    return name;
}

static PyObject *
ask_kernel(struct pyl_transport *transport, bool is_peer)
{
    struct pyl_sockaddr address;
    int rc = is_peer ? pyl_socket_peer_address(transport->fd, &address)
                     : pyl_socket_local_address(transport->fd, &address);
    if (rc < 0) {
        return Py_NewRef(Py_None);
    }
    PyObject *name = pyl_address_to_python(&address);
    if (name == Py_NotImplemented) {
        Py_DECREF(name);
        return ask_socket(transport, is_peer ? "getpeername" : "getsockname");
    }
    return name;
}

/* Borrowed, remembered; NULL with an exception. */
static PyObject *
name_of(struct pyl_transport *transport, bool is_peer)
{
    PyObject **place = is_peer ? &transport->peername : &transport->sockname;
    if (*place != NULL) {
        return *place;
    }
    PyObject *name;
    if (is_peer && transport->accepted_peer_size > 0) {
        struct pyl_sockaddr address = {.size = transport->accepted_peer_size};
        memcpy(&address.u, &transport->accepted_peer, transport->accepted_peer_size);
        name = pyl_address_to_python(&address);
    } else if (transport->is_closed) {
        name = Py_NewRef(Py_None);
    } else if (transport->sock != NULL) {
        name = ask_socket(transport, is_peer ? "getpeername" : "getsockname");
    } else {
        name = ask_kernel(transport, is_peer);
    }
    if (name != NULL && *place == NULL) {
        *place = name;
    } else {
        Py_XDECREF(name);
    }
    return *place;
}

int
pyl_transport_ask_names(struct pyl_transport *transport)
{
    transport->sockname = ask_socket(transport, "getsockname");
    transport->peername = transport->sockname == NULL ? NULL : ask_socket(transport, "getpeername");
    return transport->peername == NULL ? -1 : 0;
}

void
pyl_transport_keep_names(struct pyl_transport *transport)
{
    /* Only who still holds the transport can ask: two references are the loop's and the caller's.
     */
    if (Py_REFCNT(transport) <= 2 + (transport->is_start_queued ? 1 : 0)) {
        return;
    }
    if (name_of(transport, false) == NULL || name_of(transport, true) == NULL) {
        PyErr_Clear(); /* out of memory: they will read None */
    }
}

/* ---- the socket object ---- */

/* A socket that looks like ours did, and is closed. */
static PyObject *
make_closed_socket(struct pyl_transport *transport)
{
    PyObject *sock = PyObject_CallNoArgs(transport->state->socket_class);
    PyObject *result = sock == NULL ? NULL : PyObject_CallMethod(sock, "close", NULL);
    Py_XDECREF(result);
    if (result == NULL) {
        Py_CLEAR(sock);
    }
    return sock;
}

static PyObject *
make_socket(struct pyl_transport *transport)
{
    PyObject *fileno = PyLong_FromLong(transport->fd);
    if (fileno == NULL) {
        return NULL;
    }
    PyObject *minus_one = PyLong_FromLong(-1);
    PyObject *arguments[] = {minus_one, minus_one, minus_one, fileno};
    PyObject *sock = minus_one == NULL
                         ? NULL
                         : PyObject_Vectorcall(transport->state->socket_class, arguments, 4, NULL);
    Py_XDECREF(minus_one);
    Py_DECREF(fileno);
    if (sock == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_CallMethod(sock, "setblocking", "O", Py_False);
    if (result == NULL) {
        Py_XDECREF(PyObject_CallMethod(sock, "detach", NULL));
        Py_DECREF(sock);
        return NULL;
    }
    Py_DECREF(result);
    return sock;
}

PyObject *
pyl_transport_socket(struct pyl_transport *transport)
{
    if (transport->sock != NULL) {
        return transport->sock;
    }
    if (transport->is_closed) {
        transport->sock = make_closed_socket(transport);
        return transport->sock;
    }
    transport->sock = make_socket(transport);
    if (transport->sock != NULL) {
        transport->stream.owns_fd = false;
    }
    return transport->sock;
}

/* Borrowed, remembered; NULL with an exception. */
static PyObject *
transport_socket(struct pyl_transport *transport)
{
    if (transport->trsock == NULL) {
        PyObject *sock = pyl_transport_socket(transport);
        if (sock != NULL) {
            transport->trsock =
                PyObject_CallOneArg(transport->state->asyncio_transport_socket, sock);
        }
    }
    return transport->trsock;
}

/* ---- get_extra_info ---- */

PyObject *
pyl_transport_extra(struct pyl_transport *transport)
{
    if (transport->extra != NULL) {
        return transport->extra;
    }
    struct pyl_strings *str = &transport->state->str;
    PyObject *extra =
        transport->given_extra != NULL ? PyDict_Copy(transport->given_extra) : PyDict_New();
    PyObject *value;
    if (extra == NULL || (value = transport_socket(transport)) == NULL ||
        PyDict_SetItem(extra, str->socket, value) < 0 ||
        (value = name_of(transport, false)) == NULL ||
        PyDict_SetItem(extra, str->sockname, value) < 0) {
        Py_XDECREF(extra);
        return NULL;
    }
    int has_peer = PyDict_Contains(extra, str->peername);
    if (has_peer < 0 || (has_peer == 0 && ((value = name_of(transport, true)) == NULL ||
                                           PyDict_SetItem(extra, str->peername, value) < 0))) {
        Py_DECREF(extra);
        return NULL;
    }
    transport->extra = extra;
    return extra;
}

static bool
is_name(PyObject *name, PyObject *interned)
{
    return name == interned || (PyUnicode_Check(name) && PyUnicode_Compare(name, interned) == 0);
}

/* Borrowed; NULL without an exception where there is no such information. */
static PyObject *
look_up_info(struct pyl_transport *transport, PyObject *name)
{
    struct pyl_strings *str = &transport->state->str;
    if (transport->extra != NULL) {
        return PyDict_GetItemWithError(transport->extra, name);
    }
    if (is_name(name, str->socket)) {
        return transport_socket(transport);
    }
    if (is_name(name, str->sockname)) {
        return name_of(transport, false);
    }
    if (transport->given_extra != NULL) {
        PyObject *value = PyDict_GetItemWithError(transport->given_extra, name);
        if (value != NULL || PyErr_Occurred()) {
            return value;
        }
    }
    return is_name(name, str->peername) ? name_of(transport, true) : NULL;
}

PyObject *
pyl_transport_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "default", NULL};
    PyObject *name, *fallback = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:get_extra_info", names, &name, &fallback)) {
        return NULL;
    }
    if (PyObject_Hash(name) == -1) { /* asyncio asks a dict */
        return NULL;
    }
    PyObject *value = look_up_info((struct pyl_transport *)self, name);
    if (value == NULL && PyErr_Occurred()) {
        return NULL;
    }
    return Py_NewRef(value != NULL ? value : fallback);
}
