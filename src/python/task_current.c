/*
 * task_current.c - what asyncio knows of our tasks: which one is current, and which ones exist.
 *
 * Up to 3.13 asyncio's current tasks are one dict for the whole process, from loop to task. Two
 * changes of it a step, under its lock, is what kept threads of a free-threaded build from running
 * side by side. So the current task of a loop of ours is a field of the loop, and comes into the
 * dict when somebody looks: every look-up hashes its key first, and the loop's hash is ours.
 *
 * Invariant: while loop->current_task is set, the dict has no entry of the loop. While it is not,
 * the dict tells the truth: it may have our task, published, or one of another kind.
 *
 * From 3.14 on the current task is in the thread state, to be reached through asyncio's functions
 * only.
 */
#include "python/future.h"

#include "base/check.h"
#include "python/loop_internal.h"

/* ---- current_task() */

static int
raise_other_current(struct pyl_task *task, PyObject *current)
{
    PyErr_Format(PyExc_RuntimeError,
                 "Cannot enter into task %R while another task %R is being executed.", task,
                 current);
    return -1;
}

static int
call_with_task(PyObject *function, struct pyl_task *task)
{
    PyObject *stack[] = {task->future.loop, (PyObject *)task};
    PyObject *answer = PyObject_Vectorcall(function, stack, 2, NULL);
    Py_XDECREF(answer);
    return answer != NULL ? 0 : -1;
}

/* The dict may have an entry of the loop: then new reference; or NULL without an exception, or NULL
 * with one. */
static PyObject *
published(PyObject *currents, PyObject *loop)
{
    if (PYL_LIKELY(PyDict_Size(currents) == 0)) {
        return NULL; /* as long as nobody asks */
    }
    return Py_XNewRef(PyDict_GetItemWithError(currents, loop));
}

static int
enter_in_dict(struct pyl_task *task, PyObject *currents)
{
    PyObject *current = PyDict_SetDefault(currents, task->future.loop, (PyObject *)task);
    if (PYL_LIKELY(current == (PyObject *)task)) {
        return 0;
    }
    return current == NULL ? -1 : raise_other_current(task, current);
}

int
pyl_task_enter(struct pyl_task *task)
{
    PyObject *currents = task->future.state->current_tasks;
    if (currents == NULL) {
        return call_with_task(task->future.state->enter_task, task);
    }
    struct pyl_loop *loop = task->future.native;
    if (loop == NULL || !loop->keeps_current_task) {
        return enter_in_dict(task, currents);
    }
    PyObject *other = loop->current_task != NULL ? Py_NewRef(loop->current_task)
                                                 : published(currents, task->future.loop);
    if (PYL_LIKELY(other == NULL)) {
        if (PYL_UNLIKELY(PyErr_Occurred() != NULL)) {
            return -1;
        }
        loop->current_task = (PyObject *)task;
        return 0;
    }
    int rc = raise_other_current(task, other);
    Py_DECREF(other);
    return rc;
}

static int
leave_in_dict(struct pyl_task *task, PyObject *currents)
{
    PyObject *current = pyl_dict_pop(currents, task->future.loop);
    if (PYL_LIKELY(current == (PyObject *)task)) {
        Py_DECREF(current);
        return 0;
    }
    if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_RuntimeError, "Leaving task %R does not match the current task %R.",
                     task, current != NULL ? current : Py_None);
    }
    if (current != NULL) {
        PyObject *raised = PyErr_GetRaisedException();
        (void)PyDict_SetItem(currents, task->future.loop, current);
        PyErr_SetRaisedException(raised);
        Py_DECREF(current);
    }
    return -1;
}

int
pyl_task_leave(struct pyl_task *task)
{
    PyObject *currents = task->future.state->current_tasks;
    if (currents == NULL) {
        return call_with_task(task->future.state->leave_task, task);
    }
    struct pyl_loop *loop = task->future.native;
    if (PYL_LIKELY(loop != NULL && loop->current_task == (PyObject *)task)) {
        loop->current_task = NULL;
        return 0;
    }
    return leave_in_dict(task, currents); /* hashes the loop: any other task is published first */
}

/* A look-up of the loop in asyncio's dict is about to happen, or in any other: see above. Another
 * thread cannot be told which task is current, unless there is a GIL: it finds none. */
Py_hash_t
pyl_loop_hash(PyObject *op)
{
    struct pyl_loop *loop = (struct pyl_loop *)(void *)op;
    if ((!PYL_FREE_THREADED || !pyl_loop_is_foreign_thread(loop)) && loop->current_task != NULL) {
        PyObject *task = loop->current_task;
        loop->current_task = NULL; /* storing hashes the loop, too */
        if (PyDict_SetItem(loop->state->current_tasks, op, task) < 0) {
            loop->current_task = task;
            return -1;
        }
    }
    return PyBaseObject_Type.tp_hash(op);
}

static PyObject *
swap_in_dict(PyObject *currents, PyObject *loop, PyObject *task)
{
    PyObject *previous = Py_XNewRef(PyDict_GetItemWithError(currents, loop));
    if (previous == NULL && PyErr_Occurred()) {
        return NULL;
    }
    int rc = 0;
    if (!Py_IsNone(task)) {
        rc = PyDict_SetItem(currents, loop, task);
    } else if (previous != NULL) {
        rc = PyDict_DelItem(currents, loop);
    }
    if (rc < 0) {
        Py_XDECREF(previous);
        return NULL;
    }
    return previous != NULL ? previous : Py_NewRef(Py_None);
}

static PyObject *
swap_in_loop(struct pyl_loop *loop, PyObject *currents, PyObject *task)
{
    PyObject *previous = loop->current_task;
    if (previous == NULL) {
        previous = published(currents, (PyObject *)loop);
        if (previous != NULL || PyErr_Occurred() != NULL) {
            Py_XDECREF(previous);
            return previous != NULL ? swap_in_dict(currents, (PyObject *)loop, task) : NULL;
        }
    }
    previous = Py_NewRef(previous != NULL ? previous : Py_None);
    loop->current_task = Py_IsNone(task) ? NULL : task;
    return previous;
}

PyObject *
pyl_task_swap_current(struct pyl_task *task, PyObject *current)
{
    struct pyl_state *state = task->future.state;
    struct pyl_loop *loop = task->future.native;
    if (state->current_tasks == NULL) {
        PyObject *stack[] = {task->future.loop, current};
        return PyObject_Vectorcall(state->swap_current_task, stack, 2, NULL);
    }
    if (loop != NULL && loop->keeps_current_task) {
        return swap_in_loop(loop, state->current_tasks, current);
    }
    return swap_in_dict(state->current_tasks, task->future.loop, current);
}

/* ---- all_tasks()
 *
 * On GIL builds up to 3.13 a list of our own, which pyloop/_tasks.py makes asyncio's registry show;
 * elsewhere, and if that file was not loaded, asyncio's functions.
 */

static struct pyl_task *
task_of_node(struct pyl_list *node)
{
    return PYL_CONTAINER_OF(node, struct pyl_task, node);
}

static int
call_registry(PyObject *function, struct pyl_task *task)
{
    PyObject *answer = PyObject_CallOneArg(function, (PyObject *)task);
    Py_XDECREF(answer);
    return answer != NULL ? 0 : -1;
}

int
pyl_task_register(struct pyl_task *task)
{
    struct pyl_task_state *state = &task->future.state->tasks;
    if (task->is_registered || task->future.status != PYL_FUTURE_PENDING) {
        return 0;
    }
    task->is_registered = true;
    if (PYL_LIKELY(state->has_own_registry)) {
        pyl_list_append(&state->registry, &task->node);
        return 0;
    }
    return call_registry(task->future.state->register_task, task);
}

int
pyl_task_register_eager(struct pyl_task *task)
{
    PyObject *function = task->future.state->register_eager_task;
    if (task->future.state->tasks.has_own_registry) {
        return 0; /* pyl_task_start_eagerly() does it */
    }
    return function != NULL ? call_registry(function, task) : 0;
}

int
pyl_task_unregister_eager(struct pyl_task *task)
{
    PyObject *function = task->future.state->unregister_eager_task;
    if (task->future.state->tasks.has_own_registry) {
        return 0; /* finishing did it, or it stays in the one list there is */
    }
    return function != NULL ? call_registry(function, task) : 0;
}

void
pyl_task_unregister(struct pyl_task *task)
{
    /* asyncio's registry needs no word: its reference is weak, and it leaves out tasks that are
     * done. */
    task->is_registered = false;
    if (task->node.next != NULL) {
        pyl_list_remove(&task->node);
        task->node.next = NULL;
    }
}

static Py_ssize_t
count_registered(struct pyl_task_state *state)
{
    Py_ssize_t count = 0;
    for (struct pyl_list *node = state->registry.next; node != &state->registry;
         node = node->next) {
        count++;
    }
    return count;
}

/* _registered_tasks(): a list of all that are not done. */
static PyObject *
registered_tasks(PyObject *module, PyObject *unused)
{
    struct pyl_task_state *state = &pyl_state_of_module(module)->tasks;
    Py_ssize_t count = count_registered(state);
    PyObject *list = PyList_New(count);
    /* Allocating may run the garbage collector, and that anything. */
    while (list != NULL && count_registered(state) != count) {
        count = count_registered(state);
        Py_SETREF(list, PyList_New(count));
    }
    if (list == NULL) {
        return NULL;
    }
    Py_ssize_t i = 0;
    for (struct pyl_list *node = state->registry.next; node != &state->registry;
         node = node->next) {
        PyList_SET_ITEM(list, i++, Py_NewRef((PyObject *)task_of_node(node)));
    }
    return list;
}

static PyObject *
use_own_registry(PyObject *module, PyObject *unused)
{
    pyl_state_of_module(module)->tasks.has_own_registry = true;
    Py_RETURN_NONE;
}

/* ---- the call graph, for asyncio.future_add_to_awaited_by() and its counterpart */

static PyObject *
change_awaited_by(PyObject *module, PyObject *const *args, Py_ssize_t count,
                  int (*change)(struct pyl_future *future, PyObject *waiter))
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "a future and its waiter are expected");
        return NULL;
    }
    if (pyl_future_is_ours(pyl_state_of_module(module), args[0]) &&
        change(pyl_future_cast(args[0]), args[1]) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
awaited_by_add(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return change_awaited_by(module, args, count, pyl_future_awaited_by_add);
}

static PyObject *
awaited_by_discard(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return change_awaited_by(module, args, count, pyl_future_awaited_by_discard);
}

PyMethodDef pyl_task_functions[] = {
    {"_registered_tasks", registered_tasks, METH_NOARGS, NULL},
    {"_use_own_registry", use_own_registry, METH_NOARGS, NULL},
    {"_awaited_by_add", (PyCFunction)(void (*)(void))awaited_by_add, METH_FASTCALL, NULL},
    {"_awaited_by_discard", (PyCFunction)(void (*)(void))awaited_by_discard, METH_FASTCALL, NULL},
    {NULL},
};
