// moetrain help, --help and --version.
#include "launcher/config_print.h"
#include "launcher/verbs.h"
#include "launcher/version.h"

// clang-format off
static const char HELP[] =
    "  moetrain help [KEY or SECTION]                        what the keys mean\n";
// clang-format on

// clang-format off
static const char HELP_END[] =
    "\n  A CHECKPOINT is a file RUN/checkpoints/step-….h5, or RUN for the newest of that run.\n"
    "\n"
    "  moetrain --help, --version\n"
    "\n"
    "Exit codes: 0 done, 2 configuration or arguments, 3 data, 4 checkpoint, 5 input/output\n"
    "or memory, 6 numeric, 7 communication or device, 8 hang, 70 a bug of the program, 75 saved on a\n"
    "signal or before the time limit: run the same command again.\n";
// clang-format on

static int help(const CommandLine *line, Error *err) {
    if (line->path) return config_print_key(stdout, line->path, err) ? EXIT_DONE : err->exit_code;
    config_print_keys(stdout);
    return EXIT_DONE;
}

const Verb HELP_VERB = {
    .name = "help",
    .help = HELP,
    .path = "a key",
    .alone = true,
    .run = help,
};

static int usage(const CommandLine *line, Error *err) {
    (void)line, (void)err;
    printf("moetrain trains Mixture-of-Experts language models on MPI ranks.\n\n");
    for (const Verb *const *verb = VERBS; *verb; verb++) fputs((*verb)->help, stdout);
    fputs(HELP_END, stdout);
    return EXIT_DONE;
}

static int version(const CommandLine *line, Error *err) {
    (void)line;
    return version_print(stdout, err) ? EXIT_DONE : err->exit_code;
}

const Verb USAGE_VERB = {.run = usage};
const Verb VERSION_VERB = {.run = version};
