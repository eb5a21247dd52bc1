// Tokens of a text beside the run, so that a text is encoded once: a file of numbers (token_file.h)
// whose name is the hash of the text, its documents, the tokenizer and the form; and where it has
// documents, an index of Megatron's (megatron_index.h) beside it. Not collective.
#ifndef MOETRAIN_WORKER_DATA_TOKEN_CACHE_H
#define MOETRAIN_WORKER_DATA_TOKEN_CACHE_H

#include "worker/tokenizer/token_file.h"

// Where the tokens of a text are, or would be, in `folder`. documents: in bytes. False with exit 3
// for the text.
bool token_cache_path(const Tokenizer *tokenizer, const FileReader *text,
                      const DocumentStarts *documents, const char *folder,
                      char path[CONFIG_PATH_BYTES], Error *err);
// Makes the file, and the folder, unless it is there. Calls `progress` now and then, unless it is
// NULL. False with exit 3 for the text, 5 for the disk.
bool token_cache_make(const Tokenizer *tokenizer, const FileReader *text,
                      const DocumentStarts *documents, const char *folder, void (*progress)(void),
                      Error *err);

#endif
