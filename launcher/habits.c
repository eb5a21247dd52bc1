#include "launcher/habits.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "launcher/config_keys.h"
#include "launcher/habit_words.h"

static const char *find_habit(const Habit *habits, const char *word) {
    for (; habits->word; habits++)
        if (strcasecmp(habits->word, word) == 0) return habits->meant;
    return NULL;
}

// ---- keys ---------------------------------------------------------------------------------------

const char *habit_key(const char *word) {
    char name[64];
    const char *last = strrchr(word, '.');
    snprintf(name, sizeof name, "%s", last ? last + 1 : word);
    for (char *c = name; *c; c++)
        if (*c == '-') *c = '_';
    const char *key = find_habit(HABIT_KEYS, name);
    return key && config_key_find(key) >= 0 ? key : NULL;
}

// The key of which this is the name, the last part or what another program calls it; NULL.
static const char *key_meant(const char *word) {
    char name[128];
    snprintf(name, sizeof name, "%s", word);
    for (char *c = name; *c; c++)
        if (*c == '-') *c = '_';
    int row = config_key_find(name);
    if (row >= 0) return config_key(row)->name;
    for (row = 0; row < config_key_count(); row++) {
        const char *dot = strchr(config_key(row)->name, '.');
        if (dot && strcmp(dot + 1, name) == 0) return config_key(row)->name;
    }
    return habit_key(name);
}

// ---- the command --------------------------------------------------------------------------------

const char *habit_verb(const char *word) {
    return find_habit(HABIT_VERBS, word);
}

// ---- options and words --------------------------------------------------------------------------

bool habit_option(const char *word, const char *next, const char *path, Error *err) {
    static const Habit RANKS[] = {{"np", ""},     {"n", ""},     {"nproc", ""},
                                  {"nprocs", ""}, {"ranks", ""}, {"nproc_per_node", ""},
                                  {NULL, NULL}};
    static const Habit FILES[] = {{"c", ""},           {"cfg", ""},         {"config", ""},
                                  {"config-file", ""}, {"config_file", ""}, {"checkpoint", ""},
                                  {"ckpt", ""},        {"model", ""},       {NULL, NULL}};
    char name[128];
    const char *bare = word + strspn(word, "-"), *equals = strchr(bare, '=');
    snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - bare) : 127, bare);
    bool next_is_value = next && next[0] != '-' && !strchr(next, '=');
    const char *value = equals ? equals + 1 : next_is_value ? next : NULL;
    if (find_habit(RANKS, name))
        error_set(err, EXIT_CONFIG,
                  "command line: the number of ranks is mpirun's: mpirun -np %.20s moetrain %.60s",
                  value ? value : "N", path ? path : "CONFIG.yaml");
    else if (find_habit(FILES, name))
        error_set(err, EXIT_CONFIG, "command line: %.60s is not needed: write only %.60s", word,
                  value ? value : "the file");
    else if (key_meant(name))
        error_set(err, EXIT_CONFIG,
                  "command line: '%.60s' is not an option; keys are written key=value, without "
                  "dashes: %s=%.60s",
                  word, key_meant(name), value ? value : "VALUE");
    else
        return false;
    return true;
}

bool habit_word(const char *word, const char *next, Error *err) {
    char name[128];
    size_t length = strcspn(word, ":");
    snprintf(name, sizeof name, "%.*s", (int)(length < 127 ? length : 127), word);
    const char *rest = word[length] ? word + length + 1 : "";
    const char *value = rest[0] ? rest : "VALUE";
    if (word[0] == '=' || (next && next[0] == '=')) { // key = 3, key =3
        if (word[0] != '=') value = next[1] ? next + 1 : "VALUE";
        if (word[0] == '=') value = word[1] ? word + 1 : next ? next : "VALUE";
        error_set(err, EXIT_CONFIG,
                  "command line: '%.60s' is one word too many; changes are written key=value "
                  "without spaces: %.60s=%.60s",
                  word, word[0] == '=' ? "KEY" : word, value);
        return true;
    }
    if (!key_meant(name)) return false;
    if (word[length] == ':' && !rest[0] && next) value = next;
    error_set(err, EXIT_CONFIG,
              "command line: '%.60s' is one word too many; changes are written key=value: %s=%.60s",
              word, key_meant(name), value);
    return true;
}

// ---- values -------------------------------------------------------------------------------------

static bool is_null(const char *text) {
    static const Habit NULLS[] = {{"", ""},    {"~", ""},       {"null", ""}, {"none", ""},
                                  {"nil", ""}, {"default", ""}, {NULL, NULL}};
    return find_habit(NULLS, text) != NULL;
}

static void advise_flag(const char *text, char advice[160]) {
    static const Habit FLAGS[] = {{"yes", "true"},     {"on", "true"},        {"y", "true"},
                                  {"1", "true"},       {"true", "true"},      {"t", "true"},
                                  {"enabled", "true"}, {"no", "false"},       {"off", "false"},
                                  {"n", "false"},      {"0", "false"},        {"false", "false"},
                                  {"f", "false"},      {"disabled", "false"}, {NULL, NULL}};
    const char *meant = find_habit(FLAGS, text);
    if (meant) snprintf(advice, 160, "; write %s", meant);
}

// "1_000", "1,000", "1e3", "1k", "2.0", "+5", "0x10", " 5", "10%", "1/10": the number that is
// meant.
static bool number_meant(const char *text, double *value) {
    char plain[64];
    size_t used = 0;
    for (; *text && used < sizeof plain - 1; text++)
        if (!strchr("_ \t'\"", *text)) plain[used++] = *text;
    plain[used] = '\0';
    const char *comma = strchr(plain, ',');
    if (comma && strlen(comma) == 4 && isdigit((unsigned char)plain[0])) { // thousands
        char *to = plain;
        for (const char *from = plain; *from; from++)
            if (*from != ',') *to++ = *from;
        *to = '\0';
    }
    char *end;
    *value = strtod(plain, &end);
    if (end == plain || !isfinite(*value)) return false;
    if (*end == '/') {
        double below = strtod(end + 1, &end);
        if (below == 0) return false;
        *value /= below;
    }
    static const char letters[] = "kKmMgGbB%";
    static const double factors[] = {1e3, 1e3, 1e6, 1e6, 1e9, 1e9, 1e9, 1e9, 0.01};
    const char *letter = *end ? strchr(letters, *end) : NULL;
    if (letter) {
        *value *= factors[letter - letters];
        end++;
    }
    return *end == '\0' && isfinite(*value);
}

static void advise_number(const Option *key, const char *text, char advice[160]) {
    double value;
    if (!number_meant(text, &value) || value < key->min || value > key->max) return;
    if (key->type == OPTION_INTEGER && value != floor(value)) return;
    if (key->type == OPTION_RATIONAL) value = round(value * 1e4) / 1e4;
    int length = snprintf(advice, 160, "; write %.10g", value);
    if (key->type == OPTION_INTEGER) length = snprintf(advice, 160, "; write %.0f", value);
    if (strcmp(advice + strlen("; write "), text) == 0 || length < 0) advice[0] = '\0';
}

static void advise_choice(const Option *key, const char *text, char advice[160]) {
    const char *meant = find_habit(HABIT_WORDS, text);
    for (int i = 0; i < key->choices->count; i++) {
        const char *word = choice_row(*key->choices, i)->word;
        if (strcasecmp(word, text) == 0 || (meant && strcmp(word, meant) == 0))
            snprintf(advice, 160, "; write %s", word);
    }
}

bool path_is_habit(const char *text) {
    return strcmp(text, "~") == 0 || strncmp(text, "~/", 2) == 0 || strcasecmp(text, "null") == 0;
}

static void advise_path(const Option *key, const char *text, char advice[160]) {
    bool required = !key->initial && !key->derived;
    if (!text[0])
        snprintf(advice, 160, "; name a file%s", required ? "" : ", or leave the key out");
    else if (strncmp(text, "~/", 2) == 0)
        snprintf(advice, 160,
                 "; '~' is not replaced here: write the whole path, or ./~/… for a "
                 "folder of this name");
    else if (path_is_habit(text))
        snprintf(advice, 160, "; name a file%s; a file of this name is ./%s",
                 required ? "" : ", or leave the key out", text);
}

void habit_value(const Option *key, const char *text, char advice[160]) {
    advice[0] = '\0';
    if (key->type == OPTION_PATH)
        advise_path(key, text, advice);
    else if (is_null(text))
        snprintf(advice, 160, "; write a value, or leave the key out for its default%s%s%s",
                 key->initial ? " (" : "", key->initial ? key->initial : "",
                 key->initial ? ")" : "");
    else if (key->type == OPTION_FLAG)
        advise_flag(text, advice);
    else if (key->type == OPTION_CHOICE || key->type == OPTION_WORD)
        advise_choice(key, text, advice);
    else
        advise_number(key, text, advice);
}
