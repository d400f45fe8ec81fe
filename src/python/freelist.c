/*
 * freelist.c - keeping the memory of dead objects, and which lists are this thread's.
 */
#include "python/module.h"

#include <string.h>

/* Free-threaded builds: of the loop that this thread runs, or NULL. A thread that forks keeps it in
 * the child, where its run ends like any other; the other threads and theirs do not exist there.
 * tidy: global because "which loop do I run" is a property of the thread, and what dies does not
 * always know a loop. */
static _Thread_local struct pyl_freelists *current_lists PYL_TLS_STATIC;

/* NULL: there are none here. */
static struct pyl_freelists *
lists_here(struct pyl_state *state)
{
    if (!PYL_FREE_THREADED) {
        return &state->freelists;
    }
    struct pyl_freelists *lists = current_lists;
    /* Not of another interpreter, whose loop runs in this thread, too. */
    return lists != NULL && lists->state == state ? lists : NULL;
}

PyObject *
pyl_freelist_new(struct pyl_state *state, enum pyl_freelist_kind kind, PyTypeObject *type)
{
    struct pyl_freelists *lists = lists_here(state);
    char *memory = PYL_LIKELY(lists != NULL) ? lists->kinds[kind].first : NULL;
    if (memory == NULL) {
        return _PyObject_GC_New(type);
    }
    memcpy(&lists->kinds[kind].first, memory + sizeof(PyObject), sizeof(void *));
    lists->kinds[kind].count--;
    return PyObject_Init((PyObject *)(void *)memory, type);
}

void
pyl_freelist_free(struct pyl_state *state, enum pyl_freelist_kind kind, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    struct pyl_freelists *lists = lists_here(state);
    if (PYL_UNLIKELY(lists == NULL || lists->is_closed ||
                     lists->kinds[kind].count >= PYL_FREELIST_MAX || !pyl_is_born_here(object))) {
        PyObject_GC_Del(object);
    } else {
        struct pyl_freelist *list = &lists->kinds[kind];
        memcpy((char *)object + sizeof(PyObject), &list->first, sizeof(void *));
        list->first = object;
        list->count++;
    }
    Py_DECREF(type);
}

static void
clear(struct pyl_freelists *lists)
{
    for (int kind = 0; kind < PYL_FREELIST_KINDS; kind++) {
        struct pyl_freelist *list = &lists->kinds[kind];
        while (list->first != NULL) {
            char *memory = list->first;
            memcpy(&list->first, memory + sizeof(PyObject), sizeof(void *));
            PyObject_GC_Del(memory); /* looks at the type, which the state still holds */
        }
        list->count = 0;
    }
}

void
pyl_freelists_close(struct pyl_freelists *lists)
{
    lists->is_closed = true;
    clear(lists);
}

struct pyl_freelists *
pyl_freelists_enter(struct pyl_freelists *lists, struct pyl_state *state)
{
    struct pyl_freelists *outer = current_lists;
    if (PYL_FREE_THREADED) {
        lists->state = state;
        current_lists = lists;
    }
    return outer;
}

void
pyl_freelists_leave(struct pyl_freelists *outer)
{
    if (PYL_FREE_THREADED) {
        clear(current_lists);
        current_lists = outer;
    }
}
