/*
 * sockaddr.c - parse, print, compare addresses; open sockets.
 */
#include "io/sockaddr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BACKLOG_DEFAULT = 128 };

/* A decimal index or the name of an interface. Returns 0, -EINVAL or -ENODEV. */
static int
parse_scope(const char *text, uint32_t *ret_scope)
{
    size_t digits = strspn(text, "0123456789");
    if (*text == '\0') {
        return -EINVAL;
    }
    if (text[digits] == '\0') {
        errno = 0;
        unsigned long long value = strtoull(text, NULL, 10);
        if (errno != 0 || value > UINT32_MAX) {
            return -EINVAL;
        }
        *ret_scope = (uint32_t)value;
        return 0;
    }
    unsigned int index = if_nametoindex(text);
    if (index == 0) {
        return -ENODEV;
    }
    *ret_scope = index;
    return 0;
}

static int
parse_v6(struct pyl_sockaddr *ret_address, const char *host, uint16_t port)
{
    char text[INET6_ADDRSTRLEN + IF_NAMESIZE + 3];
    size_t size = strlen(host);
    if (host[0] == '[') {
        if (size < 2 || host[size - 1] != ']') {
            return -EINVAL;
        }
        host++;
        size -= 2;
    }
    if (size >= sizeof(text)) {
        return -EINVAL;
    }
    memcpy(text, host, size);
    text[size] = '\0';

    struct pyl_sockaddr address = {.size = sizeof(address.u.in6)};
    char *percent = strchr(text, '%');
    if (percent != NULL) {
        *percent = '\0';
    }
    address.u.in6.sin6_family = AF_INET6;
    address.u.in6.sin6_port = htons(port);
    if (inet_pton(AF_INET6, text, &address.u.in6.sin6_addr) != 1) {
        return -EINVAL;
    }
    if (percent != NULL) {
        int rc = parse_scope(percent + 1, &address.u.in6.sin6_scope_id);
        if (rc < 0) {
            return rc;
        }
    }
    *ret_address = address;
    return 0;
}

int
pyl_sockaddr_parse(struct pyl_sockaddr *ret_address, const char *host, uint16_t port)
{
    struct pyl_sockaddr address = {.size = sizeof(address.u.in)};
    if (inet_pton(AF_INET, host, &address.u.in.sin_addr) != 1) {
        return parse_v6(ret_address, host, port);
    }
    address.u.in.sin_family = AF_INET;
    address.u.in.sin_port = htons(port);
    *ret_address = address;
    return 0;
}

int
pyl_sockaddr_unix(struct pyl_sockaddr *ret_address, const char *path, size_t size)
{
    struct pyl_sockaddr address = {.size = 0};
    if (size == 0 || (path[0] != '\0' && memchr(path, '\0', size) != NULL)) {
        return -EINVAL;
    }
    /* A path keeps its terminating NUL, an abstract name is counted. */
    size_t stored = path[0] == '\0' ? size : size + 1;
    if (stored > sizeof(address.u.un.sun_path)) {
        return -ENAMETOOLONG;
    }
    address.u.un.sun_family = AF_UNIX;
    memcpy(address.u.un.sun_path, path, size);
    address.size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + stored);
    *ret_address = address;
    return 0;
}

int
pyl_sockaddr_copy(struct pyl_sockaddr *ret_address, const struct sockaddr *address, socklen_t size)
{
    if (size < sizeof(address->sa_family) || size > sizeof(ret_address->u)) {
        return -EINVAL;
    }
    struct pyl_sockaddr copy = {.size = size};
    memcpy(&copy.u, address, size);
    *ret_address = copy;
    return 0;
}

/* The bytes of a Unix name; for an abstract one including the leading NUL, otherwise without the
 * terminating one. 0 for an unnamed socket. */
static size_t
unix_name_size(const struct pyl_sockaddr *address)
{
    size_t header = offsetof(struct sockaddr_un, sun_path);
    if (address->size <= header) {
        return 0;
    }
    size_t stored = address->size - header;
    if (stored > sizeof(address->u.un.sun_path)) {
        stored = sizeof(address->u.un.sun_path); /* Linux counts a NUL behind a full path */
    }
    if (address->u.un.sun_path[0] == '\0') {
        return stored;
    }
    return strnlen(address->u.un.sun_path, stored);
}

static const char *
print_unix(const struct pyl_sockaddr *address, char *text, size_t size)
{
    size_t count = unix_name_size(address);
    if (count >= size) {
        count = size - 1;
    }
    memcpy(text, address->u.un.sun_path, count);
    for (size_t i = 0; i < count; i++) {
        if (text[i] == '\0') {
            text[i] = '@';
        }
    }
    text[count] = '\0';
    return text;
}

static void
print_v6_host(const struct pyl_sockaddr *address, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN];
    char name[IF_NAMESIZE];
    uint32_t scope = address->u.in6.sin6_scope_id;
    (void)inet_ntop(AF_INET6, &address->u.in6.sin6_addr, host, sizeof(host));
    if (scope == 0) {
        (void)snprintf(text, size, "%s", host);
    } else if (if_indextoname(scope, name) != NULL) {
        (void)snprintf(text, size, "%s%%%s", host, name);
    } else {
        (void)snprintf(text, size, "%s%%%u", host, (unsigned int)scope);
    }
}

const char *
pyl_sockaddr_print_host(const struct pyl_sockaddr *address, char *text, size_t size)
{
    if (size == 0) {
        return text;
    }
    text[0] = '\0';
    if (address->u.any.sa_family == AF_INET) {
        (void)inet_ntop(AF_INET, &address->u.in.sin_addr, text, (socklen_t)size);
    } else if (address->u.any.sa_family == AF_INET6) {
        print_v6_host(address, text, size);
    }
    return text;
}

const char *
pyl_sockaddr_print(const struct pyl_sockaddr *address, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN + IF_NAMESIZE + 2];
    if (size == 0) {
        return text;
    }
    unsigned int port = pyl_sockaddr_port(address);
    switch (address->u.any.sa_family) {
    case AF_INET:
        pyl_sockaddr_print_host(address, host, sizeof(host));
        (void)snprintf(text, size, "%s:%u", host, port);
        return text;
    case AF_INET6:
        pyl_sockaddr_print_host(address, host, sizeof(host));
        (void)snprintf(text, size, "[%s]:%u", host, port);
        return text;
    case AF_UNIX:
        return print_unix(address, text, size);
    default:
        (void)snprintf(text, size, "family %d", (int)address->u.any.sa_family);
        return text;
    }
}

uint16_t
pyl_sockaddr_port(const struct pyl_sockaddr *address)
{
    if (address->u.any.sa_family == AF_INET) {
        return ntohs(address->u.in.sin_port);
    }
    return address->u.any.sa_family == AF_INET6 ? ntohs(address->u.in6.sin6_port) : 0;
}

static int
compare_numbers(uint32_t a, uint32_t b)
{
    return (a > b) - (a < b);
}

static int
compare_unix(const struct pyl_sockaddr *a, const struct pyl_sockaddr *b)
{
    size_t a_size = unix_name_size(a);
    size_t b_size = unix_name_size(b);
    int order = memcmp(a->u.un.sun_path, b->u.un.sun_path, a_size < b_size ? a_size : b_size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

int
pyl_sockaddr_compare(const struct pyl_sockaddr *a, const struct pyl_sockaddr *b)
{
    sa_family_t family = a->u.any.sa_family;
    int order = compare_numbers(family, b->u.any.sa_family);
    if (order != 0) {
        return order;
    }
    if (family == AF_UNIX) {
        return compare_unix(a, b);
    }
    if (family == AF_INET) {
        order = memcmp(&a->u.in.sin_addr, &b->u.in.sin_addr, sizeof(a->u.in.sin_addr));
    } else if (family == AF_INET6) {
        order = memcmp(&a->u.in6.sin6_addr, &b->u.in6.sin6_addr, sizeof(a->u.in6.sin6_addr));
    } else {
        order = compare_numbers(a->size, b->size);
        return order != 0 ? order : memcmp(&a->u, &b->u, a->size);
    }
    if (order == 0) {
        order = compare_numbers(pyl_sockaddr_port(a), pyl_sockaddr_port(b));
    }
    if (order == 0 && family == AF_INET6) {
        order = compare_numbers(a->u.in6.sin6_scope_id, b->u.in6.sin6_scope_id);
    }
    return order;
}

int
pyl_socket_open(int family, int type, int protocol)
{
    int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    return fd >= 0 ? fd : -errno;
}

static int
set_flag(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value)) == 0 ? 0 : -errno;
}

static int
set_listen_options(int fd, int family, const struct pyl_socket_listen_options *options)
{
    int rc = 0;
    if (options->reuse_address && family != AF_UNIX) {
        rc = set_flag(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    }
    if (rc == 0 && options->reuse_port) {
        rc = set_flag(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    }
    if (rc == 0 && family == AF_INET6) {
        rc = set_flag(fd, IPPROTO_IPV6, IPV6_V6ONLY, options->is_v6_only);
    }
    return rc;
}

int
pyl_socket_listen(const struct pyl_sockaddr *address,
                  const struct pyl_socket_listen_options *options)
{
    int family = address->u.any.sa_family;
    int backlog = options->backlog != 0 ? options->backlog : BACKLOG_DEFAULT;
    int fd = pyl_socket_open(family, SOCK_STREAM, 0);
    if (fd < 0) {
        return fd;
    }
    int rc = set_listen_options(fd, family, options);
    if (rc == 0 && (bind(fd, &address->u.any, address->size) < 0 || listen(fd, backlog) < 0)) {
        rc = -errno;
    }
    if (rc < 0) {
        (void)close(fd);
        return rc;
    }
    return fd;
}

int
pyl_socket_local_address(int fd, struct pyl_sockaddr *ret_address)
{
    struct pyl_sockaddr address = {.size = sizeof(address.u)};
    if (getsockname(fd, &address.u.any, &address.size) < 0) {
        return -errno;
    }
    *ret_address = address;
    return 0;
}

int
pyl_socket_peer_address(int fd, struct pyl_sockaddr *ret_address)
{
    struct pyl_sockaddr address = {.size = sizeof(address.u)};
    if (getpeername(fd, &address.u.any, &address.size) < 0) {
        return -errno;
    }
    *ret_address = address;
    return 0;
}

int
pyl_socket_set_nodelay(int fd)
{
    return set_flag(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}
