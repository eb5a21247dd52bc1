#include "launcher/config_yaml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { KEY_BYTES = 256, MOST_SECTIONS = 64 };

typedef struct Reader {
    yaml_parser_t parser;
    const char *source, *text;
    size_t bytes;
    YamlVisit visit;
    void *context;
    char key[KEY_BYTES];                     // the dotted key at hand
    char sections[MOST_SECTIONS][KEY_BYTES]; // mappings read so far: each may stand once
    int section_count;
    Error *err;
} Reader;

static YamlPlace place_of(yaml_mark_t mark) {
    return (YamlPlace){(int)mark.line + 1, (int)mark.column + 1};
}

// Puts "source:line:column: " before the message in *err.
static bool fail_at(Reader *reader, YamlPlace place) {
    reader->err->exit_code = EXIT_CONFIG;
    return error_prefix(reader->err, "%.400s:%d:%d", reader->source, place.line, place.column);
}

#define FAIL_AT(reader, place, ...)                                                                \
    (error_set((reader)->err, EXIT_CONFIG, __VA_ARGS__), fail_at(reader, place))

// Whether a line, counted from 0, is indented with a tab.
static bool has_tab(const Reader *reader, size_t line) {
    const char *at = reader->text, *end = at + reader->bytes;
    for (; at && line > 0; line--) {
        at = memchr(at, '\n', (size_t)(end - at));
        if (at) at++;
    }
    while (at && at < end && *at == ' ') at++;
    return at && at < end && *at == '\t';
}

static bool next_event(Reader *reader, yaml_event_t *event) {
    if (yaml_parser_parse(&reader->parser, event)) return true;
    const yaml_parser_t *p = &reader->parser;
    bool bytes = p->error == YAML_READER_ERROR; // it has a byte offset instead of a line
    if (bytes)
        return error_set(reader->err, EXIT_CONFIG, "%.400s: byte %zu is not UTF-8 text: %s",
                         reader->source, p->problem_offset, p->problem ? p->problem : "unreadable");
    bool tab = has_tab(reader, p->problem_mark.line);
    return FAIL_AT(reader, place_of(p->problem_mark), "not valid YAML: %s%s%s; %s",
                   p->problem ? p->problem : "out of memory", p->context ? " " : "",
                   p->context ? p->context : "",
                   tab ? "the line begins with a tab: write spaces"
                       : "check the indentation, the brackets and the colons, with a space after "
                         "each, of this line and the one before");
}

static bool is_plain_node(Reader *reader, YamlPlace place, const yaml_char_t *anchor,
                          const yaml_char_t *tag) {
    if (anchor)
        return FAIL_AT(reader, place, "the anchor '&%.60s' is not allowed; write the value out",
                       (const char *)anchor);
    if (tag)
        return FAIL_AT(reader, place,
                       "the tag '%.60s' is not allowed; the type follows from the key",
                       (const char *)tag);
    return true;
}

// Refuses what a configuration has no use for.
static bool is_legal_event(Reader *reader, const yaml_event_t *event) {
    YamlPlace place = place_of(event->start_mark);
    switch (event->type) {
    case YAML_ALIAS_EVENT:
        return FAIL_AT(
            reader, place,
            "the alias '*%.60s' is not allowed; write the value out, or put it in quotes",
            (const char *)event->data.alias.anchor);
    case YAML_SEQUENCE_START_EVENT:
        if (!reader->key[0]) return FAIL_AT(reader, place, "a list is not allowed here");
        return is_plain_node(reader, place, event->data.sequence_start.anchor,
                             event->data.sequence_start.tag);
    case YAML_SCALAR_EVENT:
        if (memchr(event->data.scalar.value, '\0', event->data.scalar.length))
            return FAIL_AT(reader, place, "a NUL character is not allowed");
        return is_plain_node(reader, place, event->data.scalar.anchor, event->data.scalar.tag);
    case YAML_MAPPING_START_EVENT:
        return is_plain_node(reader, place, event->data.mapping_start.anchor,
                             event->data.mapping_start.tag);
    default:
        return true;
    }
}

static bool open_section(Reader *reader, YamlPlace place) {
    for (int i = 0; i < reader->section_count; i++)
        if (strcmp(reader->sections[i], reader->key) == 0)
            return FAIL_AT(reader, place, "the section '%s' stands twice; move its keys together",
                           reader->key);
    if (reader->section_count == MOST_SECTIONS)
        return FAIL_AT(reader, place, "more than %d sections", MOST_SECTIONS);
    memcpy(reader->sections[reader->section_count++], reader->key, KEY_BYTES);
    return true;
}

// Appends ".part" to the key at hand.
static bool extend_key(Reader *reader, const yaml_event_t *event) {
    YamlPlace place = place_of(event->start_mark);
    if (event->type != YAML_SCALAR_EVENT)
        return FAIL_AT(reader, place, "a key must be a word, not a mapping");
    const char *part = (const char *)event->data.scalar.value;
    size_t used = strlen(reader->key);
    if (!part[0] ||
        part[strspn(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")])
        return FAIL_AT(reader, place, "a key is made of letters, digits, '_' and '.'; %s",
                       part[0] ? "this one has other characters" : "this one is empty");
    int length = snprintf(reader->key + used, KEY_BYTES - used, "%s%s", used ? "." : "", part);
    if (length < KEY_BYTES - (int)used) return true;
    return FAIL_AT(reader, place, "a key of more than %d bytes", KEY_BYTES - 1);
}

// A value while it is read.
typedef struct List {
    int count, room, maps, maps_room;
    YamlItem *items;
    YamlPlace *map_places;
} List;

static char *copy_of(const char *text) {
    char *copy = strdup(text);
    CHECK_MEMORY(copy, "no memory for an item of a list");
    return copy;
}

// `field` NULL: no value of a map.
static void list_add(List *list, const char *text, YamlPlace place, const char *field) {
    if (list->count == list->room) {
        list->room = 2 * list->room + 8;
        list->items = realloc(list->items, (size_t)list->room * sizeof *list->items);
        CHECK_MEMORY(list->items, "no memory for a list of %d items", list->room);
    }
    list->items[list->count++] = (YamlItem){.text = copy_of(text),
                                            .place = place,
                                            .field = field ? copy_of(field) : NULL,
                                            .map = list->maps - 1};
}

static void list_add_map(List *list, YamlPlace place) {
    if (list->maps == list->maps_room) {
        list->maps_room = 2 * list->maps_room + 8;
        list->map_places =
            realloc(list->map_places, (size_t)list->maps_room * sizeof *list->map_places);
        CHECK_MEMORY(list->map_places, "no memory for a list of %d maps", list->maps_room);
    }
    list->map_places[list->maps++] = place;
}

static void list_free(List *list) {
    for (int i = 0; i < list->count; i++) {
        free(list->items[i].text);
        free(list->items[i].field);
    }
    free(list->items);
    free(list->map_places);
}

// Reads the fields of a map of the list, whose start event is already taken.
static bool read_map(Reader *reader, List *list) {
    char field[64] = "";
    for (bool is_field = true;; is_field = !is_field) {
        yaml_event_t event;
        if (!next_event(reader, &event)) return false;
        YamlPlace place = place_of(event.start_mark);
        bool end = event.type == YAML_MAPPING_END_EVENT;
        bool ok = end || is_legal_event(reader, &event);
        if (ok && !end && event.type != YAML_SCALAR_EVENT)
            ok = is_field ? FAIL_AT(reader, place, "a field of a map of %s is no word", reader->key)
                          : FAIL_AT(reader, place, "'%s' in a map of %s is no single value", field,
                                    reader->key);
        if (ok && !end) {
            const char *text = (const char *)event.data.scalar.value;
            if (is_field)
                snprintf(field, sizeof field, "%s", text);
            else
                list_add(list, text, place, field);
        }
        yaml_event_delete(&event);
        if (!ok || end) return ok;
    }
}

// Takes an event that begins an item of a list, and what belongs to it.
static bool read_item(Reader *reader, YamlPlace list_place, const yaml_event_t *event, List *list) {
    YamlPlace place = place_of(event->start_mark);
    if (event->type == YAML_MAPPING_START_EVENT && (list->maps > 0 || list->count == 0)) {
        list_add_map(list, place);
        return read_map(reader, list);
    }
    if (event->type != YAML_SCALAR_EVENT || list->maps > 0)
        return FAIL_AT(reader, list_place, "an item of the list %s is no %s", reader->key,
                       list->maps > 0 ? "map" : "word");
    const char *item = (const char *)event->data.scalar.value;
    if (!item[0] || strchr(item, ','))
        return FAIL_AT(reader, list_place, "an item of the list %s is empty or has a comma",
                       reader->key);
    list_add(list, item, place, NULL);
    return true;
}

// Reads the items of a list whose start event is already taken.
static bool read_list(Reader *reader, YamlPlace list_place, List *list) {
    for (;;) {
        yaml_event_t event;
        if (!next_event(reader, &event)) return false;
        bool end = event.type == YAML_SEQUENCE_END_EVENT;
        bool ok =
            end || (is_legal_event(reader, &event) && read_item(reader, list_place, &event, list));
        yaml_event_delete(&event);
        if (!ok || end) return ok;
    }
}

// Hands a key's value, a scalar or a list whose (first) event is taken, to the visitor.
static bool visit_value(Reader *reader, const yaml_event_t *event, YamlPlace key_place) {
    bool is_list = event->type == YAML_SEQUENCE_START_EVENT;
    YamlPlace place = is_list ? place_of(event->start_mark) : key_place;
    List list = {0};
    bool ok = !is_list || read_list(reader, place, &list);
    if (!is_list) list_add(&list, (const char *)event->data.scalar.value, place, NULL);
    if (ok) {
        YamlValue value = {is_list, list.count, list.maps, list.items, list.map_places};
        ok = reader->visit(reader->context, reader->key, &value, &place, reader->err) ||
             fail_at(reader, place);
    }
    list_free(&list);
    return ok;
}

// Reads the keys of a mapping whose start event is already taken.
static bool read_mapping(Reader *reader, int depth) {
    size_t outer = strlen(reader->key);
    for (int keys = 0;; keys++) {
        yaml_event_t event;
        if (!next_event(reader, &event)) return false;
        YamlPlace key_place = place_of(event.start_mark);
        bool end = event.type == YAML_MAPPING_END_EVENT;
        bool ok = end || (is_legal_event(reader, &event) && extend_key(reader, &event));
        yaml_event_delete(&event);
        if (!ok) return false;
        if (end && keys == 0 && depth > 1)
            return FAIL_AT(reader, key_place, "the section '%s' is empty; leave it out",
                           reader->key);
        if (end) return true;

        if (!next_event(reader, &event)) return false;
        ok = is_legal_event(reader, &event);
        if (ok && (event.type == YAML_SCALAR_EVENT || event.type == YAML_SEQUENCE_START_EVENT)) {
            ok = visit_value(reader, &event, key_place);
        } else if (ok && depth == CONFIG_YAML_MAX_DEPTH) {
            ok = FAIL_AT(reader, key_place, "more than %d levels", CONFIG_YAML_MAX_DEPTH);
        } else if (ok) {
            ok = open_section(reader, key_place) && read_mapping(reader, depth + 1);
        }
        yaml_event_delete(&event);
        if (!ok) return false;
        reader->key[outer] = '\0';
    }
}

static bool read_stream(Reader *reader) {
    bool ok = true;
    for (int documents = 0, done = 0; ok && !done;) {
        yaml_event_t event;
        if (!next_event(reader, &event)) return false;
        YamlPlace place = place_of(event.start_mark);
        ok = is_legal_event(reader, &event);
        if (ok && event.type == YAML_DOCUMENT_START_EVENT && documents++ > 0)
            ok = FAIL_AT(reader, place,
                         "a second document begins here; a configuration is one document");
        if (ok && event.type == YAML_SCALAR_EVENT && event.data.scalar.length > 0)
            ok = FAIL_AT(reader, place,
                         "not a configuration: expected lines like 'train.steps: 1000'");
        if (ok && event.type == YAML_MAPPING_START_EVENT) ok = read_mapping(reader, 1);
        done = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    return ok;
}

bool yaml_read(const char *source, const char *text, size_t bytes, YamlVisit visit, void *context,
               Error *err) {
    Reader reader = {.source = source,
                     .text = text,
                     .bytes = bytes,
                     .visit = visit,
                     .context = context,
                     .err = err};
    if (bytes > CONFIG_YAML_MAX_BYTES)
        return error_set(err, EXIT_CONFIG, "%.400s: larger than %d bytes: not a configuration file",
                         source, CONFIG_YAML_MAX_BYTES);
    YamlPlace place = {1, 1};
    for (size_t i = 0; i < bytes; i++, place.column++) {
        if (text[i] == '\0')
            return FAIL_AT(&reader, place, "a NUL byte: not a text file, or not in UTF-8");
        if (text[i] == '\n') place = (YamlPlace){place.line + 1, 0};
    }
    if (!yaml_parser_initialize(&reader.parser))
        return error_set(err, EXIT_IO, "%.400s: out of memory", source);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, bytes);
    bool ok = read_stream(&reader);
    yaml_parser_delete(&reader.parser);
    return ok;
}
