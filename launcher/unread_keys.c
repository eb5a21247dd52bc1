#include "launcher/unread_keys.h"

#include <stdlib.h>

#include "checkpoint/config_difference.h"
#include "kernels/log.h"
#include "launcher/config_value.h"
#include "launcher/left_out.h"
#include "model/configured_layers.h"

// Whether the user gave the key. A file that says every key says most of them for nothing.
static bool was_given(const Config *config, int row) {
    for (int other = 0; other < config_key_count(); other++)
        if (config->origins[other].kind == ORIGIN_DEFAULT)
            return config_is_given(config, config_key(row)->name);
    return config_says_more(config, row);
}

// Whether the model reads the key, or one that follows from it: moe.experts says which layers have
// experts, where model.feed_forward does not.
static bool is_read(const Config *config, int row) {
    const char *name = config_key(row)->name;
    if (model_reads_key(&config->train.model, name)) return true;
    for (int other = 0; other < config_key_count(); other++) {
        const Option *key = config_key(other);
        if (key->derived && config->origins[other].kind == ORIGIN_DERIVED &&
            words_name_key(key->derived, name) && is_read(config, other))
            return true;
    }
    return false;
}

static void print_value(FILE *out, const Config *config, const char *name) {
    int row = config_key_find(name);
    fprintf(out, "%s: ", name);
    config_value_print(out, config_key(row), config_key_value(&config->train, row));
}

void config_warn_of_unread_keys(const Config *config) {
    char *text = NULL;
    size_t bytes = 0;
    int count = 0;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "out of memory");
    for (int row = 0; row < config_key_count(); row++)
        if (was_given(config, row) && !is_read(config, row))
            fprintf(out, "%s%s", count++ ? ", " : "", config_key(row)->name);
    fprintf(out, ": no layer reads %s (", count > 1 ? "these keys" : "this key");
    print_value(out, config, "model.mixer");
    fprintf(out, ", ");
    print_value(out, config, "model.feed_forward");
    fclose(out);
    CHECK_MEMORY(text, "out of memory");
    if (count > 0) log_warn("%s)", text);
    free(text);
}
