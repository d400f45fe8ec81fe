/*
 * listener.h - ServerSocket: accepts on one listening socket for loop._start_serving().
 *
 * Loop thread, attached thread state.
 */
#ifndef PYL_PYTHON_LISTENER_H
#define PYL_PYTHON_LISTENER_H

#include "python/loop.h"

#include "io/listener.h"

struct pyl_server_socket {
    PyObject_HEAD
    struct pyl_loop *loop; /* NULL when closed */
    PyObject *sock;        /* the user's listening socket; closed by us at the end */
    PyObject *factory;     /* makes the protocol */
    PyObject *server;      /* asyncio's Server, or NULL */
    PyObject *context;     /* factory and connections run in copies of it */
    PyObject *accept;      /* NULL: plain transports are made here; else accept(loop, fd) */
    PyObject *weakrefs;
    struct pyl_departed departed; /* in loop->fds.departed, from close() to on_closed */
    int fd;
    _Atomic bool is_open; /* entry in loop->fds; written in the loop's thread */
    bool is_detached;     /* the loop is gone */
    bool is_tcp;
    struct pyl_listener listener;
};

/* For fd_table.c, when the loop closes. */
void pyl_listener_detach(struct pyl_server_socket *server_socket);

#endif
