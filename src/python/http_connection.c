/*
 * http_connection.c - one accepted socket: bytes to the parser, events to the request in progress,
 * and every way a connection can end.
 *
 * What arrives behind the request in progress waits in `pending`: requests are served one after the
 * other. feed() is the only place that parses, and is never entered twice: an application that
 * completes its response inside it is noticed by its loop, later ones by resume_job.
 */
#include "python/http.h"

#include "io/sockaddr.h"
#include "python/views.h"

#include <errno.h>
#include <string.h>

static struct pyl_http_connection *
connection_of(struct pyl_stream *stream)
{
    return PYL_CONTAINER_OF(stream, struct pyl_http_connection, stream);
}

/* ---- the end ---- */

static void
drop_pending(struct pyl_http_connection *connection)
{
    PyMem_RawFree(connection->pending);
    connection->pending = NULL;
    connection->pending_size = 0;
    connection->pending_capacity = 0;
}

/* The request will hear no more from us. */
static void
let_go(struct pyl_http_connection *connection, bool is_disconnected)
{
    struct pyl_http_request *request = connection->request;
    if (request == NULL) {
        return;
    }
    connection->request = NULL;
    request->connection = NULL;
    request->is_disconnected |= is_disconnected;
    atomic_store_explicit(&request->is_gone, true, memory_order_relaxed);
    pyl_http_send_discard_head(request);
    if (PYL_LIKELY(!connection->is_detached)) {
        pyl_http_wait_wake_all(request);
    } else { /* nobody else can run any more */
        pyl_http_wait_wake_remote(request);
    }
    Py_DECREF(request);
}

/* What is queued still goes out. */
static void
close_connection(struct pyl_http_connection *connection)
{
    if (connection->phase == PYL_HTTP_CLOSING) {
        return;
    }
    connection->phase = PYL_HTTP_CLOSING;
    connection->queued_at_check = pyl_stream_queued_size(&connection->stream);
    drop_pending(connection);
    let_go(connection, true);
    pyl_http_server_wait(connection->server, connection, PYL_HTTP_TIMEOUT_CLOSE);
    pyl_stream_close(&connection->stream);
}

void
pyl_http_connection_abort(struct pyl_http_connection *connection)
{
    connection->phase = PYL_HTTP_CLOSING;
    drop_pending(connection);
    let_go(connection, true);
    pyl_http_server_wait(connection->server, connection, PYL_HTTP_TIMEOUT_NONE);
    pyl_stream_abort(&connection->stream);
}

/* Says goodbye while the peer may still be sending: closing now would make the kernel answer its
 * bytes with a reset, which can destroy our response before it is read (RFC 9112 9.6). */
static void
linger(struct pyl_http_connection *connection)
{
    if (connection->has_peer_eof) {
        close_connection(connection);
        return;
    }
    connection->phase = PYL_HTTP_LINGER;
    connection->discarded_size = 0;
    connection->queued_at_check = pyl_stream_queued_size(&connection->stream);
    drop_pending(connection);
    let_go(connection, true);
    pyl_http_server_wait(connection->server, connection, PYL_HTTP_TIMEOUT_LINGER);
    pyl_http_connection_update_reading(connection);
    pyl_stream_shutdown(&connection->stream);
}

/* Answers without the application, and ends. */
static void
refuse(struct pyl_http_connection *connection, unsigned status, const char *text)
{
    struct pyl_http_server *server = connection->server;
    struct pyl_http_block *block = pyl_http_block_take(server, PYL_HTTP_BLOCK_SIZE);
    if (block == NULL) {
        pyl_http_connection_abort(connection);
        return;
    }
    size_t size;
    const uint8_t *defaults = pyl_http_server_defaults(server, true, true, &size);
    uint8_t *end = pyl_http1_write_error(block->data, status, text, false, defaults, size);
    block->size = (uint32_t)(end - block->data);
    pyl_http_write_block(connection, block);
    pyl_http_log_refusal(server, connection->client, status, text);
    if (connection->phase != PYL_HTTP_CLOSING) {
        linger(connection);
    }
}

void
pyl_http_connection_truncate(struct pyl_http_connection *connection)
{
    /* The framing tells the client that something is missing; close_connection() first lets it have
     * what is there. */
    close_connection(connection);
}

/* ---- one request after the other ---- */

void
pyl_http_connection_update_reading(struct pyl_http_connection *connection)
{
    const struct pyl_http_request *request = connection->request;
    bool is_wanted =
        connection->phase != PYL_HTTP_CLOSING && connection->pending_size <= PYL_HTTP_READ_HIGH;
    if (is_wanted && request != NULL &&
        pyl_http_request_unread_size(request) > PYL_HTTP_READ_HIGH) {
        /* A receiver that was woken takes it all in this turn. */
        is_wanted = pyl_http_wait_has_receiver(request);
    }
    if (is_wanted) {
        pyl_stream_read_start(&connection->stream);
    } else {
        pyl_stream_read_stop(&connection->stream);
    }
}

static void
queue_resume(struct pyl_http_connection *connection)
{
    if (!connection->is_resume_queued && !connection->is_processing) {
        connection->is_resume_queued = true;
        Py_INCREF(connection);
        pyl_worker_post(connection->server->loop->worker, &connection->resume_job);
    }
}

static void
next_request(struct pyl_http_connection *connection)
{
    connection->phase = PYL_HTTP_HEAD;
    pyl_http_server_wait(connection->server, connection, PYL_HTTP_TIMEOUT_IDLE);
    if (connection->pending_size > 0 || connection->has_peer_eof) {
        queue_resume(connection);
    }
    pyl_http_connection_update_reading(connection);
}

void
pyl_http_connection_respond_done(struct pyl_http_connection *connection)
{
    struct pyl_http_request *request = connection->request;
    bool is_keep_alive = connection->is_keep_alive && request->response.is_keep_alive &&
                         !connection->server->is_draining;
    pyl_http_log_access(request, connection->client);
    let_go(connection, false);
    if (!is_keep_alive) {
        if (connection->is_content_complete && connection->pending_size == 0) {
            close_connection(connection);
        } else {
            linger(connection);
        }
    } else if (connection->is_content_complete) {
        next_request(connection);
    } else {
        connection->phase = PYL_HTTP_DRAIN;
        connection->discarded_size = 0;
        pyl_http_server_wait(connection->server, connection, PYL_HTTP_TIMEOUT_LINGER);
        pyl_http_connection_update_reading(connection);
    }
}

static bool
is_overloaded(const struct pyl_http_server *server)
{
    Py_ssize_t limit = server->options.limit_concurrency;
    return limit > 0 && (server->connection_count > limit || server->task_count >= limit);
}

/* A head is complete and right. */
static void
start_request(struct pyl_http_connection *connection, const struct pyl_http1_event *event)
{
    const struct pyl_http1_head *head = connection->parser.head;
    connection->phase = PYL_HTTP_REQUEST;
    connection->is_keep_alive = head->is_keep_alive;
    connection->is_content_complete = (event->flags & PYL_HTTP1_COMPLETE) != 0;
    pyl_http_server_wait(connection->server, connection, PYL_HTTP_TIMEOUT_NONE);
    if (is_overloaded(connection->server)) {
        refuse(connection, 503, "Service Unavailable");
        return;
    }
    if (pyl_http_request_start(connection, event->body, event->body_size,
                               connection->is_content_complete) < 0) {
        pyl_http_connection_abort(connection); /* out of memory */
    }
}

/* Content of the request in progress, or of one whose response is complete. */
static void
continue_request(struct pyl_http_connection *connection, const struct pyl_http1_event *event)
{
    bool is_complete = (event->flags & PYL_HTTP1_COMPLETE) != 0;
    connection->is_content_complete |= is_complete;
    if (connection->phase == PYL_HTTP_REQUEST) {
        struct pyl_http_request *request = connection->request;
        if (is_complete) {
            request->is_content_complete = true; /* before a reader looks at the last piece */
        }
        if (event->body_size > 0 &&
            pyl_http_request_add_content(request, event->body, event->body_size) < 0) {
            pyl_http_connection_abort(connection);
        } else if (is_complete) {
            pyl_http_request_end_content(request);
        }
    } else if (connection->phase == PYL_HTTP_DRAIN) {
        connection->discarded_size += event->body_size;
        if (is_complete) {
            next_request(connection);
        } else if (connection->discarded_size > PYL_HTTP_DRAIN_MAX) {
            linger(connection);
        }
    }
}

static void
fail_request(struct pyl_http_connection *connection)
{
    const struct pyl_http1 *parser = &connection->parser;
    struct pyl_http_request *request = connection->request;
    connection->is_keep_alive = false;
    if (request != NULL && request->progress >= PYL_HTTP_RESPONSE_OPEN) {
        pyl_http_connection_truncate(connection);
    } else if (connection->phase == PYL_HTTP_DRAIN) {
        linger(connection);
    } else {
        let_go(connection, true);
        refuse(connection, parser->status, parser->reason);
    }
}

static void
handle_event(struct pyl_http_connection *connection, const struct pyl_http1_event *event)
{
    bool is_error = (event->flags & PYL_HTTP1_ERROR) != 0;
    if ((event->flags & PYL_HTTP1_HEAD) != 0) {
        /* Content that is wrong from the start keeps its head from the application, too. */
        if (!is_error) {
            start_request(connection, event);
        }
        pyl_http1_drop_head(&connection->parser);
    } else if ((event->flags & (PYL_HTTP1_BODY | PYL_HTTP1_COMPLETE)) != 0) {
        continue_request(connection, event);
    }
    if (is_error && connection->phase < PYL_HTTP_LINGER) {
        fail_request(connection);
    }
}

static bool
wants_bytes(const struct pyl_http_connection *connection)
{
    switch (connection->phase) {
    case PYL_HTTP_HEAD:
    case PYL_HTTP_DRAIN:
        return true;
    case PYL_HTTP_REQUEST:
        return !connection->is_content_complete;
    default:
        return false;
    }
}

/* Parses as long as there is somebody to take the events. Returns how many bytes are done with. */
static size_t
feed(struct pyl_http_connection *connection, const uint8_t *data, size_t size)
{
    size_t used = 0;
    connection->is_processing = true;
    while (used < size && wants_bytes(connection)) {
        struct pyl_http1_event event;
        pyl_http1_parse(&connection->parser, data + used, size - used, &event);
        used += event.consumed;
        if (event.flags != 0) {
            handle_event(connection, &event);
        }
    }
    connection->is_processing = false;
    return connection->phase < PYL_HTTP_LINGER ? used : size;
}

/* Keeps bytes for later. Aborts when out of memory. */
static void
keep_pending(struct pyl_http_connection *connection, const uint8_t *data, size_t size)
{
    size_t needed = connection->pending_size + size;
    if (size == 0) {
        return;
    }
    if (needed > connection->pending_capacity) {
        uint8_t *pending = PyMem_RawRealloc(connection->pending, needed);
        if (pending == NULL) {
            pyl_http_connection_abort(connection);
            return;
        }
        connection->pending = pending;
        connection->pending_capacity = needed;
    }
    memcpy(connection->pending + connection->pending_size, data, size);
    connection->pending_size = needed;
}

/* The peer had closed its side before this request began: it was behind another one. */
static void
end_late(struct pyl_http_connection *connection)
{
    if (connection->is_content_complete) {
        pyl_http_request_set_peer_eof(connection->request);
    } else {
        close_connection(connection); /* nobody can complete it; the answers before it go out */
    }
}

/* After everything that may have changed the phase. */
static void
settle(struct pyl_http_connection *connection)
{
    if (connection->phase == PYL_HTTP_HEAD) {
        if (connection->has_peer_eof && connection->pending_size == 0) {
            close_connection(connection); /* no further request can come */
        } else if (connection->timeout_kind == PYL_HTTP_TIMEOUT_IDLE &&
                   !pyl_http1_is_between(&connection->parser)) {
            pyl_http_server_wait(connection->server, connection, PYL_HTTP_TIMEOUT_HEAD);
        } else if (connection->server->is_draining && pyl_http1_is_between(&connection->parser)) {
            close_connection(connection);
        }
    } else if (connection->phase == PYL_HTTP_REQUEST && connection->has_peer_eof) {
        end_late(connection);
    }
    pyl_http_connection_update_reading(connection);
}

static void
feed_pending(struct pyl_http_connection *connection)
{
    uint8_t *data = connection->pending;
    size_t size = connection->pending_size;
    if (data == NULL) {
        return;
    }
    connection->pending = NULL;
    connection->pending_size = 0;
    connection->pending_capacity = 0;
    size_t used = feed(connection, data, size);
    keep_pending(connection, data + used, size - used);
    PyMem_RawFree(data);
}

static void
run_resume(struct pyl_job *job)
{
    struct pyl_http_connection *connection =
        PYL_CONTAINER_OF(job, struct pyl_http_connection, resume_job);
    connection->is_resume_queued = false;
    if (!connection->is_detached && connection->phase < PYL_HTTP_LINGER) {
        feed_pending(connection);
        settle(connection);
    }
    Py_DECREF(connection);
}

/* ---- the stream's callbacks ---- */

static void
on_data(struct pyl_stream *stream, const uint8_t *data, size_t size)
{
    struct pyl_http_connection *connection = connection_of(stream);
    if (connection->is_detached || connection->phase == PYL_HTTP_CLOSING) {
        return;
    }
    Py_INCREF(connection); /* the application may do anything */
    if (connection->phase == PYL_HTTP_LINGER) {
        connection->discarded_size += size;
        if (connection->discarded_size > PYL_HTTP_LINGER_MAX) {
            close_connection(connection);
        }
    } else if (connection->pending_size > 0) {
        keep_pending(connection, data, size);
        pyl_http_connection_update_reading(connection);
    } else {
        size_t used = feed(connection, data, size);
        if (PYL_UNLIKELY(used < size)) {
            keep_pending(connection, data + used, size - used);
        }
        settle(connection);
    }
    Py_DECREF(connection);
}

static void
on_eof(struct pyl_stream *stream)
{
    struct pyl_http_connection *connection = connection_of(stream);
    if (connection->is_detached) {
        return;
    }
    Py_INCREF(connection);
    connection->has_peer_eof = true;
    switch (connection->phase) {
    case PYL_HTTP_HEAD:
        if (connection->pending_size == 0) {
            close_connection(connection);
        }
        break;
    case PYL_HTTP_REQUEST:
        if (connection->is_content_complete) {
            /* Half-closed clients still get their response. */
            pyl_http_request_set_peer_eof(connection->request);
        } else {
            pyl_http_connection_abort(connection);
        }
        break;
    default:
        close_connection(connection);
        break;
    }
    Py_DECREF(connection);
}

static void
on_error(struct pyl_stream *stream, int error)
{
    struct pyl_http_connection *connection = connection_of(stream);
    (void)error;
    if (!connection->is_detached) {
        pyl_http_connection_abort(connection);
    }
}

static void
on_progress(struct pyl_stream *stream)
{
    struct pyl_http_connection *connection = connection_of(stream);
    if (!connection->is_detached && connection->request != NULL &&
        pyl_stream_queued_size(stream) <= PYL_HTTP_WRITE_LOW) {
        pyl_http_wait_wake_all(connection->request);
    }
}

/* No more callbacks: the counters, lists and the loop's table forget the connection. */
static void
unlist(struct pyl_http_connection *connection)
{
    struct pyl_http_server *server = connection->server;
    if (!connection->is_listed) {
        return;
    }
    connection->is_listed = false;
    connection->phase = PYL_HTTP_CLOSING;
    drop_pending(connection);
    let_go(connection, true);
    pyl_http_server_wait(server, connection, PYL_HTTP_TIMEOUT_NONE);
    pyl_list_remove(&connection->link);
    pyl_http1_fini(&connection->parser);
    server->connection_count--;
    pyl_views_count_guest(server->loop, -1);
}

static void
on_closed(struct pyl_stream *stream)
{
    struct pyl_http_connection *connection = connection_of(stream);
    if (connection->is_detached) {
        return;
    }
    struct pyl_http_server *server =
        (struct pyl_http_server *)Py_NewRef((PyObject *)connection->server);
    unlist(connection);
    pyl_fd_table_remove(&server->loop->fds, stream->fd, (PyObject *)connection); /* the last */
    pyl_http_server_check_drained(server);
    Py_DECREF(server);
}

static const struct pyl_stream_ops stream_ops = {
    .on_data = on_data,
    .on_eof = on_eof,
    .on_error = on_error,
    .on_progress = on_progress,
    .on_closed = on_closed,
    .release = pyl_http_release,
};

/* ---- called by the server ---- */

void
pyl_http_connection_detach(struct pyl_http_connection *connection)
{
    connection->is_detached = true;
    unlist(connection);
}

void
pyl_http_connection_drain(struct pyl_http_connection *connection)
{
    if (connection->phase == PYL_HTTP_HEAD && pyl_http1_is_between(&connection->parser) &&
        connection->pending_size == 0) {
        close_connection(connection);
    } else if (connection->phase == PYL_HTTP_DRAIN) {
        linger(connection);
    }
}

void
pyl_http_connection_expire(struct pyl_http_connection *connection)
{
    size_t queued = pyl_stream_queued_size(&connection->stream);
    bool is_moving = queued > 0 && queued < connection->queued_at_check;
    enum pyl_http_timeout kind = connection->timeout_kind;
    switch (kind) {
    case PYL_HTTP_TIMEOUT_HEAD:
        if (pyl_http1_is_between(&connection->parser)) {
            close_connection(connection);
        } else {
            refuse(connection, 408, "Request Timeout");
        }
        break;
    case PYL_HTTP_TIMEOUT_IDLE:
        close_connection(connection);
        break;
    default:
        if (is_moving) {
            connection->queued_at_check = queued;
            pyl_http_server_wait(connection->server, connection, kind);
        } else if (kind == PYL_HTTP_TIMEOUT_LINGER) {
            close_connection(connection);
        } else {
            pyl_http_connection_abort(connection);
        }
        break;
    }
}

/* ---- opening ---- */

/* (host, port) of an address, or NULL with an exception. */
static PyObject *
make_address(const struct pyl_sockaddr *address)
{
    char host[PYL_SOCKADDR_TEXT_SIZE];
    pyl_sockaddr_print_host(address, host, sizeof(host));
    return Py_BuildValue("(si)", host, (int)pyl_sockaddr_port(address));
}

static int
set_addresses(struct pyl_http_connection *connection, struct pyl_http_listener *listener, int fd)
{
    struct pyl_sockaddr address;
    if (pyl_socket_peer_address(fd, &address) == 0 && address.u.any.sa_family != AF_UNIX) {
        connection->client = make_address(&address);
        if (connection->client == NULL) {
            return -1;
        }
    }
    if (listener->local != NULL) {
        connection->local = Py_NewRef(listener->local);
        return 0;
    }
    int rc = pyl_socket_local_address(fd, &address);
    if (rc < 0) {
        pyl_raise_errno(rc);
        return -1;
    }
    connection->local = make_address(&address);
    return connection->local != NULL ? 0 : -1;
}

int
pyl_http_connection_open(struct pyl_http_listener *listener, int fd)
{
    struct pyl_http_server *server = listener->server;
    struct pyl_worker *worker = server->loop->worker;
    struct pyl_http_connection *connection =
        PyObject_GC_New(struct pyl_http_connection, server->state->http_connection_type);
    if (connection == NULL) {
        pyl_reactor_close_now(&worker->reactor, fd);
        return -1;
    }
    memset((char *)connection + sizeof(PyObject), 0, sizeof(*connection) - sizeof(PyObject));
    connection->server = (struct pyl_http_server *)Py_NewRef((PyObject *)server);
    connection->timeout_kind = PYL_HTTP_TIMEOUT_NONE;
    connection->resume_job.run = run_resume;
    pyl_list_init(&connection->link);
    pyl_list_init(&connection->timeout_link);
    pyl_http1_init(&connection->parser, &server->shared);
    pyl_stream_init(&connection->stream, worker, fd, true, &stream_ops);
    connection->stream.is_tcp = listener->is_tcp;
    PyObject_GC_Track(connection);
    if (set_addresses(connection, listener, fd) < 0 ||
        pyl_fd_table_add(&server->loop->fds, fd, (PyObject *)connection) < 0) {
        Py_DECREF(connection); /* disposes of the stream, which closes the fd */
        return -1;
    }
    connection->is_listed = true;
    pyl_list_append(&server->connections, &connection->link);
    server->connection_count++;
    pyl_views_count_guest(server->loop, 1);
    pyl_http_server_wait(server, connection, PYL_HTTP_TIMEOUT_HEAD);
    pyl_stream_read_start(&connection->stream);
    Py_DECREF(connection); /* the table holds it */
    return 0;
}

/* ---- the type ---- */

static int
connection_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pyl_http_connection *connection = (struct pyl_http_connection *)(void *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)connection->server);
    Py_VISIT((PyObject *)connection->request);
    Py_VISIT(connection->client);
    Py_VISIT(connection->local);
    return 0;
}

static int
connection_clear(PyObject *self)
{
    struct pyl_http_connection *connection = (struct pyl_http_connection *)(void *)self;
    if (connection->server != NULL) {
        connection->is_detached = true;
        unlist(connection);
    }
    Py_CLEAR(connection->client);
    Py_CLEAR(connection->local);
    return 0;
}

static void
connection_dealloc(PyObject *self)
{
    struct pyl_http_connection *connection = (struct pyl_http_connection *)(void *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)connection_clear(self);
    pyl_stream_dispose(&connection->stream);
    pyl_http1_fini(&connection->parser);
    Py_CLEAR(connection->server);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyType_Slot connection_slots[] = {
    {Py_tp_dealloc, connection_dealloc},
    {Py_tp_traverse, connection_traverse},
    {Py_tp_clear, connection_clear},
    {0, NULL},
};

static PyType_Spec connection_spec = {
    .name = "pyloop._core.HttpConnection",
    .basicsize = sizeof(struct pyl_http_connection),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = connection_slots,
};

int
pyl_http_connection_type_add(PyObject *module, struct pyl_state *state)
{
    pyl_state_add_job_kind(state, run_resume, offsetof(struct pyl_http_connection, resume_job));
    return pyl_add_type(module, &connection_spec, NULL, false, &state->http_connection_type);
}
