// All large memory. An arena is one block, filled from the bottom, owned as a whole.
//
//   |tensor|gap|tensor|gap|....free....|
//          ^ starts are 64-byte aligned
//
// Under ASan the gaps of host memory are poisoned red zones. So that they stay, nothing is then
// laid over anything else: released memory is not used again and shared memory is memory of its
// own. Sizes measured there are larger.
//
// One layout function runs twice over an arena: in the measuring state (no memory, data == NULL) it
// finds the size, so `moetrain plan` and the trainer cannot disagree; after arena_allocate it
// places the tensors. Nothing allocates inside a training step. Memory is the device's, or the
// host's without one. Not thread-safe. Nothing here is collective.
#ifndef MOETRAIN_KERNELS_ARENA_H
#define MOETRAIN_KERNELS_ARENA_H

#include "kernels/device.h"

typedef struct Arena {
    const char *name; // "parameters", "activations", …; borrowed
    Device *dev;      // whose memory; NULL: the host's
    char *base;       // NULL while measuring
    size_t used_bytes;
    size_t peak_bytes; // largest used_bytes so far
    size_t capacity_bytes;
    bool shared; // the memory is another arena's
} Arena;

// Starts measuring: tensors get no memory, used and peak are counted. dev NULL: host memory.
void arena_measure(Arena *arena, const char *name, Device *dev);
// Takes peak_bytes of zeroed memory (host pages are touched on first use) and empties the arena.
// Fatal (exit 5) with the size when there is not that much.
void arena_allocate(Arena *arena);
// Instead: this measured arena takes the memory of an allocated one of at least its size, for
// tensors that are in use while the owner's rest. Freed by the owner.
void arena_share(Arena *arena, const Arena *owner);
void arena_free(Arena *arena); // legal on a zeroed or measuring arena

Tensor arena_1d(Arena *arena, DType dtype, int64_t n0);
Tensor arena_2d(Arena *arena, DType dtype, int64_t n0, int64_t n1);
Tensor arena_3d(Arena *arena, DType dtype, int64_t n0, int64_t n1, int64_t n2);

// A host tensor for the host's copy of x: x itself when it lies on the host, otherwise a new tensor
// of this arena, which must be one of host memory. device_download and device_upload then move the
// bytes, or do nothing.
Tensor arena_mirror(Arena *arena, Tensor x);

// Scratch discipline: everything placed after the mark is given back by the release; the next
// tensors lie in its place.
size_t arena_mark(const Arena *arena);
void arena_release(Arena *arena, size_t mark);

#endif
