#include "checkpoint/config_difference.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef struct Entry {
    char key[96], value[160]; // "moe.top_k", "2"
} Entry;

// Where we are in a text, and the section there.
typedef struct Cursor {
    const char *at;
    char section[64];
} Cursor;

// The next "key: value" line; false at the end.
static bool entry_next(Cursor *cursor, Entry *entry) {
    while (*cursor->at) {
        char line[512];
        size_t length = strcspn(cursor->at, "\n");
        snprintf(line, sizeof line, "%.*s", (int)(length < sizeof line ? length : sizeof line - 1),
                 cursor->at);
        cursor->at += length + (cursor->at[length] == '\n');

        char *comment = line[0] == '#' ? line : strstr(line, " #");
        if (comment) *comment = 0;
        bool indented = line[0] == ' ';
        char *key = line + strspn(line, " "), *colon = strchr(key, ':');
        if (!colon) continue;
        *colon = 0;
        char *value = colon + 1 + strspn(colon + 1, " ");
        value[strcspn(value, "\r")] = 0;
        for (size_t end = strlen(value); end > 0 && value[end - 1] == ' ';) value[--end] = 0;
        if (!indented)
            snprintf(cursor->section, sizeof cursor->section, "%.63s", *value ? "" : key);
        if (!*value) continue;
        snprintf(entry->key, sizeof entry->key, "%s%s%.31s", cursor->section,
                 *cursor->section ? "." : "", key);
        snprintf(entry->value, sizeof entry->value, "%.159s", value);
        return true;
    }
    return false;
}

// The value of a key; NULL when the text has no such key.
static const char *value_of(const char *text, const char *key, Entry *entry) {
    Cursor cursor = {.at = text};
    while (entry_next(&cursor, entry))
        if (strcmp(entry->key, key) == 0) return entry->value;
    return NULL;
}

void config_difference(const char *saved, const char *current, char *out, size_t out_bytes) {
    Cursor cursor = {.at = saved};
    Entry old, new;
    size_t used = 0;
    out[0] = 0;
    while (entry_next(&cursor, &old)) {
        const char *value = value_of(current, old.key, &new);
        if (value && strcmp(value, old.value) == 0) continue;
        char text[512];
        int length = snprintf(text, sizeof text, "%s%s %s -> %s", used ? ", " : "", old.key,
                              old.value, value ? value : "(absent)");
        if (used + (size_t)length >= out_bytes) return;
        memcpy(out + used, text, (size_t)length + 1);
        used += (size_t)length;
    }
}
