/*
 * socket_call_portable.c - the same where there is no accept4(2) (macOS). Between the calls
 * another thread may fork: what it executes then inherits the descriptor, which cannot be helped
 * there.
 *
 * Tested by tests/backend, in the build with -Dkqueue_emulation=true.
 */
#include "reactor/socket_call.h"

#include <fcntl.h>
#include <unistd.h>

int
pyl_socket_accept(int listener)
{
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) {
        return -errno;
    }
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    /* Fails when the peer has gone already: the connection then ends by itself. */
    (void)pyl_socket_silence(fd);
    return fd;
}
