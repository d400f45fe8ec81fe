/*
 * test_http1_response.c - the head of a response: framing, what is ours to write, and that no
 * application text can end a line early.
 */
#include "proto/http1_response.h"

#include <criterion/criterion.h>
#include <string.h>

struct field {
    const char *name;
    const char *value;
};

struct reply {
    char text[4096];
    struct pyl_http1_response response;
    const char *error;
};

static void
write_reply(struct reply *reply, uint8_t minor, bool is_head, bool is_keep_alive, int64_t status,
            const struct field *fields, int64_t content_size)
{
    uint8_t *out = (uint8_t *)reply->text;
    reply->error = NULL;
    pyl_http1_response_begin(&reply->response, minor, is_head, is_keep_alive);
    out = pyl_http1_response_status(&reply->response, status, out);
    cr_assert_not_null(out);
    for (size_t i = 0; fields != NULL && fields[i].name != NULL; i++) {
        out = pyl_http1_response_field(&reply->response, (const uint8_t *)fields[i].name,
                                       strlen(fields[i].name), (const uint8_t *)fields[i].value,
                                       strlen(fields[i].value), out, &reply->error);
        if (out == NULL) {
            reply->text[0] = '\0';
            return;
        }
    }
    out = pyl_http1_response_end_head(&reply->response, content_size, (const uint8_t *)"d: e\r\n",
                                      6, out);
    *out = '\0';
}

/* Goal: content known at once gets its length, whatever the version. */
Test(http1_response, single_shot_has_a_length)
{
    struct reply reply;
    static const struct field FIELDS[] = {{"Content-Type", "a/b"}, {NULL, NULL}};
    write_reply(&reply, 1, false, true, 200, FIELDS, 12);
    cr_assert_str_eq(reply.text,
                     "HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ncontent-length: 12\r\nd: e\r\n\r\n");
    cr_assert_eq(reply.response.framing, PYL_HTTP1_LENGTH);
    cr_assert_eq(reply.response.remaining, 12);
    write_reply(&reply, 0, false, true, 200, NULL, 0);
    cr_assert_str_eq(reply.text, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"
                                 "connection: keep-alive\r\nd: e\r\n\r\n");
}

/* Goal: content of unknown size is chunked in 1.1 and ends with the connection in 1.0. */
Test(http1_response, stream_framing_depends_on_version)
{
    struct reply reply;
    write_reply(&reply, 1, false, true, 200, NULL, -1);
    cr_assert_str_eq(reply.text, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nd: e\r\n\r\n");
    cr_assert_eq(reply.response.framing, PYL_HTTP1_CHUNKED);
    write_reply(&reply, 0, false, true, 200, NULL, -1);
    cr_assert_str_eq(reply.text, "HTTP/1.1 200 OK\r\nconnection: close\r\nd: e\r\n\r\n");
    cr_assert_eq(reply.response.framing, PYL_HTTP1_UNTIL_CLOSE);
    cr_assert(!reply.response.is_keep_alive);
}

/* Goal: the application's length is kept, its transfer-encoding and connection are not. */
Test(http1_response, hop_by_hop_fields_are_ours)
{
    struct reply reply;
    static const struct field FIELDS[] = {{"content-length", "5"},
                                          {"transfer-encoding", "gzip"},
                                          {"Connection", "foo, CLOSE"},
                                          {NULL, NULL}};
    write_reply(&reply, 1, false, true, 200, FIELDS, -1);
    cr_assert_str_eq(reply.text,
                     "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\nd: e\r\n\r\n");
    cr_assert_eq(reply.response.remaining, 5);

    static const struct field KEEP[] = {{"connection", "keep-alive, disclosed"}, {NULL, NULL}};
    write_reply(&reply, 1, false, true, 200, KEEP, 0);
    cr_assert_str_eq(reply.text, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nd: e\r\n\r\n");
}

/* Goal: HEAD, 204 and 304 never announce or carry content they must not. */
Test(http1_response, bodiless_responses)
{
    struct reply reply;
    static const struct field LENGTH[] = {{"content-length", "5"}, {NULL, NULL}};
    write_reply(&reply, 1, true, true, 200, LENGTH, 0);
    cr_assert_str_eq(reply.text, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nd: e\r\n\r\n");
    cr_assert_eq(reply.response.framing, PYL_HTTP1_NO_CONTENT);
    write_reply(&reply, 1, true, true, 200, NULL, 7);
    cr_assert_str_eq(reply.text, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nd: e\r\n\r\n");
    write_reply(&reply, 1, true, true, 200, NULL, 0);
    cr_assert_str_eq(reply.text, "HTTP/1.1 200 OK\r\nd: e\r\n\r\n");
    write_reply(&reply, 1, false, true, 204, LENGTH, 5);
    cr_assert_str_eq(reply.text, "HTTP/1.1 204 No Content\r\nd: e\r\n\r\n");
    write_reply(&reply, 1, false, true, 304, LENGTH, 0);
    cr_assert_str_eq(reply.text, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\nd: e\r\n\r\n");
    write_reply(&reply, 1, false, true, 304, NULL, 0);
    cr_assert_str_eq(reply.text, "HTTP/1.1 304 Not Modified\r\nd: e\r\n\r\n");
}

/* Goal: a field of the application is one line, or refused. */
Test(http1_response, refuses_header_injection)
{
    static const struct field BAD[] = {
        {"", "x"},
        {"a b", "x"},
        {"a:", "x"},
        {"a\r\nb", "x"},
        {"a", "x\r\ny"},
        {"a", "x\ny"},
        {"a", "\rx"},
        {"a", "0123456\n"},
        {"a", "01234567\x7f"},
        {"a", "\x01"},
        {"a", "\t0123456\x1f"},
        {"\xe9", "x"},
        {"content-length", "-1"},
        {"content-length", ""},
        {"content-length", "1x"},
        {"content-length", "99999999999999999999"},
    };
    struct reply reply;
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        struct field fields[2] = {BAD[i], {NULL, NULL}};
        write_reply(&reply, 1, false, true, 200, fields, 0);
        cr_assert_not_null(reply.error, "field %zu was accepted: %s", i, reply.text);
    }
    static const struct field TWICE[] = {
        {"content-length", "1"}, {"content-length", "1"}, {NULL, NULL}};
    write_reply(&reply, 1, false, true, 200, TWICE, -1);
    cr_assert_str_eq(reply.error, "Repeated content-length");

    static const struct field GOOD[] = {
        {"X-A", "\xe9 \t~0123456789\x80\xff"}, {"b", ""}, {NULL, NULL}};
    write_reply(&reply, 1, false, true, 200, GOOD, 0);
    cr_assert_str_eq(reply.text, "HTTP/1.1 200 OK\r\nx-a: \xe9 \t~0123456789\x80\xff\r\nb: \r\n"
                                 "content-length: 0\r\nd: e\r\n\r\n");
}

/* Goal: a NUL inside a value is seen although the tests above cannot spell it. */
Test(http1_response, refuses_nul_in_value)
{
    struct pyl_http1_response response;
    uint8_t out[64];
    const char *error = NULL;
    pyl_http1_response_begin(&response, 1, false, true);
    for (size_t at = 0; at < 20; at++) {
        uint8_t value[20];
        memset(value, 'x', sizeof(value));
        value[at] = 0;
        cr_assert_null(pyl_http1_response_field(&response, (const uint8_t *)"a", 1, value,
                                                sizeof(value), out, &error));
    }
}

/* Goal: only final statuses start a response; unknown ones have an empty phrase. */
Test(http1_response, status_range)
{
    struct pyl_http1_response response;
    uint8_t out[PYL_HTTP1_STATUS_LINE_MAX + 1];
    static const int64_t BAD[] = {-1, 0, 99, 100, 101, 199, 1000, INT64_MAX};
    pyl_http1_response_begin(&response, 1, false, true);
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        cr_assert_null(pyl_http1_response_status(&response, BAD[i], out));
    }
    uint8_t *end = pyl_http1_response_status(&response, 299, out);
    *end = '\0';
    cr_assert_str_eq((char *)out, "HTTP/1.1 299 \r\n");
    for (unsigned status = 200; status < 1000; status++) {
        end = pyl_http1_response_status(&response, status, out);
        cr_assert(end <= out + PYL_HTTP1_STATUS_LINE_MAX);
    }
}

Test(http1_response, chunk_heads)
{
    static const struct {
        size_t size;
        const char *text;
    } ROWS[] = {{0, "0\r\n"},
                {1, "1\r\n"},
                {15, "f\r\n"},
                {16, "10\r\n"},
                {0xabcdef, "abcdef\r\n"},
                {SIZE_MAX, "ffffffffffffffff\r\n"}};
    for (size_t i = 0; i < sizeof(ROWS) / sizeof(ROWS[0]); i++) {
        uint8_t out[PYL_HTTP1_CHUNK_HEAD_MAX + 1];
        *pyl_http1_write_chunk_head(out, ROWS[i].size) = '\0';
        cr_assert_str_eq((char *)out, ROWS[i].text);
    }
}

/* Goal: an error answer is complete, closes, and fits its bound even with a long text. */
Test(http1_response, error_answers)
{
    char out[PYL_HTTP1_ERROR_MAX + 1];
    *pyl_http1_write_error((uint8_t *)out, 400, "Bad", false, NULL, 0) = '\0';
    cr_assert_str_eq(out, "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
                          "content-length: 3\r\nconnection: close\r\n\r\nBad");
    *pyl_http1_write_error((uint8_t *)out, 400, "Bad", true, NULL, 0) = '\0';
    cr_assert(strstr(out, "\r\n\r\n")[4] == '\0');
    char text[1000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    uint8_t *end = pyl_http1_write_error((uint8_t *)out, 431, text, false, NULL, 0);
    cr_assert(end <= (uint8_t *)out + PYL_HTTP1_ERROR_MAX);
}
