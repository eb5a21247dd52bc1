// The sizes that kernels of this folder keep in registers or shared memory: what they take at most.
#ifndef MOETRAIN_KERNELS_CUDA_LIMITS_H
#define MOETRAIN_KERNELS_CUDA_LIMITS_H

#include "kernels/check.h"

enum {
    MOST_EXPERTS = 1024,
    MOST_CHOICES = 64, // of a token
    WIDEST_HEAD = 256, // d_head and d_value
};

// Fatal: the session has refused larger ones with a message for people.
#define CHECK_ROUTING(E, K)                                                                        \
    CHECK((E) >= 1 && (E) <= MOST_EXPERTS && (K) <= MOST_CHOICES,                                  \
          "%lld choices of %lld experts, the kernels take %d of %d", (long long)(K),               \
          (long long)(E), (int)MOST_CHOICES, (int)MOST_EXPERTS)

#endif
