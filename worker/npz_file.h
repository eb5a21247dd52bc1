// Writes an .npz file as numpy.load reads it: a zip archive of arrays in numpy's .npy format 1.0,
// stored as they are, with the sizes of zip64. Not collective.
#ifndef MOETRAIN_WORKER_NPZ_FILE_H
#define MOETRAIN_WORKER_NPZ_FILE_H

#include "kernels/tensor.h"

typedef struct NpzFile NpzFile;

// Makes a file beside PATH, which gets that name when it is closed well. PATH must not exist.
// EXIT_IO.
bool npz_open(NpzFile **file, const char *path, Error *err);
// Begins an array; its bytes follow, row-major and little-endian, in as many pieces as one likes.
bool npz_begin(NpzFile *file, const char *name, DType dtype, int rank, const int64_t *shape,
               Error *err);
bool npz_add(NpzFile *file, const void *data, size_t bytes, Error *err);
bool npz_end(NpzFile *file, Error *err);
// Frees it. ok false: takes what there is away again. False when the file could not be finished.
bool npz_close(NpzFile *file, bool ok, Error *err);

#endif
