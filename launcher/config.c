#include "launcher/config.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher/config_maps.h"
#include "launcher/config_path.h"
#include "launcher/config_rules.h"
#include "launcher/config_value.h"
#include "launcher/config_yaml.h"
#include "launcher/left_out.h"
#include "launcher/simple_value.h"
#include "launcher/unknown_key.h"

// ---- reading ------------------------------------------------------------------------------------

static bool no_current_folder(Error *err) {
    return error_set(err, EXIT_CONFIG, "the current folder cannot be used: %s; %s", strerror(errno),
                     errno == ENOENT   ? "it was removed, change into one that exists"
                     : errno == ERANGE ? "start from one with a shorter path"
                                       : "start from another one");
}

bool config_load_text(const char *path, char **text, size_t *bytes, Error *err) {
    *text = NULL;
    *bytes = 0;
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file || fstat(fileno(file), &info) != 0) {
        if (file) fclose(file);
        char folder[CONFIG_PATH_BYTES];
        int cause = errno;
        if (cause == ENOENT && path[0] != '/' && !getcwd(folder, sizeof folder))
            return no_current_folder(err);
        return error_set(err, EXIT_CONFIG, "%.400s: cannot open the configuration: %s", path,
                         strerror(cause));
    }
    // One byte more than legal, so that yaml_read sees what is too large; also works on a pipe.
    size_t room = CONFIG_YAML_MAX_BYTES + 1;
    char *buffer = malloc(room);
    CHECK_MEMORY(buffer, "no memory for a configuration of %zu bytes", room);
    size_t got = S_ISDIR(info.st_mode) ? 0 : fread(buffer, 1, room, file);
    bool failed = S_ISDIR(info.st_mode) || ferror(file);
    fclose(file);
    if (failed) {
        free(buffer);
        return error_set(err, EXIT_CONFIG, "%.400s: cannot read the configuration: %s", path,
                         S_ISDIR(info.st_mode)
                             ? "it is a folder; name a .yaml file, as config.yaml in a run's"
                             : strerror(errno));
    }
    *text = buffer;
    *bytes = got;
    return true;
}

typedef struct Reading {
    Config *config;
    char base_folder[CONFIG_PATH_BYTES]; // where relative paths start
} Reading;

// Names of keys, which config_value_parse takes joined by commas.
static bool take_names(const Option *key, const YamlValue *value, void *field, Error *err) {
    char *joined = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&joined, &bytes);
    CHECK_MEMORY(out, "out of memory");
    for (int i = 0; i < value->count; i++) fprintf(out, "%s%s", i ? "," : "", value->items[i].text);
    fclose(out);
    CHECK_MEMORY(joined, "out of memory");
    bool ok = config_value_parse(key, joined, "", field, err);
    free(joined);
    return ok;
}

static bool take_file_value(void *context, const char *name, const YamlValue *value,
                            YamlPlace *place, Error *err) {
    Reading *reading = context;
    int row = config_key_find(name), wrong = -1;
    if (row < 0) return unknown_key(name, err);
    const Option *key = config_key(row);
    void *field = config_key_field(&reading->config->train, row);
    ConfigOrigin *origin = &reading->config->origins[row];
    if (origin->kind == ORIGIN_FILE)
        return error_set(err, EXIT_CONFIG, "%s is given twice, first in line %d; keep one", name,
                         origin->line);
    if (value->list && !option_takes_list(key))
        return error_set(err, EXIT_CONFIG,
                         "a list is not allowed as the value of %s; write one value", name);
    if (value->maps > 0 && key->type != OPTION_MAPS)
        return error_set(err, EXIT_CONFIG, "a list of maps is not allowed as the value of %s",
                         name);
    *origin = (ConfigOrigin){ORIGIN_FILE, place->line, place->column};
    if (key->type == OPTION_MAPS)
        return config_maps_parse(key, value, reading->base_folder, field, place, err);
    if (key->type == OPTION_NAMES) return take_names(key, value, field, err);
    if (!option_takes_list(key))
        return config_value_parse(key, value->items[0].text, reading->base_folder, field, err);
    const char **items = calloc((size_t)value->count + 1, sizeof *items);
    CHECK_MEMORY(items, "out of memory");
    for (int i = 0; i < value->count; i++) items[i] = value->items[i].text;
    bool ok = simple_items_parse(key, items, value->count, field, &wrong, err);
    if (value->list && wrong >= 0) *place = value->items[wrong].place;
    free(items);
    return ok;
}

static bool fail_at(ConfigOrigin origin, Error *err) {
    return origin.kind == ORIGIN_OTHER_FILE ? error_prefix(err, "line %d", origin.line)
                                            : error_prefix(err, "command line");
}

static bool take_override(Reading *reading, const char *assignment, ConfigOrigin origin,
                          Error *err) {
    const char *equals = strchr(assignment, '=');
    char name[128];
    bool fits = equals && equals - assignment < (int)sizeof name;
    if (!fits)
        return error_set(err, EXIT_CONFIG, "expected key=value, got '%.60s'", assignment) ||
               fail_at(origin, err);
    snprintf(name, sizeof name, "%.*s", (int)(equals - assignment), assignment);
    int row = config_key_find(name);
    bool ok = row >= 0 ? config_value_parse(config_key(row), equals + 1, reading->base_folder,
                                            config_key_field(&reading->config->train, row), err)
                       : unknown_key(name, err);
    if (!ok) return fail_at(origin, err);
    reading->config->origins[row] = origin;
    return true;
}

// The folder of the file without symbolic links, so that ../ in a path can be taken off by name.
static bool folder_of(const char *path, char folder[CONFIG_PATH_BYTES], Error *err) {
    char name[CONFIG_PATH_BYTES], resolved[PATH_MAX];
    snprintf(name, sizeof name, "%s", path);
    if (!realpath(dirname(name), resolved) || strlen(resolved) >= CONFIG_PATH_BYTES)
        return error_set(err, EXIT_CONFIG, "%.400s: its folder cannot be resolved: %s", path,
                         strerror(errno));
    memcpy(folder, resolved, strlen(resolved) + 1);
    return true;
}

// runs/NAME in the current folder, from …/NAME.yaml.
static bool default_run_dir(const char *source, const char *current_folder, char *run_dir,
                            Error *err) {
    char name[CONFIG_PATH_BYTES], relative[CONFIG_PATH_BYTES + 8];
    snprintf(name, sizeof name, "%s", source);
    char *stem = basename(name), *suffix = strrchr(stem, '.');
    if (suffix && suffix != stem) *suffix = '\0';
    snprintf(relative, sizeof relative, "runs/%s", stem);
    return path_resolve(current_folder, relative, run_dir, err);
}

static void set_defaults(Config *config, const char *source) {
    memset(config, 0, config_bytes()); // also the padding: the bytes are compared and sent
    snprintf(config->source, sizeof config->source, "%s", source);
    for (int row = 0; row < config_key_count(); row++) {
        Error err = {0};
        const Option *key = config_key(row);
        if (!key->initial) continue;
        void *field = config_key_field(&config->train, row);
        CHECK(config_value_parse(key, key->initial, "", field, &err), "%s", err.message);
    }
}

// The defaults of the system that compat names.
static void take_presets(Config *config) {
    for (int row = 0; row < config_key_count(); row++) {
        const char *value = compat_default(config->train.model.compat, config_key(row)->name);
        Error err = {0};
        if (!value || config->origins[row].kind != ORIGIN_DEFAULT) continue;
        void *field = config_key_field(&config->train, row);
        CHECK(config_value_parse(config_key(row), value, "", field, &err), "%s", err.message);
        config->origins[row].kind = ORIGIN_COMPAT;
    }
}

// Derived values; then everything must be there.
static bool complete(Config *config, Error *err) {
    take_presets(config);
    for (int row = 0; row < config_key_count(); row++) {
        const Option *key = config_key(row);
        if (key->initial || config->origins[row].kind != ORIGIN_DEFAULT) continue;
        if (!key->derived)
            return error_set(err, EXIT_CONFIG,
                             "%.400s: %s is missing: %s; add '%s: …' or pass %s=…", config->source,
                             key->name, key->help, key->name, key->name);
        config_key_derive(&config->train, row);
        config->origins[row].kind = ORIGIN_DERIVED;
    }
    return true;
}

static bool take_overrides(Config *config, const ConfigOverrides *set, const char *current_folder,
                           Error *err) {
    Reading reading = {.config = config};
    snprintf(reading.base_folder, sizeof reading.base_folder, "%s",
             set->folder ? set->folder : current_folder);
    for (int i = 0; i < set->count; i++) {
        ConfigOrigin origin = {.kind = ORIGIN_COMMAND_LINE};
        if (set->lines) origin = (ConfigOrigin){ORIGIN_OTHER_FILE, set->lines[i], 0};
        if (!take_override(&reading, set->words[i], origin, err)) return false;
    }
    return true;
}

bool config_read_changed(Config *config, const char *source, const char *text, size_t bytes,
                         const ConfigOverrides *sets, int set_count, Error *err) {
    char current_folder[CONFIG_PATH_BYTES];
    if (strlen(source) >= CONFIG_PATH_BYTES)
        return error_set(err, EXIT_CONFIG, "paths of more than %d bytes: '%.60s'",
                         CONFIG_PATH_BYTES - 1, source);
    if (!getcwd(current_folder, sizeof current_folder)) return no_current_folder(err);
    set_defaults(config, source);
    Reading file = {.config = config};
    if (!folder_of(source, file.base_folder, err)) return false;
    if (!default_run_dir(source, current_folder, config->train.run_dir, err)) return false;
    if (!yaml_read(source, text, bytes, take_file_value, &file, err)) return false;
    config_leave_out_derived(config);
    for (int i = 0; i < set_count; i++)
        if (!take_overrides(config, &sets[i], current_folder, err)) return false;
    return complete(config, err) && config_check(config, err);
}

bool config_read(Config *config, const char *source, const char *text, size_t bytes,
                 const char *const *overrides, int override_count, Error *err) {
    ConfigOverrides command_line = {.words = overrides, .count = override_count};
    return config_read_changed(config, source, text, bytes, &command_line, 1, err);
}
