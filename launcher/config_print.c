#include "launcher/config_print.h"

#include <stdlib.h>
#include <string.h>

#include "launcher/config_value.h"
#include "launcher/unknown_key.h"
#include "launcher/value_text.h"

// ---- as YAML ------------------------------------------------------------------------------------

static int section_length(const char *name) {
    return (int)strcspn(name, ".");
}

static bool starts_section(int row) {
    const char *name = config_key(row)->name;
    return row > 0 && strncmp(name, config_key(row - 1)->name, (size_t)section_length(name)) != 0;
}

char *config_key_text(const Config *config, int row) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "out of memory");
    config_value_print(out, config_key(row), config_key_value(&config->train, row));
    fclose(out);
    CHECK_MEMORY(text, "out of memory");
    return text;
}

char *config_to_yaml(const Config *config, bool origins) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "out of memory");
    for (int row = 0; row < config_key_count(); row++) {
        const Option *key = config_key(row);
        char place[CONFIG_PATH_BYTES + 32];
        if (starts_section(row)) fputc('\n', out);
        long start = ftell(out);
        fprintf(out, "%s: ", key->name);
        config_value_print(out, key, config_key_value(&config->train, row));
        if (origins) {
            config_place(config, key->name, place, sizeof place);
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

KeyRule *config_key_rules(const Config *config) {
    KeyRule *rules = calloc((size_t)config_key_count() + 1, sizeof *rules);
    CHECK_MEMORY(rules, "out of memory");
    for (int row = 0; row < config_key_count(); row++) {
        const Option *key = config_key(row);
        rules[row] = (KeyRule){.key = key->name, .kind = key->kind, .initial = key->initial};
        if (config->origins[row].kind == ORIGIN_DERIVED) rules[row].derived = key->derived;
        if (config->origins[row].kind == ORIGIN_COMPAT) rules[row].derived = "compat";
    }
    return rules;
}

// ---- help ---------------------------------------------------------------------------------------

static void print_default(FILE *out, const Option *key) {
    if (key->initial)
        fprintf(out, "%s", key->initial[0] ? key->initial : "\"\"");
    else
        fprintf(out, "%s", key->derived ? key->derived : "must be given");
}

static void print_row(FILE *out, const Option *key) {
    char legal[CONFIG_LEGAL_BYTES];
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

// The fields of a list of maps, a line each.
static void print_fields(FILE *out, const OptionMap *map) {
    for (int i = 0; i < map->count; i++) {
        const Option *field = &map->fields[i];
        char legal[CONFIG_LEGAL_BYTES];
        config_value_legal(field, legal);
        fprintf(out, "\n           %s: %s: %s (", field->name, field->help, legal);
        print_default(out, field);
        fputc(')', out);
    }
}

void config_print_keys(FILE *out) {
    fprintf(out,
            "Keys of the configuration: what they mean, and in brackets their defaults.\n"
            "In YAML `moe: {top_k: 2}` or `moe.top_k: 2`; on the command line moe.top_k=2.\n\n");
    for (int row = 0; row < config_key_count(); row++) {
        if (starts_section(row)) fputc('\n', out);
        print_row(out, config_key(row));
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
        const Option *key = config_key(row);
        char legal[CONFIG_LEGAL_BYTES];
        config_value_legal(key, legal);
        fprintf(out, "%s: %s\n  value:   %s", key->name, key->help, legal);
        if (key->choices) print_meanings(out, *key->choices);
        if (key->map) print_fields(out, key->map);
        fprintf(out, "\n  default: ");
        print_default(out, key);
        fprintf(out, "\n  kind:    %s\n", kind_words[key->kind]);
        return true;
    }
    bool found = false;
    for (row = 0; row < config_key_count(); row++) {
        const char *key = config_key(row)->name;
        int length = section_length(key);
        if (key[length] != '.' || strncmp(key, name, (size_t)length) != 0 || name[length]) continue;
        print_row(out, config_key(row));
        found = true;
    }
    return found || unknown_key(name, err);
}
