/*
 * backend_epoll.c - Linux readiness. What an op means is in readiness.c; here is only how the
 * kernel is told to watch an fd, and how it is waited for.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "reactor/readiness.h"

#include <errno.h>
#include <limits.h>
#include <linux/time_types.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

struct epoll_backend {
    struct pyl_readiness readiness; /* first: see readiness.h */
    int epoll_fd;
    bool has_pwait2; /* false after the kernel or a filter refused it once */
    struct epoll_event *kernel_events;
};

/* epoll_data of the waker; an fd's data is its generation above its number, and no fd is -1. */
static const uint64_t WAKER_DATA = UINT64_MAX;

static struct epoll_backend *
backend_of(struct pyl_reactor *reactor)
{
    return reactor->backend;
}

static int
epoll_probe(char *cause, size_t cause_size)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0) {
        int error = errno;
        snprintf(cause, cause_size, "epoll_create1(2) failed with errno %d", error);
        return -error;
    }
    close(fd);
    cause[0] = '\0';
    return 0;
}

static uint32_t
watch_events(enum pyl_watch watch, uint8_t mask)
{
    if (watch == PYL_WATCH_EDGE) {
        /* PRI: after urgent data a short read is not the end, see PYL_READY_READ_ON. */
        return EPOLLET | EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI;
    }
    uint32_t events = watch == PYL_WATCH_ONESHOT ? EPOLLONESHOT : 0;
    events |= mask & PYL_POLL_IN ? EPOLLIN : 0;
    events |= mask & PYL_POLL_OUT ? EPOLLOUT : 0;
    return events;
}

static int
epoll_watch(struct pyl_reactor *reactor, int fd, const struct pyl_ready_fd *entry,
            enum pyl_watch watch, uint8_t mask)
{
    int epoll_fd = backend_of(reactor)->epoll_fd;
    if (watch == PYL_WATCH_NONE) {
        /* ENOENT and EBADF: the user closed it first, and the kernel has removed it. */
        (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, &(struct epoll_event){0});
        return 0;
    }
    struct epoll_event event = {.events = watch_events(watch, mask)};
    event.data.u64 = (uint64_t)entry->generation << 32 | (uint32_t)fd;
    int operation = entry->watch == PYL_WATCH_NONE ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (epoll_ctl(epoll_fd, operation, fd, &event) == 0) {
        return 0;
    }
    /* A POLL fd may have been closed, and its number reused, behind our back; then the kernel
     * knows more or less than we do. */
    if (errno == EEXIST) {
        operation = EPOLL_CTL_MOD;
    } else if (errno == ENOENT) {
        operation = EPOLL_CTL_ADD;
    } else {
        return -errno;
    }
    return epoll_ctl(epoll_fd, operation, fd, &event) == 0 ? 0 : -errno;
}

static int
epoll_init(struct pyl_reactor *reactor, const struct pyl_reactor_options *options)
{
    struct epoll_backend *backend = pyl_alloc_zero(sizeof(*backend));
    if (backend == NULL) {
        return -ENOMEM;
    }
    reactor->backend = backend;
    backend->readiness.watch = epoll_watch;
    backend->has_pwait2 = true;
    backend->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (backend->epoll_fd < 0) {
        return -errno;
    }
    int rc = pyl_readiness_init(&backend->readiness, options);
    if (rc < 0) {
        return rc;
    }
    backend->kernel_events = pyl_alloc_array(reactor->events_max, sizeof(*backend->kernel_events));
    if (backend->kernel_events == NULL) {
        return -ENOMEM;
    }
    rc = pyl_waker_open(&reactor->waker);
    if (rc < 0) {
        return rc;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = WAKER_DATA};
    return epoll_ctl(backend->epoll_fd, EPOLL_CTL_ADD, reactor->waker.fd, &event) == 0 ? 0 : -errno;
}

/* In a forked child too: closing our copies leaves the parent's epoll set as it is. */
static void
epoll_fini(struct pyl_reactor *reactor)
{
    struct epoll_backend *backend = backend_of(reactor);
    if (backend == NULL) {
        return;
    }
    pyl_waker_close(&reactor->waker);
    if (backend->epoll_fd >= 0) {
        close(backend->epoll_fd);
    }
    pyl_readiness_fini(&backend->readiness);
    pyl_free(backend->kernel_events);
    pyl_free(backend);
    reactor->backend = NULL;
}

/* Rounded up: a wait never ends early. */
static int
timeout_ms(int64_t timeout_ns)
{
    if (timeout_ns < 0) {
        return -1;
    }
    int64_t ms = timeout_ns / PYL_NS_PER_MS + (timeout_ns % PYL_NS_PER_MS != 0);
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

/* Returns the number of kernel events, 0 when interrupted, or -errno. */
static int
epoll_wait_kernel(struct epoll_backend *backend, uint32_t count_max, int64_t timeout_ns)
{
    long count;
    if (timeout_ns > 0 && backend->has_pwait2) {
        struct __kernel_timespec timeout = {.tv_sec = timeout_ns / PYL_NS_PER_S,
                                            .tv_nsec = timeout_ns % PYL_NS_PER_S};
        count = syscall(SYS_epoll_pwait2, backend->epoll_fd, backend->kernel_events, count_max,
                        &timeout, NULL, (size_t)0);
        if (count >= 0 || (errno != ENOSYS && errno != EPERM)) {
            return count >= 0 ? (int)count : errno == EINTR ? 0 : -errno;
        }
        backend->has_pwait2 =
            false; /* Linux before 5.11, or a seccomp filter older than the call */
    }
    count = epoll_wait(backend->epoll_fd, backend->kernel_events, (int)count_max,
                       timeout_ms(timeout_ns));
    return count >= 0 ? (int)count : errno == EINTR ? 0 : -errno;
}

static uint8_t
ready_bits(uint32_t events)
{
    uint8_t bits = 0;
    bits |= events & EPOLLIN ? PYL_POLL_IN : 0;
    bits |= events & EPOLLOUT ? PYL_POLL_OUT : 0;
    bits |= events & EPOLLERR ? PYL_POLL_ERROR : 0;
    bits |= events & EPOLLHUP ? PYL_POLL_HANGUP : 0;
    bits |= events & (EPOLLRDHUP | EPOLLPRI) ? PYL_READY_READ_ON : 0;
    return bits;
}

static int
epoll_wait_events(struct pyl_reactor *reactor, int64_t timeout_ns)
{
    struct epoll_backend *backend = backend_of(reactor);
    if (pyl_readiness_has_queued(&backend->readiness)) {
        timeout_ns = 0;
    }
    pyl_counter_add(&reactor->stats.enters, 1);
    int count = epoll_wait_kernel(backend, reactor->events_max, timeout_ns);
    if (count < 0) {
        return count;
    }
    for (int i = 0; i < count; i++) {
        const struct epoll_event *event = &backend->kernel_events[i];
        if (event->data.u64 == WAKER_DATA) {
            pyl_reactor_note_wake(reactor);
            continue;
        }
        pyl_readiness_report(reactor, (int)(uint32_t)event->data.u64,
                             (uint32_t)(event->data.u64 >> 32), ready_bits(event->events),
                             PYL_POLL_IN | PYL_POLL_OUT);
    }
    pyl_readiness_collect(reactor);
    return 0;
}

const struct pyl_backend_ops pyl_backend_epoll = {
    .name = "epoll",
    .probe = epoll_probe,
    .init = epoll_init,
    .fini = epoll_fini,
    .submit = pyl_readiness_submit,
    .cancel = pyl_readiness_cancel,
    .forget = pyl_readiness_forget,
    .wait = epoll_wait_events,
    .perform = pyl_readiness_perform,
    .send_now = pyl_readiness_send_now,
};
