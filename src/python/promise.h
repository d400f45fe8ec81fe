/*
 * promise.h - futures of a loop completed by any thread; the contracts are in pyloop/python.h.
 */
#ifndef PYL_PYTHON_PROMISE_H
#define PYL_PYTHON_PROMISE_H

#define PYLOOP_PY_IS_CORE
#include <pyloop/python.h>

#include "python/port.h"

/* pyloop_future_new(). */
PyObject *pyl_promise_new(PyObject *core, struct pyloop_promise **ret_promise);
/* pyloop_promise_complete(); make NULL: _abandon(). */
int pyl_promise_complete(struct pyloop_promise *promise, pyloop_make *make, pyloop_drop *drop,
                         void *argument);
/* pyloop_promise_is_wanted(). */
int pyl_promise_is_wanted(struct pyloop_promise *promise);

/* Completes a future of ours with make(argument), which may be NULL: None. Nothing happens if it is
 * done. What goes wrong is reported to the loop. Loop's thread, attached. */
void pyl_future_complete_by(struct pyl_loop *loop, PyObject *future, pyloop_make *make,
                            void *argument);

#endif
