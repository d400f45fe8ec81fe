/*
 * http1_response.c - writes the head of an HTTP/1.x response and decides how its content is framed.
 *
 * Nothing an application passes can end a line early: names are tokens, values have no control
 * characters but the tab.
 */
#include "proto/http1_response.h"

#include "proto/http1_check.h"

#include <string.h>

/* RFC 9110 15, and what else IANA's registry has. */
static const char *const phrases[] = {
    [100] = "Continue",
    [200] = "OK",
    [201] = "Created",
    [202] = "Accepted",
    [203] = "Non-Authoritative Information",
    [204] = "No Content",
    [205] = "Reset Content",
    [206] = "Partial Content",
    [207] = "Multi-Status",
    [208] = "Already Reported",
    [226] = "IM Used",
    [300] = "Multiple Choices",
    [301] = "Moved Permanently",
    [302] = "Found",
    [303] = "See Other",
    [304] = "Not Modified",
    [305] = "Use Proxy",
    [307] = "Temporary Redirect",
    [308] = "Permanent Redirect",
    [400] = "Bad Request",
    [401] = "Unauthorized",
    [402] = "Payment Required",
    [403] = "Forbidden",
    [404] = "Not Found",
    [405] = "Method Not Allowed",
    [406] = "Not Acceptable",
    [407] = "Proxy Authentication Required",
    [408] = "Request Timeout",
    [409] = "Conflict",
    [410] = "Gone",
    [411] = "Length Required",
    [412] = "Precondition Failed",
    [413] = "Content Too Large",
    [414] = "URI Too Long",
    [415] = "Unsupported Media Type",
    [416] = "Range Not Satisfiable",
    [417] = "Expectation Failed",
    [418] = "I'm a Teapot",
    [421] = "Misdirected Request",
    [422] = "Unprocessable Content",
    [423] = "Locked",
    [424] = "Failed Dependency",
    [425] = "Too Early",
    [426] = "Upgrade Required",
    [428] = "Precondition Required",
    [429] = "Too Many Requests",
    [431] = "Request Header Fields Too Large",
    [451] = "Unavailable For Legal Reasons",
    [500] = "Internal Server Error",
    [501] = "Not Implemented",
    [502] = "Bad Gateway",
    [503] = "Service Unavailable",
    [504] = "Gateway Timeout",
    [505] = "HTTP Version Not Supported",
    [506] = "Variant Also Negotiates",
    [507] = "Insufficient Storage",
    [508] = "Loop Detected",
    [510] = "Not Extended",
    [511] = "Network Authentication Required",
};

const char *
pyl_http1_phrase(unsigned status)
{
    const char *phrase = status < sizeof(phrases) / sizeof(phrases[0]) ? phrases[status] : NULL;
    return phrase != NULL ? phrase : "";
}

static uint8_t *
append(uint8_t *out, const void *data, size_t size)
{
    if (size > 0) { /* `data` may be NULL then, which memcpy() does not take */
        memcpy(out, data, size);
    }
    return out + size;
}

static uint8_t *
append_text(uint8_t *out, const char *text)
{
    return append(out, text, strlen(text));
}

static uint8_t *
append_decimal(uint8_t *out, uint64_t number)
{
    uint8_t digits[20];
    size_t count = 0;
    do {
        digits[sizeof(digits) - ++count] = (uint8_t)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    return append(out, digits + sizeof(digits) - count, count);
}

uint8_t *
pyl_http1_write_chunk_head(uint8_t *out, size_t size)
{
    int digits = 1;
    while (digits < 16 && size >> (4 * digits) != 0) {
        digits++;
    }
    for (int i = digits - 1; i >= 0; i--) {
        *out++ = (uint8_t) "0123456789abcdef"[(size >> (4 * i)) & 15];
    }
    *out++ = '\r';
    *out++ = '\n';
    return out;
}

void
pyl_http1_response_begin(struct pyl_http1_response *response, uint8_t request_minor_version,
                         bool is_head_request, bool is_keep_alive)
{
    memset(response, 0, sizeof(*response));
    response->request_minor_version = request_minor_version;
    response->is_head_request = is_head_request;
    response->is_keep_alive = is_keep_alive;
}

static uint8_t *
write_status_line(uint8_t *out, unsigned status)
{
    out = append(out, "HTTP/1.1 ", 9);
    *out++ = (uint8_t)('0' + status / 100);
    *out++ = (uint8_t)('0' + status / 10 % 10);
    *out++ = (uint8_t)('0' + status % 10);
    *out++ = ' ';
    out = append_text(out, pyl_http1_phrase(status));
    return append(out, "\r\n", 2);
}

uint8_t *
pyl_http1_response_status(struct pyl_http1_response *response, int64_t status, uint8_t *out)
{
    if (status < 200 || status > 999) {
        return NULL;
    }
    response->status = (uint16_t)status;
    return write_status_line(out, (unsigned)status);
}

/* Field values: visible characters, space, tab, obs-text (RFC 9110 5.5). */
static bool
is_value(const uint8_t *data, size_t size)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    const uint64_t tops = UINT64_C(0x8080808080808080);
    size_t i = 0;
    /* Eight bytes at once: a byte below 0x20 or equal to 0x7f sets its top bit in `odd`; so may a
     * harmless neighbour, which the loop below then clears up. */
    for (; size - i >= 8; i += 8) {
        uint64_t word;
        memcpy(&word, data + i, 8);
        uint64_t deleted = word ^ (ones * 0x7f);
        uint64_t odd = ((word - ones * 0x20) & ~word) | ((deleted - ones) & ~deleted);
        if ((odd & tops) != 0) {
            break;
        }
    }
    for (; i < size; i++) {
        if ((data[i] < 0x20 && data[i] != '\t') || data[i] == 0x7f) {
            return false;
        }
    }
    return true;
}

static bool
parse_length(const uint8_t *value, size_t size, uint64_t *ret_length)
{
    uint64_t length = 0;
    if (size == 0 || size > 19) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        if (value[i] < '0' || value[i] > '9') {
            return false;
        }
        length = length * 10 + (uint64_t)(value[i] - '0');
    }
    *ret_length = length;
    return true;
}

/* Is `close` one of the comma-separated options? */
static bool
has_close_option(const uint8_t *value, size_t size)
{
    size_t start = 0;
    for (size_t i = 0; i <= size; i++) {
        if (i < size && value[i] != ',') {
            continue;
        }
        size_t end = i;
        while (start < end && (value[start] == ' ' || value[start] == '\t')) {
            start++;
        }
        while (end > start && (value[end - 1] == ' ' || value[end - 1] == '\t')) {
            end--;
        }
        if (pyl_http1_equals(value + start, end - start, "close")) {
            return true;
        }
        start = i + 1;
    }
    return false;
}

enum field_action { WRITE_FIELD, SKIP_FIELD, REFUSE_FIELD };

/* The fields that mean something to the server. */
static enum field_action
look_at_field(struct pyl_http1_response *response, const uint8_t *name, size_t name_size,
              const uint8_t *value, size_t value_size, const char **ret_error)
{
    switch (name_size) {
    case 4:
        if (pyl_http1_equals(name, name_size, "date")) {
            response->has_date = true;
        }
        break;
    case 6:
        if (pyl_http1_equals(name, name_size, "server")) {
            response->has_server = true;
        }
        break;
    case 10:
        if (pyl_http1_equals(name, name_size, "connection")) {
            if (has_close_option(value, value_size)) {
                response->is_keep_alive = false;
            }
            return SKIP_FIELD;
        }
        break;
    case 14:
        if (pyl_http1_equals(name, name_size, "content-length")) {
            uint64_t length = 0;
            if (!parse_length(value, value_size, &length)) {
                *ret_error = "Invalid content-length";
                return REFUSE_FIELD;
            }
            if (response->has_content_length) {
                *ret_error = "Repeated content-length";
                return REFUSE_FIELD;
            }
            response->has_content_length = true;
            response->content_length = length;
            return SKIP_FIELD; /* end_head writes it */
        }
        break;
    case 17:
        if (pyl_http1_equals(name, name_size, "transfer-encoding")) {
            return SKIP_FIELD;
        }
        break;
    default:
        break;
    }
    return WRITE_FIELD;
}

uint8_t *
pyl_http1_response_field(struct pyl_http1_response *response, const uint8_t *name, size_t name_size,
                         const uint8_t *value, size_t value_size, uint8_t *out,
                         const char **ret_error)
{
    if (!pyl_http1_is_token(name, name_size)) {
        *ret_error = "Invalid header name";
        return NULL;
    }
    if (!is_value(value, value_size)) {
        *ret_error = "Invalid header value";
        return NULL;
    }
    switch (look_at_field(response, name, name_size, value, value_size, ret_error)) {
    case REFUSE_FIELD:
        return NULL;
    case SKIP_FIELD:
        return out;
    case WRITE_FIELD:
        break;
    }
    for (size_t i = 0; i < name_size; i++) {
        bool is_upper = name[i] >= 'A' && name[i] <= 'Z';
        *out++ = is_upper ? (uint8_t)(name[i] | 0x20) : name[i];
    }
    *out++ = ':';
    *out++ = ' ';
    out = append(out, value, value_size);
    *out++ = '\r';
    *out++ = '\n';
    return out;
}

bool
pyl_http1_response_is_bodiless(const struct pyl_http1_response *response)
{
    return response->is_head_request || response->status == 204 || response->status == 304;
}

static uint8_t *
append_content_length(uint8_t *out, uint64_t length)
{
    out = append(out, "content-length: ", 16);
    out = append_decimal(out, length);
    return append(out, "\r\n", 2);
}

/* Chooses the framing. Returns `out` with its field, if it needs one. */
static uint8_t *
write_framing(struct pyl_http1_response *response, int64_t content_size, uint8_t *out)
{
    if (pyl_http1_response_is_bodiless(response)) {
        response->framing = PYL_HTTP1_NO_CONTENT;
        if (response->status == 204) {
            return out; /* RFC 9110 8.6: must not be sent */
        }
        if (response->has_content_length) {
            return append_content_length(out, response->content_length);
        }
        /* HEAD: a size is worth telling only when the application produced the content. */
        if (response->status != 304 && content_size > 0) {
            return append_content_length(out, (uint64_t)content_size);
        }
        return out;
    }
    if (response->has_content_length || content_size >= 0) {
        response->framing = PYL_HTTP1_LENGTH;
        response->remaining =
            response->has_content_length ? response->content_length : (uint64_t)content_size;
        return append_content_length(out, response->remaining);
    }
    if (response->request_minor_version > 0) {
        response->framing = PYL_HTTP1_CHUNKED;
        return append(out, "transfer-encoding: chunked\r\n", 28);
    }
    response->framing = PYL_HTTP1_UNTIL_CLOSE;
    response->is_keep_alive = false;
    return out;
}

uint8_t *
pyl_http1_response_end_head(struct pyl_http1_response *response, int64_t content_size,
                            const uint8_t *defaults, size_t defaults_size, uint8_t *out)
{
    out = write_framing(response, content_size, out);
    if (!response->is_keep_alive) {
        out = append(out, "connection: close\r\n", 19);
    } else if (response->request_minor_version == 0) {
        out = append(out, "connection: keep-alive\r\n", 24);
    }
    out = append(out, defaults, defaults_size);
    return append(out, "\r\n", 2);
}

uint8_t *
pyl_http1_write_error(uint8_t *out, unsigned status, const char *text, bool is_head_request,
                      const uint8_t *defaults, size_t defaults_size)
{
    size_t text_size = strlen(text);
    if (text_size > 200) {
        text_size = 200;
    }
    out = write_status_line(out, status);
    out = append_text(out, "content-type: text/plain; charset=utf-8\r\n");
    out = append_content_length(out, text_size);
    out = append_text(out, "connection: close\r\n");
    out = append(out, defaults, defaults_size);
    out = append(out, "\r\n", 2);
    return is_head_request ? out : append(out, text, text_size);
}
