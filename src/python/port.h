/*
 * port.h - the way into a loop for threads without a thread state, and what waits there.
 *
 * A port is counted and may outlive its loop: whoever has a reference may post, and is told when
 * the loop is closed. An item is queued in the loop's worker like any job; while Python objects
 * hang on it, it is held by the port, so that the garbage collector sees them and close() lets go
 * of them.
 */
#ifndef PYL_PYTHON_PORT_H
#define PYL_PYTHON_PORT_H

#include "python/loop.h"

struct pyloop_port;

/* Embedded in the object that is posted. */
struct pyl_port_item {
    struct pyl_job job;
    struct pyl_list held;     /* in the port, loop's thread; next NULL: it is not */
    struct pyloop_port *port; /* counted */
    /* Owned, or NULL. Written in the loop's thread, under the port's lock; other threads read it
     * under that lock. */
    PyObject *object;
    /* Loop's thread, attached; `loop` NULL: it is closed. The item is the callee's. */
    void (*run)(struct pyl_port_item *item, struct pyl_loop *loop);
    /* The loop is closed, and `object` is let go after this; attached. NULL: nothing to do. */
    void (*on_closed)(struct pyl_port_item *item);
    /* The last one that uses the item frees it: see pyl_port_give_up(). Attached. */
    void (*free)(struct pyl_port_item *item);
    bool is_given_up; /* guarded by the port's lock */
};

/* The port of the loop that runs in this thread (borrowed from the loop), or NULL with an
 * exception. *ret_loop is a new reference. Attached. */
struct pyloop_port *pyl_port_running(PyObject *core, struct pyl_loop **ret_loop);
/* The same as a reference of the caller's. */
struct pyloop_port *pyl_port_get_running(PyObject *core);

/* Any thread. */
void pyl_port_ref(struct pyloop_port *port);
void pyl_port_unref(struct pyloop_port *port);

/* The item gets a reference to the port. */
void pyl_port_item_init(struct pyl_port_item *item, struct pyloop_port *port);

/* The item keeps `object` (steals it) until pyl_port_take() or the end of the loop. Loop's
 * thread, attached. */
void pyl_port_hold(struct pyl_port_item *item, PyObject *object);
/* Gives back what it keeps: the reference is the caller's, NULL after the end of the loop. */
PyObject *pyl_port_take(struct pyl_port_item *item);

/* item->run() follows, or the end of the loop comes first. Any thread. 0; -ECANCELED when the loop
 * is closed. */
PYL_NODISCARD int pyl_port_post(struct pyl_port_item *item);

/* After -ECANCELED: true if the item is the caller's to free, false if the thread that closes the
 * loop is still at it and will call item->free(). Any thread. */
PYL_NODISCARD bool pyl_port_give_up(struct pyl_port_item *item);

/* The object is a pending future of ours. Any thread. */
bool pyl_port_is_pending(struct pyl_port_item *item);

/* If it is the job of an item, taken out of its queue when the loop ends: has it dropped. */
bool pyl_port_drop_job(struct pyl_job *job);

/* The loop is closed: nothing can be posted from now on, what is held is let go. Attached. */
void pyl_port_close(struct pyl_loop *loop);
/* In the child of a fork: the lock may be anybody's. pyl_port_close() is still to come. */
void pyl_port_abandon(struct pyl_loop *loop);
/* This process is a child of the one that made the port. Any thread. */
bool pyl_port_is_abandoned(const struct pyloop_port *port);
/* For the loop's tp_traverse. */
int pyl_port_traverse(struct pyl_loop *loop, visitproc visit, void *arg);

#endif
