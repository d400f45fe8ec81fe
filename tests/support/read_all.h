/*
 * read_all.h - blocks until so many bytes have come. MSG_WAITALL does not do: it returns early
 * after a signal, and the end of an io_uring is as good as one for the thread that made it (the
 * kernel's exit work).
 */
#ifndef PYL_TESTS_SUPPORT_READ_ALL_H
#define PYL_TESTS_SUPPORT_READ_ALL_H

#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

/* Returns the bytes read: fewer than `size` at the end of the stream or after an error. */
static inline size_t
read_all(int fd, void *buffer, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = recv(fd, (char *)buffer + done, size - done, 0);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            break;
        }
        done += (size_t)count;
    }
    return done;
}

#endif
