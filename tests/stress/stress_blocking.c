/*
 * stress_blocking.c - many small items, some cancelled, on a pool whose threads end as soon as they
 * are idle; every item is done exactly once. Then pools closed in the middle of their work.
 */
#include "sched/blocking.h"
#include "stress.h"

#include <sched.h>
#include <string.h>

enum { ITEMS = 200, ROUNDS = 40, CLOSES = 40 };

struct item {
    struct pyl_work work;
    int run_count; /* the pool thread's, then the worker's: handed over by the pool */
    int done_count;
    bool was_run;
};

static struct pyl_worker worker;
static struct pyl_blocking_pool pool;
static struct item items[ITEMS];
static int done_total;

static void
run_item(struct pyl_work *work)
{
    struct item *item = PYL_CONTAINER_OF(work, struct item, work);
    item->run_count++;
    if (((uintptr_t)item >> 8) % 3 == 0) {
        sched_yield();
    }
}

static void
finish_item(struct pyl_work *work, bool was_run)
{
    struct item *item = PYL_CONTAINER_OF(work, struct item, work);
    item->done_count++;
    item->was_run = was_run;
    done_total++;
}

static void
submit_all(void)
{
    memset(items, 0, sizeof(items));
    done_total = 0;
    for (int i = 0; i < ITEMS; i++) {
        items[i].work.run = run_item;
        items[i].work.done = finish_item;
        STRESS_CHECK(pyl_blocking_submit(&pool, &worker, &items[i].work) == 0);
    }
}

static void
check_all_done(void)
{
    for (int i = 0; i < ITEMS; i++) {
        STRESS_CHECK(items[i].done_count == 1);
        STRESS_CHECK(items[i].run_count == items[i].was_run);
    }
}

static void
check_rounds(void)
{
    struct pyl_blocking_options options = {.threads_max = 4, .idle_ns = 20000};
    int cancelled = 0;
    STRESS_CHECK(pyl_blocking_init(&pool, &options) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        submit_all();
        for (int i = round % 7; i < ITEMS; i += 7) {
            cancelled += pyl_work_cancel(&items[i].work);
        }
        while (done_total < ITEMS) {
            STRESS_CHECK(pyl_worker_turn(&worker, true) == 0);
        }
        check_all_done();
    }
    struct pyl_blocking_stats stats;
    pyl_blocking_get_stats(&pool, &stats);
    pyl_blocking_close(&pool);
    printf("blocking: %d items, %d cancelled, %llu threads started\n", ROUNDS * ITEMS, cancelled,
           (unsigned long long)stats.threads_started);
}

static void
check_closes(void)
{
    struct pyl_blocking_options options = {.threads_max = 3};
    int run = 0;
    for (int round = 0; round < CLOSES; round++) {
        STRESS_CHECK(pyl_blocking_init(&pool, &options) == 0);
        submit_all();
        pyl_blocking_close(&pool);
        STRESS_CHECK(pyl_worker_turn(&worker, false) == 0);
        STRESS_CHECK(done_total == ITEMS);
        check_all_done();
        for (int i = 0; i < ITEMS; i++) {
            run += items[i].run_count;
        }
    }
    printf("blocking: %d pools closed at work, %d of %d items had run\n", CLOSES, run,
           CLOSES * ITEMS);
}

int
main(void)
{
    stress_open(&worker);
    check_rounds();
    check_closes();
    pyl_worker_fini(&worker);
    return 0;
}
