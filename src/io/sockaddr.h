/*
 * sockaddr.h - addresses as values (IPv4, IPv6 with scope, Unix including abstract), and sockets
 * made from them. Nothing here waits or resolves names. Any thread.
 */
#ifndef PYL_IO_SOCKADDR_H
#define PYL_IO_SOCKADDR_H

#include "base/platform.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

struct pyl_sockaddr {
    socklen_t size; /* used bytes of the union */
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    } u;
};

enum {
    /* "[" host "%" interface "]:" port, or a Unix path; with the terminating NUL. */
    PYL_SOCKADDR_TEXT_SIZE = 160,
};

/* Numeric "127.0.0.1", "::1", "[::1]", "fe80::1%eth0", "fe80::1%2". Returns 0; -EINVAL for anything
 * else, -ENODEV for a scope that is no interface here. */
PYL_NODISCARD int pyl_sockaddr_parse(struct pyl_sockaddr *ret_address, const char *host,
                                     uint16_t port);

/* A path without NUL bytes, or with a leading NUL the abstract name that follows. Returns 0;
 * -EINVAL when empty or with a NUL in the middle of a path; -ENAMETOOLONG. */
PYL_NODISCARD int pyl_sockaddr_unix(struct pyl_sockaddr *ret_address, const char *path,
                                    size_t size);

/* What the kernel or getaddrinfo() gave. Returns 0; -EINVAL when it does not fit. */
PYL_NODISCARD int pyl_sockaddr_copy(struct pyl_sockaddr *ret_address,
                                    const struct sockaddr *address, socklen_t size);

/* "127.0.0.1:80", "[fe80::1%eth0]:80", "/run/x.sock", "@abstract". Returns `text`. */
const char *pyl_sockaddr_print(const struct pyl_sockaddr *address, char *text, size_t size);

/* Only the host part, without brackets; "" for Unix. Returns `text`. */
const char *pyl_sockaddr_print_host(const struct pyl_sockaddr *address, char *text, size_t size);

/* In host byte order; 0 for Unix. */
uint16_t pyl_sockaddr_port(const struct pyl_sockaddr *address);

/* A total order: by family, address, port, scope. 0 exactly when a peer would be the same. */
int pyl_sockaddr_compare(const struct pyl_sockaddr *a, const struct pyl_sockaddr *b);

/* A socket that is close-on-exec and non-blocking. Returns the fd or -errno. */
PYL_NODISCARD int pyl_socket_open(int family, int type, int protocol);

struct pyl_socket_listen_options {
    int backlog;        /* 0: 128 */
    bool reuse_address; /* SO_REUSEADDR; without effect on Unix sockets */
    bool reuse_port;    /* SO_REUSEPORT */
    bool is_v6_only;    /* IPV6_V6ONLY; otherwise an IPv6 socket also takes IPv4 */
};

/* Opens, binds and listens. A Unix path that exists already is an error (-EADDRINUSE): whether it
 * may be removed is the caller's decision. Returns the fd or -errno; nothing is left open then. */
PYL_NODISCARD int pyl_socket_listen(const struct pyl_sockaddr *address,
                                    const struct pyl_socket_listen_options *options);

/* 0 or -errno. */
PYL_NODISCARD int pyl_socket_local_address(int fd, struct pyl_sockaddr *ret_address);
PYL_NODISCARD int pyl_socket_peer_address(int fd, struct pyl_sockaddr *ret_address);

/* TCP_NODELAY; -ENOTSUP or -EOPNOTSUPP on other sockets. 0 or -errno. */
int pyl_socket_set_nodelay(int fd);

#endif
