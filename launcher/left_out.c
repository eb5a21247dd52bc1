#include "launcher/left_out.h"

#include <stdlib.h>
#include <string.h>

#include "launcher/config_print.h"
#include "launcher/config_value.h"

// Gives the key the value that it would have were it left out. False when it must be given, or
// follows from no key.
static bool set_as_left_out(Config *config, int row) {
    const Option *key = config_key(row);
    const char *preset = compat_default(config->train.model.compat, key->name);
    const char *value = preset ? preset : key->initial;
    Error err = {0};
    if (!value && !key->derive) return false;
    void *field = config_key_field(&config->train, row);
    if (value)
        CHECK(config_value_parse(key, value, "", field, &err), "%s", err.message);
    else
        config_key_derive(&config->train, row);
    return true;
}

bool config_says_more(const Config *config, int row) {
    if (!config_is_given(config, config_key(row)->name)) return false;
    Config *other = config_copy(config);
    bool more = true;
    if (set_as_left_out(other, row)) {
        char *given = config_key_text(config, row), *anyway = config_key_text(other, row);
        more = strcmp(given, anyway) != 0;
        free(given);
        free(anyway);
    }
    free(other);
    return more;
}

static bool says_all(const Config *config) {
    for (int row = 0; row < config_key_count(); row++)
        if (config->origins[row].kind != ORIGIN_FILE) return false;
    return true;
}

void config_leave_out_derived(Config *config) {
    if (!says_all(config)) return;
    for (int row = 0; row < config_key_count(); row++)
        if (config_key(row)->derive && !config_says_more(config, row))
            config->origins[row].kind = ORIGIN_DEFAULT;
}
