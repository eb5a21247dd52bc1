// The index of a file of token numbers as Megatron has it, written (megatron_index.c reads it). Not
// collective.
#ifndef MOETRAIN_WORKER_DATA_MEGATRON_INDEX_H
#define MOETRAIN_WORKER_DATA_MEGATRON_INDEX_H

#include "worker/data/documents.h"

// The path of the index beside NAME.bin.
void megatron_index_path(const char *numbers, char index[CONFIG_PATH_BYTES]);
// Writes it for so many tokens of `width` bytes, 2 or 4: each document is a sequence. By way of a
// new file beside it: whole, on the disk, or not there. False with exit 5 for the disk, 3 for a
// document of more tokens than an index can count.
bool megatron_index_write(const char *numbers, const DocumentStarts *documents, int width,
                          int64_t tokens, Error *err);

#endif
