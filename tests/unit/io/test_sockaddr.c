/*
 * test_sockaddr.c - parse, print, compare; sockets with their options.
 */
#include "io/sockaddr.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void
expect_text(const char *host, uint16_t port, const char *text)
{
    struct pyl_sockaddr address;
    char printed[PYL_SOCKADDR_TEXT_SIZE];
    cr_assert_eq(pyl_sockaddr_parse(&address, host, port), 0, "%s", host);
    cr_assert_str_eq(pyl_sockaddr_print(&address, printed, sizeof(printed)), text);
    cr_assert_eq(pyl_sockaddr_port(&address), port);
}

/* Goal: numeric addresses are read and printed in their usual form. */
Test(sockaddr, parse_and_print)
{
    expect_text("127.0.0.1", 80, "127.0.0.1:80");
    expect_text("0.0.0.0", 0, "0.0.0.0:0");
    expect_text("::1", 65535, "[::1]:65535");
    expect_text("[::1]", 1, "[::1]:1");
    expect_text("2001:DB8::0:1", 443, "[2001:db8::1]:443");
    expect_text("::ffff:1.2.3.4", 5, "[::ffff:1.2.3.4]:5");
}

/* Goal: a scope is an interface's name or a number, and is printed by name where it has one. */
Test(sockaddr, scope)
{
    expect_text("fe80::1%lo", 80, "[fe80::1%lo]:80");
    expect_text("fe80::1%1", 80, "[fe80::1%lo]:80");
    expect_text("fe80::1%4000000", 80, "[fe80::1%4000000]:80");
}

/* Goal: what is not an address is refused and leaves the output alone. */
Test(sockaddr, refuses_nonsense)
{
    static const char *const bad[] = {
        "",
        "localhost",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "[::1",
        "::1]",
        "[127.0.0.1]",
        "[]",
        ":::",
        "fe80::1%",
        "fe80::1%99999999999",
        "1.2.3.4%lo",
        " 1.2.3.4",
        "::1 ",
        "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc:dddd:eeee:ffff:1111:2222:3",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct pyl_sockaddr address = {.size = 77};
        cr_assert_eq(pyl_sockaddr_parse(&address, bad[i], 1), -EINVAL, "'%s'", bad[i]);
        cr_assert_eq(address.size, 77);
    }
    struct pyl_sockaddr address;
    cr_assert_eq(pyl_sockaddr_parse(&address, "fe80::1%nosuchif", 1), -ENODEV);
}

/* Goal: Unix paths and abstract names, up to the limit and beyond. */
Test(sockaddr, unix_names)
{
    struct pyl_sockaddr address;
    char text[PYL_SOCKADDR_TEXT_SIZE];
    char path[200];
    memset(path, 'p', sizeof(path));
    cr_assert_eq(pyl_sockaddr_unix(&address, "/run/x.sock", 11), 0);
    cr_assert_str_eq(pyl_sockaddr_print(&address, text, sizeof(text)), "/run/x.sock");
    cr_assert_eq(pyl_sockaddr_unix(&address, "\0name\0x", 7), 0);
    cr_assert_eq(address.size, offsetof(struct sockaddr_un, sun_path) + 7);
    cr_assert_str_eq(pyl_sockaddr_print(&address, text, sizeof(text)), "@name@x");
    cr_assert_eq(pyl_sockaddr_unix(&address, "", 0), -EINVAL);
    cr_assert_eq(pyl_sockaddr_unix(&address, "a\0b", 3), -EINVAL);
    size_t room = sizeof(address.u.un.sun_path);
    cr_assert_eq(pyl_sockaddr_unix(&address, path, room - 1), 0);
    cr_assert_eq(strlen(pyl_sockaddr_print(&address, text, sizeof(text))), room - 1);
    cr_assert_eq(pyl_sockaddr_unix(&address, path, room), -ENAMETOOLONG);
    path[0] = '\0';
    cr_assert_eq(pyl_sockaddr_unix(&address, path, room), 0);
    cr_assert_eq(pyl_sockaddr_unix(&address, path, room + 1), -ENAMETOOLONG);
}

/* Goal: printing into too little room is cut off and terminated. */
Test(sockaddr, print_cuts_off)
{
    struct pyl_sockaddr address;
    char text[6];
    cr_assert_eq(pyl_sockaddr_parse(&address, "127.0.0.1", 80), 0);
    cr_assert_str_eq(pyl_sockaddr_print(&address, text, sizeof(text)), "127.0");
    cr_assert_eq(pyl_sockaddr_unix(&address, "/run/x.sock", 11), 0);
    cr_assert_str_eq(pyl_sockaddr_print(&address, text, sizeof(text)), "/run/");
    cr_assert_str_eq(pyl_sockaddr_print_host(&address, text, sizeof(text)), "");
}

static struct pyl_sockaddr
parsed(const char *host, uint16_t port)
{
    struct pyl_sockaddr address;
    cr_assert_eq(pyl_sockaddr_parse(&address, host, port), 0);
    return address;
}

static int
sign(int value)
{
    return (value > 0) - (value < 0);
}

/* Goal: the order is total, and equality ignores what does not name a peer. */
Test(sockaddr, compare)
{
    struct pyl_sockaddr sorted[] = {
        parsed("1.2.3.4", 80), parsed("1.2.3.4", 81), parsed("1.2.3.5", 1),    parsed("::1", 80),
        parsed("::1", 81),     parsed("fe80::1", 80), parsed("fe80::1%1", 80),
    };
    int count = sizeof(sorted) / sizeof(sorted[0]);
    for (int i = 0; i < count; i++) {
        for (int j = 0; j < count; j++) {
            cr_assert_eq(sign(pyl_sockaddr_compare(&sorted[i], &sorted[j])), sign(i - j));
        }
    }
    struct pyl_sockaddr a = parsed("::1", 80);
    struct pyl_sockaddr b = a;
    b.u.in6.sin6_flowinfo = 5;
    cr_assert_eq(pyl_sockaddr_compare(&a, &b), 0);

    struct pyl_sockaddr path;
    struct pyl_sockaddr longer;
    struct pyl_sockaddr abstract;
    cr_assert_eq(pyl_sockaddr_unix(&path, "/a", 2), 0);
    cr_assert_eq(pyl_sockaddr_unix(&longer, "/ab", 3), 0);
    cr_assert_eq(pyl_sockaddr_unix(&abstract, "\0/a", 3), 0);
    cr_assert_lt(pyl_sockaddr_compare(&path, &longer), 0);
    cr_assert_neq(pyl_sockaddr_compare(&path, &abstract), 0);
    cr_assert_eq(pyl_sockaddr_compare(&abstract, &abstract), 0);
}

/* Goal: copy refuses what does not fit. */
Test(sockaddr, copy)
{
    struct pyl_sockaddr a = parsed("1.2.3.4", 80);
    struct pyl_sockaddr b;
    cr_assert_eq(pyl_sockaddr_copy(&b, &a.u.any, a.size), 0);
    cr_assert_eq(pyl_sockaddr_compare(&a, &b), 0);
    cr_assert_eq(pyl_sockaddr_copy(&b, &a.u.any, 1), -EINVAL);
    cr_assert_eq(pyl_sockaddr_copy(&b, &a.u.any, sizeof(a.u) + 1), -EINVAL);
}

static int
get_option(int fd, int level, int name)
{
    int value = -1;
    socklen_t size = sizeof(value);
    cr_assert_eq(getsockopt(fd, level, name, &value, &size), 0);
    return value;
}

/* Goal: a listening socket is non-blocking, close-on-exec, and has exactly the wanted options. */
Test(sockaddr, listen_options)
{
    struct pyl_sockaddr address = parsed("127.0.0.1", 0);
    struct pyl_socket_listen_options plain = {0};
    struct pyl_socket_listen_options all = {.reuse_address = true, .reuse_port = true};
    int fd = pyl_socket_listen(&address, &plain);
    cr_assert_geq(fd, 0);
    cr_assert_neq(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    cr_assert_neq(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    cr_assert_eq(get_option(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
    cr_assert_eq(get_option(fd, SOL_SOCKET, SO_REUSEADDR), 0);
    cr_assert_eq(get_option(fd, SOL_SOCKET, SO_REUSEPORT), 0);
    struct pyl_sockaddr bound;
    cr_assert_eq(pyl_socket_local_address(fd, &bound), 0);
    cr_assert_neq(pyl_sockaddr_port(&bound), 0);
    cr_assert_eq(pyl_socket_listen(&bound, &plain), -EADDRINUSE);
    close(fd);

    fd = pyl_socket_listen(&address, &all);
    cr_assert_eq(get_option(fd, SOL_SOCKET, SO_REUSEADDR), 1);
    cr_assert_eq(get_option(fd, SOL_SOCKET, SO_REUSEPORT), 1);
    cr_assert_eq(pyl_socket_local_address(fd, &bound), 0);
    int second = pyl_socket_listen(&bound, &all);
    cr_assert_geq(second, 0);
    close(second);
    close(fd);
}

/* Goal: IPv6 sockets are dual-stack unless told otherwise. */
Test(sockaddr, listen_v6_only)
{
    struct pyl_sockaddr address = parsed("::", 0); /* Linux makes others v6-only by itself */
    for (int is_v6_only = 0; is_v6_only <= 1; is_v6_only++) {
        struct pyl_socket_listen_options options = {.is_v6_only = is_v6_only};
        int fd = pyl_socket_listen(&address, &options);
        if (fd == -EAFNOSUPPORT || fd == -EADDRNOTAVAIL) {
            fprintf(stderr, "SKIPPED: no IPv6 on this machine\n");
            cr_skip_test("no IPv6");
        }
        cr_assert_geq(fd, 0);
        cr_assert_eq(get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY), is_v6_only);
        close(fd);
    }
}

/* Goal: nodelay is set on TCP and refused elsewhere. */
Test(sockaddr, nodelay)
{
    int tcp = pyl_socket_open(AF_INET, SOCK_STREAM, 0);
    int local = pyl_socket_open(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(pyl_socket_set_nodelay(tcp), 0);
    cr_assert_lt(pyl_socket_set_nodelay(local), 0);
    cr_assert_eq(pyl_socket_open(12345, SOCK_STREAM, 0), -EAFNOSUPPORT);
    close(tcp);
    close(local);
}
