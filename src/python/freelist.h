/*
 * freelist.h - dead instances of our hottest types, kept for their memory.
 *
 * With a GIL the module's state has one set of lists, for all threads. On free-threaded builds each
 * loop has a set, which only the thread that runs the loop uses, and only during the run: it is
 * empty before and after. What is made or dies elsewhere comes from the allocator and goes there.
 *
 * On free-threaded builds a dead object is kept only if it was born in the same thread and its
 * reference count was never merged (by another thread that held it, or by a weak reference). Its
 * memory is then of this thread's heap, from which the garbage collector takes an object's owner.
 */
#ifndef PYL_PYTHON_FREELIST_H
#define PYL_PYTHON_FREELIST_H

#include "python/compat.h"

#include "base/platform.h"

#include <stdbool.h>
#include <stdint.h>

struct pyl_state;

/* One final (not subclassed) heap type with GC each. */
enum pyl_freelist_kind {
    PYL_FREELIST_HANDLE, /* and _ThreadSafeHandle, which is of the same size */
    PYL_FREELIST_TIMER_HANDLE,
    PYL_FREELIST_FUTURE,
    PYL_FREELIST_TASK,
    PYL_FREELIST_READ,
    PYL_FREELIST_DRAIN,
    PYL_FREELIST_HTTP_REQUEST,
    PYL_FREELIST_HTTP_CALL,
    PYL_FREELIST_HTTP_READY,
    PYL_FREELIST_KINDS
};

struct pyl_freelist {
    void *first; /* linked through the first word after the object header */
    uint32_t count;
    bool is_closed;
};

struct pyl_freelists {
    struct pyl_freelist kinds[PYL_FREELIST_KINDS];
    struct pyl_state *state; /* free-threaded builds: whose types these are of */
};

/* A burst of a thousand call_soon_threadsafe() is served from it, without the garbage collections
 * that so many new objects would cause. */
enum { PYL_FREELIST_MAX = 1024 };

/* Free-threaded builds: of the loop that this thread runs, or NULL. Only freelist.c assigns. */
extern _Thread_local struct pyl_freelists *pyl_freelists_current PYL_TLS_STATIC;

/* The list is that of pyl_freelist_of() (module.h), in the same thread. */

/* Instead of PyObject_GC_New(): fields are not initialised, the object is not tracked. New
 * reference, or NULL with an exception. */
PyObject *pyl_freelist_new(struct pyl_freelist *list, PyTypeObject *type);
/* The end of a tp_dealloc: untracked, everything cleared. Frees the memory or keeps it, and gives
 * back the reference to the type. */
void pyl_freelist_free(struct pyl_freelist *list, PyObject *object);

/* Frees what is kept; nothing is kept from then on. Before the types go. */
void pyl_freelists_close(struct pyl_freelists *lists);

/* This thread begins to run the loop that has these lists, on free-threaded builds; elsewhere
 * nothing happens. Returns those used until now, or NULL, for pyl_freelists_leave(). */
struct pyl_freelists *pyl_freelists_enter(struct pyl_freelists *lists, struct pyl_state *state);
/* The same thread, attached, ends the run: frees what is kept. */
void pyl_freelists_leave(struct pyl_freelists *outer);

#endif
