/*
 * http1_events.h - test helper: feeds a byte stream to a parser in pieces and writes its events
 * down as text, so that two ways of cutting a stream can be compared. Also used by the fuzz target.
 */
#ifndef PYL_TESTS_HTTP1_EVENTS_H
#define PYL_TESTS_HTTP1_EVENTS_H

#include "proto/http1.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct http1_log {
    char *text;
    size_t size;
    size_t capacity;
    bool is_in_body; /* the last event was content: further content is joined to it */
};

static inline void
http1_log_bytes(struct http1_log *log, const void *data, size_t size)
{
    if (log->size + size + 1 > log->capacity) {
        log->capacity = (log->size + size + 1) * 2;
        log->text = realloc(log->text, log->capacity);
        assert(log->text != NULL);
    }
    memcpy(log->text + log->size, data, size);
    log->size += size;
    log->text[log->size] = '\0';
}

static inline void
http1_log_format(struct http1_log *log, const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    http1_log_bytes(log, line, (size_t)size);
}

static inline void
http1_log_end_body(struct http1_log *log)
{
    if (log->is_in_body) {
        http1_log_bytes(log, "\n", 1);
        log->is_in_body = false;
    }
}

static inline void
http1_log_head(struct http1_log *log, const struct pyl_http1_head *head)
{
    http1_log_format(log, "%s ", pyl_http1_method_name(head->method));
    http1_log_bytes(log, pyl_http1_bytes(head, head->path), head->path.size);
    http1_log_bytes(log, "?", 1);
    http1_log_bytes(log, pyl_http1_bytes(head, head->query), head->query.size);
    http1_log_format(log, " 1.%u%s%s%s", head->minor_version, head->is_keep_alive ? "" : " close",
                     head->is_continue_expected ? " expect" : "",
                     head->is_chunked ? " chunked" : "");
    if (head->has_content_length) {
        http1_log_format(log, " %llu", (unsigned long long)head->content_length);
    }
    for (uint32_t i = 0; i < head->field_count; i++) {
        http1_log_bytes(log, "|", 1);
        http1_log_bytes(log, pyl_http1_bytes(head, head->fields[i].name),
                        head->fields[i].name.size);
        http1_log_bytes(log, "=", 1);
        http1_log_bytes(log, pyl_http1_bytes(head, head->fields[i].value),
                        head->fields[i].value.size);
    }
    http1_log_bytes(log, "\n", 1);
}

/* One piece of the stream, in memory of its own and freed afterwards: a slice that outlives it is a
 * use after free that sanitizers see. */
static inline void
http1_feed(struct pyl_http1 *parser, struct http1_log *log, const uint8_t *data, size_t size)
{
    uint8_t *piece = malloc(size + 1);
    assert(piece != NULL);
    memcpy(piece, data, size);
    size_t used = 0;
    do {
        struct pyl_http1_event event;
        size_t left = size - used;
        uint8_t *exact = malloc(left > 0 ? left : 1);
        assert(exact != NULL);
        memcpy(exact, piece + used, left);
        pyl_http1_parse(parser, exact, left, &event);
        assert(event.consumed <= left);
        if ((event.flags & PYL_HTTP1_HEAD) != 0) {
            http1_log_head(log, parser->head);
            pyl_http1_drop_head(parser);
        }
        if ((event.flags & PYL_HTTP1_BODY) != 0) {
            assert(event.body >= exact && event.body + event.body_size <= exact + left);
            http1_log_bytes(log, log->is_in_body ? "" : "+", log->is_in_body ? 0 : 1);
            log->is_in_body = true;
            http1_log_bytes(log, event.body, event.body_size);
        }
        if ((event.flags & PYL_HTTP1_COMPLETE) != 0) {
            http1_log_end_body(log);
            http1_log_bytes(log, "end\n", 4);
        }
        if ((event.flags & PYL_HTTP1_ERROR) != 0) {
            http1_log_end_body(log);
            pyl_http1_drop_head(parser);
            /* The parser library's wording changes between its versions. */
            bool is_library = parser->reason == llhttp_get_error_reason(&parser->ll);
            http1_log_format(log, "%u %s\n", parser->status,
                             is_library ? "llhttp" : parser->reason);
        }
        assert(event.flags != 0 || event.consumed == left);
        used += event.consumed;
        free(exact);
    } while (used < size);
    free(piece);
}

#endif
