/*
 * test_signal.c - signals as calls on the worker.
 */
#include "io/signal.h"

#include "support/worker_fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

static struct pyl_worker worker;
static struct pyl_signal_source source;
static int counts[PYL_SIGNAL_MAX + 1];
static int total;
static int overflows;
static bool has_signal;
static bool is_closed;
static bool does_close;

static void
on_signal(struct pyl_signal_source *from, int number)
{
    cr_assert_eq(from, &source);
    cr_assert_not(is_closed);
    counts[number]++;
    total++;
    has_signal = true;
    if (does_close) {
        pyl_signal_source_close(&source);
    }
}

static void
on_overflow(struct pyl_signal_source *from)
{
    overflows++;
}

static void
on_closed(struct pyl_signal_source *from)
{
    cr_assert_not(is_closed);
    is_closed = true;
}

static const struct pyl_signal_ops ops = {
    .on_signal = on_signal,
    .on_overflow = on_overflow,
    .on_closed = on_closed,
};

static void
setup(void)
{
    fixture_open(&worker);
    cr_assert_eq(pyl_signal_source_init(&source, &worker, &ops), 0);
    fixture_turn_times(&worker, 1);
}

static void
teardown(void)
{
    pyl_signal_source_close(&source);
    fixture_turn_until(&worker, &is_closed);
    pyl_worker_fini(&worker);
}

TestSuite(signal, .init = setup, .fini = teardown);

/* Goal: bytes written by somebody else are told one by one; zero and nonsense are ignored. */
Test(signal, written_numbers)
{
    const uint8_t numbers[] = {SIGINT, 0, SIGTERM, SIGINT, 200, 64};
    cr_assert_eq(write(source.write_fd, numbers, sizeof(numbers)), sizeof(numbers));
    fixture_turn_until(&worker, &has_signal);
    cr_assert_eq(total, 4);
    cr_assert_eq(counts[SIGINT], 2);
    cr_assert_eq(counts[SIGTERM], 1);
    cr_assert_eq(counts[64], 1);
}

/* Goal: a watched signal is told, and ends a wait without limit. */
Test(signal, watched_signal)
{
    cr_assert_eq(pyl_signal_watch(&source, SIGUSR1), 0);
    cr_assert_eq(pyl_signal_watch(&source, SIGUSR1), 0);
    raise(SIGUSR1);
    cr_assert_eq(total, 0);
    fixture_turn_until(&worker, &has_signal);
    cr_assert_eq(counts[SIGUSR1], 1);
    fixture_turn_times(&worker, 3);
    cr_assert_eq(total, 1);
}

/* Goal: a storm neither blocks nor loses a number, although the pipe is full for long. */
Test(signal, storm)
{
    enum { STORM = 70000 };
    int flags = fcntl(source.write_fd, F_GETFL);
    cr_assert_neq(flags & O_NONBLOCK, 0);
    cr_assert_eq(pyl_signal_watch(&source, SIGUSR1), 0);
    cr_assert_eq(pyl_signal_watch(&source, SIGUSR2), 0);
    for (int i = 0; i < STORM; i++) {
        raise(SIGUSR1);
    }
    uint8_t byte = SIGTERM;
    cr_assert_eq(write(source.write_fd, &byte, 1), -1, "the pipe should be full by now");
    cr_assert_eq(errno, EAGAIN);
    raise(SIGUSR2); /* does not fit any more */
    while (counts[SIGUSR2] == 0 || counts[SIGUSR1] == 0) {
        cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    }
    cr_assert_eq(counts[SIGUSR2], 1);
    cr_assert_eq(counts[SIGUSR1], 1);
}

/* Goal: a full pipe is reported, so that an owner with an outside writer can look by other means.
 */
Test(signal, overflow_is_reported)
{
    uint8_t byte = SIGUSR1;
    while (write(source.write_fd, &byte, 1) == 1) {
    }
    while (overflows == 0) {
        cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    }
}

static int handled_before;

static void
handle_before(int number)
{
    handled_before++;
}

/* Goal: unwatch, and closing the source, restore the handler that was there. */
Test(signal, former_handler_is_restored)
{
    cr_assert_neq(signal(SIGUSR1, handle_before), SIG_ERR);
    cr_assert_eq(pyl_signal_watch(&source, SIGUSR1), 0);
    pyl_signal_unwatch(&source, SIGUSR2);
    raise(SIGUSR1);
    cr_assert_eq(handled_before, 0);
    pyl_signal_unwatch(&source, SIGUSR1);
    raise(SIGUSR1);
    cr_assert_eq(handled_before, 1);
    cr_assert_eq(pyl_signal_watch(&source, SIGUSR1), 0);
    pyl_signal_source_close(&source);
    raise(SIGUSR1);
    cr_assert_eq(handled_before, 2);
}

/* Goal: what cannot be watched is refused; a number belongs to one source at a time. */
Test(signal, refuses)
{
    struct pyl_signal_source other;
    cr_assert_eq(pyl_signal_watch(&source, SIGKILL), -EINVAL);
    cr_assert_eq(pyl_signal_watch(&source, 0), -EINVAL);
    cr_assert_eq(pyl_signal_watch(&source, 65), -EINVAL);
    cr_assert_eq(pyl_signal_watch(&source, SIGUSR1), 0);
    cr_assert_eq(pyl_signal_source_init(&other, &worker, &ops), 0);
    cr_assert_eq(pyl_signal_watch(&other, SIGUSR1), -EBUSY);
    pyl_signal_unwatch(&source, SIGUSR1);
    cr_assert_eq(pyl_signal_watch(&other, SIGUSR1), 0);
    pyl_signal_source_close(&other);
    fixture_turn_until(&worker, &is_closed);
    is_closed = false;
}

/* Goal: closing inside the callback: the numbers behind it are not told any more. */
Test(signal, close_inside_callback)
{
    const uint8_t numbers[] = {SIGINT, SIGTERM, SIGTERM};
    does_close = true;
    cr_assert_eq(write(source.write_fd, numbers, sizeof(numbers)), sizeof(numbers));
    fixture_turn_until(&worker, &is_closed);
    cr_assert_eq(total, 1);
}
