/*
 * fd_table.c - the open transports and listeners of a loop, by file descriptor.
 */
#include "python/fd_table.h"

#include "python/datagram.h"
#include "python/http.h"
#include "python/listener.h"
#include "python/loop.h"
#include "python/transport.h"

static int
grow(struct pyl_fd_table *table, int fd)
{
    int size = table->size == 0 ? 64 : table->size;
    while (size <= fd) {
        if (size > INT_MAX / 2) {
            PyErr_NoMemory();
            return -1;
        }
        size *= 2;
    }
    PyObject **owners = PyMem_Realloc(table->owners, (size_t)size * sizeof(*owners));
    if (owners == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (int i = table->size; i < size; i++) {
        owners[i] = NULL;
    }
    table->owners = owners;
    table->size = size;
    return 0;
}

int
pyl_fd_table_add(struct pyl_fd_table *table, int fd, PyObject *owner)
{
    if (fd < 0) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %d", fd);
        return -1;
    }
    if (fd >= table->size && grow(table, fd) < 0) {
        return -1;
    }
    if (table->owners[fd] != NULL) {
        PyErr_Format(PyExc_RuntimeError, "File descriptor %d is used by %R", fd, table->owners[fd]);
        return -1;
    }
    table->owners[fd] = Py_NewRef(owner);
    return 0;
}

void
pyl_fd_table_remove(struct pyl_fd_table *table, int fd, PyObject *owner)
{
    if (fd >= 0 && fd < table->size && table->owners[fd] == owner) {
        table->owners[fd] = NULL;
        Py_DECREF(owner);
    }
}

void
pyl_fd_table_depart(struct pyl_fd_table *table, int fd, PyObject *owner,
                    struct pyl_departed *departed)
{
    if (table->departed.next == NULL) {
        pyl_list_init(&table->departed);
    }
    pyl_list_append(&table->departed, &departed->link);
    departed->owner = Py_NewRef(owner);
    pyl_fd_table_remove(table, fd, owner);
}

void
pyl_fd_table_end(struct pyl_departed *departed)
{
    pyl_list_remove(&departed->link);
    Py_DECREF(departed->owner);
}

static struct pyl_departed *
departed_of_node(struct pyl_list *node)
{
    return PYL_CONTAINER_OF(node, struct pyl_departed, link);
}

int
pyl_fd_table_traverse(const struct pyl_fd_table *table, visitproc visit, void *arg)
{
    for (int i = 0; i < table->size; i++) {
        Py_VISIT(table->owners[i]);
    }
    struct pyl_list *node = table->departed.next;
    for (; node != NULL && node != &table->departed; node = node->next) {
        Py_VISIT(departed_of_node(node)->owner);
    }
    return 0;
}

static void
detach(struct pyl_state *state, PyObject *owner)
{
    if (Py_IS_TYPE(owner, state->transport_type)) {
        pyl_transport_detach((struct pyl_transport *)owner);
    } else if (Py_IS_TYPE(owner, state->http_connection_type)) {
        pyl_http_connection_detach((struct pyl_http_connection *)(void *)owner);
    } else if (Py_IS_TYPE(owner, state->http_listener_type)) {
        pyl_http_listener_detach((struct pyl_http_listener *)(void *)owner);
    } else if (PyObject_TypeCheck(owner, state->datagram_type)) {
        pyl_datagram_detach((struct pyl_datagram *)(void *)owner);
    } else {
        pyl_listener_detach((struct pyl_server_socket *)owner);
    }
}

void
pyl_fd_table_detach(struct pyl_loop *loop)
{
    for (int i = 0; i < loop->fds.size; i++) {
        if (loop->fds.owners[i] != NULL) {
            detach(loop->state, loop->fds.owners[i]);
        }
    }
    struct pyl_list *node = loop->fds.departed.next;
    for (; node != NULL && node != &loop->fds.departed; node = node->next) {
        detach(loop->state, departed_of_node(node)->owner);
    }
}

void
pyl_fd_table_release(struct pyl_loop *loop)
{
    /* A finalizer may run Python, but cannot open a transport on a loop that is closed. */
    PyObject **owners = loop->fds.owners;
    int size = loop->fds.size;
    struct pyl_list *departed = &loop->fds.departed;
    while (departed->next != NULL && !pyl_list_is_empty(departed)) {
        pyl_fd_table_end(departed_of_node(departed->next));
    }
    loop->fds = (struct pyl_fd_table){0};
    for (int i = 0; i < size; i++) {
        Py_XDECREF(owners[i]);
    }
    PyMem_Free(owners);
}

int
pyl_fd_table_check_free(struct pyl_loop *loop, PyObject *fileobj, int fd)
{
    if (fd < 0 || fd >= loop->fds.size) {
        return 0;
    }
    PyObject *owner = loop->fds.owners[fd];
    if (owner == NULL || !Py_IS_TYPE(owner, loop->state->transport_type)) {
        return 0;
    }
    struct pyl_transport *transport = (struct pyl_transport *)owner;
    if (transport->is_closing || transport->empty_waiter != NULL) {
        return 0;
    }
    PyErr_Format(PyExc_RuntimeError, "File descriptor %R is used by transport %R", fileobj, owner);
    return -1;
}
