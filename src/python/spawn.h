/*
 * spawn.h - SpawnedTask: what pyloop.spawn() returns in parallel mode, a future of the caller's
 * view that stands for a task which some view of the runtime will run.
 */
#ifndef PYL_PYTHON_SPAWN_H
#define PYL_PYTHON_SPAWN_H

#include "python/loop.h"

/* _spawn(coro, name, context): in parallel mode, in a thread of the loop's. New reference or NULL.
 */
PyObject *pyl_loop_py_spawn(PyObject *self, PyObject *const *args, Py_ssize_t count);

/* The view is being closed: lets go of the tasks that were spawned, run here and are not done. */
void pyl_spawned_forget(struct pyl_loop *loop);

#endif
