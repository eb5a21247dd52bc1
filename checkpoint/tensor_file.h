// Laying out the HDF5 side of a checkpoint. The library only creates the file: it places one
// contiguous dataset for each entry of the manifest and tells where; all contents are written by
// pwrite afterwards, by every rank, and reading (checkpoint_file.h) does not involve HDF5 at all.
#ifndef MOETRAIN_CHECKPOINT_TENSOR_FILE_H
#define MOETRAIN_CHECKPOINT_TENSOR_FILE_H

#include "checkpoint/manifest.h"

// Creates `path`, which must not exist, for an arranged manifest; fills in the offset of every
// dataset and header's offsets and counts. The contents are undefined. EXIT_IO on failure; the file
// may then exist. Not collective.
bool tensor_file_create(const char *path, Manifest *manifest, FileHeader *header, Error *err);

#endif
