/*
 * runtime.h - workers on threads of their own, for C programs and libraries. No Python.
 *
 * Conventions of all headers of pyloop: functions return 0 or a positive value, or a negative
 * errno; they write outputs only on success; "any thread" says that a call is safe everywhere but
 * in a signal handler. Times are nanoseconds of CLOCK_MONOTONIC.
 *
 * Structs grow at their end from version to version, and their size tells which one the caller
 * knows. What an older caller does not know has its default. A newer caller may leave what this
 * library does not know zero; anything else in there gives -EINVAL, as does a size below that of
 * version 0.1.
 */
#ifndef PYLOOP_RUNTIME_H
#define PYLOOP_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifndef PYLOOP_API
#define PYLOOP_API __attribute__((visibility("default")))
#endif
#define PYLOOP_CHECKED PYLOOP_API __attribute__((warn_unused_result))

#ifdef __cplusplus
extern "C" {
#endif

struct pyloop_runtime;

/* Zero means the default everywhere but in `struct_size`. */
struct pyloop_runtime_options {
    size_t struct_size;        /* sizeof(struct pyloop_runtime_options): lets the struct grow */
    uint32_t workers;          /* 0: one per processor, at most 64 */
    uint32_t blocking_threads; /* most threads for blocking calls; 0: 32 */
    int64_t
        steal_delay_ns;  /* a new task moves to an idle worker after this; 0: 100 us; < 0: never */
    const char *backend; /* NULL: chosen; "io_uring", "epoll"; read during the call only */
};

enum { PYLOOP_CAUSE_SIZE = 256 }; /* room for every text in `cause` */

/*
 * Starts the workers. Signals are blocked in them.
 *
 * Thread:  any. `options` and `cause` may be NULL.
 * Owns:    *ret_runtime is the caller's until pyloop_runtime_join().
 * Returns: 0; -EINVAL for bad options; -EAGAIN for no more threads; -ENOMEM, -EMFILE, or why the
 *          backend cannot be used, as a sentence in `cause`. On failure nothing is kept.
 */
PYLOOP_CHECKED int pyloop_runtime_start(const struct pyloop_runtime_options *options,
                                        struct pyloop_runtime **ret_runtime, char *cause,
                                        size_t cause_size);

/* Begins the end and returns at once: nothing new is taken from outside, servers stop, every task
 * is cancelled. Any thread, also in a step; harmless when repeated. */
PYLOOP_API void pyloop_runtime_stop(struct pyloop_runtime *runtime);

/*
 * Waits until the runtime was stopped and every task has ended, then frees it.
 *
 * Thread:  one that is no worker, and no other thread calls anything on the runtime any more. They
 *          may still post to tasks, cancel them and stop timers: those that are about to wake a
 *          worker are waited for.
 * Owns:    takes the runtime. Task references that are still held stay valid.
 * Returns: 0; the -errno of a kernel interface that failed beyond repair: then tasks may have been
 *          dropped without their on_end, and whoever has a reference may only give it back.
 */
PYLOOP_API int pyloop_runtime_join(struct pyloop_runtime *runtime);

/* How many workers there are. Any thread. */
PYLOOP_API uint32_t pyloop_runtime_workers(const struct pyloop_runtime *runtime);

/* What a worker has done; counts only grow. */
struct pyloop_worker_stats {
    uint64_t turns;            /* rounds of its loop */
    uint64_t events;           /* completions of the kernel */
    uint64_t activations;      /* times that a task got its turn */
    uint64_t searches;         /* looks into the queues of other workers */
    uint64_t stolen;           /* tasks taken from there */
    uint64_t injected;         /* tasks taken from the shared queue */
    uint64_t parks;            /* waits that could block */
    uint64_t wakes_written;    /* system calls of other threads to wake it */
    uint64_t wakes_suppressed; /* wake-ups that needed none */
};

/* A snapshot, not of one moment. `stats_size` is sizeof(*ret_stats); counters that this library
 * does not know are 0. Any thread. 0; -EINVAL without such a worker, or for a size below that of
 * version 0.1. */
PYLOOP_CHECKED int pyloop_runtime_get_stats(const struct pyloop_runtime *runtime, uint32_t worker,
                                            struct pyloop_worker_stats *ret_stats,
                                            size_t stats_size);

/* "0.1.0"; static. */
PYLOOP_API const char *pyloop_version(void);

#ifdef __cplusplus
}
#endif

#endif
