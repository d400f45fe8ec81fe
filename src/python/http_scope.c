/*
 * http_scope.c - builds the ASGI scope of a request straight from the bytes that were received.
 *
 * The scope is a copy of the server's template, in which only the keys that differ are set.
 * Everything mutable in it (scope, asgi, headers, state) is fresh: an application may change it.
 */
#include "python/http.h"

#include <string.h>

static int
hex_value(uint8_t digit)
{
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    digit |= 0x20;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Percent-decoding as urllib's unquote() does it: an invalid escape stays, invalid UTF-8 becomes
 * U+FFFD. */
static PyObject *
decode_escaped(const uint8_t *data, size_t size)
{
    uint8_t small[512];
    uint8_t *decoded = size <= sizeof(small) ? small : PyMem_Malloc(size);
    if (decoded == NULL) {
        return PyErr_NoMemory();
    }
    size_t count = 0;
    for (size_t i = 0; i < size; i++) {
        if (data[i] == '%' && size - i > 2) {
            int high = hex_value(data[i + 1]);
            int low = hex_value(data[i + 2]);
            if (high >= 0 && low >= 0) {
                decoded[count++] = (uint8_t)(high << 4 | low);
                i += 2;
                continue;
            }
        }
        decoded[count++] = data[i];
    }
    PyObject *text = PyUnicode_DecodeUTF8((const char *)decoded, (Py_ssize_t)count, "replace");
    if (decoded != small) {
        PyMem_Free(decoded);
    }
    return text;
}

/* The target was checked to be ASCII. */
static PyObject *
decode_path(const uint8_t *data, size_t size)
{
    if (memchr(data, '%', size) != NULL) {
        return decode_escaped(data, size);
    }
    PyObject *text = PyUnicode_New((Py_ssize_t)size, 127);
    if (text != NULL && size > 0) {
        memcpy(PyUnicode_1BYTE_DATA(text), data, size);
    }
    return text;
}

static int
set_path(PyObject *scope, struct pyl_http_server *server, const struct pyl_http1_head *head)
{
    struct pyl_state *state = server->state;
    const uint8_t *data = pyl_http1_bytes(head, head->path);
    if (head->path.size == 0 || (head->path.size == 1 && *data == '/')) {
        return 0; /* as in the template; empty in a target without a path, "http://a" */
    }
    PyObject *path = decode_path(data, head->path.size);
    PyObject *raw = PyBytes_FromStringAndSize((const char *)data, head->path.size);
    if (PyUnicode_GET_LENGTH(server->root_path) > 0 && path != NULL && raw != NULL) {
        Py_SETREF(path, PyUnicode_Concat(server->root_path, path));
        PyObject *prefixed = Py_NewRef(server->root_path_raw);
        PyBytes_ConcatAndDel(&prefixed, raw);
        raw = prefixed;
    }
    int rc = -1;
    if (path != NULL && raw != NULL && PyDict_SetItem(scope, state->str.path, path) == 0) {
        rc = PyDict_SetItem(scope, state->str.raw_path, raw);
    }
    Py_XDECREF(path);
    Py_XDECREF(raw);
    return rc;
}

/* Sets the key and drops the reference; NULL passes. */
static int
set_new(PyObject *scope, PyObject *key, PyObject *value)
{
    if (value == NULL) {
        return -1;
    }
    int rc = PyDict_SetItem(scope, key, value);
    Py_DECREF(value);
    return rc;
}

static int
fill_scope(PyObject *scope, struct pyl_http_connection *connection,
           const struct pyl_http1_head *head)
{
    struct pyl_http_server *server = connection->server;
    struct pyl_state *state = server->state;

    if (set_new(scope, state->str.asgi, PyDict_Copy(state->http.asgi)) < 0 ||
        set_new(scope, state->str.headers, pyl_http_headers_new(server, head)) < 0 ||
        set_path(scope, server, head) < 0) {
        return -1;
    }
    if (head->method != HTTP_GET &&
        PyDict_SetItem(scope, state->str.method, state->http.methods[head->method]) < 0) {
        return -1;
    }
    if (head->minor_version == 0 &&
        PyDict_SetItem(scope, state->str.http_version, state->http.version_10) < 0) {
        return -1;
    }
    if (head->query.size > 0 &&
        set_new(scope, state->str.query_string,
                PyBytes_FromStringAndSize((const char *)pyl_http1_bytes(head, head->query),
                                          head->query.size)) < 0) {
        return -1;
    }
    if (connection->client != NULL &&
        PyDict_SetItem(scope, state->str.client, connection->client) < 0) {
        return -1;
    }
    if (connection->local != server->template_local &&
        PyDict_SetItem(scope, state->str.server, connection->local) < 0) {
        return -1;
    }
    if (server->app_state != NULL &&
        set_new(scope, state->str.state, PyDict_Copy(server->app_state)) < 0) {
        return -1;
    }
    return 0;
}

PyObject *
pyl_http_scope_new(struct pyl_http_connection *connection, const struct pyl_http1_head *head)
{
    PyObject *scope = PyDict_Copy(connection->server->scope_template);
    if (scope != NULL && fill_scope(scope, connection, head) < 0) {
        Py_CLEAR(scope);
    }
    return scope;
}
