/*
 * future_callbacks.c - who is told when a future is done, and in which order.
 *
 * asyncio's promise is first come, first served among all callbacks of a future. A task of ours
 * that awaits the future takes its place in the same sequence, but as the bare task: waking it
 * costs no callable, no Handle and no argument tuple. It looks like a callable only to those who
 * ask. So does the stream protocol whose handler the future is: a connection's callable and context
 * would be kept as long as it lasts.
 *
 * Every entry owns one reference to its callback and context, or to its task or protocol.
 */
#include "python/crossing.h"
#include "python/reader.h"
#include "python/views.h"

#include "base/check.h"

static bool
is_waiter_entry(PyObject *entry)
{
    return !PyTuple_CheckExact(entry);
}

/* (callback, context, view): to be called in another view than the future's. */
static bool
is_remote_entry(PyObject *entry)
{
    return PyTuple_GET_SIZE(entry) == 3;
}

static struct pyl_loop *
remote_view(PyObject *entry)
{
    return (struct pyl_loop *)(void *)PyTuple_GET_ITEM(entry, 2);
}

/* Among those without a callable: neither a waiting task nor a proxy. */
static bool
is_protocol(struct pyl_state *state, PyObject *entry)
{
    return PYL_UNLIKELY(!Py_IS_TYPE(entry, state->task_type)) &&
           PyObject_TypeCheck(entry, state->reader_protocol_type);
}

int
pyl_future_call_soon(struct pyl_future *future, PyObject *callback, PyObject *argument,
                     PyObject *context)
{
    PyObject *handle;
    struct pyl_loop *native = future->native;
    /* Into another view in debug mode, too, where call_soon() refuses other threads. */
    if (PYL_LIKELY(native != NULL && pyl_loop_is_direct(native)) ||
        pyl_views_is_elsewhere(native)) {
        handle = pyl_loop_call_soon(native, callback, &argument, argument != NULL, context);
    } else {
        PyObject *stack[4] = {future->loop, callback};
        size_t count = 2;
        if (argument != NULL) {
            stack[count++] = argument;
        }
        stack[count] = context;
        handle = PyObject_VectorcallMethod(
            future->state->str.call_soon, stack, count | PY_VECTORCALL_ARGUMENTS_OFFSET,
            context != NULL ? future->state->tasks.context_names : NULL);
    }
    Py_XDECREF(handle);
    return handle != NULL ? 0 : -1;
}

/* Takes the references to callback and context (NULL: there is no callable). */
static int
dispatch(struct pyl_future *future, PyObject *callback, PyObject *context)
{
    int rc;
    if (context == NULL) {
        if (PYL_UNLIKELY(pyl_proxy_check(future->state, callback))) {
            pyl_proxy_deliver(callback);
            return 0;
        }
        rc = is_protocol(future->state, callback)
                 ? pyl_reader_protocol_handler_ended(callback, pyl_task_cast((PyObject *)future))
                 : pyl_task_wake(pyl_task_cast(callback), future);
    } else {
        rc = pyl_future_call_soon(future, callback, (PyObject *)future, context);
        Py_DECREF(context);
    }
    Py_DECREF(callback);
    return rc;
}

static int
dispatch_list(struct pyl_future *future, PyObject *entries)
{
    Py_ssize_t count = PyList_GET_SIZE(entries);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *entry = PyList_GET_ITEM(entries, i);
        int rc;
        if (is_waiter_entry(entry)) {
            rc = dispatch(future, Py_NewRef(entry), NULL);
        } else if (PYL_UNLIKELY(is_remote_entry(entry))) {
            rc = pyl_crossing_call(remote_view(entry), PyTuple_GET_ITEM(entry, 0), future,
                                   PyTuple_GET_ITEM(entry, 1));
        } else {
            rc = dispatch(future, Py_NewRef(PyTuple_GET_ITEM(entry, 0)),
                          Py_NewRef(PyTuple_GET_ITEM(entry, 1)));
        }
        if (rc < 0) {
            return -1;
        }
    }
    return 0;
}

int
pyl_future_schedule_callbacks(struct pyl_future *future)
{
    /* Taken out first: a call_soon() in Python may do anything to this future. After an error the
     * remaining ones are dropped, as asyncio does. */
    PyObject *callback0 = future->callback0;
    PyObject *context0 = future->context0;
    PyObject *entries = future->callbacks;
    future->callback0 = NULL;
    future->context0 = NULL;
    future->callbacks = NULL;

    int rc = 0;
    if (callback0 != NULL) {
        rc = dispatch(future, callback0, context0);
    }
    if (entries != NULL) {
        if (rc == 0) {
            rc = dispatch_list(future, entries);
        }
        Py_DECREF(entries);
    }
    return rc;
}

/* Steals the entry. */
static int
append(struct pyl_future *future, PyObject *entry)
{
    if (entry == NULL) {
        return -1;
    }
    int rc = 0;
    if (future->callbacks == NULL) {
        future->callbacks = PyList_New(0);
    }
    if (future->callbacks == NULL || PyList_Append(future->callbacks, entry) < 0) {
        rc = -1;
    }
    Py_DECREF(entry);
    return rc;
}

static int
add_callback_locked(struct pyl_future *future, PyObject *callback, PyObject *context)
{
    /* A callback runs where it was added. */
    struct pyl_loop *view = pyl_views_other(future->native);
    if (PYL_UNLIKELY(view != NULL)) {
        if (future->status != PYL_FUTURE_PENDING) {
            return pyl_crossing_call(view, callback, future, context);
        }
        return append(future, PyTuple_Pack(3, callback, context, view));
    }
    if (future->status != PYL_FUTURE_PENDING) {
        return pyl_future_call_soon(future, callback, (PyObject *)future, context);
    }
    if (future->callback0 == NULL && future->callbacks == NULL) {
        future->callback0 = Py_NewRef(callback);
        future->context0 = Py_NewRef(context);
        return 0;
    }
    return append(future, PyTuple_Pack(2, callback, context));
}

int
pyl_future_add_callback(struct pyl_future *future, PyObject *callback, PyObject *context)
{
    int rc;
    PyObject *used = context != NULL ? Py_NewRef(context) : PyContext_CopyCurrent();
    if (used == NULL) {
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(future);
    rc = add_callback_locked(future, callback, used);
    Py_END_CRITICAL_SECTION();
    Py_DECREF(used);
    return rc;
}

int
pyl_future_add_entry(struct pyl_future *future, PyObject *entry)
{
    if (future->callback0 == NULL && future->callbacks == NULL) {
        PYL_DCHECK(future->context0 == NULL);
        future->callback0 = entry;
        return 0;
    }
    return append(future, entry);
}

static int
add_waiter_locked(struct pyl_future *future, struct pyl_task *task)
{
    PyObject *waiter = Py_NewRef((PyObject *)task);
    if (future->status != PYL_FUTURE_PENDING) {
        int rc = pyl_task_wake(task, future);
        Py_DECREF(waiter);
        return rc;
    }
    return pyl_future_add_entry(future, waiter);
}

int
pyl_future_add_waiter(struct pyl_future *future, struct pyl_task *task)
{
    int rc;
    Py_BEGIN_CRITICAL_SECTION(future);
    rc = add_waiter_locked(future, task);
    Py_END_CRITICAL_SECTION();
    return rc;
}

int
pyl_future_add_protocol(struct pyl_future *task, PyObject *protocol)
{
    int rc = 0;
    Py_BEGIN_CRITICAL_SECTION(task);
    if (task->status == PYL_FUTURE_PENDING && pyl_views_other(task->native) == NULL) {
        rc = pyl_future_add_entry(task, Py_NewRef(protocol)) < 0 ? -1 : 1;
    }
    Py_END_CRITICAL_SECTION();
    return rc;
}

/* What stands there without a callable, as a callable. New reference or NULL. */
static PyObject *
make_callable(struct pyl_future *future, PyObject *entry)
{
    if (pyl_proxy_check(future->state, entry)) {
        return Py_NewRef(entry);
    }
    return is_protocol(future->state, entry) ? pyl_reader_protocol_callback(entry)
                                             : pyl_task_make_wakeup(pyl_task_cast(entry));
}

/* (callable, context) of the same, as others see it. New reference or NULL. */
static PyObject *
make_pair(struct pyl_future *future, PyObject *entry)
{
    PyObject *context = Py_None;
    if (is_protocol(future->state, entry)) {
        context = pyl_task_cast((PyObject *)future)->context;
    } else if (!pyl_proxy_check(future->state, entry)) {
        context = pyl_task_cast(entry)->context;
    }
    PyObject *callable = make_callable(future, entry);
    if (callable == NULL) {
        return NULL;
    }
    PyObject *pair = PyTuple_Pack(2, callable, context);
    Py_DECREF(callable);
    return pair;
}

/* 1 if `callback` equals the entry's callable, else 0; or -1. */
static int
entry_matches(struct pyl_future *future, PyObject *entry_callback, bool is_waiter,
              PyObject *callback)
{
    PyObject *callable =
        is_waiter ? make_callable(future, entry_callback) : Py_NewRef(entry_callback);
    if (callable == NULL) {
        return -1;
    }
    int rc = PyObject_RichCompareBool(callable, callback, Py_EQ);
    Py_DECREF(callable);
    return rc;
}

/* The entries of the list that do not match, in a new list; NULL: exception. __eq__ may change the
 * list meanwhile. */
static PyObject *
list_unmatched(struct pyl_future *future, PyObject *entries, PyObject *callback)
{
    PyObject *kept = PyList_New(0);
    if (kept == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(entries); i++) {
        PyObject *entry = Py_NewRef(PyList_GET_ITEM(entries, i));
        bool is_waiter = is_waiter_entry(entry);
        int rc = entry_matches(future, is_waiter ? entry : PyTuple_GET_ITEM(entry, 0), is_waiter,
                               callback);
        if (rc == 0) {
            rc = PyList_Append(kept, entry);
        }
        Py_DECREF(entry);
        if (rc < 0) {
            Py_DECREF(kept);
            return NULL;
        }
    }
    return kept;
}

static Py_ssize_t
remove_callback_locked(struct pyl_future *future, PyObject *callback)
{
    Py_ssize_t removed = 0;
    if (future->callback0 != NULL) {
        PyObject *callback0 = Py_NewRef(future->callback0); /* __eq__ may free the slot's */
        int rc = entry_matches(future, callback0, future->context0 == NULL, callback);
        if (rc == 1 && future->callback0 == callback0) {
            Py_CLEAR(future->callback0);
            Py_CLEAR(future->context0);
            removed = 1;
        }
        Py_DECREF(callback0);
        if (rc < 0) {
            return -1;
        }
    }
    if (future->callbacks == NULL) {
        return removed;
    }
    PyObject *entries = Py_NewRef(future->callbacks);
    PyObject *kept = list_unmatched(future, entries, callback);
    if (kept == NULL) {
        Py_DECREF(entries);
        return -1;
    }
    removed += PyList_GET_SIZE(entries) - PyList_GET_SIZE(kept);
    if (future->callbacks != entries) {
        Py_DECREF(kept); /* finished by an __eq__: there is nothing left to replace */
    } else if (PyList_GET_SIZE(kept) == 0) {
        Py_DECREF(kept);
        Py_CLEAR(future->callbacks);
    } else {
        Py_SETREF(future->callbacks, kept);
    }
    Py_DECREF(entries);
    return removed;
}

Py_ssize_t
pyl_future_remove_callback(struct pyl_future *future, PyObject *callback)
{
    Py_ssize_t removed;
    Py_BEGIN_CRITICAL_SECTION(future);
    removed = remove_callback_locked(future, callback);
    Py_END_CRITICAL_SECTION();
    return removed;
}

/* Appends what `entry` looks like from outside. 0 or -1. */
static int
list_append_pair(struct pyl_future *future, PyObject *list, PyObject *callback, PyObject *context)
{
    PyObject *pair =
        context != NULL ? PyTuple_Pack(2, callback, context) : make_pair(future, callback);
    if (pair == NULL) {
        return -1;
    }
    int rc = PyList_Append(list, pair);
    Py_DECREF(pair);
    return rc;
}

static PyObject *
list_callbacks_locked(struct pyl_future *future)
{
    if (future->callback0 == NULL &&
        (future->callbacks == NULL || PyList_GET_SIZE(future->callbacks) == 0)) {
        Py_RETURN_NONE;
    }
    PyObject *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    int rc = 0;
    if (future->callback0 != NULL) {
        rc = list_append_pair(future, list, future->callback0, future->context0);
    }
    Py_ssize_t count = future->callbacks != NULL ? PyList_GET_SIZE(future->callbacks) : 0;
    for (Py_ssize_t i = 0; i < count && rc == 0; i++) {
        PyObject *entry = PyList_GET_ITEM(future->callbacks, i);
        rc = is_waiter_entry(entry) ? list_append_pair(future, list, entry, NULL)
                                    : list_append_pair(future, list, PyTuple_GET_ITEM(entry, 0),
                                                       PyTuple_GET_ITEM(entry, 1));
    }
    if (rc < 0) {
        Py_CLEAR(list);
    }
    return list;
}

PyObject *
pyl_future_list_callbacks(struct pyl_future *future)
{
    PyObject *list;
    Py_BEGIN_CRITICAL_SECTION(future);
    list = list_callbacks_locked(future);
    Py_END_CRITICAL_SECTION();
    return list;
}

static bool
is_task(struct pyl_state *state, PyObject *entry)
{
    return !pyl_proxy_check(state, entry) && !is_protocol(state, entry);
}

int
pyl_future_collect_waiters(struct pyl_future *future, PyObject *set)
{
    if (future->callback0 != NULL && future->context0 == NULL &&
        is_task(future->state, future->callback0) && PySet_Add(set, future->callback0) < 0) {
        return -1;
    }
    Py_ssize_t count = future->callbacks != NULL ? PyList_GET_SIZE(future->callbacks) : 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *entry = PyList_GET_ITEM(future->callbacks, i);
        if (is_waiter_entry(entry) && is_task(future->state, entry) && PySet_Add(set, entry) < 0) {
            return -1;
        }
    }
    return 0;
}

int
pyl_future_awaited_by_add(struct pyl_future *future, PyObject *waiter)
{
    int rc = 0;
    Py_BEGIN_CRITICAL_SECTION(future);
    if (pyl_future_rare(future, PYL_FUTURE_AWAITED_BY) == NULL) {
        PyObject *set = PySet_New(NULL);
        rc = set != NULL ? pyl_future_set_rare(future, PYL_FUTURE_AWAITED_BY, set) : -1;
    }
    if (rc == 0) {
        rc = PySet_Add(pyl_future_rare(future, PYL_FUTURE_AWAITED_BY), waiter);
    }
    Py_END_CRITICAL_SECTION();
    return rc;
}

int
pyl_future_awaited_by_discard(struct pyl_future *future, PyObject *waiter)
{
    int rc = 0;
    Py_BEGIN_CRITICAL_SECTION(future);
    PyObject *awaited_by = pyl_future_rare(future, PYL_FUTURE_AWAITED_BY);
    if (awaited_by != NULL) {
        rc = PySet_Discard(awaited_by, waiter) < 0 ? -1 : 0;
    }
    Py_END_CRITICAL_SECTION();
    return rc;
}
