// `moetrain slurm`: an sbatch script that fits a configuration, made of the templates in this
// folder and of what the plan says: memory, GPUs, and how long before its time limit a job must be
// told.
#ifndef MOETRAIN_LAUNCHER_SLURM_BATCH_SCRIPT_H
#define MOETRAIN_LAUNCHER_SLURM_BATCH_SCRIPT_H

#include "launcher/config_origin.h"

typedef struct SlurmOptions {
    int64_t nodes, tasks_per_node;
    const char *launcher; // supervise, srun or mpirun
    const char *time;     // as sbatch has it; NULL: the partition's
    const char *array;    // lines, parted by ';': each a run's key=value and -np N; NULL: one run
    bool comparison;      // each task is a run of `compare`
    const char *output;   // a file; NULL: stdout
} SlurmOptions;

// Whether the words of the options make sense. False with exit 2. Not collective.
bool slurm_options_check(const SlurmOptions *options, Error *err);
// Writes the script of `path` with the overrides, once every run of it is known to be a legal one
// on its ranks. False with exit 2, 3 or 5. Not collective.
bool batch_script_write(const SlurmOptions *options, const Config *config, const char *path,
                        const char *const *overrides, int override_count, Error *err);
// The script of a comparison: a task for each of its configurations, in which `moetrain compare` of
// `path` and the words behind it does one run. False with exit 2, 3 or 5. Not collective.
bool batch_script_write_comparison(const SlurmOptions *options, const Config *const *configs,
                                   int count, const char *name, const char *path,
                                   const char *const *words, int word_count, Error *err);

// sbatch's --time: "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours",
// "days-hours:minutes", "days-hours:minutes:seconds". In seconds; -1: none of these.
double sbatch_time_seconds(const char *text);

#endif
