// A device: the place where tensors live and the table of kernels that works on them (backend.h).
//
// Ops (kernels.h) and copies run in the order in which they are called. On a GPU a call returns
// before the work is done; only device_download and device_synchronize wait.
#ifndef MOETRAIN_KERNELS_DEVICE_H
#define MOETRAIN_KERNELS_DEVICE_H

#include "kernels/choice.h"
#include "kernels/tensor.h"

#ifdef __cplusplus // .cu files
extern "C" {
#endif

typedef struct Backend Backend;

enum { DEVICE_IDENTITY_BYTES = 16 };
// Of a GPU's memory, beside what device_allocate is asked for: the workspace of kernels and of
// algorithms that are tried.
enum { GPU_RESERVE_MIB = 640 };

// The largest sizes that a backend's kernels take; 0: any.
typedef struct DeviceLimits {
    int64_t experts, top_k; // E and K of a MoE layer
    int64_t head;           // d_head and d_value
} DeviceLimits;

typedef struct Device {
    const Backend *bare;    // what computes
    const Backend *backend; // the same, or a trace of it (op_trace.h)
    const char *name;       // "cpu" or "cuda"
    Place place;            // where its tensors lie
    char description[320];  // processor and libraries, for the log and --version
    // What decides the bits of its results: library, version, instruction set or kind of GPU;
    // compared over ranks.
    char kind[256];
    DeviceLimits limits;
    size_t reserve_bytes; // of its memory: the most that kernels take, beside device_allocate
    int threads;          // OpenMP threads this rank computes with
    uint8_t identity[DEVICE_IDENTITY_BYTES]; // of a GPU: no other has the same; zeros on a CPU
    // A row's result must not depend on how many rows are computed together (reproducible: ranks).
    // Set by the session; on the CPU that always holds.
    bool fixed_order;
    void *state; // the backend's own: streams, handles, workspace
} Device;

// What `kind` of device_open may be.
extern const ChoiceTable DEVICE_CHOICES;

// Opens `kind`: "cpu", "cuda", or "auto" which takes a GPU when there is one. threads = 0: what
// threads_choose takes for a process that shares its host with no other rank. Of local_size ranks
// on this host the one with local_rank takes that GPU, or the only one that CUDA_VISIBLE_DEVICES
// leaves it; whether no other rank has that one too is the caller's to compare. False with exit 7
// or 2 and the fix when it cannot. In builds with MOETRAIN_DEBUG (CMake) the environment's
// MOETRAIN_TRACE_OPS=PREFIX begins op_trace_open; others refuse it. Not collective.
bool device_open(Device *dev, const char *kind, int threads, int local_rank, int local_size,
                 Error *err);
void device_close(Device *dev); // legal on a zeroed struct

// Zeroed memory that the device's tensors can live in. Fatal (exit 5), with `purpose`, the bytes
// wanted and the bytes there are, when there is not enough.
void *device_allocate(Device *dev, size_t bytes, const char *purpose);
size_t device_free_bytes(Device *dev); // about what device_allocate could still give
void device_release(Device *dev, void *data, size_t bytes); // of device_allocate; legal on NULL

// Copies the bytes of a host tensor to one of the device, or back: same dtype and number of
// elements. device_upload returns when `from` may be changed again, device_download when `to` can
// be read. Copying a tensor to itself is nothing (arena_mirror).
void device_upload(Device *dev, Tensor to, Tensor from);
void device_download(Device *dev, Tensor to, Tensor from);
// Waits until everything that was called has been done, and reports errors of kernels as fatal.
void device_synchronize(Device *dev);

// Whether a size that the user gives as `key` is at most what the device takes (a member of
// limits); false with exit 2 and the fix. Not collective.
bool device_check_limit(const Device *dev, const char *key, int64_t size, int64_t most, Error *err);

// Says, line by line, how the device does each kind of matrix product that it has met, where the
// bits of results depend on a choice of the backend's: with fixed_order and the same lines every
// rank gives a row the same bits. A CPU says nothing.
typedef void (*ProductLine)(void *context, const char *line);
void device_products(Device *dev, ProductLine say, void *context);

#ifdef __cplusplus
}
#endif

#endif
