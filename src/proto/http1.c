/*
 * http1.c - drives llhttp over the bytes of one connection and keeps the head of one request.
 *
 * Positions: slices count from the first byte of the request (empty lines before it included), so a
 * head that comes in pieces is the same to the callbacks as one that comes whole. The pieces are
 * kept only if the head is not complete at the end of a call.
 *
 * Limits take precedence over llhttp's verdict whenever the position of that verdict lies beyond
 * the limit; that is what makes the outcome independent of where the stream is cut.
 */
#include "proto/http1.h"

#include "base/alloc.h"
#include "base/check.h"
#include "proto/http1_check.h"

#include <string.h>

enum { FREE_HEADS_MAX = 16, PIECES_KEPT_MAX = 4096 };

static const char OUT_OF_MEMORY[] = "Out of memory";

static struct pyl_http1 *
parser_of(llhttp_t *ll)
{
    return PYL_CONTAINER_OF(ll, struct pyl_http1, ll);
}

/* --- heads ------------------------------------------------------------------------------------ */

static void
head_destroy(struct pyl_http1_head *head)
{
    pyl_free(head->pieces);
    pyl_free(head);
}

static struct pyl_http1_head *
head_take(struct pyl_http1_shared *shared)
{
    struct pyl_http1_head *head = shared->free_heads;
    if (head != NULL) {
        shared->free_heads = head->next_free;
        shared->free_head_count--;
    } else {
        head = pyl_alloc(sizeof(*head));
        if (head == NULL) {
            return NULL;
        }
        head->pieces = NULL;
        head->pieces_capacity = 0;
    }
    head->base = NULL;
    head->target = (struct pyl_http1_slice){0, 0};
    head->path = (struct pyl_http1_slice){0, 0};
    head->query = (struct pyl_http1_slice){0, 0};
    head->is_continue_expected = false;
    head->field_count = 0;
    head->fields[0] = (struct pyl_http1_field){{0, 0}, {0, 0}};
    head->pieces_size = 0;
    return head;
}

void
pyl_http1_drop_head(struct pyl_http1 *parser)
{
    struct pyl_http1_head *head = parser->head;
    struct pyl_http1_shared *shared = parser->shared;
    if (head == NULL) {
        return;
    }
    parser->head = NULL;
    if (shared->free_head_count >= FREE_HEADS_MAX) {
        head_destroy(head);
        return;
    }
    if (head->pieces_capacity > PIECES_KEPT_MAX) {
        pyl_free(head->pieces);
        head->pieces = NULL;
        head->pieces_capacity = 0;
    }
    head->next_free = shared->free_heads;
    shared->free_heads = head;
    shared->free_head_count++;
}

/* Appends to the pieces. Returns false when out of memory. */
static bool
head_keep(struct pyl_http1_head *head, const uint8_t *data, size_t size)
{
    size_t needed = head->pieces_size + size;
    if (needed > head->pieces_capacity) {
        size_t capacity = head->pieces_capacity == 0 ? 1024 : head->pieces_capacity;
        while (capacity < needed) {
            capacity *= 2;
        }
        uint8_t *pieces = pyl_realloc(head->pieces, capacity);
        if (pieces == NULL) {
            return false;
        }
        head->pieces = pieces;
        head->pieces_capacity = (uint32_t)capacity;
    }
    memcpy(head->pieces + head->pieces_size, data, size);
    head->pieces_size = (uint32_t)needed;
    return true;
}

void
pyl_http1_shared_init(struct pyl_http1_shared *shared, const struct pyl_http1_limits *limits)
{
    memset(shared, 0, sizeof(*shared));
    if (limits != NULL) {
        shared->limits = *limits;
    }
    if (shared->limits.line_size_max == 0) {
        shared->limits.line_size_max = PYL_HTTP1_LINE_SIZE_MAX;
    }
    if (shared->limits.head_size_max == 0) {
        shared->limits.head_size_max = PYL_HTTP1_HEAD_SIZE_MAX;
    }
    if (shared->limits.field_count_max == 0 ||
        shared->limits.field_count_max > PYL_HTTP1_FIELD_COUNT_MAX) {
        shared->limits.field_count_max = PYL_HTTP1_FIELD_COUNT_MAX;
    }
}

void
pyl_http1_shared_fini(struct pyl_http1_shared *shared)
{
    while (shared->free_heads != NULL) {
        struct pyl_http1_head *head = shared->free_heads;
        shared->free_heads = head->next_free;
        head_destroy(head);
    }
    shared->free_head_count = 0;
}

/* --- llhttp's callbacks -------------------------------------------------------------------------
 */

static int
fail(struct pyl_http1 *parser, uint16_t status, const char *reason)
{
    parser->status = status;
    parser->reason = reason;
    return HPE_USER;
}

/* Where `at` is, counted from the first byte of the request. */
static uint32_t
position(const struct pyl_http1 *parser, const char *at)
{
    return parser->head_size + (uint32_t)((const uint8_t *)at - parser->data);
}

static void
extend(const struct pyl_http1 *parser, struct pyl_http1_slice *slice, const char *at, size_t size)
{
    if (slice->size == 0) {
        slice->start = position(parser, at);
    }
    slice->size += (uint32_t)size;
}

static int
on_method_complete(llhttp_t *ll)
{
    struct pyl_http1 *parser = parser_of(ll);
    if (ll->method == HTTP_PRI) {
        return fail(parser, 505, "HTTP/2 is not supported");
    }
    if (pyl_http1_method_name(ll->method) == NULL) {
        return fail(parser, 501, "Method is not implemented");
    }
    return 0;
}

static int
on_url(llhttp_t *ll, const char *at, size_t size)
{
    struct pyl_http1 *parser = parser_of(ll);
    extend(parser, &parser->head->target, at, size);
    return 0;
}

static int
on_protocol(llhttp_t *ll, const char *at, size_t size)
{
    if (size > 0 && (*at == 'R' || *at == 'I')) {
        parser_of(ll)->is_foreign_protocol = true;
    }
    return 0;
}

static int
on_protocol_complete(llhttp_t *ll)
{
    struct pyl_http1 *parser = parser_of(ll);
    return parser->is_foreign_protocol ? fail(parser, 505, "Protocol is not supported") : 0;
}

static int
on_version_complete(llhttp_t *ll)
{
    struct pyl_http1 *parser = parser_of(ll);
    parser->has_line = true;
    if (ll->http_major != 1) {
        return fail(parser, 505, "HTTP version is not supported");
    }
    return 0;
}

static int
on_header_field(llhttp_t *ll, const char *at, size_t size)
{
    struct pyl_http1 *parser = parser_of(ll);
    if (parser->stage == PYL_HTTP1_IN_HEAD) {
        struct pyl_http1_head *head = parser->head;
        extend(parser, &head->fields[head->field_count].name, at, size);
        return 0;
    }
    for (size_t i = 0; i < size && parser->trailer_name_size < sizeof(parser->trailer_name); i++) {
        parser->trailer_name[parser->trailer_name_size++] = at[i];
    }
    return 0;
}

static int
on_header_value(llhttp_t *ll, const char *at, size_t size)
{
    struct pyl_http1 *parser = parser_of(ll);
    if (parser->stage == PYL_HTTP1_IN_HEAD) {
        struct pyl_http1_head *head = parser->head;
        extend(parser, &head->fields[head->field_count].value, at, size);
    }
    return 0;
}

static int
on_header_value_complete(llhttp_t *ll)
{
    struct pyl_http1 *parser = parser_of(ll);
    if (parser->stage == PYL_HTTP1_IN_HEAD) {
        struct pyl_http1_head *head = parser->head;
        if (head->field_count == parser->shared->limits.field_count_max) {
            return fail(parser, 431, "Too many header fields");
        }
        head->field_count++;
        head->fields[head->field_count] = (struct pyl_http1_field){{0, 0}, {0, 0}};
        return 0;
    }
    size_t size = parser->trailer_name_size;
    parser->trailer_name_size = 0;
    if (pyl_http1_is_forbidden_trailer(parser->trailer_name, size)) {
        return fail(parser, 400, "Forbidden trailer field");
    }
    return 0;
}

static int
on_headers_complete(llhttp_t *ll)
{
    (void)ll;
    return HPE_PAUSED;
}

/* Adds the bytes between the last content and `at` to the framing. Returns false above a limit. */
static bool
count_framing(struct pyl_http1 *parser, const uint8_t *at)
{
    size_t size = (size_t)(at - parser->framing_mark);
    parser->framing_mark = at;
    parser->body_framing_size += size;
    if (size > PYL_HTTP1_CHUNK_FRAMING_MAX - parser->chunk_framing_size) {
        return false;
    }
    parser->chunk_framing_size += (uint32_t)size;
    return parser->body_framing_size / 16 <= PYL_HTTP1_BODY_FRAMING_MAX / 16 + parser->body_size;
}

static int
on_body(llhttp_t *ll, const char *at, size_t size)
{
    struct pyl_http1 *parser = parser_of(ll);
    struct pyl_http1_event *event = parser->event;
    uint64_t body_size_max = parser->shared->limits.body_size_max;

    if (!count_framing(parser, (const uint8_t *)at)) {
        return fail(parser, 413, "Chunk framing is too large");
    }
    parser->framing_mark = (const uint8_t *)at + size;
    parser->chunk_framing_size = 0;
    event->body = (const uint8_t *)at;
    event->body_size = size;
    event->flags |= PYL_HTTP1_BODY;
    if (body_size_max != 0 && size > body_size_max - parser->body_size) {
        event->body_size = (size_t)(body_size_max - parser->body_size);
        if (event->body_size == 0) {
            event->flags &= ~(uint32_t)PYL_HTTP1_BODY;
        }
        return fail(parser, 413, "Content is too large");
    }
    parser->body_size += size;
    return HPE_PAUSED;
}

static int
on_message_complete(llhttp_t *ll)
{
    parser_of(ll)->event->flags |= PYL_HTTP1_COMPLETE;
    return HPE_PAUSED;
}

static const llhttp_settings_t SETTINGS = {
    .on_method_complete = on_method_complete,
    .on_url = on_url,
    .on_protocol = on_protocol,
    .on_protocol_complete = on_protocol_complete,
    .on_version_complete = on_version_complete,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* --- the parser
 * ----------------------------------------------------------------------------------- */

void
pyl_http1_init(struct pyl_http1 *parser, struct pyl_http1_shared *shared)
{
    memset(parser, 0, sizeof(*parser));
    llhttp_init(&parser->ll, HTTP_REQUEST, &SETTINGS);
    parser->shared = shared;
    parser->stage = PYL_HTTP1_BETWEEN;
}

void
pyl_http1_fini(struct pyl_http1 *parser)
{
    pyl_http1_drop_head(parser);
    parser->stage = PYL_HTTP1_FAILED;
}

static void
end_with_error(struct pyl_http1 *parser, uint16_t status, const char *reason)
{
    parser->status = status;
    parser->reason = reason;
    parser->stage = PYL_HTTP1_FAILED;
    parser->event->flags &= ~(uint32_t)PYL_HTTP1_COMPLETE;
    parser->event->flags |= PYL_HTTP1_ERROR;
}

/* An unknown method is 501 if it is one as far as it was read, and 400 if it is noise. */
static uint16_t
status_of_bad_method(const struct pyl_http1 *parser, const uint8_t *end)
{
    const struct pyl_http1_head *head = parser->head;
    bool has_method = false;
    for (uint32_t i = 0; i < head->pieces_size; i++) {
        if (head->pieces[i] != '\r' && head->pieces[i] != '\n') {
            if (!pyl_http1_is_token(&head->pieces[i], 1)) {
                return 400;
            }
            has_method = true;
        }
    }
    for (const uint8_t *at = parser->data; at < end; at++) {
        if (has_method || (*at != '\r' && *at != '\n')) {
            if (!pyl_http1_is_token(at, 1)) {
                return 400;
            }
            has_method = true;
        }
    }
    return has_method ? 501 : 400;
}

/* llhttp stopped with an error before the head was complete; `end` is behind the byte it did not
 * like. */
static void
fail_head(struct pyl_http1 *parser, llhttp_errno_t error, const uint8_t *end)
{
    const char *reason = llhttp_get_error_reason(&parser->ll);
    if (parser->status != 0) {
        end_with_error(parser, parser->status, parser->reason);
    } else if (error == HPE_INVALID_METHOD) {
        end_with_error(parser, status_of_bad_method(parser, end), "Invalid method");
    } else if (error == HPE_INVALID_VERSION && strcmp(reason, "Invalid HTTP version") == 0) {
        end_with_error(parser, 505, "HTTP version is not supported");
    } else {
        end_with_error(parser, 400, reason);
    }
}

/* `size` bytes of the head are now known. Returns false after reporting a limit that they exceed.
 */
static bool
check_head_size(struct pyl_http1 *parser, size_t size)
{
    const struct pyl_http1_limits *limits = &parser->shared->limits;
    if (size > limits->line_size_max) {
        const struct pyl_http1_slice *target = &parser->head->target;
        /* " HTTP/1.1" follows the target. */
        size_t line_size = parser->has_line ? target->start + target->size + 9 : size;
        if (line_size > limits->line_size_max) {
            end_with_error(parser, 414, "Request line is too long");
            return false;
        }
    }
    if (size > limits->head_size_max) {
        end_with_error(parser, 431, "Header fields are too large");
        return false;
    }
    return true;
}

static void
trim_values(struct pyl_http1_head *head)
{
    for (uint32_t i = 0; i < head->field_count; i++) {
        struct pyl_http1_slice *value = &head->fields[i].value;
        const uint8_t *data = head->base + value->start;
        while (value->size > 0 && (data[value->size - 1] == ' ' || data[value->size - 1] == '\t')) {
            value->size--;
        }
    }
}

/* llhttp paused behind the empty line, at `end`. Returns false after an error. */
static bool
finish_head(struct pyl_http1 *parser, const uint8_t *end)
{
    struct pyl_http1_head *head = parser->head;
    llhttp_t *ll = &parser->ll;

    if (!parser->has_line) {
        end_with_error(parser, 505, "HTTP/0.9 is not supported");
        return false;
    }
    if (head->pieces_size > 0) {
        if (!head_keep(head, parser->data, (size_t)(end - parser->data))) {
            end_with_error(parser, 503, OUT_OF_MEMORY);
            return false;
        }
        head->base = head->pieces;
    } else {
        head->base = parser->data;
    }
    trim_values(head);
    head->method = ll->method;
    head->minor_version = ll->http_minor;
    head->is_keep_alive = llhttp_should_keep_alive(ll) != 0;
    head->is_chunked = (ll->flags & F_CHUNKED) != 0;
    head->has_content_length = (ll->flags & F_CONTENT_LENGTH) != 0;
    head->content_length = head->has_content_length ? ll->content_length : 0;

    struct pyl_http1_verdict verdict = pyl_http1_check_head(head, parser->shared);
    if (verdict.status != 0) {
        end_with_error(parser, verdict.status, verdict.reason);
        return false;
    }
    /* We never switch protocols, so an Upgrade field must not end the framing of this one. */
    ll->upgrade = 0;
    parser->event->flags |= PYL_HTTP1_HEAD;
    parser->stage = PYL_HTTP1_IN_BODY;
    parser->framing_mark = end;
    parser->chunk_framing_size = 0;
    parser->body_framing_size = 0;
    parser->body_size = 0;
    return true;
}

/* Parses head bytes from `data`. Returns true when the head is complete, with the position behind
 * it. */
static bool
parse_head(struct pyl_http1 *parser, const uint8_t *data, size_t size, const uint8_t **ret_end)
{
    if (parser->stage == PYL_HTTP1_BETWEEN) {
        PYL_DCHECK(parser->head == NULL);
        parser->head = head_take(parser->shared);
        if (parser->head == NULL) {
            end_with_error(parser, 503, OUT_OF_MEMORY);
            return false;
        }
        parser->stage = PYL_HTTP1_IN_HEAD;
        parser->head_size = 0;
        parser->has_line = false;
        parser->is_foreign_protocol = false;
    }
    llhttp_errno_t error = llhttp_execute(&parser->ll, (const char *)data, size);
    if (error == HPE_OK) {
        if (!check_head_size(parser, parser->head_size + size)) {
            return false;
        }
        if (!head_keep(parser->head, data, size)) {
            end_with_error(parser, 503, OUT_OF_MEMORY);
            return false;
        }
        parser->head_size += (uint32_t)size;
        parser->event->consumed = size;
        return false;
    }
    const uint8_t *at = (const uint8_t *)llhttp_get_error_pos(&parser->ll);
    if (!check_head_size(parser, parser->head_size + (size_t)(at - data))) {
        return false;
    }
    if (error != HPE_PAUSED) {
        fail_head(parser, error, at < data + size ? at + 1 : at);
        return false;
    }
    if (!finish_head(parser, at)) {
        return false;
    }
    llhttp_resume(&parser->ll);
    *ret_end = at;
    return true;
}

/* The request has ended; the next one may begin, unless this one asked to close. */
static void
finish_request(struct pyl_http1 *parser)
{
    llhttp_t *ll = &parser->ll;
    /* llhttp clears its flags when it resumes, which is what starts the next request. */
    parser->stage = llhttp_should_keep_alive(ll) ? PYL_HTTP1_BETWEEN : PYL_HTTP1_ENDED;
}

static void
parse_body(struct pyl_http1 *parser, const uint8_t *data, size_t size)
{
    struct pyl_http1_event *event = parser->event;
    llhttp_t *ll = &parser->ll;

    parser->framing_mark = data;
    llhttp_errno_t error = llhttp_execute(ll, (const char *)data, size);
    const uint8_t *at = error == HPE_OK ? data + size : (const uint8_t *)llhttp_get_error_pos(ll);
    if (parser->status != 0) {
        end_with_error(parser, parser->status, parser->reason);
        return;
    }
    if (!count_framing(parser, at)) {
        end_with_error(parser, 413, "Chunk framing is too large");
        return;
    }
    if (error == HPE_PAUSED) {
        llhttp_resume(ll);
        if ((ll->flags & F_CHUNKED) == 0 && ll->content_length == 0 &&
            (event->flags & PYL_HTTP1_COMPLETE) == 0) {
            /* The last byte of the content was the last of the request: no more bytes are needed
             * for llhttp to say so. */
            error = llhttp_execute(ll, (const char *)at, 0);
            PYL_CHECK(error == HPE_PAUSED);
            llhttp_resume(ll);
        }
        event->consumed += (size_t)(at - data);
        if ((event->flags & PYL_HTTP1_COMPLETE) != 0) {
            finish_request(parser);
        }
    } else if (error == HPE_OK) {
        event->consumed += size;
    } else {
        end_with_error(parser, 400, llhttp_get_error_reason(ll));
    }
}

void
pyl_http1_parse(struct pyl_http1 *parser, const uint8_t *data, size_t size,
                struct pyl_http1_event *ret_event)
{
    *ret_event = (struct pyl_http1_event){0};
    parser->event = ret_event;
    parser->data = data;
    if (parser->stage != PYL_HTTP1_FAILED) {
        parser->status = 0; /* callbacks set it when they refuse */
    }

    if (parser->stage == PYL_HTTP1_BETWEEN || parser->stage == PYL_HTTP1_IN_HEAD) {
        const uint8_t *end = NULL;
        if (size > 0 && parse_head(parser, data, size, &end)) {
            ret_event->consumed = (size_t)(end - data);
            parse_body(parser, end, size - ret_event->consumed);
        }
    } else if (parser->stage == PYL_HTTP1_IN_BODY) {
        parse_body(parser, data, size);
    }
    if (parser->stage == PYL_HTTP1_ENDED || parser->stage == PYL_HTTP1_FAILED) {
        ret_event->consumed = size;
    }
    parser->event = NULL;
    parser->data = NULL;
    parser->framing_mark = NULL;
}

const char *
pyl_http1_method_name(unsigned method)
{
#define METHOD_ROW(number, name, text) [number] = #text,
    static const char *const NAMES[PYL_HTTP1_METHOD_COUNT] = {HTTP_METHOD_MAP(METHOD_ROW)};
#undef METHOD_ROW
    return method < PYL_HTTP1_METHOD_COUNT ? NAMES[method] : NULL;
}
