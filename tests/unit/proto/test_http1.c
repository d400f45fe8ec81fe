/*
 * test_http1.c - request parsing: what is accepted and how it is read, what is refused and with
 * which status, and that neither depends on where the stream is cut.
 */
#include "http1_events.h"

#include <criterion/criterion.h>

#define HOST "Host: a\r\n"

struct vector {
    const char *name;
    const char *input;
    const char *events;
};

static char *
events_of(const uint8_t *data, size_t size, const size_t *cuts, size_t cut_count,
          const struct pyl_http1_limits *limits)
{
    struct pyl_http1_shared shared;
    struct pyl_http1 parser;
    struct http1_log log = {0};
    size_t start = 0;

    pyl_http1_shared_init(&shared, limits);
    pyl_http1_init(&parser, &shared);
    http1_log_bytes(&log, "", 0);
    for (size_t i = 0; i < cut_count; i++) {
        http1_feed(&parser, &log, data + start, cuts[i] - start);
        start = cuts[i];
    }
    http1_feed(&parser, &log, data + start, size - start);
    http1_log_end_body(&log);
    pyl_http1_fini(&parser);
    pyl_http1_shared_fini(&shared);
    return log.text;
}

/* The events of the whole stream are the expected ones, and cutting it changes nothing. */
static void
check_stream(const char *name, const char *input, size_t size, const char *expected,
             const struct pyl_http1_limits *limits)
{
    const uint8_t *data = (const uint8_t *)input;
    char *whole = events_of(data, size, NULL, 0, limits);
    cr_assert_str_eq(whole, expected, "%s:\n%s\nexpected:\n%s", name, whole, expected);

    for (size_t cut = 1; cut < size; cut++) {
        char *cut_once = events_of(data, size, &cut, 1, limits);
        cr_assert_str_eq(cut_once, expected, "%s cut at %zu:\n%s", name, cut, cut_once);
        free(cut_once);
    }
    size_t *every = malloc(size * sizeof(*every));
    cr_assert(every != NULL);
    for (size_t i = 1; i < size; i++) {
        every[i - 1] = i;
    }
    char *bytewise = events_of(data, size, every, size > 0 ? size - 1 : 0, limits);
    cr_assert_str_eq(bytewise, expected, "%s byte by byte:\n%s", name, bytewise);
    free(every);
    free(bytewise);
    free(whole);
}

static void
check_vectors(const struct vector *vectors, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        check_stream(vectors[i].name, vectors[i].input, strlen(vectors[i].input), vectors[i].events,
                     NULL);
    }
}

#define CHECK_VECTORS(vectors) check_vectors(vectors, sizeof(vectors) / sizeof((vectors)[0]))

/* Goal: well-formed requests are read as RFC 9112 says. */
Test(http1, reads_well_formed_requests)
{
    static const struct vector VECTORS[] = {
        {"plain", "GET / HTTP/1.1\r\n" HOST "\r\n", "GET /? 1.1|Host=a\nend\n"},
        {"query", "GET /a/b?c=d?e HTTP/1.1\r\n" HOST "\r\n", "GET /a/b?c=d?e 1.1|Host=a\nend\n"},
        {"fields",
         "GET / HTTP/1.1\r\n" HOST "X-A:1\r\nX-B: \t 2 3 \t \r\nx-empty:\r\nX-C: \xe9\r\n\r\n",
         "GET /? 1.1|Host=a|X-A=1|X-B=2 3|x-empty=|X-C=\xe9\nend\n"},
        {"last field empty", "GET / HTTP/1.1\r\n" HOST "x:   \r\n\r\n",
         "GET /? 1.1|Host=a|x=\nend\n"},
        {"repeated field", "GET / HTTP/1.1\r\n" HOST "a: 1\r\na: 2\r\n\r\n",
         "GET /? 1.1|Host=a|a=1|a=2\nend\n"},
        {"empty lines first", "\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", "GET /? 1.1|Host=a\nend\n"},
        {"1.0", "GET / HTTP/1.0\r\n\r\n", "GET /? 1.0 close\nend\n"},
        {"1.0 keep-alive",
         "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n",
         "GET /? 1.0|Connection=keep-alive\nend\nGET /b? 1.0 close\nend\n"},
        {"close", "GET / HTTP/1.1\r\n" HOST "Connection: x, Close\r\n\r\n",
         "GET /? 1.1 close|Host=a|Connection=x, Close\nend\n"},
        {"length", "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello",
         "POST /? 1.1 5|Host=a|Content-Length=5\n+hello\nend\n"},
        {"length 0", "POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n",
         "POST /? 1.1 0|Host=a|Content-Length=0\nend\n"},
        {"chunked",
         "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\n\r\n"
         "5\r\nhello\r\n0A;x=y;z=\"q\"\r\n, world...\r\n0\r\n\r\n",
         "POST /? 1.1 chunked|Host=a|Transfer-Encoding=Chunked\n+hello, world...\nend\n"},
        {"trailers dropped",
         "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
         "1\r\na\r\n0\r\nX-Sum: 1\r\nX-Two: 2\r\n\r\nGET /b HTTP/1.1\r\n" HOST "\r\n",
         "POST /? 1.1 chunked|Host=a|Transfer-Encoding=chunked\n+a\nend\n"
         "GET /b? 1.1|Host=a\nend\n"},
        {"pipelined",
         "GET /a HTTP/1.1\r\n" HOST "\r\nPOST /b HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nhi"
         "GET /c HTTP/1.1\r\n" HOST "\r\n",
         "GET /a? 1.1|Host=a\nend\nPOST /b? 1.1 2|Host=a|Content-Length=2\n+hi\nend\n"
         "GET /c? 1.1|Host=a\nend\n"},
        {"bytes after close are dropped",
         "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\nGET /b HTTP/1.1\r\n" HOST "\r\n",
         "GET /? 1.1 close|Host=a|Connection=close\nend\n"},
        {"expect", "PUT / HTTP/1.1\r\n" HOST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
         "PUT /? 1.1 expect 1|Host=a|Expect=100-Continue|Content-Length=1\n+x\nend\n"},
        {"expect in 1.0 is ignored", "PUT / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n",
         "PUT /? 1.0 close|Expect=100-continue\nend\n"},
        {"upgrade is ignored",
         "GET / HTTP/1.1\r\n" HOST "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
         "GET /b HTTP/1.1\r\n" HOST "\r\n",
         "GET /? 1.1|Host=a|Connection=Upgrade|Upgrade=websocket\nend\nGET /b? 1.1|Host=a\nend\n"},
        {"upgrade with content",
         "POST / HTTP/1.1\r\n" HOST
         "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n"
         "abcGET /b HTTP/1.1\r\n" HOST "\r\n",
         "POST /? 1.1 3|Host=a|Connection=Upgrade|Upgrade=h2c|Content-Length=3\n+abc\nend\n"
         "GET /b? 1.1|Host=a\nend\n"},
        {"asterisk", "OPTIONS * HTTP/1.1\r\n" HOST "\r\n", "OPTIONS *? 1.1|Host=a\nend\n"},
        {"absolute", "GET http://A:80/x?y HTTP/1.1\r\n" HOST "\r\n", "GET /x?y 1.1|Host=a\nend\n"},
        {"absolute without path", "GET http://a?y HTTP/1.1\r\n" HOST "\r\n",
         "GET ?y 1.1|Host=a\nend\n"},
        {"query method", "QUERY /q HTTP/1.1\r\n" HOST "\r\n", "QUERY /q? 1.1|Host=a\nend\n"},
        {"odd but legal hosts", "GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n",
         "GET /? 1.1|Host=[::1]:8000\nend\n"},
    };
    CHECK_VECTORS(VECTORS);
}

/* Goal: whatever two parsers could frame differently is refused. */
Test(http1, refuses_smuggling)
{
#define POST "POST / HTTP/1.1\r\n" HOST
#define TE POST "Transfer-Encoding: chunked\r\n"
#define TE_HEAD "POST /? 1.1 chunked|Host=a|Transfer-Encoding=chunked\n"
    static const struct vector VECTORS[] = {
        {"length then coding", POST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
         "400 llhttp\n"},
        {"coding then length", TE "Content-Length: 4\r\n\r\n", "400 llhttp\n"},
        {"two lengths", POST "Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", "400 llhttp\n"},
        {"length list", POST "Content-Length: 4, 4\r\n\r\nabcd", "400 llhttp\n"},
        {"length plus", POST "Content-Length: +4\r\n\r\nabcd", "400 llhttp\n"},
        {"length minus", POST "Content-Length: -4\r\n\r\nabcd", "400 llhttp\n"},
        {"length hex", POST "Content-Length: 0x4\r\n\r\nabcd", "400 llhttp\n"},
        {"length empty", POST "Content-Length: \r\n\r\n", "400 llhttp\n"},
        {"length overflow", POST "Content-Length: 99999999999999999999\r\n\r\n", "400 llhttp\n"},
        {"coding not final", POST "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
         "400 llhttp\n"},
        {"coding unknown", POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
         "501 Transfer-Encoding is not implemented\n"},
        {"coding twice", POST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
         "400 llhttp\n"},
        {"coding fields twice", TE "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 llhttp\n"},
        {"coding identity", POST "Transfer-Encoding: identity\r\n\r\n",
         "400 Transfer-Encoding does not end in chunked\n"},
        {"coding with vertical tab",
         POST "Transfer-Encoding: \x0b"
              "chunked\r\n\r\n0\r\n\r\n",
         "400 llhttp\n"},
        {"coding in 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         "400 Transfer-Encoding in an HTTP/1.0 request\n"},
        {"bare LF after the line", "GET / HTTP/1.1\nHost: a\r\n\r\n", "400 llhttp\n"},
        {"bare LF after a field", "GET / HTTP/1.1\r\nHost: a\n\r\n", "400 llhttp\n"},
        {"bare LF ends the head", "GET / HTTP/1.1\r\n" HOST "\n", "400 llhttp\n"},
        {"bare CR in a value", "GET / HTTP/1.1\r\n" HOST "a: b\rc\r\n\r\n", "400 llhttp\n"},
        {"obsolete folding", "GET / HTTP/1.1\r\n" HOST "a: b\r\n c\r\n\r\n", "400 llhttp\n"},
        {"space before colon", "GET / HTTP/1.1\r\n" HOST "a : b\r\n\r\n", "400 llhttp\n"},
        {"space before first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400 llhttp\n"},
        {"no colon", "GET / HTTP/1.1\r\n" HOST "abc\r\n\r\n", "400 llhttp\n"},
        {"empty name", "GET / HTTP/1.1\r\n" HOST ": x\r\n\r\n", "400 llhttp\n"},
        {"chunk size empty", TE "\r\n\r\n", TE_HEAD "400 llhttp\n"},
        {"chunk size prefix", TE "\r\n0x1\r\na\r\n", TE_HEAD "400 llhttp\n"},
        {"chunk size minus", TE "\r\n-1\r\n", TE_HEAD "400 llhttp\n"},
        {"chunk size space", TE "\r\n1 \r\na\r\n", TE_HEAD "400 llhttp\n"},
        {"chunk size overflow", TE "\r\nfffffffffffffffff\r\n", TE_HEAD "400 llhttp\n"},
        {"chunk bare LF", TE "\r\n1\na\r\n0\r\n\r\n", TE_HEAD "400 llhttp\n"},
        {"chunk without CRLF", TE "\r\n1\r\nab0\r\n\r\n", TE_HEAD "+a\n400 llhttp\n"},
        {"chunk extension bare LF", TE "\r\n1;a\nGET / HTTP/1.1\r\n", TE_HEAD "400 llhttp\n"},
        {"trailer frames", TE "\r\n0\r\nContent-Length: 1\r\n\r\n", TE_HEAD "400 llhttp\n"},
        {"trailer routes", TE "\r\n0\r\nx: y\r\nHOST: b\r\n\r\n",
         TE_HEAD "400 Forbidden trailer field\n"},
    };
    CHECK_VECTORS(VECTORS);
}

/* Goal: Host and target name one origin, or the request is refused. */
Test(http1, refuses_bad_hosts_and_targets)
{
    static const struct vector VECTORS[] = {
        {"no host", "GET / HTTP/1.1\r\n\r\n", "400 Missing Host\n"},
        {"two hosts", "GET / HTTP/1.1\r\n" HOST HOST "\r\n", "400 Repeated Host\n"},
        {"two hosts in 1.0", "GET / HTTP/1.0\r\n" HOST HOST "\r\n", "400 Repeated Host\n"},
        {"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "400 Invalid Host\n"},
        {"host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400 Invalid Host\n"},
        {"host with user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400 Invalid Host\n"},
        {"host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "400 Invalid Host\n"},
        {"host port", "GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n", "400 Invalid Host\n"},
        {"host port range", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "400 Invalid Host\n"},
        {"host bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400 Invalid Host\n"},
        {"host bad escape", "GET / HTTP/1.1\r\nHost: a%2\r\n\r\n", "400 Invalid Host\n"},
        {"target and host differ", "GET http://b/ HTTP/1.1\r\n" HOST "\r\n",
         "400 Host does not match the request target\n"},
        {"target with user", "GET http://u@a/ HTTP/1.1\r\n" HOST "\r\n",
         "400 Invalid request target\n"},
        {"target of another scheme", "GET ftp://a/ HTTP/1.1\r\n" HOST "\r\n",
         "400 Invalid request target\n"},
        {"target without host", "GET http:/// HTTP/1.1\r\n" HOST "\r\n",
         "400 Invalid request target\n"},
        {"relative target", "GET a/b HTTP/1.1\r\n" HOST "\r\n", "400 llhttp\n"},
        {"fragment", "GET /a#b HTTP/1.1\r\n" HOST "\r\n",
         "400 Invalid character in request target\n"},
        {"asterisk for GET", "GET * HTTP/1.1\r\n" HOST "\r\n", "400 Invalid request target\n"},
        {"asterisk and more", "OPTIONS *a HTTP/1.1\r\n" HOST "\r\n",
         "400 Invalid request target\n"},
        {"connect", "CONNECT a:443 HTTP/1.1\r\n" HOST "\r\n", "501 CONNECT is not implemented\n"},
        {"raw utf-8", "GET /\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n", "400 llhttp\n"},
        {"control character", "GET /\x01 HTTP/1.1\r\n" HOST "\r\n", "400 llhttp\n"},
        {"tab in target", "GET /\t HTTP/1.1\r\n" HOST "\r\n", "400 llhttp\n"},
    };
    CHECK_VECTORS(VECTORS);
}

/* Goal: methods, versions and protocols that are not ours get the status that says so. */
Test(http1, answers_foreign_protocols)
{
    static const struct vector VECTORS[] = {
        {"unknown method", "FOO / HTTP/1.1\r\n" HOST "\r\n", "501 Invalid method\n"},
        {"method in lower case", "get / HTTP/1.1\r\n" HOST "\r\n", "501 Invalid method\n"},
        {"method prefix", "GETX / HTTP/1.1\r\n" HOST "\r\n", "501 Invalid method\n"},
        {"method after empty line", "\r\nFOO / HTTP/1.1\r\n", "501 Invalid method\n"},
        {"noise", "\x16\x03\x01\x02", "400 Invalid method\n"},
        {"noise in method", "GE\x01T / HTTP/1.1\r\n" HOST "\r\n", "400 Invalid method\n"},
        {"space first", " GET / HTTP/1.1\r\n", "400 Invalid method\n"},
        {"0.9", "GET /\r\n\r\n", "505 HTTP/0.9 is not supported\n"},
        {"0.9 spelled out", "GET / HTTP/0.9\r\n\r\n", "505 HTTP version is not supported\n"},
        {"1.2", "GET / HTTP/1.2\r\n" HOST "\r\n", "505 HTTP version is not supported\n"},
        {"2.0", "GET / HTTP/2.0\r\n" HOST "\r\n", "505 HTTP version is not supported\n"},
        {"9.9", "GET / HTTP/9.9\r\n" HOST "\r\n", "505 HTTP version is not supported\n"},
        {"version noise", "GET / HTTP/x.1\r\n" HOST "\r\n", "400 llhttp\n"},
        {"version digits", "GET / HTTP/1.10\r\n" HOST "\r\n", "400 llhttp\n"},
        {"lower-case protocol", "GET / http/1.1\r\n" HOST "\r\n", "400 llhttp\n"},
        {"http/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 HTTP/2 is not supported\n"},
        {"rtsp method", "DESCRIBE / RTSP/1.0\r\n\r\n", "501 Method is not implemented\n"},
        {"rtsp protocol", "OPTIONS * RTSP/1.0\r\n\r\n", "505 Protocol is not supported\n"},
        {"ice protocol", "SOURCE / ICE/1.0\r\n\r\n", "505 Protocol is not supported\n"},
        {"double space", "GET  / HTTP/1.1\r\n" HOST "\r\n", "400 Invalid request line\n"},
        {"double space behind", "GET /  HTTP/1.1\r\n" HOST "\r\n", "400 Invalid request line\n"},
        {"tab", "GET\t/ HTTP/1.1\r\n" HOST "\r\n", "400 Invalid method\n"},
    };
    CHECK_VECTORS(VECTORS);
}

/* Goal: a NUL byte never gets through, wherever it stands. */
Test(http1, refuses_nul_bytes)
{
    static const char TEXT[] = "GET /a HTTP/1.1\r\nHost: a\r\nx-y: z w\r\n\r\n";
    size_t size = sizeof(TEXT) - 1;
    for (size_t i = 0; i < size; i++) {
        uint8_t data[sizeof(TEXT)];
        memcpy(data, TEXT, size);
        data[i] = '\0';
        char *events = events_of(data, size, NULL, 0, NULL);
        cr_assert(strncmp(events, "400 ", 4) == 0, "NUL at %zu: %s", i, events);
        free(events);
    }
}

static const struct pyl_http1_limits SMALL = {
    .line_size_max = 32, .head_size_max = 64, .field_count_max = 3, .body_size_max = 8};

/* Goal: each limit has its status, at exactly its value, however the stream is cut. */
Test(http1, enforces_limits)
{
    static const struct vector VECTORS[] = {
        {"longest line", "GET /aaaaaaaaaaaaaaaaaa HTTP/1.1\r\n" HOST "\r\n",
         "GET /aaaaaaaaaaaaaaaaaa? 1.1|Host=a\nend\n"},
        {"line", "GET /aaaaaaaaaaaaaaaaaaa HTTP/1.1\r\n" HOST "\r\n",
         "414 Request line is too long\n"},
        {"line before noise", "GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x01",
         "414 Request line is too long\n"},
        {"noise before the line is too long",
         "GET /a\x01"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         "400 llhttp\n"},
        {"longest head", "GET / HTTP/1.1\r\n" HOST "x: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n",
         "GET /? 1.1|Host=a|x=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nend\n"},
        {"head", "GET / HTTP/1.1\r\n" HOST "x: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n",
         "431 Header fields are too large\n"},
        {"head before noise",
         "GET / HTTP/1.1\r\n" HOST "x: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x01",
         "431 Header fields are too large\n"},
        {"fields", "GET / HTTP/1.1\r\n" HOST "a:b\r\nc:d\r\n\r\n",
         "GET /? 1.1|Host=a|a=b|c=d\nend\n"},
        {"too many fields", "GET / HTTP/1.1\r\n" HOST "a:b\r\nc:d\r\ne:f\r\n\r\n",
         "431 Too many header fields\n"},
        {"content", "PUT / HTTP/1.1\r\n" HOST "Content-Length: 8\r\n\r\n12345678",
         "PUT /? 1.1 8|Host=a|Content-Length=8\n+12345678\nend\n"},
        {"content too large", "PUT / HTTP/1.1\r\n" HOST "Content-Length: 9\r\n\r\n12345678",
         "413 Content is too large\n"},
        {"chunks too large",
         "PUT / HTTP/1.1\r\n" HOST
         "Transfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n3\r\n789\r\n0\r\n\r\n",
         "PUT /? 1.1 chunked|Host=a|Transfer-Encoding=chunked\n+12345678\n413 Content is too "
         "large\n"},
    };
    for (size_t i = 0; i < sizeof(VECTORS) / sizeof(VECTORS[0]); i++) {
        check_stream(VECTORS[i].name, VECTORS[i].input, strlen(VECTORS[i].input), VECTORS[i].events,
                     &SMALL);
    }
}

/* A stream of the given prefix, `count` times `unit`, and suffix; cut into pieces of 1000 bytes or
 * not. */
static void
check_long_stream(const char *prefix, const char *unit, size_t count, const char *suffix,
                  const char *expected_end)
{
    size_t unit_size = strlen(unit);
    size_t size = strlen(prefix) + unit_size * count + strlen(suffix);
    char *text = malloc(size + 1);
    cr_assert(text != NULL);
    char *at = stpcpy(text, prefix);
    for (size_t i = 0; i < count; i++) {
        at = stpcpy(at, unit);
    }
    stpcpy(at, suffix);

    size_t cut_count = (size - 1) / 1000;
    size_t *cuts = malloc((cut_count + 1) * sizeof(*cuts));
    cr_assert(cuts != NULL);
    for (size_t i = 0; i < cut_count; i++) {
        cuts[i] = (i + 1) * 1000;
    }
    char *whole = events_of((const uint8_t *)text, size, NULL, 0, NULL);
    char *pieces = events_of((const uint8_t *)text, size, cuts, cut_count, NULL);
    cr_assert_str_eq(whole, pieces);
    size_t end_size = strlen(expected_end);
    cr_assert(strlen(whole) >= end_size &&
                  strcmp(whole + strlen(whole) - end_size, expected_end) == 0,
              "%.200s", whole);
    free(cuts);
    free(whole);
    free(pieces);
    free(text);
}

#define CHUNKED_HEAD "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"

/* Goal: the default limits hold at their documented sizes, and framing cannot grow without content.
 */
Test(http1, enforces_default_limits)
{
    check_long_stream("GET /", "a", 8192 - 5 - 9, " HTTP/1.1\r\n" HOST "\r\n", "end\n");
    check_long_stream("GET /", "a", 8193 - 5 - 9, " HTTP/1.1\r\n" HOST "\r\n",
                      "414 Request line is too long\n");
    check_long_stream("GET / HTTP/1.1\r\n" HOST, "abc: def\r\n", 99, "\r\n", "end\n");
    check_long_stream("GET / HTTP/1.1\r\n" HOST, "abc: def\r\n", 100, "\r\n",
                      "431 Too many header fields\n");
    check_long_stream("GET / HTTP/1.1\r\n" HOST "a: ", "x", 60000, "\r\n\r\n", "end\n");
    check_long_stream("GET / HTTP/1.1\r\n" HOST "a: ", "x", 66000, "\r\n\r\n",
                      "431 Header fields are too large\n");
    check_long_stream("", "\r\n", 40000, "GET / HTTP/1.1\r\n" HOST "\r\n",
                      "414 Request line is too long\n");
    check_long_stream(CHUNKED_HEAD "1;", "x", 8000, "\r\na\r\n0\r\n\r\n", "end\n");
    check_long_stream(CHUNKED_HEAD "1;", "x", 9000, "\r\na\r\n0\r\n\r\n",
                      "413 Chunk framing is too large\n");
    check_long_stream(CHUNKED_HEAD "0\r\n", "x: y\r\n", 1300, "\r\n", "end\n");
    check_long_stream(CHUNKED_HEAD "0\r\n", "x: y\r\n", 1400, "\r\n",
                      "413 Chunk framing is too large\n");
    check_long_stream(CHUNKED_HEAD, "1\r\na\r\n", 40000, "0\r\n\r\n", "end\n");
    check_long_stream(CHUNKED_HEAD, "1;abcdefghijklmnopqrstuvwxyz\r\na\r\n", 10000, "0\r\n\r\n",
                      "413 Chunk framing is too large\n");
}

/* Goal: between two requests a parser holds nothing, and an unfinished one gives back what it held.
 */
Test(http1, holds_a_head_only_during_a_request)
{
    static const char TEXT[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    struct pyl_http1_shared shared;
    struct pyl_http1 parser;
    struct pyl_http1_event event;

    pyl_http1_shared_init(&shared, NULL);
    pyl_http1_init(&parser, &shared);
    cr_assert(pyl_http1_is_between(&parser));
    pyl_http1_parse(&parser, (const uint8_t *)TEXT, sizeof(TEXT) - 1, &event);
    cr_assert_eq(event.flags, PYL_HTTP1_HEAD | PYL_HTTP1_COMPLETE);
    cr_assert(pyl_http1_is_between(&parser));
    pyl_http1_drop_head(&parser);
    cr_assert_null(parser.head);
    cr_assert_eq(shared.free_head_count, 1);

    pyl_http1_parse(&parser, (const uint8_t *)TEXT, 10, &event);
    cr_assert_eq(event.flags, 0);
    cr_assert(!pyl_http1_is_between(&parser));
    cr_assert_eq(shared.free_head_count, 0);
    pyl_http1_fini(&parser);
    cr_assert_eq(shared.free_head_count, 1);
    pyl_http1_shared_fini(&shared);
}

/* Goal: a failed parser stays failed and swallows whatever still comes. */
Test(http1, stays_failed)
{
    static const char TEXT[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    struct pyl_http1_shared shared;
    struct pyl_http1 parser;
    struct pyl_http1_event event;

    pyl_http1_shared_init(&shared, NULL);
    pyl_http1_init(&parser, &shared);
    pyl_http1_parse(&parser, (const uint8_t *)"\x01", 1, &event);
    cr_assert_eq(event.flags, PYL_HTTP1_ERROR);
    pyl_http1_drop_head(&parser);
    pyl_http1_parse(&parser, (const uint8_t *)TEXT, sizeof(TEXT) - 1, &event);
    cr_assert_eq(event.flags, 0);
    cr_assert_eq(event.consumed, sizeof(TEXT) - 1);
    pyl_http1_fini(&parser);
    pyl_http1_shared_fini(&shared);
}
