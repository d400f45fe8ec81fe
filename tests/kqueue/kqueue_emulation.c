/*
 * kqueue_emulation.c - kqueue(2) over epoll, to run the conformance suite on backend_kqueue.c
 * where there is no BSD. Built only with -Dkqueue_emulation=true; never installed.
 *
 * Faithful where a mistake of ours could hide: EV_ADD on an existing filter keeps the filter's
 * flags, closing an fd removes its filters, a oneshot filter is gone after its event, errors of
 * changes come first in the event list and end the call, the event list must have room for them.
 * Not faithful: EV_EOF's fflags is only zero or not, `data` is 0; one fd cannot have EV_CLEAR on
 * one filter only (that aborts), and is reported once more than needed when the other filter
 * fires.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/event.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { QUEUES_MAX = 4096, FDS_MAX = 65536, BATCH = 256 };

struct filter {
    bool exists;
    unsigned short flags; /* EV_CLEAR, EV_ONESHOT: of the EV_ADD that made it */
    void *udata;
};

struct watched {
    struct filter read;
    struct filter write;
};

struct queue {
    int epoll_fd; /* is the kqueue's number */
    int user_fd;  /* eventfd behind EVFILT_USER */
    struct watched *fds;
};

static const uint64_t USER_DATA = UINT64_MAX;

static pthread_mutex_t queues_lock = PTHREAD_MUTEX_INITIALIZER;
static struct queue *queues[QUEUES_MAX]; /* by kqueue fd; slots are reused, never freed */

static void
require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "kqueue emulation: %s\n", what);
        abort();
    }
}

int
kqueue(void)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    require(fd < QUEUES_MAX, "too many descriptors");
    pthread_mutex_lock(&queues_lock);
    struct queue *queue = queues[fd];
    if (queue == NULL) {
        queue = calloc(1, sizeof(*queue));
        require(queue != NULL, "no memory");
        queue->fds = calloc(FDS_MAX, sizeof(*queue->fds));
        queue->user_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        require(queue->fds != NULL && queue->user_fd >= 0, "no memory or descriptor");
        queues[fd] = queue;
    }
    /* A queue that had this number was closed; its slot begins anew. */
    memset(queue->fds, 0, FDS_MAX * sizeof(*queue->fds));
    queue->epoll_fd = fd;
    pthread_mutex_unlock(&queues_lock);
    return fd;
}

static struct filter *
filter_of(struct queue *queue, const struct kevent *change)
{
    require(change->ident < FDS_MAX, "descriptor too high");
    struct watched *watched = &queue->fds[change->ident];
    return change->filter == EVFILT_READ ? &watched->read : &watched->write;
}

/* Makes epoll agree with the filters of an fd. 0 or a positive errno; ENOENT: the fd was closed
 * since. */
static int
watched_apply(struct queue *queue, int fd, bool is_new)
{
    struct watched *watched = &queue->fds[fd];
    struct epoll_event event = {.data.u64 = (uint64_t)fd};
    bool has_read = watched->read.exists, has_write = watched->write.exists;
    if (has_read && has_write) {
        require((watched->read.flags & EV_CLEAR) == (watched->write.flags & EV_CLEAR),
                "EV_CLEAR on one filter of a descriptor only");
    }
    unsigned flags = has_read ? watched->read.flags : watched->write.flags;
    event.events = (has_read ? EPOLLIN | EPOLLRDHUP : 0u) | (has_write ? EPOLLOUT : 0u) |
                   (flags & EV_CLEAR ? EPOLLET : 0u);
    int operation = EPOLL_CTL_MOD;
    if (!has_read && !has_write) {
        operation = EPOLL_CTL_DEL;
    } else if (is_new) {
        operation = EPOLL_CTL_ADD;
    }
    return epoll_ctl(queue->epoll_fd, operation, fd, &event) == 0 ? 0 : errno;
}

static int
change_add(struct queue *queue, const struct kevent *change)
{
    int fd = (int)change->ident;
    struct watched *watched = &queue->fds[fd];
    struct filter *filter = filter_of(queue, change);
    if (watched->read.exists || watched->write.exists) {
        /* Is it still the same open file? Otherwise close(2) has removed both filters. */
        if (watched_apply(queue, fd, false) == ENOENT) {
            *watched = (struct watched){0};
        }
    }
    bool is_new = !watched->read.exists && !watched->write.exists;
    if (filter->exists) {
        filter->udata = change->udata; /* and nothing else */
        return 0;
    }
    *filter = (struct filter){
        .exists = true, .flags = change->flags & (EV_CLEAR | EV_ONESHOT), .udata = change->udata};
    int error = watched_apply(queue, fd, is_new);
    if (error != 0) {
        *filter = (struct filter){0};
    }
    return error;
}

static int
change_delete(struct queue *queue, const struct kevent *change)
{
    struct filter *filter = filter_of(queue, change);
    if (!filter->exists) {
        return ENOENT;
    }
    *filter = (struct filter){0};
    int error = watched_apply(queue, (int)change->ident, false);
    if (error == ENOENT || error == EBADF) {
        queue->fds[change->ident] = (struct watched){0};
    }
    return error;
}

static int
change_user(struct queue *queue, const struct kevent *change)
{
    if (change->flags & EV_ADD) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = USER_DATA};
        require((change->flags & EV_CLEAR) != 0, "EVFILT_USER without EV_CLEAR");
        return epoll_ctl(queue->epoll_fd, EPOLL_CTL_ADD, queue->user_fd, &event) == 0 ? 0 : errno;
    }
    if (change->fflags & NOTE_TRIGGER) {
        uint64_t one = 1;
        return write(queue->user_fd, &one, sizeof(one)) == sizeof(one) ? 0 : errno;
    }
    return EINVAL;
}

static int
change_make(struct queue *queue, const struct kevent *change)
{
    if (change->filter == EVFILT_USER) {
        return change_user(queue, change);
    }
    if (change->ident >= FDS_MAX) {
        return EBADF;
    }
    if (change->flags & EV_DELETE) {
        return change_delete(queue, change);
    }
    return change->flags & EV_ADD ? change_add(queue, change) : EINVAL;
}

static bool
event_put(struct kevent *events, int *count, int count_max, const struct kevent *event)
{
    if (*count == count_max) {
        return false;
    }
    events[(*count)++] = *event;
    return true;
}

/* Turns one epoll event into events of its filters; oneshot filters go. */
static void
event_split(struct queue *queue, const struct epoll_event *from, struct kevent *events, int *count,
            int count_max)
{
    int fd = (int)from->data.u64;
    struct watched *watched = &queue->fds[fd];
    const unsigned both = EPOLLHUP | EPOLLERR;
    bool is_changed = false;
    for (int i = 0; i < 2; i++) {
        struct filter *filter = i == 0 ? &watched->read : &watched->write;
        unsigned own = i == 0 ? EPOLLIN | EPOLLRDHUP : EPOLLOUT;
        unsigned end = i == 0 ? EPOLLRDHUP | both : both;
        if (!filter->exists || (from->events & (own | both)) == 0) {
            continue;
        }
        struct kevent event = {.ident = (uintptr_t)fd,
                               .filter = i == 0 ? EVFILT_READ : EVFILT_WRITE,
                               .flags = from->events & end ? EV_EOF : 0,
                               .fflags = from->events & EPOLLERR ? 1 : 0,
                               .udata = filter->udata};
        event.flags |= filter->flags;
        require(event_put(events, count, count_max, &event),
                "no room"); /* kevent() asks for less */
        if (filter->flags & EV_ONESHOT) {
            *filter = (struct filter){0};
            is_changed = true;
        }
    }
    if (is_changed) {
        (void)watched_apply(queue, fd, false);
    }
}

static int
wait_for(struct queue *queue, struct epoll_event *ready, int count_max,
         const struct timespec *timeout)
{
    return (int)syscall(SYS_epoll_pwait2, queue->epoll_fd, ready, count_max, timeout, NULL,
                        (size_t)0);
}

int
kevent(int kq, const struct kevent *changelist, int nchanges, struct kevent *eventlist, int nevents,
       const struct timespec *timeout)
{
    struct queue *queue = queues[kq];
    int count = 0;
    for (int i = 0; i < nchanges; i++) {
        int error = change_make(queue, &changelist[i]);
        if (error == 0 && (changelist[i].flags & EV_RECEIPT) == 0) {
            continue;
        }
        struct kevent answer = changelist[i];
        answer.flags = EV_ERROR;
        answer.data = error;
        if (!event_put(eventlist, &count, nevents, &answer)) {
            errno = error;
            return -1;
        }
    }
    if (count > 0 || nevents == 0) {
        return count;
    }
    /* Each epoll event can become two; what does not fit is told again, or was not taken yet. */
    struct epoll_event ready[BATCH];
    int room = nevents / 2 < BATCH ? nevents / 2 : BATCH;
    require(room > 0, "room for one event only");
    int ready_count = wait_for(queue, ready, room, timeout);
    if (ready_count < 0) {
        return -1;
    }
    for (int i = 0; i < ready_count; i++) {
        if (ready[i].data.u64 == USER_DATA) {
            struct kevent event = {.filter = EVFILT_USER, .flags = EV_CLEAR};
            require(event_put(eventlist, &count, nevents, &event), "no room");
        } else {
            event_split(queue, &ready[i], eventlist, &count, nevents);
        }
    }
    return count;
}
