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
        pyl_http_connection_abort(writer.connection);
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
check_start(const struct pyl_http_request *request)
{
    if (request->progress == PYL_HTTP_RESPONSE_IDLE) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError,
                    "Unexpected ASGI message 'http.response.start': the response has started");
    return -1;
}

static int
send_start(struct pyl_http_request *request, const struct message *message)
{
    long status;
    if (check_start(request) < 0 || pyl_http_head_status(message->status, &status) < 0) {
        return -1;
    }
    PyObject *fields = pyl_http_head_fields(message->headers);
    if (fields == NULL) {
        return -1;
    }
    int rc = -1;
    if (request->progress != PYL_HTTP_RESPONSE_IDLE || request->connection == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "send() was called inside send()");
    } else {
        rc = pyl_http_head_start(request, status, fields);
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
    if (request->connection != NULL) { /* else the peer is lost, and the stream knew it first */
        pyl_http_connection_respond_done(connection);
    }
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
        (void)pyl_http_raise_type("body must be bytes", body);
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

/* Can anything be sent? 0 or -1. */
static int
check_open(struct pyl_http_request *request, PyObject *type)
{
    if (request->progress == PYL_HTTP_RESPONSE_COMPLETE) {
        PyErr_Format(PyExc_RuntimeError,
                     "Unexpected ASGI message %R, after response already completed", type);
        return -1;
    }
    return request->connection == NULL ? raise_disconnected(request) : 0;
}

static int
dispatch(struct pyl_http_request *request, PyObject *dict)
{
    struct message message;
    if (!PyDict_Check(dict)) {
        return pyl_http_raise_type("an ASGI message must be a dict", dict);
    }
    if (read_message(request->server->state, dict, &message) < 0) {
        return -1;
    }
    PyObject *type = message.type;
    if (type == NULL || !PyUnicode_Check(type)) {
        PyErr_SetString(PyExc_ValueError, "an ASGI message must have a 'type'");
        return -1;
    }
    if (PYL_UNLIKELY(atomic_load_explicit(&request->has_remote_start, memory_order_relaxed))) {
        pyl_http_remote_claim(request);
    }
    if (check_open(request, type) < 0) {
        return -1;
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

int
pyl_http_send_message(struct pyl_http_request *request, PyObject *message)
{
    if (dispatch(request, message) < 0) {
        return -1;
    }
    struct pyl_http_connection *connection = request->connection;
    if (connection != NULL && pyl_stream_queued_size(&connection->stream) > PYL_HTTP_WRITE_HIGH) {
        pyl_stream_flush(&connection->stream);
        return pyl_stream_queued_size(&connection->stream) > PYL_HTTP_WRITE_HIGH ? 1 : 0;
    }
    return 0;
}

PyObject *
pyl_http_send_call(PyObject *self, PyObject *const *args, size_t count, PyObject *names)
{
    struct pyl_http_request *request = ((struct pyl_http_call *)(void *)self)->request;
    if (PyVectorcall_NARGS(count) != 1 || (names != NULL && PyTuple_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "send() takes one argument, the message");
        return NULL;
    }
    if (!pyl_http_request_is_here(request)) {
        return pyl_http_remote_call(request, args[0]);
    }
    int rc = pyl_http_send_message(request, args[0]);
    if (rc < 0) {
        return NULL;
    }
    return rc > 0 ? pyl_http_wait_new(request, false) : pyl_done_awaitable(request->server->state);
}

/* ---- for another thread ---- */

/* copy[key] = value; steals the value, which may be NULL. 0 or -1. */
static int
replace(PyObject *copy, PyObject *key, PyObject *value)
{
    int rc = value != NULL ? PyDict_SetItem(copy, key, value) : -1;
    Py_XDECREF(value);
    return rc;
}

/* What in the message can change, or runs code when it is asked. 0 or -1. */
static int
settle_values(struct pyl_state *state, PyObject *copy)
{
    struct message message;
    if (look_up_message(state, copy, &message) < 0) {
        return -1;
    }
    if (message.headers != NULL &&
        replace(copy, state->str.headers, pyl_http_head_copy_fields(message.headers)) < 0) {
        return -1;
    }
    if (message.body != NULL && !PyBytes_CheckExact(message.body) &&
        replace(copy, state->str.body, get_body(state, message.body)) < 0) {
        return -1;
    }
    if (message.more_body != NULL && !PyBool_Check(message.more_body)) {
        int is_more = get_more(message.more_body);
        return is_more < 0 ? -1 : replace(copy, state->str.more_body, PyBool_FromLong(is_more));
    }
    return 0;
}

bool
pyl_http_send_is_start(struct pyl_state *state, PyObject *message)
{
    PyObject *type =
        PyDict_Check(message) ? PyDict_GetItemWithError(message, state->str.type) : NULL;
    PyErr_Clear(); /* dispatch() meets it again */
    return type != NULL && PyUnicode_Check(type) && text_equals(type, "http.response.start", 19);
}

int
pyl_http_send_make_head(struct pyl_http_request *request, PyObject *message,
                        struct pyl_http_head *ret_head)
{
    struct message values;
    ret_head->block = NULL;
    if (look_up_message(request->server->state, message, &values) < 0) {
        return -1;
    }
    return pyl_http_head_make(request, values.status, values.headers, ret_head);
}

int
pyl_http_send_put_head(struct pyl_http_request *request, struct pyl_http_head *head)
{
    struct pyl_state *state = request->server->state;
    if (check_open(request, state->http.start_type) < 0 || check_start(request) < 0) {
        return -1;
    }
    pyl_http_head_hold(request, head);
    return 0;
}

PyObject *
pyl_http_send_copy_message(struct pyl_state *state, PyObject *message)
{
    if (!PyDict_Check(message)) {
        return Py_NewRef(message);
    }
    PyObject *copy = PyDict_Copy(message);
    if (copy != NULL && settle_values(state, copy) < 0) {
        Py_CLEAR(copy);
    }
    return copy;
}
