/*
 * task.h - native tasks: C functions that wait without blocking their worker. A task is a chain of
 * steps; each step begins at most one wait, names the step that comes next, and returns. A step
 * that begins none ends the task.
 *
 *   static void on_data(struct pyl_task *task, int64_t result);
 *
 *   static void
 *   on_connection(struct pyl_task *task, int64_t result)
 *   {
 *       ...
 *       pyl_task_receive(task, fd, buffer, sizeof(buffer), on_data);
 *   }
 *
 * A task is a strand: its steps never run at once, and from the first one on it stays on one
 * worker, so its state needs no lock. The next step always runs later, never inside the call that
 * begins the wait. `result` is 0 or a positive value, or -errno; -ECANCELED when the task was
 * cancelled.
 *
 * Functions that begin a wait are called from a step of that very task.
 */
#ifndef PYL_IO_TASK_H
#define PYL_IO_TASK_H

#include "io/connect.h"
#include "sched/runtime.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct pyl_task;
struct pyl_message;

typedef void pyl_task_fn(struct pyl_task *task, int64_t result);

/* What a task waits for. */
enum pyl_task_wait {
    PYL_TASK_NOTHING, /* a step runs, or the task has ended */
    PYL_TASK_STEP,    /* the result is there, the next step is queued */
    PYL_TASK_OP,
    PYL_TASK_TIMER,
    PYL_TASK_CONNECT,
    PYL_TASK_WORK,
    PYL_TASK_MESSAGE,
    PYL_TASK_OUTSIDE,
};

/* The wait that is active, by pyl_task.wait. */
union pyl_task_waiting {
    struct {
        struct pyl_op op;
        int64_t (*retry)(struct pyl_task *task); /* when the fd is ready */
        uint8_t *data;
        size_t size;
        size_t done;
        struct iovec iov;
        struct msghdr message; /* of iov */
        pid_t pid;
    } io;
    struct pyl_timer timer;
    struct pyl_connect connect;
    struct {
        struct pyl_work work;
        int64_t (*call)(void *argument); /* on a thread of the pool */
        void *argument;
        uint8_t *data; /* of a file operation */
        size_t size;
        int64_t offset;
        int64_t result;
        int fd;
        bool is_write;
        pid_t pid;
    } call;
    struct {
        struct pyl_job job;
        void (*cancel)(struct pyl_task *task);
        void *user;
        int64_t result;
    } outside;
};

struct pyl_task {
    struct pyl_strand strand;
    struct pyl_runtime *runtime;            /* constant after spawn */
    void (*release)(struct pyl_task *task); /* the last reference is gone: the memory is its */
    void (*on_ended)(
        struct pyl_task *task);    /* set after init or NULL: after the last step, on its worker */
    pyl_task_fn *next;             /* strand: the step that comes next */
    int64_t result;                /* strand: for it */
    uint8_t wait;                  /* strand: enum pyl_task_wait */
    bool is_cancelled;             /* strand */
    _Atomic bool is_cancel_posted; /* any thread, exchange: cancel_job is used once */
    _Atomic uint32_t references;   /* any thread */
    struct pyl_job step_job;
    struct pyl_job cancel_job;
    struct pyl_job_queue mailbox;   /* strand: of pyl_message.job */
    union pyl_task_waiting waiting; /* strand */
};

/* A message of one task, or any thread, to a task. Embedded in the sender's object; whoever takes
 * it has it. */
struct pyl_message {
    struct pyl_job job;
    struct pyl_task *to;
    void (*on_dropped)(struct pyl_message *message); /* never taken; any thread. May be NULL */
};

/* A task with one reference, which is the runtime's from spawn until its end and otherwise the
 * caller's. `release` is called by whoever gives the last one back, on any thread. */
void pyl_task_init(struct pyl_task *task, void (*release)(struct pyl_task *task));

/* Starts the task with its first step, result 0; see pyl_runtime_spawn() and _spawn_on(). Any
 * thread. 0; -ECANCELED when the runtime stops, and then the reference is still the caller's. */
PYL_NODISCARD int pyl_task_spawn(struct pyl_runtime *runtime, struct pyl_task *task,
                                 pyl_task_fn *first);
PYL_NODISCARD int pyl_task_spawn_on(struct pyl_runtime *runtime, uint32_t lane,
                                    struct pyl_task *task, pyl_task_fn *first);

/* Any thread that has a reference. */
void pyl_task_ref(struct pyl_task *task);
void pyl_task_unref(struct pyl_task *task);

/* The present wait, or else the next one, and every one after it end with -ECANCELED as soon as
 * they can; a blocking call that runs is waited for. Harmless when repeated, and after the end. Any
 * thread that has a reference. */
void pyl_task_cancel(struct pyl_task *task);

/* ---- sockets: task_socket.c. The fds are non-blocking, and used by one task at a time ---- */

/* result: a new fd, non-blocking and close-on-exec, the task's. */
void pyl_task_accept(struct pyl_task *task, int fd, pyl_task_fn *next);
/* result: 0 or what pyl_connect_fn tells. timeout_ns 0: as long as the kernel tries. */
void pyl_task_connect(struct pyl_task *task, int fd, const struct pyl_sockaddr *address,
                      int64_t timeout_ns, pyl_task_fn *next);
/* result: bytes read, at least one; 0 at the end. `buffer` lives until the next step. */
void pyl_task_receive(struct pyl_task *task, int fd, void *buffer, size_t size, pyl_task_fn *next);
/* result: `size`, when all is sent, or the error that came before. `data` lives until the next
 * step. */
void pyl_task_send(struct pyl_task *task, int fd, const void *data, size_t size, pyl_task_fn *next);
/* Not a wait: closes an fd that was used above. */
void pyl_task_close(struct pyl_task *task, int fd);

/* ---- the rest: task_wait.c ---- */

/* result: 0; the others that are ready run first. */
void pyl_task_yield(struct pyl_task *task, pyl_task_fn *next);
/* result: 0, not before `duration_ns` from now; -ENOMEM. */
void pyl_task_sleep(struct pyl_task *task, int64_t duration_ns, pyl_task_fn *next);
/* result: what waitpid(2) reports of a child of this process, which it takes; -ECHILD. */
void pyl_task_wait_process(struct pyl_task *task, pid_t pid, pyl_task_fn *next);
/* result: what `call` returns, which runs on a thread of the blocking pool; -EAGAIN without one. */
void pyl_task_call(struct pyl_task *task, int64_t (*call)(void *argument), void *argument,
                   pyl_task_fn *next);
/* result: bytes read or written, as pread(2) and pwrite(2) do it, on the blocking pool. The memory
 * lives until the next step. */
void pyl_task_read_file(struct pyl_task *task, int fd, void *buffer, size_t size, int64_t offset,
                        pyl_task_fn *next);
void pyl_task_write_file(struct pyl_task *task, int fd, const void *data, size_t size,
                         int64_t offset, pyl_task_fn *next);

/* The message arrives in order per sender, also before the task waits for it; if the task ends
 * without having taken it: on_dropped, at the latest with the last reference. Any thread that has a
 * reference. */
void pyl_task_post(struct pyl_task *task, struct pyl_message *message);
/* result: 1 when pyl_task_take_message() has one. */
void pyl_task_wait_message(struct pyl_task *task, pyl_task_fn *next);
/* The oldest message, now the caller's, or NULL. In a step. */
struct pyl_message *pyl_task_take_message(struct pyl_task *task);

/*
 * Waits for something outside the runtime, which ends the wait once: by pyl_task_end_wait(), or by
 * pyl_task_complete() if it is on the task's worker.
 *
 * Calls:   cancel(task), on the task's worker, if the task is cancelled while it waits. It may end
 *          the wait; or else whoever was about to end it still does.
 * Owns:    `user` is the caller's; it is in waiting.outside.user until the next wait begins.
 * Returns: false if the task is cancelled already: then the next step is on its way, and `user` was
 *          not kept.
 */
PYL_NODISCARD bool pyl_task_wait_outside(struct pyl_task *task,
                                         void (*cancel)(struct pyl_task *task), void *user,
                                         pyl_task_fn *next);
/* result: this. Any thread, while the task waits; neither the task nor its runtime may end before
 * this has returned. */
void pyl_task_end_wait(struct pyl_task *task, int64_t result);

/* ---- for the files of the task ---- */

/* A wait begins, `waiting` is zeroed. Returns false if the task is cancelled: then the next step is
 * on its way already. */
PYL_NODISCARD bool pyl_task_begin(struct pyl_task *task, enum pyl_task_wait wait,
                                  pyl_task_fn *next);
/* The wait is over. On the task's worker. */
void pyl_task_complete(struct pyl_task *task, int64_t result);

static inline struct pyl_worker *
pyl_task_worker(const struct pyl_task *task)
{
    return &task->strand.home->worker;
}

#endif
