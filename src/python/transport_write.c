/*
 * transport_write.c - write, write_eof and flow control of a StreamTransport.
 *
 * Writes are collected and leave in one send at the end of the turn, where asyncio sends each at
 * once. What a program can see of the difference is evened out: the queue is sent before the
 * protocol is told to pause, before its size is told, before an abort, and at once when no turn is
 * running.
 */
#include "python/transport.h"

#include <errno.h>
#include <math.h>
#include <string.h>

/* ---- flow control ---- */

/* The protocol's own error while it is told to pause or resume is reported, no more.
 * Returns -1 with KeyboardInterrupt or SystemExit set, which the caller lets through. */
static int
tell_protocol(struct pyl_transport *transport, PyObject *method, const char *failed)
{
    PyObject *result = PyObject_CallMethodNoArgs(transport->protocol, method);
    if (result != NULL) {
        Py_DECREF(result);
        return 0;
    }
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) ||
        PyErr_ExceptionMatches(PyExc_SystemExit)) {
        return -1;
    }
    pyl_transport_report(transport, failed, PyErr_GetRaisedException());
    return 0;
}

static int
pause_protocol(struct pyl_transport *transport)
{
    if (transport->is_protocol_paused ||
        pyl_stream_queued_size(&transport->stream) <= transport->high_water ||
        transport->protocol == NULL) {
        return 0;
    }
    transport->is_protocol_paused = true;
    return tell_protocol(transport, transport->state->str.pause_writing,
                         "protocol.pause_writing() failed");
}

void
pyl_transport_after_progress(struct pyl_transport *transport)
{
    if (transport->is_protocol_paused && transport->protocol != NULL &&
        pyl_stream_queued_size(&transport->stream) <= transport->low_water) {
        transport->is_protocol_paused = false;
        if (tell_protocol(transport, transport->state->str.resume_writing,
                          "protocol.resume_writing() failed") < 0) {
            pyl_loop_report(transport->loop, "resume_writing", NULL, NULL);
        }
    }
    if (transport->empty_waiter != NULL && pyl_stream_queued_size(&transport->stream) == 0) {
        pyl_transport_settle_waiter(transport, NULL);
    }
}

/* After something was queued. */
static int
after_write(struct pyl_transport *transport)
{
    bool has_turn = transport->loop->thread_id != 0;
    if (PYL_LIKELY(pyl_stream_queued_size(&transport->stream) <= transport->high_water) &&
        PYL_LIKELY(has_turn)) {
        return 0;
    }
    if (!transport->is_protocol_paused || !has_turn) {
        pyl_transport_flush(transport);
    }
    return pause_protocol(transport);
}

/* ---- write ---- */

static int
check_writable(struct pyl_transport *transport, const char *name)
{
    if (transport->has_sent_eof) {
        PyErr_Format(PyExc_RuntimeError, "Cannot call %s() after write_eof()", name);
        return -1;
    }
    if (transport->empty_waiter != NULL) {
        PyErr_Format(PyExc_RuntimeError, "unable to %s; sendfile is in progress", name);
        return -1;
    }
    return 0;
}

int
pyl_transport_count_lost(struct pyl_state *state, uint32_t *lost_writes)
{
    if (*lost_writes >= PYL_LOST_WRITES_BEFORE_WARNING) {
        PyObject *result = PyObject_CallMethod(state->asyncio_logger, "warning", "s",
                                               "socket.send() raised exception.");
        if (result == NULL) {
            return -1;
        }
        Py_DECREF(result);
    }
    (*lost_writes)++;
    return 0;
}

static int
drop_write(struct pyl_transport *transport)
{
    return pyl_transport_count_lost(transport->state, &transport->lost_writes);
}

/* Queues the bytes of `owner`, an exact bytes object. */
static int
queue_bytes(struct pyl_transport *transport, PyObject *owner)
{
    int rc = pyl_stream_write(&transport->stream, PyBytes_AS_STRING(owner),
                              (size_t)PyBytes_GET_SIZE(owner), Py_NewRef(owner));
    if (PYL_LIKELY(rc == 0)) {
        return 0;
    }
    Py_DECREF(owner);
    if (rc == -ENOMEM) {
        PyErr_NoMemory();
        return -1;
    }
    return drop_write(transport); /* sending has failed: on_error is on its way */
}

static inline bool
is_dropping(const struct pyl_transport *transport)
{
    return transport->is_losing || transport->is_detached;
}

/* bytearray, memoryview and subclasses of bytes: the caller may change them after write(). */
static int
write_copy(struct pyl_transport *transport, PyObject *data)
{
    PyObject *bytes =
        pyl_bytes_pool_copy(is_dropping(transport) ? NULL : &transport->loop->bytes_pool, data);
    if (bytes == NULL) {
        return -1;
    }
    int status = 0;
    if (PyBytes_GET_SIZE(bytes) != 0) {
        status = is_dropping(transport) ? drop_write(transport) : queue_bytes(transport, bytes);
    }
    Py_DECREF(bytes);
    return status;
}

static inline int
write_one(struct pyl_transport *transport, PyObject *data)
{
    if (PYL_UNLIKELY(!PyBytes_CheckExact(data))) {
        return write_copy(transport, data);
    }
    if (PyBytes_GET_SIZE(data) == 0) {
        return 0;
    }
    return PYL_UNLIKELY(is_dropping(transport)) ? drop_write(transport)
                                                : queue_bytes(transport, data);
}

int
pyl_transport_check_data(PyObject *data)
{
    if (PyBytes_Check(data) || PyByteArray_Check(data) || PyMemoryView_Check(data)) {
        return 0;
    }
    PyObject *name = PyType_GetName(Py_TYPE(data));
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError, "data argument must be a bytes-like object, not %R", name);
        Py_DECREF(name);
    }
    return -1;
}

/* The caller may change `data` as soon as write() has returned. */
static PyObject *
write_elsewhere(struct pyl_transport *transport, PyObject *data)
{
    PyObject *bytes = PyBytes_CheckExact(data) ? Py_NewRef(data) : PyBytes_FromObject(data);
    if (bytes == NULL) {
        return NULL;
    }
    PyObject *result = pyl_transport_post_home(transport, "write", bytes);
    Py_DECREF(bytes);
    return result;
}

PyObject *
pyl_transport_write(PyObject *self, PyObject *data)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    if (pyl_transport_check_data(data) < 0) {
        return NULL;
    }
    if (PYL_UNLIKELY(pyl_transport_is_elsewhere(transport))) {
        return write_elsewhere(transport, data);
    }
    if (PYL_UNLIKELY(transport->has_sent_eof || transport->empty_waiter != NULL) &&
        check_writable(transport, "write") < 0) {
        return NULL;
    }
    if (write_one(transport, data) < 0 ||
        (!transport->is_lost && !transport->is_detached && after_write(transport) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Every item is checked before the first is queued. */
static int
check_items(PyObject *items)
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(items);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(items, i);
        if (!PyObject_CheckBuffer(item)) {
            PyErr_Format(PyExc_TypeError,
                         "memoryview: a bytes-like object is required, not '%.200s'",
                         Py_TYPE(item)->tp_name);
            return -1;
        }
    }
    return 0;
}

PyObject *
pyl_transport_writelines(PyObject *self, PyObject *list)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    if (check_writable(transport, "writelines") < 0) {
        return NULL;
    }
    PyObject *items = PySequence_Fast(list, "writelines() argument must be iterable");
    if (items == NULL) {
        return NULL;
    }
    int status = check_items(items);
    if (status == 0 && PYL_UNLIKELY(pyl_transport_is_elsewhere(transport))) {
        PyObject *empty = PyBytes_FromStringAndSize(NULL, 0);
        PyObject *joined = empty != NULL ? PyObject_CallMethod(empty, "join", "O", items) : NULL;
        Py_XDECREF(empty);
        Py_DECREF(items);
        PyObject *result = joined != NULL ? write_elsewhere(transport, joined) : NULL;
        Py_XDECREF(joined);
        return result;
    }
    for (Py_ssize_t i = 0; status == 0 && i < PySequence_Fast_GET_SIZE(items); i++) {
        PyObject *item = Py_NewRef(PySequence_Fast_GET_ITEM(items, i));
        status = write_one(transport, item);
        Py_DECREF(item);
    }
    Py_DECREF(items);
    if (status < 0 ||
        (!transport->is_lost && !transport->is_detached && after_write(transport) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
pyl_transport_write_eof(PyObject *self, PyObject *unused)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    (void)unused;
    if (PYL_UNLIKELY(pyl_transport_is_elsewhere(transport))) {
        return pyl_transport_post_home(transport, "write_eof", NULL);
    }
    if (!transport->is_closing && !transport->has_sent_eof) {
        transport->has_sent_eof = true;
        if (!transport->is_detached) {
            pyl_stream_shutdown(&transport->stream);
            if (transport->loop->thread_id == 0) {
                pyl_transport_flush(transport);
            }
        }
    }
    Py_RETURN_NONE;
}

/* ---- limits ---- */

PyObject *
pyl_transport_get_write_buffer_size(PyObject *self, PyObject *unused)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    (void)unused;
    if (transport->is_lost || transport->is_detached) {
        return PyLong_FromLong(0);
    }
    pyl_transport_flush(transport);
    return PyLong_FromSize_t(pyl_stream_queued_size(&transport->stream));
}

PyObject *
pyl_transport_get_write_buffer_limits(PyObject *self, PyObject *unused)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    (void)unused;
    return Py_BuildValue("(nn)", (Py_ssize_t)transport->low_water,
                         (Py_ssize_t)transport->high_water);
}

static int
parse_limit(PyObject *value, Py_ssize_t *ret)
{
    if (value == NULL || value == Py_None) {
        return 0;
    }
    if (PyFloat_Check(value)) { /* math.inf means no limit */
        double limit = PyFloat_AS_DOUBLE(value);
        if (isnan(limit)) {
            PyErr_SetString(PyExc_ValueError, "a limit must not be NaN");
            return -1;
        }
        *ret = fabs(limit) < (double)PY_SSIZE_T_MAX ? (Py_ssize_t)limit
               : limit > 0                          ? PY_SSIZE_T_MAX
                                                    : PY_SSIZE_T_MIN;
        return 1;
    }
    *ret = PyNumber_AsSsize_t(value, NULL); /* clipped: no buffer is larger */
    return *ret == -1 && PyErr_Occurred() ? -1 : 1;
}

PyObject *
pyl_transport_set_write_buffer_limits(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"high", "low", NULL};
    struct pyl_transport *transport = (struct pyl_transport *)self;
    PyObject *high_value = NULL, *low_value = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:set_write_buffer_limits", names,
                                     &high_value, &low_value)) {
        return NULL;
    }
    Py_ssize_t high = PYL_HIGH_WATER, low = 0;
    int has_high = parse_limit(high_value, &high);
    int has_low = has_high < 0 ? -1 : parse_limit(low_value, &low);
    if (has_low < 0) {
        return NULL;
    }
    if (!has_high && has_low) {
        high = low > PY_SSIZE_T_MAX / 4 ? PY_SSIZE_T_MAX : 4 * low;
    }
    if (!has_low) {
        low = high / 4 - (high % 4 < 0 ? 1 : 0); /* rounds down, as Python does */
    }
    if (high < low || low < 0) {
        return PyErr_Format(PyExc_ValueError, "high (%zd) must be >= low (%zd) must be >= 0", high,
                            low);
    }
    transport->high_water = (size_t)high;
    transport->low_water = (size_t)low;
    if (!transport->is_lost && !transport->is_detached && pause_protocol(transport) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- sendfile: wait until the queue is in the kernel ---- */

void
pyl_transport_settle_waiter(struct pyl_transport *transport, PyObject *exception)
{
    PyObject *waiter = Py_XNewRef(transport->empty_waiter);
    if (waiter == NULL) {
        return;
    }
    PyObject *result = PyObject_CallMethod(waiter, "done", NULL);
    if (result == Py_False) { /* else: settled before, or cancelled */
        Py_DECREF(result);
        result = exception != NULL ? PyObject_CallMethod(waiter, "set_exception", "O", exception)
                                   : PyObject_CallMethod(waiter, "set_result", "O", Py_None);
    }
    if (result == NULL) {
        pyl_loop_report(transport->loop, "Exception in sendfile", NULL, NULL);
    }
    Py_XDECREF(result);
    Py_DECREF(waiter);
}

PyObject *
pyl_transport_make_empty_waiter(PyObject *self, PyObject *unused)
{
    struct pyl_transport *transport = (struct pyl_transport *)self;
    (void)unused;
    if (transport->empty_waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Empty waiter is already set");
        return NULL;
    }
    if (transport->is_lost || transport->is_detached) {
        PyErr_SetString(PyExc_RuntimeError, "Transport is closing");
        return NULL;
    }
    transport->empty_waiter =
        PyObject_CallMethod((PyObject *)transport->loop, "create_future", NULL);
    if (transport->empty_waiter == NULL) {
        return NULL;
    }
    PyObject *waiter = Py_NewRef(transport->empty_waiter);
    pyl_transport_flush(transport);
    if (pyl_stream_queued_size(&transport->stream) == 0) {
        pyl_transport_settle_waiter(transport, NULL);
    }
    return waiter;
}

PyObject *
pyl_transport_reset_empty_waiter(PyObject *self, PyObject *unused)
{
    (void)unused;
    Py_CLEAR(((struct pyl_transport *)self)->empty_waiter);
    Py_RETURN_NONE;
}
