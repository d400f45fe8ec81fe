/*
 * http1.h - HTTP/1.x request parsing for a server: bytes in, events out. Pure: no fd, no clock, no
 * Python. Framing is llhttp's with all leniency off; what llhttp does not enforce is checked here:
 * Host, version and protocol, target forms, Transfer-Encoding, sizes, counts, trailers.
 *
 * One parser per connection, owner thread only. Between two requests a parser holds no memory:
 * the head of a request lives in a `struct pyl_http1_head` from the server's pool.
 *
 * The events of a byte stream do not depend on where it is cut: every decision is taken at a
 * position of the stream, never at the end of a piece.
 */
#ifndef PYL_PROTO_HTTP1_H
#define PYL_PROTO_HTTP1_H

#include "base/platform.h"

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PYL_HTTP1_LINE_SIZE_MAX = 8 * 1024,
    PYL_HTTP1_HEAD_SIZE_MAX = 64 * 1024,
    PYL_HTTP1_FIELD_COUNT_MAX = 100,
    /* Bytes of chunk headers, extensions and trailers between two bytes of content. */
    PYL_HTTP1_CHUNK_FRAMING_MAX = 8 * 1024,
    /* All framing of a chunked body may be this much plus 16 bytes for each byte of content. */
    PYL_HTTP1_BODY_FRAMING_MAX = 64 * 1024,
    PYL_HTTP1_METHOD_COUNT = 47, /* llhttp's numbers are below */
};

/* Zero means the default; 0 in body_size_max means no limit. */
struct pyl_http1_limits {
    uint32_t line_size_max;   /* request line: 414 */
    uint32_t head_size_max;   /* request line and fields: 431 */
    uint32_t field_count_max; /* 431; at most PYL_HTTP1_FIELD_COUNT_MAX */
    uint64_t body_size_max;   /* content: 413 */
};

struct pyl_http1_slice {
    uint32_t start; /* from head->base */
    uint32_t size;
};

struct pyl_http1_field {
    struct pyl_http1_slice name;  /* a token, in the sender's case */
    struct pyl_http1_slice value; /* without surrounding white space */
};

struct pyl_http1_head {
    /* The bytes all slices refer to: the caller's own when the head came in one piece, so valid
     * only as long as those are. */
    const uint8_t *base;
    struct pyl_http1_slice target; /* as sent */
    struct pyl_http1_slice path;   /* percent-encoded; empty means "/" */
    struct pyl_http1_slice query;  /* without '?' */
    uint8_t method;                /* llhttp's number */
    uint8_t minor_version;         /* of 1.x */
    bool is_keep_alive;            /* what the client asks for */
    bool is_continue_expected;     /* Expect: 100-continue in HTTP/1.1 */
    bool is_chunked;
    bool has_content_length;
    uint64_t content_length; /* 0 without the field */
    uint32_t field_count;
    struct pyl_http1_field fields[PYL_HTTP1_FIELD_COUNT_MAX + 1];

    /* Private. */
    struct pyl_http1_head *next_free;
    uint8_t *pieces; /* bytes of a head that came in more than one piece */
    uint32_t pieces_size;
    uint32_t pieces_capacity;
};

/* What the parsers of one server share. */
struct pyl_http1_shared {
    struct pyl_http1_limits limits;
    uint8_t good_host[64]; /* a Host that passed the check; most requests name the same */
    uint8_t good_host_size;
    struct pyl_http1_head *free_heads;
    uint32_t free_head_count;
};

/* The limits are copied. */
void pyl_http1_shared_init(struct pyl_http1_shared *shared, const struct pyl_http1_limits *limits);
/* Every parser was finished before. */
void pyl_http1_shared_fini(struct pyl_http1_shared *shared);

enum pyl_http1_stage {
    PYL_HTTP1_BETWEEN, /* no byte of the next request seen */
    PYL_HTTP1_IN_HEAD,
    PYL_HTTP1_IN_BODY,
    PYL_HTTP1_ENDED, /* after a request that asked to close: further bytes are discarded */
    PYL_HTTP1_FAILED,
};

struct pyl_http1 {
    llhttp_t ll;
    struct pyl_http1_shared *shared;
    struct pyl_http1_head *head;   /* from the first byte until pyl_http1_drop_head() */
    struct pyl_http1_event *event; /* of the call in progress */
    const uint8_t *data;           /* of the call in progress */
    const uint8_t *framing_mark;   /* of the call in progress: end of the last content */
    uint64_t body_size;            /* content so far */
    uint64_t body_framing_size;    /* chunk framing so far */
    const char *reason;            /* static text, after PYL_HTTP1_ERROR */
    uint32_t head_size;            /* bytes of the head seen in earlier calls */
    uint32_t chunk_framing_size;   /* since the last content */
    uint16_t status;               /* answer to send, after PYL_HTTP1_ERROR */
    uint8_t stage;                 /* enum pyl_http1_stage */
    bool has_line;                 /* the request line is complete */
    bool is_foreign_protocol;      /* RTSP or ICE */
    uint8_t trailer_name_size;     /* saturates */
    char trailer_name[24];
};

/* Flags of one event; those of one call belong to one request and happened in this order. */
enum {
    PYL_HTTP1_HEAD = 1,     /* parser->head is complete and checked */
    PYL_HTTP1_BODY = 2,     /* `body` holds content, de-chunked */
    PYL_HTTP1_COMPLETE = 4, /* the request has ended */
    PYL_HTTP1_ERROR = 8,    /* see parser->status and reason; nothing follows */
};

struct pyl_http1_event {
    uint32_t flags;
    size_t consumed;     /* bytes of `data` done with; the rest is for the next call */
    const uint8_t *body; /* inside `data` */
    size_t body_size;
};

/* `shared` lives longer than the parser. Nothing is allocated before a head arrives. */
void pyl_http1_init(struct pyl_http1 *parser, struct pyl_http1_shared *shared);
/* Gives back what is held. The parser may be initialised again. */
void pyl_http1_fini(struct pyl_http1 *parser);

/*
 * Parses until the first of: a piece of content, the end of the request, an error, the end of
 * `data`. No flags: everything was consumed and more is needed. Never reads into the next request.
 */
void pyl_http1_parse(struct pyl_http1 *parser, const uint8_t *data, size_t size,
                     struct pyl_http1_event *ret_event);

/* Gives parser->head back to the pool. To be called once the head was used, at the latest before
 * the first byte of the next request. */
void pyl_http1_drop_head(struct pyl_http1 *parser);

/* No request has begun: the connection may be closed without harm. */
static inline bool
pyl_http1_is_between(const struct pyl_http1 *parser)
{
    return parser->stage == PYL_HTTP1_BETWEEN;
}

static inline const uint8_t *
pyl_http1_bytes(const struct pyl_http1_head *head, struct pyl_http1_slice slice)
{
    return head->base + slice.start;
}

/* Static text, "GET"; NULL for a number that is not an HTTP method. */
const char *pyl_http1_method_name(unsigned method);

#endif
