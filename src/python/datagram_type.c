/*
 * datagram_type.c - the type DatagramCore: memory, opening and closing, its tables.
 */
#include "python/datagram.h"

#include <errno.h>

static struct pyl_datagram *
datagram_of(PyObject *self)
{
    return (struct pyl_datagram *)(void *)self;
}

/* ---- memory ---- */

static int
datagram_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pyl_datagram *datagram = datagram_of(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)datagram->loop);
    Py_VISIT(datagram->context);
    Py_VISIT(datagram->protocol);
    Py_VISIT(datagram->received_method);
    Py_VISIT(datagram->remote_address);
    for (size_t i = 0; i < sizeof(datagram->slots) / sizeof(*datagram->slots); i++) {
        Py_VISIT(datagram->slots[i]);
    }
    return 0;
}

static int
datagram_clear(PyObject *self)
{
    struct pyl_datagram *datagram = datagram_of(self);
    datagram->is_detached = true;
    Py_CLEAR(datagram->context);
    Py_CLEAR(datagram->protocol);
    Py_CLEAR(datagram->received_method);
    Py_CLEAR(datagram->remote_address);
    Py_CLEAR(datagram->sender.object);
    Py_CLEAR(datagram->receiver.object);
    for (size_t i = 0; i < sizeof(datagram->slots) / sizeof(*datagram->slots); i++) {
        Py_CLEAR(datagram->slots[i]);
    }
    Py_CLEAR(datagram->loop);
    return 0;
}

static void
datagram_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    pyl_datagram_dispose(&datagram_of(self)->socket);
    (void)datagram_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- opening and closing ---- */

/* What a received datagram can be at most: only Unix sockets carry more than UDP. */
static size_t
size_max(int family)
{
    return family == AF_UNIX ? PYL_PACKET_SIZE_MAX : PYL_PACKET_SIZE_UDP;
}

/* _open(loop, fd, family, is_connected) */
static PyObject *
method_open(PyObject *self, PyObject *args)
{
    struct pyl_datagram *datagram = datagram_of(self);
    struct pyl_state *state = pyl_state_of_type(Py_TYPE(self));
    PyObject *loop_object;
    int fd, family, is_connected;
    if (!PyArg_ParseTuple(args, "Oiip:_open", &loop_object, &fd, &family, &is_connected)) {
        return NULL;
    }
    struct pyl_loop *loop = pyl_loop_cast(state, loop_object);
    if (loop == NULL || datagram->loop != NULL) {
        PyErr_SetString(loop == NULL ? PyExc_TypeError : PyExc_RuntimeError,
                        loop == NULL ? "a pyloop.Loop is required" : "the transport is open");
        return NULL;
    }
    PyObject *context = PyContext_CopyCurrent();
    if (context == NULL || pyl_loop_check_usable(loop) < 0 ||
        pyl_fd_table_add(&loop->fds, fd, self) < 0) {
        Py_XDECREF(context);
        return NULL;
    }
    struct pyl_datagram_options options = {
        .size_max = size_max(family),
        .overhead = PYL_DATAGRAM_OVERHEAD,
    };
    datagram->state = state;
    datagram->context = context;
    datagram->loop = (struct pyl_loop *)Py_NewRef(loop_object);
    datagram->fd = fd;
    datagram->family = family;
    datagram->is_connected = is_connected;
    pyl_datagram_init(&datagram->socket, loop->worker, fd, &options, &pyl_datagram_transport_ops);
    datagram->is_open = true;
    Py_RETURN_NONE;
}

static PyObject *
method_read(PyObject *self, PyObject *is_wanted)
{
    struct pyl_datagram *datagram = datagram_of(self);
    int wants = PyObject_IsTrue(is_wanted);
    if (wants < 0) {
        return NULL;
    }
    if (pyl_datagram_is_usable(datagram)) {
        (wants ? pyl_datagram_read_start : pyl_datagram_read_stop)(&datagram->socket);
    }
    Py_RETURN_NONE;
}

static PyObject *
method_drop(PyObject *self, PyObject *unused)
{
    struct pyl_datagram *datagram = datagram_of(self);
    (void)unused;
    pyl_datagram_transport_flush(datagram); /* asyncio has sent it already */
    if (pyl_datagram_is_usable(datagram)) {
        pyl_datagram_drop_queue(&datagram->socket);
    }
    Py_RETURN_NONE;
}

static PyObject *
method_shut(PyObject *self, PyObject *unused)
{
    struct pyl_datagram *datagram = datagram_of(self);
    (void)unused;
    pyl_datagram_transport_flush(datagram);
    if (pyl_datagram_is_usable(datagram)) {
        datagram->is_open = false;
        pyl_datagram_close(&datagram->socket);
        pyl_fd_table_depart(&datagram->loop->fds, datagram->fd, self, &datagram->departed);
    }
    Py_RETURN_NONE;
}

static PyObject *
method_get_write_buffer_size(PyObject *self, PyObject *unused)
{
    struct pyl_datagram *datagram = datagram_of(self);
    (void)unused;
    pyl_datagram_transport_flush(datagram);
    return PyLong_FromSize_t(
        pyl_datagram_is_usable(datagram) ? pyl_datagram_queued_size(&datagram->socket) : 0);
}

/* ---- attributes that asyncio's own code uses ---- */

static PyObject *
get_protocol(PyObject *self, void *closure)
{
    PyObject *protocol = datagram_of(self)->protocol;
    (void)closure;
    return Py_NewRef(protocol != NULL ? protocol : Py_None);
}

static int
set_protocol(PyObject *self, PyObject *value, void *closure)
{
    struct pyl_datagram *datagram = datagram_of(self);
    (void)closure;
    Py_XSETREF(datagram->protocol, value == Py_None ? NULL : Py_XNewRef(value));
    Py_CLEAR(datagram->received_method);
    return 0;
}

static PyObject *
get_address(PyObject *self, void *closure)
{
    PyObject *address = datagram_of(self)->remote_address;
    (void)closure;
    return Py_NewRef(address != NULL ? address : Py_None);
}

/* asyncio asks whether it is true. */
static int
set_address(PyObject *self, PyObject *value, void *closure)
{
    int is_true = value == NULL ? 0 : PyObject_IsTrue(value);
    (void)closure;
    if (is_true < 0) {
        return -1;
    }
    Py_XSETREF(datagram_of(self)->remote_address, is_true ? Py_NewRef(value) : NULL);
    return 0;
}

static PyObject *
get_is_reading(PyObject *self, void *closure)
{
    struct pyl_datagram *datagram = datagram_of(self);
    (void)closure;
    return PyBool_FromLong(pyl_datagram_is_usable(datagram) && datagram->socket.is_reading);
}

static PyGetSetDef datagram_getset[] = {
    {"_protocol", get_protocol, set_protocol, NULL, NULL},
    {"_address", get_address, set_address, NULL, NULL},
    {"_is_reading", get_is_reading, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef datagram_members[] = {
    {"_conn_lost", Py_T_UINT, offsetof(struct pyl_datagram, lost_writes), 0, NULL},
    {"_high_water_now", Py_T_PYSSIZET, offsetof(struct pyl_datagram, high_water), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef datagram_methods[] = {
    {"sendto", (PyCFunction)(void (*)(void))pyl_datagram_sendto, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("sendto(data, addr=None): send a datagram at the end of this turn of the loop.")},
    {"get_write_buffer_size", method_get_write_buffer_size, METH_NOARGS,
     PyDoc_STR("The bytes that the kernel has not taken yet.")},
    {"_queue", (PyCFunction)(void (*)(void))pyl_datagram_queue, METH_FASTCALL, NULL},
    {"_open", method_open, METH_VARARGS, NULL},
    {"_read", method_read, METH_O, NULL},
    {"_drop", method_drop, METH_NOARGS, NULL},
    {"_shut", method_shut, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot datagram_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The hot half of the datagram transport.")},
    {Py_tp_traverse, datagram_traverse},
    {Py_tp_clear, datagram_clear},
    {Py_tp_dealloc, datagram_dealloc},
    {Py_tp_methods, datagram_methods},
    {Py_tp_members, datagram_members},
    {Py_tp_getset, datagram_getset},
    {0, NULL},
};

static PyType_Spec datagram_spec = {
    .name = "pyloop._core.DatagramCore",
    .basicsize = sizeof(struct pyl_datagram),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = datagram_slots,
};

int
pyl_datagram_type_add(PyObject *module, struct pyl_state *state)
{
    PyTypeObject *base = (PyTypeObject *)state->asyncio_flow_control;
    if (base->tp_basicsize != (Py_ssize_t)offsetof(struct pyl_datagram, state)) {
        PyErr_SetString(PyExc_ImportError, "asyncio.Transport has slots that we do not know");
        return -1;
    }
    PyObject *bases = PyTuple_Pack(1, (PyObject *)base);
    if (bases == NULL) {
        return -1;
    }
    int status = pyl_add_type(module, &datagram_spec, bases, true, &state->datagram_type);
    Py_DECREF(bases);
    return status;
}
