/*
 * transport.h - StreamTransport: asyncio.Transport over a pyl_stream, for the files transport_*.c,
 * the listener and the sendfile glue.
 *
 * Life:  open (entry in loop->fds)  --close, abort, error-->  closing  --on_lost-->  lost
 *        --on_closed-->  closed
 * connection_lost is called at on_lost, asyncio's moment. The entry in loop->fds is dropped at
 * on_closed; until then the stream's ops may refer to this memory.
 *
 * Loop thread, attached thread state, everywhere.
 */
#ifndef PYL_PYTHON_TRANSPORT_H
#define PYL_PYTHON_TRANSPORT_H

#include "python/views.h"

#include "io/stream.h"

#include <netinet/in.h>

/* asyncio's defaults: constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES, _FlowControlMixin. */
enum { PYL_LOST_WRITES_BEFORE_WARNING = 5, PYL_HIGH_WATER = 64 * 1024 };

/* What few connections have, or have asked for. Under the transport's critical section. */
struct pyl_transport_info {
    PyObject *sock;     /* owns the fd; NULL: the stream does */
    PyObject *given;    /* the constructor's `extra`, or NULL */
    PyObject *trsock;   /* TransportSocket handed out, or NULL */
    PyObject *sockname; /* NULL: not asked for yet */
    PyObject *peername;
    struct sockaddr_in6 accepted_peer; /* as in struct pyl_transport, IPv6; family 0: none */
};

/* An idle connection is little more than this: on builds with a GIL it just fits into 448 bytes,
 * which makes 464 with the garbage collector's part. */
struct pyl_transport {
    PyObject_HEAD
    /* The place of the slots of asyncio's BaseTransport and _FlowControlMixin, which
     * loop.sendfile() asks for. Nothing but these descriptors' own attributes, all of which are
     * overridden, would see what is here. */
    PyObject *extra; /* `_extra`: NULL until somebody reads it; then the whole dictionary, which
                      * get_extra_info() looks at first */
    struct pyl_loop *loop; /* NULL after connection_lost */
    PyObject *protocol;    /* NULL after connection_lost */
    PyObject *context;     /* every call from I/O to the protocol runs in it */
    PyObject *server;      /* asyncio's Server we are attached to, or NULL */

    struct pyl_state *state; /* kept alive by the type */
    /* data_received or buffer_updated; NULL: not looked up. A plain method is kept as its function,
     * to be called with the protocol before its argument, if is_read_unbound. */
    PyObject *read_method;
    Py_buffer *view;                 /* a BufferedProtocol's memory, lent to the stream; or NULL */
    PyObject *error;                 /* what connection_lost gets, or NULL for None */
    PyObject *empty_waiter;          /* of sendfile, which alone may then use our fd; or NULL */
    struct pyl_transport_info *info; /* NULL: nothing; see pyl_transport_need_info() */

    /* The peer of an accepted IPv4 connection, taken while it was sure; port 0: none. */
    struct in_addr accepted_address;
    in_port_t accepted_port;

    /* Flags of one thread: the loop's. */
    bool is_buffered : 1;     /* protocol is a BufferedProtocol */
    bool feeds_reader : 1;    /* protocol is our streams' own: fed without a call (reader.h) */
    bool is_read_unbound : 1; /* see read_method */
    bool is_losing : 1;       /* connection_lost is due: the protocol hears of nothing else */
    bool is_lost : 1;         /* connection_lost was called, or never opened */
    bool is_closed : 1;       /* the fd is not ours any more */
    bool is_detached : 1;     /* the loop is gone: no call may reach the stream */
    bool is_guest : 1;        /* counted by pyl_views_count_guest() */
    bool is_start_queued : 1; /* start_job is queued */
    bool is_lost_due : 1;     /* the stream was lost before start_job ran */
    bool has_io_ref : 1;      /* sock._io_refs was raised */
    /* The same; Python may look at them. */
    bool is_closing;
    bool is_paused;          /* pause_reading() */
    bool has_sent_eof;       /* write_eof() */
    bool is_protocol_paused; /* pause_writing() was called last */

    uint32_t lost_writes; /* asyncio's _conn_lost: 1 for the loss, and writes since closing */
    size_t high_water;
    size_t low_water;
    struct pyl_job start_job;
    struct pyl_stream stream;

    PyObject *dict;
    PyObject *weakrefs;
};

struct pyl_transport_args {
    PyObject *protocol;
    PyObject *context; /* NULL: a copy of the current one */
    PyObject *waiter;  /* future, or NULL */
    PyObject *extra;   /* dict, or NULL */
    PyObject *server;  /* or NULL */
    bool is_tcp;       /* known to be a TCP socket */
};

/* ---- transport.c: making and closing ---- */

/* Owns `sock` (a Python socket), or `fd` when sock is NULL; on failure neither is closed.
 * connection_made, then reading, then the waiter's result follow through the loop's ready queue.
 * New reference, or NULL. */
PyObject *pyl_transport_open(struct pyl_loop *loop, int fd, PyObject *sock,
                             const struct pyl_transport_args *args);
int pyl_transport_set_protocol(struct pyl_transport *transport, PyObject *protocol);
void pyl_transport_close(struct pyl_transport *transport);
/* Tries to send the queue now. A failure makes the transport closing at once, as asyncio's write()
 * does; connection_lost follows. */
void pyl_transport_flush(struct pyl_transport *transport);
/* asyncio's _force_close(): what the kernel takes at once is still sent, the rest is dropped.
 * `error` (borrowed, may be NULL) is for connection_lost. */
void pyl_transport_force_close(struct pyl_transport *transport, PyObject *error);
/* The job behind connection_made: starts reading. Its being queued holds a reference. */
void pyl_transport_start_run(struct pyl_job *job);
/* For fd_table.c, when the loop closes. */
void pyl_transport_detach(struct pyl_transport *transport);
/* After connection_lost: detaches from the server, forgets the protocol. */
void pyl_transport_let_go(struct pyl_transport *transport);
/* Gives the fd back: forgets it and the loop, closes the Python socket. May free the transport. */
void pyl_transport_end(struct pyl_transport *transport);

/* Parallel mode: another thread runs the transport's view. Methods that change something are then
 * called there, in a moment: pyl_transport_post_home(). */
static inline bool
pyl_transport_is_elsewhere(const struct pyl_transport *transport)
{
    return pyl_views_is_elsewhere(transport->loop);
}

/* Calls the method of that name in the view's thread; argument (borrowed) may be NULL. None, or
 * NULL with an exception. */
PyObject *pyl_transport_post_home(struct pyl_transport *transport, const char *method,
                                  PyObject *argument);

/* ---- transport_protocol.c: from the stream to the protocol ---- */

extern const struct pyl_stream_ops pyl_transport_stream_ops;
/* connection_lost and the end; the caller holds a reference. */
void pyl_transport_lose(struct pyl_transport *transport);
/* Called with an exception set, which is consumed: asyncio's _fatal_error(). */
void pyl_transport_fatal_error(struct pyl_transport *transport, const char *message);
/* call_exception_handler({message, exception, transport, protocol}); consumes the reference to the
 * exception. */
void pyl_transport_report(struct pyl_transport *transport, const char *message,
                          PyObject *exception);
/* logger.debug(text, transport) */
void pyl_transport_log_debug(struct pyl_transport *transport, const char *text);

/* Ends the export of the memory that get_buffer() gave, if there is one. */
static inline void
pyl_transport_return_view(struct pyl_transport *transport)
{
    Py_buffer *view = transport->view;
    if (view != NULL) {
        transport->view = NULL; /* before the exporter's code runs */
        PyBuffer_Release(view);
        PyMem_Free(view);
    }
}

/* ---- transport_write.c ---- */

/* Methods of the type, as asyncio documents them; the last two are for sendfile. */
PyObject *pyl_transport_write(PyObject *self, PyObject *data);
/* See above. */
PyObject *pyl_transport_writelines(PyObject *self, PyObject *list);
/* See above. */
PyObject *pyl_transport_write_eof(PyObject *self, PyObject *unused);
/* See above. */
PyObject *pyl_transport_get_write_buffer_size(PyObject *self, PyObject *unused);
/* See above. */
PyObject *pyl_transport_get_write_buffer_limits(PyObject *self, PyObject *unused);
/* See above. */
PyObject *pyl_transport_set_write_buffer_limits(PyObject *self, PyObject *args, PyObject *kwargs);
/* See above. */
PyObject *pyl_transport_make_empty_waiter(PyObject *self, PyObject *unused);
/* See above. */
PyObject *pyl_transport_reset_empty_waiter(PyObject *self, PyObject *unused);
/* TypeError for what is neither bytes, bytearray nor memoryview. 0 or -1. */
int pyl_transport_check_data(PyObject *data);
/* asyncio drops what is written to a lost connection and complains from the fifth time on. Counts
 * one such write. 0 or -1. */
int pyl_transport_count_lost(struct pyl_state *state, uint32_t *lost_writes);
/* The queue got shorter: resume_writing and the empty waiter. */
void pyl_transport_after_progress(struct pyl_transport *transport);
/* Ends the empty waiter, if there is one and it is not done: with None when exception is NULL. */
void pyl_transport_settle_waiter(struct pyl_transport *transport, PyObject *exception);

/* ---- transport_info.c ---- */

/* Makes it if there is none; NULL with MemoryError. */
struct pyl_transport_info *pyl_transport_need_info(struct pyl_transport *transport);
/* For the garbage collector, and at the end. */
int pyl_transport_info_traverse(struct pyl_transport *transport, visitproc visit, void *arg);
void pyl_transport_info_clear(struct pyl_transport *transport);

/* The Python socket that owns the fd (borrowed), or NULL: the stream does. */
static inline PyObject *
pyl_transport_own_socket(const struct pyl_transport *transport)
{
    return transport->info != NULL ? transport->info->sock : NULL;
}

/* The method of the type. */
PyObject *pyl_transport_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs);
/* The whole dictionary (borrowed), or NULL. */
PyObject *pyl_transport_extra(struct pyl_transport *transport);
/* The Python socket that owns the fd (borrowed), made now if there was none; NULL with an
 * exception. After the end: a closed socket. */
PyObject *pyl_transport_socket(struct pyl_transport *transport);
/* Asks a socket of the user's for both addresses at once, as asyncio does. 0 or -1. */
int pyl_transport_ask_names(struct pyl_transport *transport);
/* Remembers the addresses that can be asked for only while the fd is open. */
void pyl_transport_keep_names(struct pyl_transport *transport);

#endif
