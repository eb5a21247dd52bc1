#include "launcher/cli.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/suggest.h"
#include "launcher/cli_numbers.h"
#include "launcher/config_keys.h"
#include "launcher/habits.h"
#include "launcher/verbs.h"

enum { MOST_VERBS = 64, MOST_OPTIONS = 64 }; // options of a verb

void cli_print_usage(FILE *out) {
    fprintf(out, "usage: mpirun -np N moetrain CONFIG.yaml [key=value ...]\n"
                 "       moetrain --help shows all commands, moetrain help all keys\n");
}

static const char *spoken_name(const Verb *verb) {
    return verb->name ? verb->name : "moetrain";
}

static const CliOption *find_option(const Verb *verb, const char *name, size_t length) {
    for (const CliOption *option = verb->options; option && option->name; option++)
        if (strlen(option->name) == length && strncmp(option->name, name, length) == 0)
            return option;
    return NULL;
}

static const Verb *find_verb(const char *name) {
    for (const Verb *const *verb = VERBS; *verb; verb++)
        if ((*verb)->name && strcmp((*verb)->name, name) == 0) return *verb;
    return NULL;
}

// ---- options ------------------------------------------------------------------------------------

static bool belongs_elsewhere(const Verb *verb, const char *word, Error *err) {
    size_t length = strcspn(word, "=");
    if (length <= 3) return false; // short ones are of mpirun and sbatch, as their users have them
    for (const Verb *const *other = VERBS; *other; other++) {
        const CliOption *option = find_option(*other, word, length);
        if (!option) continue;
        error_set(err, EXIT_CONFIG, "command line: %s has no option %s, which belongs to %s",
                  spoken_name(verb), option->name,
                  (*other)->name ? (*other)->name : "moetrain CONFIG.yaml");
        return true;
    }
    return false;
}

static bool unknown_option(const CommandLine *line, const char *word, const char *next,
                           Error *err) {
    const char *candidates[MOST_OPTIONS + 3];
    int count = 0;
    // Who trains means a key by --experts or --steps, not the option of another command.
    if (line->verb == &TRAIN_VERB && habit_option(word, next, line->path, err)) return false;
    if (belongs_elsewhere(line->verb, word, err)) return false;
    for (const CliOption *option = line->verb->options; option && option->name; option++) {
        CHECK(count < MOST_OPTIONS, "more options than %d", MOST_OPTIONS);
        candidates[count++] = option->name;
    }
    candidates[count++] = "--help";
    candidates[count++] = "--version";
    candidates[count] = NULL;
    const char *near = suggest_word(word, candidates);
    if (!near && habit_option(word, next, line->path, err)) return false;
    return error_set(err, EXIT_CONFIG, "command line: %s has no option '%.60s'; %s%s%s",
                     spoken_name(line->verb), word, near ? "did you mean '" : "see ",
                     near ? near : "moetrain --help", near ? "'?" : "");
}

// False when the value is not legal.
static bool take_option(CommandLine *line, const CliOption *option, const char *value) {
    if (option->take) return option->take(line, value);
    void *field = (char *)line->options + option->offset;
    if (option->field == FIELD_FLAG) *(bool *)field = true;
    if (option->field == FIELD_TEXT) *(const char **)field = value;
    if (option->field == FIELD_WHOLE)
        return whole_number(value, (int64_t)option->least, (int64_t)option->most, field);
    return option->field != FIELD_NUMBER || number(value, option->least, option->most, field);
}

// Takes the option argv[*i] and its value, which may be joined by '='.
static bool parse_option(CommandLine *line, int argc, char **argv, int *i, Error *err) {
    const char *word = argv[*i], *equals = strchr(word, '=');
    const CliOption *option = find_option(line->verb, word, strcspn(word, "="));
    if (!option) return unknown_option(line, word, *i + 1 < argc ? argv[*i + 1] : NULL, err);
    if (!option->value && equals)
        return error_set(err, EXIT_CONFIG, "command line: %s takes no value, got '%.60s'",
                         option->name, equals + 1);
    const char *value = equals ? equals + 1 : option->value && *i + 1 < argc ? argv[++*i] : NULL;
    if (option->value && !value)
        return error_set(err, EXIT_CONFIG, "command line: %s needs %s after it", option->name,
                         option->value);
    return take_option(line, option, value) ||
           error_set(err, EXIT_CONFIG, "command line: %s is '%.60s', but must be %s", option->name,
                     value, option->value);
}

// ---- words --------------------------------------------------------------------------------------

static const char *suggest_verb(const char *word) {
    const char *names[MOST_VERBS + 1] = {NULL};
    int count = 0;
    for (const Verb *const *verb = VERBS; *verb; verb++) {
        CHECK(count < MOST_VERBS, "more verbs than %d", MOST_VERBS);
        if ((*verb)->name) names[count++] = (*verb)->name;
    }
    return suggest_word(word, names);
}

// The error of a first word that is no file but looks like a command; false when it is none.
static bool is_wrong_verb(const CommandLine *line, const char *next, Error *err) {
    if (line->verb != &TRAIN_VERB || !line->path || access(line->path, F_OK) == 0) return false;
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
static bool unexpected_word(const CommandLine *line, const char *word, const char *next,
                            Error *err) {
    const Verb *verb = line->verb;
    size_t length = strlen(word);
    bool yaml = (length > 5 && strcmp(word + length - 5, ".yaml") == 0) ||
                (length > 4 && strcmp(word + length - 4, ".yml") == 0);
    if (is_wrong_verb(line, word, err)) return false;
    if (verb->overrides && habit_word(word, next, err)) return false;
    if (verb == &TRAIN_VERB && find_verb(word))
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.60s' is one word too many; a command stands first: "
                         "moetrain %s %.60s",
                         word, word, line->path);
    if (yaml && verb->overrides)
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.60s' is one word too many: %s is one file, here %.60s; "
                         "write changes of it key=value",
                         word, verb->path, line->path);
    const char *advice = verb->one_too_many ? verb->one_too_many
                         : verb->overrides  ? "changes are written key=value"
                                            : NULL;
    return error_set(err, EXIT_CONFIG, "command line: '%.60s' is one word too many%s%s", word,
                     advice ? "; " : "", advice ? advice : "");
}

// The first plain word is the path, unless it is a key=value that stands where the path is missing.
static bool parse_word(CommandLine *line, const char *word, const char *next, Error *err) {
    const Verb *verb = line->verb;
    size_t key_length = strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_.");
    bool assignment = key_length > 0 && word[key_length] == '=';
    if (!line->path && !assignment) {
        line->path = word;
        return true;
    }
    if (line->word_count < verb->words && !(assignment && verb->overrides)) {
        line->words[line->word_count++] = word;
        return true;
    }
    bool spaced = word[0] == '=' || (assignment && !word[key_length + 1] && next &&
                                     next[0] != '-' && !strchr(next, '='));
    if (!verb->overrides || !strchr(word, '=') || word[0] == '=')
        return unexpected_word(line, word, next, err);
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

// ---- the line -----------------------------------------------------------------------------------

static bool check_complete(CommandLine *line, Error *err) {
    const Verb *verb = line->verb;
    if (is_wrong_verb(line, NULL, err)) return false;
    if (!line->path && !verb->alone)
        return error_set(err, EXIT_CONFIG, "command line: %s needs %s%s%.60s%s", spoken_name(verb),
                         verb->path, line->override_count ? " before '" : "",
                         line->override_count ? line->overrides[0] : "",
                         line->override_count ? "'" : "");
    return !verb->check || verb->check(line, err);
}

static void begin(CommandLine *line, const Verb *verb) {
    *line = (CommandLine){.verb = verb};
    if (verb->options_bytes == 0) return;
    line->options = calloc(1, verb->options_bytes);
    CHECK_MEMORY(line->options, "no memory for options");
    if (verb->defaults) memcpy(line->options, verb->defaults, verb->options_bytes);
}

bool cli_parse(CommandLine *line, int argc, char **argv, Error *err) {
    const Verb *named = argc > 1 ? find_verb(argv[1]) : NULL;
    begin(line, named ? named : &TRAIN_VERB);
    if (argc < 2) return error_set(err, EXIT_CONFIG, "command line: nothing to do");
    bool options = true; // until "--"
    for (int i = named ? 2 : 1; i < argc; i++) {
        const char *word = argv[i];
        bool is_option = options && word[0] == '-' && word[1];
        if (is_option && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
            line->verb = &USAGE_VERB;
            return true;
        }
        if (is_option && strcmp(word, "--version") == 0) {
            line->verb = &VERSION_VERB;
            return true;
        }
        if (is_option && strcmp(word, "--") == 0) {
            options = false;
            continue;
        }
        bool ok = is_option ? parse_option(line, argc, argv, &i, err)
                            : parse_word(line, word, i + 1 < argc ? argv[i + 1] : NULL, err);
        if (!ok) return false;
    }
    return check_complete(line, err);
}

void cli_free(CommandLine *line) {
    free(line->options);
}
