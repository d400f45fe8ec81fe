/*
 * task_state.h - the part of the module state that belongs to Future and Task.
 */
#ifndef PYL_PYTHON_TASK_STATE_H
#define PYL_PYTHON_TASK_STATE_H

#include "base/list.h"
#include "python/compat.h"

struct pyl_task_state {
    PyObject *context_names;                 /* ("context",): keyword names of a vectorcall */
    PyObject *coroutine_types;               /* set: types that asyncio.iscoroutine() accepted */
    PyObject *done_awaitable;                /* the one instance */
    _Atomic unsigned long long name_counter; /* any thread, relaxed: only uniqueness matters */
    struct pyl_list
        registry;          /* of pyl_task.node: the tasks that are not done; guarded by the GIL */
    bool has_own_registry; /* all_tasks() shows `registry`; never on free-threaded builds */
};

/* For the slots of the module; clear comes before the types of the state are cleared. */
int pyl_task_state_traverse(struct pyl_task_state *state, visitproc visit, void *arg);
void pyl_task_state_clear(struct pyl_task_state *state);

#endif
