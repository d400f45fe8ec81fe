/*
 * transport.c - making and closing a StreamTransport.
 *
 * The type itself is in transport_type.c, calls to the protocol in transport_protocol.c.
 */
#include "python/transport.h"

#include "io/sockaddr.h"
#include "python/instance_dict.h"
#include "python/reader.h"

#include <string.h>

/* ---- protocol ---- */

int
pyl_transport_set_protocol(struct pyl_transport *transport, PyObject *protocol)
{
    int is_buffered = PyObject_IsInstance(protocol, transport->state->asyncio_buffered_protocol);
    if (is_buffered < 0) {
        return -1;
    }
    transport->is_buffered = is_buffered;
    transport->feeds_reader = pyl_reader_protocol_is_plain(transport->state, protocol);
    Py_XSETREF(transport->protocol, Py_NewRef(protocol));
    Py_CLEAR(transport->read_method);
    return 0;
}

/* ---- opening ---- */

void
pyl_transport_start_run(struct pyl_job *job)
{
    struct pyl_transport *transport = PYL_CONTAINER_OF(job, struct pyl_transport, start_job);
    transport->is_start_queued = false;
    if (transport->is_lost_due) {
        pyl_transport_lose(transport);
    } else if (!transport->is_closing && !transport->is_paused && !transport->is_detached) {
        pyl_stream_read_start(&transport->stream);
    }
    Py_DECREF(transport); /* the queue's */
}

static int
call_server(struct pyl_transport *transport, PyObject *method)
{
    PyObject *result =
        PYL_SERVER_KNOWS_TRANSPORTS
            ? PyObject_CallMethodOneArg(transport->server, method, (PyObject *)transport)
            : PyObject_CallMethodNoArgs(transport->server, method);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* server._detach(), in the server's own view: its count is no business of several threads. */
static int
detach_from_server(struct pyl_transport *transport)
{
    if (transport->loop == NULL || transport->loop->views == NULL) {
        return call_server(transport, transport->state->str._detach);
    }
    PyObject *home = PyObject_GetAttr(transport->server, transport->state->str._loop);
    struct pyl_loop *view = home != NULL ? pyl_loop_cast(transport->state, home) : NULL;
    int rc = 0;
    if (view != NULL && pyl_views_is_elsewhere(view)) {
        PyObject *self = (PyObject *)transport;
        PyObject *detach = PyObject_GetAttr(transport->server, transport->state->str._detach);
        PyObject *handle = detach != NULL ? pyl_loop_call_soon(view, detach, &self,
                                                               PYL_SERVER_KNOWS_TRANSPORTS, NULL)
                                          : NULL;
        if (handle == NULL && !pyl_loop_is_open(view)) {
            PyErr_Clear(); /* nobody waits for the server any more */
        } else {
            rc = handle != NULL ? 0 : -1;
        }
        Py_XDECREF(handle);
        Py_XDECREF(detach);
    } else {
        rc = home != NULL ? call_server(transport, transport->state->str._detach) : -1;
    }
    Py_XDECREF(home);
    return rc;
}

/* A close() of the user's own socket object must not close the fd under our ops: the socket module
 * counts such users. Other objects than its sockets have no such count. */
static int
hold_socket(struct pyl_transport *transport)
{
    PyObject *sock = transport->info->sock;
    int is_socket = PyObject_IsInstance(sock, transport->state->socket_class);
    if (is_socket <= 0) {
        return is_socket;
    }
    PyObject *count = PyObject_GetAttrString(sock, "_io_refs");
    PyObject *one = PyLong_FromLong(1);
    PyObject *sum = count == NULL || one == NULL ? NULL : PyNumber_Add(count, one);
    int status = sum == NULL ? -1 : PyObject_SetAttrString(sock, "_io_refs", sum);
    Py_XDECREF(count);
    Py_XDECREF(one);
    Py_XDECREF(sum);
    transport->has_io_ref = status == 0;
    return status;
}

/* Returns 0, or -1 with an exception. */
static int
take_peer(struct pyl_transport *transport)
{
    struct pyl_sockaddr address;
    if (pyl_socket_peer_address(transport->stream.fd, &address) < 0) {
        return 0;
    }
    if (address.u.any.sa_family == AF_INET) {
        transport->accepted_address = address.u.in.sin_addr;
        transport->accepted_port = address.u.in.sin_port;
    } else if (address.u.any.sa_family == AF_INET6) {
        struct pyl_transport_info *info = pyl_transport_need_info(transport);
        if (info == NULL) {
            return -1;
        }
        info->accepted_peer = address.u.in6;
    }
    return 0;
}

/* What can fail before the fd is in anybody's table. */
static int
prepare(struct pyl_transport *transport, PyObject *sock, const struct pyl_transport_args *args)
{
    transport->context = args->context != NULL ? Py_NewRef(args->context) : PyContext_CopyCurrent();
    if (transport->context == NULL || pyl_transport_set_protocol(transport, args->protocol) < 0) {
        return -1;
    }
    if ((args->extra != NULL || sock != NULL) && pyl_transport_need_info(transport) == NULL) {
        return -1;
    }
    if (args->extra != NULL) {
        transport->info->given = Py_NewRef(args->extra);
    }
    if (sock == NULL) {
        return take_peer(transport);
    }
    transport->info->sock = Py_NewRef(sock);
    (void)pyl_socket_set_nodelay(transport->stream.fd); /* not every stream socket is TCP */
    return pyl_transport_ask_names(transport) < 0 ? -1 : hold_socket(transport);
}

/* connection_made; then reading; then the waiter: in this order, as three calls of the loop. */
static int
schedule_start(struct pyl_transport *transport, PyObject *waiter)
{
    PyObject *made = PyObject_GetAttr(transport->protocol, transport->state->str.connection_made);
    if (made == NULL) {
        return -1;
    }
    PyObject *self = (PyObject *)transport;
    PyObject *handle = pyl_loop_call_soon(transport->loop, made, &self, 1, transport->context);
    Py_DECREF(made);
    if (handle == NULL) {
        return -1;
    }
    Py_DECREF(handle);
    transport->is_start_queued = true;
    pyl_worker_post(transport->loop->worker, &transport->start_job);
    Py_INCREF(transport);
    if (waiter == NULL) {
        return 0;
    }
    PyObject *args[] = {waiter, Py_None};
    handle = pyl_loop_call_soon(transport->loop, transport->state->set_result_unless_cancelled,
                                args, 2, transport->context);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

static int
attach(struct pyl_transport *transport, const struct pyl_transport_args *args)
{
    struct pyl_loop *loop = transport->loop;
    if (pyl_fd_table_add(&loop->fds, transport->stream.fd, (PyObject *)transport) < 0) {
        return -1;
    }
    pyl_stream_init(&transport->stream, loop->worker, transport->stream.fd,
                    pyl_transport_own_socket(transport) == NULL, &pyl_transport_stream_ops);
    pyl_stream_set_direct_read(&transport->stream, transport->is_buffered);
    transport->stream.is_tcp = args->is_tcp;
    transport->is_lost = false;
    transport->is_closed = false;
    if (args->server != NULL) {
        transport->is_guest = true;
        pyl_views_count_guest(loop, 1);
        transport->server = Py_NewRef(args->server);
        if (call_server(transport, transport->state->str._attach) < 0) {
            Py_CLEAR(transport->server);
            return -1;
        }
    }
    return schedule_start(transport, args->waiter);
}

/* The constructor failed: as if it had never been, but for a callback that may be queued. */
static void
abandon(struct pyl_transport *transport, PyObject *sock)
{
    PyObject *exception = PyErr_GetRaisedException();
    transport->is_closing = true;
    if (!transport->is_closed) {
        transport->is_lost = true;
        transport->is_closed = true;
        transport->is_detached = true;
        transport->stream.owns_fd = false;
        pyl_stream_dispose(&transport->stream);
        pyl_fd_table_remove(&transport->loop->fds, transport->stream.fd, (PyObject *)transport);
    }
    if (sock != NULL) { /* stays the caller's, open */
        if (transport->has_io_ref) {
            Py_XDECREF(PyObject_CallMethod(sock, "_decref_socketios", NULL));
            transport->has_io_ref = false;
        }
        if (transport->info != NULL) {
            Py_CLEAR(transport->info->sock);
        }
    }
    pyl_transport_let_go(transport);
    PyErr_SetRaisedException(exception);
}

PyObject *
pyl_transport_open(struct pyl_loop *loop, int fd, PyObject *sock,
                   const struct pyl_transport_args *args)
{
    if (pyl_loop_check_usable(loop) < 0) {
        return NULL;
    }
    PyTypeObject *type = loop->state->transport_type;
    struct pyl_transport *transport = (struct pyl_transport *)type->tp_alloc(type, 0);
    if (transport == NULL) {
        return NULL;
    }
    transport->state = loop->state;
    transport->dict = pyl_instance_dict_new(loop->state);
    transport->loop = (struct pyl_loop *)Py_NewRef((PyObject *)loop);
    transport->stream.fd = fd;
    transport->is_lost = true;
    transport->is_closed = true;
    transport->high_water = PYL_HIGH_WATER;
    transport->low_water = PYL_HIGH_WATER / 4;
    transport->start_job.run = pyl_transport_start_run;
    transport->stream.state = PYL_STREAM_CLOSED; /* until there is one */
    if (prepare(transport, sock, args) < 0 || attach(transport, args) < 0) {
        abandon(transport, sock);
        Py_DECREF(transport);
        return NULL;
    }
    return (PyObject *)transport;
}

/* ---- closing ---- */

void
pyl_transport_flush(struct pyl_transport *transport)
{
    if (pyl_stream_queued_size(&transport->stream) > 0) {
        pyl_stream_flush(&transport->stream);
        if (transport->stream.error != 0) {
            transport->is_closing = true; /* the protocol hears of it in a moment */
        }
    }
}

void
pyl_transport_close(struct pyl_transport *transport)
{
    if (transport->is_closing) {
        return;
    }
    if (transport->is_detached) {
        transport->is_closing = true;
        return;
    }
    if (!transport->is_protocol_paused) { /* else it may write more when told to resume */
        pyl_transport_flush(transport);   /* asyncio has sent it already */
        pyl_stream_forget_progress(&transport->stream);
        if (!transport->is_closing && pyl_stream_queued_size(&transport->stream) == 0) {
            transport->is_losing = true;
            transport->lost_writes++;
        }
    }
    transport->is_closing = true;
    pyl_stream_close(&transport->stream);
}

void
pyl_transport_force_close(struct pyl_transport *transport, PyObject *error)
{
    if (transport->is_losing || transport->is_lost) {
        return;
    }
    transport->is_closing = true;
    if (!transport->is_detached) {
        pyl_transport_flush(transport); /* asyncio has sent it already */
        if (transport->stream.error != 0 && error == NULL) {
            return; /* that is the reason of the loss, and on_error is on its way */
        }
    }
    transport->is_losing = true;
    transport->lost_writes++;
    Py_XSETREF(transport->error, Py_XNewRef(error));
    if (!transport->is_detached) {
        pyl_stream_abort(&transport->stream);
    }
}

PyObject *
pyl_transport_post_home(struct pyl_transport *transport, const char *method, PyObject *argument)
{
    struct pyl_loop *loop = transport->loop;
    PyObject *bound =
        loop != NULL ? PyObject_GetAttrString((PyObject *)transport, method) : Py_NewRef(Py_None);
    if (bound == NULL || loop == NULL) {
        return bound; /* without a loop it is lost: nothing would happen there */
    }
    PyObject *handle = pyl_loop_call_soon(loop, bound, &argument, argument != NULL, NULL);
    Py_DECREF(bound);
    if (handle == NULL) {
        return NULL;
    }
    Py_DECREF(handle);
    Py_RETURN_NONE;
}

/* Without an exception of its own: this runs where nobody could handle one. */
static void
call_quietly(PyObject *object, const char *method)
{
    PyObject *result = PyObject_CallMethod(object, method, NULL);
    if (result == NULL) {
        PyErr_WriteUnraisable(object);
    }
    Py_XDECREF(result);
}

static void
forget_loop(struct pyl_transport *transport)
{
    if (transport->is_lost && transport->is_closed && !transport->is_start_queued) {
        Py_CLEAR(transport->loop);
    }
}

void
pyl_transport_let_go(struct pyl_transport *transport)
{
    pyl_transport_return_view(transport);
    if (transport->is_guest && transport->loop != NULL) {
        transport->is_guest = false;
        pyl_views_count_guest(transport->loop, -1);
    }
    if (transport->server != NULL) {
        if (detach_from_server(transport) < 0) {
            PyErr_WriteUnraisable(transport->server);
        }
        Py_CLEAR(transport->server);
    }
    Py_CLEAR(transport->protocol);
    Py_CLEAR(transport->read_method);
    forget_loop(transport);
}

void
pyl_transport_end(struct pyl_transport *transport)
{
    Py_INCREF(transport);
    pyl_transport_keep_names(transport);
    pyl_transport_return_view(transport);
    PyObject *sock = pyl_transport_own_socket(transport);
    if (sock != NULL) {
        if (transport->has_io_ref) {
            transport->has_io_ref = false;
            call_quietly(sock, "_decref_socketios");
        }
        call_quietly(sock, "close");
    }
    transport->is_closed = true;
    /* The number may be somebody else's as soon as it is closed. */
    pyl_fd_table_remove(&transport->loop->fds, transport->stream.fd, (PyObject *)transport);
    forget_loop(transport);
    Py_DECREF(transport);
}

void
pyl_transport_detach(struct pyl_transport *transport)
{
    transport->is_detached = true;
}
