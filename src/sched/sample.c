/*
 * sample.c - one job of many chosen while they come, and the histograms.
 */
#include "sched/sample.h"

#define RANDOM_SEED UINT64_C(0x9E3779B97F4A7C15) /* anything but 0 */

void
pyl_sample_init(struct pyl_sample *sample)
{
    sample->random_state = RANDOM_SEED;
}

void
pyl_sample_open(struct pyl_sample *sample)
{
    sample->is_open = true;
    sample->is_watching = true;
}

void
pyl_sample_reset(struct pyl_sample *sample)
{
    sample->is_open = false;
    sample->is_watching = false;
    sample->posted = 0;
}

/* A number below `end` (xorshift64). */
static uint32_t
random_below(struct pyl_sample *sample, uint32_t end)
{
    uint64_t x = sample->random_state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    sample->random_state = x;
    return (uint32_t)(((x >> 32) * end) >> 32);
}

/* The n-th takes the place of the one before with probability 1/n: then each of the n is as likely.
 */
bool
pyl_sample_offer(struct pyl_sample *sample, uint64_t place)
{
    sample->posted++;
    if (random_below(sample, (uint32_t)sample->posted) != 0) {
        return false;
    }
    sample->chosen = place;
    return true;
}

void
pyl_sample_note_delay(struct pyl_sample *sample, int64_t now_ns)
{
    pyl_duration_note_many(&sample->delays, now_ns - sample->chosen_ns, sample->posted);
    sample->posted = 0;
    sample->is_watching = sample->is_open;
}

void
pyl_sample_note_callback(struct pyl_sample *sample, int64_t now_ns)
{
    pyl_duration_note(&sample->callbacks, now_ns - sample->last_ns);
    sample->last_ns = now_ns;
}

void
pyl_sample_close(struct pyl_sample *sample, int64_t begin_ns, int64_t now_ns)
{
    pyl_duration_note(&sample->turns, now_ns - begin_ns);
    sample->is_open = false;
    sample->is_watching = sample->posted > 0;
}
