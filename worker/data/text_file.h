// A text that a command names: a file of any bytes, or JSON lines, either with gzip or zstd, which
// are recognised as training data is. Not collective.
#ifndef MOETRAIN_WORKER_DATA_TEXT_FILE_H
#define MOETRAIN_WORKER_DATA_TEXT_FILE_H

#include "worker/data/data_content.h"

// Its bytes are text->file's; where it has documents that the format tells apart, text->documents
// says where they begin. False with exit 3, also where a header says that it has token numbers. To
// be closed with data_content_close.
bool text_file_open(DataContent *text, const char *path, Error *err);

// Standard input as a text, of the bytes that it has; *taken: how many were read. Compressed bytes
// are refused when they are read.
void text_file_open_input(DataContent *text, int64_t *taken);

#endif
