/*
 * task.h - tasks: C functions that wait without blocking a worker.
 *
 * A task is a chain of steps. Each step begins at most one wait, names the next step, and returns;
 * a step that begins none ends the task. The steps of one task never run at once and all run on one
 * worker, so its state needs no lock. The next step always runs later, never inside the call that
 * begins the wait.
 *
 * The `result` of the wait is 0 or a positive value, or -errno. After a cancellation, also by the
 * end of the runtime, the present wait and every later one give -ECANCELED: a task then frees what
 * it has and begins no wait.
 *
 * Unless they say otherwise, functions here are called inside a step of that very task, and memory
 * given to them is lent until the next step.
 */
#ifndef PYLOOP_TASK_H
#define PYLOOP_TASK_H

#include <pyloop/runtime.h>

#include <sys/socket.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pyloop_task;

/* On a worker. `state` is what the task was spawned with. */
typedef void pyloop_step(struct pyloop_task *task, void *state, int64_t result);

/*
 * Starts a task with its first step, result 0.
 *
 * Thread:  any. From a step, the task begins on this worker, unless an idle one takes it.
 * Owns:    on success the task has `state` until on_end(state), its last call, on its worker;
 * on_end may be NULL. *ret_task (ret_task may be NULL) is a reference for pyloop_task_cancel() and
 *          pyloop_post(), to be given back by pyloop_task_unref(). On failure nothing is kept.
 * Returns: 0; -ENOMEM; -ECANCELED from outside when the runtime stops.
 */
PYLOOP_CHECKED int pyloop_spawn(struct pyloop_runtime *runtime, pyloop_step *first, void *state,
                                void (*on_end)(void *state), struct pyloop_task **ret_task);

/* Asks the task to end; see above. Harmless when repeated, and after the end. Any thread that holds
 * a reference, also while the runtime is being stopped and joined (a Python loop: closed) and after
 * that; a task may cancel itself. */
PYLOOP_API void pyloop_task_cancel(struct pyloop_task *task);
/* One more reference. Any thread that holds one; a step for its own task. */
PYLOOP_API void pyloop_task_ref(struct pyloop_task *task);
/* Gives a reference back. Any thread, also after pyloop_runtime_join(). */
PYLOOP_API void pyloop_task_unref(struct pyloop_task *task);

/* The runtime of the task. In a step. */
PYLOOP_API struct pyloop_runtime *pyloop_task_runtime(const struct pyloop_task *task);
/* The worker that runs the task: 0 up to the number of workers. In a step. */
PYLOOP_API uint32_t pyloop_task_worker(const struct pyloop_task *task);

/* ---- waits: time ---- */

/* result: 0, never early; -ENOMEM. */
PYLOOP_API void pyloop_sleep(struct pyloop_task *task, int64_t duration_ns, pyloop_step *next);
/* result: 0, when the others that are ready had their turn. */
PYLOOP_API void pyloop_yield(struct pyloop_task *task, pyloop_step *next);

/* ---- waits: sockets, non-blocking ones, each used by one task at a time ---- */

/* result: the connection, non-blocking and close-on-exec, the task's. */
PYLOOP_API void pyloop_accept(struct pyloop_task *task, int fd, pyloop_step *next);
/* result: a connected stream socket, the task's; -ETIMEDOUT after timeout_ns, 0: as long as the
 * kernel tries. The address is copied. */
PYLOOP_API void pyloop_connect(struct pyloop_task *task, const struct sockaddr *address,
                               socklen_t size, int64_t timeout_ns, pyloop_step *next);
/* result: bytes received, at least 1; 0 at the end of the stream. */
PYLOOP_API void pyloop_receive(struct pyloop_task *task, int fd, void *buffer, size_t size,
                               pyloop_step *next);
/* result: `size` when all was taken by the kernel. */
PYLOOP_API void pyloop_send(struct pyloop_task *task, int fd, const void *data, size_t size,
                            pyloop_step *next);
/* Not a wait: closes a socket that was used above; close(2) does not do for it. */
PYLOOP_API void pyloop_close(struct pyloop_task *task, int fd);

/* ---- waits: processes, threads, files ---- */

/* result: the status of waitpid(2) of a child, which is taken; -ECHILD. */
PYLOOP_API void pyloop_wait_process(struct pyloop_task *task, pid_t pid, pyloop_step *next);
/* result: what `call` returns, which may block and runs on a thread of its own kind. A call that
 * runs is not interrupted by a cancellation. -EAGAIN when no thread can be had. */
PYLOOP_API void pyloop_call(struct pyloop_task *task, int64_t (*call)(void *argument),
                            void *argument, pyloop_step *next);
/* result: as pread(2) and pwrite(2). */
PYLOOP_API void pyloop_read_file(struct pyloop_task *task, int fd, void *buffer, size_t size,
                                 int64_t offset, pyloop_step *next);
PYLOOP_API void pyloop_write_file(struct pyloop_task *task, int fd, const void *data, size_t size,
                                  int64_t offset, pyloop_step *next);

/* ---- waits: messages ---- */

/*
 * Sends a pointer to the task. Messages of one sender keep their order.
 *
 * Thread:  any that holds a reference, also while the runtime is being stopped and joined (a Python
 *          loop: closed) and after that: nothing tells whether the task will still take the message
 *          but on_dropped.
 * Owns:    whoever takes the message has it. If the task ends without: on_dropped(message), on any
 *          thread, at the latest with the last reference; on_dropped may be NULL.
 * Returns: 0; -ENOMEM, and then nothing was sent.
 */
PYLOOP_CHECKED int pyloop_post(struct pyloop_task *task, void *message,
                               void (*on_dropped)(void *message));
/* result: 1 when there is one to take. */
PYLOOP_API void pyloop_wait_message(struct pyloop_task *task, pyloop_step *next);
/* 1 and the oldest message, or 0. */
PYLOOP_CHECKED int pyloop_take_message(struct pyloop_task *task, void **ret_message);

/* ---- timers, without a task of one's own ---- */

struct pyloop_timer;

/*
 * Calls `fire` once, on a worker, not before delay_ns from now.
 *
 * Thread:  any.
 * Owns:    *ret_timer is the caller's until pyloop_timer_stop(), which is due also after it fired.
 *          `argument` stays the caller's.
 * Returns: 0; -ENOMEM; -ECANCELED from outside when the runtime stops: a timer that is waiting then
 * does not fire.
 */
PYLOOP_CHECKED int pyloop_timer_start(struct pyloop_runtime *runtime, int64_t delay_ns,
                                      void (*fire)(void *argument), void *argument,
                                      struct pyloop_timer **ret_timer);
/* Gives the timer back; it does not fire any more, unless its `fire` is about to run: then it may
 * still run while, or shortly after, this returns. Any thread. */
PYLOOP_API void pyloop_timer_stop(struct pyloop_timer *timer);

#ifdef __cplusplus
}
#endif

#endif
