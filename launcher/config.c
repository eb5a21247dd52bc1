#include "launcher/config.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher/config_rules.h"
#include "launcher/config_value.h"
#include "launcher/config_yaml.h"

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
    char *buffer = S_ISDIR(info.st_mode) ? NULL : malloc(room);
    size_t got = buffer ? fread(buffer, 1, room, file) : 0;
    bool failed = ferror(file) != 0;
    fclose(file);
    if (!buffer || failed) {
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

static bool unknown_key(const char *name, Error *err) {
    size_t length = strlen(name);
    for (int row = 0; row < CONFIG_KEY_COUNT; row++)
        if (strncmp(CONFIG_KEYS[row].name, name, length) == 0 &&
            CONFIG_KEYS[row].name[length] == '.')
            return error_set(
                err, EXIT_CONFIG,
                "'%s' is a section: give its keys below it, or leave it out (moetrain help %s)",
                name, name);
    const char *near = config_key_suggest(name);
    char quoted[80];
    value_quote(name, quoted);
    if (near)
        return error_set(err, EXIT_CONFIG, "unknown key %s; did you mean '%s'?", quoted, near);
    return error_set(err, EXIT_CONFIG, "unknown key %s; `moetrain help` lists all keys", quoted);
}

static bool take_file_value(void *context, const char *name, const char *value, bool list,
                            YamlPlace place, Error *err) {
    Reading *reading = context;
    int row = config_key_find(name);
    if (row < 0) return unknown_key(name, err);
    ConfigOrigin *origin = &reading->config->origins[row];
    if (origin->kind == ORIGIN_FILE)
        return error_set(err, EXIT_CONFIG, "%s is given twice, first in line %d; keep one", name,
                         origin->line);
    if (list && CONFIG_KEYS[row].type != KEY_NAMES)
        return error_set(err, EXIT_CONFIG,
                         "a list is not allowed as the value of %s; write one value", name);
    *origin = (ConfigOrigin){ORIGIN_FILE, place.line, place.column};
    return config_value_parse(&CONFIG_KEYS[row], value, reading->base_folder,
                              &reading->config->train, err);
}

static bool take_override(Reading *reading, const char *assignment, Error *err) {
    const char *equals = strchr(assignment, '=');
    char name[128];
    bool fits = equals && equals - assignment < (int)sizeof name;
    if (!fits)
        return error_set(err, EXIT_CONFIG, "command line: expected key=value, got '%.60s'",
                         assignment);
    snprintf(name, sizeof name, "%.*s", (int)(equals - assignment), assignment);
    int row = config_key_find(name);
    bool ok = row >= 0 ? config_value_parse(&CONFIG_KEYS[row], equals + 1, reading->base_folder,
                                            &reading->config->train, err)
                       : unknown_key(name, err);
    if (!ok) return error_prefix(err, "command line");
    reading->config->origins[row] = (ConfigOrigin){.kind = ORIGIN_COMMAND_LINE};
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
    memset(config, 0, sizeof *config); // also the padding: the bytes are compared and sent
    snprintf(config->source, sizeof config->source, "%s", source);
    for (int row = 0; row < CONFIG_KEY_COUNT; row++) {
        Error err = {0};
        const ConfigKey *key = &CONFIG_KEYS[row];
        if (!key->initial) continue;
        CHECK(config_value_parse(key, key->initial, "", &config->train, &err), "%s", err.message);
    }
}

// Derived values; then everything must be there.
static bool complete(Config *config, Error *err) {
    for (int row = 0; row < CONFIG_KEY_COUNT; row++) {
        const ConfigKey *key = &CONFIG_KEYS[row];
        if (key->initial || config->origins[row].kind != ORIGIN_DEFAULT) continue;
        if (!key->derived)
            return error_set(err, EXIT_CONFIG,
                             "%.400s: %s is missing: %s; add '%s: …' or pass %s=…", config->source,
                             key->name, key->help, key->name, key->name);
        if (key->derive) key->derive(&config->train);
        config->origins[row].kind = ORIGIN_DERIVED;
    }
    return true;
}

bool config_read(Config *config, const char *source, const char *text, size_t bytes,
                 const char *const *overrides, int override_count, Error *err) {
    char current_folder[CONFIG_PATH_BYTES];
    if (strlen(source) >= CONFIG_PATH_BYTES)
        return error_set(err, EXIT_CONFIG, "paths of more than %d bytes: '%.60s'",
                         CONFIG_PATH_BYTES - 1, source);
    if (!getcwd(current_folder, sizeof current_folder)) return no_current_folder(err);
    set_defaults(config, source);
    Reading file = {.config = config}, command_line = {.config = config};
    memcpy(command_line.base_folder, current_folder, sizeof current_folder);
    if (!folder_of(source, file.base_folder, err)) return false;
    if (!default_run_dir(source, current_folder, config->train.run_dir, err)) return false;
    if (!yaml_read(source, text, bytes, take_file_value, &file, err)) return false;
    for (int i = 0; i < override_count; i++)
        if (!take_override(&command_line, overrides[i], err)) return false;
    return complete(config, err) && config_check(config, err);
}

// ---- printing -----------------------------------------------------------------------------------

void config_place(const Config *config, const char *key, char place[CONFIG_PATH_BYTES + 32]) {
    const ConfigOrigin *origin = &config->origins[config_key_find(key)];
    static const char *const words[] = {[ORIGIN_DEFAULT] = "default",
                                        [ORIGIN_DERIVED] = "derived",
                                        [ORIGIN_COMMAND_LINE] = "command line"};
    if (origin->kind == ORIGIN_FILE)
        snprintf(place, CONFIG_PATH_BYTES + 32, "%s:%d:%d", config->source, origin->line,
                 origin->column);
    else
        snprintf(place, CONFIG_PATH_BYTES + 32, "%s", words[origin->kind]);
}

// Paths in double quotes, since they may hold any character; names as a list.
static void print_value(FILE *out, const ConfigKey *key, const char *value) {
    if (key->type == KEY_NAMES) {
        fprintf(out, "[%s]", value);
        return;
    }
    if (key->type != KEY_PATH || (key->choices && value[0] != '/')) {
        fputs(value, out);
        return;
    }
    fputc('"', out);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\') fputc('\\', out);
        fputc(*value, out);
    }
    fputc('"', out);
}

static int section_length(const char *name) {
    return (int)strcspn(name, ".");
}

static bool starts_section(int row) {
    const char *name = CONFIG_KEYS[row].name;
    return row > 0 && strncmp(name, CONFIG_KEYS[row - 1].name, (size_t)section_length(name)) != 0;
}

char *config_to_yaml(const Config *config, bool origins) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "out of memory");
    for (int row = 0; row < CONFIG_KEY_COUNT; row++) {
        const ConfigKey *key = &CONFIG_KEYS[row];
        char value[CONFIG_VALUE_BYTES], place[CONFIG_PATH_BYTES + 32];
        config_value_format(key, &config->train, value);
        if (starts_section(row)) fputc('\n', out);
        long start = ftell(out);
        fprintf(out, "%s: ", key->name);
        print_value(out, key, value);
        if (origins) {
            config_place(config, key->name, place);
            int pad = 44 - (int)(ftell(out) - start);
            fprintf(out, "%*s # %s", pad > 0 ? pad : 0, "", place);
            if (config->origins[row].kind == ORIGIN_DERIVED) fprintf(out, ": %s", key->derived);
        }
        fputc('\n', out);
    }
    fclose(out);
    CHECK_MEMORY(text, "out of memory");
    return text;
}

void config_key_rules(const Config *config, KeyRule rules[CONFIG_KEY_COUNT + 1]) {
    for (int row = 0; row < CONFIG_KEY_COUNT; row++) {
        const ConfigKey *key = &CONFIG_KEYS[row];
        rules[row] = (KeyRule){.key = key->name, .kind = key->kind, .initial = key->initial};
        if (config->origins[row].kind == ORIGIN_DERIVED) rules[row].derived = key->derived;
    }
    rules[CONFIG_KEY_COUNT] = (KeyRule){0};
}

// ---- help ---------------------------------------------------------------------------------------

static void print_default(FILE *out, const ConfigKey *key) {
    if (key->initial)
        fprintf(out, "%s", key->initial[0] ? key->initial : "\"\"");
    else
        fprintf(out, "%s", key->derived ? key->derived : "must be given");
}

static void print_row(FILE *out, const ConfigKey *key) {
    char legal[256];
    fprintf(out, "  %-26s %s", key->name, key->help);
    if (key->choices) {
        config_value_legal(key, legal);
        fprintf(out, ": %s", legal);
    }
    fprintf(out, " (");
    print_default(out, key);
    fprintf(out, ")\n");
}

// What each word means, a line each; nothing where the words say it themselves.
static void print_meanings(FILE *out, ChoiceTable choices) {
    int width = 0;
    for (int i = 0; i < choices.count; i++) {
        int length = (int)strlen(choice_row(choices, i)->word);
        if (length > width) width = length;
    }
    for (int i = 0; i < choices.count; i++) {
        const Choice *choice = choice_row(choices, i);
        if (choice->meaning)
            fprintf(out, "\n           %-*s  %s", width, choice->word, choice->meaning);
    }
}

void config_print_keys(FILE *out) {
    fprintf(out,
            "Keys of the configuration: what they mean, and in brackets their defaults.\n"
            "In YAML `moe: {top_k: 2}` or `moe.top_k: 2`; on the command line moe.top_k=2.\n\n");
    for (int row = 0; row < CONFIG_KEY_COUNT; row++) {
        if (starts_section(row)) fputc('\n', out);
        print_row(out, &CONFIG_KEYS[row]);
    }
}

// What a change means when a run goes on from a checkpoint.
static const char *const kind_words[] = {
    [KIND_FREE] = "free: may change at any resume, the results stay",
    [KIND_COURSE] = "course: may change at a resume, which changes how training goes on",
    [KIND_FUNCTION] = "function: part of what a checkpoint means; a resume refuses another value "
                      "unless resume.allow names the key",
    [KIND_STATE] = "function: part of what the run is; a resume refuses another value unless "
                   "resume.allow names the key; init does not mind",
};

bool config_print_key(FILE *out, const char *name, Error *err) {
    int row = config_key_find(name);
    if (row >= 0) {
        const ConfigKey *key = &CONFIG_KEYS[row];
        char legal[256];
        config_value_legal(key, legal);
        fprintf(out, "%s: %s\n  value:   %s", key->name, key->help, legal);
        if (key->choices) print_meanings(out, *key->choices);
        fprintf(out, "\n  default: ");
        print_default(out, key);
        fprintf(out, "\n  kind:    %s\n", kind_words[key->kind]);
        return true;
    }
    bool found = false;
    for (row = 0; row < CONFIG_KEY_COUNT; row++) {
        const char *key = CONFIG_KEYS[row].name;
        int length = section_length(key);
        if (key[length] != '.' || strncmp(key, name, (size_t)length) != 0 || name[length]) continue;
        print_row(out, &CONFIG_KEYS[row]);
        found = true;
    }
    return found || unknown_key(name, err);
}
