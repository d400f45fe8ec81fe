/*
 * http.h - the HTTP server: what the files http_*.c use of one another.
 *
 * The path of a request, each arrow a plain C call in one turn of the loop:
 *
 *   stream.on_data -> connection (feeds the parser) -> request (scope, task stepped at once)
 *     -> application -> send() -> response head and content queued on the stream -> flushed
 *
 * The objects, all of them known to the garbage collector:
 *
 *   HttpServer      limits, timeouts, templates; lives as long as anything below
 *   HttpListener    one listening socket; kept by loop->fds
 *   HttpConnection  one accepted socket: stream, parser, the request in progress; kept by loop->fds
 *   HttpRequest     one application call: its task, its unread content, its response
 *
 * A connection serves one request at a time. When the response and the request content are complete
 * it lets go of the request (request->connection becomes NULL), while the application may still
 * run.
 *
 * In parallel mode the application may run in another view than the connection's (http_strand.c),
 * and its receive() and send() come from there (http_remote.c). All fields stay the connection's:
 * another thread uses of a request and of a server no more than what says that it is constant, or
 * how it is guarded.
 *
 * Loop thread (of the connection's view), attached thread state, where nothing else is said.
 */
#ifndef PYL_PYTHON_HTTP_H
#define PYL_PYTHON_HTTP_H

#include "python/loop.h"
#include "python/task.h"

#include "io/listener.h"
#include "io/stream.h"
#include "proto/http1.h"
#include "proto/http1_check.h"
#include "proto/http1_response.h"

enum {
    /* Unread content or pipelined bytes that stop reading, as in uvicorn. */
    PYL_HTTP_READ_HIGH = 64 * 1024,
    /* send() waits above high until the queue is below low. */
    PYL_HTTP_WRITE_HIGH = 64 * 1024,
    PYL_HTTP_WRITE_LOW = 16 * 1024,
    /* Content that is read and thrown away behind an early response to save the connection. */
    PYL_HTTP_DRAIN_MAX = 256 * 1024,
    /* Bytes thrown away while a closed connection waits for its peer to notice. */
    PYL_HTTP_LINGER_MAX = 1024 * 1024,
    PYL_HTTP_BLOCK_SIZE = 2048 - 32,
    PYL_HTTP_FREE_BLOCKS_MAX = 256,
    PYL_HTTP_PAIR_SLOTS = 256, /* header fields kept for the next request with the same */
};

#define PYL_HTTP_LINGER_NS INT64_C(2000000000)
#define PYL_HTTP_CLOSE_NS INT64_C(30000000000)

/* Bytes on their way to a stream, which gives them back when they were sent. */
struct pyl_http_block {
    struct pyl_http_block *next_free;
    uint32_t size;
    uint32_t capacity;
    uint8_t data[];
};

struct pyl_http_server;
struct pyl_http_request;
struct pyl_http_strand;

/*
 * HEAD --head complete--> REQUEST --response complete--> DRAIN --content complete--> HEAD
 *   |                        |  \--(content was complete)--------------------------> HEAD
 *   `------- error ----------+--> LINGER (write side shut, input discarded) --> CLOSING
 */
enum pyl_http_phase {
    PYL_HTTP_HEAD,    /* between requests, or in the head of one */
    PYL_HTTP_REQUEST, /* `request` is set */
    PYL_HTTP_DRAIN,   /* the response is complete, the content is not: discarded */
    PYL_HTTP_LINGER,  /* everything is said; what still comes is discarded */
    PYL_HTTP_CLOSING, /* the stream was closed or aborted */
};

struct pyl_http_connection {
    PyObject_HEAD
    struct pyl_http_server *server;
    struct pyl_http_request *request; /* in progress, or NULL */
    PyObject *client;                 /* (host, port), or NULL: None */
    PyObject *local;                  /* scope["server"] */
    struct pyl_list link;             /* server->connections */
    struct pyl_list timeout_link;     /* one of server->waiting, or in no list */
    int64_t since_ns;                 /* when it came into that list */
    uint8_t *pending;                 /* pipelined bytes, behind the request in progress */
    size_t pending_size;
    size_t pending_capacity;
    uint64_t discarded_size;  /* since DRAIN or LINGER began */
    size_t queued_at_check;   /* CLOSING: to see progress */
    uint8_t phase;            /* enum pyl_http_phase */
    uint8_t timeout_kind;     /* enum pyl_http_timeout, of timeout_link */
    bool is_content_complete; /* of the request in progress */
    bool is_keep_alive;       /* may serve another request */
    bool has_peer_eof;
    bool is_processing; /* inside feed(): what completes now is seen by its loop */
    bool is_resume_queued;
    bool is_listed;            /* counted by the server, in loop->fds */
    bool is_detached;          /* the loop is gone */
    struct pyl_job resume_job; /* holds a reference while queued */
    struct pyl_http1 parser;
    struct pyl_stream stream;
};

/* Lists of connections in the order of their deadlines: each has one constant duration. */
enum pyl_http_timeout {
    PYL_HTTP_TIMEOUT_HEAD,   /* for the head of a request */
    PYL_HTTP_TIMEOUT_IDLE,   /* between two requests */
    PYL_HTTP_TIMEOUT_LINGER, /* draining, lingering */
    PYL_HTTP_TIMEOUT_CLOSE,  /* for the peer to take the rest of a response */
    PYL_HTTP_TIMEOUT_KINDS,
    PYL_HTTP_TIMEOUT_NONE = PYL_HTTP_TIMEOUT_KINDS,
};

/*
 * Response: IDLE --start--> HELD --first body, end of turn--> OPEN --last body--> COMPLETE
 * HELD: the head is in `block` and nobody has seen it.
 */
enum pyl_http_progress {
    PYL_HTTP_RESPONSE_IDLE,
    PYL_HTTP_RESPONSE_HELD,
    PYL_HTTP_RESPONSE_OPEN,
    PYL_HTTP_RESPONSE_COMPLETE,
};

/* Who waits for a request, in its list of waiters. The connection's thread. */
struct pyl_http_waiter {
    struct pyl_list link;
    /* It is to look again; may leave the list, or stay. */
    void (*wake)(struct pyl_http_waiter *waiter);
    bool is_receive;
    bool is_remote; /* of another view: it can run although the connection's loop is gone */
};

struct pyl_http_request {
    PyObject_HEAD
    struct pyl_http_server *server;         /* constant */
    struct pyl_http_connection *connection; /* borrowed; NULL when it let go of us */
    PyObject *task;                         /* until it is done; NULL while there is a strand */
    struct pyl_http_strand *strand;         /* from its queueing until it runs here or has ended */
    PyObject *target;                       /* bytes, for the access log, or NULL */
    struct pyl_list link;                   /* server->requests, while the task runs */
    struct pyl_list waiters;                /* of struct pyl_http_waiter.link */

    /* Content not yet received by the application: `piece`, then `more`. */
    PyObject *piece; /* bytes or NULL */
    uint8_t *more;
    size_t more_size;
    size_t more_capacity;

    /* Response head that was sent in another view (http_remote.c) and is not served yet, or NULL.
     * Any thread, guarded by the object's critical section. */
    PyObject *held;
    PyObject
        *early; /* what the first receive() gets, made when the request was queued; as `held` */
    /* Any thread reads the next five, relaxed. */
    _Atomic bool has_remote_start; /* there was a head; set where it was sent */
    _Atomic bool has_early;        /* set by us, taken back by who takes the message */
    _Atomic bool is_gone;          /* `connection` is NULL; ours */
    _Atomic bool has_peer_eof; /* the client will send no more; receive() says disconnect; ours */
    _Atomic bool is_end_seen;  /* the application got the last http.request; set where it did */

    struct pyl_http_block *block; /* HELD: the response head so far */
    struct pyl_http1_response response;
    uint8_t progress;          /* enum pyl_http_progress */
    uint8_t method;            /* constant, as the next one */
    uint8_t minor_version;     /* of the request */
    bool is_content_delivered; /* the last http.request was received */
    bool is_content_complete;  /* the last byte has arrived */
    bool is_disconnected;      /* the client is gone; nothing can be sent */
    bool is_continue_owed;     /* Expect: 100-continue was not answered yet */
    bool is_flush_queued;      /* flush_job holds a reference */
    bool is_stepping;          /* inside the first step of the application */
    struct pyl_job flush_job;  /* end of turn: a head that is still held leaves alone */
};

/* One listening socket; an object of its own because loop->fds holds one owner for each fd. */
struct pyl_http_listener {
    PyObject_HEAD
    struct pyl_http_server *server;
    PyObject *sock;  /* the Python socket; NULL: connections are handed over by another view's */
    PyObject *peers; /* tuple of those it hands over to, or NULL; constant while it is open */
    PyObject *local; /* scope["server"], or NULL: differs by connection */
    struct pyl_departed departed;
    int fd;
    bool is_open;     /* entry in loop->fds */
    bool is_detached; /* the loop is gone */
    bool is_tcp;
    struct pyl_listener listener;
};

struct pyl_http_options {
    int64_t timeout_ns[PYL_HTTP_TIMEOUT_KINDS];
    Py_ssize_t limit_concurrency; /* 0: none */
    bool has_server_header;
    bool has_date_header;
};

struct pyl_http_server {
    PyObject_HEAD
    /* Constant until the server dies, down to `may_queue`; any thread. */
    struct pyl_state *state;
    struct pyl_loop *loop;
    PyObject *app;
    PyObject *context;       /* each application call runs in a copy */
    PyObject *app_state;     /* lifespan state, or NULL: no "state" in the scope */
    PyObject *root_path;     /* str */
    PyObject *root_path_raw; /* bytes */
    PyObject *on_error;      /* on_error(message, exception) */
    PyObject *write_log;     /* write_log(bytes), or NULL */
    PyObject *states;        /* parallel mode: tuple of the views' states (or None), or NULL */
    struct pyl_http_options options;
    int64_t behind_ns;          /* http_strand.c */
    bool is_coroutine_function; /* calling `app` only makes a coroutine */
    bool may_queue;             /* there are other lanes, and they are of use */

    PyObject *scope_template; /* dict with everything that is the same for all requests */
    PyObject *template_local; /* borrowed from it: its "server" */
    PyObject *drained;        /* future of wait_drained(), or NULL */
    PyObject *listeners;      /* list of HttpListener */
    PyObject *pairs[PYL_HTTP_PAIR_SLOTS]; /* tuples of two bytes, or NULL; see http_headers.c */
    struct pyl_list connections;
    struct pyl_list requests;
    struct pyl_list waiting[PYL_HTTP_TIMEOUT_KINDS];
    Py_ssize_t connection_count;
    Py_ssize_t task_count;
    uint64_t request_count;
    uint64_t counted_turn;             /* of the worker's; the next is of it */
    uint32_t turn_requests;            /* begun inside their event */
    _Atomic uint32_t waiting_requests; /* queued and not begun; any thread, relaxed */
    bool is_draining;                  /* no new connections, no second request on old ones */

    struct pyl_timer tick; /* holds a reference while armed or queued */
    bool is_tick_armed;
    int64_t date_until_ns; /* when `defaults` is stale, on the loop's clock */
    uint32_t date_size;    /* of the date line at the start of `defaults` */
    uint32_t defaults_size;
    uint8_t defaults[96]; /* "date: ...\r\nserver: pyloop\r\n" */

    uint8_t *log; /* finished lines of the access log */
    size_t log_size;
    size_t log_capacity;
    struct pyl_job log_job; /* holds a reference while queued */
    bool is_log_queued;

    struct pyl_http1_shared shared;
    struct pyl_http_block *free_blocks;
    uint32_t free_block_count;
};

/* receive() and send(): one type, told apart by their vectorcall. */
struct pyl_http_call {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    struct pyl_http_request *request;
};

/* http_names.c: constants of the module */

/* Fills the table of known header names and the strings of the HTTP files. 0 or -1. */
int pyl_http_state_init(struct pyl_state *state);
/* The lower-case name as bytes; shared for the usual ones. New reference or NULL. */
PyObject *pyl_http_field_name(struct pyl_http_state *state, const uint8_t *name, size_t size);

/* http_server.c, http_server_type.c */

/* The job of the timer that ends connections whose time is up. */
void pyl_http_server_run_tick(struct pyl_job *job);
/* Moves the connection to another list of timeouts; KINDS or NONE: to no list. */
void pyl_http_server_wait(struct pyl_http_server *server, struct pyl_http_connection *connection,
                          enum pyl_http_timeout kind);
/* The date and server lines that are wanted now. */
const uint8_t *pyl_http_server_defaults(struct pyl_http_server *server, bool has_date,
                                        bool has_server, size_t *ret_size);
/* on_error(message, exception), with the current exception, which is consumed, or None. */
void pyl_http_server_report(struct pyl_http_server *server, const char *message);
/* A connection or task went: completes `drained` when it was the last. */
void pyl_http_server_check_drained(struct pyl_http_server *server);

/* http_listen.c */

/* 0, or -1 with an exception; so for all type_add functions below. */
int pyl_http_listener_type_add(PyObject *module, struct pyl_state *state);
/* Accepts on a listening Python socket from now on. 0, or -1 with an exception. */
int pyl_http_listen(struct pyl_http_server *server, PyObject *sock, PyObject *peers);
/* A listener for what another view accepts on `sock`, to be one of that view's peers. New reference
 * or NULL. */
PyObject *pyl_http_listener_join(struct pyl_http_server *server, PyObject *sock);
/* Closes the listening sockets. 0, or -1 with an exception. */
int pyl_http_stop_listening(struct pyl_http_server *server);
/* For fd_table.c, when the loop closes. */
void pyl_http_listener_detach(struct pyl_http_listener *listener);

/* http_log.c */

/* Appends a line for a finished request; it is written at the end of the turn. client may be NULL.
 */
void pyl_http_log_access(struct pyl_http_request *request, PyObject *client);
/* The same for a request that the application never saw. client may be NULL. */
void pyl_http_log_refusal(struct pyl_http_server *server, PyObject *client, unsigned status,
                          const char *reason);
/* Writes what was collected. */
void pyl_http_log_flush(struct pyl_http_server *server);
void pyl_http_log_run(struct pyl_job *job);

/* http_connection.c */

/* HttpConnection. */
int pyl_http_connection_type_add(PyObject *module, struct pyl_state *state);
/* Takes over the fd. 0, or -1 with an exception and the fd closed. */
int pyl_http_connection_open(struct pyl_http_listener *listener, int fd);
/* For fd_table.c, when the loop closes. */
void pyl_http_connection_detach(struct pyl_http_connection *connection);
/* The time in its list is over. */
void pyl_http_connection_expire(struct pyl_http_connection *connection);
/* No further request: closes at once when idle, otherwise after the response. */
void pyl_http_connection_drain(struct pyl_http_connection *connection);
/* Drops what is queued and closes. */
void pyl_http_connection_abort(struct pyl_http_connection *connection);
/* The response is complete: log, next request or end. */
void pyl_http_connection_respond_done(struct pyl_http_connection *connection);
/* The application failed to complete its response: nothing but the end can follow. */
void pyl_http_connection_truncate(struct pyl_http_connection *connection);
/* Starts or stops reading by what is unread. */
void pyl_http_connection_update_reading(struct pyl_http_connection *connection);

/* http_block.c */

/* An empty block with room for `size` bytes, or NULL (no exception). New: any thread. */
struct pyl_http_block *pyl_http_block_new(size_t size);
struct pyl_http_block *pyl_http_block_take(struct pyl_http_server *server, size_t size);
void pyl_http_block_give(struct pyl_http_server *server, struct pyl_http_block *block);
/* Each queues on the stream and gives up its own reference or block, whatever happens. A stream
 * that is closing drops the bytes: that the peer is gone shows up elsewhere. */
void pyl_http_write_block(struct pyl_http_connection *connection, struct pyl_http_block *block);
void pyl_http_write_bytes(struct pyl_http_connection *connection, PyObject *bytes, size_t start,
                          size_t size);
void pyl_http_write_static(struct pyl_http_connection *connection, const char *data, size_t size);
void pyl_http_release(struct pyl_stream *stream, void *owner);

/* http_request.c */

/* HttpRequest, and the type of receive and send. */
int pyl_http_request_types_add(PyObject *module, struct pyl_state *state);
/* Calls the application for the head in connection->parser, after connection->request was set by
 * this. An application that fails is answered. Only out of memory is left to the caller: -1, no
 * exception. */
int pyl_http_request_start(struct pyl_http_connection *connection, const uint8_t *content,
                           size_t content_size, bool is_content_complete);
/* More content. 0, or -1 without an exception when out of memory. */
int pyl_http_request_add_content(struct pyl_http_request *request, const uint8_t *content,
                                 size_t size);
size_t pyl_http_request_unread_size(const struct pyl_http_request *request);
/* The last byte has arrived. */
void pyl_http_request_end_content(struct pyl_http_request *request);
/* The client has closed its side: it will send no more, but may still read. */
void pyl_http_request_set_peer_eof(struct pyl_http_request *request);

/* Does this thread run the loop of the connection? Any thread. */
static inline bool
pyl_http_request_is_here(const struct pyl_http_request *request)
{
    return PYL_LIKELY(atomic_load_explicit(&request->server->loop->thread_id,
                                           memory_order_relaxed) == PyThread_get_thread_ident());
}

/* A message that nobody has seen, and that receive() gave, comes first again. */
void pyl_http_request_take_back(struct pyl_http_request *request, PyObject *message);

/* The application in `view`, which this thread runs, until it waits for the first time. Steals the
 * scope. The task, or NULL with an exception: it did not run, or was not to be caught. */
PyObject *pyl_http_request_call(struct pyl_http_request *request, struct pyl_loop *view,
                                PyObject *scope);
/* The same in the loop of the connection, with all that follows from it. Steals the scope. */
void pyl_http_request_run(struct pyl_http_request *request, PyObject *scope);
/* From here until forget the application counts as running. */
void pyl_http_request_list(struct pyl_http_request *request);
void pyl_http_request_unlist(struct pyl_http_request *request);
/* The application has ended, as its task says, or (NULL) the current exception, which is consumed;
 * without one it was cancelled before it began. */
void pyl_http_request_end(struct pyl_http_request *request, PyObject *task);

/* http_strand.c */

/* The type of what waits in a lane's queue. */
int pyl_http_strand_type_add(PyObject *module, struct pyl_state *state);
/* Is the application of a new request to wait in the lane's queue of new strands? */
bool pyl_http_strand_is_due(struct pyl_http_server *server);
/* Queues it there. Steals the scope on success. 0, or -1 without an exception: out of memory. */
int pyl_http_strand_queue(struct pyl_http_request *request, PyObject *scope);
/* Cancels it, begun or not. 0 or -1. */
int pyl_http_strand_cancel(struct pyl_http_strand *strand);
/* The view is being closed: lets go of what runs here for connections of other views. */
void pyl_http_strands_forget(struct pyl_loop *loop);

/* http_remote.c */

/* The types of calls from other views. */
int pyl_http_remote_types_add(PyObject *module, struct pyl_state *state);
/* receive() (message NULL) or send(message) outside of the connection's thread: an awaitable in
 * another view of the runtime, RuntimeError elsewhere. */
PyObject *pyl_http_remote_call(struct pyl_http_request *request, PyObject *message);
/* A response head that waits for its content leaves. A thread of another view. */
void pyl_http_remote_flush(struct pyl_http_request *request);
/* One that was sent elsewhere before this moment is served now: something follows it here. */
void pyl_http_remote_claim(struct pyl_http_request *request);

/* http_scope.c */

/* The scope of a request; new reference, or NULL with an exception. */
PyObject *pyl_http_scope_new(struct pyl_http_connection *connection,
                             const struct pyl_http1_head *head);

/* http_headers.c */

/* scope["headers"]; new reference, or NULL with an exception. */
PyObject *pyl_http_headers_new(struct pyl_http_server *server, const struct pyl_http1_head *head);
void pyl_http_headers_forget(struct pyl_http_server *server);

/* http_receive.c */

/* The vectorcall of receive: returns an awaitable. */
PyObject *pyl_http_receive_call(PyObject *self, PyObject *const *args, size_t count,
                                PyObject *names);
/* receive() begins: as pyl_http_receive_now(), and a client that waits for our consent gets it. */
int pyl_http_receive_begin(struct pyl_http_request *request, PyObject **ret_message);
/* Makes the message with the whole content, if that is here: the first receive() gets it in
 * whichever thread. */
void pyl_http_receive_early(struct pyl_http_request *request);
/* Takes that message: new reference or NULL. Any thread. */
PyObject *pyl_http_receive_take_early(struct pyl_http_request *request);
/* The application got the last message with content. Any thread. */
static inline void
pyl_http_receive_note_end(struct pyl_http_request *request)
{
    atomic_store_explicit(&request->is_end_seen, true, memory_order_relaxed);
}
/* What receive() gave, and nobody looked at, comes first again. Any thread; but content that more
 * follows is lost where it is let go outside of the connection's thread. */
void pyl_http_receive_give_back(struct pyl_http_request *request, PyObject *message, bool is_last);
/* Does receive() say http.disconnect, when `early` is gone? Any thread. */
bool pyl_http_receive_is_over(const struct pyl_http_request *request);
/* What receive() gives now: 1 with a new reference to the message, 2 if that is the last with
 * content, 0 when it must wait, -1. */
int pyl_http_receive_now(struct pyl_http_request *request, PyObject **ret_message);

/* http_head.c */

/* The head of a response, made of http.response.start. */
struct pyl_http_head {
    struct pyl_http1_response response;
    struct pyl_http_block *block; /* NULL: taken */
};
/* TypeError: "<what>, not <type of got>". -1. */
int pyl_http_raise_type(const char *what, PyObject *got);
/* The headers as a list or tuple of pairs. New reference or NULL. */
PyObject *pyl_http_head_fields(PyObject *headers);
int pyl_http_head_status(PyObject *status, long *ret_status);
/* Holds the head with these fields until the first content. 0 or -1. */
int pyl_http_head_start(struct pyl_http_request *request, long status, PyObject *fields);
/* Makes one for hold; nothing in `headers` changes meanwhile. Any thread. 0 or -1. */
int pyl_http_head_make(struct pyl_http_request *request, PyObject *status, PyObject *headers,
                       struct pyl_http_head *ret_head);
/* Takes the block. */
void pyl_http_head_hold(struct pyl_http_request *request, struct pyl_http_head *head);
/* A new list of the fields, none of which is a list. Any thread. New reference or NULL. */
PyObject *pyl_http_head_copy_fields(PyObject *headers);

/* http_send.c */

/* The vectorcall of send: returns an awaitable. */
PyObject *pyl_http_send_call(PyObject *self, PyObject *const *args, size_t count, PyObject *names);
/* What send(message) does: 0; 1 when it must wait for room; -1 with an exception. */
int pyl_http_send_message(struct pyl_http_request *request, PyObject *message);
bool pyl_http_send_is_start(struct pyl_state *state, PyObject *message);
/* Makes the head; `message` is a copy as below. Any thread. 0 or -1. */
int pyl_http_send_make_head(struct pyl_http_request *request, PyObject *message,
                            struct pyl_http_head *ret_head);
/* What send() does with it, if it is its turn; takes the block on success. 0 or -1. */
int pyl_http_send_put_head(struct pyl_http_request *request, struct pyl_http_head *head);
/* A copy of the message that no code of the application's can change, or the object itself if it is
 * no dict. Any thread. New reference or NULL. */
PyObject *pyl_http_send_copy_message(struct pyl_state *state, PyObject *message);
/* Lets go of a response head that nobody has seen. */
void pyl_http_send_discard_head(struct pyl_http_request *request);
/* A whole plain-text answer by the server itself, where none was begun. The connection closes after
 * it. */
void pyl_http_send_error(struct pyl_http_request *request, unsigned status, const char *text);
/* 0 when nothing blocks, 1 when the queue is too long, -1 with ClientDisconnected. */
int pyl_http_send_check(struct pyl_http_request *request);
/* At the end of this turn a head that is still held leaves alone. */
void pyl_http_send_queue_flush(struct pyl_http_request *request);
void pyl_http_send_run_flush(struct pyl_job *job);

/* http_wait.c */

/* The awaitables of receive and send. */
int pyl_http_wait_types_add(PyObject *module, struct pyl_state *state);
/* A receive() that is done with `message` (stolen), `is_last` as pyl_http_receive_note_end(): an
 * awaitable, also a Coroutine by its methods. Any thread. */
PyObject *pyl_http_ready(struct pyl_http_request *request, PyObject *message, bool is_last);
/* One that waits until receive() has a message, or send() room. */
PyObject *pyl_http_wait_new(struct pyl_http_request *request, bool is_receive);
bool pyl_http_wait_has_receiver(const struct pyl_http_request *request);
/* Lets everybody who waits look again. */
void pyl_http_wait_wake_all(struct pyl_http_request *request);
/* Only those of other views: our loop is gone. */
void pyl_http_wait_wake_remote(struct pyl_http_request *request);

#endif
