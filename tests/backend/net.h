/*
 * net.h - the two worlds behind fixture.h's net_* functions.
 */
#ifndef PYL_TEST_BACKEND_NET_H
#define PYL_TEST_BACKEND_NET_H

#include "fixture.h"

struct net_ops {
    void (*pair)(struct env *env, int fds[2], bool is_small);
    int (*listen)(struct env *env, struct net_address *ret_address);
    int (*socket)(struct env *env);
    int (*connect)(struct env *env, const struct net_address *address);
    int (*blackhole)(struct env *env, struct net_address *ret_address);
    void (*limit_fds)(struct env *env, bool is_limited);
    ssize_t (*write)(struct env *env, int fd, const void *data, size_t size);
    ssize_t (*read)(struct env *env, int fd, void *data, size_t size);
    void (*shutdown)(struct env *env, int fd);
    void (*close)(struct env *env, int fd, bool is_reset);
};

extern const struct net_ops net_real; /* TCP over 127.0.0.1 */
extern const struct net_ops net_sim;

#endif
