/*
 * http1_response.h - writes the head of an HTTP/1.x response and decides how its content is framed.
 * Pure: into memory of the caller, who made sure that there is room.
 *
 *   begin -> status -> field ... -> end_head -> content ... -> finish
 */
#ifndef PYL_PROTO_HTTP1_RESPONSE_H
#define PYL_PROTO_HTTP1_RESPONSE_H

#include "base/platform.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pyl_http1_framing {
    PYL_HTTP1_NO_CONTENT,  /* HEAD, 204, 304: content is discarded */
    PYL_HTTP1_LENGTH,      /* Content-Length */
    PYL_HTTP1_CHUNKED,     /* Transfer-Encoding: chunked */
    PYL_HTTP1_UNTIL_CLOSE, /* HTTP/1.0 without a length */
};

struct pyl_http1_response {
    uint64_t content_length; /* of the application's field */
    uint64_t remaining;      /* PYL_HTTP1_LENGTH: content still owed */
    uint16_t status;
    uint8_t framing; /* enum pyl_http1_framing, after end_head */
    uint8_t request_minor_version;
    bool is_head_request;
    bool is_keep_alive; /* falls, never rises */
    bool has_content_length;
    bool has_date;
    bool has_server;
};

enum {
    PYL_HTTP1_STATUS_LINE_MAX = 64,
    PYL_HTTP1_FIELD_EXTRA = 4,     /* ": " and CRLF of one field */
    PYL_HTTP1_HEAD_END_MAX = 112,  /* what end_head adds beside `defaults` */
    PYL_HTTP1_CHUNK_HEAD_MAX = 18, /* 16 digits and CRLF */
    PYL_HTTP1_ERROR_MAX = 512,     /* a whole error response */
};

/* Describes the request that is answered; nothing is written yet. */
void pyl_http1_response_begin(struct pyl_http1_response *response, uint8_t request_minor_version,
                              bool is_head_request, bool is_keep_alive);

/* Writes the status line. Returns the end of what was written, or NULL for a number that is not the
 * status of a final response (200 to 999). */
uint8_t *pyl_http1_response_status(struct pyl_http1_response *response, int64_t status,
                                   uint8_t *out);

/*
 * Checks one field of the application and writes it with a lower-case name: at most both sizes and
 * PYL_HTTP1_FIELD_EXTRA bytes. Transfer-Encoding and Connection are ours and only looked at.
 *
 * Returns: the end of what was written; or NULL with a static text in *ret_error.
 */
uint8_t *pyl_http1_response_field(struct pyl_http1_response *response, const uint8_t *name,
                                  size_t name_size, const uint8_t *value, size_t value_size,
                                  uint8_t *out, const char **ret_error);

/* What end_head will choose, for the caller that needs to know the content before the head is out.
 */
bool pyl_http1_response_is_bodiless(const struct pyl_http1_response *response);

/*
 * Writes the framing fields, `defaults` (whole lines: date, server) and the empty line.
 * content_size is what is known of the content: its size, or negative.
 */
uint8_t *pyl_http1_response_end_head(struct pyl_http1_response *response, int64_t content_size,
                                     const uint8_t *defaults, size_t defaults_size, uint8_t *out);

/* "1f\r\n" */
uint8_t *pyl_http1_write_chunk_head(uint8_t *out, size_t size);

/* A whole plain-text answer with Connection: close; at most PYL_HTTP1_ERROR_MAX bytes plus
 * defaults_size. `text` is cut to fit. */
uint8_t *pyl_http1_write_error(uint8_t *out, unsigned status, const char *text,
                               bool is_head_request, const uint8_t *defaults, size_t defaults_size);

/* "Not Found"; "" for a number without a registered phrase. */
const char *pyl_http1_phrase(unsigned status);

#endif
