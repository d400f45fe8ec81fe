/*
 * http_receive.c - the application's receive(): content of the request, then http.disconnect.
 */
#include "python/http.h"

/* The next piece of content; more_body tells whether another will follow. */
static PyObject *
take_content(struct pyl_http_request *request)
{
    PyObject *body = request->piece;
    if (body != NULL) {
        request->piece = NULL;
    } else if (request->more_size > 0) {
        body =
            PyBytes_FromStringAndSize((const char *)request->more, (Py_ssize_t)request->more_size);
        if (body == NULL) {
            return NULL;
        }
        PyMem_RawFree(request->more);
        request->more = NULL;
        request->more_size = 0;
        request->more_capacity = 0;
    } else {
        body = Py_NewRef(request->server->state->http.empty_bytes);
    }
    return body;
}

bool
pyl_http_receive_is_over(const struct pyl_http_request *request)
{
    return atomic_load_explicit(&request->is_gone, memory_order_relaxed) ||
           (atomic_load_explicit(&request->has_peer_eof, memory_order_relaxed) &&
            atomic_load_explicit(&request->is_end_seen, memory_order_relaxed));
}

/* 1 or, for the last one, 2; -1. */
static int
make_request_event(struct pyl_http_request *request, PyObject **ret_message)
{
    struct pyl_state *state = request->server->state;
    PyObject *message = PyDict_Copy(state->http.request_event);
    PyObject *body = message != NULL ? take_content(request) : NULL;
    if (body == NULL) {
        Py_XDECREF(message);
        return -1;
    }
    bool is_last = request->is_content_complete && pyl_http_request_unread_size(request) == 0;
    int rc = 0;
    if (body != state->http.empty_bytes) {
        rc = PyDict_SetItem(message, state->str.body, body);
    }
    if (rc == 0 && !is_last) {
        rc = PyDict_SetItem(message, state->str.more_body, Py_True);
    }
    Py_DECREF(body);
    if (rc < 0) {
        Py_DECREF(message);
        return -1;
    }
    request->is_content_delivered = is_last;
    pyl_http_connection_update_reading(request->connection);
    *ret_message = message;
    return is_last ? 2 : 1;
}

int
pyl_http_receive_now(struct pyl_http_request *request, PyObject **ret_message)
{
    bool is_over = request->connection == NULL || request->is_disconnected ||
                   request->progress == PYL_HTTP_RESPONSE_COMPLETE;
    if (!is_over) {
        if (pyl_http_request_unread_size(request) > 0 ||
            (request->is_content_complete && !request->is_content_delivered)) {
            return make_request_event(request, ret_message);
        }
        if (!atomic_load_explicit(&request->has_peer_eof, memory_order_relaxed)) {
            return 0;
        }
    }
    *ret_message = PyDict_Copy(request->server->state->http.disconnect_event);
    return *ret_message != NULL ? 1 : -1;
}

/* ---- ahead of the application ---- */

/* Takes over the reference. */
static void
set_early(struct pyl_http_request *request, PyObject *message)
{
    Py_BEGIN_CRITICAL_SECTION(request);
    Py_XSETREF(request->early, message);
    Py_END_CRITICAL_SECTION();
    atomic_store_explicit(&request->has_early, true, memory_order_relaxed);
}

void
pyl_http_receive_early(struct pyl_http_request *request)
{
    PyObject *message;
    if (!request->is_content_complete) {
        return;
    }
    if (make_request_event(request, &message) < 0) {
        PyErr_Clear(); /* then it comes when it is asked for */
        return;
    }
    set_early(request, message);
}

PyObject *
pyl_http_receive_take_early(struct pyl_http_request *request)
{
    PyObject *message = NULL;
    if (atomic_load_explicit(&request->has_early, memory_order_relaxed)) {
        Py_BEGIN_CRITICAL_SECTION(request);
        message = request->early;
        request->early = NULL;
        Py_END_CRITICAL_SECTION();
        atomic_store_explicit(&request->has_early, false, memory_order_relaxed);
    }
    return message;
}

void
pyl_http_receive_give_back(struct pyl_http_request *request, PyObject *message, bool is_last)
{
    if (is_last) {
        atomic_store_explicit(&request->is_end_seen, false, memory_order_relaxed);
    }
    if (pyl_http_request_is_here(request)) {
        pyl_http_request_take_back(request, message);
    } else if (is_last) {
        set_early(request, Py_NewRef(message)); /* there is nothing behind it */
    }
}

/* ---- the call ---- */

/* The client waits for our consent; an application that asks for content gives it. */
static void
answer_expectation(struct pyl_http_request *request)
{
    static const char CONTINUE[] = "HTTP/1.1 100 Continue\r\n\r\n";
    request->is_continue_owed = false;
    if (!request->is_content_complete && request->progress == PYL_HTTP_RESPONSE_IDLE &&
        request->connection != NULL) {
        pyl_http_write_static(request->connection, CONTINUE, sizeof(CONTINUE) - 1);
    }
}

int
pyl_http_receive_begin(struct pyl_http_request *request, PyObject **ret_message)
{
    if (request->is_continue_owed) {
        answer_expectation(request);
    }
    return pyl_http_receive_now(request, ret_message);
}

PyObject *
pyl_http_receive_call(PyObject *self, PyObject *const *args, size_t count, PyObject *names)
{
    struct pyl_http_request *request = ((struct pyl_http_call *)(void *)self)->request;
    (void)args;
    if (PyVectorcall_NARGS(count) != 0 || (names != NULL && PyTuple_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "receive() takes no arguments");
        return NULL;
    }
    if (!pyl_http_request_is_here(request)) {
        return pyl_http_remote_call(request, NULL);
    }
    PyObject *message = pyl_http_receive_take_early(request);
    int rc = message != NULL ? 2 : pyl_http_receive_begin(request, &message);
    if (rc < 0) {
        return NULL;
    }
    if (rc == 0) {
        return pyl_http_wait_new(request, true);
    }
    if (rc == 2) {
        pyl_http_receive_note_end(request);
    }
    return pyl_http_ready(request, message, rc == 2);
}
