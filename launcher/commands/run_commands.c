// What one asks of a run or of its supervisor: moetrain status, checkpoint-now, set and
// stop.
#include <stdio.h>

#include "launcher/status.h"
#include "launcher/supervisor/control_socket.h"
#include "launcher/verbs.h"

// clang-format off
static const char STATUS_HELP[] =
    "  moetrain status [RUN] [--json]                              how a run is going, or how it ended\n";
// clang-format on

// clang-format off
static const char CHECKPOINT_NOW_HELP[] =
    "  moetrain checkpoint-now [RUN]       a supervised run saves after the step that runs\n";
// clang-format on

// clang-format off
static const char SET_HELP[] =
    "  moetrain set RUN KEY VALUE          log.every, eval.every, checkpoint.every, checkpoint.keep_last,\n"
    "                                      train.lr or train.min_lr from the next step on\n";
// clang-format on

// clang-format off
static const char STOP_HELP[] =
    "  moetrain stop [RUN]                 it saves and ends with exit code 75\n";
// clang-format on

static const char *run_directory(const CommandLine *line) {
    return line->path ? line->path : ".";
}

// ---- its files ----------------------------------------------------------------------------------

typedef struct StatusOptions {
    bool json;
} StatusOptions;

static const CliOption STATUS_OPTIONS[] = {CLI_FLAG("--json", StatusOptions, json), CLI_END};

static int status(const CommandLine *line, Error *err) {
    const StatusOptions *options = line->options;
    return status_print(run_directory(line), options->json, err) ? EXIT_DONE : err->exit_code;
}

const Verb STATUS_VERB = {
    .name = "status",
    .help = STATUS_HELP,
    .path = "a run directory",
    .alone = true,
    .options = STATUS_OPTIONS,
    .options_bytes = sizeof(StatusOptions),
    .run = status,
};

// ---- its supervisor -----------------------------------------------------------------------------

static int ask(const CommandLine *line, const char *request, Error *err) {
    return control_socket_ask(run_directory(line), request, err) ? EXIT_DONE : err->exit_code;
}

static int checkpoint_now(const CommandLine *line, Error *err) {
    return ask(line, "checkpoint-now", err);
}

const Verb CHECKPOINT_NOW_VERB = {
    .name = "checkpoint-now",
    .help = CHECKPOINT_NOW_HELP,
    .path = "a run directory",
    .alone = true,
    .run = checkpoint_now,
};

static bool check_key_and_value(CommandLine *line, Error *err) {
    return line->word_count == 2 ||
           error_set(err, EXIT_CONFIG, "command line: set needs RUN KEY VALUE");
}

static int set(const CommandLine *line, Error *err) {
    char request[CONTROL_LINE_BYTES];
    snprintf(request, sizeof request, "set %s %s", line->words[0], line->words[1]);
    return ask(line, request, err);
}

const Verb SET_VERB = {
    .name = "set",
    .help = SET_HELP,
    .path = "a run directory",
    .words = 2,
    .check = check_key_and_value,
    .run = set,
};

static int stop(const CommandLine *line, Error *err) {
    return ask(line, "stop", err);
}

const Verb STOP_VERB = {
    .name = "stop",
    .help = STOP_HELP,
    .path = "a run directory",
    .alone = true,
    .run = stop,
};
