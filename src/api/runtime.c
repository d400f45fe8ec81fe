/*
 * runtime.c - pyloop/runtime.h: starting, ending, counting. Tested by tests/api/test_api.c.
 */
#include "api/api.h"

#include "base/alloc.h"
#include "base/versioned.h"

#include <errno.h>

/* Of version 0.1; constant. */
enum {
    OPTIONS_SIZE_FIRST = PYL_SIZE_UP_TO(struct pyloop_runtime_options, backend),
    STATS_SIZE_FIRST = PYL_SIZE_UP_TO(struct pyloop_worker_stats, wakes_suppressed),
};

static int
read_options(const struct pyloop_runtime_options *given, struct pyl_runtime_options *ret_options)
{
    *ret_options = (struct pyl_runtime_options){0};
    if (given == NULL) {
        return 0;
    }
    struct pyloop_runtime_options options;
    int rc = pyl_versioned_read(&options, sizeof(options), OPTIONS_SIZE_FIRST, given,
                                given->struct_size);
    if (rc < 0) {
        return rc;
    }
    ret_options->workers = options.workers;
    ret_options->steal_delay_ns = options.steal_delay_ns;
    ret_options->blocking.threads_max = options.blocking_threads;
    ret_options->reactor.backend = options.backend;
    return 0;
}

int
pyloop_runtime_start(const struct pyloop_runtime_options *options,
                     struct pyloop_runtime **ret_runtime, char *cause, size_t cause_size)
{
    struct pyl_runtime_options inner;
    int rc = read_options(options, &inner);
    if (rc < 0) {
        return rc;
    }
    struct pyloop_runtime *runtime = pyl_alloc_zero(sizeof(*runtime));
    if (runtime == NULL) {
        return -ENOMEM;
    }
    rc = pyl_runtime_init(&runtime->base, &inner, cause, cause_size);
    if (rc == 0) {
        rc = pyl_runtime_start(&runtime->base);
    }
    if (rc < 0) {
        pyl_runtime_fini(&runtime->base);
        pyl_free(runtime);
        return rc;
    }
    *ret_runtime = runtime;
    return 0;
}

void
pyloop_runtime_stop(struct pyloop_runtime *runtime)
{
    pyl_runtime_stop(&runtime->base);
}

int
pyloop_runtime_join(struct pyloop_runtime *runtime)
{
    int rc = pyl_runtime_join(&runtime->base);
    pyl_runtime_fini(&runtime->base);
    pyl_free(runtime);
    return rc;
}

uint32_t
pyloop_runtime_workers(const struct pyloop_runtime *runtime)
{
    return runtime->base.lane_count;
}

int
pyloop_runtime_get_stats(const struct pyloop_runtime *runtime, uint32_t worker,
                         struct pyloop_worker_stats *ret_stats, size_t stats_size)
{
    if (worker >= runtime->base.lane_count) {
        return -EINVAL;
    }
    const struct pyl_lane *lane = &runtime->base.lanes[worker];
    struct pyloop_worker_stats stats = {
        .turns = pyl_counter_read(&lane->worker.stats.turns),
        .events = pyl_counter_read(&lane->worker.reactor.stats.events),
        .activations = pyl_counter_read(&lane->stats.activations),
        .searches = pyl_counter_read(&lane->stats.searches),
        .stolen = pyl_counter_read(&lane->stats.stolen),
        .injected = pyl_counter_read(&lane->stats.injected),
        .parks = pyl_counter_read(&lane->worker.stats.parks),
        .wakes_written = pyl_counter_read(&lane->worker.stats.wakes_written),
        .wakes_suppressed = pyl_counter_read(&lane->worker.stats.wakes_suppressed),
    };
    return pyl_versioned_write(ret_stats, stats_size, STATS_SIZE_FIRST, &stats, sizeof(stats));
}

const char *
pyloop_version(void)
{
    return PYL_VERSION;
}
