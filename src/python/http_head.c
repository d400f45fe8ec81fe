/*
 * http_head.c - the head of a response, made of http.response.start: all of it but the framing and
 * the server's own fields, which finish it when the first content is known (http_send.c).
 */
#include "python/http.h"

#include <string.h>

int
pyl_http_raise_type(const char *what, PyObject *got)
{
    PyErr_Format(PyExc_TypeError, "%s, not %.100s", what, Py_TYPE(got)->tp_name);
    return -1;
}

PyObject *
pyl_http_head_fields(PyObject *headers)
{
    if (headers == NULL) {
        return PyTuple_New(0);
    }
    Py_INCREF(headers); /* iterating may run code that changes the message */
    PyObject *fields =
        PySequence_Fast(headers, "headers must be an iterable of (name, value) pairs");
    Py_DECREF(headers);
    return fields;
}

/* The two bytes objects of a pair, borrowed from it. 0 or -1. */
static int
get_pair(PyObject *pair, PyObject **ret_name, PyObject **ret_value)
{
    PyObject **items;
    Py_ssize_t count;
    if (PyTuple_Check(pair)) {
        items = &PyTuple_GET_ITEM(pair, 0);
        count = PyTuple_GET_SIZE(pair);
    } else if (PyList_Check(pair)) {
        items = ((PyListObject *)pair)->ob_item;
        count = PyList_GET_SIZE(pair);
    } else {
        return pyl_http_raise_type("each header must be a tuple or list of name and value", pair);
    }
    if (count != 2) {
        PyErr_SetString(PyExc_ValueError, "each header must have a name and a value");
        return -1;
    }
    if (!PyBytes_Check(items[0])) {
        return pyl_http_raise_type("header names must be bytes", items[0]);
    }
    if (!PyBytes_Check(items[1])) {
        return pyl_http_raise_type("header values must be bytes", items[1]);
    }
    *ret_name = items[0];
    *ret_value = items[1];
    return 0;
}

/* An upper bound of what the head will need, or -1 with an exception. */
static Py_ssize_t
measure_head(struct pyl_http_server *server, PyObject *fields)
{
    Py_ssize_t size =
        PYL_HTTP1_STATUS_LINE_MAX + PYL_HTTP1_HEAD_END_MAX + (Py_ssize_t)sizeof(server->defaults);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fields); i++) {
        PyObject *name, *value;
        if (get_pair(PySequence_Fast_GET_ITEM(fields, i), &name, &value) < 0) {
            return -1;
        }
        size += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + PYL_HTTP1_FIELD_EXTRA;
    }
    return size;
}

static int
write_fields(struct pyl_http1_response *response, PyObject *fields, struct pyl_http_block *block)
{
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fields); i++) {
        PyObject *name, *value;
        if (get_pair(PySequence_Fast_GET_ITEM(fields, i), &name, &value) < 0) {
            return -1;
        }
        size_t name_size = (size_t)PyBytes_GET_SIZE(name);
        size_t value_size = (size_t)PyBytes_GET_SIZE(value);
        uint8_t *out = block->data + block->size;
        const char *error = NULL;
        uint8_t *end = pyl_http1_response_field(
            response, (const uint8_t *)PyBytes_AS_STRING(name), name_size,
            (const uint8_t *)PyBytes_AS_STRING(value), value_size, out, &error);
        if (end == NULL) {
            PyErr_Format(PyExc_ValueError, "%s: %R", error,
                         strstr(error, "name") != NULL ? name : value);
            return -1;
        }
        block->size += (uint32_t)(end - out);
    }
    return 0;
}

/* May the connection serve another request after this response? */
static bool
may_keep_alive(const struct pyl_http_request *request)
{
    /* A client that still waits for "100 Continue" may or may not send its content now. */
    bool is_content_doubtful = request->is_continue_owed && !request->is_content_complete;
    return request->connection->is_keep_alive && !is_content_doubtful;
}

int
pyl_http_head_status(PyObject *status, long *ret_status)
{
    if (status == NULL) {
        PyErr_SetString(PyExc_ValueError, "'http.response.start' without 'status'");
        return -1;
    }
    if (!PyLong_Check(status)) {
        return pyl_http_raise_type("status must be an int", status);
    }
    int overflow = 0;
    *ret_status = PyLong_AsLongAndOverflow(status, &overflow);
    if (*ret_status < 200 || *ret_status > 999 || overflow != 0) {
        PyErr_Format(PyExc_ValueError, "%R is not the status of a response", status);
        return -1;
    }
    return 0;
}

void
pyl_http_head_hold(struct pyl_http_request *request, struct pyl_http_head *head)
{
    head->response.is_keep_alive &= may_keep_alive(request);
    request->response = head->response;
    request->block = head->block;
    head->block = NULL;
    request->progress = PYL_HTTP_RESPONSE_HELD;
    if (!request->is_stepping) {
        pyl_http_send_queue_flush(request);
    }
}

/* All of the head that is known now, in a block with room for it. 0 or -1. */
static int
write_head(struct pyl_http_request *request, long status, PyObject *fields,
           struct pyl_http_head *head)
{
    pyl_http1_response_begin(&head->response, request->minor_version, request->method == HTTP_HEAD,
                             true);
    uint8_t *end = pyl_http1_response_status(&head->response, status, head->block->data);
    head->block->size = (uint32_t)(end - head->block->data);
    return write_fields(&head->response, fields, head->block);
}

int
pyl_http_head_start(struct pyl_http_request *request, long status, PyObject *fields)
{
    struct pyl_http_head head;
    Py_ssize_t size = measure_head(request->server, fields);
    if (size < 0) {
        return -1;
    }
    head.block = pyl_http_block_take(request->server, (size_t)size);
    if (head.block == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (write_head(request, status, fields, &head) < 0) {
        pyl_http_block_give(request->server, head.block);
        return -1;
    }
    pyl_http_head_hold(request, &head);
    return 0;
}

/* ---- for another thread ---- */

int
pyl_http_head_make(struct pyl_http_request *request, PyObject *status, PyObject *headers,
                   struct pyl_http_head *ret_head)
{
    long number;
    ret_head->block = NULL;
    if (pyl_http_head_status(status, &number) < 0) {
        return -1;
    }
    PyObject *fields = pyl_http_head_fields(headers);
    Py_ssize_t size = fields != NULL ? measure_head(request->server, fields) : -1;
    int rc = -1;
    if (size >= 0) {
        ret_head->block = pyl_http_block_new((size_t)size);
        if (ret_head->block == NULL) {
            PyErr_NoMemory();
        } else {
            rc = write_head(request, number, fields, ret_head);
        }
    }
    Py_XDECREF(fields);
    if (rc < 0) {
        PyMem_RawFree(ret_head->block);
        ret_head->block = NULL;
    }
    return rc;
}

PyObject *
pyl_http_head_copy_fields(PyObject *headers)
{
    PyObject *fields = pyl_http_head_fields(headers);
    if (fields == NULL) {
        return NULL;
    }
    Py_SETREF(fields, PySequence_List(fields));
    for (Py_ssize_t i = 0; fields != NULL && i < PyList_GET_SIZE(fields); i++) {
        PyObject *pair = PyList_GET_ITEM(fields, i);
        PyObject *tuple = PyList_Check(pair) ? PyList_AsTuple(pair) : Py_NewRef(pair);
        if (tuple == NULL || PyList_SetItem(fields, i, tuple) < 0) {
            Py_CLEAR(fields);
        }
    }
    return fields;
}
