/*
 * port.c - the lock that keeps a loop's worker alive while another thread posts to it.
 *
 * Invariant: while port->loop is set, the worker's inbox may be posted to; pyl_port_close() unsets
 * it under the lock before the queues are emptied, so nothing is posted to where nobody looks. The
 * wake-up is written after the lock, see loop_post.h: the loop's thread takes it, too.
 */
#include "python/port.h"

#include <errno.h>

#include "base/alloc.h"
#include "python/future.h"

struct pyloop_port {
    _Atomic uint32_t references; /* any thread */
    pthread_mutex_t lock;
    struct pyl_loop *loop; /* guarded by lock; NULL: closed. Its own thread reads without */
    struct pyl_list items; /* of pyl_port_item.held; loop's thread */
    bool is_abandoned;     /* set in the child of a fork, which has one thread then */
};

/* ---- life ---- */

void
pyl_port_ref(struct pyloop_port *port)
{
    (void)atomic_fetch_add_explicit(&port->references, 1, memory_order_relaxed);
}

void
pyl_port_unref(struct pyloop_port *port)
{
    /* Acquire-release: whoever frees it comes after what all others did with it. */
    if (atomic_fetch_sub_explicit(&port->references, 1, memory_order_acq_rel) == 1) {
        pthread_mutex_destroy(&port->lock);
        pyl_free(port);
    }
}

static struct pyloop_port *
port_of(struct pyl_loop *loop)
{
    if (loop->port != NULL) {
        return loop->port;
    }
    struct pyloop_port *port = pyl_alloc_zero(sizeof(*port));
    if (port == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    atomic_init(&port->references, 1);
    pthread_mutex_init(&port->lock, NULL);
    pyl_list_init(&port->items);
    port->loop = loop;
    loop->port = port;
    return port;
}

struct pyloop_port *
pyl_port_running(PyObject *core, struct pyl_loop **ret_loop)
{
    struct pyl_state *state = pyl_state_of_module(core);
    PyObject *running = PyObject_CallNoArgs(state->get_running_loop);
    if (running == NULL) {
        return NULL;
    }
    struct pyl_loop *loop = pyl_loop_cast(state, running);
    if (loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, Py_IsNone(running) ? "no running event loop"
                                                               : "the running event loop is no "
                                                                 "pyloop.Loop");
    }
    struct pyloop_port *port =
        loop != NULL && pyl_loop_check_usable(loop) == 0 ? port_of(loop) : NULL;
    if (port == NULL) {
        Py_DECREF(running);
        return NULL;
    }
    *ret_loop = loop;
    return port;
}

struct pyloop_port *
pyl_port_get_running(PyObject *core)
{
    struct pyl_loop *loop;
    struct pyloop_port *port = pyl_port_running(core, &loop);
    if (port != NULL) {
        pyl_port_ref(port);
        Py_DECREF(loop);
    }
    return port;
}

/* ---- items ---- */

static void
run_item(struct pyl_job *job)
{
    struct pyl_port_item *item = PYL_CONTAINER_OF(job, struct pyl_port_item, job);
    item->run(item, item->port->loop);
}

void
pyl_port_item_init(struct pyl_port_item *item, struct pyloop_port *port)
{
    item->job.run = run_item;
    item->port = port;
    pyl_port_ref(port);
}

static void
set_object(struct pyl_port_item *item, PyObject *object)
{
    pthread_mutex_lock(&item->port->lock);
    item->object = object;
    pthread_mutex_unlock(&item->port->lock);
}

void
pyl_port_hold(struct pyl_port_item *item, PyObject *object)
{
    pyl_list_append(&item->port->items, &item->held);
    set_object(item, object);
}

PyObject *
pyl_port_take(struct pyl_port_item *item)
{
    PyObject *object = item->object;
    if (object != NULL) {
        pyl_list_remove(&item->held);
        set_object(item, NULL);
    }
    return object;
}

int
pyl_port_post(struct pyl_port_item *item)
{
    struct pyloop_port *port = item->port;
    struct pyl_loop *to_signal = NULL;
    int rc = -ECANCELED;
    /* A reference of the caller's keeps the port until the lock is free: the item may run, and
     * give its own back, before this returns. */
    pyl_port_ref(port);
    pthread_mutex_lock(&port->lock);
    if (port->loop != NULL) {
        to_signal = pyl_loop_queue_remote(port->loop, &item->job) ? port->loop : NULL;
        rc = 0;
    }
    pthread_mutex_unlock(&port->lock);
    if (to_signal != NULL) {
        pyl_loop_signal(to_signal);
    }
    pyl_port_unref(port);
    return rc;
}

bool
pyl_port_give_up(struct pyl_port_item *item)
{
    pthread_mutex_lock(&item->port->lock);
    bool is_free = item->object == NULL;
    item->is_given_up = true;
    pthread_mutex_unlock(&item->port->lock);
    return is_free;
}

bool
pyl_port_is_pending(struct pyl_port_item *item)
{
    pthread_mutex_lock(&item->port->lock);
    bool is_pending =
        item->object != NULL && pyl_future_cast(item->object)->status == PYL_FUTURE_PENDING;
    pthread_mutex_unlock(&item->port->lock);
    return is_pending;
}

bool
pyl_port_drop_job(struct pyl_job *job)
{
    if (job->run != run_item) {
        return false;
    }
    struct pyl_port_item *item = PYL_CONTAINER_OF(job, struct pyl_port_item, job);
    item->run(item, NULL);
    return true;
}

/* ---- the end of the loop ---- */

/* While `object` is set nobody else frees the item; who has given it up by then leaves it to us. */
static void
let_go(struct pyl_port_item *item)
{
    if (item->on_closed != NULL) {
        item->on_closed(item);
    }
    pyl_list_remove(&item->held);
    pthread_mutex_lock(&item->port->lock);
    PyObject *object = item->object;
    item->object = NULL;
    bool is_given_up = item->is_given_up;
    pthread_mutex_unlock(&item->port->lock);
    if (is_given_up) {
        item->free(item);
    }
    Py_DECREF(object);
}

void
pyl_port_close(struct pyl_loop *loop)
{
    struct pyloop_port *port = loop->port;
    if (port == NULL) {
        return;
    }
    loop->port = NULL;
    pthread_mutex_lock(&port->lock);
    port->loop = NULL;
    pthread_mutex_unlock(&port->lock);
    while (!pyl_list_is_empty(&port->items)) {
        let_go(PYL_CONTAINER_OF(port->items.next, struct pyl_port_item, held));
    }
    pyl_port_unref(port);
}

void
pyl_port_abandon(struct pyl_loop *loop)
{
    if (loop->port != NULL) {
        pthread_mutex_init(&loop->port->lock, NULL);
        loop->port->loop = NULL;
        loop->port->is_abandoned = true;
    }
}

bool
pyl_port_is_abandoned(const struct pyloop_port *port)
{
    return port->is_abandoned;
}

int
pyl_port_traverse(struct pyl_loop *loop, visitproc visit, void *arg)
{
    if (loop->port == NULL) {
        return 0;
    }
    struct pyl_list *head = &loop->port->items;
    for (struct pyl_list *link = head->next; link != head; link = link->next) {
        Py_VISIT(PYL_CONTAINER_OF(link, struct pyl_port_item, held)->object);
    }
    return 0;
}
