/*
 * outside.h - calls and coroutines that any thread has a loop run, and memory of C seen by Python;
 * the contracts are in pyloop/python.h.
 */
#ifndef PYL_PYTHON_OUTSIDE_H
#define PYL_PYTHON_OUTSIDE_H

#define PYLOOP_PY_IS_CORE
#include <pyloop/python.h>

#include "python/port.h"

/* A coroutine that is run by a loop; embedded. */
struct pyl_coroutine {
    struct pyl_port_item item; /* object: the task; loop's thread */
    pyloop_make *make;
    pyloop_coroutine_done *done; /* NULL: it was called */
    void *argument;
    void (*release)(struct pyl_coroutine *coroutine); /* nothing uses it any more; any thread */
};

/* pyloop_coroutine_start() with make, done, argument and release set by the caller. On failure it
 * is the caller's, and nothing is called. */
PYL_NODISCARD int pyl_coroutine_start(struct pyl_coroutine *coroutine, struct pyloop_port *port);

/* pyloop_port_call(). */
int pyl_outside_call(struct pyloop_port *port, void (*call)(void *argument), pyloop_drop *drop,
                     void *argument);
/* pyloop_coroutine_start(). */
int pyl_outside_coroutine(struct pyloop_port *port, pyloop_make *make, pyloop_coroutine_done *done,
                          void *argument);
/* pyloop_lend(). */
PyObject *pyl_outside_lend(PyObject *core, void *data, size_t size, int is_writable,
                           void (*release)(void *owner), void *owner);

#endif
