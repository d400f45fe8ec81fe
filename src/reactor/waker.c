/*
 * waker.c - the eventfd that both Linux backends use to end a wait.
 */
#include "reactor/waker.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void
waker_signal(int fd)
{
    int saved_errno = errno; /* a signal handler may be the caller */
    uint64_t one = 1;
    ssize_t written;
    do {
        written = write(fd, &one, sizeof(one));
    } while (written < 0 && errno == EINTR);
    errno = saved_errno;
}

int
pyl_waker_open(struct pyl_waker *waker)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    waker->fd = fd;
    waker->signal = waker_signal;
    return 0;
}

void
pyl_waker_close(struct pyl_waker *waker)
{
    if (waker->fd >= 0) {
        close(waker->fd);
    }
    waker->fd = -1;
    waker->signal = NULL;
}
