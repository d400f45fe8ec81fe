/*
 * test_http1_check.c - the small predicates behind the rules for request heads.
 */
#include "proto/http1_check.h"

#include <criterion/criterion.h>
#include <string.h>

static bool
is_host(const char *text)
{
    return pyl_http1_is_host((const uint8_t *)text, strlen(text));
}

Test(http1_check, hosts)
{
    static const char *const GOOD[] = {
        "a",    "example.com",   "EXAMPLE.com:80", "a:",       "a:65535",          "127.0.0.1:8000",
        "a_b",  "xn--a",         "[::1]",          "[::1]:80", "[::ffff:1.2.3.4]", "a%20b",
        "a.b.", "sub!$&'()*+;=",
    };
    static const char *const BAD[] = {
        "",      ":80",     "a b",    "a/b",   "a?b",  "a#b",  "u@a", "a,b",
        "a:b",   "a:65536", "a:080x", "[::1",  "::1",  "[]",   "[1]", "[::1]x",
        "[::g]", "a%2",     "a%zz",   "a\x80", "a\\b", "a\"b", "<a>", "[::1]:99999999999999999999",
    };
    for (size_t i = 0; i < sizeof(GOOD) / sizeof(GOOD[0]); i++) {
        cr_assert(is_host(GOOD[i]), "%s", GOOD[i]);
    }
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        cr_assert(!is_host(BAD[i]), "%s", BAD[i]);
    }
}

Test(http1_check, tokens)
{
    for (unsigned c = 0; c < 256; c++) {
        uint8_t byte = (uint8_t)c;
        bool expected =
            c != 0 && (strchr("!#$%&'*+-.^_`|~", (int)c) != NULL || (c >= '0' && c <= '9') ||
                       (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'));
        cr_assert_eq(pyl_http1_is_token(&byte, 1), expected, "%u", c);
    }
    cr_assert(!pyl_http1_is_token((const uint8_t *)"", 0));
}

Test(http1_check, forbidden_trailers)
{
    cr_assert(pyl_http1_is_forbidden_trailer("Content-Length", 14));
    cr_assert(pyl_http1_is_forbidden_trailer("transfer-encoding", 17));
    cr_assert(!pyl_http1_is_forbidden_trailer("etag", 4));
    cr_assert(!pyl_http1_is_forbidden_trailer("hos", 3));
}
