// What ranks that start together must have in common, each as a table of facts: the program, what
// it was told, the processor or GPU, the data. Configuration is not here: rank 0's is given to all.
#ifndef MOETRAIN_WORKER_COMPARE_RANKS_H
#define MOETRAIN_WORKER_COMPARE_RANKS_H

#include "kernels/device.h"
#include "worker/data/data_loader.h"

// The program file, its MPI library, and the words of the command line. Before anything else
// travels, since another program may mean something else by the same bytes. Exit 7 for another
// program, 2 for other words. Collective over all ranks.
bool compare_programs(int word_count, char *const *words, Error *err);

// Kind of processor or GPU, and what it makes of the same numbers. Under `ranks` a difference is
// exit 7, otherwise a warning; a CPU beside a GPU is always exit 7. Collective over all ranks.
bool compare_devices(Device *dev, Reproducible reproducible, Error *err);

// The tokens of a vocabulary: how many, and which. Exit 3. Collective over all ranks.
bool compare_vocabularies(const Vocabulary *vocabulary, Error *err);

// The content of the data file that `key` names, as hashes in words. Exit 3. Collective over all
// ranks.
bool compare_data_files(const char *key, const char *path, const DataFile *file,
                        const char *content, Error *err);

#endif
