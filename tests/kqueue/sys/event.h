/*
 * event.h - as much of kqueue(2) as backend_kqueue.c uses, for building and testing it on Linux.
 * Names and meanings are those of the manual pages; the numbers are our own.
 */
#ifndef PYL_TEST_KQUEUE_SYS_EVENT_H
#define PYL_TEST_KQUEUE_SYS_EVENT_H

#include <stdint.h>
#include <time.h>

enum { EVFILT_READ = -1, EVFILT_WRITE = -2, EVFILT_USER = -10 };

enum {
    EV_ADD = 0x0001,
    EV_DELETE = 0x0002,
    EV_ENABLE = 0x0004,
    EV_ONESHOT = 0x0010,
    EV_CLEAR = 0x0020,
    EV_RECEIPT = 0x0040,
    EV_ERROR = 0x4000,
    EV_EOF = 0x8000,
};

enum { NOTE_TRIGGER = 0x01000000 };

struct kevent {
    uintptr_t ident;
    short filter;
    unsigned short flags;
    unsigned int fflags;
    int64_t data;
    void *udata;
};

#define EV_SET(event, ident_, filter_, flags_, fflags_, data_, udata_) \
    (*(event) = (struct kevent){.ident = (ident_),                     \
                                .filter = (filter_),                   \
                                .flags = (flags_),                     \
                                .fflags = (fflags_),                   \
                                .data = (data_),                       \
                                .udata = (udata_)})

int kqueue(void);
int kevent(int kq, const struct kevent *changelist, int nchanges, struct kevent *eventlist,
           int nevents, const struct timespec *timeout);

#endif
