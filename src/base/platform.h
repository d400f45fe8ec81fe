/*
 * platform.h - every compiler and operating-system #if of the project that is not a whole file.
 */
#ifndef PYL_BASE_PLATFORM_H
#define PYL_BASE_PLATFORM_H

#include <stddef.h>
#include <stdint.h>

#define PYL_LIKELY(x) __builtin_expect(!!(x), 1)
#define PYL_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define PYL_NODISCARD __attribute__((warn_unused_result))
#define PYL_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define PYL_API __attribute__((visibility("default")))
#define PYL_CACHE_LINE 64

#define PYL_CONTAINER_OF(pointer, type, member) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* A thread-local variable of a word or two in a shared object, read without a call. glibc keeps
 * room for such variables of objects that are loaded later; other systems may refuse to load them.
 */
#if defined(__GLIBC__)
#define PYL_TLS_STATIC __attribute__((tls_model("initial-exec")))
#else
#define PYL_TLS_STATIC
#endif

#if defined(__has_feature)
#define PYL_HAS_FEATURE(x) __has_feature(x)
#else
#define PYL_HAS_FEATURE(x) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || PYL_HAS_FEATURE(address_sanitizer)
#define PYL_ASAN 1
#else
#define PYL_ASAN 0
#endif

#if defined(__SANITIZE_THREAD__) || PYL_HAS_FEATURE(thread_sanitizer)
#define PYL_TSAN 1
#else
#define PYL_TSAN 0
#endif

/* macOS has no MSG_NOSIGNAL in the SDKs we build with, but an option of the socket. */
#if defined(__APPLE__)
#define PYL_MSG_NOSIGNAL 0
#define PYL_SO_NOSIGPIPE 0x1022
#else
#define PYL_MSG_NOSIGNAL MSG_NOSIGNAL
#define PYL_SO_NOSIGPIPE 0 /* none */
#endif

/* madvise(2): no page of 2 MiB for memory of which only small pieces are touched. */
#if defined(__linux__)
#define PYL_MADV_SMALL_PAGES MADV_NOHUGEPAGE
#else
#define PYL_MADV_SMALL_PAGES MADV_NORMAL
#endif

#ifdef NDEBUG
#define PYL_DEBUG 0
#else
#define PYL_DEBUG 1
#endif

#ifndef PYL_TINY_LIMITS
#define PYL_TINY_LIMITS 0
#endif

#endif
