/*
 * filter.h - makes one system call fail in this process, as container runtimes do: a seccomp
 * filter. Cannot be undone; Criterion gives each test its own process.
 */
#ifndef PYL_TEST_REACTOR_FILTER_H
#define PYL_TEST_REACTOR_FILTER_H

/* From now on system call `number` fails with `error` (positive errno) in the calling thread
 * and its children. */
void filter_syscall(int number, int error);

#endif
