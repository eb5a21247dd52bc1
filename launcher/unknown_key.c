#include "launcher/unknown_key.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/suggest.h"
#include "launcher/config_keys.h"
#include "launcher/habits.h"
#include "launcher/value_text.h"

const char *suggest_key(const char *word) {
    if (habit_key(word)) return habit_key(word);
    int count = config_key_count();
    const char **names = calloc((size_t)count + 1, sizeof *names);
    CHECK_MEMORY(names, "out of memory");
    for (int row = 0; row < count; row++) names[row] = config_key(row)->name;
    const char *near = suggest_word(word, names);
    free(names);
    return near;
}

bool unknown_key(const char *word, Error *err) {
    size_t length = strlen(word);
    for (int row = 0; row < config_key_count(); row++)
        if (strncmp(config_key(row)->name, word, length) == 0 &&
            config_key(row)->name[length] == '.')
            return error_set(
                err, EXIT_CONFIG,
                "'%s' is a section: give its keys below it, or leave it out (moetrain help %s)",
                word, word);
    const char *dot = strrchr(word, '.');
    for (int row = 0; dot && row < config_key_count(); row++) {
        const Option *key = config_key(row);
        char legal[CONFIG_LEGAL_BYTES];
        if (!key->map || strncmp(key->name, word, (size_t)(dot - word)) != 0 ||
            key->name[dot - word])
            continue;
        config_value_legal(key, legal);
        return error_set(err, EXIT_CONFIG, "'%s' is no key: %s is %s", word, key->name, legal);
    }
    const char *near = suggest_key(word);
    char quoted[80];
    value_quote(word, quoted);
    if (near)
        return error_set(err, EXIT_CONFIG, "unknown key %s; did you mean '%s'?", quoted, near);
    return error_set(err, EXIT_CONFIG, "unknown key %s; `moetrain help` lists all keys", quoted);
}
