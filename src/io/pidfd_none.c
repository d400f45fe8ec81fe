/*
 * pidfd_none.c - where the system has no such descriptors. Tested by tests/unit/io/test_task.c.
 */
#include "io/pidfd.h"

#include <errno.h>

int
pyl_pidfd_open(pid_t pid)
{
    return -ENOSYS;
}
