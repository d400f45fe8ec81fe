/*
 * resolve.h - getaddrinfo(3) and getnameinfo(3) on the blocking pool.
 *
 * A request is embedded in its owner's object, which lives until on_done. Owner thread only.
 */
#ifndef PYL_IO_RESOLVE_H
#define PYL_IO_RESOLVE_H

#include "io/sockaddr.h"
#include "sched/blocking.h"

#include <netdb.h>

enum { PYL_RESOLVE_HOST_SIZE = 1025, PYL_RESOLVE_SERVICE_SIZE = 32 }; /* NI_MAXHOST, NI_MAXSERV */

/* How a look-up ended. */
struct pyl_resolve_result {
    int error; /* 0; -ECANCELED; -ENOMEM; the errno behind EAI_SYSTEM; -EIO for any other EAI_ */
    int gai_error; /* 0, or the EAI_ value for gai_strerror(3) */
};

struct pyl_resolve;

/* Exactly once, later, on the worker. */
typedef void pyl_resolve_fn(struct pyl_resolve *resolve, const struct pyl_resolve_result *result);

struct pyl_resolve {
    pyl_resolve_fn *on_done;
    /* After success, until pyl_resolve_fini(): */
    struct addrinfo *addresses; /* of addrinfo */
    char *host;                 /* of nameinfo, PYL_RESOLVE_HOST_SIZE bytes */
    char *service;              /* of nameinfo, PYL_RESOLVE_SERVICE_SIZE bytes */

    /* Private. */
    bool is_active;
    bool is_cancelled;
    struct pyl_work work; /* orders the threads' access to what follows */
    char *host_wanted;    /* owned copies; NULL where none was given */
    char *service_wanted;
    struct addrinfo hints;
    struct pyl_sockaddr address;
    int flags;
    int gai_error;
    int system_error;
};

/* As getaddrinfo(host, service, hints); the strings are copied; hints may be NULL. Returns 0, or
 * -errno of pyl_blocking_submit() or -ENOMEM, and then on_done is not called. The struct need not
 * be zeroed. */
PYL_NODISCARD int pyl_resolve_address(struct pyl_resolve *resolve, struct pyl_blocking_pool *pool,
                                      struct pyl_worker *worker, const char *host,
                                      const char *service, const struct addrinfo *hints,
                                      pyl_resolve_fn *on_done);

/* As getnameinfo(address, flags). */
PYL_NODISCARD int pyl_resolve_name(struct pyl_resolve *resolve, struct pyl_blocking_pool *pool,
                                   struct pyl_worker *worker, const struct pyl_sockaddr *address,
                                   int flags, pyl_resolve_fn *on_done);

/* on_done follows with -ECANCELED; a look-up that has started is waited for and its result dropped.
 */
void pyl_resolve_cancel(struct pyl_resolve *resolve);

/* Frees the results. Not while active. Harmless a second time. */
void pyl_resolve_fini(struct pyl_resolve *resolve);

#endif
