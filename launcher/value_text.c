#include "launcher/value_text.h"

#include <stdlib.h>
#include <string.h>

#include "model/model_config.h"

// ---- as YAML ------------------------------------------------------------------------------------

static void list_print(FILE *out, const Option *key, const PerLayer *list) {
    if (list->count > 1) fputc('[', out);
    for (int64_t i = 0; i == 0 || i < list->count; i++) {
        if (i > 0) fputs(", ", out);
        if (key->type == OPTION_CHOICES)
            fputs(choice_row(*key->choices, (int)list->values[i])->word, out);
        else
            fprintf(out, "%lld", (long long)list->values[i]);
    }
    if (list->count > 1) fputc(']', out);
}

void number_text(double number, char text[NUMBER_TEXT_BYTES]) {
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, NUMBER_TEXT_BYTES, "%.*g", digits, number);
        if (strtod(text, NULL) == number) break;
    }
}

static void number_print(FILE *out, double number) {
    char text[NUMBER_TEXT_BYTES];
    number_text(number, text);
    fputs(text, out);
}

static void rational_print(FILE *out, Rational value) {
    if (MOST_DECIMALS % value.denominator == 0)
        fprintf(out, "%.9g", (double)value.numerator / (double)value.denominator);
    else
        fprintf(out, "%lld/%lld", (long long)value.numerator, (long long)value.denominator);
}

// In double quotes, since a path may hold any character.
void path_print(FILE *out, const char *path) {
    fputc('"', out);
    for (; *path; path++) {
        if (*path == '"' || *path == '\\') fputc('\\', out);
        fputc(*path, out);
    }
    fputc('"', out);
}

// What needs no quotes and is printed as a default is written.
static bool is_bare_word(const char *text) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz_";
    return text[0] && !text[strspn(text, letters)];
}

void simple_value_print(FILE *out, const Option *key, const void *field) {
    switch (key->type) {
    case OPTION_INTEGER:
        fprintf(out, "%lld", (long long)*(const int64_t *)field);
        return;
    case OPTION_NUMBER:
        number_print(out, *(const double *)field);
        return;
    case OPTION_RATIONAL:
        rational_print(out, *(const Rational *)field);
        return;
    case OPTION_FLAG:
        fputs(*(const bool *)field ? "true" : "false", out);
        return;
    case OPTION_CHOICE:
        fputs(choice_row(*key->choices, *(const int *)field)->word, out);
        return;
    case OPTION_WORD:
        fputs(field, out);
        return;
    case OPTION_PATH:
        if (key->choices && choice_find(*key->choices, field) >= 0)
            fputs(field, out);
        else
            path_print(out, field);
        return;
    case OPTION_NAMES:
        fprintf(out, "[%s]", (const char *)field);
        return;
    case OPTION_PATTERN: // bare, a * would begin an alias
        path_print(out, field);
        return;
    case OPTION_LABEL:
        if (is_bare_word(field))
            fputs(field, out);
        else
            path_print(out, field);
        return;
    case OPTION_INTEGERS:
    case OPTION_CHOICES:
        list_print(out, key, field);
        return;
    case OPTION_MAPS:
        break;
    }
    CHECK(false, "%s is a list of maps", key->name);
}

// ---- what is legal ------------------------------------------------------------------------------

// "a, b or c"; `more` is one more choice, or NULL.
static void list_choices(ChoiceTable choices, const char *more, char list[256]) {
    size_t used = 0;
    for (int i = 0; i < choices.count; i++) {
        bool last = i == choices.count - 1 && !more;
        const char *separator = i == 0 ? "" : last ? " or " : ", ";
        int length =
            snprintf(list + used, 256 - used, "%s%s", separator, choice_row(choices, i)->word);
        used += (size_t)length;
        CHECK(used < 256, "the choices take more than a line: %s", list);
    }
    if (more) snprintf(list + used, 256 - used, " or %s", more);
}

// A list of one map in which each field is its default, or "…" where it has none.
static void maps_legal(const OptionMap *map, char text[CONFIG_LEGAL_BYTES]) {
    size_t used = 0;
    for (int i = 0; map->plain && i < map->count; i++)
        if (strcmp(map->fields[i].name, map->plain) == 0)
            config_value_legal(&map->fields[i], text), used = strlen(text);
    used += (size_t)snprintf(text + used, CONFIG_LEGAL_BYTES - used,
                             "%sa list of at most %d maps in brackets, as in [{",
                             used > 0 ? ", or " : "", map->most);
    for (int i = 0; i < map->count; i++) {
        const char *initial = map->fields[i].initial;
        used += (size_t)snprintf(text + used, CONFIG_LEGAL_BYTES - used, "%s%s: %s",
                                 i > 0 ? ", " : "", map->fields[i].name,
                                 !initial     ? "…"
                                 : initial[0] ? initial
                                              : "\"\"");
        CHECK(used + 3 < CONFIG_LEGAL_BYTES, "the fields take too much text: %s", text);
    }
    snprintf(text + used, CONFIG_LEGAL_BYTES - used, "}]");
}

void config_value_legal(const Option *key, char text[CONFIG_LEGAL_BYTES]) {
    char list[256];
    switch (key->type) {
    case OPTION_INTEGER:
        snprintf(text, CONFIG_LEGAL_BYTES, "a whole number from %.0f to %.0f", key->min, key->max);
        return;
    case OPTION_NUMBER:
        snprintf(text, CONFIG_LEGAL_BYTES, "a number from %g to %g", key->min, key->max);
        return;
    case OPTION_RATIONAL:
        snprintf(text, CONFIG_LEGAL_BYTES,
                 "a decimal with at most 4 places or a fraction a/b, from %g to %g", key->min,
                 key->max);
        return;
    case OPTION_FLAG:
        snprintf(text, CONFIG_LEGAL_BYTES, "true or false");
        return;
    case OPTION_CHOICE:
    case OPTION_WORD:
        list_choices(*key->choices, NULL, list);
        snprintf(text, CONFIG_LEGAL_BYTES, "%s", list);
        return;
    case OPTION_PATH:
        if (key->choices)
            list_choices(*key->choices, "a path", list);
        else
            snprintf(list, sizeof list, "a path in UTF-8 without control characters");
        snprintf(text, CONFIG_LEGAL_BYTES, "%s", list);
        return;
    case OPTION_NAMES:
        snprintf(text, CONFIG_LEGAL_BYTES,
                 "names of keys: a list in YAML, joined by commas on the command line");
        return;
    case OPTION_PATTERN:
        snprintf(text, CONFIG_LEGAL_BYTES,
                 "names of lower-case letters, digits, '_' and '.', where * is any text and ? any "
                 "character; at most %d bytes",
                 CONFIG_PATTERN_BYTES - 1);
        return;
    case OPTION_LABEL:
        snprintf(text, CONFIG_LEGAL_BYTES,
                 "a name in UTF-8 without control characters, of at most %d bytes",
                 CONFIG_LABEL_BYTES - 1);
        return;
    case OPTION_MAPS:
        maps_legal(key->map, text);
        return;
    case OPTION_INTEGERS:
        snprintf(
            text, CONFIG_LEGAL_BYTES,
            "a whole number from %.0f to %.0f, or a list of them in brackets that repeats over "
            "the layers",
            key->min, key->max);
        return;
    case OPTION_CHOICES:
        list_choices(*key->choices, NULL, list);
        snprintf(text, CONFIG_LEGAL_BYTES,
                 "%s, or a list of these in brackets that repeats over the layers", list);
        return;
    }
}
