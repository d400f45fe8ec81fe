/*
 * capsule.c - pyloop._core._C_API: the table behind pyloop/python.h.
 */
#include "python/coroutine_wait.h"
#include "python/native_task.h"
#include "python/outside.h"
#include "python/promise.h"

static const struct pyloop_py_api api = {
    .abi = PYLOOP_PY_ABI,
    .size = sizeof(api),

    .future_new = pyl_promise_new,
    .promise_complete = pyl_promise_complete,
    .promise_is_wanted = pyl_promise_is_wanted,

    .port_running = pyl_port_get_running,
    .port_ref = pyl_port_ref,
    .port_unref = pyl_port_unref,
    .port_call = pyl_outside_call,
    .coroutine_start = pyl_outside_coroutine,

    .lend = pyl_outside_lend,

    .task_start = pyl_native_task_start,
    .runtime = pyl_native_runtime,

    .spawn = pyloop_spawn,
    .task_cancel = pyloop_task_cancel,
    .task_ref = pyloop_task_ref,
    .task_unref = pyloop_task_unref,
    .task_runtime = pyloop_task_runtime,
    .task_worker = pyloop_task_worker,
    .sleep = pyloop_sleep,
    .yield = pyloop_yield,
    .accept = pyloop_accept,
    .connect = pyloop_connect,
    .receive = pyloop_receive,
    .send = pyloop_send,
    .close = pyloop_close,
    .wait_process = pyloop_wait_process,
    .call = pyloop_call,
    .read_file = pyloop_read_file,
    .write_file = pyloop_write_file,
    .post = pyloop_post,
    .wait_message = pyloop_wait_message,
    .take_message = pyloop_take_message,
    .timer_start = pyloop_timer_start,
    .timer_stop = pyloop_timer_stop,

    .wait_coroutine = pyl_wait_coroutine,
};

int
pyl_capsule_add(PyObject *module, struct pyl_state *state)
{
    return PyModule_Add(module, "_C_API",
                        PyCapsule_New((void *)(uintptr_t)&api, PYLOOP_PY_CAPSULE, NULL));
}
