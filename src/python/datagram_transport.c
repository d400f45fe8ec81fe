/*
 * datagram_transport.c - DatagramCore's work: each datagram received and sent.
 *
 * asyncio sends within sendto(); here the datagrams of a turn leave together at its end. What a
 * program can see of the difference is evened out as in transport_write.c: the queue is sent before
 * its size is told, before the protocol is told to pause, before closing, and at once when no turn
 * is running.
 */
#include "python/datagram.h"

#include "python/address.h"
#include "python/transport.h"

#include <errno.h>
#include <string.h>

static struct pyl_datagram *
datagram_of(struct pyl_datagram_socket *socket)
{
    return PYL_CONTAINER_OF(socket, struct pyl_datagram, socket);
}

/* ---- to the protocol ---- */

static bool
is_deaf(const struct pyl_datagram *datagram)
{
    return datagram->is_detached || datagram->lost_writes > 0 || datagram->protocol == NULL;
}

static void
report(struct pyl_datagram *datagram, const char *message)
{
    pyl_loop_report(datagram->loop, message, "transport", (PyObject *)datagram);
}

static bool
enter(struct pyl_datagram *datagram)
{
    if (PyContext_Enter(datagram->context) == 0) {
        return true;
    }
    report(datagram, "The datagram transport's context is in use");
    return false;
}

static void
leave(struct pyl_datagram *datagram)
{
    if (PyContext_Exit(datagram->context) < 0) {
        report(datagram, "The context was changed");
    }
}

/* The address as an object (new reference): the one made last if it is the same. */
static PyObject *
sender_object(struct pyl_datagram *datagram, const struct sockaddr *source, socklen_t size)
{
    struct pyl_known_address *known = &datagram->sender;
    if (size == 0) {
        Py_RETURN_NONE;
    }
    if (PYL_LIKELY(known->object != NULL && known->address.size == size &&
                   memcmp(&known->address.u, source, size) == 0)) {
        return Py_NewRef(known->object);
    }
    Py_CLEAR(known->object);
    int rc = pyl_sockaddr_copy(&known->address, source, size);
    if (rc < 0) {
        return pyl_raise_errno(rc);
    }
    known->object = pyl_address_to_python(&known->address);
    return Py_XNewRef(known->object);
}

static PyObject *
call_received(struct pyl_datagram *datagram, PyObject *bytes, PyObject *address)
{
    if (PYL_UNLIKELY(datagram->received_method == NULL)) {
        datagram->received_method =
            PyObject_GetAttr(datagram->protocol, datagram->state->str.datagram_received);
        if (datagram->received_method == NULL) {
            return NULL;
        }
    }
    /* The method may replace the protocol and with it the cached method. */
    PyObject *method = Py_NewRef(datagram->received_method);
    PyObject *args[] = {bytes, address};
    int64_t start_ns = pyl_loop_slow_start(datagram->loop);
    PyObject *result = PyObject_Vectorcall(method, args, 2, NULL);
    if (PYL_UNLIKELY(start_ns != 0)) {
        pyl_loop_slow_end(datagram->loop, start_ns, method);
    }
    Py_DECREF(method);
    return result;
}

static void
on_datagram(struct pyl_datagram_socket *socket, const uint8_t *data, size_t size,
            const struct sockaddr *source, socklen_t source_size)
{
    struct pyl_datagram *datagram = datagram_of(socket);
    if (is_deaf(datagram) || !enter(datagram)) {
        return;
    }
    struct pyl_bytes_pool *pool = &datagram->loop->bytes_pool;
    PyObject *address = sender_object(datagram, source, source_size);
    PyObject *bytes = address == NULL ? NULL : pyl_bytes_pool_make(pool, data, size);
    PyObject *result = bytes == NULL ? NULL : call_received(datagram, bytes, address);
    Py_XDECREF(address);
    if (bytes != NULL) {
        pyl_bytes_pool_release(pool, bytes);
    }
    if (result == NULL) {
        report(datagram, "Exception in callback protocol.datagram_received()");
    }
    Py_XDECREF(result);
    leave(datagram);
}

static void
call_error_received(struct pyl_datagram *datagram, int error)
{
    PyObject *exception = pyl_make_oserror(error, NULL);
    PyObject *result =
        exception == NULL ? NULL
                          : PyObject_CallMethodOneArg(
                                datagram->protocol, datagram->state->str.error_received, exception);
    Py_XDECREF(exception);
    if (result == NULL) {
        report(datagram, "Exception in callback protocol.error_received()");
    }
    Py_XDECREF(result);
}

static void
on_error(struct pyl_datagram_socket *socket, int error)
{
    struct pyl_datagram *datagram = datagram_of(socket);
    if (datagram->is_detached || datagram->protocol == NULL) {
        return;
    }
    if (datagram->is_user_call) {
        call_error_received(datagram, error);
    } else if (enter(datagram)) {
        call_error_received(datagram, error);
        leave(datagram);
    }
}

static void
on_progress(struct pyl_datagram_socket *socket)
{
    struct pyl_datagram *datagram = datagram_of(socket);
    if (datagram->is_detached || !enter(datagram)) {
        return;
    }
    PyObject *result = PyObject_CallMethodNoArgs((PyObject *)datagram, datagram->state->str._sent);
    if (result == NULL) {
        report(datagram, "Exception in a datagram transport");
    }
    Py_XDECREF(result);
    leave(datagram);
}

static void
on_closed(struct pyl_datagram_socket *socket)
{
    struct pyl_datagram *datagram = datagram_of(socket);
    if (!datagram->is_detached) {
        pyl_fd_table_end(&datagram->departed); /* may be the last reference */
    }
}

static void
release(struct pyl_datagram_socket *socket, void *owner)
{
    struct pyl_loop *loop = datagram_of(socket)->loop;
    if (PYL_LIKELY(loop != NULL && loop->is_worker_open)) {
        pyl_bytes_pool_release(&loop->bytes_pool, owner);
    } else {
        Py_DECREF((PyObject *)owner);
    }
}

const struct pyl_datagram_ops pyl_datagram_transport_ops = {
    .on_datagram = on_datagram,
    .on_error = on_error,
    .on_progress = on_progress,
    .on_closed = on_closed,
    .release = release,
};

/* ---- sendto ---- */

void
pyl_datagram_transport_flush(struct pyl_datagram *datagram)
{
    if (pyl_datagram_is_usable(datagram) && pyl_datagram_queued_size(&datagram->socket) > 0) {
        bool was_user_call = datagram->is_user_call;
        datagram->is_user_call = true;
        pyl_datagram_flush(&datagram->socket);
        datagram->is_user_call = was_user_call;
    }
}

/* The address in the kernel's form; NULL where only Python's socket module knows it. */
static const struct pyl_sockaddr *
receiver_address(struct pyl_datagram *datagram, PyObject *object)
{
    struct pyl_known_address *known = &datagram->receiver;
    if (object == datagram->sender.object) {
        return &datagram->sender.address;
    }
    if (object != known->object) {
        Py_CLEAR(known->object);
        if (!pyl_address_from_python(&known->address, datagram->family, object)) {
            return NULL;
        }
        known->object = Py_NewRef(object);
    }
    return &known->address;
}

/* After something was queued. */
static int
after_send(struct pyl_datagram *datagram)
{
    bool has_turn = datagram->loop->thread_id != 0;
    size_t high_water = (size_t)datagram->high_water;
    if (PYL_LIKELY(pyl_datagram_queued_size(&datagram->socket) <= high_water && has_turn)) {
        return 0;
    }
    pyl_datagram_transport_flush(datagram);
    if (pyl_datagram_queued_size(&datagram->socket) <= high_water) {
        return 0;
    }
    PyObject *result =
        PyObject_CallMethodNoArgs((PyObject *)datagram, datagram->state->str._maybe_pause_protocol);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* address NULL: to where the socket is connected. */
static int
queue_data(struct pyl_datagram *datagram, PyObject *data, const struct pyl_sockaddr *address)
{
    PyObject *bytes = PyBytes_CheckExact(data)
                          ? Py_NewRef(data)
                          : pyl_bytes_pool_copy(&datagram->loop->bytes_pool, data);
    if (bytes == NULL) {
        return -1;
    }
    int rc = pyl_datagram_send(&datagram->socket, PyBytes_AS_STRING(bytes),
                               (size_t)PyBytes_GET_SIZE(bytes), bytes, address);
    if (rc < 0) {
        Py_DECREF(bytes);
        (void)pyl_raise_errno(rc);
        return -1;
    }
    return after_send(datagram);
}

/* sendto(data, addr=None): asyncio's names. 0 or -1. */
static int
parse_sendto(PyObject *const *args, Py_ssize_t count, PyObject *names, PyObject *values[2])
{
    static const char *const known[] = {"data", "addr"};
    Py_ssize_t name_count = names != NULL ? PyTuple_GET_SIZE(names) : 0;
    if (count > 2) {
        PyErr_Format(PyExc_TypeError, "sendto() takes at most 2 arguments (%zd given)", count);
        return -1;
    }
    memcpy(values, args, (size_t)count * sizeof(*values));
    for (Py_ssize_t i = 0; i < name_count; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int place = PyUnicode_CompareWithASCIIString(name, known[0]) == 0   ? 0
                    : PyUnicode_CompareWithASCIIString(name, known[1]) == 0 ? 1
                                                                            : -1;
        if (place < 0 || place < count) {
            PyErr_Format(PyExc_TypeError,
                         place < 0 ? "sendto() got an unexpected keyword argument %R"
                                   : "sendto() got multiple values for argument %R",
                         name);
            return -1;
        }
        values[place] = args[count + i];
    }
    if (values[0] == NULL) {
        PyErr_SetString(PyExc_TypeError, "sendto() missing required argument 'data'");
        return -1;
    }
    return 0;
}

/* A transport with a remote address sends nowhere else. 0 or -1. */
static int
check_address(struct pyl_datagram *datagram, PyObject *address)
{
    PyObject *remote = datagram->remote_address;
    int is_same = address == Py_None || address == remote
                      ? 1
                      : PyObject_RichCompareBool(address, remote, Py_EQ);
    if (is_same == 0) {
        PyErr_Format(PyExc_ValueError, "Invalid address: must be None or %S", remote);
    }
    return is_same > 0 ? 0 : -1;
}

static PyObject *
send_checked(struct pyl_datagram *datagram, PyObject *data, PyObject *object)
{
    const struct pyl_sockaddr *address = NULL;
    if (!datagram->is_connected) {
        address = receiver_address(datagram, object);
        if (PYL_UNLIKELY(address == NULL)) {
            PyObject *args[] = {(PyObject *)datagram, data, object};
            return PyObject_VectorcallMethod(datagram->state->str._sendto_slow, args, 3, NULL);
        }
    }
    return queue_data(datagram, data, address) < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *
pyl_datagram_sendto(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct pyl_datagram *datagram = (struct pyl_datagram *)(void *)self;
    PyObject *values[2] = {NULL, Py_None};
    if (parse_sendto(args, count, names, values) < 0 || pyl_transport_check_data(values[0]) < 0) {
        return NULL;
    }
    if (!PYL_SENDS_EMPTY_DATAGRAMS) {
        Py_ssize_t size = PyObject_Size(values[0]);
        if (size <= 0) {
            return size < 0 ? NULL : Py_NewRef(Py_None);
        }
    }
    if (datagram->remote_address != NULL) {
        if (check_address(datagram, values[1]) < 0) {
            return NULL;
        }
        values[1] = datagram->remote_address;
    }
    if (!pyl_datagram_is_usable(datagram) ||
        (datagram->lost_writes > 0 && datagram->remote_address != NULL)) {
        return pyl_transport_count_lost(datagram->state, &datagram->lost_writes) < 0
                   ? NULL
                   : Py_NewRef(Py_None);
    }
    return send_checked(datagram, values[0], values[1]);
}

PyObject *
pyl_datagram_queue(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct pyl_datagram *datagram = (struct pyl_datagram *)(void *)self;
    struct pyl_sockaddr address;
    if (count != 2 || pyl_transport_check_data(args[0]) < 0) {
        return count == 2 ? NULL : PyErr_Format(PyExc_TypeError, "_queue(data, addr)");
    }
    if (!pyl_address_from_python(&address, datagram->family, args[1])) {
        return PyErr_Format(PyExc_TypeError, "not a numeric address: %R", args[1]);
    }
    if (!pyl_datagram_is_usable(datagram)) {
        Py_RETURN_NONE;
    }
    return queue_data(datagram, args[0], &address) < 0 ? NULL : Py_NewRef(Py_None);
}

void
pyl_datagram_detach(struct pyl_datagram *datagram)
{
    datagram->is_detached = true;
}
