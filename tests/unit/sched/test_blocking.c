/*
 * test_blocking.c - the blocking pool.
 */
#include "sched/blocking.h"

#include "base/clock.h"
#include "support/worker_fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static struct pyl_worker worker;
static struct pyl_blocking_pool pool;
static int done_total;

struct item {
    struct pyl_work work;
    _Atomic bool *gate; /* run() waits for it; NULL: not */
    _Atomic bool has_started;
    int run_count;
    int done_count;
    bool is_done;
    bool was_run;
    bool saw_signal_blocked;
    pthread_t ran_on;
    pthread_t done_on;
};

static void
run_item(struct pyl_work *work)
{
    struct item *item = PYL_CONTAINER_OF(work, struct item, work);
    sigset_t mask;
    item->run_count++;
    item->ran_on = pthread_self();
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    item->saw_signal_blocked = sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGUSR1) == 1;
    atomic_store(&item->has_started, true);
    while (item->gate != NULL && !atomic_load(item->gate)) {
        sched_yield();
    }
}

static void
finish_item(struct pyl_work *work, bool was_run)
{
    struct item *item = PYL_CONTAINER_OF(work, struct item, work);
    item->done_count++;
    item->is_done = true;
    item->was_run = was_run;
    item->done_on = pthread_self();
    done_total++;
}

static void
prepare(struct item *item, _Atomic bool *gate)
{
    *item = (struct item){.gate = gate, .work = {.run = run_item, .done = finish_item}};
}

static void
wait_started(struct item *item)
{
    while (!atomic_load(&item->has_started)) {
        sched_yield();
    }
}

static void
setup(void)
{
    fixture_open(&worker);
}

static void
teardown(void)
{
    pyl_blocking_close(&pool);
    pyl_worker_fini(&worker);
}

static void
open_pool(uint32_t threads_max, int64_t idle_ns)
{
    struct pyl_blocking_options options = {.threads_max = threads_max, .idle_ns = idle_ns};
    cr_assert_eq(pyl_blocking_init(&pool, &options), 0);
}

TestSuite(blocking, .init = setup, .fini = teardown);

/* Goal: an item runs on another thread with all signals blocked, and is done on the worker's. */
Test(blocking, runs_elsewhere_and_is_done_here)
{
    struct item item;
    open_pool(0, 0);
    prepare(&item, NULL);
    cr_assert_eq(pyl_blocking_submit(&pool, &worker, &item.work), 0);
    fixture_turn_until(&worker, &item.is_done);
    cr_assert_eq(item.run_count, 1);
    cr_assert_eq(item.done_count, 1);
    cr_assert(item.was_run);
    cr_assert(item.saw_signal_blocked);
    cr_assert_not(pthread_equal(item.ran_on, pthread_self()));
    cr_assert(pthread_equal(item.done_on, pthread_self()));
}

/* Goal: no thread exists before the first item, and never more than the limit. */
Test(blocking, threads_on_demand_up_to_the_limit)
{
    enum { COUNT = 10, LIMIT = 3 };
    static struct item items[COUNT];
    static _Atomic bool gate;
    struct pyl_blocking_stats stats;
    open_pool(LIMIT, 0);
    pyl_blocking_get_stats(&pool, &stats);
    cr_assert_eq(stats.threads, 0);
    for (int i = 0; i < COUNT; i++) {
        prepare(&items[i], &gate);
        cr_assert_eq(pyl_blocking_submit(&pool, &worker, &items[i].work), 0);
    }
    for (int i = 0; i < LIMIT; i++) {
        wait_started(&items[i]);
    }
    pyl_blocking_get_stats(&pool, &stats);
    cr_assert_eq(stats.threads, LIMIT);
    cr_assert_eq(stats.queued, COUNT - LIMIT);
    atomic_store(&gate, true);
    while (done_total < COUNT) {
        cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    }
    pyl_blocking_get_stats(&pool, &stats);
    cr_assert_eq(stats.threads_started, LIMIT);
}

/* Goal: one thread serves items of which each is queued as soon as the one before is done. */
Test(blocking, idle_thread_is_used_again)
{
    struct item item;
    struct pyl_blocking_stats stats;
    open_pool(8, 0);
    for (int i = 0; i < 20; i++) {
        prepare(&item, NULL);
        cr_assert_eq(pyl_blocking_submit(&pool, &worker, &item.work), 0);
        fixture_turn_until(&worker, &item.is_done);
    }
    pyl_blocking_get_stats(&pool, &stats);
    cr_assert_eq(stats.threads_started, 1);
}

/* Goal: an item that takes long holds up none behind it while threads wait, although each item
 * calls one thread only if none is on its way; no thread is started when one waits. */
Test(blocking, waiting_threads_are_called_one_after_the_other)
{
    enum { COUNT = 4, ROUNDS = 20 };
    static _Atomic bool gate;
    struct item items[COUNT];
    struct pyl_blocking_stats stats;
    open_pool(COUNT, 0);
    for (int round = 0; round < ROUNDS; round++) {
        atomic_store(&gate, false);
        done_total = 0;
        for (int i = 0; i < COUNT; i++) {
            prepare(&items[i], &gate);
            cr_assert_eq(pyl_blocking_submit(&pool, &worker, &items[i].work), 0);
        }
        for (int i = 0; i < COUNT; i++) {
            wait_started(&items[i]);
        }
        atomic_store(&gate, true);
        while (done_total < COUNT) {
            cr_assert_eq(pyl_worker_turn(&worker, true), 0);
        }
    }
    pyl_blocking_get_stats(&pool, &stats);
    cr_assert_eq(stats.threads_started, COUNT);
    cr_assert_eq(stats.threads_idle, COUNT);
    cr_assert_eq(stats.queued, 0);
}

/* Goal: an idle thread ends, and the next item gets a new one. */
Test(blocking, idle_thread_ends)
{
    struct item item;
    struct pyl_blocking_stats stats;
    open_pool(8, PYL_NS_PER_MS);
    for (int i = 0; i < 2; i++) {
        prepare(&item, NULL);
        cr_assert_eq(pyl_blocking_submit(&pool, &worker, &item.work), 0);
        fixture_turn_until(&worker, &item.is_done);
        do {
            sched_yield();
            pyl_blocking_get_stats(&pool, &stats);
        } while (stats.threads > 0);
    }
    cr_assert_eq(stats.threads_started, 2);
}

/* Goal: an item that has not started can be cancelled: it never runs, and is done once, later. */
Test(blocking, cancel_before_start)
{
    static _Atomic bool gate;
    struct item running;
    struct item waiting;
    open_pool(1, 0);
    prepare(&running, &gate);
    prepare(&waiting, NULL);
    cr_assert_not(pyl_work_cancel(&waiting.work));
    cr_assert_eq(pyl_blocking_submit(&pool, &worker, &running.work), 0);
    wait_started(&running);
    cr_assert_eq(pyl_blocking_submit(&pool, &worker, &waiting.work), 0);
    cr_assert(pyl_work_cancel(&waiting.work));
    cr_assert_not(pyl_work_cancel(&waiting.work));
    cr_assert_not(pyl_work_cancel(&running.work));
    cr_assert_eq(waiting.done_count, 0);
    fixture_turn_until(&worker, &waiting.is_done);
    cr_assert_not(waiting.was_run);
    atomic_store(&gate, true);
    fixture_turn_until(&worker, &running.is_done);
    cr_assert(running.was_run);
    cr_assert_eq(waiting.run_count, 0);
    cr_assert_eq(waiting.done_count, 1);
}

static void *
open_gate_later(void *argument)
{
    struct pyl_blocking_stats stats;
    do { /* until close has cancelled what was queued */
        sched_yield();
        pyl_blocking_get_stats(&pool, &stats);
    } while (stats.queued > 0);
    atomic_store((_Atomic bool *)argument, true);
    return NULL;
}

/* Goal: close cancels what waits, waits for what runs, and refuses more; every item is done once.
 */
Test(blocking, close_joins)
{
    static _Atomic bool gate;
    static struct item items[5];
    pthread_t opener;
    open_pool(2, 0);
    for (int i = 0; i < 5; i++) {
        prepare(&items[i], &gate);
        cr_assert_eq(pyl_blocking_submit(&pool, &worker, &items[i].work), 0);
    }
    wait_started(&items[0]);
    wait_started(&items[1]);
    cr_assert_eq(pthread_create(&opener, NULL, open_gate_later, &gate), 0);
    struct pyl_blocking_pool *closed = &pool;
    pyl_blocking_close(closed);
    pthread_join(opener, NULL);
    pyl_blocking_close(closed);
    fixture_turn_times(&worker, 1);
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(items[i].done_count, 1);
        cr_assert_eq(items[i].was_run, i < 2);
        cr_assert_eq(items[i].run_count, i < 2);
    }
}

/* Goal: a forked child, where the threads are gone, can throw the pool away and open a new one. */
Test(blocking, forked_child_starts_anew)
{
    struct item item;
    open_pool(2, 0);
    prepare(&item, NULL);
    cr_assert_eq(pyl_blocking_submit(&pool, &worker, &item.work), 0);
    fixture_turn_until(&worker, &item.is_done);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        pyl_blocking_abandon(&pool);
        pyl_worker_abandon(&worker);
        pyl_worker_fini(&worker);
        bool is_good = pyl_worker_init(&worker, NULL, NULL, NULL, 0) == 0 &&
                       pyl_blocking_init(&pool, NULL) == 0;
        prepare(&item, NULL);
        is_good = is_good && pyl_blocking_submit(&pool, &worker, &item.work) == 0;
        while (is_good && !item.is_done) {
            is_good = pyl_worker_turn(&worker, true) == 0;
        }
        pyl_blocking_close(&pool);
        pyl_worker_fini(&worker);
        _exit(is_good ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Goal: the job of an item that has ended leads back to the item, another one to nothing. */
Test(blocking, work_of_job)
{
    struct item item;
    struct pyl_job other = {0};
    open_pool(0, 0);
    prepare(&item, NULL);
    cr_assert_eq(pyl_blocking_submit(&pool, &worker, &item.work), 0);
    cr_assert_eq(pyl_work_of_job(&item.work.job), &item.work);
    cr_assert_null(pyl_work_of_job(&other));
    fixture_turn_until(&worker, &item.is_done);
}
