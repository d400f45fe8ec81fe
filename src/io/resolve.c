/*
 * resolve.c - name resolution as work of the blocking pool.
 *
 * Between submit and done the request's private part belongs to the pool thread, but for
 * is_cancelled, which only the owner uses.
 */
#include "io/resolve.h"

#include "base/alloc.h"
#include "base/check.h"

#include <errno.h>
#include <string.h>

static void
free_input(struct pyl_resolve *resolve)
{
    pyl_free(resolve->host_wanted);
    pyl_free(resolve->service_wanted);
    resolve->host_wanted = NULL;
    resolve->service_wanted = NULL;
}

void
pyl_resolve_fini(struct pyl_resolve *resolve)
{
    PYL_DCHECK(!resolve->is_active);
    free_input(resolve);
    if (resolve->addresses != NULL) {
        freeaddrinfo(resolve->addresses);
        resolve->addresses = NULL;
    }
    pyl_free(resolve->host);
    pyl_free(resolve->service);
    resolve->host = NULL;
    resolve->service = NULL;
}

static void
finish(struct pyl_work *work, bool was_run)
{
    struct pyl_resolve *resolve = PYL_CONTAINER_OF(work, struct pyl_resolve, work);
    struct pyl_resolve_result result = {0};
    resolve->is_active = false;
    free_input(resolve);
    if (resolve->is_cancelled || !was_run) {
        result.error = -ECANCELED;
    } else if (resolve->gai_error != 0) {
        result.gai_error = resolve->gai_error;
        result.error = -EIO;
        if (resolve->gai_error == EAI_SYSTEM && resolve->system_error != 0) {
            result.error = -resolve->system_error;
        } else if (resolve->gai_error == EAI_MEMORY) {
            result.error = -ENOMEM;
        }
    }
    if (result.error != 0) {
        pyl_resolve_fini(resolve);
    }
    resolve->on_done(resolve, &result);
}

static void
run_address(struct pyl_work *work)
{
    struct pyl_resolve *resolve = PYL_CONTAINER_OF(work, struct pyl_resolve, work);
    errno = 0;
    resolve->gai_error = getaddrinfo(resolve->host_wanted, resolve->service_wanted, &resolve->hints,
                                     &resolve->addresses);
    resolve->system_error = errno;
    if (resolve->gai_error != 0) {
        resolve->addresses = NULL;
    }
}

static void
run_name(struct pyl_work *work)
{
    struct pyl_resolve *resolve = PYL_CONTAINER_OF(work, struct pyl_resolve, work);
    errno = 0;
    resolve->gai_error = getnameinfo(&resolve->address.u.any, resolve->address.size, resolve->host,
                                     PYL_RESOLVE_HOST_SIZE, resolve->service,
                                     PYL_RESOLVE_SERVICE_SIZE, resolve->flags);
    resolve->system_error = errno;
}

/* Returns 0 or -ENOMEM; a NULL stays one. */
static int
copy_string(char **ret_copy, const char *text)
{
    if (text == NULL) {
        return 0;
    }
    size_t size = strlen(text) + 1;
    char *copy = pyl_alloc(size);
    if (copy == NULL) {
        return -ENOMEM;
    }
    memcpy(copy, text, size);
    *ret_copy = copy;
    return 0;
}

static int
submit(struct pyl_resolve *resolve, struct pyl_blocking_pool *pool, struct pyl_worker *worker)
{
    int rc = pyl_blocking_submit(pool, worker, &resolve->work);
    resolve->is_active = rc == 0;
    if (rc < 0) {
        pyl_resolve_fini(resolve);
    }
    return rc;
}

int
pyl_resolve_address(struct pyl_resolve *resolve, struct pyl_blocking_pool *pool,
                    struct pyl_worker *worker, const char *host, const char *service,
                    const struct addrinfo *hints, pyl_resolve_fn *on_done)
{
    memset(resolve, 0, sizeof(*resolve));
    resolve->on_done = on_done;
    resolve->work.run = run_address;
    resolve->work.done = finish;
    if (hints != NULL) {
        resolve->hints.ai_flags = hints->ai_flags;
        resolve->hints.ai_family = hints->ai_family;
        resolve->hints.ai_socktype = hints->ai_socktype;
        resolve->hints.ai_protocol = hints->ai_protocol;
    }
    if (copy_string(&resolve->host_wanted, host) < 0 ||
        copy_string(&resolve->service_wanted, service) < 0) {
        pyl_resolve_fini(resolve);
        return -ENOMEM;
    }
    return submit(resolve, pool, worker);
}

int
pyl_resolve_name(struct pyl_resolve *resolve, struct pyl_blocking_pool *pool,
                 struct pyl_worker *worker, const struct pyl_sockaddr *address, int flags,
                 pyl_resolve_fn *on_done)
{
    memset(resolve, 0, sizeof(*resolve));
    resolve->on_done = on_done;
    resolve->work.run = run_name;
    resolve->work.done = finish;
    resolve->address = *address;
    resolve->flags = flags;
    resolve->host = pyl_alloc_zero(PYL_RESOLVE_HOST_SIZE);
    resolve->service = pyl_alloc_zero(PYL_RESOLVE_SERVICE_SIZE);
    if (resolve->host == NULL || resolve->service == NULL) {
        pyl_resolve_fini(resolve);
        return -ENOMEM;
    }
    return submit(resolve, pool, worker);
}

void
pyl_resolve_cancel(struct pyl_resolve *resolve)
{
    if (resolve->is_active) {
        resolve->is_cancelled = true;
        (void)pyl_work_cancel(&resolve->work);
    }
}
