/*
 * error.c - errno to name. strerrorname_np(3) exists only in glibc 2.32 and later, so the table is
 * ours; it holds what POSIX and the BSDs share, plus what only some systems have where a kernel
 * interface we use returns it.
 */
#include "base/error.h"

#include <errno.h>
#include <stddef.h>

#define NAME(error) [error] = #error

static const char *const names[] = {
    [0] = "OK",         NAME(E2BIG),           NAME(EACCES),
    NAME(EADDRINUSE),   NAME(EADDRNOTAVAIL),   NAME(EAFNOSUPPORT),
    NAME(EAGAIN),       NAME(EALREADY),        NAME(EBADF),
    NAME(EBADMSG),      NAME(EBUSY),           NAME(ECANCELED),
    NAME(ECHILD),       NAME(ECONNABORTED),    NAME(ECONNREFUSED),
    NAME(ECONNRESET),   NAME(EDEADLK),         NAME(EDESTADDRREQ),
    NAME(EDOM),         NAME(EDQUOT),          NAME(EEXIST),
    NAME(EFAULT),       NAME(EFBIG),           NAME(EHOSTDOWN),
    NAME(EHOSTUNREACH), NAME(EIDRM),           NAME(EILSEQ),
    NAME(EINPROGRESS),  NAME(EINTR),           NAME(EINVAL),
    NAME(EIO),          NAME(EISCONN),         NAME(EISDIR),
    NAME(ELOOP),        NAME(EMFILE),          NAME(EMLINK),
    NAME(EMSGSIZE),     NAME(ENAMETOOLONG),    NAME(ENETDOWN),
    NAME(ENETRESET),    NAME(ENETUNREACH),     NAME(ENFILE),
    NAME(ENOBUFS),      NAME(ENODEV),          NAME(ENOENT),
    NAME(ENOEXEC),      NAME(ENOLCK),          NAME(ENOMEM),
    NAME(ENOMSG),       NAME(ENOPROTOOPT),     NAME(ENOSPC),
    NAME(ENOSYS),       NAME(ENOTBLK),         NAME(ENOTCONN),
    NAME(ENOTDIR),      NAME(ENOTEMPTY),       NAME(ENOTSOCK),
    NAME(ENOTTY),       NAME(ENXIO),           NAME(EOPNOTSUPP),
    NAME(EOVERFLOW),    NAME(EPERM),           NAME(EPFNOSUPPORT),
    NAME(EPIPE),        NAME(EPROTO),          NAME(EPROTONOSUPPORT),
    NAME(EPROTOTYPE),   NAME(ERANGE),          NAME(EROFS),
    NAME(ESHUTDOWN),    NAME(ESOCKTNOSUPPORT), NAME(ESPIPE),
    NAME(ESRCH),        NAME(ESTALE),          NAME(ETIMEDOUT),
    NAME(ETOOMANYREFS), NAME(ETXTBSY),         NAME(EUSERS),
    NAME(EXDEV),
};

const char *
pyl_error_name(int error)
{
    size_t index = error < 0 ? 0U - (unsigned)error : (unsigned)error;
    const char *name = index < sizeof(names) / sizeof(names[0]) ? names[index] : NULL;
    return name != NULL ? name : "UNKNOWN";
}
