#include "checkpoint/config_difference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check.h"

const char *key_kind_name(KeyKind kind) {
    static const char *const names[] = {"none", "free", "course", "function", "function"};
    return names[kind];
}

// ---- lines --------------------------------------------------------------------------------------

// One "key: value" line inside a text; not terminated.
typedef struct Line {
    const char *key, *value;
    int key_length, value_length;
} Line;

// The next such line from *text on, which moves behind it; false at the end.
static bool line_next(const char **text, Line *line) {
    while (**text) {
        const char *begin = *text, *end = begin + strcspn(begin, "\n");
        *text = end + (*end == '\n');
        const char *colon = memmem(begin, (size_t)(end - begin), ": ", 2);
        if (*begin == '#' || !colon) continue;
        *line = (Line){begin, colon + 2, (int)(colon - begin), (int)(end - colon) - 2};
        return true;
    }
    return false;
}

static bool same_text(const char *a, int a_length, const char *b, int b_length) {
    return a_length == b_length && memcmp(a, b, (size_t)a_length) == 0;
}

// The line of a key; false when the text has none.
static bool line_find(const char *text, const char *key, int key_length, Line *found) {
    for (Line line; line_next(&text, &line);) {
        if (!same_text(line.key, line.key_length, key, key_length)) continue;
        *found = line;
        return true;
    }
    return false;
}

// ---- changes ------------------------------------------------------------------------------------

// An empty path is written "" and an empty list [], while the table of keys has nothing there.
static bool is_default(const Line *line, const char *initial) {
    bool empty = same_text(line->value, line->value_length, "\"\"", 2) ||
                 same_text(line->value, line->value_length, "[]", 2);
    return (empty && !initial[0]) ||
           same_text(line->value, line->value_length, initial, (int)strlen(initial));
}

static char *copy_text(const char *text, int length) {
    char *copy = strndup(text, (size_t)length);
    CHECK_MEMORY(copy, "no memory for %d bytes", length);
    return copy;
}

bool words_name_key(const char *words, const char *key) {
    static const char inside[] = "abcdefghijklmnopqrstuvwxyz0123456789_.";
    size_t length = strlen(key);
    for (const char *at = words; (at = strstr(at, key)); at += length) {
        bool begins = at == words || !strchr(inside, at[-1]);
        if (begins && (!at[length] || !strchr(inside, at[length]))) return true;
    }
    return false;
}

static int find_cause(const ConfigChanges *changes, const KeyRule *rule) {
    for (int i = 0; rule->derived && i < changes->count; i++)
        if (words_name_key(rule->derived, changes->list[i].rule->key)) return i;
    return -1;
}

void config_changes_find(ConfigChanges *changes, const char *saved, const char *current,
                         const KeyRule *rules) {
    int rows = 0;
    while (rules[rows].key) rows++;
    *changes = (ConfigChanges){.list = calloc((size_t)rows + 1, sizeof *changes->list)};
    CHECK_MEMORY(changes->list, "no memory for %d keys", rows);
    for (const KeyRule *rule = rules; rule->key; rule++) {
        Line old, new;
        int length = (int)strlen(rule->key);
        if (!line_find(current, rule->key, length, &new)) continue;
        bool known = line_find(saved, rule->key, length, &old);
        bool same = known ? same_text(old.value, old.value_length, new.value, new.value_length)
                          : rule->derived || !rule->initial || is_default(&new, rule->initial);
        if (same) continue;
        changes->list[changes->count++] =
            (KeyChange){.rule = rule,
                        .saved = known ? copy_text(old.value, old.value_length)
                                       : copy_text(rule->initial, (int)strlen(rule->initial)),
                        .current = copy_text(new.value, new.value_length)};
    }
    for (int i = 0; i < changes->count; i++)
        changes->list[i].cause = find_cause(changes, changes->list[i].rule);
}

void config_changes_free(ConfigChanges *changes) {
    for (int i = 0; i < changes->count; i++) {
        free(changes->list[i].saved);
        free(changes->list[i].current);
    }
    free(changes->list);
    *changes = (ConfigChanges){0};
}

bool config_change_allowed(const ConfigChanges *changes, int index, const char *allow) {
    // A chain of causes ends: no key is derived from itself.
    for (int i = index; i >= 0; i = changes->list[i].cause) {
        if (changes->list[i].rule->kind < KIND_FUNCTION) return false;
        if (words_name_key(allow, changes->list[i].rule->key)) return true;
    }
    return false;
}

void config_difference(const char *saved, const char *current, char *out, size_t out_bytes) {
    size_t used = 0;
    out[0] = 0;
    for (Line old; line_next(&saved, &old);) {
        Line new = {.value = "(absent)", .value_length = 8};
        line_find(current, old.key, old.key_length, &new);
        if (same_text(old.value, old.value_length, new.value, new.value_length)) continue;

        char text[512];
        int length =
            snprintf(text, sizeof text, "%s%.*s %.*s -> %.*s", used ? ", " : "", old.key_length,
                     old.key, old.value_length, old.value, new.value_length, new.value);
        if (length >= (int)sizeof text || used + (size_t)length >= out_bytes) continue;
        memcpy(out + used, text, (size_t)length + 1);
        used += (size_t)length;
    }
}
