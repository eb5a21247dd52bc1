// A device: the place where tensors live and the table of kernels that works on them (backend.h).
#ifndef MOETRAIN_KERNELS_DEVICE_H
#define MOETRAIN_KERNELS_DEVICE_H

#include "kernels/tensor.h"

typedef struct Backend Backend;

typedef struct Device {
    const Backend *backend;
    const char *name;       // "cpu"
    char description[128];  // processor and matrix library, for the log and --version
    int threads;            // OpenMP threads this rank computes with
} Device;

// Opens `kind`: "cpu", or "auto" which takes the best there is. threads = 0 means OMP_NUM_THREADS or, without
// it, the cores this process may run on. False with exit 7 or 2 and the fix when it cannot. Not collective.
bool device_open(Device *dev, const char *kind, int threads, Error *err);

// Multiplies two known matrices through the backend's library and compares with exact results: libraries
// that mistake the CPU have computed wrong numbers before. False with exit 7.
bool device_self_test(Device *dev, Error *err);

// Best run within 0.2 s of a (512, 1024) by (1024, 1024) f32 matrix product on all threads, in GFLOP/s, through the op
// that the model uses: the limit that the log's share is measured against.
double device_measure_gemm_gflops(Device *dev);

#endif
