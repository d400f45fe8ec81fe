/*
 * socket_call.c - accept(2) with the flags that every new descriptor needs, where accept4(2)
 * exists.
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
