/*
 * module.h - what every file of the extension shares: module state, type registration. First include
 * of every file in this folder.
 *
 * All Python objects hang off the module state: no static types, no static PyObject pointers.
 */
#ifndef PYL_PYTHON_MODULE_H
#define PYL_PYTHON_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "base/platform.h"

/* One row per string used as an attribute, method or keyword name on a hot path. */
#define PYL_STRINGS(X)                                                                         \
    X(call_exception_handler)                                                                  \
    X(connection_made)                                                                         \
    X(connection_lost)                                                                         \
    X(data_received)                                                                           \
    X(eof_received)                                                                            \
    X(get_buffer)                                                                              \
    X(buffer_updated)                                                                          \
    X(pause_writing)                                                                           \
    X(resume_writing)                                                                          \
    X(call_soon)                                                                               \
    X(context)                                                                                 \
    X(loop)                                                                                    \
    X(name)                                                                                    \
    X(eager_start)                                                                             \
    X(_asyncio_future_blocking)                                                                \
    X(add_done_callback)                                                                       \
    X(get_loop)                                                                                \
    X(cancel)                                                                                  \
    X(throw)                                                                                   \
    X(send)                                                                                    \
    X(message)                                                                                 \
    X(exception)                                                                               \
    X(protocol)                                                                                \
    X(transport)                                                                               \
    X(handle)                                                                                  \
    X(source_traceback)

struct pyl_strings {
#define PYL_STRING_FIELD(name) PyObject *name;
    PYL_STRINGS(PYL_STRING_FIELD)
#undef PYL_STRING_FIELD
};

struct pyl_state {
    struct pyl_strings str;

    /* Our types; NULL until their pyl_*_add() ran. */
    PyTypeObject *loop_type;        /* loop_type.c */
    PyTypeObject *handle_type;      /* handle_type.c */
    PyTypeObject *timer_handle_type;
    PyTypeObject *threadsafe_handle_type;
    PyTypeObject *future_type;      /* future_type.c */
    PyTypeObject *future_iter_type;
    PyTypeObject *task_type;        /* task_type.c */
    PyTypeObject *transport_type;   /* transport_type.c */
    PyTypeObject *listener_type;    /* listener_type.c: what _start_serving returns */
    PyTypeObject *http_server_type; /* http_server.c */
    PyTypeObject *http_request_type;/* http_request.c */

    /* Borrowed from asyncio at import. */
    PyObject *asyncio_handle;        /* asyncio.Handle, for the __class__ getters */
    PyObject *asyncio_timer_handle;
    PyObject *asyncio_threadsafe_handle; /* NULL before 3.14 */
    PyObject *asyncio_future;
    PyObject *asyncio_task;
    PyObject *asyncio_transport;
    PyObject *asyncio_buffered_protocol;
    PyObject *cancelled_error;
    PyObject *invalid_state_error;
    PyObject *swap_current_task;     /* asyncio.tasks._swap_current_task; NULL on 3.11 */
    PyObject *enter_task;
    PyObject *leave_task;
    PyObject *register_task;
    PyObject *unregister_task;
    PyObject *get_running_loop;
    PyObject *set_running_loop;
};

/* From a module, from one of our heap types, or from an instance of a subclass of one (slow: cache it
 * in long-lived objects). */
struct pyl_state *pyl_state_of_module(PyObject *module);
struct pyl_state *pyl_state_of_type(PyTypeObject *type);

/* Each creates its types and adds them to the module. 0, or -1 with an exception. */
int pyl_loop_type_add(PyObject *module, struct pyl_state *state);
int pyl_handle_types_add(PyObject *module, struct pyl_state *state);
int pyl_future_types_add(PyObject *module, struct pyl_state *state);
int pyl_task_type_add(PyObject *module, struct pyl_state *state);
int pyl_transport_type_add(PyObject *module, struct pyl_state *state);
int pyl_listener_type_add(PyObject *module, struct pyl_state *state);
int pyl_http_types_add(PyObject *module, struct pyl_state *state);

/* PyType_FromModuleAndSpec into *ret_type, and PyModule_AddType when `is_public`. */
int pyl_add_type(PyObject *module, PyType_Spec *spec, PyObject *bases, bool is_public,
                 PyTypeObject **ret_type);

#endif
