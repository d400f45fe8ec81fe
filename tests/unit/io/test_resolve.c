/*
 * test_resolve.c - look-ups that need no network.
 */
#include "io/resolve.h"

#include "support/worker_fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

static struct pyl_worker worker;
static struct pyl_blocking_pool pool;
static struct pyl_resolve subject;
static struct pyl_resolve_result last;
static int done_count;
static bool is_done;

static void
on_done(struct pyl_resolve *resolve, const struct pyl_resolve_result *result)
{
    cr_assert_eq(resolve, &subject);
    last = *result;
    done_count++;
    is_done = true;
}

static void
setup(void)
{
    struct pyl_blocking_options options = {.threads_max = 1};
    fixture_open(&worker);
    cr_assert_eq(pyl_blocking_init(&pool, &options), 0);
}

static void
teardown(void)
{
    pyl_blocking_close(&pool);
    fixture_turn_times(&worker, 1);
    cr_assert_leq(done_count, 1);
    pyl_resolve_fini(&subject);
    pyl_resolve_fini(&subject);
    pyl_worker_fini(&worker);
}

TestSuite(resolve, .init = setup, .fini = teardown);

/* Goal: a numeric address gives what getaddrinfo(3) gives; the strings may be gone by then. */
Test(resolve, numeric_address)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
    char host[] = "127.0.0.1";
    char service[] = "8080";
    cr_assert_eq(pyl_resolve_address(&subject, &pool, &worker, host, service, &hints, on_done), 0);
    memset(host, 'x', sizeof(host) - 1);
    memset(service, 'x', sizeof(service) - 1);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last.error, 0);
    cr_assert_not_null(subject.addresses);
    struct pyl_sockaddr address;
    char text[PYL_SOCKADDR_TEXT_SIZE];
    cr_assert_eq(
        pyl_sockaddr_copy(&address, subject.addresses->ai_addr, subject.addresses->ai_addrlen), 0);
    cr_assert_str_eq(pyl_sockaddr_print(&address, text, sizeof(text)), "127.0.0.1:8080");
    cr_assert_null(subject.addresses->ai_next);
}

/* Goal: a failure carries the EAI_ value. */
Test(resolve, failure)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST};
    cr_assert_eq(
        pyl_resolve_address(&subject, &pool, &worker, "not numeric", NULL, &hints, on_done), 0);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last.gai_error, EAI_NONAME);
    cr_assert_eq(last.error, -EIO);
    cr_assert_null(subject.addresses);
}

/* Goal: an address is turned into names. */
Test(resolve, name)
{
    struct pyl_sockaddr address;
    cr_assert_eq(pyl_sockaddr_parse(&address, "::1", 443), 0);
    cr_assert_eq(pyl_resolve_name(&subject, &pool, &worker, &address,
                                  NI_NUMERICHOST | NI_NUMERICSERV, on_done),
                 0);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last.error, 0);
    cr_assert_str_eq(subject.host, "::1");
    cr_assert_str_eq(subject.service, "443");
}

static _Atomic bool is_blocking;
static _Atomic bool may_end;
static bool is_blocker_done;

static void
block(struct pyl_work *work)
{
    atomic_store(&is_blocking, true);
    while (!atomic_load(&may_end)) {
        sched_yield();
    }
}

static void
blocker_done(struct pyl_work *work, bool was_run)
{
    is_blocker_done = true;
}

/* Goal: a look-up cancelled while it waits for a thread ends without running. */
Test(resolve, cancel_before_start)
{
    static struct pyl_work blocker = {.run = block, .done = blocker_done};
    cr_assert_eq(pyl_blocking_submit(&pool, &worker, &blocker), 0);
    while (!atomic_load(&is_blocking)) {
        sched_yield();
    }
    cr_assert_eq(pyl_resolve_address(&subject, &pool, &worker, "127.0.0.1", NULL, NULL, on_done),
                 0);
    pyl_resolve_cancel(&subject);
    cr_assert_eq(done_count, 0);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last.error, -ECANCELED);
    atomic_store(&may_end, true);
    fixture_turn_until(&worker, &is_blocker_done);
}

/* Goal: cancelled at any moment, it is done once, and no result stays behind. */
Test(resolve, cancel_whenever)
{
    cr_assert_eq(pyl_resolve_address(&subject, &pool, &worker, "127.0.0.1", NULL, NULL, on_done),
                 0);
    struct pyl_blocking_stats stats;
    do { /* it runs, or has run */
        sched_yield();
        pyl_blocking_get_stats(&pool, &stats);
    } while (stats.queued > 0);
    pyl_resolve_cancel(&subject);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last.error, -ECANCELED);
    cr_assert_null(subject.addresses);
    pyl_resolve_cancel(&subject);
}
