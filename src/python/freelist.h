/*
 * freelist.h - dead instances of a type kept for their memory.
 */
#ifndef PYL_PYTHON_FREELIST_H
#define PYL_PYTHON_FREELIST_H

#include "python/compat.h"

#include <stdbool.h>
#include <stdint.h>

/* Memory of dead objects of one final (not subclassed) heap type with GC, kept for the next ones.
 */
struct pyl_freelist {
    void *first; /* linked through the first word after the object header */
    uint32_t count;
    bool is_closed;
};

/* A burst of a thousand call_soon_threadsafe() is served from it, without the garbage collections
 * that so many new objects would cause. */
enum { PYL_FREELIST_MAX = 1024 };

/* Instead of PyObject_GC_New(): fields are not initialised, the object is not tracked. New
 * reference. */
PyObject *pyl_freelist_new(struct pyl_freelist *freelist, PyTypeObject *type);
/* The end of a tp_dealloc: untracked, everything cleared. Frees the memory or keeps it, and gives
 * back the reference to the type. */
void pyl_freelist_free(struct pyl_freelist *freelist, PyObject *object);
/* Frees what is kept; nothing is kept from then on. */
void pyl_freelist_close(struct pyl_freelist *freelist);

#endif
