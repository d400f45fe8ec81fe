/*
 * test_waker.c - the latch in front of the eventfd.
 */
#include "reactor/waker.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int signals;

static void
count_signal(int fd)
{
    (void)fd;
    signals++;
}

/* Goal: only the first wake after a clear signals. */
Test(waker, signals_once_per_clear)
{
    struct pyl_waker waker;
    pyl_waker_init(&waker);
    waker.signal = count_signal;
    for (int round = 1; round <= 3; round++) {
        for (int i = 0; i < 100; i++) {
            pyl_waker_wake(&waker);
        }
        cr_assert_eq(signals, round);
        cr_assert(pyl_waker_clear(&waker));
        cr_assert_not(pyl_waker_clear(&waker));
    }
}

/* Goal: the eventfd counts one signal per cleared latch, does not block, and is not inherited. */
Test(waker, eventfd)
{
    struct pyl_waker waker;
    uint64_t value;
    pyl_waker_init(&waker);
    cr_assert_eq(pyl_waker_open(&waker), 0);
    cr_assert(fcntl(waker.fd, F_GETFD) & FD_CLOEXEC);
    cr_assert_eq(read(waker.fd, &value, sizeof(value)), -1);
    cr_assert_eq(errno, EAGAIN);
    errno = 12345;
    pyl_waker_wake(&waker);
    pyl_waker_wake(&waker);
    cr_assert_eq(errno, 12345, "a signal handler's errno is kept");
    cr_assert_eq(read(waker.fd, &value, sizeof(value)), sizeof(value));
    cr_assert_eq(value, 1);
    pyl_waker_close(&waker);
    pyl_waker_close(&waker);
    pyl_waker_clear(&waker);
    pyl_waker_wake(&waker); /* closed: nothing to signal, nothing breaks */
    cr_assert_eq(waker.fd, -1);
}
