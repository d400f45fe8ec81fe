/*
 * signal.h - turns process signals into calls on a worker.
 *
 * A source has a non-blocking pipe. Whoever catches signals writes one byte per
 * signal, its number, into the write end: that is what Python's signal.set_wakeup_fd() does. Or the
 * source catches them itself with pyl_signal_watch(), which also marks the number in a bit set, so
 * that a full pipe loses no number. Not for the simulation, which has no real descriptors.
 */
#ifndef PYL_IO_SIGNAL_H
#define PYL_IO_SIGNAL_H

#include "reactor/op.h"
#include "sched/worker.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { PYL_SIGNAL_MAX = 64 };

struct pyl_signal_source;

struct pyl_signal_ops {
    /* A signal came. One that was written is told once per byte; one that was caught by
     * pyl_signal_watch() once for all that came since the last call. */
    void (*on_signal)(struct pyl_signal_source *source, int number);
    /* So much was unread that an outside writer may have found the pipe full. Optional. */
    void (*on_overflow)(struct pyl_signal_source *source);
    /* Last call, after pyl_signal_source_close(). */
    void (*on_closed)(struct pyl_signal_source *source);
};

struct pyl_signal_source {
    const struct pyl_signal_ops *ops;
    struct pyl_worker *worker;
    int read_fd;
    int write_fd;
    bool is_closing;
    bool is_close_queued;
    struct pyl_op poll_op;
    struct pyl_job close_job;
    _Atomic uint64_t
        pending; /* bit number-1; signal handlers set (release), owner takes (acquire) */
};

/* Opens the pipe and starts to watch it. Returns 0, -EMFILE, -ENFILE, -ENOMEM, -ENOTSUP. */
PYL_NODISCARD int pyl_signal_source_init(struct pyl_signal_source *source,
                                         struct pyl_worker *worker,
                                         const struct pyl_signal_ops *ops);

/* Ends all watches of this source. on_closed comes later, from a job; the write end must not be
 * used by others any more. */
void pyl_signal_source_close(struct pyl_signal_source *source);

/* For a source whose worker was closed or abandoned: closes the pipe without a call. Watches end.
 */
void pyl_signal_source_dispose(struct pyl_signal_source *source);

/*
 * Installs a handler for the number that notifies this source; a number belongs to one source in
 * the process. unwatch restores what was there before.
 *
 * Thread:  owner; must not race with others that change the disposition of the same signal.
 * Returns: 0; -EINVAL for a number that cannot be caught; -EBUSY when another source has it.
 */
PYL_NODISCARD int pyl_signal_watch(struct pyl_signal_source *source, int number);
void pyl_signal_unwatch(struct pyl_signal_source *source, int number);

/* What the handler does: never blocks, keeps errno. Any thread and any signal handler. */
void pyl_signal_notify(struct pyl_signal_source *source, int number);

#endif
