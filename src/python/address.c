/*
 * address.c - addresses as Python's socket module has them, and back.
 */
#include "python/address.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>

/* ---- to Python ---- */

static PyObject *
unix_address(const struct pyl_sockaddr *address)
{
    size_t offset = offsetof(struct sockaddr_un, sun_path);
    size_t size = address->size > offset ? address->size - offset : 0;
    const char *path = address->u.un.sun_path;
    if (size > 0 && path[0] == '\0') { /* abstract: bytes, all of them */
        return PyBytes_FromStringAndSize(path, (Py_ssize_t)size);
    }
    return PyUnicode_DecodeFSDefaultAndSize(path, (Py_ssize_t)strnlen(path, size));
}

PyObject *
pyl_address_to_python(const struct pyl_sockaddr *address)
{
    char host[INET6_ADDRSTRLEN];
    switch (address->u.any.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &address->u.in.sin_addr, host, sizeof(host));
        return Py_BuildValue("(si)", host, (int)ntohs(address->u.in.sin_port));
    case AF_INET6:
        inet_ntop(AF_INET6, &address->u.in6.sin6_addr, host, sizeof(host));
        return Py_BuildValue("(siII)", host, (int)ntohs(address->u.in6.sin6_port),
                             (unsigned)ntohl(address->u.in6.sin6_flowinfo),
                             (unsigned)address->u.in6.sin6_scope_id);
    case AF_UNIX:
        return unix_address(address);
    default:
        return Py_NewRef(Py_NotImplemented);
    }
}

/* ---- from Python ---- */

/* An item of the tuple as a number from 0 to max; a missing one is 0. */
static bool
take_number(PyObject *tuple, Py_ssize_t index, long max, uint32_t *ret)
{
    *ret = 0;
    if (index >= PyTuple_GET_SIZE(tuple)) {
        return true;
    }
    PyObject *item = PyTuple_GET_ITEM(tuple, index);
    if (!PyLong_CheckExact(item)) {
        return false;
    }
    int overflow;
    long value = PyLong_AsLongAndOverflow(item, &overflow);
    if (overflow != 0 || value < 0 || value > max) {
        return false;
    }
    *ret = (uint32_t)value;
    return true;
}

static bool
take_internet(struct pyl_sockaddr *address, int family, PyObject *tuple)
{
    Py_ssize_t size_max = family == AF_INET ? 2 : 4;
    if (!PyTuple_CheckExact(tuple) || PyTuple_GET_SIZE(tuple) < 2 ||
        PyTuple_GET_SIZE(tuple) > size_max || !PyUnicode_CheckExact(PyTuple_GET_ITEM(tuple, 0))) {
        return false;
    }
    Py_ssize_t length;
    const char *host = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(tuple, 0), &length);
    uint32_t port, flow, scope;
    if (host == NULL || strlen(host) != (size_t)length) {
        PyErr_Clear();
        return false;
    }
    if (!take_number(tuple, 1, 0xffff, &port) || !take_number(tuple, 2, 0xfffff, &flow) ||
        !take_number(tuple, 3, INT32_MAX, &scope)) {
        return false;
    }
    memset(&address->u, 0, sizeof(address->u));
    if (family == AF_INET) {
        address->size = sizeof(address->u.in);
        address->u.in.sin_family = AF_INET;
        address->u.in.sin_port = htons((uint16_t)port);
        return inet_pton(AF_INET, host, &address->u.in.sin_addr) == 1;
    }
    address->size = sizeof(address->u.in6);
    address->u.in6.sin6_family = AF_INET6;
    address->u.in6.sin6_port = htons((uint16_t)port);
    address->u.in6.sin6_flowinfo = htonl(flow);
    address->u.in6.sin6_scope_id = scope;
    return inet_pton(AF_INET6, host, &address->u.in6.sin6_addr) == 1;
}

static bool
take_path(struct pyl_sockaddr *address, PyObject *object)
{
    PyObject *path = PyBytes_CheckExact(object)     ? Py_NewRef(object)
                     : PyUnicode_CheckExact(object) ? PyUnicode_EncodeFSDefault(object)
                                                    : NULL;
    if (path == NULL) {
        PyErr_Clear();
        return false;
    }
    int rc = pyl_sockaddr_unix(address, PyBytes_AS_STRING(path), (size_t)PyBytes_GET_SIZE(path));
    Py_DECREF(path);
    return rc == 0;
}

bool
pyl_address_from_python(struct pyl_sockaddr *ret_address, int family, PyObject *object)
{
    switch (family) {
    case AF_INET:
    case AF_INET6:
        return take_internet(ret_address, family, object);
    case AF_UNIX:
        return take_path(ret_address, object);
    default:
        return false;
    }
}
