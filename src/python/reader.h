/*
 * reader.h - StreamReaderCore, StreamProtocolCore and StreamWriterCore: the hot half of
 * asyncio's stream classes. The classes that people see are pyloop._streams.StreamReader and so on,
 * which inherit first from these and then from asyncio's, whose Python does everything else. The
 * fields have asyncio's names on the Python side, because that code reads and writes them.
 *
 * Loop thread, attached thread state. On free-threaded builds what changes a reader takes its
 * critical section, so that misuse from another thread corrupts nothing.
 */
#ifndef PYL_PYTHON_READER_H
#define PYL_PYTHON_READER_H

#include "python/reader_buffer.h"

struct pyl_task;

struct pyl_reader {
    PyObject_HEAD
    struct pyl_state *state; /* kept alive by the type; NULL until __init__() */
    PyObject *loop;          /* any event loop; NULL until __init__() */
    struct pyl_loop *native; /* `loop` if it is one of ours, else NULL; borrowed */
    struct pyl_reader_buffer buffer;
    PyObject *waiter;    /* future of the read that waits, or NULL */
    PyObject *exception; /* or NULL */
    PyObject *transport; /* or NULL */
    Py_ssize_t limit;
    bool is_eof;
    bool is_paused; /* we paused the transport */
};

/* All that asyncio keeps in a protocol: an instance of the class needs no dictionary. NULL stands
 * for None where nothing else is said. */
struct pyl_reader_protocol {
    PyObject_HEAD
    struct pyl_state *state;    /* kept alive by the type */
    PyObject *reader_ref;       /* weak reference to the reader */
    PyObject *strong_reader;    /* the reader until there is a connection */
    PyObject *source_traceback; /* of the reader */
    PyObject *drain_waiters;    /* deque; NULL: an empty one, made when somebody asks */
    PyObject *closed;           /* future; NULL: a pending one, made when somebody asks */
    PyObject *loop;
    PyObject *transport;
    PyObject *writer; /* for CPython before 3.13 */
    PyObject *callback;
    PyObject *task;           /* the handler */
    PyObject *task_transport; /* to be closed if it fails; NULL: it has ended, or there is none */
    bool is_reader_plain;     /* feed_data() of the reader is ours */
    bool is_paused;           /* pause_writing() was called last */
    bool is_lost;             /* connection_lost() was called */
    bool is_rejecting;        /* the writer was dropped before there was a connection */
    bool is_over_ssl;
};

struct pyl_writer {
    PyObject_HEAD
    struct pyl_state *state; /* as above */
    PyObject *transport;
    PyObject *protocol;
    PyObject *reader; /* may be None */
    PyObject *loop;
};

/* ---- reader_type.c ---- */

/* reader.feed_data(): copies the data and wakes who waits. 0, or -1 with an exception. */
int pyl_reader_feed(struct pyl_reader *reader, const void *data, size_t size);
/* The method feed_data() of the type. */
PyObject *pyl_reader_feed_data(PyObject *self, PyObject *data);
/* Lets the transport go on if the buffer is small enough again. 0 or -1. */
int pyl_reader_resume(struct pyl_reader *reader);
/* Before a wait: resumes the transport and makes the future that the next feed completes. New
 * reference, or NULL. `method` names the caller in the error. */
PyObject *pyl_reader_wait(struct pyl_reader *reader, const char *method);

/* ---- reader_read.c: read(), readline() and so on ---- */

/* Methods of the type, as asyncio documents them. Each returns a coroutine-like object. */
PyObject *pyl_reader_read(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
/* See above. */
PyObject *pyl_reader_readexactly(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                 PyObject *names);
/* See above. */
PyObject *pyl_reader_readuntil(PyObject *self, PyObject *const *args, Py_ssize_t count,
                               PyObject *names);
/* See above. */
PyObject *pyl_reader_readline(PyObject *self, PyObject *unused);
/* am_anext: the next line, StopAsyncIteration at the end. */
PyObject *pyl_reader_anext(PyObject *self);

/* ---- reader_protocol.c ---- */

/* data_received() of this protocol is ours and not overridden: it may be fed without a call. */
bool pyl_reader_protocol_is_plain(struct pyl_state *state, PyObject *protocol);
/* What data_received() does, for a plain protocol. 0, or -1 with an exception. */
int pyl_reader_protocol_feed(PyObject *protocol, const void *data, size_t size);
/* The done callback of the handler's task, as pyl_future_add_protocol() does without one until it
 * is due. New reference or NULL. */
PyObject *pyl_reader_protocol_callback(PyObject *protocol);
/* The handler's task is done: calls the callback soon, in the task's context, if it has anything to
 * do. 0, or -1 with an exception. */
int pyl_reader_protocol_handler_ended(PyObject *protocol, struct pyl_task *task);

#endif
