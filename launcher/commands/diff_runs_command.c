// moetrain diff-runs RUN RUN; and --live, which trains two configurations to the first difference.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/log.h"
#include "launcher/cli_numbers.h"
#include "launcher/config.h"
#include "launcher/config_rules.h"
#include "launcher/own_process.h"
#include "launcher/verbs.h"
#include "worker/diff_runs.h"
#include "worker/run/signals.h"

// clang-format off
static const char HELP[] =
    "  moetrain diff-runs RUN RUN                                  where two runs part, by log.digest_every;\n"
    "                                                              exit code 1 when they do\n"
    "  moetrain diff-runs --live A.yaml B.yaml [key=value ...]     trains both, a step, two, four, ..., until they part\n"
    "      -np N,M            on how many ranks (1,1); --launcher TEXT as supervise has it\n"
    "      --program FILE     that trains B: another build; -o FOLDER of both runs (runs/live)\n";
// clang-format on

typedef struct DiffOptions {
    bool live;
    const char *ranks, *launcher, *program, *output;
    int numbers[2]; // of `ranks`
} DiffOptions;

static const DiffOptions DEFAULTS = {.output = "runs/live", .numbers = {1, 1}};
static const CliOption OPTIONS[] = {
    CLI_FLAG("--live", DiffOptions, live),
    CLI_TEXT("-np", "two numbers of ranks with a comma between them", DiffOptions, ranks),
    CLI_TEXT("--launcher", "mpirun, srun or a command line with {np}", DiffOptions, launcher),
    CLI_TEXT("--program", "a moetrain", DiffOptions, program),
    CLI_TEXT("-o", "a new folder", DiffOptions, output),
    CLI_END};

static bool read_ranks(DiffOptions *options) {
    const char *comma = strchr(options->ranks, ',');
    char first[16];
    int64_t numbers[2];
    if (!comma) return false;
    snprintf(first, sizeof first, "%.*s", (int)(comma - options->ranks), options->ranks);
    if (!whole_number(first, 1, 65536, &numbers[0]) ||
        !whole_number(comma + 1, 1, 65536, &numbers[1]))
        return false;
    for (int i = 0; i < 2; i++) options->numbers[i] = (int)numbers[i];
    return true;
}

static bool check(CommandLine *line, Error *err) {
    DiffOptions *options = line->options;
    bool lives = options->ranks || options->program || line->override_count > 0;
    if (line->word_count != 1)
        return error_set(err, EXIT_CONFIG, "command line: diff-runs needs two %s",
                         options->live ? "configurations behind --live" : "run directories");
    if (!options->live && lives)
        return error_set(err, EXIT_CONFIG,
                         "command line: -np, --program and key=value are of --live, which trains; "
                         "add it, or leave them out");
    return !options->ranks || read_ranks(options) ||
           error_set(err, EXIT_CONFIG,
                     "command line: -np is '%.60s', but must be two numbers of ranks with a comma "
                     "between them",
                     options->ranks);
}

// ---- live ---------------------------------------------------------------------------------------

typedef struct Side {
    const char *program;
    int ranks;
    char dir[CONFIG_PATH_BYTES];
    int64_t steps; // of its configuration
} Side;

static const char CONFIG_NAME[] = "live.yaml";

static bool prepare(Side *side, const CommandLine *line, const char *path, Error *err) {
    char dir[CONFIG_PATH_BYTES + 16], *text = NULL;
    size_t bytes = 0;
    snprintf(dir, sizeof dir, "run.dir=%s", side->dir);
    const char *const words[] = {dir, "log.digest_every=1"};
    const ConfigOverrides sets[] = {{.words = line->overrides, .count = line->override_count},
                                    {.words = words, .count = 2}};
    Config *config = config_new();
    TrainConfig *train = calloc(1, sizeof *train);
    CHECK_MEMORY(train, "out of memory");
    bool ok = config_load_text(path, &text, &bytes, err) &&
              config_read_changed(config, path, text, bytes, sets, 2, err) &&
              config_check_ranks(config, side->ranks, train, err) &&
              own_process_write_config(side->dir, CONFIG_NAME, config, err);
    side->steps = config->train.steps;
    free(text);
    free(train);
    free(config);
    return ok;
}

// Trains it up to `step`, from where it is. False with *err where it fails.
static bool go_on(const Side *side, const char *launcher, int64_t step, Error *err) {
    char until[48];
    snprintf(until, sizeof until, "run.stop_at=%lld", (long long)step);
    int code = own_process_train(side->program, side->dir, CONFIG_NAME, "live.log", "diff-runs",
                                 side->ranks, launcher, step < side->steps ? until : NULL, err);
    if (err->message[0]) return false;
    if (signals_received())
        return error_set(err, EXIT_REQUEUE, "stopped before step %lld", (long long)step);
    return code == EXIT_DONE || code == EXIT_REQUEUE ||
           error_set(err, (ExitCode)code, "training to step %lld failed; see %s/live.log",
                     (long long)step, side->dir);
}

// Twice as many steps each time: what comes after a difference costs no more than what was before.
static int live(const CommandLine *line, Error *err) {
    const DiffOptions *options = line->options;
    Side a = {.ranks = options->numbers[0]};
    Side b = {.program = options->program, .ranks = options->numbers[1]};
    snprintf(a.dir, sizeof a.dir, "%s/a", options->output);
    snprintf(b.dir, sizeof b.dir, "%s/b", options->output);
    if (!prepare(&a, line, line->path, err) || !prepare(&b, line, line->words[0], err))
        return err->exit_code;
    int64_t steps = a.steps < b.steps ? a.steps : b.steps;
    int code = 0;
    for (int64_t step = 1, last = 0; last < steps && code == 0; step *= 2) {
        last = step < steps ? step : steps;
        if (!go_on(&a, options->launcher, last, err) || !go_on(&b, options->launcher, last, err))
            return err->exit_code;
        code = diff_runs(a.dir, b.dir, err);
        fflush(stdout);
    }
    return code;
}

static int run(const CommandLine *line, Error *err) {
    const DiffOptions *options = line->options;
    return options->live ? live(line, err) : diff_runs(line->path, line->words[0], err);
}

const Verb DIFF_RUNS_VERB = {
    .name = "diff-runs",
    .help = HELP,
    .path = "two run directories",
    .words = 1,
    .overrides = true,
    .starts_runs = true,
    .options = OPTIONS,
    .options_bytes = sizeof(DiffOptions),
    .defaults = &DEFAULTS,
    .check = check,
    .run = run,
};
