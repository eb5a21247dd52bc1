#include "launcher/compare/search_file.h"

#include <stdio.h>
#include <string.h>

#include "kernels/suggest.h"
#include "launcher/cli_numbers.h"
#include "launcher/unknown_key.h"

// The key of the list, which may be a new one; NULL with *err.
static SearchedKey *find_key(SearchedKey *keys, int *count, const char *name, int line,
                             Error *err) {
    int row = config_key_find(name);
    if (row < 0 ? !unknown_key(name, err) : !comparison_leaves(name, err)) return NULL;
    for (int i = 0; i < *count; i++)
        if (strcmp(keys[i].name, name) == 0) return &keys[i];
    if (*count == SEARCHED_KEYS) {
        error_set(err, EXIT_CONFIG, "more than %d keys", SEARCHED_KEYS);
        return NULL;
    }
    SearchedKey *key = &keys[(*count)++];
    OptionType type = config_key(row)->type;
    *key = (SearchedKey){.line = line,
                         .whole = type == OPTION_INTEGER || type == OPTION_INTEGERS,
                         .number = type == OPTION_NUMBER};
    snprintf(key->name, sizeof key->name, "%s", name);
    return key;
}

static bool take_values(SearchedKey *key, const YamlValue *value, Error *err) {
    if (!value->list || value->maps > 0 || value->count == 0)
        return error_set(err, EXIT_CONFIG, "%s must have a list of values, such as [1, 2]",
                         key->name);
    if (key->values.count > 0)
        return error_set(err, EXIT_CONFIG, "%s is given twice, first in line %d; keep one",
                         key->name, key->line);
    for (int i = 0; i < value->count; i++) {
        for (int j = 0; j < i; j++)
            if (strcmp(value->items[i].text, value->items[j].text) == 0)
                return error_set(err, EXIT_CONFIG, "%s has %.60s twice; keep one", key->name,
                                 value->items[i].text);
        changes_add(&key->values, value->items[i].place.line, "%s=%s", key->name,
                    value->items[i].text);
    }
    return true;
}

bool grid_take(Comparison *comparison, const char *name, const YamlValue *value, int line,
               Error *err) {
    SearchedKey *key = find_key(comparison->grid, &comparison->grid_count, name, line, err);
    return key && take_values(key, value, err);
}

// KEY, or KEY.min, KEY.max, KEY.scale.
static bool take_key(Search *search, const char *name, const YamlValue *value, int line,
                     Error *err) {
    static const char *const ends[] = {"", ".min", ".max", ".scale"};
    char key_name[256];
    int end = 0;
    size_t length = strlen(name);
    for (int i = 1; i < 4; i++) {
        size_t tail = strlen(ends[i]);
        if (length > tail && strcmp(name + length - tail, ends[i]) == 0) end = i;
    }
    snprintf(key_name, sizeof key_name, "%.*s", (int)(length - strlen(ends[end])), name);
    SearchedKey *key = find_key(search->keys, &search->key_count, key_name, line, err);
    if (!key) return false;
    if (end == 0) return take_values(key, value, err);
    if (value->list) return error_set(err, EXIT_CONFIG, "%s is a list; write one value", name);
    const char *text = value->items[0].text;
    if (!key->whole && !key->number)
        return error_set(err, EXIT_CONFIG, "%s is no number; write a list of values", key->name);
    if (end == 3) {
        key->logarithmic = strcmp(text, "log") == 0;
        return key->logarithmic || strcmp(text, "linear") == 0 ||
               error_set(err, EXIT_CONFIG, "%s is '%.60s', but must be linear or log", name, text);
    }
    int64_t whole;
    double real;
    bool ok =
        key->whole ? whole_number(text, 0, 1000000000, &whole) : number(text, -1e300, 1e300, &real);
    if (!ok)
        return error_set(err, EXIT_CONFIG, "%s is '%.60s', but must be a %snumber", name, text,
                         key->whole ? "whole " : "");
    *(end == 1 ? &key->min : &key->max) = key->whole ? (double)whole : real;
    *(end == 1 ? &key->has_min : &key->has_max) = true;
    return true;
}

static bool take_whole(const char *name, const char *text, int64_t least, int64_t most,
                       int64_t *value, Error *err) {
    return whole_number(text, least, most, value) ||
           error_set(err, EXIT_CONFIG, "search.%s is '%.60s', but must be a whole number from %lld",
                     name, text, (long long)least);
}

bool search_take(Comparison *comparison, const char *name, const YamlValue *value, int line,
                 Error *err) {
    static const char *const names[] = {"kind", "trials", "seed", "factor", "steps", "keys", NULL};
    Search *search = &comparison->search;
    if (!search->line) *search = (Search){.line = line, .factor = 3, .seed = 1};
    if (strncmp(name, "keys.", 5) == 0) return take_key(search, name + 5, value, line, err);
    if (value->list) return error_set(err, EXIT_CONFIG, "search.%s is a list", name);
    const char *text = value->items[0].text, *near = suggest_word(name, names);
    if (strcmp(name, "kind") == 0) {
        search->halving = strcmp(text, "halving") == 0;
        return search->halving || strcmp(text, "random") == 0 ||
               error_set(err, EXIT_CONFIG, "search.kind is '%.60s', but must be random or halving",
                         text);
    }
    if (strcmp(name, "trials") == 0) return take_whole(name, text, 1, 10000, &search->trials, err);
    if (strcmp(name, "seed") == 0)
        return take_whole(name, text, 0, 9007199254740992, &search->seed, err);
    if (strcmp(name, "factor") == 0) return take_whole(name, text, 2, 100, &search->factor, err);
    if (strcmp(name, "steps") == 0)
        return take_whole(name, text, 1, 1000000000, &search->steps, err);
    return error_set(err, EXIT_CONFIG, "search has no '%.60s'; %s%s%s", name,
                     near ? "did you mean '" : "it has kind, trials, seed, factor, steps and keys",
                     near ? near : "", near ? "'?" : "");
}

// ---- rules --------------------------------------------------------------------------------------

static bool check_key(const Comparison *comparison, const SearchedKey *key, Error *err) {
    bool values = key->values.count > 0, range = key->has_min && key->has_max;
    const char *wrong = NULL;
    if (values == (key->has_min || key->has_max || key->logarithmic))
        wrong = "has a list and a range; keep one";
    else if (!values && !range)
        wrong = "needs min and max, or a list";
    else if (range && key->min >= key->max)
        wrong = "has a min that is not below its max";
    else if (range && key->logarithmic && key->min <= 0)
        wrong = "needs a min above 0 with scale: log";
    return !wrong || error_set(err, EXIT_CONFIG, "%s:%d: search: %s %s", comparison->source,
                               key->line, key->name, wrong);
}

bool search_check(const Comparison *comparison, Error *err) {
    const Search *search = &comparison->search;
    const char *wrong = NULL;
    if (!search->line) return true;
    if (search->trials == 0)
        wrong = "how many trials is missing; add trials: 16";
    else if (search->key_count == 0)
        wrong = "which keys is missing; add keys: {train.lr: [0.001, 0.003]}";
    else if (search->halving != (search->steps > 0))
        wrong = search->halving ? "halving needs steps, of the trials that end first"
                                : "steps is of kind: halving";
    for (int k = 0; !wrong && k < search->key_count; k++) {
        if (!check_key(comparison, &search->keys[k], err)) return false;
        if (search->halving && strcmp(search->keys[k].name, "train.steps") == 0)
            wrong = "train.steps cannot be searched with kind: halving";
    }
    return !wrong || error_set(err, EXIT_CONFIG, "%s:%d: search: %s", comparison->source,
                               search->line, wrong);
}
