/*
 * socket_call_portable.c - the same where there is no accept4(2), sendmmsg(2) and recvmmsg(2)
 * (macOS). Between the calls of accepting another thread may fork: what it executes then inherits
 * the descriptor, which cannot be helped there.
 *
 * Tested by tests/backend, in the build with -Dkqueue_emulation=true.
 */
#include "reactor/socket_call.h"

#include <fcntl.h>
#include <sys/uio.h>
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

int
pyl_socket_recv_packets(int fd, struct pyl_packet *packets, int count)
{
    for (int i = 0; i < count; i++) {
        struct iovec iov = {.iov_base = packets[i].data, .iov_len = packets[i].size};
        struct msghdr message = {.msg_name = packets[i].address,
                                 .msg_namelen = packets[i].address_size,
                                 .msg_iov = &iov,
                                 .msg_iovlen = 1};
        ssize_t size;
        do {
            size = recvmsg(fd, &message, MSG_DONTWAIT);
        } while (PYL_UNLIKELY(size < 0) && errno == EINTR);
        if (size < 0) {
            return i > 0 ? i : -errno;
        }
        packets[i].size = (size_t)size;
        packets[i].address_size = message.msg_namelen;
    }
    return count;
}

int
pyl_socket_send_packets(int fd, const struct pyl_packet *packets, int count)
{
    for (int i = 0; i < count; i++) {
        struct iovec iov = {.iov_base = packets[i].data, .iov_len = packets[i].size};
        struct msghdr message = {.msg_name = packets[i].address,
                                 .msg_namelen = packets[i].address_size,
                                 .msg_iov = &iov,
                                 .msg_iovlen = 1};
        int64_t size = pyl_socket_sendmsg(fd, &message);
        if (size < 0) {
            return i > 0 ? i : (int)size;
        }
    }
    return count;
}
