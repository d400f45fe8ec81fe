/*
 * load_tls.c - TLS for the load generator, by OpenSSL.
 *
 * The certificate is not checked: the server is our own child on the loopback address, and it is
 * the server that is measured.
 */
#include "load.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>

/* One for the program; made with the first connection, lives to the end. */
static SSL_CTX *context;

static _Noreturn void
fail(const struct load *load, const struct conn *conn, const char *what)
{
    char words[256];
    ERR_error_string_n(ERR_get_error(), words, sizeof(words));
    fprintf(stderr, "load: OpenSSL: %s\n", words);
    load_fail(load, conn, what, 0);
}

void
load_tls_open(struct load *load, struct conn *conn)
{
    if (context == NULL) {
        context = SSL_CTX_new(TLS_client_method());
        if (context == NULL) {
            fail(load, conn, "SSL_CTX_new");
        }
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                      SSL_MODE_RELEASE_BUFFERS);
    }
    SSL *tls = SSL_new(context);
    if (tls == NULL || SSL_set_fd(tls, conn->fd) != 1 || SSL_connect(tls) != 1) {
        fail(load, conn, "TLS handshake");
    }
    conn->tls = tls;
}

void
load_tls_close(struct conn *conn)
{
    SSL_shutdown(conn->tls); /* says goodbye; the answer is not waited for */
    SSL_free(conn->tls);
    conn->tls = NULL;
}

/* What OpenSSL's answer means in the words of send(2) and recv(2). */
static ssize_t
outcome(SSL *tls, int result, size_t count)
{
    if (result == 1) {
        return (ssize_t)count;
    }
    switch (SSL_get_error(tls, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SYSCALL:
        return errno == 0 ? 0 : -1;
    default:
        errno = EPROTO;
        return -1;
    }
}

ssize_t
load_tls_send(struct conn *conn, const void *bytes, size_t count)
{
    size_t done = 0;
    ERR_clear_error();
    errno = 0;
    int result = SSL_write_ex(conn->tls, bytes, count, &done);
    return outcome(conn->tls, result, done);
}

ssize_t
load_tls_recv(struct conn *conn, void *bytes, size_t count)
{
    size_t done = 0;
    ERR_clear_error();
    errno = 0;
    int result = SSL_read_ex(conn->tls, bytes, count, &done);
    return outcome(conn->tls, result, done);
}
