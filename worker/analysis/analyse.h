// `moetrain analyse`: what the experts of a checkpoint work on.
#ifndef MOETRAIN_WORKER_ANALYSIS_ANALYSE_H
#define MOETRAIN_WORKER_ANALYSIS_ANALYSE_H

#include "worker/train_config.h"

typedef struct AnalyseOptions {
    const char *data;   // paths of data sets with commas between them; NULL: data.validation
    const char *folder; // to be made
} AnalyseOptions;

// Reads every data set as evaluation does and writes, into a new folder, tables (tables.h5) and
// figures (coactivation.svg, domains.svg, vocabulary.svg) of which tokens chose which experts; the
// same numbers on any number of ranks. config: the checkpoint's own, with overrides. Returns the
// exit code. Collective over all ranks.
int analyse_run(const TrainConfig *config, const char *checkpoint_path,
                const AnalyseOptions *options, Error *err);

#endif
