/*
 * fuzz_http1.c - any bytes, cut anywhere: the parser neither crashes nor reads out of bounds, and
 * gives the same events as for the whole. The first byte of the input seeds the cuts.
 *
 * With clang -fsanitize=fuzzer,address a fuzzer; with replay.c a test over the corpus.
 */
#include "http1_events.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct pyl_http1_limits LIMITS = {
    .line_size_max = 256, .head_size_max = 1024, .field_count_max = 12, .body_size_max = 4096};

static char *
events_of(const uint8_t *data, size_t size, uint32_t seed)
{
    struct pyl_http1_shared shared;
    struct pyl_http1 parser;
    struct http1_log log = {0};

    pyl_http1_shared_init(&shared, &LIMITS);
    pyl_http1_init(&parser, &shared);
    http1_log_bytes(&log, "", 0);
    while (size > 0) {
        size_t piece = size;
        if (seed != 0) {
            seed = seed * 1103515245 + 12345;
            piece = 1 + (seed >> 16) % 23;
        }
        piece = piece < size ? piece : size;
        http1_feed(&parser, &log, data, piece);
        data += piece;
        size -= piece;
    }
    http1_log_end_body(&log);
    pyl_http1_fini(&parser);
    pyl_http1_shared_fini(&shared);
    return log.text;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    char *whole = events_of(data + 1, size - 1, 0);
    char *pieces = events_of(data + 1, size - 1, 1u + data[0]);
    if (strcmp(whole, pieces) != 0) {
        fprintf(stderr, "whole:\n%s\npieces:\n%s\n", whole, pieces);
        abort();
    }
    free(whole);
    free(pieces);
    return 0;
}
