#include "checkpoint/config_difference.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

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

void config_difference(const char *saved, const char *current, char *out, size_t out_bytes) {
    size_t used = 0;
    out[0] = 0;
    for (Line old; line_next(&saved, &old);) {
        Line new = {.value = "(absent)", .value_length = 8};
        const char *rest = current;
        for (Line line; line_next(&rest, &line);)
            if (same_text(line.key, line.key_length, old.key, old.key_length)) new = line;
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
