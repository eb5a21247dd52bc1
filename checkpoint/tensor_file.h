// The HDF5 side of a checkpoint. The library only says how such a file looks: it lays one out in
// memory, with a contiguous dataset for each entry of the manifest, and we copy its structure to
// the disk. So HDF5 never meets a full disk, after which it may crash, or a file system without
// locks. All contents are written by pwrite afterwards, by every rank, and reading
// (checkpoint_file.h) needs no HDF5.
#ifndef MOETRAIN_CHECKPOINT_TENSOR_FILE_H
#define MOETRAIN_CHECKPOINT_TENSOR_FILE_H

#include "checkpoint/manifest.h"

// Creates `path`, which must not exist, for an arranged manifest: its whole length and the
// structure, the datasets still holes. Fills in the offset of every dataset and header's offsets,
// counts and file_bytes; header NULL: without the index of the manifest, datasets alone. EXIT_IO on
// failure; the file may then exist. Not collective.
bool tensor_file_create(const char *path, Manifest *manifest, FileHeader *header, Error *err);

#endif
