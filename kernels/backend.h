// The private table of a backend: memory and opening, and one bare implementation for each op of
// ops.h, same arguments as in kernels.h, no checks. No slot is NULL (a test proves it). Only
// kernels.c, its like for families of ops, device.c, device_open.c and op_trace.c call through it.
#ifndef MOETRAIN_KERNELS_BACKEND_H
#define MOETRAIN_KERNELS_BACKEND_H

#include "kernels/kernels.h"
#include "kernels/ops.h"

typedef struct Ops {
#define OP(name, ...) void (*name)(Device * dev, __VA_ARGS__);
    OPS(OP)
#undef OP
} Ops;

struct Backend {
    const char *name;
    Place place;
    DeviceLimits limits;
    // Whether this machine can run it; otherwise the reason and the fix.
    bool (*available)(Error *err);
    // Starts the backend for this rank; fills dev->state. False with the reason and the fix when
    // there is no such device.
    bool (*open)(Device *dev, int local_rank, int local_size, Error *err);
    void (*close)(Device *dev);
    // Processor and matrix library in one line, for the log and --version.
    void (*describe)(const Device *dev, char *text, size_t bytes);
    void *(*allocate)(Device *dev, size_t bytes); // zeroed; NULL when there is not enough
    void (*release)(Device *dev, void *data, size_t bytes);
    size_t (*free_bytes)(Device *dev); // about what allocate could still give
    void (*upload)(Device *dev, void *to, const void *from, size_t bytes);   // from host memory
    void (*download)(Device *dev, void *to, const void *from, size_t bytes); // to host memory
    void (*synchronize)(Device *dev);
    void (*products)(Device *dev, ProductLine say, void *context); // device_products
    Ops op;
};

extern const Backend cpu_backend;
extern const Backend cuda_backend; // kernels/cuda/, only in builds with MOETRAIN_CUDA

#endif
