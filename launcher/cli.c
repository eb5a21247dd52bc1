#include "launcher/cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/suggest.h"
#include "launcher/checkpoint_command.h"
#include "launcher/config_keys.h"
#include "launcher/habits.h"
#include "launcher/supervisor/live_hosts.h"

// ---- what may be written ------------------------------------------------------------------------

typedef struct VerbRow {
    const char *name;
    Verb verb;
    const char *path; // what the first plain word is
    bool overrides;   // whether key=value may follow
    bool alone;       // whether the path may be left out
} VerbRow;

static const VerbRow VERBS[] = {
    {"evaluate", VERB_EVALUATE, "a checkpoint", true, false},
    {"generate", VERB_GENERATE, "a checkpoint", true, false},
    {"inspect", VERB_INSPECT, "a checkpoint", false, false},
    {"plan", VERB_PLAN, "a configuration", true, false},
    {"help", VERB_HELP, "a key", false, true},
    {"supervise", VERB_SUPERVISE, "a configuration", true, false},
    {"checkpoint-now", VERB_CHECKPOINT_NOW, "a run directory", false, true},
    {"stop", VERB_STOP, "a run directory", false, true},
    {"set", VERB_SET, "a run directory", true, false},
    {"status", VERB_STATUS, "a run directory", false, true},
    {"checkpoint", VERB_CHECKPOINT, "verify, diff, export-npz or prune", false, false},
};
enum { VERB_COUNT = sizeof VERBS / sizeof *VERBS };
// Without a word of its own; --print-config turns it into VERB_PRINT_CONFIG.
static const VerbRow TRAIN = {"train", VERB_TRAIN, "a configuration", true, false};

typedef struct OptionRow {
    const char *name;
    Verb verb;         // the one verb that has it
    const char *value; // what its value is; NULL: none
} OptionRow;

static const OptionRow OPTIONS[] = {
    {"--print-config", VERB_TRAIN, NULL},
    {"--prompt", VERB_GENERATE, "a text"},
    {"--tokens", VERB_GENERATE, "a number of tokens from 1 to 1000000"},
    {"--temperature", VERB_GENERATE, "a number from 0 to 100"},
    {"--top-k", VERB_GENERATE, "a number of tokens; 0 is off"},
    {"--top-p", VERB_GENERATE, "a number above 0 and up to 1"},
    {"--seed", VERB_GENERATE, "a whole number from 0"},
    {"--recompute", VERB_GENERATE, NULL},
    {"--digest", VERB_INSPECT, NULL},
    {"--json", VERB_STATUS, NULL},
    {"--keep-last", VERB_CHECKPOINT, "a number of checkpoints from 1"},
    {"--keep-every", VERB_CHECKPOINT, "a number of steps from 1"},
    {"-np", VERB_SUPERVISE, "a number of ranks from 1 to 65536"},
    {"--launcher", VERB_SUPERVISE, "mpirun, srun or a command line with {np}"},
    {"--hosts", VERB_SUPERVISE, "host:slots, joined by commas"},
    {"--daemon", VERB_SUPERVISE, NULL},
    {"--wait", VERB_SUPERVISE, "a number of seconds from 0 to 300"},
    {"-np", VERB_PLAN, "a number of ranks from 1 to 65536"},
};
enum { OPTION_COUNT = sizeof OPTIONS / sizeof *OPTIONS };

static const char *verb_name(Verb verb) {
    for (int row = 0; row < VERB_COUNT; row++)
        if (VERBS[row].verb == verb) return VERBS[row].name;
    return "moetrain CONFIG.yaml";
}

void cli_print_usage(FILE *out) {
    fprintf(out, "usage: mpirun -np N moetrain CONFIG.yaml [key=value ...]\n"
                 "       moetrain --help shows all commands, moetrain help all keys\n");
}

void cli_print_help(FILE *out) {
    fprintf(
        out,
        "moetrain trains Mixture-of-Experts language models on MPI ranks.\n"
        "\n"
        "  mpirun -np N moetrain CONFIG.yaml [key=value ...]     train; continues from the newest "
        "checkpoint\n"
        "  moetrain --print-config CONFIG.yaml [key=value ...]   every key, its value and where it "
        "came from\n"
        "  moetrain plan CONFIG.yaml -np N [key=value ...]       parameters, memory and traffic on "
        "N ranks\n"
        "  moetrain help [KEY or SECTION]                        what the keys mean\n"
        "\n"
        "  mpirun -np N moetrain evaluate CHECKPOINT [key=value ...]   loss on data.validation\n"
        "  moetrain generate CHECKPOINT [options] [key=value ...]      text, one token after "
        "another\n"
        "      --prompt TEXT      what it continues (empty)\n"
        "      --tokens N         how many tokens (200)\n"
        "      --temperature X    0 always takes the most likely token (0.8)\n"
        "      --top-k N          choose among the N most likely tokens; 0 is off (0)\n"
        "      --top-p X          choose among the most likely tokens that make up X of the "
        "probability (1)\n"
        "      --seed N           key of the random choices (1337)\n"
        "      --recompute        without the key/value cache: slow, for checking\n"
        "  moetrain inspect [--digest] CHECKPOINT                      what is inside; --digest: "
        "one line of hex\n"
        "\n"
        "  moetrain supervise CONFIG.yaml -np N [options] [key=value ...]   trains, and starts "
        "again "
        "what breaks\n"
        "      --launcher TEXT    mpirun, srun, or a command line with {np} (mpirun)\n"
        "      --hosts A:4,B:4    hosts and slots; when some are gone it goes on with fewer ranks\n"
        "      --daemon           in the background, its output in RUN/supervise.log\n"
        "      --wait SECONDS     before the first restart; doubles while there is no progress "
        "(5)\n"
        "  moetrain status [RUN] [--json]                              how a run is going, or how "
        "it "
        "ended\n"
        "  moetrain checkpoint verify CHECKPOINT|RUN                   compares every byte with "
        "its "
        "hash\n"
        "  moetrain checkpoint diff CHECKPOINT CHECKPOINT              what differs; exit code 1 "
        "when something does\n"
        "  moetrain checkpoint export-npz CHECKPOINT FILE.npz          parameters for numpy.load\n"
        "  moetrain checkpoint prune RUN --keep-last N [--keep-every N]   removes the others, "
        "never "
        "the newest that holds\n"
        "  moetrain checkpoint-now [RUN]       a supervised run saves after the step that runs\n"
        "  moetrain set RUN KEY VALUE          log.every, eval.every, checkpoint.every, "
        "checkpoint.keep_last,\n"
        "                                      train.lr or train.min_lr from the next step on\n"
        "  moetrain stop [RUN]                 it saves and ends with exit code 75\n"
        "\n"
        "  A CHECKPOINT is a file RUN/checkpoints/step-….h5, or RUN for the newest of that run.\n"
        "\n"
        "  moetrain --help, --version\n"
        "\n"
        "Exit codes: 0 done, 2 configuration or arguments, 3 data, 4 checkpoint, 5 input/output\n"
        "or memory, 6 numeric, 7 communication or device, 8 hang, 70 a bug of the program, 75 "
        "saved "
        "on a\nsignal: run the same command again.\n");
}

// ---- values of options --------------------------------------------------------------------------

static bool whole_number(const char *text, int64_t least, int64_t most, int64_t *value) {
    if (!text[0] || text[strspn(text, "0123456789")] || strlen(text) > 18) return false;
    *value = strtoll(text, NULL, 10);
    return *value >= least && *value <= most;
}

static bool number(const char *text, double least, double most, double *value) {
    char *end;
    if (!text[0] || text[strspn(text, "0123456789.eE+-")]) return false;
    *value = strtod(text, &end);
    return *end == '\0' && *value >= least && *value <= most;
}

// False when the value is not legal.
static bool take_option(CommandLine *line, const char *name, const char *value) {
    GenerateOptions *generate = &line->generate;
    int64_t n = 0;
    bool ok = true;
    if (strcmp(name, "--print-config") == 0) line->verb = VERB_PRINT_CONFIG;
    if (strcmp(name, "--digest") == 0) line->digest = true;
    if (strcmp(name, "--json") == 0) line->json = true;
    if (strcmp(name, "--recompute") == 0) generate->recompute = true;
    if (strcmp(name, "--prompt") == 0) generate->prompt = value;
    if (strcmp(name, "--tokens") == 0) ok = whole_number(value, 1, 1000000, &generate->tokens);
    if (strcmp(name, "--temperature") == 0) ok = number(value, 0, 100, &generate->temperature);
    if (strcmp(name, "--top-k") == 0) ok = whole_number(value, 0, INT32_MAX, &generate->top_k);
    if (strcmp(name, "--top-p") == 0) ok = number(value, 1e-9, 1, &generate->top_p);
    if (strcmp(name, "--seed") == 0) {
        ok = whole_number(value, 0, INT64_MAX, &n);
        generate->seed = (uint64_t)n;
    }
    if (strcmp(name, "--keep-last") == 0) ok = whole_number(value, 1, INT32_MAX, &line->keep.last);
    if (strcmp(name, "--keep-every") == 0)
        ok = whole_number(value, 1, INT64_MAX, &line->keep.every);
    SuperviseOptions *supervise = &line->supervise;
    if (strcmp(name, "--launcher") == 0) supervise->launcher = value;
    if (strcmp(name, "--daemon") == 0) supervise->daemon = true;
    if (strcmp(name, "--hosts") == 0) supervise->hosts = value;
    if (strcmp(name, "--wait") == 0) ok = number(value, 0, 300, &supervise->wait_seconds);
    if (strcmp(name, "-np") == 0) {
        ok = whole_number(value, 1, 65536, &n);
        line->ranks = (int)n;
    }
    return ok;
}

// ---- the line -----------------------------------------------------------------------------------

static bool unknown_option(const CommandLine *line, const VerbRow *verb, const char *word,
                           const char *next, Error *err) {
    size_t length = strcspn(word, "=");
    for (int i = 0; i < OPTION_COUNT; i++)
        if (strlen(OPTIONS[i].name) == length && strncmp(OPTIONS[i].name, word, length) == 0 &&
            strcmp(OPTIONS[i].name, "-np") != 0) // of mpirun, as its users have it
            return error_set(err, EXIT_CONFIG,
                             "command line: %s has no option %s, which belongs to %s",
                             verb == &TRAIN ? "moetrain" : verb->name, OPTIONS[i].name,
                             verb_name(OPTIONS[i].verb));
    const char *candidates[OPTION_COUNT + 3];
    int count = 0;
    for (int i = 0; i < OPTION_COUNT; i++)
        if (OPTIONS[i].verb == verb->verb) candidates[count++] = OPTIONS[i].name;
    candidates[count++] = "--help";
    candidates[count++] = "--version";
    candidates[count] = NULL;
    const char *near = suggest_word(word, candidates);
    if (!near && habit_option(word, next, line->path, err)) return false;
    return error_set(err, EXIT_CONFIG, "command line: %s has no option '%.60s'; %s%s%s",
                     verb == &TRAIN ? "moetrain" : verb->name, word,
                     near ? "did you mean '" : "see ", near ? near : "moetrain --help",
                     near ? "'?" : "");
}

// Takes the option argv[*i] and its value, which may be joined by '='.
static bool parse_option(CommandLine *line, const VerbRow *verb, int argc, char **argv, int *i,
                         Error *err) {
    char name[32];
    const char *word = argv[*i], *equals = strchr(word, '=');
    snprintf(name, sizeof name, "%.*s", (int)(equals ? equals - word : 31), word);
    const OptionRow *option = NULL;
    for (int row = 0; row < OPTION_COUNT; row++)
        if (OPTIONS[row].verb == verb->verb && strcmp(OPTIONS[row].name, name) == 0)
            option = &OPTIONS[row];
    if (!option) return unknown_option(line, verb, word, *i + 1 < argc ? argv[*i + 1] : NULL, err);
    if (!option->value && equals)
        return error_set(err, EXIT_CONFIG, "command line: %s takes no value, got '%.60s'", name,
                         equals + 1);
    const char *value = equals ? equals + 1 : option->value && *i + 1 < argc ? argv[++*i] : NULL;
    if (option->value && !value)
        return error_set(err, EXIT_CONFIG, "command line: %s needs %s after it", name,
                         option->value);
    if (take_option(line, name, value)) return true;
    return error_set(err, EXIT_CONFIG, "command line: %s is '%.60s', but must be %s", name, value,
                     option->value);
}

static const char *suggest_verb(const char *word) {
    const char *names[VERB_COUNT + 1] = {NULL};
    for (int row = 0; row < VERB_COUNT; row++) names[row] = VERBS[row].name;
    return suggest_word(word, names);
}

// The error of a first word that is no file but looks like a command; false when it is none.
static bool is_wrong_verb(const CommandLine *line, const VerbRow *verb, const char *next,
                          Error *err) {
    if (verb != &TRAIN || !line->path || access(line->path, F_OK) == 0) return false;
    const char *meant = habit_verb(line->path);
    if (!meant && next) meant = suggest_verb(line->path);
    if (!meant) return false;
    if (meant[0])
        error_set(err, EXIT_CONFIG, "command line: unknown command '%.60s'; did you mean '%s'?",
                  line->path, meant);
    else
        error_set(err, EXIT_CONFIG,
                  "command line: training is a command without a name; leave '%.60s' out: moetrain "
                  "%.60s",
                  line->path, next ? next : "CONFIG.yaml");
    return true;
}

// A plain word behind the path that is not key=value.
static bool unexpected_word(const CommandLine *line, const VerbRow *verb, const char *word,
                            const char *next, Error *err) {
    size_t length = strlen(word);
    bool yaml = (length > 5 && strcmp(word + length - 5, ".yaml") == 0) ||
                (length > 4 && strcmp(word + length - 4, ".yml") == 0);
    bool is_verb = false;
    for (int row = 0; row < VERB_COUNT; row++) is_verb |= strcmp(VERBS[row].name, word) == 0;
    if (is_wrong_verb(line, verb, word, err)) return false;
    if (verb->overrides && habit_word(word, next, err)) return false;
    if (verb == &TRAIN && is_verb)
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.60s' is one word too many; a command stands first: "
                         "moetrain %s %.60s",
                         word, word, line->path);
    if (yaml && verb->verb != VERB_HELP)
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.60s' is one word too many: %s is one file, here %.60s; "
                         "write changes of it key=value",
                         word, verb->path, line->path);
    if (verb->verb == VERB_GENERATE)
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.60s' is one word too many; a text to go on from is "
                         "written --prompt 'TEXT', changes key=value",
                         word);
    return error_set(err, EXIT_CONFIG, "command line: '%.60s' is one word too many%s", word,
                     verb->overrides ? "; changes are written key=value" : "");
}

// The first plain word is the path, unless it is a key=value that stands where the path is missing.
static bool parse_word(CommandLine *line, const VerbRow *verb, const char *word, const char *next,
                       Error *err) {
    size_t key_length = strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_.");
    bool assignment = key_length > 0 && word[key_length] == '=';
    if (!line->path && !assignment) {
        line->path = word;
        return true;
    }
    if (verb->verb == VERB_CHECKPOINT && line->word_count < MOST_WORDS) {
        line->words[line->word_count++] = word;
        return true;
    }
    if (verb->verb == VERB_SET && !strchr(word, '=') && line->override_count < 2) {
        line->overrides[line->override_count++] = word;
        return true;
    }
    bool spaced = word[0] == '=' || (assignment && !word[key_length + 1] && next &&
                                     next[0] != '-' && !strchr(next, '='));
    if (!verb->overrides || !strchr(word, '=') || word[0] == '=')
        return unexpected_word(line, verb, word, next, err);
    if (spaced && config_key_find(next) < 0 && line->path)
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.60s' has no value; write key=value without spaces: "
                         "%.60s%.60s",
                         word, word, next);
    if (line->override_count == MOST_OVERRIDES)
        return error_set(err, EXIT_CONFIG, "command line: more than %d key=value", MOST_OVERRIDES);
    line->overrides[line->override_count++] = word;
    return true;
}

// Without -np there are as many ranks as slots.
static bool check_supervise(CommandLine *line, Error *err) {
    SuperviseOptions *supervise = &line->supervise;
    int slots = 0;
    if (supervise->hosts && !hosts_check(supervise->hosts, &slots, err)) return false;
    supervise->ranks = line->ranks ? line->ranks : slots;
    if (supervise->ranks == 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: supervise needs -np N, the number of ranks to start, or "
                         "--hosts with their slots");
    if (getenv("OMPI_COMM_WORLD_RANK"))
        return error_set(err, EXIT_CONFIG,
                         "command line: supervise starts mpirun by itself; leave it out");
    return true;
}

static bool check_complete(CommandLine *line, const VerbRow *verb, Error *err) {
    if (is_wrong_verb(line, verb, NULL, err)) return false;
    if (!line->path && !verb->alone)
        return error_set(err, EXIT_CONFIG, "command line: %s needs %s%s%.60s%s",
                         verb == &TRAIN ? "moetrain" : verb->name, verb->path,
                         line->override_count ? " before '" : "",
                         line->override_count ? line->overrides[0] : "",
                         line->override_count ? "'" : "");
    if (verb->verb == VERB_CHECKPOINT) return checkpoint_command_check(line, err);
    if (verb->verb == VERB_SET && line->override_count != 2)
        return error_set(err, EXIT_CONFIG, "command line: set needs RUN KEY VALUE");
    if (verb->verb == VERB_SUPERVISE) return check_supervise(line, err);
    if (verb->verb == VERB_PLAN && line->ranks == 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: plan needs -np N, the number of ranks to plan for");
    return true;
}

bool cli_parse(CommandLine *line, int argc, char **argv, Error *err) {
    *line = (CommandLine){
        .verb = VERB_USAGE,
        .generate = {.prompt = "", .tokens = 200, .temperature = 0.8, .top_p = 1, .seed = 1337},
        .supervise = {.launcher = "mpirun", .wait_seconds = 5}};
    if (argc < 2) return error_set(err, EXIT_CONFIG, "command line: nothing to do");
    const VerbRow *verb = &TRAIN;
    for (int row = 0; row < VERB_COUNT; row++)
        if (strcmp(argv[1], VERBS[row].name) == 0) verb = &VERBS[row];
    line->verb = verb->verb;
    bool options = true; // until "--"
    for (int i = verb == &TRAIN ? 1 : 2; i < argc; i++) {
        const char *word = argv[i];
        bool is_option = options && word[0] == '-' && word[1];
        if (is_option && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
            line->verb = VERB_USAGE;
            return true;
        }
        if (is_option && strcmp(word, "--version") == 0) {
            line->verb = VERB_VERSION;
            return true;
        }
        if (is_option && strcmp(word, "--") == 0) {
            options = false;
            continue;
        }
        bool ok = is_option ? parse_option(line, verb, argc, argv, &i, err)
                            : parse_word(line, verb, word, i + 1 < argc ? argv[i + 1] : NULL, err);
        if (!ok) return false;
    }
    return check_complete(line, verb, err);
}
