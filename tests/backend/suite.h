/*
 * suite.h - a test that runs once per backend. The first parameter of the process is the backend's
 * index in pyl_backends, so that nothing but an int crosses from the runner to the test's process.
 */
#ifndef PYL_TEST_BACKEND_SUITE_H
#define PYL_TEST_BACKEND_SUITE_H

#include "fixture.h"

#include "base/clock.h"
#include "base/error.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>

struct criterion_test_params backend_parameters(void);

#define BACKEND_TEST(group, behaviour)                             \
    static void group##_##behaviour(struct env *env);              \
    ParameterizedTestParameters(group, behaviour)                  \
    {                                                              \
        return backend_parameters();                               \
    }                                                              \
    ParameterizedTest(int *index, group, behaviour, .timeout = 60) \
    {                                                              \
        struct env env;                                            \
        env_init(&env, pyl_backends[*index]->name);                \
        group##_##behaviour(&env);                                 \
        env_fini(&env);                                            \
    }                                                              \
    static void group##_##behaviour(struct env *env)

#endif
