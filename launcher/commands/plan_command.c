// moetrain plan CONFIG.yaml -np N.
#include <string.h>

#include "launcher/checkpoint_config.h"
#include "launcher/config_rules.h"
#include "launcher/line_config.h"
#include "launcher/unread_keys.h"
#include "launcher/verbs.h"
#include "worker/plan.h"
#include "worker/plan_data.h"
#include "worker/plan_placement.h"

// clang-format off
static const char HELP[] =
    "  moetrain plan CONFIG.yaml -np N [key=value ...]       parameters, memory and traffic on N ranks\n";
// clang-format on

typedef struct PlanOptions {
    int64_t ranks; // 0: not said
} PlanOptions;

static const CliOption OPTIONS[] = {
    CLI_WHOLE("-np", "a number of ranks from 1 to 65536", PlanOptions, ranks, 1, 65536), CLI_END};

static bool check(CommandLine *line, Error *err) {
    const PlanOptions *options = line->options;
    return options->ranks > 0 ||
           error_set(err, EXIT_CONFIG,
                     "command line: plan needs -np N, the number of ranks to plan for");
}

// Of the checkpoint that a run would go on from.
static bool print_placement(const TrainConfig *train, int ranks, Error *err) {
    char path[CONFIG_PATH_BYTES] = "";
    bool found = true;
    if (train->placement != PLACEMENT_MEASURED) return true;
    if (choice_find(RESUME_CHOICES, train->resume) < 0)
        found = checkpoint_path_resolve(train->resume, path, err);
    else if (strcmp(train->resume, "never") != 0)
        found = checkpoint_find_newest(train->run_dir, path, err);
    return found && plan_print_placement(train, ranks, path, err);
}

static int plan(const CommandLine *line, Config *config, Error *err) {
    const PlanOptions *options = line->options;
    TrainConfig train;
    Vocabulary vocabulary = {0};
    if (!config_check_ranks(config, (int)options->ranks, &train, err)) return err->exit_code;
    if (!plan_resolve_vocabulary(&train, &vocabulary, err)) return err->exit_code;
    config_warn_of_unread_keys(config);
    int exit_code = plan_run(&train, (int)options->ranks, err);
    if (exit_code == EXIT_DONE && (!print_placement(&train, (int)options->ranks, err) ||
                                   !plan_print_data(&train, &vocabulary, err)))
        exit_code = err->exit_code;
    vocabulary_free(&vocabulary);
    return exit_code;
}

static int run(const CommandLine *line, Error *err) {
    return with_line_config(line, CONFIG_OF_FILE, plan, err);
}

const Verb PLAN_VERB = {
    .name = "plan",
    .help = HELP,
    .path = "a configuration",
    .overrides = true,
    .options = OPTIONS,
    .options_bytes = sizeof(PlanOptions),
    .check = check,
    .run = run,
};
