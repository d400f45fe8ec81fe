"""Native code beside coroutines: `await pyloop.native.call(function, argument)`."""

import asyncio
import sys

from . import _core

__all__ = ("call",)


def call(function, argument=None, /, *, check=True):
    """Call a C function on a native thread, without the GIL; the Future of its result.

    The function is `int64_t function(void *argument)` in the C calling convention. It must not use the Python C API. It
    is given as an address (int), a ctypes function or c_void_p, a cffi function pointer, or any object with an
    `address` (numba's cfunc).

    argument: None for NULL; an int for an address; or an object with a buffer (bytes, bytearray, array, numpy array,
    ctypes structure), whose memory the function gets, writable if the object is. A buffer cannot be resized and both
    objects stay alive until the function has returned.

    check: a result from -4095 to -1 is a negated errno and raises the OSError. With False every result is returned as
    it is, an int of 64 bits with sign.

    Cancelling before the function has started keeps it from running. Afterwards it runs to its end and the result is
    dropped. loop.close() waits for functions that run.

    RuntimeError: no pyloop loop is running in this thread, or no thread can be started. TypeError, ValueError: not a
    function, not an argument, a NULL pointer.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, _core.LoopCore):
        raise RuntimeError("pyloop.native.call() needs a running pyloop.Loop")
    address = function if type(function) is int else _address_of(function)
    return loop._native_call(address, argument, function, check)


def _address_of(function):
    if isinstance(function, int):
        return int(function)
    ctypes = sys.modules.get("ctypes")
    if ctypes is not None:
        if isinstance(function, ctypes._CFuncPtr):
            return ctypes.cast(function, ctypes.c_void_p).value or 0
        if isinstance(function, ctypes.c_void_p):
            return function.value or 0
    backend = sys.modules.get("_cffi_backend")
    if backend is not None and isinstance(function, backend.FFI.CData):
        return int(backend.FFI().cast("intptr_t", function))
    address = getattr(function, "address", None)
    if not isinstance(address, int):
        raise TypeError(f"a C function is wanted: an address, a ctypes or cffi function or an object with an address, "
                        f"not {type(function).__name__!r}")
    return address
