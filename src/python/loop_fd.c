/*
 * loop_fd.c - descriptors that belong to the user: add_reader(), add_writer(), and the one-shot
 * waits under sock_recv() and its kind.
 *
 * Every registration is a `watch`: one POLL op and what to do when it completes. The user may close
 * the descriptor as soon as the registration is removed, and get the same number again before the
 * cancelled op has ended; therefore a watch is never reused, and the table forgets it at once.
 *
 * Invariant: a watch is in loop->watches exactly while its op is not IDLE, and is freed when it
 * leaves.
 */
#include "python/loop_internal.h"

#include "python/keywords.h"
#include "python/task.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

enum { SIDE_READ, SIDE_WRITE, SIDE_ONCE };

struct watch {
    struct pyl_op op;
    struct pyl_list link; /* loop->watches */
    struct pyl_loop *loop;
    PyObject
        *target;    /* strong: Handle of a reader or writer, future of a one-shot; NULL: removed */
    PyObject *file; /* strong: what a reader or writer was registered by; NULL: a number */
    int side;
    struct poll *poll; /* one-shot: its name in Python, borrowed; NULL when that is gone */
};

/* `_core.Poll`: what _poll_start() returns, only to be stopped. */
struct poll {
    PyObject_HEAD
    struct watch *watch; /* NULL when the wait is over */
};

struct pyl_watch_entry {
    struct watch *sides[2];
    uint32_t active_count; /* watches not removed, one-shots included */
};

static struct pyl_loop *
loop_of(PyObject *self)
{
    return (struct pyl_loop *)self;
}

static struct pyl_watch_entry *
entry_of(struct pyl_loop *loop, int fd)
{
    return (size_t)fd < loop->watch_capacity ? &loop->watch_table[fd] : NULL;
}

/* Returns NULL with MemoryError. */
static struct pyl_watch_entry *
entry_make(struct pyl_loop *loop, int fd)
{
    if ((size_t)fd >= loop->watch_capacity) {
        size_t capacity = loop->watch_capacity < 64 ? 64 : loop->watch_capacity * 2;
        while (capacity <= (size_t)fd) {
            capacity *= 2;
        }
        struct pyl_watch_entry *fds = PyMem_RawRealloc(loop->watch_table, capacity * sizeof(*fds));
        if (fds == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        memset(fds + loop->watch_capacity, 0, (capacity - loop->watch_capacity) * sizeof(*fds));
        loop->watch_table = fds;
        loop->watch_capacity = capacity;
    }
    return &loop->watch_table[fd];
}

/* The descriptor number of an int or of an object with fileno(); -1 with selectors' ValueError, or
 * with OverflowError for a number that no descriptor can have. */
static int
fd_of_object(PyObject *object)
{
    long fd;
    if (PyLong_Check(object)) {
        int overflow;
        fd = PyLong_AsLongAndOverflow(object, &overflow);
        if (overflow > 0) {
            PyErr_SetString(PyExc_OverflowError, "the file descriptor is too large");
            return -1;
        }
    } else {
        PyObject *number = PyObject_CallMethod(object, "fileno", NULL);
        fd = number != NULL ? PyLong_AsLong(number) : -1;
        Py_XDECREF(number);
        if (fd == -1 && PyErr_Occurred()) {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError, "Invalid file object: %R", object);
            return -1;
        }
    }
    if (fd == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (fd < 0 || fd > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %ld", fd);
        return -1;
    }
    return (int)fd;
}

/* What epoll_ctl(2) would refuse, on every backend alike: not open, a regular file, a folder. 0 or
 * -1. */
static int
check_pollable(int fd)
{
    struct stat status;
    if (fstat(fd, &status) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) {
        pyl_raise_errno(-EPERM);
        return -1;
    }
    return 0;
}

/* The reactor belongs to the thread that runs the loop. */
static int
check_owner(struct pyl_loop *loop)
{
    if (pyl_loop_check_usable(loop) < 0) {
        return -1;
    }
    unsigned long thread_id = atomic_load_explicit(&loop->thread_id, memory_order_relaxed);
    if (thread_id != 0 && thread_id != PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError,
                        "file descriptors of a running event loop can only be watched from its own "
                        "thread; use call_soon_threadsafe()");
        return -1;
    }
    return 0;
}

static void
watch_free(struct watch *watch)
{
    pyl_list_remove(&watch->link);
    PyMem_RawFree(watch);
}

/* Takes a watch out of the table; what it pointed to is returned as strong references. */
static PyObject *
watch_detach(struct watch *watch, PyObject **ret_file)
{
    PyObject *target = watch->target;
    *ret_file = watch->file;
    watch->file = NULL;
    if (target != NULL) {
        struct pyl_watch_entry *entry = entry_of(watch->loop, watch->op.fd);
        if (watch->side != SIDE_ONCE) {
            entry->sides[watch->side] = NULL;
        }
        if (watch->poll != NULL) {
            watch->poll->watch = NULL;
            watch->poll = NULL;
        }
        watch->target = NULL;
        entry->active_count--;
    }
    return target;
}

static int
complete_native_future(PyObject *future, int32_t result)
{
    if (result >= 0) {
        return pyl_future_set_result(future, Py_None);
    }
    PyObject *exception = pyl_make_oserror(result, NULL);
    int status = exception != NULL ? pyl_future_set_exception(future, exception) : -1;
    Py_XDECREF(exception);
    return status;
}

static void
complete_foreign_future(struct pyl_loop *loop, PyObject *future, int32_t result)
{
    struct pyl_strings *str = &loop->state->str;
    PyObject *is_done = PyObject_CallMethodNoArgs(future, str->done);
    if (is_done == Py_False) {
        PyObject *outcome;
        if (result >= 0) {
            outcome = PyObject_CallMethodOneArg(future, str->set_result, Py_None);
        } else {
            PyObject *exception = pyl_make_oserror(result, NULL);
            outcome = exception != NULL
                          ? PyObject_CallMethod(future, "set_exception", "O", exception)
                          : NULL;
            Py_XDECREF(exception);
        }
        Py_XDECREF(outcome);
    }
    Py_XDECREF(is_done);
}

static void
complete_future(struct pyl_loop *loop, PyObject *future, int32_t result)
{
    if (Py_IS_TYPE(future, loop->state->future_type)) {
        (void)complete_native_future(future, result);
    } else {
        complete_foreign_future(loop, future, result);
    }
    if (PyErr_Occurred()) {
        pyl_loop_report(loop, "Error while completing a socket operation", "future", future);
    }
}

/* Ends a registration; the handle is cancelled. */
static void
watch_stop(struct watch *watch)
{
    struct pyl_reactor *reactor = &watch->loop->worker->reactor;
    pyl_reactor_cancel(reactor, &watch->op);
    PyObject *file;
    PyObject *target = watch_detach(watch, &file);
    if (entry_of(watch->loop, watch->op.fd)->active_count == 0) {
        /* The number may come back as something else before the next turn. A one-shot that has
         * completed leaves nothing armed, so there is nothing to forget. */
        pyl_reactor_forget(reactor, watch->op.fd);
    }
    if (target != NULL) {
        if (watch->side != SIDE_ONCE) {
            pyl_handle_cancel((struct pyl_handle *)target);
        }
        Py_DECREF(target);
    }
    Py_XDECREF(file);
}

/* A reader or writer may have work to do. */
static void
watch_fire(struct watch *watch)
{
    struct pyl_handle *handle = (struct pyl_handle *)watch->target;
    if (handle->is_cancelled) {
        watch_stop(watch);
    } else {
        pyl_handle_post_again(handle);
    }
}

static void
watch_complete(struct pyl_op *op, const struct pyl_event *event)
{
    struct watch *watch = PYL_CONTAINER_OF(op, struct watch, op);
    if (event->flags & PYL_EVENT_MORE) {
        if (watch->target != NULL) {
            watch_fire(watch);
        }
        return;
    }
    if (watch->target != NULL && watch->side != SIDE_ONCE && event->result >= 0) {
        /* A multishot op that ended by itself: go on. */
        pyl_handle_post_again((struct pyl_handle *)watch->target);
        pyl_reactor_submit(&watch->loop->worker->reactor, op);
        return;
    }
    struct pyl_loop *loop = watch->loop;
    bool is_once = watch->side == SIDE_ONCE;
    PyObject *file;
    PyObject *target = watch_detach(watch, &file);
    watch_free(watch);
    /* A reader whose descriptor was closed under it is dropped silently, as epoll does. */
    if (target != NULL && is_once) {
        complete_future(loop, target, event->result);
    }
    Py_XDECREF(target);
    Py_XDECREF(file);
}

/* Steals the target, also on failure. Returns NULL with MemoryError. */
static struct watch *
watch_start(struct pyl_loop *loop, int fd, int side, uint32_t events, PyObject *target)
{
    struct pyl_watch_entry *entry = entry_make(loop, fd);
    struct watch *watch = entry != NULL ? PyMem_RawCalloc(1, sizeof(*watch)) : NULL;
    if (watch == NULL) {
        Py_DECREF(target);
        PyErr_NoMemory();
        return NULL;
    }
    watch->loop = loop;
    watch->target = target;
    watch->side = side;
    watch->op.kind = PYL_OP_POLL;
    watch->op.flags = side == SIDE_ONCE ? 0 : PYL_OP_MULTISHOT;
    watch->op.fd = fd;
    watch->op.args.poll.events = events;
    watch->op.on_complete = watch_complete;
    if (side != SIDE_ONCE) {
        entry->sides[side] = watch;
    }
    entry->active_count++;
    pyl_list_append(&loop->watches, &watch->link);
    pyl_reactor_submit(&loop->worker->reactor, &watch->op);
    return watch;
}

/* _add_reader(fd, callback, *args, context=None), _add_writer(): a Handle. A second one replaces
 * the first. */
static PyObject *
add_side(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names, int side,
         uint32_t events)
{
    struct pyl_loop *loop = loop_of(self);
    if (count < 2) {
        PyErr_SetString(PyExc_TypeError, "a file descriptor and a callback are needed");
        return NULL;
    }
    PyObject *context = NULL;
    if (pyl_keyword_get(side == SIDE_READ ? "_add_reader" : "_add_writer", args + count, names,
                        loop->state->str.context, &context) < 0) {
        return NULL;
    }
    if (check_owner(loop) < 0) {
        return NULL;
    }
    int fd = fd_of_object(args[0]);
    if (fd < 0) {
        return NULL;
    }
    struct pyl_watch_entry *entry = entry_make(loop, fd);
    if (entry == NULL || (entry->active_count == 0 && check_pollable(fd) < 0)) {
        return NULL;
    }
    struct pyl_handle *handle = pyl_handle_new(loop, loop->state->handle_type, args[1], args + 2,
                                               count - 2, context != Py_None ? context : NULL);
    if (handle == NULL) {
        return NULL;
    }
    if (entry->sides[side] != NULL) {
        /* A new op, not only a new handle: the number may stand for something else by now. */
        watch_stop(entry->sides[side]);
    }
    struct watch *watch = watch_start(loop, fd, side, events, Py_NewRef((PyObject *)handle));
    if (watch == NULL) {
        Py_CLEAR(handle);
    } else if (!PyLong_Check(args[0])) {
        watch->file = Py_NewRef(args[0]);
    }
    return (PyObject *)handle;
}

PyObject *
pyl_loop_py_add_reader(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return add_side(self, args, count, names, SIDE_READ, PYL_POLL_IN);
}

PyObject *
pyl_loop_py_add_writer(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return add_side(self, args, count, names, SIDE_WRITE, PYL_POLL_OUT);
}

/* The reader or writer of a descriptor or file. NULL: there is none, or with an error set. A file
 * that was closed under its registration has no number any more, but is found all the same, as by
 * selectors: anyio closes its sockets first. */
static struct watch *
find_side(struct pyl_loop *loop, PyObject *object, int side)
{
    int fd = fd_of_object(object);
    if (fd >= 0) {
        struct pyl_watch_entry *entry = entry_of(loop, fd);
        return entry != NULL ? entry->sides[side] : NULL;
    }
    if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
        return NULL;
    }
    struct watch *found = NULL;
    bool is_known = false;
    for (struct pyl_list *link = loop->watches.next; link != &loop->watches; link = link->next) {
        struct watch *watch = PYL_CONTAINER_OF(link, struct watch, link);
        if (watch->file == object) {
            is_known = true;
            found = watch->side == side ? watch : found;
        }
    }
    if (is_known) {
        PyErr_Clear();
    }
    return found;
}

static PyObject *
remove_side(PyObject *self, PyObject *object, int side)
{
    struct pyl_loop *loop = loop_of(self);
    if (atomic_load_explicit(&loop->is_closed, memory_order_relaxed)) {
        Py_RETURN_FALSE;
    }
    if (check_owner(loop) < 0) {
        return NULL;
    }
    struct watch *watch = find_side(loop, object, side);
    if (watch == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    }
    watch_stop(watch);
    Py_RETURN_TRUE;
}

PyObject *
pyl_loop_py_remove_reader(PyObject *self, PyObject *fd)
{
    return remove_side(self, fd, SIDE_READ);
}

PyObject *
pyl_loop_py_remove_writer(PyObject *self, PyObject *fd)
{
    return remove_side(self, fd, SIDE_WRITE);
}

/* _watched(fd): what is watched by readers and writers, as selectors.EVENT_READ | EVENT_WRITE. */
PyObject *
pyl_loop_py_watched(PyObject *self, PyObject *object)
{
    int fd = fd_of_object(object);
    if (fd < 0) {
        return NULL;
    }
    struct pyl_watch_entry *entry = entry_of(loop_of(self), fd);
    long events = 0;
    if (entry != NULL) {
        events |= entry->sides[SIDE_READ] != NULL ? PYL_POLL_IN : 0;
        events |= entry->sides[SIDE_WRITE] != NULL ? PYL_POLL_OUT : 0;
    }
    return PyLong_FromLong(events);
}

/* _check_fd_free(fd, fileobj): RuntimeError if a transport of ours uses the descriptor. */
PyObject *
pyl_loop_py_check_fd_free(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "_check_fd_free(fd, fileobj)");
        return NULL;
    }
    int fd = fd_of_object(args[0]);
    if (fd < 0 || pyl_fd_table_check_free(loop_of(self), args[1], fd) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* _poll_start(fd, events, future): completes the future when the descriptor is ready. Returns a
 * Poll. */
PyObject *
pyl_loop_py_poll_start(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct pyl_loop *loop = loop_of(self);
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "_poll_start(fd, events, future)");
        return NULL;
    }
    int fd = fd_of_object(args[0]);
    long events = fd < 0 ? -1 : PyLong_AsLong(args[1]);
    if ((events == -1 && PyErr_Occurred()) || check_owner(loop) < 0) {
        return NULL;
    }
    struct poll *poll = PyObject_New(struct poll, loop->state->poll_type);
    if (poll == NULL) {
        return NULL;
    }
    poll->watch = watch_start(loop, fd, SIDE_ONCE, (uint32_t)events, Py_NewRef(args[2]));
    if (poll->watch == NULL) {
        Py_DECREF(poll);
        return NULL;
    }
    poll->watch->poll = poll;
    return (PyObject *)poll;
}

/* Poll.stop(): no effect when the wait is over. */
static PyObject *
poll_stop(PyObject *self, PyObject *unused)
{
    struct watch *watch = ((struct poll *)self)->watch;
    if (watch != NULL) {
        if (check_owner(watch->loop) < 0) {
            return NULL;
        }
        watch_stop(watch);
    }
    Py_RETURN_NONE;
}

static void
poll_dealloc(PyObject *self)
{
    struct watch *watch = ((struct poll *)self)->watch;
    if (watch != NULL) {
        watch->poll = NULL;
    }
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyMethodDef poll_methods[] = {
    {"stop", poll_stop, METH_NOARGS, PyDoc_STR("Ends the wait; its future is left alone.")},
    {NULL},
};

static PyType_Slot poll_slots[] = {
    {Py_tp_dealloc, poll_dealloc},
    {Py_tp_methods, poll_methods},
    {0, NULL},
};

static PyType_Spec poll_spec = {
    .name = "pyloop._core.Poll",
    .basicsize = sizeof(struct poll),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = poll_slots,
};

int
pyl_poll_type_add(PyObject *module, struct pyl_state *state)
{
    return pyl_add_type(module, &poll_spec, NULL, false, &state->poll_type);
}

/* For the loop's own life. */

int
pyl_loop_fd_traverse(struct pyl_loop *loop, visitproc visit, void *arg)
{
    for (struct pyl_list *link = loop->watches.next; link != &loop->watches; link = link->next) {
        struct watch *watch = PYL_CONTAINER_OF(link, struct watch, link);
        Py_VISIT(watch->target);
        Py_VISIT(watch->file);
    }
    return 0;
}

void
pyl_loop_fd_clear(struct pyl_loop *loop)
{
    /* Letting a target go may run any code, but none that registers: the loop is closed. */
    struct pyl_list *link = loop->watches.next;
    while (link != &loop->watches) {
        struct watch *watch = PYL_CONTAINER_OF(link, struct watch, link);
        if (watch->target != NULL) {
            watch_stop(watch);
            link = loop->watches.next;
        } else {
            link = link->next;
        }
    }
}

void
pyl_loop_fd_free(struct pyl_loop *loop)
{
    while (!pyl_list_is_empty(&loop->watches)) {
        struct watch *watch = PYL_CONTAINER_OF(loop->watches.next, struct watch, link);
        PyObject *target = watch->target;
        PyObject *file = watch->file;
        if (watch->poll != NULL) {
            watch->poll->watch = NULL;
        }
        watch_free(watch);
        Py_XDECREF(target);
        Py_XDECREF(file);
    }
    PyMem_RawFree(loop->watch_table);
    loop->watch_table = NULL;
    loop->watch_capacity = 0;
}
