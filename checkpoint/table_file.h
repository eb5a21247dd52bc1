// A plain HDF5 file of whole tables, as h5py reads it: no hashes, nothing of a checkpoint.
#ifndef MOETRAIN_CHECKPOINT_TABLE_FILE_H
#define MOETRAIN_CHECKPOINT_TABLE_FILE_H

#include "checkpoint/manifest.h"

typedef struct Table {
    char name[DATASET_NAME_BYTES]; // HDF5 path below the root
    Tensor values;                 // on the host; rank 1 to 3, of a type that checkpoints have
} Table;

// Writes a new file. EXIT_IO; the file may then exist. Not collective.
bool table_file_write(const char *path, const Table *tables, int count, Error *err);

#endif
