/*
 * module.h - what every file of the extension shares: module state, type registration. First
 * include of every file in this folder.
 *
 * All Python objects hang off the module state: no static types, no static PyObject pointers.
 */
#ifndef PYL_PYTHON_MODULE_H
#define PYL_PYTHON_MODULE_H

#include "python/compat.h"

#include <stdbool.h>

#include "base/list.h"
#include "base/platform.h"
#include "python/freelist.h"
#include "python/http_state.h"
#include "python/task_state.h"

/* One row per string used as an attribute, method or keyword name on a hot path. */
#define PYL_STRINGS(X)          \
    X(call_exception_handler)   \
    X(connection_made)          \
    X(connection_lost)          \
    X(data_received)            \
    X(eof_received)             \
    X(get_buffer)               \
    X(buffer_updated)           \
    X(pause_writing)            \
    X(resume_writing)           \
    X(call_soon)                \
    X(context)                  \
    X(loop)                     \
    X(name)                     \
    X(eager_start)              \
    X(_asyncio_future_blocking) \
    X(add_done_callback)        \
    X(get_loop)                 \
    X(cancel)                   \
    X(throw)                    \
    X(send)                     \
    X(message)                  \
    X(exception)                \
    X(protocol)                 \
    X(transport)                \
    X(handle)                   \
    X(source_traceback)         \
    X(socket)                   \
    X(sockname)                 \
    X(type)                     \
    X(status)                   \
    X(headers)                  \
    X(body)                     \
    X(more_body)                \
    X(asgi)                     \
    X(http_version)             \
    X(server)                   \
    X(client)                   \
    X(method)                   \
    X(path)                     \
    X(raw_path)                 \
    X(query_string)             \
    X(state)                    \
    X(peername)                 \
    X(get_debug)                \
    X(is_running)               \
    X(_loop)                    \
    X(result)                   \
    X(msg)                      \
    X(task)                     \
    X(future)                   \
    X(PENDING)                  \
    X(CANCELLED)                \
    X(FINISHED)                 \
    X(time)                     \
    X(run)                      \
    X(Future)                   \
    X(Task)                     \
    X(done)                     \
    X(set_result)               \
    X(_when)                    \
    X(_callback)                \
    X(_args)                    \
    X(_cancelled)               \
    X(_check_callback)          \
    X(_create_task_slow)        \
    X(n)                        \
    X(separator)                \
    X(join)                     \
    X(feed_data)                \
    X(_handler_ended)           \
    X(__del__)                  \
    X(datagram_received)        \
    X(error_received)           \
    X(_sent)                    \
    X(_sendto_slow)             \
    X(_maybe_pause_protocol)    \
    X(write)                    \
    X(_attach)                  \
    X(_detach)                  \
    X(_fileno)                  \
    X(_protocol)                \
    X(_buffer)                  \
    X(_closing)                 \
    X(_conn_lost)               \
    X(_read_ended)              \
    X(_read_failed)             \
    X(_write_failed)            \
    X(data)

struct pyl_strings {
#define PYL_STRING_FIELD(name) PyObject *name;
    PYL_STRINGS(PYL_STRING_FIELD)
#undef PYL_STRING_FIELD
};

/* One row per type of ours; NULL until its pyl_*_add() ran. Rows are traversed and cleared. */
#define PYL_TYPES(X)                                                           \
    X(loop_type)   /* loop_type.c */                                           \
    X(poll_type)   /* loop_fd.c */                                             \
    X(handle_type) /* handle_type.c */                                         \
    X(timer_handle_type)                                                       \
    X(threadsafe_handle_type)                                                  \
    X(future_type) /* future_type.c */                                         \
    X(future_iter_type)                                                        \
    X(task_type)            /* task_type.c */                                  \
    X(proxy_type)           /* crossing.c */                                   \
    X(handover_type)        /* handover.c */                                   \
    X(spawned_type)         /* spawn.c: what pyloop.spawn() returns */         \
    X(lent_type)            /* outside.c: what pyloop_lend() views */          \
    X(transport_type)       /* transport_type.c */                             \
    X(listener_type)        /* listener_type.c: what _start_serving returns */ \
    X(datagram_type)        /* datagram_type.c: DatagramCore */                \
    X(reader_type)          /* reader_type.c: StreamReaderCore */              \
    X(read_type)            /* reader_read.c */                                \
    X(reader_protocol_type) /* reader_protocol.c: StreamProtocolCore */        \
    X(writer_type)          /* writer_type.c: StreamWriterCore */              \
    X(drain_type)                                                              \
    X(read_pipe_type)       /* pipe.c: ReadPipeCore */                         \
    X(write_pipe_type)      /* pipe.c: WritePipeCore */                        \
    X(http_server_type)     /* http_server_type.c */                           \
    X(http_listener_type)   /* http_listen.c */                                \
    X(http_connection_type) /* http_connection.c */                            \
    X(http_request_type)    /* http_request.c */                               \
    X(http_call_type)       /* http_request.c: receive and send */             \
    X(http_ready_type)      /* http_wait.c */                                  \
    X(http_wait_type)                                                          \
    X(http_strand_type) /* http_strand.c */                                    \
    X(http_remote_type) /* http_remote.c */                                    \
    X(http_remote_wait_type)                                                   \
    X(http_disconnected_type) /* pyloop.ClientDisconnected */

/* One row per object borrowed at import: field, module, attribute, whether it must exist (otherwise
 * the field is NULL on versions without it). */
#define PYL_IMPORTS(X)                                                                      \
    X(asyncio_handle, "asyncio.events", "Handle", true) /* for the __class__ getters */     \
    X(asyncio_timer_handle, "asyncio.events", "TimerHandle", true)                          \
    X(asyncio_threadsafe_handle, "asyncio.events", "_ThreadSafeHandle", false) /* 3.14 */   \
    X(asyncio_future, "asyncio.futures", "Future", true)                                    \
    X(asyncio_task, "asyncio.tasks", "Task", true)                                          \
    X(asyncio_futures_module, "asyncio", "futures", true)                                   \
    X(asyncio_tasks_module, "asyncio", "tasks", true)                                       \
    X(asyncio_flow_control, "asyncio.transports", "_FlowControlMixin", true)                \
    X(asyncio_buffered_protocol, "asyncio.protocols", "BufferedProtocol", true)             \
    X(asyncio_transport_socket, "asyncio.trsock", "TransportSocket", true)                  \
    X(asyncio_sendfile_mode, "asyncio.constants", "_SendfileMode", true)                    \
    X(set_result_unless_cancelled, "asyncio.futures", "_set_result_unless_cancelled", true) \
    X(socket_class, "socket", "socket", true)                                               \
    X(asyncio_logger, "asyncio.log", "logger", true)                                        \
    X(cancelled_error, "asyncio.exceptions", "CancelledError", true)                        \
    X(invalid_state_error, "asyncio.exceptions", "InvalidStateError", true)                 \
    X(format_callback_source, "asyncio.format_helpers", "_format_callback_source", true)    \
    X(extract_stack, "asyncio.format_helpers", "extract_stack", true)                       \
    X(format_handle, "asyncio.base_events", "_format_handle", true)                         \
    X(swap_current_task, "asyncio.tasks", "_swap_current_task", false) /* 3.12 */           \
    X(enter_task, "asyncio.tasks", "_enter_task", true)                                     \
    X(leave_task, "asyncio.tasks", "_leave_task", true)                                     \
    X(register_task, "asyncio.tasks", "_register_task", true)                               \
    X(unregister_task, "asyncio.tasks", "_unregister_task", true)                           \
    X(register_eager_task, "asyncio.tasks", "_register_eager_task", false) /* 3.12 */       \
    X(unregister_eager_task, "asyncio.tasks", "_unregister_eager_task", false)              \
    X(current_tasks, "asyncio.tasks", "_current_tasks", false) /* NULL from 3.14 on */      \
    X(iscoroutine, "asyncio.coroutines", "iscoroutine", true)                               \
    X(future_repr_info, "asyncio.base_futures", "_future_repr_info", true)                  \
    X(task_repr_info, "asyncio.base_tasks", "_task_repr_info", true)                        \
    X(task_get_stack, "asyncio.base_tasks", "_task_get_stack", true)                        \
    X(task_print_stack, "asyncio.base_tasks", "_task_print_stack", true)                    \
    X(get_event_loop, "asyncio.events", "get_event_loop", true)                             \
    X(get_running_loop, "asyncio.events", "_get_running_loop", true)                        \
    X(set_running_loop, "asyncio.events", "_set_running_loop", true)                        \
    X(incomplete_read_error, "asyncio.exceptions", "IncompleteReadError", true)             \
    X(limit_overrun_error, "asyncio.exceptions", "LimitOverrunError", true)                 \
    X(asyncio_write_pipe, "asyncio.unix_events", "_UnixWritePipeTransport", true)           \
    X(asyncio_stream_writer, "asyncio.streams", "StreamWriter", true)                       \
    X(deque, "collections", "deque", true)

struct pyl_job;
typedef void pyl_job_fn(struct pyl_job *job);

/* A job embedded in a Python object that the queue keeps alive with one reference. */
struct pyl_job_kind {
    pyl_job_fn *run;
    size_t offset; /* of the struct pyl_job in the object */
    pyl_job_fn
        *drop; /* what happens to the job, and the reference, when the loop closes; NULL: decref */
};

enum { PYL_JOB_KINDS_MAX = 20 };

struct pyl_state {
    struct pyl_strings str;
#define PYL_TYPE_FIELD(name) PyTypeObject *name;
    PYL_TYPES(PYL_TYPE_FIELD)
#undef PYL_TYPE_FIELD
#define PYL_IMPORT_FIELD(name, module, attribute, is_required) PyObject *name;
    PYL_IMPORTS(PYL_IMPORT_FIELD)
#undef PYL_IMPORT_FIELD

    PyObject *debug_names; /* ('debug',): the keyword of a vectorcall */
    PyObject *empty_dict;  /* of instances without attributes: instance_dict.h */

    struct pyl_job_kind job_kinds[PYL_JOB_KINDS_MAX]; /* written while the module is executed */
    int job_kind_count;

    struct pyl_task_state tasks;
    struct pyl_http_state http;

    struct pyl_freelists freelists; /* empty on free-threaded builds, where loops have them */

    struct pyl_gil_lock loops_lock; /* guards `loops` */
    struct pyl_list loops;          /* of pyl_loop.siblings: every loop with a worker */
};

/* Where dead instances of that kind are kept. NULL on free-threaded builds while this thread runs
 * no loop. */
static inline struct pyl_freelist *
pyl_freelist_of(struct pyl_state *state, enum pyl_freelist_kind kind)
{
    if (!PYL_FREE_THREADED) {
        return &state->freelists.kinds[kind];
    }
    struct pyl_freelists *lists = pyl_freelists_current;
    /* Not of another interpreter, whose loop runs in this thread, too. */
    return PYL_LIKELY(lists != NULL && lists->state == state) ? &lists->kinds[kind] : NULL;
}

/* For the garbage collector and for close(): jobs with this run function sit at `offset` in a
 * Python object, and being queued (in the ready queue, the deferred queue or as a timer) holds one
 * reference to it. To be called by the pyl_*_add() of the type. */
void pyl_state_add_job_kind(struct pyl_state *state, pyl_job_fn *run, size_t offset);
/* The same for a type that must know when its job will never run: `drop` takes over the reference.
 */
void pyl_state_add_job_kind_with_drop(struct pyl_state *state, pyl_job_fn *run, size_t offset,
                                      pyl_job_fn *drop);
/* Lets go of a job taken out of its queue. */
void pyl_state_drop_job(struct pyl_state *state, struct pyl_job *job);
/* The object a queued job belongs to (borrowed), or NULL for a job that no Python object owns. */
PyObject *pyl_state_job_owner(struct pyl_state *state, struct pyl_job *job);

/* From a module, from one of our heap types, or from an instance of a subclass of one (slow: cache
 * it in long-lived objects). */
struct pyl_state *pyl_state_of_module(PyObject *module);
struct pyl_state *pyl_state_of_type(PyTypeObject *type);

/* Each creates its types and adds them to the module. 0, or -1 with an exception. */
int pyl_loop_type_add(PyObject *module, struct pyl_state *state);
int pyl_poll_type_add(PyObject *module, struct pyl_state *state);
int pyl_handle_types_add(PyObject *module, struct pyl_state *state);
int pyl_future_types_add(PyObject *module, struct pyl_state *state);
int pyl_task_type_add(PyObject *module, struct pyl_state *state);
int pyl_proxy_type_add(PyObject *module, struct pyl_state *state);
int pyl_spawned_type_add(PyObject *module, struct pyl_state *state);
int pyl_handover_type_add(PyObject *module, struct pyl_state *state);
int pyl_lent_type_add(PyObject *module, struct pyl_state *state);
int pyl_pipe_types_add(PyObject *module, struct pyl_state *state);
int pyl_capsule_add(PyObject *module, struct pyl_state *state);
int pyl_transport_type_add(PyObject *module, struct pyl_state *state);
int pyl_datagram_type_add(PyObject *module, struct pyl_state *state);
int pyl_listener_type_add(PyObject *module, struct pyl_state *state);
int pyl_reader_type_add(PyObject *module, struct pyl_state *state);
int pyl_reader_read_type_add(PyObject *module, struct pyl_state *state);
int pyl_reader_protocol_type_add(PyObject *module, struct pyl_state *state);
int pyl_writer_types_add(PyObject *module, struct pyl_state *state);
int pyl_http_types_add(PyObject *module, struct pyl_state *state);

/* PyType_FromModuleAndSpec into *ret_type, and PyModule_AddType when `is_public`. */
int pyl_add_type(PyObject *module, PyType_Spec *spec, PyObject *bases, bool is_public,
                 PyTypeObject **ret_type);

#endif
