/*
 * freelist.c - keeping the memory of dead objects, and which lists are this thread's.
 */
#include "python/module.h"

#include <string.h>

/* A thread that forks keeps it in the child, where its run ends like any other; the other threads
 * and theirs do not exist there. A property of the thread, because what dies does not always know a
 * loop. */
_Thread_local struct pyl_freelists *pyl_freelists_current PYL_TLS_STATIC;

PyObject *
pyl_freelist_new(struct pyl_freelist *list, PyTypeObject *type)
{
    char *memory = PYL_FREE_THREADED && PYL_UNLIKELY(list == NULL) ? NULL : list->first;
    if (memory == NULL) {
        return _PyObject_GC_New(type);
    }
    memcpy(&list->first, memory + sizeof(PyObject), sizeof(void *));
    list->count--;
    return PyObject_Init((PyObject *)(void *)memory, type);
}

void
pyl_freelist_free(struct pyl_freelist *list, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if ((PYL_FREE_THREADED && list == NULL) || list->is_closed || list->count >= PYL_FREELIST_MAX ||
        !pyl_is_born_here(object)) {
        PyObject_GC_Del(object);
    } else {
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
    clear(lists);
    for (int kind = 0; kind < PYL_FREELIST_KINDS; kind++) {
        lists->kinds[kind].is_closed = true;
    }
}

struct pyl_freelists *
pyl_freelists_enter(struct pyl_freelists *lists, struct pyl_state *state)
{
    struct pyl_freelists *outer = pyl_freelists_current;
    if (PYL_FREE_THREADED) {
        lists->state = state;
        pyl_freelists_current = lists;
    }
    return outer;
}

void
pyl_freelists_leave(struct pyl_freelists *outer)
{
    if (PYL_FREE_THREADED) {
        clear(pyl_freelists_current);
        pyl_freelists_current = outer;
    }
}
