/*
 * fd_table.h - the open transports and listeners of a loop, by file descriptor.
 *
 * An entry is the reference that keeps a transport or listener alive while the kernel may still
 * complete its ops. It is dropped when the object is closed, or by the loop's close() in this
 * order:
 *
 *   pyl_fd_table_detach(loop);   every object cancels its ops and calls its owner no more
 *   pyl_worker_fini(...);        the ops reach their terminal events
 *   pyl_fd_table_release(loop);  the references go; what nobody else holds warns 'unclosed ...'
 *
 * Loop thread, attached thread state.
 */
#ifndef PYL_PYTHON_FD_TABLE_H
#define PYL_PYTHON_FD_TABLE_H

#include "python/module.h"

struct pyl_loop;

/* Embedded in an owner whose fd is closed before its op has ended. */
struct pyl_departed {
    struct pyl_list link;
    PyObject *owner;
};

struct pyl_fd_table {
    PyObject **owners; /* by fd; NULL where none is open */
    int size;
    struct pyl_list departed; /* of pyl_departed.link; zero until the first */
};

/* Keeps a new reference to `owner`: a transport, a listener, or the HTTP server's kinds of both. 0,
 * or -1 with MemoryError, or RuntimeError when the fd has an owner that is still open. */
int pyl_fd_table_add(struct pyl_fd_table *table, int fd, PyObject *owner);
/* Drops the reference. Does nothing if the entry is not `owner`'s. */
void pyl_fd_table_remove(struct pyl_fd_table *table, int fd, PyObject *owner);

/* A listener whose fd is closed, though its op has not ended: the reference stays, without the fd.
 */
void pyl_fd_table_depart(struct pyl_fd_table *table, int fd, PyObject *owner,
                         struct pyl_departed *departed);
/* Its op has ended: drops the reference. */
void pyl_fd_table_end(struct pyl_departed *departed);

/* For the loop's tp_traverse: the loop owns these objects. */
int pyl_fd_table_traverse(const struct pyl_fd_table *table, visitproc visit, void *arg);

/* See above. Both may be called on an empty table and twice. */
void pyl_fd_table_detach(struct pyl_loop *loop);
void pyl_fd_table_release(struct pyl_loop *loop);

/* asyncio's _ensure_fd_no_transport(): RuntimeError('File descriptor ... is used by transport ...')
 * when an open transport uses the fd; `fileobj` is what the user gave. 0 or -1. */
int pyl_fd_table_check_free(struct pyl_loop *loop, PyObject *fileobj, int fd);

#endif
