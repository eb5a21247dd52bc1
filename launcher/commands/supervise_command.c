// moetrain supervise CONFIG.yaml -np N.
#include <stdlib.h>

#include "launcher/line_config.h"
#include "launcher/supervisor/live_hosts.h"
#include "launcher/supervisor/supervise.h"
#include "launcher/verbs.h"

// clang-format off
static const char HELP[] =
    "\n  moetrain supervise CONFIG.yaml -np N [options] [key=value ...]   trains, and starts again what breaks\n"
    "      --launcher TEXT    mpirun, srun, or a command line with {np} (srun in a Slurm job, else mpirun)\n"
    "      --hosts A:4,B:4    hosts and slots; when some are gone it goes on with fewer ranks\n"
    "      --daemon           in the background, its output in RUN/supervise.log\n"
    "      --wait SECONDS     before the first restart; doubles while there is no progress (5)\n";
// clang-format on

static const SuperviseOptions DEFAULTS = {.wait_seconds = 5};
static const CliOption OPTIONS[] = {
    CLI_WHOLE("-np", "a number of ranks from 1 to 65536", SuperviseOptions, ranks, 1, 65536),
    CLI_TEXT("--launcher", "mpirun, srun or a command line with {np}", SuperviseOptions, launcher),
    CLI_TEXT("--hosts", "host:slots, joined by commas", SuperviseOptions, hosts),
    CLI_FLAG("--daemon", SuperviseOptions, daemon),
    CLI_NUMBER("--wait", "a number of seconds from 0 to 300", SuperviseOptions, wait_seconds, 0,
               300),
    CLI_END};

// Without -np there are as many ranks as slots.
static bool check(CommandLine *line, Error *err) {
    SuperviseOptions *options = line->options;
    int slots = 0;
    if (options->hosts && !hosts_check(options->hosts, &slots, err)) return false;
    if (options->ranks == 0) options->ranks = slots;
    if (options->ranks == 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: supervise needs -np N, the number of ranks to start, or "
                         "--hosts with their slots");
    if (getenv("OMPI_COMM_WORLD_RANK"))
        return error_set(err, EXIT_CONFIG,
                         "command line: supervise starts mpirun by itself; leave it out");
    return true;
}

static int supervise(const CommandLine *line, Config *config, Error *err) {
    return supervise_run(line->options, config, line->path, line->overrides, line->override_count,
                         err);
}

static int run(const CommandLine *line, Error *err) {
    return with_line_config(line, CONFIG_OF_FILE, supervise, err);
}

const Verb SUPERVISE_VERB = {
    .name = "supervise",
    .help = HELP,
    .path = "a configuration",
    .overrides = true,
    .starts_runs = true,
    .options = OPTIONS,
    .options_bytes = sizeof(SuperviseOptions),
    .defaults = &DEFAULTS,
    .check = check,
    .run = run,
};
