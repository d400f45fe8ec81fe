"""What a process holds: descriptors, threads, Python objects, blocks of both allocators, memory."""

import ctypes
import gc
import os
import sys


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
        "keepcost")]


try:
    # Once: every look-up of a library makes a class, and a class is a cycle.
    _mallinfo2 = ctypes.CDLL(None).mallinfo2
    _mallinfo2.restype = _Mallinfo2
except AttributeError:
    _mallinfo2 = None


def malloc_bytes():
    """Bytes in use of the C allocator, all arenas; 0 where it cannot tell (a sanitizer, musl)."""
    if _mallinfo2 is None:
        return 0
    info = _mallinfo2()
    return info.uordblks + info.hblkhd


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def take():
    """The counts now, after a full collection. (The folder listing itself needs one descriptor.)"""
    for _ in range(3):
        gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,
        "threads": len(os.listdir("/proc/self/task")),
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "malloc": malloc_bytes(),
        "resident": resident_bytes(),
    }
