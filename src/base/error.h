/*
 * error.h - names of errors for messages and tests. Any thread; the strings are static.
 */
#ifndef PYL_BASE_ERROR_H
#define PYL_BASE_ERROR_H

#include "base/platform.h"

/* -ECONNRESET gives "ECONNRESET", 0 "OK", anything unknown "UNKNOWN". A positive errno is
 * accepted as well. */
const char *pyl_error_name(int error);

#endif
