/*
 * http1_check.c - the rules for a request head that llhttp leaves to its user.
 *
 * A rule is here because a proxy in front of us may read the same bytes in another way, or because
 * the application must never see the result.
 */
#include "proto/http1_check.h"

#include <string.h>
#include <strings.h>

static const struct pyl_http1_verdict FINE = {0, NULL};

enum { IS_TOKEN = 1, IS_HOST = 2, IS_HEX = 4, IS_DIGIT = 8, IS_TARGET = 16 };

/* One row per 16 characters; RFC 9110 5.6.2 (token), RFC 3986 (reg-name without ',', which joins
 * duplicated fields), and for targets everything printable but '#'. */
#define T IS_TOKEN
#define H IS_HOST
#define X IS_HEX
#define D IS_DIGIT
#define G IS_TARGET
static const uint8_t CLASS[256] = {
    [0x21] = T | H | G,
    ['"'] = G,
    ['#'] = T,
    ['$'] = T | H | G,
    ['%'] = T | H | G,
    ['&'] = T | H | G,
    ['\''] = T | H | G,
    ['('] = H | G,
    [')'] = H | G,
    ['*'] = T | H | G,
    ['+'] = T | H | G,
    [','] = G,
    ['-'] = T | H | G,
    ['.'] = T | H | G,
    ['/'] = G,
    ['0'] = T | H | X | D | G,
    ['1'] = T | H | X | D | G,
    ['2'] = T | H | X | D | G,
    ['3'] = T | H | X | D | G,
    ['4'] = T | H | X | D | G,
    ['5'] = T | H | X | D | G,
    ['6'] = T | H | X | D | G,
    ['7'] = T | H | X | D | G,
    ['8'] = T | H | X | D | G,
    ['9'] = T | H | X | D | G,
    [':'] = G,
    [';'] = H | G,
    ['<'] = G,
    ['='] = H | G,
    ['>'] = G,
    ['?'] = G,
    ['@'] = G,
    ['A'] = T | H | X | G,
    ['B'] = T | H | X | G,
    ['C'] = T | H | X | G,
    ['D'] = T | H | X | G,
    ['E'] = T | H | X | G,
    ['F'] = T | H | X | G,
    ['G'] = T | H | G,
    ['H'] = T | H | G,
    ['I'] = T | H | G,
    ['J'] = T | H | G,
    ['K'] = T | H | G,
    ['L'] = T | H | G,
    ['M'] = T | H | G,
    ['N'] = T | H | G,
    ['O'] = T | H | G,
    ['P'] = T | H | G,
    ['Q'] = T | H | G,
    ['R'] = T | H | G,
    ['S'] = T | H | G,
    ['T'] = T | H | G,
    ['U'] = T | H | G,
    ['V'] = T | H | G,
    ['W'] = T | H | G,
    ['X'] = T | H | G,
    ['Y'] = T | H | G,
    ['Z'] = T | H | G,
    ['['] = G,
    ['\\'] = G,
    [']'] = G,
    ['^'] = T | G,
    ['_'] = T | H | G,
    ['`'] = T | G,
    ['a'] = T | H | X | G,
    ['b'] = T | H | X | G,
    ['c'] = T | H | X | G,
    ['d'] = T | H | X | G,
    ['e'] = T | H | X | G,
    ['f'] = T | H | X | G,
    ['g'] = T | H | G,
    ['h'] = T | H | G,
    ['i'] = T | H | G,
    ['j'] = T | H | G,
    ['k'] = T | H | G,
    ['l'] = T | H | G,
    ['m'] = T | H | G,
    ['n'] = T | H | G,
    ['o'] = T | H | G,
    ['p'] = T | H | G,
    ['q'] = T | H | G,
    ['r'] = T | H | G,
    ['s'] = T | H | G,
    ['t'] = T | H | G,
    ['u'] = T | H | G,
    ['v'] = T | H | G,
    ['w'] = T | H | G,
    ['x'] = T | H | G,
    ['y'] = T | H | G,
    ['z'] = T | H | G,
    ['{'] = G,
    ['|'] = T | G,
    ['}'] = G,
    ['~'] = T | H | G,
};
#undef T
#undef H
#undef X
#undef D
#undef G

static bool
is_class(const uint8_t *data, size_t size, uint8_t wanted)
{
    for (size_t i = 0; i < size; i++) {
        if ((CLASS[data[i]] & wanted) == 0) {
            return false;
        }
    }
    return true;
}

bool
pyl_http1_is_token(const uint8_t *data, size_t size)
{
    return size > 0 && is_class(data, size, IS_TOKEN);
}

bool
pyl_http1_equals(const uint8_t *data, size_t size, const char *lower)
{
    return strlen(lower) == size && strncasecmp((const char *)data, lower, size) == 0;
}

/* "[" hexadecimal digits, ":" and "." "]" with an optional ":" port. The address itself is not
 * resolved by us, so its groups are not counted. */
static bool
is_bracketed_host(const uint8_t *data, size_t size, size_t *ret_host_size)
{
    size_t colons = 0;
    for (size_t i = 1; i < size; i++) {
        if (data[i] == ']') {
            *ret_host_size = i + 1;
            return colons >= 2;
        }
        if (data[i] == ':') {
            colons++;
        } else if ((CLASS[data[i]] & IS_HEX) == 0 && data[i] != '.') {
            return false;
        }
    }
    return false;
}

static bool
is_port(const uint8_t *data, size_t size)
{
    uint32_t port = 0;
    for (size_t i = 0; i < size; i++) {
        if ((CLASS[data[i]] & IS_DIGIT) == 0) {
            return false;
        }
        port = port * 10 + (uint32_t)(data[i] - '0');
        if (port > 65535) {
            return false;
        }
    }
    return true;
}

static bool
is_percent_encoding_valid(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (data[i] == '%' && (size - i < 3 || (CLASS[data[i + 1]] & IS_HEX) == 0 ||
                               (CLASS[data[i + 2]] & IS_HEX) == 0)) {
            return false;
        }
    }
    return true;
}

bool
pyl_http1_is_host(const uint8_t *data, size_t size)
{
    size_t host_size = 0;
    if (size == 0) {
        return false;
    }
    if (data[0] == '[') {
        if (!is_bracketed_host(data, size, &host_size)) {
            return false;
        }
    } else {
        const uint8_t *colon = memchr(data, ':', size);
        host_size = colon != NULL ? (size_t)(colon - data) : size;
        if (host_size == 0 || !is_class(data, host_size, IS_HOST) ||
            !is_percent_encoding_valid(data, host_size)) {
            return false;
        }
    }
    if (host_size == size) {
        return true;
    }
    return data[host_size] == ':' && is_port(data + host_size + 1, size - host_size - 1);
}

bool
pyl_http1_is_forbidden_trailer(const char *name, size_t size)
{
    static const char *const FORBIDDEN[] = {
        "authorization",  "cache-control",
        "connection",     "content-encoding",
        "content-length", "content-range",
        "content-type",   "cookie",
        "expect",         "host",
        "keep-alive",     "max-forwards",
        "range",          "te",
        "trailer",        "transfer-encoding",
        "upgrade",
    };
    for (size_t i = 0; i < sizeof(FORBIDDEN) / sizeof(FORBIDDEN[0]); i++) {
        if (pyl_http1_equals((const uint8_t *)name, size, FORBIDDEN[i])) {
            return true;
        }
    }
    return false;
}

static struct pyl_http1_verdict
bad_request(const char *reason)
{
    return (struct pyl_http1_verdict){400, reason};
}

/* Removes a ":" port that is the default one of http or https, or empty, so that two spellings of
 * one authority compare equal. */
static size_t
authority_size_without_default_port(const uint8_t *data, size_t size, const char *default_port)
{
    size_t host_size = 0;
    if (data[0] == '[') {
        if (!is_bracketed_host(data, size, &host_size)) {
            return size;
        }
    } else {
        const uint8_t *colon = memchr(data, ':', size);
        host_size = colon != NULL ? (size_t)(colon - data) : size;
    }
    if (host_size == size) {
        return size;
    }
    const uint8_t *port = data + host_size + 1;
    size_t port_size = size - host_size - 1;
    bool is_default = port_size == 0 || pyl_http1_equals(port, port_size, default_port);
    return is_default ? host_size : size;
}

/* Absolute form: the authority must name the same host as the Host field. RFC 9112 3.2.2 lets the
 * target win; applications see the field, so a difference is refused instead. */
static struct pyl_http1_verdict
check_absolute_target(struct pyl_http1_head *head, const struct pyl_http1_field *host)
{
    const uint8_t *target = pyl_http1_bytes(head, head->target);
    size_t size = head->target.size;
    const char *default_port = "80";
    size_t start = 0;

    if (size > 7 && strncasecmp((const char *)target, "http://", 7) == 0) {
        start = 7;
    } else if (size > 8 && strncasecmp((const char *)target, "https://", 8) == 0) {
        start = 8;
        default_port = "443";
    } else {
        return bad_request("Invalid request target");
    }
    size_t end = start;
    while (end < size && target[end] != '/' && target[end] != '?') {
        end++;
    }
    if (!pyl_http1_is_host(target + start, end - start)) {
        return bad_request("Invalid request target");
    }
    if (host != NULL) {
        const uint8_t *value = pyl_http1_bytes(head, host->value);
        size_t authority_size =
            authority_size_without_default_port(target + start, end - start, default_port);
        size_t host_size =
            authority_size_without_default_port(value, host->value.size, default_port);
        if (authority_size != host_size ||
            strncasecmp((const char *)target + start, (const char *)value, host_size) != 0) {
            return bad_request("Host does not match the request target");
        }
    }
    head->path.start = head->target.start + (uint32_t)end;
    head->path.size = (uint32_t)(size - end);
    return FINE;
}

static struct pyl_http1_verdict
check_target(struct pyl_http1_head *head, const struct pyl_http1_field *host)
{
    const uint8_t *target = pyl_http1_bytes(head, head->target);

    if (!is_class(target, head->target.size, IS_TARGET)) {
        return bad_request("Invalid character in request target");
    }
    if (head->method == HTTP_CONNECT) {
        /* Authority form is syntactically right here, and tunnels are not our business. */
        return (struct pyl_http1_verdict){501, "CONNECT is not implemented"};
    }
    if (head->target.size == 0) {
        return bad_request("Invalid request target");
    }
    if (target[0] == '/') {
        head->path = head->target;
    } else if (target[0] == '*') {
        if (head->target.size != 1 || head->method != HTTP_OPTIONS) {
            return bad_request("Invalid request target");
        }
        head->path = head->target;
    } else {
        struct pyl_http1_verdict verdict = check_absolute_target(head, host);
        if (verdict.status != 0) {
            return verdict;
        }
    }
    const uint8_t *path = pyl_http1_bytes(head, head->path);
    const uint8_t *mark = memchr(path, '?', head->path.size);
    if (mark != NULL) {
        uint32_t path_size = (uint32_t)(mark - path);
        head->query.start = head->path.start + path_size + 1;
        head->query.size = head->path.size - path_size - 1;
        head->path.size = path_size;
    }
    return FINE;
}

/* llhttp has refused Content-Length beside it and a coding behind "chunked", and tells by
 * is_chunked whether that is the last one. */
static struct pyl_http1_verdict
check_transfer_encoding(const struct pyl_http1_head *head, const struct pyl_http1_field *coding,
                        bool is_repeated)
{
    if (head->minor_version == 0) {
        return bad_request("Transfer-Encoding in an HTTP/1.0 request");
    }
    if (is_repeated) {
        return bad_request("Repeated Transfer-Encoding");
    }
    if (!head->is_chunked) {
        return bad_request("Transfer-Encoding does not end in chunked");
    }
    const uint8_t *value = pyl_http1_bytes(head, coding->value);
    if (pyl_http1_equals(value, coding->value.size, "chunked")) {
        return FINE;
    }
    return (struct pyl_http1_verdict){501, "Transfer-Encoding is not implemented"};
}

static struct pyl_http1_verdict
check_host(const struct pyl_http1_head *head, const struct pyl_http1_field *host, bool is_repeated,
           struct pyl_http1_shared *shared)
{
    if (host == NULL) {
        return head->minor_version == 0 ? FINE : bad_request("Missing Host");
    }
    if (is_repeated) {
        return bad_request("Repeated Host");
    }
    const uint8_t *value = pyl_http1_bytes(head, host->value);
    size_t size = host->value.size;
    if (size > 0 && size == shared->good_host_size && memcmp(value, shared->good_host, size) == 0) {
        return FINE;
    }
    if (!pyl_http1_is_host(value, size)) {
        return bad_request("Invalid Host");
    }
    if (size <= sizeof(shared->good_host)) {
        memcpy(shared->good_host, value, size);
        shared->good_host_size = (uint8_t)size;
    }
    return FINE;
}

/* llhttp allows more than one space around the target; RFC 9112 3 does not. */
static bool
is_line_strict(const struct pyl_http1_head *head)
{
    const uint8_t *line = head->base;
    uint32_t start = 0;
    while (line[start] == '\r' || line[start] == '\n') {
        start++;
    }
    start += (uint32_t)strlen(pyl_http1_method_name(head->method)) + 1;
    return head->target.start == start &&
           memcmp(line + start + head->target.size, " HTTP/1.", 8) == 0;
}

struct pyl_http1_verdict
pyl_http1_check_head(struct pyl_http1_head *head, struct pyl_http1_shared *shared)
{
    const struct pyl_http1_field *host = NULL;
    const struct pyl_http1_field *coding = NULL;
    bool is_host_repeated = false;
    bool is_coding_repeated = false;

    if (!is_line_strict(head)) {
        return bad_request("Invalid request line");
    }
    for (uint32_t i = 0; i < head->field_count; i++) {
        const struct pyl_http1_field *field = &head->fields[i];
        const uint8_t *name = pyl_http1_bytes(head, field->name);
        if (field->name.size == 4 && pyl_http1_equals(name, 4, "host")) {
            is_host_repeated = host != NULL;
            host = field;
        } else if (field->name.size == 6 && pyl_http1_equals(name, 6, "expect")) {
            head->is_continue_expected =
                head->minor_version == 1 && pyl_http1_equals(pyl_http1_bytes(head, field->value),
                                                             field->value.size, "100-continue");
        } else if (field->name.size == 17 && pyl_http1_equals(name, 17, "transfer-encoding")) {
            is_coding_repeated = coding != NULL;
            coding = field;
        }
    }
    struct pyl_http1_verdict verdict = check_host(head, host, is_host_repeated, shared);
    if (verdict.status == 0) {
        verdict = check_target(head, host);
    }
    if (verdict.status == 0 && coding != NULL) {
        verdict = check_transfer_encoding(head, coding, is_coding_repeated);
    }
    if (verdict.status == 0 && shared->limits.body_size_max != 0 &&
        head->content_length > shared->limits.body_size_max) {
        verdict = (struct pyl_http1_verdict){413, "Content is too large"};
    }
    return verdict;
}
