#include "launcher/compare/comparison_file.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/suggest.h"
#include "launcher/cli_numbers.h"
#include "launcher/compare/search_file.h"
#include "launcher/config_path.h"
#include "launcher/config_yaml.h"
#include "launcher/unknown_key.h"

// ---- values -------------------------------------------------------------------------------------

// As a command line has the value: "a", "[a, b]", "a,b" of names, "[{f: "a"}]".
static char *value_text(const Option *key, const YamlValue *value) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "out of memory");
    bool brackets = value->list && key->type != OPTION_NAMES;
    if (brackets) fputc('[', out);
    for (int i = 0; i < value->count; i++) {
        const YamlItem *item = &value->items[i];
        bool first = i == 0 || item->map != value->items[i - 1].map;
        if (i > 0) fputs(item->field && first ? "}, " : ", ", out);
        if (item->field) fprintf(out, "%s%s: \"", first ? "{" : "", item->field);
        for (const char *c = item->text; *c; c++)
            fprintf(out, "%s%c", item->field && (*c == '"' || *c == '\\') ? "\\" : "", *c);
        if (item->field) fputc('"', out);
    }
    if (value->maps > 0) fputc('}', out);
    if (brackets) fputc(']', out);
    fclose(out);
    CHECK_MEMORY(text, "out of memory");
    return text;
}

static bool take_change(Changes *changes, const char *name, const YamlValue *value, int line,
                        Error *err) {
    int row = config_key_find(name);
    if (row < 0) return unknown_key(name, err);
    if (!comparison_leaves(name, err)) return false;
    for (int i = 0; i < changes->count; i++)
        if (strncmp(changes->words[i], name, strlen(name)) == 0 &&
            changes->words[i][strlen(name)] == '=')
            return error_set(err, EXIT_CONFIG, "%s is given twice, first in line %d; keep one",
                             name, changes->lines[i]);
    char *text = value_text(config_key(row), value);
    changes_add(changes, line, "%s=%s", name, text);
    free(text);
    return true;
}

static bool one_value(const char *name, const YamlValue *value, Error *err) {
    return !value->list || error_set(err, EXIT_CONFIG, "%s is a list; write one value", name);
}

// ---- keys ---------------------------------------------------------------------------------------

static bool take_seeds(Comparison *comparison, const YamlValue *value, YamlPlace *place,
                       Error *err) {
    if (value->count > COMPARED_SEEDS || value->count == 0)
        return error_set(err, EXIT_CONFIG, "seeds has %d items, but must have 1 to %d",
                         value->count, COMPARED_SEEDS);
    comparison->seed_count = 0;
    for (int i = 0; i < value->count; i++) {
        int64_t seed;
        bool twice = false;
        *place = value->items[i].place;
        if (!whole_number(value->items[i].text, 0, 9007199254740992, &seed))
            return error_set(err, EXIT_CONFIG,
                             "seeds has '%.60s', but must have whole numbers from 0",
                             value->items[i].text);
        for (int j = 0; j < i; j++) twice |= comparison->seeds[j] == seed;
        if (twice)
            return error_set(err, EXIT_CONFIG, "seeds has %lld twice; keep one", (long long)seed);
        comparison->seeds[comparison->seed_count++] = seed;
    }
    return true;
}

// A key whose value is one whole number, or "none".
static bool take_width(const char *name, const YamlValue *value, char width[COMPARED_KEY_BYTES],
                       Error *err) {
    if (!one_value(name, value, err)) return false;
    const char *text = value->items[0].text;
    int row = config_key_find(text);
    OptionType type = row >= 0 ? config_key(row)->type : OPTION_FLAG;
    bool whole = type == OPTION_INTEGER || type == OPTION_INTEGERS; // the latter by layer, or one
    if (row < 0 && strcmp(text, "none") != 0)
        return unknown_key(text, err) || error_prefix(err, "width");
    if (row >= 0 && !whole)
        return error_set(err, EXIT_CONFIG,
                         "width is %.60s, but must be a key with a whole number, such as moe.d_ff",
                         text);
    snprintf(width, COMPARED_KEY_BYTES, "%s", text);
    return true;
}

static bool take_equal_flops(EqualFlops *equal, const char *name, const YamlValue *value, int line,
                             Error *err) {
    static const char *const names[] = {"reference", "width", "tolerance", "multiple", NULL};
    if (!one_value(name, value, err)) return false;
    const char *text = value->items[0].text, *near = suggest_word(name, names);
    if (strcmp(name, "width") == 0) {
        equal->width_line = line;
        return take_width(name, value, equal->width, err);
    }
    if (strcmp(name, "reference") == 0) {
        snprintf(equal->reference, sizeof equal->reference, "%s", text);
        return true;
    }
    if (strcmp(name, "tolerance") == 0)
        return number(text, 0, 1, &equal->tolerance) ||
               error_set(err, EXIT_CONFIG, "tolerance is '%.60s', but must be a share from 0 to 1",
                         text);
    if (strcmp(name, "multiple") == 0)
        return whole_number(text, 1, 1 << 20, &equal->multiple) ||
               error_set(err, EXIT_CONFIG,
                         "multiple is '%.60s', but must be a whole number from 1 to %d", text,
                         1 << 20);
    return error_set(err, EXIT_CONFIG, "equal_flops has no '%.60s'; %s%s%s", name,
                     near ? "did you mean '" : "it has reference, width, tolerance and multiple",
                     near ? near : "", near ? "'?" : "");
}

// NAME, or NAME.key: the row, which may be a new one.
static ComparedRow *find_row(Comparison *comparison, const char *name, size_t length, int line,
                             Error *err) {
    if (length >= COMPARED_NAME_BYTES) {
        error_set(err, EXIT_CONFIG, "the name of a row is longer than %d bytes",
                  COMPARED_NAME_BYTES - 1);
        return NULL;
    }
    for (int i = 0; i < comparison->row_count; i++) {
        ComparedRow *row = &comparison->rows[i];
        if (strlen(row->name) == length && strncmp(row->name, name, length) == 0) return row;
    }
    char copy[COMPARED_NAME_BYTES];
    snprintf(copy, sizeof copy, "%.*s", (int)length, name);
    return comparison_add_row(comparison, copy, line);
}

static bool take_row_value(Comparison *comparison, const char *name, const YamlValue *value,
                           int line, Error *err) {
    size_t length = strcspn(name, ".");
    ComparedRow *row = find_row(comparison, name, length, line, err);
    if (!row) return false;
    const char *key = name + length + (name[length] == '.');
    if (strcmp(key, "width") == 0) {
        row->width_line = line;
        return take_width(key, value, row->width, err);
    }
    if (key[0]) return take_change(&row->changes, key, value, line, err);
    if (!value->list && !value->items[0].text[0]) return true; // nothing is changed
    return error_set(err, EXIT_CONFIG,
                     "row %s is no map of keys; write %s: {key: value}, or nothing behind the "
                     "colon where nothing is changed",
                     name, name);
}

static bool take_value(void *context, const char *name, const YamlValue *value, YamlPlace *place,
                       Error *err) {
    static const char *const names[] = {"config",      "seeds", "set",    "rows",
                                        "equal_flops", "grid",  "search", NULL};
    Comparison *comparison = context;
    if (strcmp(name, "config") == 0)
        return one_value(name, value, err) &&
               path_resolve(comparison->folder, value->items[0].text, comparison->config, err);
    if (strcmp(name, "seeds") == 0) return take_seeds(comparison, value, place, err);
    if (strncmp(name, "set.", 4) == 0)
        return take_change(&comparison->set, name + 4, value, place->line, err);
    if (strncmp(name, "rows.", 5) == 0)
        return take_row_value(comparison, name + 5, value, place->line, err);
    if (strncmp(name, "equal_flops.", 12) == 0)
        return take_equal_flops(&comparison->equal_flops, name + 12, value, place->line, err);
    if (strncmp(name, "grid.", 5) == 0)
        return grid_take(comparison, name + 5, value, place->line, err);
    if (strncmp(name, "search.", 7) == 0)
        return search_take(comparison, name + 7, value, place->line, err);
    char first[64];
    snprintf(first, sizeof first, "%.*s", (int)strcspn(name, "."), name);
    const char *near = suggest_word(first, names);
    if (config_key_find(name) >= 0)
        return error_set(err, EXIT_CONFIG,
                         "%s stands outside of rows; write set: {%s: …} where all rows have it",
                         name, name);
    return error_set(err, EXIT_CONFIG, "a comparison has no '%.60s'; %s%s%s", name,
                     near ? "did you mean '"
                          : "it has config, seeds, set, rows, grid, search and equal_flops",
                     near ? near : "", near ? "'?" : "");
}

// ---- the file -----------------------------------------------------------------------------------

static bool folder_of(const char *path, char folder[CONFIG_PATH_BYTES], Error *err) {
    char name[CONFIG_PATH_BYTES], resolved[PATH_MAX];
    snprintf(name, sizeof name, "%s", path);
    bool ok = realpath(dirname(name), resolved) && strlen(resolved) < CONFIG_PATH_BYTES;
    if (!ok) return error_set(err, EXIT_CONFIG, "%.400s: its folder cannot be resolved", path);
    memcpy(folder, resolved, strlen(resolved) + 1);
    return true;
}

static bool read_config(Comparison *comparison, Error *err) {
    if (!comparison->config[0])
        return error_set(err, EXIT_CONFIG,
                         "%s: config is missing: the configuration that rows change; add 'config: "
                         "FILE.yaml'",
                         comparison->source);
    return config_load_text(comparison->config, &comparison->config_text, &comparison->config_bytes,
                            err) ||
           error_prefix(err, "%s: config", comparison->source);
}

bool comparison_file_read(Comparison *comparison, const char *path, Error *err) {
    char *text = NULL;
    size_t bytes = 0;
    comparison->source = path;
    comparison->seeds[0] = 1337;
    comparison->seed_count = 1;
    comparison->equal_flops.tolerance = 0.01;
    comparison->equal_flops.multiple = 1;
    bool ok =
        config_load_text(path, &text, &bytes, err) && folder_of(path, comparison->folder, err) &&
        yaml_read(path, text, bytes, take_value, comparison, err) && read_config(comparison, err);
    free(text);
    if (ok && comparison->row_count == 0 && comparison->grid_count == 0 && !comparison->search.line)
        ok = error_set(err, EXIT_CONFIG,
                       "%s: there is nothing to compare; add rows: {NAME: {key: value}}", path);
    return ok && search_check(comparison, err);
}
