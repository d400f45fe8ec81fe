/*
 * native_task.h - native tasks awaited by coroutines; the contracts are in pyloop/python.h.
 */
#ifndef PYL_PYTHON_NATIVE_TASK_H
#define PYL_PYTHON_NATIVE_TASK_H

#define PYLOOP_PY_IS_CORE
#include <pyloop/python.h>

#include "python/loop.h"

/* pyloop_task_start(). */
PyObject *pyl_native_task_start(PyObject *core, pyloop_step *first, void *state,
                                PyObject *(*make_result)(void *state), void (*on_end)(void *state));
/* pyloop_runtime_running(). */
struct pyloop_runtime *pyl_native_runtime(PyObject *core);

/* For the end of a loop or view: cancels the tasks beside it and waits, detached, until they have
 * ended. What they post to the loop's port is on its way when this returns. Attached. */
void pyl_companion_close(struct pyl_loop *loop);
/* In the child of a fork, where its threads do not exist: forgets it. */
void pyl_companion_abandon(struct pyl_loop *loop);

#endif
