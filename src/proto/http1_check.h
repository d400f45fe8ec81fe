/*
 * http1_check.h - the rules for a request head that llhttp leaves to its user. Pure.
 */
#ifndef PYL_PROTO_HTTP1_CHECK_H
#define PYL_PROTO_HTTP1_CHECK_H

#include "proto/http1.h"

struct pyl_http1_verdict {
    uint16_t status;    /* 0: fine */
    const char *reason; /* static text */
};

/* Fills path, query, is_continue_expected of a head whose fields are complete. */
struct pyl_http1_verdict pyl_http1_check_head(struct pyl_http1_head *head,
                                              struct pyl_http1_shared *shared);

/* uri-host [ ":" port ] of RFC 9110 7.2, not empty. */
bool pyl_http1_is_host(const uint8_t *data, size_t size);

/* ASCII, without regard to case; `lower` is lower-case. */
bool pyl_http1_equals(const uint8_t *data, size_t size, const char *lower);

/* token of RFC 9110 5.6.2, not empty. */
bool pyl_http1_is_token(const uint8_t *data, size_t size);

/* Fields that frame, route or authenticate a message must not come as trailers (RFC 9110 6.5.1). */
bool pyl_http1_is_forbidden_trailer(const char *name, size_t size);

#endif
