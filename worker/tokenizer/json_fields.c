#include "worker/tokenizer/json_fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool json_refuse(const char *field, const json_t *value, const char *fix, Error *err) {
    static const char no_help[] = "tokenize with the library that the file is for, and train on "
                                  "the token numbers";
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII);
    error_set(err, EXIT_DATA, "%s is %.60s%s, which this program does not honour; %s", field,
              text ? text : "missing", text && strlen(text) > 60 ? "..." : "", fix ? fix : no_help);
    free(text);
    return false;
}

bool json_keys_known(const json_t *object, const char *field, const char *const *known,
                     Error *err) {
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return json_refuse(field, object, "it must be an object: {\"type\": ...}", err);
    json_object_foreach((json_t *)object, key, value) {
        bool found = false;
        for (int i = 0; known[i]; i++) found |= strcmp(known[i], key) == 0;
        char name[128];
        snprintf(name, sizeof name, "%.60s%s%.60s", field, field[0] ? "." : "", key);
        if (!found) return json_refuse(name, value, NULL, err);
    }
    return true;
}

bool json_flag(const json_t *object, const char *field, const char *key, bool otherwise, bool *ok,
               Error *err) {
    const json_t *value = json_object_get(object, key);
    char name[128];
    snprintf(name, sizeof name, "%.60s.%.60s", field, key);
    if (value && !json_is_boolean(value))
        *ok = json_refuse(name, value, "it must be true or false", err);
    return value ? json_is_true(value) : otherwise;
}

const char *part_type(const json_t *object) {
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "";
}
