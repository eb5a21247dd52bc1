// mpirun -np N moetrain CONFIG.yaml, and --print-config, which only shows what it would do.
#include <stdio.h>
#include <stdlib.h>

#include "launcher/config_print.h"
#include "launcher/line_config.h"
#include "launcher/unread_keys.h"
#include "launcher/verbs.h"
#include "worker/train.h"

// clang-format off
static const char HELP[] =
    "  mpirun -np N moetrain CONFIG.yaml [key=value ...]     train; continues from the newest checkpoint\n"
    "  moetrain --print-config CONFIG.yaml [key=value ...]   every key, its value and where it came from\n";
// clang-format on

static int train(const CommandLine *line, const Config *config, const TrainConfig *train,
                 Error *err) {
    (void)line;
    char *yaml = config_to_yaml(config, false);
    KeyRule *rules = config_key_rules(config);
    config_warn_of_unread_keys(config);
    int exit_code = train_run(train, yaml, rules, err);
    free(rules);
    free(yaml);
    return exit_code;
}

static int run(const CommandLine *line, Error *err) {
    return with_shared_config(line, CONFIG_OF_FILE, train, err);
}

static int print(const CommandLine *line, Config *config, Error *err) {
    (void)line, (void)err;
    char *yaml = config_to_yaml(config, true);
    fputs(yaml, stdout);
    free(yaml);
    return EXIT_DONE;
}

static int print_config(const CommandLine *line, Error *err) {
    return with_line_config(line, CONFIG_OF_FILE, print, err);
}

static const Verb PRINT_CONFIG_VERB = {.run = print_config};

typedef struct TrainOptions {
    bool print_config;
} TrainOptions;

static const CliOption OPTIONS[] = {CLI_FLAG("--print-config", TrainOptions, print_config),
                                    CLI_END};

static bool check(CommandLine *line, Error *err) {
    const TrainOptions *options = line->options;
    (void)err;
    if (options->print_config) line->verb = &PRINT_CONFIG_VERB;
    return true;
}

const Verb TRAIN_VERB = {
    .help = HELP,
    .path = "a configuration",
    .overrides = true,
    .options = OPTIONS,
    .options_bytes = sizeof(TrainOptions),
    .check = check,
    .run_ranks = run,
};
