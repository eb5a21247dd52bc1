// An open checkpoint, read by pread and checked by hash: whatever these functions hand out has been
// compared with its hash first. Nothing here is collective; ranks share a verification by taking
// parts of it.
#ifndef MOETRAIN_CHECKPOINT_CHECKPOINT_FILE_H
#define MOETRAIN_CHECKPOINT_CHECKPOINT_FILE_H

#include "checkpoint/manifest.h"

typedef struct CheckpointFile {
    int fd;
    FileHeader header;
    Manifest manifest;
    char *block; // the block read last
    // What will be read, in this order, and how much of it the disk has been asked for: all of the
    // first `asked` and asked_bytes of the next.
    Span *expected;
    int64_t expected_count, expected_room, asked, asked_bytes;
    int64_t ahead_bytes; // asked for and not yet read
} CheckpointFile;

// Opens and checks header and manifest. EXIT_CHECKPOINT when they are damaged, EXIT_IO when the
// file cannot be read. Close it only if open succeeded.
bool checkpoint_file_open(CheckpointFile *file, const char *path, Error *err);
void checkpoint_file_close(CheckpointFile *file);

// Says that bytes [begin, begin + bytes) of a dataset will be read, after what was said before: the
// disk then works ahead of the reader. Only a hint.
void checkpoint_file_expect(CheckpointFile *file, const Dataset *dataset, int64_t begin,
                            int64_t bytes);
// Reads block `block` of a dataset into file->block and compares its hash.
bool checkpoint_file_read_block(CheckpointFile *file, const Dataset *dataset, int64_t block,
                                Error *err);
// Bytes [begin, begin + bytes) of a dataset.
bool checkpoint_file_read(CheckpointFile *file, const Dataset *dataset, int64_t begin,
                          int64_t bytes, void *out, Error *err);
// Writes bytes at an offset and hashes them piece by piece, while a piece is in the CPU's cache.
bool write_and_hash(int fd, const char *from, int64_t bytes, int64_t offset, Hash *hash,
                    Error *err);
// All bytes outside header and datasets.
bool checkpoint_file_verify_structure(CheckpointFile *file, Error *err);
// Every `parts`-th block from block `part` on, except of datasets that are known to hold (one
// answer for each of the manifest's; NULL: of none); part 0 also verifies the structure. All parts
// together cover every byte of the file.
bool checkpoint_file_verify(CheckpointFile *file, const bool *known, int part, int parts,
                            Error *err);

// The hash of the structure. The manifest's places must have been checked.
bool structure_hash(int fd, const Manifest *manifest, int64_t file_bytes, Hash *hash, Error *err);

#endif
