// mpirun -np N moetrain analyse CHECKPOINT.
#include "launcher/line_config.h"
#include "launcher/verbs.h"
#include "worker/analysis/analyse.h"

// clang-format off
static const char HELP[] =
    "  mpirun -np N moetrain analyse CHECKPOINT --data A,B -o FOLDER [key=value ...]   which tokens choose\n"
    "                         which experts: tables.h5 and figures, for each layer\n";
// clang-format on

static const AnalyseOptions DEFAULTS = {.folder = "analysis"};
static const CliOption OPTIONS[] = {
    CLI_TEXT("--data", "data sets with commas between them", AnalyseOptions, data),
    CLI_TEXT("-o", "a new folder", AnalyseOptions, folder), CLI_END};

static int analyse(const CommandLine *line, const Config *config, const TrainConfig *train,
                   Error *err) {
    return analyse_run(train, config->source, line->options, err);
}

static int run(const CommandLine *line, Error *err) {
    return with_shared_config(line, CONFIG_OF_CHECKPOINT, analyse, err);
}

const Verb ANALYSE_VERB = {
    .name = "analyse",
    .help = HELP,
    .path = "a checkpoint",
    .overrides = true,
    .options = OPTIONS,
    .options_bytes = sizeof(AnalyseOptions),
    .defaults = &DEFAULTS,
    .run_ranks = run,
};
