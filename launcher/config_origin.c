#include "launcher/config_origin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t config_bytes(void) {
    return sizeof(Config) + (size_t)config_key_count() * sizeof(ConfigOrigin);
}

Config *config_new(void) {
    Config *config = calloc(1, config_bytes());
    CHECK_MEMORY(config, "no memory for a configuration");
    return config;
}

Config *config_copy(const Config *config) {
    Config *copy = config_new();
    memcpy(copy, config, config_bytes());
    return copy;
}

bool config_is_given(const Config *config, const char *key) {
    OriginKind kind = config->origins[config_key_find(key)].kind;
    return kind == ORIGIN_FILE || kind == ORIGIN_COMMAND_LINE || kind == ORIGIN_OTHER_FILE;
}

void config_place(const Config *config, const char *key, char *place, size_t bytes) {
    const ConfigOrigin *origin = &config->origins[config_key_find(key)];
    static const char *const words[] = {[ORIGIN_DEFAULT] = "default",
                                        [ORIGIN_DERIVED] = "derived",
                                        [ORIGIN_COMPAT] = "compat",
                                        [ORIGIN_COMMAND_LINE] = "command line"};
    if (origin->kind == ORIGIN_FILE)
        snprintf(place, bytes, "%s:%d:%d", config->source, origin->line, origin->column);
    else if (origin->kind == ORIGIN_OTHER_FILE)
        snprintf(place, bytes, "line %d", origin->line);
    else
        snprintf(place, bytes, "%s", words[origin->kind]);
}
