/*
 * socket_call.c - the calls that not every system has: accept4(2) with the flags that every new
 * descriptor needs, and several datagrams with one call.
 *
 * Tested by tests/backend.
 */
#include "reactor/socket_call.h"

int
pyl_socket_accept(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    return fd >= 0 ? fd : -errno;
}

/* The kernel's description of packets; the vectors are `iov`. */
static void
fill_headers(struct mmsghdr *headers, struct iovec *iov, const struct pyl_packet *packets,
             int count)
{
    for (int i = 0; i < count; i++) {
        iov[i] = (struct iovec){.iov_base = packets[i].data, .iov_len = packets[i].size};
        headers[i] = (struct mmsghdr){.msg_hdr = {
                                          .msg_name = packets[i].address,
                                          .msg_namelen = packets[i].address_size,
                                          .msg_iov = &iov[i],
                                          .msg_iovlen = 1,
                                      }};
    }
}

int
pyl_socket_recv_packets(int fd, struct pyl_packet *packets, int count)
{
    struct mmsghdr headers[PYL_PACKETS_MAX];
    struct iovec iov[PYL_PACKETS_MAX];
    int received;
    fill_headers(headers, iov, packets, count);
    do {
        received = recvmmsg(fd, headers, (unsigned)count, MSG_DONTWAIT, NULL);
    } while (PYL_UNLIKELY(received < 0) && errno == EINTR);
    for (int i = 0; i < received; i++) {
        packets[i].size = headers[i].msg_len;
        packets[i].address_size = headers[i].msg_hdr.msg_namelen;
    }
    return received >= 0 ? received : -errno;
}

int
pyl_socket_send_packets(int fd, const struct pyl_packet *packets, int count)
{
    struct mmsghdr headers[PYL_PACKETS_MAX];
    struct iovec iov[PYL_PACKETS_MAX];
    int sent;
    fill_headers(headers, iov, packets, count);
    do {
        sent = sendmmsg(fd, headers, (unsigned)count, PYL_MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (PYL_UNLIKELY(sent < 0) && errno == EINTR);
    return sent >= 0 ? sent : -errno;
}
