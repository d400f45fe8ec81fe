/*
 * http_send.c - the application's send(): from ASGI messages to queued bytes.
 *
 * The head of a response is held until the first content is known: then both leave together, with
 * the right length if there is no more. A head that is still alone at the end of the turn leaves
 * alone.
 *
 * Everything is checked before anything is queued, so a message that raises has had no effect.
 */
#include "python/http.h"

#include <string.h>

/* ---- the message ---- */

/* Borrowed from the dict; NULL where it has no such key. */
struct message {
    PyObject *type;
    PyObject *status;
    PyObject *headers;
    PyObject *body;
    PyObject *more_body;
};

/* Key by key: for keys that are equal to ours without being the same objects. */
static int
look_up_message(struct pyl_state *state, PyObject *dict, struct message *ret)
{
    PyObject *names[] = {state->str.type, state->str.status, state->str.headers, state->str.body,
                         state->str.more_body};
    PyObject **fields[] = {&ret->type, &ret->status, &ret->headers, &ret->body, &ret->more_body};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        *fields[i] = PyDict_GetItemWithError(dict, names[i]);
        if (*fields[i] == NULL && PyErr_Occurred()) {
            return -1;
        }
    }
    return 0;
}

/* Constant strings that look like names are interned, so one pass over the few items finds nearly
 * all keys by their address. 0, or -1 with an exception. */
static int
read_message(struct pyl_state *state, PyObject *dict, struct message *ret)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    bool is_complete = true;
    *ret = (struct message){0};
    Py_BEGIN_CRITICAL_SECTION(dict);
    while (PyDict_Next(dict, &position, &key, &value)) {
        if (key == state->str.type) {
            ret->type = value;
        } else if (key == state->str.body) {
            ret->body = value;
        } else if (key == state->str.more_body) {
            ret->more_body = value;
        } else if (key == state->str.status) {
            ret->status = value;
        } else if (key == state->str.headers) {
            ret->headers = value;
        } else {
            is_complete = false;
            break;
        }
    }
    Py_END_CRITICAL_SECTION();
    return is_complete ? 0 : look_up_message(state, dict, ret);
}

/* ---- writing content ---- */

/* Collects small bytes in a block; larger ones are queued as they are. */
struct writer {
    struct pyl_http_connection *connection;
    struct pyl_http_block *block; /* not yet queued, or NULL */
};

static void
writer_queue(struct writer *writer)
{
    struct pyl_http_block *block = writer->block;
    writer->block = NULL;
    if (block != NULL) {
        pyl_http_write_block(writer->connection, block);
    }
}

/* Room for `size` bytes in one piece. Returns NULL when out of memory, with the exception. */
static uint8_t *
writer_room(struct writer *writer, size_t size)
{
    struct pyl_http_block *block = writer->block;
    if (block != NULL && block->capacity - block->size >= size) {
        return block->data + block->size;
    }
    writer_queue(writer);
    writer->block = pyl_http_block_take(writer->connection->server, size);
    if (writer->block == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    return writer->block->data;
}

static int
writer_copy(struct writer *writer, const void *data, size_t size)
{
    uint8_t *out = writer_room(writer, size);
    if (out == NULL) {
        return -1;
    }
    memcpy(out, data, size);
    writer->block->size += (uint32_t)size;
    return 0;
}

static int
writer_bytes(struct writer *writer, PyObject *bytes)
{
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    size_t room = PYL_HTTP_BLOCK_SIZE;
    if (writer->block != NULL) {
        room = writer->block->capacity - writer->block->size;
    }
    if (size + 8 <= room) {
        return writer_copy(writer, PyBytes_AS_STRING(bytes), size);
    }
    writer_queue(writer);
    pyl_http_write_bytes(writer->connection, Py_NewRef(bytes), 0, size);
    return 0;
}

static int
write_chunk(struct writer *writer, PyObject *bytes, bool is_last)
{
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    if (size > 0) { /* an empty chunk would be the last one */
        uint8_t *out = writer_room(writer, PYL_HTTP1_CHUNK_HEAD_MAX);
        if (out == NULL) {
            return -1;
        }
        writer->block->size += (uint32_t)(pyl_http1_write_chunk_head(out, size) - out);
        if (writer_bytes(writer, bytes) < 0) {
            return -1;
        }
    }
    const char *end = size > 0 ? "\r\n0\r\n\r\n" : "0\r\n\r\n";
    size_t end_size = (size_t)(size > 0 ? 2 : 0) + (is_last ? 5 : 0);
    if (writer->block == NULL && end_size > 0) {
        pyl_http_write_static(writer->connection, end, end_size);
        return 0;
    }
    return end_size > 0 ? writer_copy(writer, end, end_size) : 0;
}

/* Content behind the head, framed as the head says. Takes `block` (may be NULL). */
static int
write_content(struct pyl_http_request *request, struct pyl_http_block *block, PyObject *bytes,
              bool is_last)
{
    struct writer writer = {request->connection, block};
    int rc = 0;
    switch (request->response.framing) {
    case PYL_HTTP1_NO_CONTENT:
        break;
    case PYL_HTTP1_CHUNKED:
        rc = write_chunk(&writer, bytes, is_last);
        break;
    case PYL_HTTP1_LENGTH:
        request->response.remaining -= (uint64_t)PyBytes_GET_SIZE(bytes);
        rc = PyBytes_GET_SIZE(bytes) > 0 ? writer_bytes(&writer, bytes) : 0;
        break;
    default:
        rc = PyBytes_GET_SIZE(bytes) > 0 ? writer_bytes(&writer, bytes) : 0;
        break;
    }
    writer_queue(&writer);
    if (rc < 0) { /* half a message is out: nothing sensible can follow */
        pyl_http_connection_abort(request->connection);
    }
    return rc;
}

/* Completes a held head. content_size as in pyl_http1_response_end_head(). */
static struct pyl_http_block *
finish_head(struct pyl_http_request *request, int64_t content_size)
{
    struct pyl_http_block *block = request->block;
    struct pyl_http1_response *response = &request->response;
    struct pyl_http_server *server = request->server;
    size_t size;

    if (server->is_draining) {
        response->is_keep_alive = false;
    }
    const uint8_t *defaults =
        pyl_http_server_defaults(server, !response->has_date, !response->has_server, &size);
    uint8_t *out = block->data + block->size;
    uint8_t *end = pyl_http1_response_end_head(response, content_size, defaults, size, out);
    block->size += (uint32_t)(end - out);
    request->block = NULL;
    request->progress = PYL_HTTP_RESPONSE_OPEN;
    return block;
}

/* ---- http.response.start ---- */

static int
raise_type(const char *what, PyObject *got)
{
    PyErr_Format(PyExc_TypeError, "%s, not %.100s", what, Py_TYPE(got)->tp_name);
    return -1;
}

/* The fields as a list or tuple of pairs. New reference or NULL. */
static PyObject *
get_fields(PyObject *headers)
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
        return raise_type("each header must be a tuple or list of name and value", pair);
    }
    if (count != 2) {
        PyErr_SetString(PyExc_ValueError, "each header must have a name and a value");
        return -1;
    }
    if (!PyBytes_Check(items[0])) {
        return raise_type("header names must be bytes", items[0]);
    }
    if (!PyBytes_Check(items[1])) {
        return raise_type("header values must be bytes", items[1]);
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

static int
get_status(PyObject *status, long *ret_status)
{
    if (status == NULL) {
        PyErr_SetString(PyExc_ValueError, "'http.response.start' without 'status'");
        return -1;
    }
    if (!PyLong_Check(status)) {
        return raise_type("status must be an int", status);
    }
    int overflow = 0;
    *ret_status = PyLong_AsLongAndOverflow(status, &overflow);
    if (*ret_status < 200 || *ret_status > 999 || overflow != 0) {
        PyErr_Format(PyExc_ValueError, "%R is not the status of a response", status);
        return -1;
    }
    return 0;
}

static int
start_with_fields(struct pyl_http_request *request, long status, PyObject *fields)
{
    struct pyl_http1_response response;
    Py_ssize_t size = measure_head(request->server, fields);
    if (size < 0) {
        return -1;
    }
    struct pyl_http_block *block = pyl_http_block_take(request->server, (size_t)size);
    if (block == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    pyl_http1_response_begin(&response, request->minor_version, request->method == HTTP_HEAD,
                             may_keep_alive(request));
    uint8_t *end = pyl_http1_response_status(&response, status, block->data);
    block->size = (uint32_t)(end - block->data);
    if (write_fields(&response, fields, block) < 0) {
        pyl_http_block_give(request->server, block);
        return -1;
    }
    request->response = response;
    request->block = block;
    request->progress = PYL_HTTP_RESPONSE_HELD;
    if (!request->is_stepping) {
        pyl_http_send_queue_flush(request);
    }
    return 0;
}

static int
send_start(struct pyl_http_request *request, const struct message *message)
{
    long status;
    if (request->progress != PYL_HTTP_RESPONSE_IDLE) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Unexpected ASGI message 'http.response.start': the response has started");
        return -1;
    }
    if (get_status(message->status, &status) < 0) {
        return -1;
    }
    PyObject *fields = get_fields(message->headers);
    if (fields == NULL) {
        return -1;
    }
    int rc = -1;
    if (request->progress != PYL_HTTP_RESPONSE_IDLE || request->connection == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "send() was called inside send()");
    } else {
        rc = start_with_fields(request, status, fields);
    }
    Py_DECREF(fields);
    return rc;
}

/* ---- the head alone ---- */

void
pyl_http_send_queue_flush(struct pyl_http_request *request)
{
    if (!request->is_flush_queued) {
        request->is_flush_queued = true;
        Py_INCREF(request);
        pyl_worker_defer(request->server->loop->worker, &request->flush_job);
    }
}

void
pyl_http_send_run_flush(struct pyl_job *job)
{
    struct pyl_http_request *request = PYL_CONTAINER_OF(job, struct pyl_http_request, flush_job);
    request->is_flush_queued = false;
    if (request->progress == PYL_HTTP_RESPONSE_HELD && request->connection != NULL) {
        pyl_http_write_block(request->connection, finish_head(request, -1));
    }
    Py_DECREF(request);
}

void
pyl_http_send_discard_head(struct pyl_http_request *request)
{
    if (request->block != NULL) {
        pyl_http_block_give(request->server, request->block);
        request->block = NULL;
    }
}

void
pyl_http_send_error(struct pyl_http_request *request, unsigned status, const char *text)
{
    struct pyl_http_connection *connection = request->connection;
    struct pyl_http_server *server = request->server;
    pyl_http_send_discard_head(request);
    struct pyl_http_block *block = pyl_http_block_take(server, PYL_HTTP_BLOCK_SIZE);
    if (block == NULL) {
        pyl_http_connection_abort(connection);
        return;
    }
    size_t size;
    const uint8_t *defaults = pyl_http_server_defaults(server, true, true, &size);
    uint8_t *end = pyl_http1_write_error(block->data, status, text, request->method == HTTP_HEAD,
                                         defaults, size);
    block->size = (uint32_t)(end - block->data);
    pyl_http1_response_begin(&request->response, request->minor_version, false, false);
    request->response.status = (uint16_t)status;
    request->progress = PYL_HTTP_RESPONSE_COMPLETE;
    pyl_http_write_block(connection, block);
    pyl_http_connection_respond_done(connection);
}

/* ---- http.response.body ---- */

/* The content as exact bytes; memory that can change is copied. New reference or NULL. */
static PyObject *
get_body(struct pyl_state *state, PyObject *body)
{
    if (body == NULL) {
        return Py_NewRef(state->http.empty_bytes);
    }
    if (PyBytes_CheckExact(body)) {
        return Py_NewRef(body);
    }
    if (!PyObject_CheckBuffer(body)) {
        (void)raise_type("body must be bytes", body);
        return NULL;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(body, &view, PyBUF_FULL_RO) < 0) {
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, view.len);
    if (bytes != NULL &&
        PyBuffer_ToContiguous(PyBytes_AS_STRING(bytes), &view, view.len, 'C') < 0) {
        Py_CLEAR(bytes);
    }
    PyBuffer_Release(&view);
    return bytes;
}

static int
get_more(PyObject *more)
{
    if (more == NULL || more == Py_False) {
        return 0;
    }
    Py_INCREF(more);
    int is_true = PyObject_IsTrue(more);
    Py_DECREF(more);
    return is_true;
}

/* The application's content-length is a promise. 0, or -1 with RuntimeError. */
static int
check_length(struct pyl_http_request *request, size_t size, bool is_last)
{
    const struct pyl_http1_response *response = &request->response;
    uint64_t owed;
    if (request->progress == PYL_HTTP_RESPONSE_HELD) {
        if (!response->has_content_length || pyl_http1_response_is_bodiless(response)) {
            return 0;
        }
        owed = response->content_length;
    } else if (response->framing == PYL_HTTP1_LENGTH) {
        owed = response->remaining;
    } else {
        return 0;
    }
    if (size > owed) {
        PyErr_SetString(PyExc_RuntimeError, "Response content longer than Content-Length");
        return -1;
    }
    if (is_last && size < owed) {
        PyErr_SetString(PyExc_RuntimeError, "Response content shorter than Content-Length");
        return -1;
    }
    return 0;
}

static int
send_content(struct pyl_http_request *request, PyObject *bytes, bool is_last)
{
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    if (check_length(request, size, is_last) < 0) {
        if (request->progress == PYL_HTTP_RESPONSE_OPEN && is_last) {
            pyl_http_connection_truncate(request->connection);
        }
        return -1;
    }
    struct pyl_http_block *block = NULL;
    if (request->progress == PYL_HTTP_RESPONSE_HELD) {
        block = finish_head(request, is_last ? (int64_t)size : -1);
    }
    if (write_content(request, block, bytes, is_last) < 0) {
        return -1;
    }
    if (is_last && request->connection != NULL) {
        request->progress = PYL_HTTP_RESPONSE_COMPLETE;
        pyl_http_connection_respond_done(request->connection);
    }
    return 0;
}

static int
send_body(struct pyl_http_request *request, const struct message *message)
{
    struct pyl_state *state = request->server->state;
    if (request->progress == PYL_HTTP_RESPONSE_IDLE) {
        PyErr_SetString(PyExc_RuntimeError, "Expected ASGI message 'http.response.start', "
                                            "but got 'http.response.body'");
        return -1;
    }
    PyObject *more = Py_XNewRef(message->more_body); /* taking the body may run code */
    PyObject *bytes = get_body(state, message->body);
    int is_more = bytes != NULL ? get_more(more) : -1;
    Py_XDECREF(more);
    int rc = is_more < 0 ? -1 : 0;
    /* That code may have sent something itself. */
    if (rc == 0 && request->progress == PYL_HTTP_RESPONSE_COMPLETE) {
        PyErr_SetString(PyExc_RuntimeError, "send() was called inside send()");
        rc = -1;
    } else if (rc == 0 && request->connection != NULL) {
        rc = send_content(request, bytes, is_more == 0);
    }
    Py_XDECREF(bytes);
    return rc;
}

/* ---- the call ---- */

static int
raise_disconnected(struct pyl_http_request *request)
{
    PyErr_SetString((PyObject *)request->server->state->http_disconnected_type,
                    "the client has disconnected");
    return -1;
}

int
pyl_http_send_check(struct pyl_http_request *request)
{
    if (request->is_disconnected) {
        return request->progress == PYL_HTTP_RESPONSE_COMPLETE ? 0 : raise_disconnected(request);
    }
    if (request->connection == NULL) {
        return 0;
    }
    return pyl_stream_queued_size(&request->connection->stream) > PYL_HTTP_WRITE_LOW ? 1 : 0;
}

static bool
text_equals(PyObject *text, const char *expected, Py_ssize_t size)
{
    return PyUnicode_IS_COMPACT_ASCII(text) && PyUnicode_GET_LENGTH(text) == size &&
           memcmp(PyUnicode_1BYTE_DATA(text), expected, (size_t)size) == 0;
}

static int
dispatch(struct pyl_http_request *request, PyObject *dict)
{
    struct message message;
    if (!PyDict_Check(dict)) {
        return raise_type("an ASGI message must be a dict", dict);
    }
    if (read_message(request->server->state, dict, &message) < 0) {
        return -1;
    }
    PyObject *type = message.type;
    if (type == NULL || !PyUnicode_Check(type)) {
        PyErr_SetString(PyExc_ValueError, "an ASGI message must have a 'type'");
        return -1;
    }
    if (request->progress == PYL_HTTP_RESPONSE_COMPLETE) {
        PyErr_Format(PyExc_RuntimeError,
                     "Unexpected ASGI message %R, after response already completed", type);
        return -1;
    }
    if (request->connection == NULL) {
        return raise_disconnected(request);
    }
    if (text_equals(type, "http.response.body", 18)) {
        return send_body(request, &message);
    }
    if (text_equals(type, "http.response.start", 19)) {
        return send_start(request, &message);
    }
    if (text_equals(type, "http.response.debug", 19)) {
        return 0; /* for test clients; servers ignore it */
    }
    PyErr_Format(PyExc_RuntimeError, "Unexpected ASGI message %R", type);
    return -1;
}

PyObject *
pyl_http_send_call(PyObject *self, PyObject *const *args, size_t count, PyObject *names)
{
    struct pyl_http_request *request = ((struct pyl_http_call *)(void *)self)->request;
    if (PyVectorcall_NARGS(count) != 1 || (names != NULL && PyTuple_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "send() takes one argument, the message");
        return NULL;
    }
    if (pyl_http_request_check_thread(request) < 0 || dispatch(request, args[0]) < 0) {
        return NULL;
    }
    struct pyl_http_connection *connection = request->connection;
    if (connection != NULL && pyl_stream_queued_size(&connection->stream) > PYL_HTTP_WRITE_HIGH) {
        pyl_stream_flush(&connection->stream);
        if (pyl_stream_queued_size(&connection->stream) > PYL_HTTP_WRITE_HIGH) {
            return pyl_http_wait_new(request, false);
        }
    }
    return pyl_done_awaitable(request->server->state);
}
