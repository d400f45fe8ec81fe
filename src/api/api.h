/*
 * api.h - what is behind the opaque types of include/pyloop/.
 */
#ifndef PYL_API_API_H
#define PYL_API_API_H

#include "io/task.h"

#include <pyloop/tcp.h>

struct pyloop_runtime {
    struct pyl_runtime base;
};

struct pyloop_task {
    struct pyl_task base;
    struct pyloop_runtime *runtime;
    pyloop_step *next;
    void *state;
    void (*on_end)(void *state); /* may be NULL */
    int connect_fd;              /* of the wait that connects */
};

/* For a task inside another object; fields as there. */
void pyloop_task_init(struct pyloop_task *task, struct pyloop_runtime *runtime, pyloop_step *first,
                      void *state, void (*release)(struct pyl_task *task));
/* A task that pyl_task_spawn() or _spawn_on() starts with pyloop_task_resume(); NULL: no memory. */
struct pyloop_task *pyloop_task_new(struct pyloop_runtime *runtime, pyloop_step *first, void *state,
                                    void (*on_end)(void *state));
/* The step of every wait: calls `next`. */
void pyloop_task_resume(struct pyl_task *task, int64_t result);

#endif
