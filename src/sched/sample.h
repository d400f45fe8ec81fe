/*
 * sample.h - what a worker measures in one turn of PYL_SAMPLE_TURNS: how long the turn and each of
 * its callbacks took, and how long a job that was posted in it waited.
 *
 * Durations: the clock is read after each callback, so that of one holds what the worker did for it
 * since the one before, such as receiving.
 *
 * Delays: of the jobs posted in timed turns since a delay was noted last one is chosen, each as
 * likely, and stamped. When it is run its delay counts for all of them: so each job of a timed turn
 * counts once on average, in whatever order they are posted and run. The chosen one is known by its
 * place in the order of all jobs; nothing is queued for it, and nothing has to be taken out.
 *
 * Owner thread only, except that the histograms are read by any.
 */
#ifndef PYL_SCHED_SAMPLE_H
#define PYL_SCHED_SAMPLE_H

#include "base/counter.h"
#include "base/platform.h"

#include <stdbool.h>

enum { PYL_SAMPLE_TURNS = 16 }; /* a power of two */

struct pyl_sample {
    bool is_open;      /* the turn that runs is timed */
    bool is_watching;  /* that, or a delay is awaited */
    int64_t last_ns;   /* when the callback before had ended */
    uint64_t posted;   /* jobs for which the next delay counts; 0: none is awaited */
    uint64_t chosen;   /* the place of the chosen one */
    int64_t chosen_ns; /* when it was posted */
    uint64_t random_state;
    struct pyl_duration_histogram turns;     /* from the end of the wait on */
    struct pyl_duration_histogram callbacks; /* of events and jobs */
    struct pyl_duration_histogram delays;    /* of jobs, from posted to run */
};

/* The sample is zeroed. */
void pyl_sample_init(struct pyl_sample *sample);

/* The turn that begins is timed. */
void pyl_sample_open(struct pyl_sample *sample);

/* Gives up what is open and awaited; what was measured stays. */
void pyl_sample_reset(struct pyl_sample *sample);

/* In a timed turn a job was posted that will be the place-th that is run. True: it was chosen, and
 * the caller sets chosen_ns. */
PYL_NODISCARD bool pyl_sample_offer(struct pyl_sample *sample, uint64_t place);

/* Is the delay of the place-th job, which is about to be run, to be noted? */
static inline bool
pyl_sample_is_awaited(const struct pyl_sample *sample, uint64_t place)
{
    return sample->posted > 0 && sample->chosen == place;
}

/* The chosen job is about to be run. */
void pyl_sample_note_delay(struct pyl_sample *sample, int64_t now_ns);

/* A callback of a timed turn has ended. */
void pyl_sample_note_callback(struct pyl_sample *sample, int64_t now_ns);

/* The timed turn has ended; it began at begin_ns. */
void pyl_sample_close(struct pyl_sample *sample, int64_t begin_ns, int64_t now_ns);

#endif
