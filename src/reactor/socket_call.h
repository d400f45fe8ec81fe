/*
 * socket_call.h - the socket calls of the readiness backends and of pyl_reactor_send_now(), as
 * negative errno and without EINTR.
 */
#ifndef PYL_REACTOR_SOCKET_CALL_H
#define PYL_REACTOR_SOCKET_CALL_H

#include "base/platform.h"
#include "reactor/packet.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* The next connection of a listening socket: a non-blocking, close-on-exec fd, or -errno. */
int pyl_socket_accept(int listener);

/* Datagrams, at most PYL_PACKETS_MAX of them, in order. Both return how many were received or sent,
 * or -errno (-EAGAIN among them) when that concerns the first. */
int pyl_socket_recv_packets(int fd, struct pyl_packet *packets, int count);
int pyl_socket_send_packets(int fd, const struct pyl_packet *packets, int count);

/* Where sendmsg(2) has no MSG_NOSIGNAL, makes the socket itself raise no SIGPIPE. 0 or -errno. */
static inline int
pyl_socket_silence(int fd)
{
    int one = 1;
    if (PYL_SO_NOSIGPIPE == 0) {
        return 0;
    }
    return setsockopt(fd, SOL_SOCKET, PYL_SO_NOSIGPIPE, &one, sizeof(one)) == 0 ? 0 : -errno;
}

static inline int64_t
pyl_socket_recv(int fd, void *buffer, size_t size)
{
    ssize_t count;
    do {
        count = recv(fd, buffer, size, MSG_DONTWAIT);
    } while (PYL_UNLIKELY(count < 0) && errno == EINTR);
    return count >= 0 ? count : -errno;
}

static inline int64_t
pyl_socket_sendmsg(int fd, const struct msghdr *message)
{
    ssize_t count;
    do {
        count = sendmsg(fd, message, PYL_MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (PYL_UNLIKELY(count < 0) && errno == EINTR);
    return count >= 0 ? count : -errno;
}

/* EAGAIN and EWOULDBLOCK are one number on every system we know, but POSIX allows two. */
static inline bool
pyl_socket_would_block(int64_t result)
{
    return result == -EAGAIN || result == -EWOULDBLOCK;
}

/*
 * Errors of accept(2) that concern one connection, or nothing any more, and not the listening
 * socket: accept again. The list is that of accept(2), "Error handling", without EOPNOTSUPP, which
 * also means that the socket cannot accept at all.
 */
static inline bool
pyl_socket_accept_is_transient(int64_t result)
{
    switch (-result) {
    case ECONNABORTED:
    case EPROTO:
    case EPERM:
    case ENETDOWN:
    case ENETUNREACH:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ETIMEDOUT:
        return true;
    default:
        return false;
    }
}

static inline size_t
pyl_message_size(const struct msghdr *message)
{
    size_t size = 0;
    for (size_t i = 0; i < (size_t)message->msg_iovlen; i++) {
        size += message->msg_iov[i].iov_len;
    }
    return size;
}

#endif
