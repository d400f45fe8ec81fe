/*
 * crossing.c - the proxy of a future of another view, and what else is done in the view where it
 * belongs.
 *
 * Invariant: a proxy is an entry among its target's callbacks, or its job is queued in its view, or
 * it is done. Each of the first two holds one reference.
 */
#include "python/crossing.h"

#include "python/keywords.h"

struct proxy {
    struct pyl_future future;
    PyObject *target; /* the future of another view */
    struct pyl_job job;
};

static struct proxy *
proxy_cast(PyObject *object)
{
    return (struct proxy *)(void *)object;
}

/* ---- waiting ---- */

/* 1: `proxy` waits, 0: the future is done, -1. */
static int
add_proxy(struct pyl_future *future, PyObject *proxy)
{
    int rc;
    Py_BEGIN_CRITICAL_SECTION(future);
    if (future->status != PYL_FUTURE_PENDING) {
        rc = 0;
    } else {
        rc = pyl_future_add_entry(future, Py_NewRef(proxy)) < 0 ? -1 : 1;
    }
    Py_END_CRITICAL_SECTION();
    return rc;
}

PySendResult
pyl_proxy_send(struct pyl_future *future, struct pyl_loop *here, PyObject **ret)
{
    *ret = NULL;
    struct pyl_state *state = future->state;
    PyObject *proxy = (PyObject *)pyl_future_alloc(state, state->proxy_type);
    if (proxy == NULL) {
        return PYGEN_ERROR;
    }
    int rc = pyl_future_init_native(pyl_future_cast(proxy), here);
    if (rc == 0) {
        proxy_cast(proxy)->target = Py_NewRef((PyObject *)future);
        rc = add_proxy(future, proxy);
    }
    if (rc > 0) {
        pyl_future_cast(proxy)->is_blocking = true;
        *ret = proxy;
        return PYGEN_NEXT;
    }
    Py_DECREF(proxy);
    if (rc == 0) {
        *ret = pyl_future_result((PyObject *)future, NULL);
    }
    return *ret != NULL ? PYGEN_RETURN : PYGEN_ERROR;
}

/* What the future gave is read from it by the coroutine that awaits it. */
static void
run_delivery(struct pyl_job *job)
{
    struct proxy *proxy = PYL_CONTAINER_OF(job, struct proxy, job);
    if (pyl_future_set_result((PyObject *)proxy, Py_None) < 0) {
        pyl_loop_report(proxy->future.native, "Exception in the delivery of a future", "future",
                        (PyObject *)proxy);
    }
    Py_DECREF(proxy);
}

void
pyl_proxy_deliver(PyObject *object)
{
    struct proxy *proxy = proxy_cast(object);
    proxy->job.run = run_delivery;
    if (proxy->future.native == NULL || !pyl_loop_post(proxy->future.native, &proxy->job)) {
        Py_DECREF(object); /* its view is closed, or the garbage collector has been there */
    }
}

/* ---- calls into another view ---- */

int
pyl_crossing_call(struct pyl_loop *loop, PyObject *callback, struct pyl_future *future,
                  PyObject *context)
{
    PyObject *argument = (PyObject *)future;
    PyObject *handle = pyl_loop_call_soon(loop, callback, &argument, 1, context);
    if (handle == NULL && !pyl_loop_is_open(loop)) {
        PyErr_Clear();
        return 0;
    }
    Py_XDECREF(handle);
    return handle != NULL ? 0 : -1;
}

int
pyl_crossing_cancel(struct pyl_task *task, PyObject *message)
{
    struct pyl_loop *loop = task->future.native;
    if (task->future.status != PYL_FUTURE_PENDING) {
        return 0;
    }
    PyObject *cancel = PyObject_GetAttr((PyObject *)task, task->future.state->str.cancel);
    if (cancel == NULL) {
        return -1;
    }
    PyObject *argument = message != NULL ? message : Py_None;
    PyObject *handle = pyl_loop_call_soon(loop, cancel, &argument, 1, NULL);
    Py_DECREF(cancel);
    if (handle == NULL && !pyl_loop_is_open(loop)) {
        PyErr_Clear();
        return 0;
    }
    Py_XDECREF(handle);
    return handle != NULL ? 1 : -1;
}

/* ---- the type ---- */

/* The one who waits is cancelled, and with it what it waits for, as in asyncio. */
static PyObject *
proxy_cancel(PyObject *op, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct proxy *proxy = proxy_cast(op);
    struct pyl_strings *str = &proxy->future.state->str;
    PyObject *message = Py_None;
    if (pyl_argument_get("cancel", args, count, names, str->msg, &message) < 0 ||
        pyl_future_ensure_init(&proxy->future) < 0) {
        return NULL;
    }
    if (proxy->future.status != PYL_FUTURE_PENDING) {
        Py_RETURN_FALSE;
    }
    return PyObject_CallMethodOneArg(proxy->target, str->cancel, message);
}

static int
proxy_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(proxy_cast(op)->target);
    return pyl_future_traverse_fields(pyl_future_cast(op), visit, arg);
}

static int
proxy_clear(PyObject *op)
{
    pyl_future_clear_fields(pyl_future_cast(op));
    Py_CLEAR(proxy_cast(op)->target);
    return 0;
}

static void
proxy_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    if (pyl_future_cast(op)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)proxy_clear(op);
    pyl_future_free(pyl_future_cast(op));
}

static PyMethodDef proxy_methods[] = {
    {"cancel", (PyCFunction)(void (*)(void))proxy_cancel, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("Cancels the future that this one stands for.")},
    {NULL},
};

static PyMemberDef proxy_members[] = {
    {"_target", Py_T_OBJECT_EX, offsetof(struct proxy, target), Py_READONLY, NULL},
    {NULL},
};

static PyType_Slot proxy_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Stands for a future of another view where it is awaited.")},
    {Py_tp_dealloc, proxy_dealloc},
    {Py_tp_traverse, proxy_traverse},
    {Py_tp_clear, proxy_clear},
    {Py_tp_methods, proxy_methods},
    {Py_tp_members, proxy_members},
    {0, NULL},
};

static PyType_Spec proxy_spec = {
    .name = "pyloop._core.FutureProxy",
    .basicsize = sizeof(struct proxy),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = proxy_slots,
};

int
pyl_proxy_type_add(PyObject *module, struct pyl_state *state)
{
    pyl_state_add_job_kind(state, run_delivery, offsetof(struct proxy, job));
    return pyl_add_type(module, &proxy_spec, (PyObject *)state->future_type, false,
                        &state->proxy_type);
}
