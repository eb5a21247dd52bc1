// YAML to a row of (key, value) pairs. Knows YAML, but no key of the program.
//
// A configuration is a small part of YAML: nested mappings and scalars. `model: {d_model: 64}`, its
// block form and `model.d_model: 64` give the same pair. A list of scalars may stand as a value,
// [a, b] or a line each, or a list of maps of scalars, [{a: b, c: d}, {a: e}]. Anchors, aliases,
// tags, several documents, NUL bytes, more than 16 levels or 1 MiB are errors.
#ifndef MOETRAIN_LAUNCHER_CONFIG_YAML_H
#define MOETRAIN_LAUNCHER_CONFIG_YAML_H

#include <stddef.h>

#include "kernels/check.h"

enum { CONFIG_YAML_MAX_BYTES = 1 << 20, CONFIG_YAML_MAX_DEPTH = 16 };

typedef struct YamlPlace {
    int line, column; // from 1
} YamlPlace;

// An item of a list, or a value of one of its maps.
typedef struct YamlItem {
    char *text;
    YamlPlace place;
    char *field; // NULL: no map
    int map;     // the number of its map, from 0
} YamlItem;

// A scalar, which is one item, a list of scalars, or the values of a list of maps, map by map.
typedef struct YamlValue {
    bool list;
    int count, maps; // maps of the list, some of them without a value; 0: no list of maps
    const YamlItem *items;
    const YamlPlace *map_places; // (maps)
} YamlValue;

// Called for each value in the order of the file. `place` is where the key stands, or the list; it
// may be changed to that of an item which is refused. False with *err stops the reading.
typedef bool (*YamlVisit)(void *context, const char *key, const YamlValue *value, YamlPlace *place,
                          Error *err);

// False with exit 2 and "source:line:column: …". Errors of `visit` get the same prefix.
bool yaml_read(const char *source, const char *text, size_t bytes, YamlVisit visit, void *context,
               Error *err);

#endif
