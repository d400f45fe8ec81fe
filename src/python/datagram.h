/*
 * datagram.h - DatagramCore: the part of pyloop's DatagramTransport that is used for each datagram.
 *
 * The life of the transport (close, abort, connection_lost, flow control) is asyncio's own Python
 * code, in python/pyloop/_datagram.py, working on the fields of this half.
 *
 * Life:  _open (entry in loop->fds)  --_shut-->  departed (until the ops have ended)
 *
 * Loop thread, attached thread state, everywhere.
 */
#ifndef PYL_PYTHON_DATAGRAM_H
#define PYL_PYTHON_DATAGRAM_H

#include "python/loop.h"

#include "io/datagram.h"

/* An address in both its forms; object NULL: none. The object cannot change. */
struct pyl_known_address {
    PyObject *object;
    struct pyl_sockaddr address;
};

struct pyl_datagram {
    PyObject_HEAD
    PyObject *slots[5]; /* asyncio's _FlowControlMixin: used by its own code only */
    struct pyl_state *state;
    struct pyl_loop *loop;             /* from _open on */
    PyObject *context;                 /* every call from I/O to the protocol runs in it */
    PyObject *protocol;                /* asyncio's `_protocol`; NULL: none */
    PyObject *received_method;         /* bound datagram_received; NULL: not looked up */
    PyObject *remote_address;          /* asyncio's `_address`: where all must be sent, or NULL */
    struct pyl_known_address sender;   /* of the last datagram received */
    struct pyl_known_address receiver; /* of the last one sent to another address */
    Py_ssize_t high_water;             /* what may be queued until the protocol is told to pause */
    int fd;
    int family;
    uint32_t lost_writes; /* asyncio's `_conn_lost` */
    bool is_connected;    /* nothing is sent with an address */
    bool is_open;         /* entry in loop->fds */
    bool is_detached;     /* the loop is gone */
    bool is_user_call;    /* the queue is flushed inside a call of the user's: in its context */
    struct pyl_departed departed; /* in loop->fds.departed, from _shut() to on_closed */
    struct pyl_datagram_socket socket;
};

extern const struct pyl_datagram_ops pyl_datagram_transport_ops;

/* May the socket be used? Not after _shut(), nor when the loop is gone or was left behind by a
 * fork. */
static inline bool
pyl_datagram_is_usable(const struct pyl_datagram *datagram)
{
    return datagram->is_open && !datagram->is_detached && !datagram->loop->is_forked_child;
}

/* Sends what is queued, from inside a call of the user's. */
void pyl_datagram_transport_flush(struct pyl_datagram *datagram);
/* Method sendto(data, addr=None) of the type. */
PyObject *pyl_datagram_sendto(PyObject *self, PyObject *const *args, Py_ssize_t count,
                              PyObject *names);
/* Method _queue(data, addr): sendto() behind its checks, with an address that needs no resolver. */
PyObject *pyl_datagram_queue(PyObject *self, PyObject *const *args, Py_ssize_t count);

/* For fd_table.c, when the loop closes. */
void pyl_datagram_detach(struct pyl_datagram *datagram);

#endif
