// moetrain checkpoint verify, diff, export-npz and prune.

#include <string.h>

#include "kernels/suggest.h"
#include "launcher/checkpoint_config.h"
#include "launcher/verbs.h"
#include "worker/checkpoint_tools.h"

// clang-format off
static const char HELP[] =
    "  moetrain checkpoint verify CHECKPOINT|RUN                   compares every byte with its hash\n"
    "  moetrain checkpoint diff CHECKPOINT CHECKPOINT              what differs; exit code 1 when something does\n"
    "  moetrain checkpoint export-npz CHECKPOINT FILE.npz          parameters for numpy.load\n"
    "  moetrain checkpoint prune RUN --keep-last N [--keep-every N]   removes the others, never the newest that holds\n";
// clang-format on

static const CliOption OPTIONS[] = {
    CLI_WHOLE("--keep-last", "a number of checkpoints from 1", CheckpointKeep, last, 1, INT32_MAX),
    CLI_WHOLE("--keep-every", "a number of steps from 1", CheckpointKeep, every, 1, MOST_DIGITS),
    CLI_END};

typedef struct Command {
    const char *name, *needs;
    int words;
} Command;

static const Command COMMANDS[] = {
    {"verify", "a checkpoint, or a run's folder", 1},
    {"diff", "two checkpoints", 2},
    {"export-npz", "a checkpoint and the name of a new file", 2},
    {"prune", "a run's folder and --keep-last N", 1},
};
enum { VERIFY, DIFF, EXPORT_NPZ, PRUNE, COMMAND_COUNT };

static int find(const char *name) {
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(COMMANDS[i].name, name) == 0) return i;
    return COMMAND_COUNT;
}

static bool check(CommandLine *line, Error *err) {
    int command = find(line->path);
    const CheckpointKeep *keep = line->options;
    bool keeps = keep->last > 0 || keep->every > 0;
    if (command == COMMAND_COUNT) {
        const char *names[COMMAND_COUNT + 1] = {NULL};
        for (int i = 0; i < COMMAND_COUNT; i++) names[i] = COMMANDS[i].name;
        const char *near = suggest_word(line->path, names);
        return error_set(err, EXIT_CONFIG,
                         "command line: checkpoint can verify, diff, export-npz and prune, not "
                         "'%.60s'%s%s%s",
                         line->path, near ? "; did you mean '" : "", near ? near : "",
                         near ? "'?" : "");
    }
    const Command *wanted = &COMMANDS[command];
    if (line->word_count != wanted->words || (command == PRUNE && keep->last == 0))
        return error_set(err, EXIT_CONFIG, "command line: checkpoint %s needs %s", wanted->name,
                         wanted->needs);
    return !keeps || command == PRUNE ||
           error_set(err, EXIT_CONFIG,
                     "command line: --keep-last and --keep-every belong to checkpoint prune, not "
                     "to checkpoint %s",
                     wanted->name);
}

static int run(const CommandLine *line, Error *err) {
    char path[CONFIG_PATH_BYTES], other[CONFIG_PATH_BYTES];
    const char *const *words = line->words;
    const CheckpointKeep *keep = line->options;
    int command = find(line->path);
    if (command == VERIFY) return checkpoint_tool_verify(words[0], err);
    if (command == PRUNE) return checkpoint_tool_prune(words[0], *keep, err);
    if (!checkpoint_path_resolve(words[0], path, err)) return err->exit_code;
    if (command == EXPORT_NPZ) return checkpoint_tool_export_npz(path, words[1], err);
    if (!checkpoint_path_resolve(words[1], other, err)) return err->exit_code;
    return checkpoint_tool_diff(path, other, err);
}

const Verb CHECKPOINT_VERB = {
    .name = "checkpoint",
    .help = HELP,
    .path = "verify, diff, export-npz or prune",
    .words = 2,
    .options = OPTIONS,
    .options_bytes = sizeof(CheckpointKeep),
    .check = check,
    .run = run,
};
