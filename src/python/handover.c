/*
 * handover.c - the object that carries an accepted fd through the queue of another view.
 *
 * Invariant: it is in exactly one queue, which holds the only reference, and owns the fd.
 */
#include "python/handover.h"

#include "python/views.h"

struct handover {
    PyObject_HEAD
    struct pyl_loop *view;
    PyObject *acceptor;
    pyl_handover_fn *open;
    int fd;
    struct pyl_job job;
};

static void
run(struct pyl_job *job)
{
    struct handover *self = PYL_CONTAINER_OF(job, struct handover, job);
    self->open(self->view, self->acceptor, self->fd);
    pyl_views_count_coming(self->view, -1);
    Py_DECREF(self);
}

static void
drop(struct pyl_job *job)
{
    struct handover *self = PYL_CONTAINER_OF(job, struct handover, job);
    pyl_reactor_close_now(&self->view->worker->reactor, self->fd);
    pyl_views_count_coming(self->view, -1);
    Py_DECREF(self);
}

int
pyl_handover_post(struct pyl_loop *view, PyObject *acceptor, pyl_handover_fn *open, int fd)
{
    struct handover *self = PyObject_GC_New(struct handover, view->state->handover_type);
    if (self == NULL) {
        return -1;
    }
    self->view = (struct pyl_loop *)(void *)Py_NewRef((PyObject *)view);
    self->acceptor = Py_NewRef(acceptor);
    self->open = open;
    self->fd = fd;
    self->job = (struct pyl_job){.run = run};
    PyObject_GC_Track(self);
    pyl_views_count_coming(view, 1); /* or the next ones would all go there, too */
    if (!pyl_loop_post(view, &self->job)) {
        pyl_views_count_coming(view, -1);
        Py_DECREF(self);
        return pyl_loop_check_usable(view);
    }
    return 0;
}

/* ---- the type ---- */

static int
handover_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct handover *self = (struct handover *)(void *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->view);
    Py_VISIT(self->acceptor);
    return 0;
}

static void
handover_dealloc(PyObject *op)
{
    struct handover *self = (struct handover *)(void *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_DECREF(self->acceptor);
    Py_DECREF(self->view);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyType_Slot handover_slots[] = {
    {Py_tp_dealloc, handover_dealloc},
    {Py_tp_traverse, handover_traverse},
    {0, NULL},
};

static PyType_Spec handover_spec = {
    .name = "pyloop._core.Handover",
    .basicsize = sizeof(struct handover),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = handover_slots,
};

int
pyl_handover_type_add(PyObject *module, struct pyl_state *state)
{
    pyl_state_add_job_kind_with_drop(state, run, offsetof(struct handover, job), drop);
    return pyl_add_type(module, &handover_spec, NULL, false, &state->handover_type);
}
