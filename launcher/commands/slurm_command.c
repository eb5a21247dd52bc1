// moetrain slurm CONFIG.yaml -N NODES.
#include "launcher/line_config.h"
#include "launcher/slurm/batch_script.h"
#include "launcher/verbs.h"

// clang-format off
static const char HELP[] =
    "  moetrain slurm CONFIG.yaml -N NODES [options] [key=value ...]    writes an sbatch script that fits\n"
    "      --ntasks-per-node N    ranks on a node (1)\n"
    "      --time TIME            as sbatch has it (the partition's)\n"
    "      --launcher TEXT        supervise, srun or mpirun (supervise)\n"
    "      --array 'A=1; A=2'     one run each: key=value, and -np N for fewer ranks\n"
    "      -o FILE                instead of standard output\n";
// clang-format on

static const SlurmOptions DEFAULTS = {.launcher = "supervise", .tasks_per_node = 1};
static const CliOption OPTIONS[] = {
    SLURM_ROWS(SlurmOptions, ),
    CLI_TEXT("--launcher", "supervise, srun or mpirun", SlurmOptions, launcher),
    CLI_TEXT("--array", "runs parted by ';', each key=value and -np N", SlurmOptions, array),
    CLI_TEXT("-o", "a file", SlurmOptions, output), CLI_END};

static bool check(CommandLine *line, Error *err) {
    return slurm_options_check(line->options, err);
}

static int write_script(const CommandLine *line, Config *config, Error *err) {
    return batch_script_write(line->options, config, line->path, line->overrides,
                              line->override_count, err)
               ? EXIT_DONE
               : err->exit_code;
}

static int run(const CommandLine *line, Error *err) {
    return with_line_config(line, CONFIG_OF_FILE, write_script, err);
}

const Verb SLURM_VERB = {
    .name = "slurm",
    .help = HELP,
    .path = "a configuration",
    .overrides = true,
    .options = OPTIONS,
    .options_bytes = sizeof(SlurmOptions),
    .defaults = &DEFAULTS,
    .check = check,
    .run = run,
};
