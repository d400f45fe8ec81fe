/*
 * pidfd.h - a file descriptor for a process: readable when it has ended.
 */
#ifndef PYL_IO_PIDFD_H
#define PYL_IO_PIDFD_H

#include "base/platform.h"

#include <sys/types.h>

/* A close-on-exec fd, the caller's, or -errno; -ENOSYS where the system has none. Any thread. */
PYL_NODISCARD int pyl_pidfd_open(pid_t pid);

#endif
