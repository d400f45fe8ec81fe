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

struct pyl_transport_info *
pyl_transport_need_info(struct pyl_transport *transport)
{
    if (transport->info == NULL) {
        transport->info = PyMem_Calloc(1, sizeof(*transport->info));
        if (transport->info == NULL) {
            PyErr_NoMemory();
        }
    }
    return transport->info;
}

int
pyl_transport_info_traverse(struct pyl_transport *transport, visitproc visit, void *arg)
{
    struct pyl_transport_info *info = transport->info;
    if (info != NULL) {
        Py_VISIT(info->sock);
        Py_VISIT(info->given);
        Py_VISIT(info->trsock);
        Py_VISIT(info->sockname);
        Py_VISIT(info->peername);
    }
    return 0;
}

void
pyl_transport_info_clear(struct pyl_transport *transport)
{
    struct pyl_transport_info *info = transport->info;
    if (info != NULL) {
        Py_CLEAR(info->given);
        Py_CLEAR(info->trsock);
        Py_CLEAR(info->sock);
        Py_CLEAR(info->sockname);
        Py_CLEAR(info->peername);
    }
}

/* ---- addresses ---- */

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
    int rc = is_peer ? pyl_socket_peer_address(transport->stream.fd, &address)
                     : pyl_socket_local_address(transport->stream.fd, &address);
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

/* The peer as it was at accept; false where that is not known. */
static bool
get_accepted_peer(const struct pyl_transport *transport, struct pyl_sockaddr *ret_address)
{
    if (transport->accepted_port != 0) {
        ret_address->size = sizeof(ret_address->u.in);
        ret_address->u.in = (struct sockaddr_in){.sin_family = AF_INET,
                                                 .sin_port = transport->accepted_port,
                                                 .sin_addr = transport->accepted_address};
        return true;
    }
    ret_address->size = sizeof(ret_address->u.in6);
    ret_address->u.in6 = transport->info->accepted_peer;
    return ret_address->u.in6.sin6_family == AF_INET6;
}

/* Borrowed, remembered; NULL with an exception. */
static PyObject *
name_of(struct pyl_transport *transport, bool is_peer)
{
    struct pyl_transport_info *info = pyl_transport_need_info(transport);
    if (info == NULL) {
        return NULL;
    }
    PyObject **place = is_peer ? &info->peername : &info->sockname;
    if (*place != NULL) {
        return *place;
    }
    PyObject *name;
    struct pyl_sockaddr address;
    if (is_peer && get_accepted_peer(transport, &address)) {
        name = pyl_address_to_python(&address);
    } else if (transport->is_closed) {
        name = Py_NewRef(Py_None);
    } else if (info->sock != NULL) {
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
    struct pyl_transport_info *info = transport->info;
    info->sockname = ask_socket(transport, "getsockname");
    info->peername = info->sockname == NULL ? NULL : ask_socket(transport, "getpeername");
    return info->peername == NULL ? -1 : 0;
}

void
pyl_transport_keep_names(struct pyl_transport *transport)
{
    /* Only who still holds the transport can ask: two references are the loop's and the caller's.
     */
    if (Py_REFCNT(transport) <= 2 + (transport->is_start_queued ? 1 : 0)) {
        return;
    }
    Py_BEGIN_CRITICAL_SECTION(transport);
    if (name_of(transport, false) == NULL || name_of(transport, true) == NULL) {
        PyErr_Clear(); /* out of memory: they will read None */
    }
    Py_END_CRITICAL_SECTION();
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
    PyObject *fileno = PyLong_FromLong(transport->stream.fd);
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
    struct pyl_transport_info *info = pyl_transport_need_info(transport);
    if (info == NULL || info->sock != NULL) {
        return info != NULL ? info->sock : NULL;
    }
    if (transport->is_closed) {
        info->sock = make_closed_socket(transport);
        return info->sock;
    }
    info->sock = make_socket(transport);
    if (info->sock != NULL) {
        transport->stream.owns_fd = false;
    }
    return info->sock;
}

/* Borrowed, remembered; NULL with an exception. */
static PyObject *
transport_socket(struct pyl_transport *transport)
{
    PyObject *sock = pyl_transport_socket(transport);
    if (sock == NULL) {
        return NULL;
    }
    struct pyl_transport_info *info = transport->info;
    if (info->trsock == NULL) {
        info->trsock = PyObject_CallOneArg(transport->state->asyncio_transport_socket, sock);
    }
    return info->trsock;
}

/* ---- get_extra_info ---- */

PyObject *
pyl_transport_extra(struct pyl_transport *transport)
{
    if (transport->extra != NULL) {
        return transport->extra;
    }
    struct pyl_strings *str = &transport->state->str;
    PyObject *given = transport->info != NULL ? transport->info->given : NULL;
    PyObject *extra = given != NULL ? PyDict_Copy(given) : PyDict_New();
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
    if (transport->info != NULL && transport->info->given != NULL) {
        PyObject *value = PyDict_GetItemWithError(transport->info->given, name);
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
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(self);
    value = Py_XNewRef(look_up_info((struct pyl_transport *)self, name));
    Py_END_CRITICAL_SECTION();
    return value != NULL || PyErr_Occurred() ? value : Py_NewRef(fallback);
}
