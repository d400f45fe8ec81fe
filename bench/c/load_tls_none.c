/*
 * load_tls_none.c - the load generator where there is no OpenSSL: TLS is refused.
 */
#include "load.h"

#include <errno.h>

void
load_tls_open(struct load *load, struct conn *conn)
{
    load_fail(load, conn, "built without OpenSSL", 0);
}

void
load_tls_close(struct conn *conn)
{
    (void)conn;
}

ssize_t
load_tls_send(struct conn *conn, const void *bytes, size_t count)
{
    (void)conn, (void)bytes, (void)count;
    errno = ENOTSUP;
    return -1;
}

ssize_t
load_tls_recv(struct conn *conn, void *bytes, size_t count)
{
    (void)conn, (void)bytes, (void)count;
    errno = ENOTSUP;
    return -1;
}
