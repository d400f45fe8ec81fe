/*
 * sim_stack.c - runs a range of seeds: sim_stack [FIRST [COUNT]]. A failure names its seed, which
 * given alone repeats it: sim_stack SEED 1.
 */
#include "world.h"

#include "base/alloc.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SEEDS_DEFAULT = 2000, SEED_SECONDS = 60 };

/* The simulation waits for other threads when nothing else can happen: a lost completion shows as
 * that. */
static void
report_stuck(int number)
{
    fprintf(stderr, "FAILED: seed %llu: stuck\n", (unsigned long long)world_seed);
    _exit(1);
}

int
main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : argc > 1 ? 1 : SEEDS_DEFAULT;
    signal(SIGALRM, report_stuck);
    for (uint64_t seed = first; seed < first + count; seed++) {
        alarm(SEED_SECONDS);
        uint64_t blocks = pyl_alloc_live_blocks();
        world_run(seed);
        if (pyl_alloc_live_blocks() != blocks) {
            fprintf(stderr, "FAILED: seed %llu: memory is left\n", (unsigned long long)seed);
            return 1;
        }
    }
    printf("sim_stack: seeds %llu to %llu passed\n", (unsigned long long)first,
           (unsigned long long)(first + count - 1));
    return 0;
}
