/*
 * coroutine_wait.h - native tasks that wait for coroutines; the contract is in pyloop/python.h.
 */
#ifndef PYL_PYTHON_COROUTINE_WAIT_H
#define PYL_PYTHON_COROUTINE_WAIT_H

#define PYLOOP_PY_IS_CORE
#include <pyloop/python.h>

/* pyloop_wait_coroutine(). */
void pyl_wait_coroutine(struct pyloop_task *task, struct pyloop_port *port, pyloop_make *make,
                        pyloop_take *take, void *argument, pyloop_step *next);

#endif
