// moetrain inspect CHECKPOINT.
#include "launcher/checkpoint_config.h"
#include "launcher/line_config.h"
#include "launcher/verbs.h"
#include "worker/inspect.h"

// clang-format off
static const char HELP[] =
    "  moetrain inspect [--digest] CHECKPOINT                      what is inside; --digest: one line of hex\n";
// clang-format on

typedef struct InspectOptions {
    bool digest; // nothing but that
} InspectOptions;

static const CliOption OPTIONS[] = {CLI_FLAG("--digest", InspectOptions, digest), CLI_END};

static int inspect(const CommandLine *line, Config *config, Error *err) {
    (void)line;
    return inspect_run(&config->train, config->source, err);
}

static int run(const CommandLine *line, Error *err) {
    const InspectOptions *options = line->options;
    char checkpoint[CONFIG_PATH_BYTES];
    if (!options->digest) return with_line_config(line, CONFIG_OF_CHECKPOINT, inspect, err);
    if (!checkpoint_path_resolve(line->path, checkpoint, err)) return err->exit_code;
    return inspect_digest(checkpoint, err);
}

const Verb INSPECT_VERB = {
    .name = "inspect",
    .help = HELP,
    .path = "a checkpoint",
    .options = OPTIONS,
    .options_bytes = sizeof(InspectOptions),
    .run = run,
};
