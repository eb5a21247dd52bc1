// The manifest: which bytes of a checkpoint file are which dataset, and the hash of every byte.
//
//   0          512
//   | header   | HDF5 structure, manifest, block hashes and, anywhere among them, the datasets |
//
// The header lies in the HDF5 user block, which HDF5 readers skip. It says where the manifest and
// the block hashes are and holds three hashes; together with the block hashes they cover each byte
// of the file:
//   header_hash      the header itself
//   index_hash       manifest records, then block hashes
//   structure_hash   all bytes outside header and datasets, in file order: HDF5's own structures,
//                    gaps, and once more the records and block hashes
// So loading needs no HDF5 library and trusts no byte that was not hashed. Because hashes stop
// accidents and not attackers, parsing checks every number as well, and state_tensors.h those of
// the state and the history.
//
// A block, the unit of hashing, is at most BLOCK_BYTES of one dataset. Blocks of a dataset with
// row_blocks (experts on the first axis) never cross a row of the first axis, so a rank hashes
// exactly what it holds, whatever the number of ranks. Nothing here is collective.
#ifndef MOETRAIN_CHECKPOINT_MANIFEST_H
#define MOETRAIN_CHECKPOINT_MANIFEST_H

#include "checkpoint/hash.h"
#include "kernels/tensor.h"

enum {
    DATASET_NAME_BYTES = 128,
    DATASET_AXES = 3,
    HEADER_BYTES = 512,
    BLOCK_BYTES = 4 << 20,
};

// On disk, little-endian.
typedef struct FileHeader {
    char magic[8]; // "MOETRAIN"
    int64_t format_version;
    int64_t file_bytes;
    int64_t records_offset, record_count;
    int64_t hashes_offset, block_count;
    Hash index_hash, structure_hash;
    uint8_t zero[408];
    Hash header_hash; // of everything above
} FileHeader;
_Static_assert(sizeof(FileHeader) == HEADER_BYTES, "the header fills the smallest user block");

typedef struct ManifestRecord {
    char name[DATASET_NAME_BYTES];     // HDF5 path below the root, zero-padded
    char dtype[8];                     // "f32", …, zero-padded
    int64_t rank, shape[DATASET_AXES]; // unused axes are 1
    int64_t row_blocks;                // 0 or 1
    int64_t offset;                    // of the first byte in the file; 0 for an empty dataset
} ManifestRecord;
_Static_assert(sizeof(ManifestRecord) == 184, "no padding on disk");

typedef struct Dataset {
    char name[DATASET_NAME_BYTES];
    DType dtype;
    int rank;
    int64_t shape[DATASET_AXES];
    bool row_blocks;
    int64_t offset;
    // Derived.
    int64_t bytes, row_bytes;    // all of it; one row of the first axis
    int64_t first_block, blocks; // its part of the table of hashes
} Dataset;

typedef struct Manifest {
    Dataset *datasets; // ascending by name
    int64_t count, capacity;
    const Dataset **in_file_order; // those that are not empty; set by manifest_check_places
    int64_t in_file_count;
    Hash *hashes; // (blocks)
    int64_t blocks;
} Manifest;

// Some bytes of a file or of a dataset.
typedef struct Span {
    int64_t begin, bytes;
} Span;

void manifest_free(Manifest *manifest); // legal on a zeroed one

// Building: add every dataset (offset unknown), then arrange: sorts, derives, allocates zeroed
// hashes. arrange is false when a name, type or shape is not allowed or a name occurs twice.
void manifest_add(Manifest *manifest, const char *name, DType dtype, int rank,
                  const int64_t shape[], bool row_blocks);
bool manifest_arrange(Manifest *manifest, Error *err);
// False unless the datasets lie apart from each other, behind the header and inside file_bytes.
bool manifest_check_places(Manifest *manifest, int64_t file_bytes, Error *err);

// Gap 0 … in_file_count: the bytes between header, datasets and end of file, in file order. The
// places must have been checked.
Span manifest_gap(const Manifest *manifest, int64_t index, int64_t file_bytes);

// The dataset of this name, or NULL.
const Dataset *manifest_find(const Manifest *manifest, const char *name);

// Where block 0 … blocks-1 of a dataset lies, counted from the dataset's start.
Span dataset_block(const Dataset *dataset, int64_t block);

// To and from the disk. decode: fills *manifest from a checked header, its records and its hashes;
// EXIT_CHECKPOINT when anything is out of order.
ManifestRecord dataset_encode(const Dataset *dataset);
bool manifest_decode(Manifest *manifest, const FileHeader *header, const ManifestRecord *records,
                     const Hash *hashes, Error *err);

// Fills in magic and header_hash.
void header_seal(FileHeader *header);
// False unless it is the header of a file of file_bytes whose parts lie inside the file.
bool header_check(const FileHeader *header, int64_t file_bytes, Error *err);
Hash index_hash(const ManifestRecord *records, int64_t count, const Hash *hashes, int64_t blocks);

#endif
