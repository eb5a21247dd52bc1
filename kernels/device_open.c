// Which backend a device is of, and how it is opened (device.h).
#include "kernels/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#else // fuzz builds
static void omp_set_num_threads(int threads) {
    (void)threads;
}
#endif

#include "kernels/backend.h"
#include "kernels/op_trace.h"
#include "kernels/threads.h"

#ifdef MOETRAIN_CUDA
static const Backend *const gpu_backend = &cuda_backend;
#else
static const Backend *const gpu_backend = NULL;
#endif

static const Choice DEVICES[] = {
    {"auto", "a GPU when there is one, otherwise the CPU"},
    {"cpu", NULL},
    {"cuda", "a GPU; an error without one"},
};
const ChoiceTable DEVICE_CHOICES = CHOICE_TABLE(DEVICES);

// The backend that `kind` asks for; "auto" takes a GPU when the machine has one.
static const Backend *choose_backend(const char *kind, Error *err) {
    Error reason = {0};
    bool automatic = strcmp(kind, "auto") == 0, cuda = strcmp(kind, "cuda") == 0;
    if (!automatic && !cuda && strcmp(kind, "cpu") != 0) {
        error_set(err, EXIT_CONFIG, "unknown device '%s'; use cpu, cuda or auto", kind);
        return NULL;
    }
    if (cuda && !gpu_backend) {
        error_set(
            err, EXIT_COMMUNICATION,
            "device: cuda, but this build has no CUDA backend; use device: cpu, or build with "
            "the preset cuda");
        return NULL;
    }
    if ((automatic || cuda) && gpu_backend && gpu_backend->available(&reason)) return gpu_backend;
    if (!cuda) return &cpu_backend;
    *err = reason;
    return NULL;
}

bool device_open(Device *dev, const char *kind, int threads, int local_rank, int local_size,
                 Error *err) {
    if (threads < 0)
        return error_set(err, EXIT_CONFIG, "%d threads; use 0 for all cores, or more", threads);
    const char *trace = getenv("MOETRAIN_TRACE_OPS");
    if (trace && !MOETRAIN_DEBUG)
        return error_set(err, EXIT_CONFIG,
                         "MOETRAIN_TRACE_OPS is set, and this build does not trace ops; unset it, "
                         "or build with the preset debug (-DMOETRAIN_DEBUG=ON)");
    const Backend *backend = choose_backend(kind, err);
    if (!backend) return false;
    *dev = (Device){.bare = backend,
                    .backend = backend,
                    .name = backend->name,
                    .place = backend->place,
                    .limits = backend->limits};
    dev->threads = threads > 0 ? threads : threads_choose(0, 1, 1).threads;
    omp_set_num_threads(dev->threads);
    if (!backend->open(dev, local_rank, local_size, err)) return false;
    backend->describe(dev, dev->description, sizeof dev->description);
    if (!dev->kind[0]) snprintf(dev->kind, sizeof dev->kind, "%.255s", dev->description);
    if (!trace || !MOETRAIN_DEBUG || op_trace_open(dev, trace, err)) return true;
    device_close(dev);
    return false;
}
