/*
 * pidfd.c - pidfd_open(2), which the C library of older systems does not know.
 * Tested by tests/unit/io/test_task.c.
 */
#include "io/pidfd.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

int
pyl_pidfd_open(pid_t pid)
{
    long fd = syscall(SYS_pidfd_open, pid, 0);
    return fd >= 0 ? (int)fd : -errno;
}
