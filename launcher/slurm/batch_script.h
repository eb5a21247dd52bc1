// `moetrain slurm`: an sbatch script that fits a configuration, made of the templates in this
// folder and of what the plan says: memory, GPUs, and how long before its time limit a job must be
// told.
#ifndef MOETRAIN_LAUNCHER_SLURM_BATCH_SCRIPT_H
#define MOETRAIN_LAUNCHER_SLURM_BATCH_SCRIPT_H

#include "launcher/cli.h"
#include "launcher/config_origin.h"

// What the tasks of an array do.
typedef enum SlurmTasks {
    SLURM_RUNS,          // the run of the configuration, or those of `array`
    SLURM_COMPARED_RUNS, // `moetrain compare --task N`
    SLURM_SCALE_POINTS,  // `moetrain scale --task N`
} SlurmTasks;

typedef struct SlurmOptions {
    int64_t nodes, tasks_per_node;
    const char *launcher; // supervise, srun or mpirun
    const char *time;     // as sbatch has it; NULL: the partition's
    const char *array;    // lines, parted by ';': each a run's key=value and -np N; NULL: one run
    SlurmTasks tasks;
    const char *output; // a file; NULL: stdout
} SlurmOptions;

// Rows of a verb's options that are fields of a SlurmOptions, `within` the struct of its own.
#define SLURM_ROWS(type, within)                                                                   \
    CLI_WHOLE("-N", "a number of nodes from 1 to 4096", type, within nodes, 1, 4096),              \
        CLI_WHOLE("--ntasks-per-node", "a number of ranks from 1 to 256", type,                    \
                  within tasks_per_node, 1, 256),                                                  \
        CLI_TEXT("--time", "a time limit as sbatch has it", type, within time)

// Whether the words of the options make sense. False with exit 2. Not collective.
bool slurm_options_check(const SlurmOptions *options, Error *err);
// The same of a verb that writes a script only with -N, and does one task with --task N (0: none).
bool slurm_tasks_check(const SlurmOptions *options, int64_t task, Error *err);
// Writes the script of `path` with the overrides, once every run of it is known to be a legal one
// on its ranks. False with exit 2, 3 or 5. Not collective.
bool batch_script_write(const SlurmOptions *options, const Config *config, const char *path,
                        const char *const *overrides, int override_count, Error *err);

typedef struct SlurmTask {
    Config *config;
    int ranks;
} SlurmTask;

// The script of options->tasks, each of which the verb does with `path` and the words behind it.
// False with exit 2, 3 or 5. Not collective.
bool batch_script_write_tasks(const SlurmOptions *options, const SlurmTask *tasks, int count,
                              const char *name, const char *path, const char *const *words,
                              int word_count, Error *err);

// sbatch's --time: "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours",
// "days-hours:minutes", "days-hours:minutes:seconds". In seconds; -1: none of these.
double sbatch_time_seconds(const char *text);

#endif
