/*
 * task.h - our Future and Task, as the rest of the extension uses them.
 *
 * Loop thread, attached thread state. The types look like asyncio.Future and asyncio.Task to
 * isinstance() and offer their whole surface (see the guide on CPython, 1.6 and 1.7).
 */
#ifndef PYL_PYTHON_TASK_H
#define PYL_PYTHON_TASK_H

#include "python/loop.h"

/* loop.create_future(). New reference, or NULL. */
PyObject *pyl_future_new(struct pyl_loop *loop);

/* Complete a Future of ours. Nothing happens if it is done (cancelled) already. The value is
 * borrowed. 0, or -1 with an exception. */
int pyl_future_set_result(PyObject *future, PyObject *result);
int pyl_future_set_exception(PyObject *future, PyObject *exception);
bool pyl_future_is_done(PyObject *future);

/*
 * The C-level completion hook: called once, synchronously, when the future or task becomes done
 * (before its Python callbacks are scheduled), or at once if it is done. One hook per future.
 */
typedef void pyl_future_done_fn(PyObject *future, void *user);
void pyl_future_set_done_hook(PyObject *future, pyl_future_done_fn *done, void *user);
/* Takes the hook away if it did not run: `user` is about to die. */
void pyl_future_clear_done_hook(PyObject *future);

/* The outcome of a done future, without marking the exception as retrieved unless asked:
 * 0 result in *ret (new reference), 1 exception in *ret (new), 2 cancelled (*ret NULL). */
int pyl_future_outcome(PyObject *future, bool is_retrieved, PyObject **ret);

/*
 * A Task for `coro`, in `context` (NULL: a copy of the current one). The first step runs inside
 * this call, in the context, with current_task() right; a coroutine that finishes in it is never
 * queued nor registered, unless is_shown: asyncio.all_tasks() has it from that step on, on every
 * version (else from 3.14 on only when it has waited). name NULL: numbered lazily. New reference,
 * or NULL with an exception (the coroutine is then not started).
 */
PyObject *pyl_task_new(struct pyl_loop *loop, PyObject *coro, PyObject *name, PyObject *context,
                       bool is_shown);

/* The same for loop.create_task(): an eager task is in asyncio.all_tasks() during its first step,
 * and no task is eager before the loop runs. */
PyObject *pyl_task_create(struct pyl_loop *loop, PyObject *coro, PyObject *name, PyObject *context,
                          bool is_eager);

/* task.cancel(msg): 1 if a cancellation was requested, 0 if it is done already, -1 with an
 * exception. */
int pyl_task_request_cancel(PyObject *task, PyObject *message);

/* An awaitable that is done already with None: `await x` costs no suspension. New reference to one
 * shared object of the module. */
PyObject *pyl_done_awaitable(struct pyl_state *state);

#endif
