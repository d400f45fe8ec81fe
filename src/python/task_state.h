/*
 * task_state.h - the part of the module state that belongs to Future and Task.
 */
#ifndef PYL_PYTHON_TASK_STATE_H
#define PYL_PYTHON_TASK_STATE_H

#include "python/compat.h"

struct pyl_future;

/* Dead instances kept for their memory, linked through pyl_future.dict; unused on free-threaded
 * builds, whose allocator has per-thread heaps. Guarded by the GIL. */
struct pyl_future_freelist {
    struct pyl_future *head;
    int count;
};

struct pyl_task_state {
    PyObject *context_names;   /* ("context",): keyword names of a vectorcall */
    PyObject *coroutine_types; /* set: types that asyncio.iscoroutine() accepted */
    PyObject *done_awaitable;  /* the one instance */
#if PYL_FREE_THREADED
    _Atomic unsigned long long name_counter; /* any thread, relaxed: only uniqueness matters */
#else
    unsigned long long name_counter; /* guarded by the GIL */
#endif
    struct pyl_future_freelist free_futures;
    struct pyl_future_freelist free_tasks;
};

/* For the slots of the module; clear comes before the types of the state are cleared. */
int pyl_task_state_traverse(struct pyl_task_state *state, visitproc visit, void *arg);
void pyl_task_state_clear(struct pyl_task_state *state);

#endif
