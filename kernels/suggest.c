#include "kernels/suggest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_WORD = 63 };

static int smallest(int a, int b, int c) {
    int least = a < b ? a : b;
    return least < c ? least : c;
}

int edit_distance(const char *a, const char *b) {
    int a_length = (int)strnlen(a, LONGEST_WORD), b_length = (int)strnlen(b, LONGEST_WORD);
    int row[LONGEST_WORD + 1]; // distances from the first i letters of a to every prefix of b
    for (int j = 0; j <= b_length; j++) row[j] = j;
    for (int i = 1; i <= a_length; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= b_length; j++) {
            int replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = smallest(row[j] + 1, row[j - 1] + 1, replaced);
        }
    }
    return row[b_length];
}

static const char *last_part(const char *word) {
    const char *dot = strrchr(word, '.');
    return dot ? dot + 1 : word;
}

// The distance, or `limit` when it cannot be smaller: each letter that is missing is one.
static int distance_below(int limit, const char *a, const char *b) {
    int a_length = (int)strnlen(a, LONGEST_WORD), b_length = (int)strnlen(b, LONGEST_WORD);
    return abs(a_length - b_length) < limit ? edit_distance(a, b) : limit;
}

const char *suggest_word(const char *word, const char *const *candidates) {
    const char *best = NULL;
    int letters = (int)strnlen(last_part(word), LONGEST_WORD);
    int best_distance = 2 + letters / 3; // what is this far is not meant
    for (; *candidates; candidates++) {
        int whole = distance_below(best_distance, word, *candidates);
        int last = 1 + distance_below(best_distance, last_part(word),
                                      last_part(*candidates)); // section missing or wrong
        int distance = whole < last ? whole : last;
        if (distance < best_distance) {
            best = *candidates;
            best_distance = distance;
        }
    }
    return best;
}

void value_quote(const char *value, char quoted[80]) {
    size_t length = strlen(value), shown = length > 60 ? 57 : length;
    // Not in the middle of a character: bytes 10xxxxxx continue one.
    while (shown > 0 && shown < length && ((unsigned char)value[shown] & 0xC0) == 0x80) shown--;
    char *out = quoted;
    *out++ = '\'';
    for (size_t i = 0; i < shown; i++)
        *out++ = (unsigned char)value[i] < ' ' || value[i] == 127 ? '?' : value[i];
    snprintf(out, (size_t)(quoted + 80 - out), "%s'", shown < length ? "..." : "");
}
