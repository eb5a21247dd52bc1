// A data file opened by all ranks together.
#ifndef MOETRAIN_WORKER_DATA_OPEN_DATA_H
#define MOETRAIN_WORKER_DATA_OPEN_DATA_H

#include "worker/data/data_loader.h"

// Opens and validates the file that the configuration names under `key` for that part, its scan
// shared among the ranks, and makes sure that all ranks see the same content: its identity goes to
// `identity`. False with exit 3 and the same error on every rank; what was opened is to be closed
// by the caller all the same. Collective over all ranks.
bool open_data(DataFile **file, const char *key, const char *path, DataPart part,
               const Vocabulary *vocabulary, char identity[40], Error *err);

#endif
