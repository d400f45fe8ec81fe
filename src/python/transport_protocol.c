/*
 * transport_protocol.c - from the stream to the protocol: data, end of file, errors, the end.
 *
 * Everything here is called from the reactor's dispatch or from a job of the loop, never from
 * inside a call of the user's. Each call to the protocol is made in the transport's context. An
 * exception of the protocol ends the connection; KeyboardInterrupt and SystemExit leave run_forever
 * instead.
 */
#include "python/transport.h"

#include "python/reader.h"

#include <string.h>

static struct pyl_transport *
transport_of(struct pyl_stream *stream)
{
    return PYL_CONTAINER_OF(stream, struct pyl_transport, stream);
}

void
pyl_transport_log_debug(struct pyl_transport *transport, const char *text)
{
    PyObject *result = PyObject_CallMethod(transport->state->asyncio_logger, "debug", "sO", text,
                                           (PyObject *)transport);
    if (result == NULL) {
        pyl_loop_report(transport->loop, "logging failed", "transport", (PyObject *)transport);
    }
    Py_XDECREF(result);
}

void
pyl_transport_report(struct pyl_transport *transport, const char *message, PyObject *exception)
{
    struct pyl_strings *str = &transport->state->str;
    PyObject *protocol = transport->protocol != NULL ? transport->protocol : Py_None;
    PyObject *context = PyDict_New();
    PyObject *text = PyUnicode_FromString(message);
    PyObject *result = NULL;
    if (context != NULL && text != NULL && PyDict_SetItem(context, str->message, text) == 0 &&
        PyDict_SetItem(context, str->exception, exception) == 0 &&
        PyDict_SetItem(context, str->transport, (PyObject *)transport) == 0 &&
        PyDict_SetItem(context, str->protocol, protocol) == 0) {
        result = PyObject_CallMethodOneArg((PyObject *)transport->loop, str->call_exception_handler,
                                           context);
    }
    Py_XDECREF(text);
    Py_XDECREF(context);
    Py_DECREF(exception);
    if (result == NULL) {
        pyl_loop_report(transport->loop, "Exception in the exception handler", NULL, NULL);
    }
    Py_XDECREF(result);
}

/* KeyboardInterrupt and SystemExit are not the protocol's error: whoever runs the loop gets them.
 */
static bool
passes_through(struct pyl_transport *transport, const char *message)
{
    if (!PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) &&
        !PyErr_ExceptionMatches(PyExc_SystemExit)) {
        return false;
    }
    pyl_loop_report(transport->loop, message, "transport", (PyObject *)transport);
    return true;
}

void
pyl_transport_fatal_error(struct pyl_transport *transport, const char *message)
{
    if (passes_through(transport, message)) {
        return;
    }
    PyObject *exception = PyErr_GetRaisedException();
    if (!PyErr_GivenExceptionMatches(exception, PyExc_OSError)) {
        pyl_transport_report(transport, message, Py_NewRef(exception));
    } else if (transport->loop->is_debug) {
        pyl_transport_log_debug(transport, "%r: I/O failed");
    }
    pyl_transport_force_close(transport, exception);
    Py_DECREF(exception);
}

/* ---- calls in the context ---- */

static bool
enter(struct pyl_transport *transport)
{
    if (PyContext_Enter(transport->context) == 0) {
        return true;
    }
    pyl_transport_fatal_error(transport, "Fatal error: the transport's context is in use.");
    return false;
}

static void
leave(struct pyl_transport *transport)
{
    if (PyContext_Exit(transport->context) < 0) {
        pyl_loop_report(transport->loop, "Fatal error: the context was changed", "transport",
                        (PyObject *)transport);
    }
}

/* The method may replace the protocol and with it the cached method: hold it while it runs. `self`:
 * NULL, or what a function without a self of its own is called with first, held as well. */
static inline PyObject *
call_held(struct pyl_transport *transport, PyObject *method, PyObject *self, PyObject *argument)
{
    PyObject *arguments[] = {self, argument};
    Py_XINCREF(self);
    Py_INCREF(method);
    int64_t start_ns = pyl_loop_slow_start(transport->loop);
    PyObject *result = self != NULL ? PyObject_Vectorcall(method, arguments, 2, NULL)
                                    : PyObject_CallOneArg(method, argument);
    if (PYL_UNLIKELY(start_ns != 0)) {
        pyl_loop_slow_end(transport->loop, start_ns, method);
    }
    Py_DECREF(method);
    Py_XDECREF(self);
    return result;
}

/* Nothing may be delivered any more. */
static inline bool
is_deaf(const struct pyl_transport *transport)
{
    return transport->is_losing || transport->is_detached || transport->protocol == NULL;
}

/* ---- plain protocols ---- */

/* A bound method is an object for every connection; its function is one for all of them, and so a
 * reference count that the threads of a free-threaded build would fight for. */
static void
find_read_method(struct pyl_transport *transport, PyObject *name)
{
    PyObject *method = PyObject_GetAttr(transport->protocol, name);
    transport->is_read_unbound = !PYL_FREE_THREADED && method != NULL && PyMethod_Check(method) &&
                                 PyMethod_GET_SELF(method) == transport->protocol;
    if (transport->is_read_unbound) {
        Py_SETREF(method, Py_NewRef(PyMethod_GET_FUNCTION(method)));
    }
    transport->read_method = method;
}

/* Calls data_received or buffer_updated. NULL with an exception. */
static inline PyObject *
call_read_method(struct pyl_transport *transport, PyObject *name, PyObject *argument)
{
    if (PYL_UNLIKELY(transport->read_method == NULL)) {
        find_read_method(transport, name);
        if (transport->read_method == NULL) {
            return NULL;
        }
    }
    PyObject *self = transport->is_read_unbound ? transport->protocol : NULL;
    return call_held(transport, transport->read_method, self, argument);
}

/* Calls nothing of the user's, so no context is needed. */
static void
feed_reader(struct pyl_transport *transport, const uint8_t *data, size_t size)
{
    if (pyl_reader_protocol_feed(transport->protocol, data, size) < 0) {
        pyl_transport_fatal_error(transport, "Fatal error: protocol.data_received() call failed.");
    }
}

static void
on_data(struct pyl_stream *stream, const uint8_t *data, size_t size)
{
    struct pyl_transport *transport = transport_of(stream);
    if (transport->feeds_reader) {
        if (PYL_LIKELY(!is_deaf(transport))) {
            feed_reader(transport, data, size);
        }
        return;
    }
    if (PYL_UNLIKELY(is_deaf(transport)) || PYL_UNLIKELY(!enter(transport))) {
        return;
    }
    PyObject *result = NULL;
    struct pyl_loop *loop = transport->loop;
    PyObject *bytes = pyl_bytes_pool_make(&loop->bytes_pool, data, size);
    if (bytes != NULL) {
        result = call_read_method(transport, transport->state->str.data_received, bytes);
    }
    if (PYL_LIKELY(bytes != NULL)) {
        pyl_bytes_pool_release(&loop->bytes_pool, bytes);
    }
    if (PYL_LIKELY(result != NULL)) {
        Py_DECREF(result);
    } else {
        pyl_transport_fatal_error(transport, "Fatal error: protocol.data_received() call failed.");
    }
    leave(transport);
}

/* ---- buffered protocols ---- */

/* protocol.get_buffer(-1), looked up each time as asyncio does: a bound method for every connection
 * would be its largest object beside the transport. */
static PyObject *
call_get_buffer(struct pyl_transport *transport)
{
    PyObject *name = transport->state->str.get_buffer;
    PyObject *hint = PyLong_FromLong(-1);
    PyObject *buffer = NULL;
    if (hint != NULL && PYL_LIKELY(!transport->loop->is_debug)) {
        PyObject *protocol = Py_NewRef(transport->protocol); /* the call may replace it */
        buffer = PyObject_CallMethodOneArg(protocol, name, hint);
        Py_DECREF(protocol);
    } else if (hint != NULL) {
        PyObject *method = PyObject_GetAttr(transport->protocol, name);
        buffer = method != NULL ? call_held(transport, method, NULL, hint) : NULL;
        Py_XDECREF(method);
    }
    Py_XDECREF(hint);
    return buffer;
}

/* The protocol's memory for the next read, exported until it is filled. */
static int
borrow_view(struct pyl_transport *transport)
{
    PyObject *buffer = call_get_buffer(transport);
    if (buffer == NULL) {
        return -1;
    }
    Py_buffer *view = PyMem_Malloc(sizeof(*view));
    if (view == NULL) {
        Py_DECREF(buffer);
        PyErr_NoMemory();
        return -1;
    }
    int status = PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE);
    Py_DECREF(buffer);
    if (status < 0) {
        PyMem_Free(view);
        return -1;
    }
    transport->view = view;
    if (view->len == 0) {
        pyl_transport_return_view(transport);
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        return -1;
    }
    return 0;
}

static void *
get_buffer(struct pyl_stream *stream, size_t *ret_size)
{
    struct pyl_transport *transport = transport_of(stream);
    *ret_size = 0;
    if (PYL_UNLIKELY(is_deaf(transport)) || PYL_UNLIKELY(!enter(transport))) {
        return NULL;
    }
    pyl_transport_return_view(transport); /* of a read that found nothing */
    void *memory = NULL;
    if (PYL_LIKELY(borrow_view(transport) == 0)) {
        memory = transport->view->buf;
        *ret_size = (size_t)transport->view->len;
    } else if (PyErr_Occurred()) {
        pyl_transport_fatal_error(transport, "Fatal error: protocol.get_buffer() call failed.");
    }
    leave(transport);
    return memory;
}

static void
on_buffer_filled(struct pyl_stream *stream, size_t size)
{
    struct pyl_transport *transport = transport_of(stream);
    pyl_transport_return_view(transport);
    if (PYL_UNLIKELY(is_deaf(transport)) || PYL_UNLIKELY(!enter(transport))) {
        return;
    }
    PyObject *result = NULL;
    PyObject *count = PyLong_FromSize_t(size);
    if (count != NULL) {
        result = call_read_method(transport, transport->state->str.buffer_updated, count);
    }
    Py_XDECREF(count);
    if (PYL_LIKELY(result != NULL)) {
        Py_DECREF(result);
    } else {
        pyl_transport_fatal_error(transport, "Fatal error: protocol.buffer_updated() call failed.");
    }
    leave(transport);
}

/* ---- end of file, errors, progress ---- */

static void
on_eof(struct pyl_stream *stream)
{
    struct pyl_transport *transport = transport_of(stream);
    pyl_transport_return_view(transport);
    if (is_deaf(transport) || !enter(transport)) {
        return;
    }
    if (transport->loop->is_debug) {
        pyl_transport_log_debug(transport, "%r received EOF");
    }
    PyObject *result =
        PyObject_CallMethodNoArgs(transport->protocol, transport->state->str.eof_received);
    int keeps_open = result == NULL ? -1 : PyObject_IsTrue(result);
    Py_XDECREF(result);
    if (keeps_open < 0) {
        pyl_transport_fatal_error(transport, "Fatal error: protocol.eof_received() call failed.");
    } else if (keeps_open == 0) {
        pyl_transport_close(transport);
    }
    leave(transport);
}

static void
on_error(struct pyl_stream *stream, int error)
{
    struct pyl_transport *transport = transport_of(stream);
    pyl_transport_return_view(transport);
    if (is_deaf(transport)) {
        return;
    }
    PyObject *exception = pyl_make_oserror(error, NULL);
    if (exception == NULL) {
        exception = PyErr_GetRaisedException();
    } else if (transport->loop->is_debug) {
        pyl_transport_log_debug(transport, "%r: Fatal error on socket transport");
    }
    pyl_transport_settle_waiter(transport, exception);
    pyl_transport_force_close(transport, exception);
    Py_DECREF(exception);
}

static void
on_progress(struct pyl_stream *stream)
{
    struct pyl_transport *transport = transport_of(stream);
    if (transport->is_protocol_paused || transport->empty_waiter != NULL) {
        if (!transport->is_detached && enter(transport)) {
            pyl_transport_after_progress(transport);
            leave(transport);
        }
    }
}

static void
release(struct pyl_stream *stream, void *owner)
{
    struct pyl_loop *loop = transport_of(stream)->loop;
    if (PYL_LIKELY(loop != NULL && loop->is_worker_open)) {
        pyl_bytes_pool_release(&loop->bytes_pool, owner);
    } else {
        Py_DECREF((PyObject *)owner);
    }
}

/* ---- the end ---- */

static void
call_connection_lost(struct pyl_transport *transport)
{
    PyObject *error = transport->error != NULL ? transport->error : Py_None;
    PyObject *result = PyObject_CallMethodOneArg(transport->protocol,
                                                 transport->state->str.connection_lost, error);
    if (result == NULL && !passes_through(transport, "Exception in connection_lost()")) {
        pyl_transport_report(transport, "Exception in callback protocol.connection_lost()",
                             PyErr_GetRaisedException());
    }
    Py_XDECREF(result);
}

/* Who waits for the queue to be sent (sendfile) must not wait for ever. */
static void
fail_empty_waiter(struct pyl_transport *transport)
{
    if (transport->empty_waiter == NULL) {
        return;
    }
    PyObject *exception =
        PyObject_CallFunction(PyExc_ConnectionError, "s", "Connection is closed by peer");
    if (exception == NULL) {
        pyl_loop_report(transport->loop, "Exception in sendfile", NULL, NULL);
        return;
    }
    pyl_transport_settle_waiter(transport, exception);
    Py_DECREF(exception);
}

void
pyl_transport_lose(struct pyl_transport *transport)
{
    if (transport->is_lost || transport->is_detached) {
        return;
    }
    transport->is_closing = true;
    transport->is_losing = true;
    if (enter(transport)) {
        call_connection_lost(transport);
        fail_empty_waiter(transport);
        leave(transport);
    }
    transport->is_lost = true;
    pyl_transport_let_go(transport);
}

static void
on_lost(struct pyl_stream *stream)
{
    struct pyl_transport *transport = transport_of(stream);
    if (transport->is_start_queued) {
        transport->is_lost_due = true; /* connection_made comes first; start_job goes on */
    } else {
        pyl_transport_lose(transport);
    }
}

static void
on_closed(struct pyl_stream *stream)
{
    struct pyl_transport *transport = transport_of(stream);
    if (!transport->is_detached) {
        pyl_transport_end(transport);
    }
}

const struct pyl_stream_ops pyl_transport_stream_ops = {
    .on_data = on_data,
    .get_buffer = get_buffer,
    .on_buffer_filled = on_buffer_filled,
    .on_eof = on_eof,
    .on_error = on_error,
    .on_progress = on_progress,
    .on_lost = on_lost,
    .on_closed = on_closed,
    .release = release,
};
