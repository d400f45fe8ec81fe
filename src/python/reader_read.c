/*
 * reader_read.c - what read(), readexactly(), readuntil(), readline() and __anext__() return: one
 * coroutine-like object that looks at the buffer each time it is resumed.
 *
 * As with asyncio's coroutines nothing happens before the first await, and bytes leave the buffer
 * only in the step that returns them: a read that is cancelled loses none.
 */
#include "python/reader.h"

#include "python/awaitable.h"
#include "python/future.h"
#include "python/keywords.h"

enum kind { READ_SOME, READ_ALL, READ_EXACTLY, READ_UNTIL, READ_LINE, READ_NEXT };

struct reader_read {
    PyObject_HEAD
    struct pyl_state *state;   /* kept alive by the type */
    struct pyl_reader *reader; /* NULL: finished */
    /* The future that is awaited, or NULL. A future of ours is its own iterator; of another one
     * this is the tuple (future, iterator). */
    PyObject *waiter;
    union {
        PyObject *parts;      /* READ_ALL: list of what was read so far, or NULL */
        PyObject *separators; /* READ_UNTIL: tuple of bytes, shortest first; NULL: a newline */
    };
    union {
        Py_ssize_t size; /* READ_SOME, READ_EXACTLY: how much */
        size_t searched; /* READ_UNTIL, READ_LINE, READ_NEXT: no separator begins before it */
    };
    enum kind kind;
    bool has_begun;
};

static struct reader_read *
read_of(PyObject *op)
{
    return (struct reader_read *)(void *)op;
}

/* ---- each kind looks at the buffer: 1 over, *ret is set; 0 must wait; -1 with an exception ----
 */

/* What the statement of that name does with a value from anywhere. */
static int
raise_any(PyObject *exception)
{
    if (PyExceptionInstance_Check(exception)) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    } else if (PyExceptionClass_Check(exception)) {
        PyErr_SetNone(exception);
    } else {
        PyErr_SetString(PyExc_TypeError, "exceptions must derive from BaseException");
    }
    return -1;
}

static int
finish(struct pyl_reader *reader, size_t size, PyObject **ret)
{
    *ret = pyl_reader_buffer_take(&reader->buffer, reader->native, size);
    if (*ret != NULL && pyl_reader_resume(reader) < 0) {
        Py_CLEAR(*ret);
    }
    return *ret != NULL ? 1 : -1;
}

static int
raise_incomplete(struct pyl_reader *reader, PyObject *expected)
{
    size_t size = pyl_reader_buffer_size(&reader->buffer);
    PyObject *partial = pyl_reader_buffer_take(&reader->buffer, reader->native, size);
    if (partial != NULL) {
        PyObject *args[] = {partial, expected};
        PyObject *error = PyObject_Vectorcall(reader->state->incomplete_read_error, args, 2, NULL);
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
        Py_DECREF(partial);
    }
    return -1;
}

static int
look_some(struct reader_read *read, PyObject **ret)
{
    struct pyl_reader *reader = read->reader;
    if (pyl_reader_buffer_size(&reader->buffer) == 0 && !reader->is_eof) {
        return 0;
    }
    return finish(reader, (size_t)read->size, ret);
}

static int
look_exactly(struct reader_read *read, PyObject **ret)
{
    struct pyl_reader *reader = read->reader;
    if (pyl_reader_buffer_size(&reader->buffer) >= (size_t)read->size) {
        return finish(reader, (size_t)read->size, ret);
    }
    if (!reader->is_eof) {
        return 0;
    }
    PyObject *expected = PyLong_FromSsize_t(read->size);
    int status = expected != NULL ? raise_incomplete(reader, expected) : -1;
    Py_XDECREF(expected);
    return status;
}

/* In pieces, so that the transport goes on when more arrives than the limit. */
static int
look_all(struct reader_read *read, PyObject **ret)
{
    struct pyl_reader *reader = read->reader;
    if (reader->exception != NULL) {
        return raise_any(reader->exception);
    }
    size_t size = pyl_reader_buffer_size(&reader->buffer);
    if (reader->is_eof && read->parts == NULL) {
        return finish(reader, size, ret);
    }
    if (size != 0) {
        PyObject *part;
        if (read->parts == NULL) {
            read->parts = PyList_New(0);
        }
        if (read->parts == NULL || finish(reader, size, &part) < 0) {
            return -1;
        }
        int status = PyList_Append(read->parts, part);
        Py_DECREF(part);
        if (status < 0) {
            return -1;
        }
    }
    if (!reader->is_eof) {
        return 0;
    }
    PyObject *empty = PyBytes_FromStringAndSize(NULL, 0);
    if (empty != NULL) {
        *ret = PyObject_CallMethodOneArg(empty, read->state->str.join, read->parts);
        Py_DECREF(empty);
    }
    return *ret != NULL ? 1 : -1;
}

/* ---- separators ---- */

/* As asyncio's (message, consumed). */
static int
raise_overrun(struct reader_read *read, const char *message, size_t consumed)
{
    PyObject *error = PyObject_CallFunction(read->state->limit_overrun_error, "sn", message,
                                            (Py_ssize_t)consumed);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    return -1;
}

struct match {
    Py_ssize_t start; /* of the separator; -1: none was found */
    size_t end;
};

/* The match that ends first; of two, the shorter one. */
static struct match
search(struct reader_read *read)
{
    const struct pyl_reader_buffer *buffer = &read->reader->buffer;
    struct match best = {-1, 0};
    if (read->separators == NULL) {
        best.start = pyl_reader_buffer_find(buffer, "\n", 1, read->searched);
        best.end = (size_t)best.start + 1;
        return best;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(read->separators); i++) {
        PyObject *separator = PyTuple_GET_ITEM(read->separators, i);
        size_t size = (size_t)PyBytes_GET_SIZE(separator);
        Py_ssize_t start =
            pyl_reader_buffer_find(buffer, PyBytes_AS_STRING(separator), size, read->searched);
        if (start >= 0 && (best.start < 0 || (size_t)start + size < best.end)) {
            best = (struct match){start, (size_t)start + size};
        }
    }
    return best;
}

static size_t
separator_size(const struct reader_read *read, bool is_longest)
{
    if (read->separators == NULL) {
        return 1;
    }
    Py_ssize_t last = PyTuple_GET_SIZE(read->separators) - 1;
    return (size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM(read->separators, is_longest ? last : 0));
}

/* *ret_consumed: what LimitOverrunError told, if that is what was raised. */
static int
look_until(struct reader_read *read, PyObject **ret, size_t *ret_consumed)
{
    struct pyl_reader *reader = read->reader;
    size_t size = pyl_reader_buffer_size(&reader->buffer);
    if (read->searched <= size && size - read->searched >= separator_size(read, false)) {
        struct match match = search(read);
        if (match.start >= 0) {
            if (match.start > reader->limit) {
                *ret_consumed = (size_t)match.start;
                return raise_overrun(read, "Separator is found, but chunk is longer than limit",
                                     *ret_consumed);
            }
            return finish(reader, match.end, ret);
        }
        /* A separator may have begun in the last bytes. */
        size_t longest = separator_size(read, true);
        read->searched = size + 1 > longest ? size + 1 - longest : 0;
        if (read->searched > (size_t)reader->limit) {
            *ret_consumed = read->searched;
            return raise_overrun(read, "Separator is not found, and chunk exceed the limit",
                                 *ret_consumed);
        }
    }
    return reader->is_eof ? raise_incomplete(reader, Py_None) : 0;
}

/* The line that is too long is dropped, with its newline if that has arrived. */
static int
drop_line(struct reader_read *read, size_t consumed)
{
    struct pyl_reader *reader = read->reader;
    PyObject *error = PyErr_GetRaisedException();
    if (pyl_reader_buffer_find(&reader->buffer, "\n", 1, consumed) == (Py_ssize_t)consumed) {
        pyl_reader_buffer_skip(&reader->buffer, reader->native, consumed + 1);
    } else {
        pyl_reader_buffer_clear(&reader->buffer, reader->native);
    }
    if (pyl_reader_resume(reader) == 0) {
        PyObject *message = PyObject_Str(error);
        PyErr_SetObject(PyExc_ValueError, message);
        Py_XDECREF(message);
    }
    Py_DECREF(error);
    return -1;
}

static int
look_line(struct reader_read *read, PyObject **ret)
{
    size_t consumed = 0;
    int status = look_until(read, ret, &consumed);
    if (PYL_LIKELY(status >= 0)) {
        return status;
    }
    if (PyErr_ExceptionMatches(read->state->limit_overrun_error)) {
        return drop_line(read, consumed);
    }
    if (!PyErr_ExceptionMatches(read->state->incomplete_read_error)) {
        return -1;
    }
    PyObject *error = PyErr_GetRaisedException();
    *ret = PyObject_GetAttrString(error, "partial");
    Py_DECREF(error);
    return *ret != NULL ? 1 : -1;
}

static int
look_next(struct reader_read *read, PyObject **ret)
{
    int status = look_line(read, ret);
    if (status > 0 && PyBytes_GET_SIZE(*ret) == 0) {
        Py_CLEAR(*ret);
        PyErr_SetNone(PyExc_StopAsyncIteration);
        return -1;
    }
    return status;
}

/* ---- the coroutine ---- */

/* What asyncio's coroutines do before the first look: 1 over, 0 go on, -1. */
static int
begin(struct reader_read *read, PyObject **ret)
{
    read->has_begun = true;
    if (read->reader->loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "StreamReader.__init__() was not called");
        return -1;
    }
    if (read->kind == READ_EXACTLY && read->size < 0) {
        PyErr_SetString(PyExc_ValueError, "readexactly size can not be less than zero");
        return -1;
    }
    PyObject *exception = read->reader->exception;
    if (PYL_UNLIKELY(exception != NULL)) {
        return raise_any(exception);
    }
    if (read->size == 0 && (read->kind == READ_SOME || read->kind == READ_EXACTLY)) {
        *ret = PyBytes_FromStringAndSize(NULL, 0);
        return *ret != NULL ? 1 : -1;
    }
    return 0;
}

static int
look(struct reader_read *read, PyObject **ret)
{
    size_t unused;
    if (!read->has_begun) {
        int status = begin(read, ret);
        if (status != 0) {
            return status;
        }
    }
    switch (read->kind) {
    case READ_SOME:
        return look_some(read, ret);
    case READ_ALL:
        return look_all(read, ret);
    case READ_EXACTLY:
        return look_exactly(read, ret);
    case READ_UNTIL:
        return look_until(read, ret, &unused);
    case READ_LINE:
        return look_line(read, ret);
    case READ_NEXT:
        return look_next(read, ret);
    }
    Py_UNREACHABLE();
}

static const char *
method_name(enum kind kind)
{
    return kind == READ_SOME || kind == READ_ALL ? "read"
           : kind == READ_EXACTLY                ? "readexactly"
                                                 : "readuntil";
}

static int
read_clear(PyObject *op)
{
    struct reader_read *read = read_of(op);
    Py_CLEAR(read->waiter);
    Py_CLEAR(read->parts); /* or separators */
    Py_CLEAR(read->reader);
    return 0;
}

/* Of what a wait consists: item 0 the future, 1 its iterator. */
static PyObject *
wait_item(const struct reader_read *read, Py_ssize_t item)
{
    PyObject *waiter = read->waiter;
    return PYL_UNLIKELY(PyTuple_CheckExact(waiter)) ? PyTuple_GET_ITEM(waiter, item) : waiter;
}

/* Whatever ends the wait, the reader is free for the next one. */
static void
end_wait(struct reader_read *read)
{
    if (read->waiter == NULL) {
        return;
    }
    if (read->reader != NULL && read->reader->waiter == wait_item(read, 0)) {
        Py_CLEAR(read->reader->waiter);
    }
    Py_CLEAR(read->waiter);
}

/* Awaits the waiter: PYGEN_RETURN when it is done, PYGEN_ERROR when it failed or is cancelled. */
static PySendResult
await_waiter(struct reader_read *read, PyObject **ret)
{
    PySendResult status = PyIter_Send(wait_item(read, 1), Py_None, ret);
    if (status != PYGEN_NEXT) {
        end_wait(read);
    }
    if (status == PYGEN_RETURN) {
        Py_CLEAR(*ret);
    }
    return status;
}

/* Data or the end came since look() answered "wait", when `size` bytes were there. That takes
 * another view's thread, and that our critical section was interrupted: by a lock or a collection.
 */
static bool
has_missed(const struct reader_read *read, size_t size)
{
    const struct pyl_reader *reader = read->reader;
    return PYL_FREE_THREADED && (pyl_reader_buffer_size(&reader->buffer) != size ||
                                 reader->is_eof || reader->exception != NULL);
}

static int
begin_wait(struct reader_read *read)
{
    read->waiter = pyl_reader_wait(read->reader, method_name(read->kind));
    if (read->waiter == NULL) {
        return -1;
    }
    if (PYL_LIKELY(pyl_future_is_exact(read->state, read->waiter))) {
        return 0;
    }
    PyObject *iterator = PyObject_CallMethod(read->waiter, "__await__", NULL);
    PyObject *both = iterator != NULL ? PyTuple_Pack(2, read->waiter, iterator) : NULL;
    Py_XDECREF(iterator);
    if (both == NULL) {
        return -1;
    }
    Py_SETREF(read->waiter, both);
    return 0;
}

static PySendResult
resume(struct reader_read *read, PyObject **ret)
{
    *ret = NULL;
    if (read->reader == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    for (;;) {
        if (read->waiter != NULL) {
            PySendResult status = await_waiter(read, ret);
            if (status != PYGEN_RETURN) {
                return status;
            }
        }
        int status = look(read, ret);
        if (status != 0) {
            return status > 0 ? PYGEN_RETURN : PYGEN_ERROR;
        }
        size_t size = pyl_reader_buffer_size(&read->reader->buffer);
        if (begin_wait(read) < 0) {
            return PYGEN_ERROR;
        }
        if (has_missed(read, size)) {
            end_wait(read);
        }
    }
}

static PySendResult
read_am_send(PyObject *op, PyObject *value, PyObject **ret)
{
    struct reader_read *read = read_of(op);
    PyObject *guard = read->reader != NULL ? (PyObject *)read->reader : op;
    PySendResult status;
    (void)value;
    Py_INCREF(guard);
    Py_BEGIN_CRITICAL_SECTION(guard);
    status = resume(read, ret);
    if (status != PYGEN_NEXT) {
        end_wait(read);
        (void)read_clear(op);
    }
    Py_END_CRITICAL_SECTION();
    Py_DECREF(guard);
    return status;
}

/* tp_clear: the wait is over without a look at the buffer. */
static int
read_give_up(PyObject *op)
{
    struct reader_read *read = read_of(op);
    if (read->waiter != NULL) {
        PyObject *guard = Py_NewRef((PyObject *)read->reader);
        Py_BEGIN_CRITICAL_SECTION(guard);
        end_wait(read);
        Py_END_CRITICAL_SECTION();
        Py_DECREF(guard);
    }
    return read_clear(op);
}

static int
read_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct reader_read *read = read_of(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)read->reader);
    Py_VISIT(read->waiter);
    Py_VISIT(read->parts); /* or separators */
    return 0;
}

static void
read_dealloc(PyObject *op)
{
    struct pyl_state *state = read_of(op)->state;
    PyObject_GC_UnTrack(op);
    (void)read_give_up(op);
    pyl_freelist_free(pyl_freelist_of(state, PYL_FREELIST_READ), op);
}

static PyType_Slot read_slots[] = {
    {Py_tp_dealloc, read_dealloc},
    {Py_tp_traverse, read_traverse},
    {Py_tp_clear, read_give_up},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, pyl_awaitable_next},
    {Py_tp_methods, pyl_awaitable_methods},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, read_am_send},
    {0, NULL},
};

static PyType_Spec read_spec = {
    .name = "pyloop._core.StreamRead",
    .basicsize = sizeof(struct reader_read),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = read_slots,
};

int
pyl_reader_read_type_add(PyObject *module, struct pyl_state *state)
{
    return pyl_add_type(module, &read_spec, NULL, false, &state->read_type);
}

/* ---- the methods ---- */

/* Also before __init__(). */
static struct pyl_state *
state_of(PyObject *self)
{
    struct pyl_state *state = ((struct pyl_reader *)(void *)self)->state;
    return PYL_LIKELY(state != NULL) ? state : pyl_state_of_type(Py_TYPE(self));
}

/* Steals separators. size: 0 for a search. */
static PyObject *
new_read(PyObject *self, enum kind kind, Py_ssize_t size, PyObject *separators)
{
    struct pyl_state *state = state_of(self);
    struct reader_read *read = (struct reader_read *)(void *)pyl_freelist_new(
        pyl_freelist_of(state, PYL_FREELIST_READ), state->read_type);
    if (read == NULL) {
        Py_XDECREF(separators);
        return NULL;
    }
    read->state = state;
    read->reader = (struct pyl_reader *)Py_NewRef(self);
    read->waiter = NULL;
    read->separators = separators;
    read->size = size;
    read->kind = kind;
    read->has_begun = false;
    PyObject_GC_Track(read);
    return (PyObject *)read;
}

PyObject *
pyl_reader_read(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *given = NULL;
    Py_ssize_t size = -1;
    struct pyl_state *state = state_of(self);
    if (pyl_argument_get("read", args, count, names, state->str.n, &given) < 0) {
        return NULL;
    }
    if (given != NULL) {
        size = PyNumber_AsSsize_t(given, NULL);
        if (size == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    return new_read(self, size < 0 ? READ_ALL : READ_SOME, size, NULL);
}

PyObject *
pyl_reader_readexactly(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *given = NULL;
    struct pyl_state *state = state_of(self);
    if (pyl_argument_get("readexactly", args, count, names, state->str.n, &given) < 0) {
        return NULL;
    }
    if (given == NULL) {
        PyErr_SetString(PyExc_TypeError,
                        "readexactly() missing 1 required positional argument: 'n'");
        return NULL;
    }
    Py_ssize_t size = PyNumber_AsSsize_t(given, NULL);
    return size == -1 && PyErr_Occurred() ? NULL : new_read(self, READ_EXACTLY, size, NULL);
}

PyObject *
pyl_reader_readline(PyObject *self, PyObject *unused)
{
    (void)unused;
    return new_read(self, READ_LINE, 0, NULL);
}

PyObject *
pyl_reader_anext(PyObject *self)
{
    return new_read(self, READ_NEXT, 0, NULL);
}

static PyObject *
copy_separator(PyObject *separator)
{
    Py_buffer view;
    if (PyObject_GetBuffer(separator, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(view.buf, view.len);
    PyBuffer_Release(&view);
    if (bytes != NULL && PyBytes_GET_SIZE(bytes) == 0) {
        Py_CLEAR(bytes);
        PyErr_SetString(PyExc_ValueError, "Separator should be at least one-byte string");
    }
    return bytes;
}

/* Moves the last item to its place: by length, in the given order among equals. */
static void
sink_last(PyObject *tuple, Py_ssize_t last)
{
    PyObject *item = PyTuple_GET_ITEM(tuple, last);
    Py_ssize_t i = last;
    for (; i > 0 && PyBytes_GET_SIZE(PyTuple_GET_ITEM(tuple, i - 1)) > PyBytes_GET_SIZE(item);
         i--) {
        PyTuple_SET_ITEM(tuple, i, PyTuple_GET_ITEM(tuple, i - 1));
    }
    PyTuple_SET_ITEM(tuple, i, item);
}

static PyObject *
sort_separators(PyObject *given)
{
    bool is_tuple = PyTuple_Check(given);
    Py_ssize_t count = is_tuple ? PyTuple_GET_SIZE(given) : 1;
    if (count == 0) {
        PyErr_SetString(PyExc_ValueError, "Separator should contain at least one element");
        return NULL;
    }
    PyObject *sorted = PyTuple_New(count);
    for (Py_ssize_t i = 0; sorted != NULL && i < count; i++) {
        PyObject *bytes = copy_separator(is_tuple ? PyTuple_GET_ITEM(given, i) : given);
        if (bytes == NULL) {
            Py_CLEAR(sorted);
        } else {
            PyTuple_SET_ITEM(sorted, i, bytes);
            sink_last(sorted, i);
        }
    }
    return sorted;
}

PyObject *
pyl_reader_readuntil(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *given = NULL;
    struct pyl_state *state = state_of(self);
    if (pyl_argument_get("readuntil", args, count, names, state->str.separator, &given) < 0) {
        return NULL;
    }
    PyObject *separators = NULL;
    if (given != NULL) {
        separators = sort_separators(given);
        if (separators == NULL) {
            return NULL;
        }
    }
    return new_read(self, READ_UNTIL, 0, separators);
}
