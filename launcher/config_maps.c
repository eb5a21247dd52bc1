#include "launcher/config_maps.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/suggest.h"
#include "launcher/simple_value.h"
#include "launcher/value_text.h"

// ---- one field ----------------------------------------------------------------------------------

static int field_find(const OptionMap *map, const char *name) {
    for (int i = 0; i < map->count; i++)
        if (strcmp(map->fields[i].name, name) == 0) return i;
    return -1;
}

static bool unknown_field(const Option *key, const char *name, Error *err) {
    const char **names = calloc((size_t)key->map->count + 1, sizeof *names);
    CHECK_MEMORY(names, "out of memory");
    for (int i = 0; i < key->map->count; i++) names[i] = key->map->fields[i].name;
    const char *near = suggest_word(name, names);
    free(names);
    char quoted[80];
    value_quote(name, quoted);
    if (strchr(name, ':'))
        return error_set(err, EXIT_CONFIG, "unknown field %s; write a space after the colon",
                         quoted);
    if (near)
        return error_set(err, EXIT_CONFIG, "unknown field %s; did you mean '%s'?", quoted, near);
    return error_set(err, EXIT_CONFIG, "unknown field %s; `moetrain help %s` lists all fields",
                     quoted, key->name);
}

// ---- one map ------------------------------------------------------------------------------------

// Defaults where no item stands.
static bool fill_defaults(const OptionMap *map, const bool *given, char *at, Error *err) {
    for (int i = 0; i < map->count; i++) {
        const Option *field = &map->fields[i];
        if (given[i]) continue;
        if (!field->initial)
            return error_set(err, EXIT_CONFIG, "the field '%s' is missing: %s", field->name,
                             field->help);
        CHECK(simple_value_parse(field, field->initial, "", at + field->offset, err), "%s",
              err->message);
    }
    return true;
}

// Reads map `number`, whose items begin at *item, which moves behind them.
static bool map_parse(const Option *key, const YamlValue *value, const char *base_folder,
                      int number, int *item, char *at, YamlPlace *place, Error *err) {
    const OptionMap *map = key->map;
    bool *given = calloc((size_t)map->count, sizeof *given);
    CHECK_MEMORY(given, "out of memory");
    bool ok = true;
    for (; ok && *item < value->count && value->items[*item].map == number; ++*item) {
        const YamlItem *one = &value->items[*item];
        int i = field_find(map, one->field);
        *place = one->place;
        if (i < 0)
            ok = unknown_field(key, one->field, err);
        else if (given[i])
            ok = error_set(err, EXIT_CONFIG, "'%s' is given twice; keep one", one->field);
        else
            ok = simple_value_parse(&map->fields[i], one->text, base_folder,
                                    at + map->fields[i].offset, err);
        if (i >= 0) given[i] = true;
    }
    if (ok) *place = value->map_places[number];
    ok = ok && fill_defaults(map, given, at, err);
    free(given);
    return ok || error_prefix(err, "map %d of %s", number + 1, key->name);
}

// ---- the list -----------------------------------------------------------------------------------

static bool refuse(const Option *key, const char *text, Error *err) {
    char quoted[80], legal[CONFIG_LEGAL_BYTES];
    value_quote(text, quoted);
    config_value_legal(key, legal);
    return error_set(err, EXIT_CONFIG, "%s is %s, but must be %s", key->name, quoted, legal);
}

// A list of zeros: what is not used stays zero, since bytes of configurations are compared.
static char *new_list(const OptionMap *map, size_t *bytes) {
    *bytes = sizeof(int64_t) + (size_t)map->most * map->bytes;
    char *list = calloc(1, *bytes);
    CHECK_MEMORY(list, "out of memory");
    return list;
}

// A value that is no list.
static bool plain_parse(const Option *key, const char *text, const char *base_folder, void *field,
                        Error *err) {
    const OptionMap *map = key->map;
    int row = field_find(map, map->plain);
    Option plain = map->fields[row];
    plain.name = key->name;
    plain.initial = key->initial;
    size_t bytes;
    bool *given = calloc((size_t)map->count, sizeof *given);
    CHECK_MEMORY(given, "out of memory");
    char *list = new_list(map, &bytes), *first = list + sizeof(int64_t);
    bool none = !text[0] && key->initial;
    given[row] = true;
    bool ok = none || (simple_value_parse(&plain, text, base_folder, first + plain.offset, err) &&
                       fill_defaults(map, given, first, err));
    *(int64_t *)list = !none;
    if (ok) memcpy(field, list, bytes);
    free(list);
    free(given);
    return ok;
}

// Whether the list is what a value that is no list would be, which goes to *plain: the field of the
// only map, or NULL of an empty list.
static bool are_plain(const Option *key, const void *list, const Option **field,
                      const void **plain) {
    const OptionMap *map = key->map;
    int64_t count = *(const int64_t *)list;
    const char *first = (const char *)list + sizeof count;
    *field = NULL;
    *plain = NULL;
    if (!map->plain || count > 1) return false;
    if (count == 0) return true;
    int row = field_find(map, map->plain);
    *field = &map->fields[row];
    *plain = first + map->fields[row].offset;
    bool *given = calloc((size_t)map->count, sizeof *given);
    char *alone = malloc(map->bytes);
    CHECK_MEMORY(given && alone, "out of memory");
    Error ignored = {0};
    given[row] = true;
    memcpy(alone, first, map->bytes);
    bool same = fill_defaults(map, given, alone, &ignored) && memcmp(alone, first, map->bytes) == 0;
    free(alone);
    free(given);
    return same;
}

void config_maps_print(FILE *out, const Option *key, const void *list) {
    const OptionMap *map = key->map;
    const Option *field;
    const void *plain;
    if (are_plain(key, list, &field, &plain)) {
        if (plain) simple_value_print(out, field, plain);
        if (!plain) path_print(out, "");
        return;
    }
    int64_t count = *(const int64_t *)list;
    const char *first = (const char *)list + sizeof count;
    fputc('[', out);
    for (int64_t i = 0; i < count; i++) {
        fputs(i > 0 ? ", {" : "{", out);
        for (int j = 0; j < map->count; j++) {
            fprintf(out, "%s%s: ", j > 0 ? ", " : "", map->fields[j].name);
            simple_value_print(out, &map->fields[j],
                               first + (size_t)i * map->bytes + map->fields[j].offset);
        }
        fputc('}', out);
    }
    fputc(']', out);
}

bool config_maps_parse(const Option *key, const YamlValue *value, const char *base_folder,
                       void *field, YamlPlace *place, Error *err) {
    const OptionMap *map = key->map;
    if (!value->list && map->plain)
        return plain_parse(key, value->items[0].text, base_folder, field, err);
    if (!value->list || (value->maps == 0 && value->count > 0))
        return refuse(key, value->items[0].text, err);
    if (value->maps > map->most)
        return error_set(err, EXIT_CONFIG, "%s has %d maps, but at most %d are possible", key->name,
                         value->maps, map->most);
    size_t bytes;
    char *list = new_list(map, &bytes);
    bool ok = true;
    for (int i = 0, item = 0; ok && i < value->maps; i++)
        ok = map_parse(key, value, base_folder, i, &item,
                       list + sizeof(int64_t) + (size_t)i * map->bytes, place, err);
    *(int64_t *)list = value->maps;
    if (ok) memcpy(field, list, bytes);
    free(list);
    return ok;
}

// ---- of a command line --------------------------------------------------------------------------

typedef struct TextReading {
    const Option *key;
    const char *base_folder;
    void *field;
    Error err;
} TextReading;

static bool take_text(void *context, const char *name, const YamlValue *value, YamlPlace *place,
                      Error *err) {
    TextReading *reading = context;
    (void)name;
    if (config_maps_parse(reading->key, value, reading->base_folder, reading->field, place,
                          &reading->err))
        return true;
    *err = reading->err;
    return false;
}

bool config_maps_parse_text(const Option *key, const char *text, const char *base_folder,
                            void *field, Error *err) {
    char *document = NULL;
    Error yaml_error = {0};
    TextReading reading = {.key = key, .base_folder = base_folder, .field = field};
    size_t length = strlen(text);
    bool brackets = length >= 2 && text[0] == '[' && text[length - 1] == ']';
    if (!brackets && key->map->plain) return plain_parse(key, text, base_folder, field, err);
    if (!brackets || strpbrk(text, "\n\r#")) return refuse(key, text, err);
    CHECK_MEMORY(asprintf(&document, "value: %s", text) >= 0, "out of memory");
    bool ok = yaml_read("", document, strlen(document), take_text, &reading, &yaml_error);
    free(document);
    if (ok) return true;
    if (reading.err.message[0]) *err = reading.err; // without the place in `document`
    return reading.err.message[0] ? false : refuse(key, text, err);
}
