// Verification shared out among the ranks.
#ifndef MOETRAIN_CHECKPOINT_VERIFY_H
#define MOETRAIN_CHECKPOINT_VERIFY_H

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_file.h"

// Opens a file on every rank and compares it with its hashes to this depth; every rank has to see
// the same file. Errors as of checkpoint_verify. Collective over all ranks.
bool verify_together(const char *path, VerifyDepth depth, Error *err);
// Each rank has opened the path for itself, and checked only its share of what it found there:
// whether it is one file. Collective over all ranks.
bool verify_same_file(const char *path, const FileHeader *header, Error *err);

#endif
