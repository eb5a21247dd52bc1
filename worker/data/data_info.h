// `moetrain data info FILE`: what a data file is.
#ifndef MOETRAIN_WORKER_DATA_DATA_INFO_H
#define MOETRAIN_WORKER_DATA_DATA_INFO_H

#include "worker/train_config.h"

// Prints format, tokens, documents, vocabulary, bytes per token and how it begins, of both parts of
// a folder. config: data.format, where a file does not say how wide its numbers are, how JSON and
// compressed files are read, and a tokenizer, whose tokens are then decoded or counted. Returns the
// exit code. Not collective.
int data_info_run(const DataConfig *config, const char *path, Error *err);

#endif
