/*
 * handover.h - an accepted connection goes to the view where it will live.
 *
 * Attached thread state.
 */
#ifndef PYL_PYTHON_HANDOVER_H
#define PYL_PYTHON_HANDOVER_H

#include "python/loop.h"

/* Makes what serves the connection, in the view's thread; owns the fd. Reports what goes wrong. */
typedef void pyl_handover_fn(struct pyl_loop *view, PyObject *acceptor, int fd);

/* Calls open(view, acceptor, fd) soon, in the view's thread. If the view is closed meanwhile the fd
 * is closed. 0, or -1 with an exception: then the fd is still the caller's. */
int pyl_handover_post(struct pyl_loop *view, PyObject *acceptor, pyl_handover_fn *open, int fd);

#endif
