// Private to execution.cpp and warp.cpp: the thread of a running kernel.
#ifndef MOETRAIN_TESTS_EMULATION_EXECUTION_H
#define MOETRAIN_TESTS_EMULATION_EXECUTION_H

#include "gpu.h"

namespace emulation {

struct Stack;

struct LateCopy {
    void *shared;
    const void *global; // NULL: zeros
    unsigned group;
};

struct LateProduct {
    float *d; // of this thread
    int columns;
    SharedPanel a, b;
    bool a_outermost, b_outermost, keep;
    bool in_registers; // then `rows` has the two rows of a that this thread multiplies
    float rows[2][16];
    unsigned group;
};

struct Fiber : Thread {
    Stack *stack; // NULL before it starts and after it ends
    const char *waits_for;
    Place waits_at;
    std::vector<LateCopy> copies;
    unsigned copy_group; // the open one
    std::vector<LateProduct> products;
    unsigned product_group; // the open one
};

Fiber *this_fiber(const char *operation, Place at); // fatal outside of kernels
unsigned lanes_of_warp(unsigned warp);              // which exist in this block

} // namespace emulation

#endif
