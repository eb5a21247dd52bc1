// `moetrain compare`: trains the rows of a comparison, seed after seed, and writes what they come
// to. Called again it goes on: what is done is not done again. Not collective.
#ifndef MOETRAIN_LAUNCHER_COMPARE_COMPARE_COMMAND_H
#define MOETRAIN_LAUNCHER_COMPARE_COMPARE_COMMAND_H

#include "launcher/slurm/batch_script.h"

typedef struct CompareOptions {
    int ranks;            // of a run
    const char *launcher; // of ranks, as supervise has it
    const char *output;   // the folder of runs and tables; NULL: runs/NAME of NAME.yaml
    bool plan;            // only shows the rows
    int64_t task;         // only this run, from 1; 0: all
    SlurmOptions slurm;   // with nodes: only writes a script, whose tasks do a run each
} CompareOptions;

// Whether the options go together. False with exit 2.
bool compare_options_check(const CompareOptions *options, Error *err);
// Nothing is begun unless every run is a legal one. Returns the exit code: 0 when all are done, 75
// when it was asked to stop, else that of the first run that failed, the others being tried all the
// same.
int compare_run(const CompareOptions *options, const char *path, const char *const *overrides,
                int override_count, Error *err);

#endif
