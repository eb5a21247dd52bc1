#include "launcher/config_value.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/suggest.h"
#include "worker/utf8.h"

enum {
    MOST_DECIMALS = 10000
}; // of a rational: keeps cf · K · N inside 64 bits (model/model_config.c)

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

// ---- words -----------------------------------------------------------------------------------------------

// The place of the word in "a|b|c", or -1.
static int choice_index(const char *choices, const char *word) {
    size_t length = strlen(word);
    for (int index = 0; choices; index++) {
        const char *end = strchrnul(choices, '|');
        if ((size_t)(end - choices) == length && memcmp(choices, word, length) == 0) return index;
        choices = *end ? end + 1 : NULL;
    }
    return -1;
}

static void choice_at(const char *choices, int index, char word[64]) {
    for (; index > 0; index--) choices = strchrnul(choices, '|') + 1;
    snprintf(word, 64, "%.*s", (int)(strchrnul(choices, '|') - choices), choices);
}

static int choice_count(const char *choices) {
    int count = 1;
    for (; *choices; choices++) count += *choices == '|';
    return count;
}

// " (did you mean 'x'?)" or nothing.
static void choice_hint(const char *choices, const char *word, char hint[96]) {
    enum { MOST = 16 };
    char words[MOST][64];
    const char *candidates[MOST + 1];
    int count = choice_count(choices);
    for (int i = 0; i < count; i++) {
        choice_at(choices, i, words[i]);
        candidates[i] = words[i];
    }
    candidates[count] = NULL;
    const char *near = suggest_word(word, candidates);
    hint[0] = '\0';
    if (near) snprintf(hint, 96, "; did you mean '%s'?", near);
}

// ---- paths -----------------------------------------------------------------------------------------------

// Whether the text is UTF-8 that YAML can hold on one line: no control characters, no line separators.
static bool is_printable(const char *text) {
    const uint8_t *at = (const uint8_t *)text, *end = at + strlen(text);
    while (at < end) {
        int32_t code = 0;
        int bytes = utf8_decode(at, (size_t)(end - at), &code);
        bool control = code < 0x20 || (code >= 0x7F && code < 0xA0);
        bool separator = code == 0x2028 || code == 0x2029;
        bool no_character = code == 0xFEFF || code == 0xFFFE || code == 0xFFFF;
        if (bytes == 0 || control || separator || no_character) return false;
        at += bytes;
    }
    return true;
}

bool path_resolve(const char *base_folder, const char *path, char resolved[CONFIG_PATH_BYTES],
                  Error *err) {
    size_t base = strlen(base_folder);
    if (path[0] == '/') base = 0;
    while (base > 0) { // the base has no symbolic links, so ../ may be taken off by name
        if (strncmp(path, "./", 2) == 0) {
            path += 2;
        } else if (strncmp(path, "../", 3) == 0) {
            path += 3;
            while (base > 1 && base_folder[base - 1] != '/') base--;
            if (base > 1) base--;
        } else {
            break;
        }
    }
    const char *slash = base > 0 && base_folder[base - 1] != '/' ? "/" : "";
    int length =
        snprintf(resolved, CONFIG_PATH_BYTES, "%.*s%s%s", (int)base, base_folder, slash, path);
    if (length < CONFIG_PATH_BYTES) return true;
    return error_set(err, EXIT_CONFIG, "the path is %d bytes long; at most %d are possible", length,
                     CONFIG_PATH_BYTES - 1);
}

// ---- numbers ---------------------------------------------------------------------------------------------

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

// -?digits without a leading zero; saturates, so that the range check speaks about huge values.
static bool integer_parse(const char *text, int64_t *value) {
    const char *digits = text + (*text == '-');
    if (!is_digit(*digits) || (*digits == '0' && digits[1])) return false;
    char *end;
    *value = strtoll(text, &end, 10);
    return *end == '\0';
}

// A finite decimal number. The program never calls setlocale, so the point is a point.
static bool number_parse(const char *text, double *value) {
    if (text[strspn(text, "0123456789+-.eE")] || !text[strcspn(text, "0123456789")]) return false;
    char *end;
    *value = strtod(text, &end);
    return *end == '\0' && isfinite(*value);
}

static int64_t greatest_divisor(int64_t a, int64_t b) {
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// Digits up to the first other character, at most 9.
static bool digits_parse(const char **text, int64_t *value) {
    const char *start = *text;
    *value = 0;
    while (is_digit(**text) && *text - start < 9) *value = 10 * *value + (*(*text)++ - '0');
    return *text > start && !is_digit(**text);
}

// "1.25", "5/4" or "2", exactly.
static bool rational_parse(const char *text, Rational *value) {
    int64_t numerator, denominator = 1;
    if (!digits_parse(&text, &numerator)) return false;
    if (*text == '/') {
        text++;
        if (!digits_parse(&text, &denominator) || denominator == 0) return false;
    } else if (*text == '.') {
        text++;
        if (!is_digit(*text)) return false;
        for (; is_digit(*text); text++) {
            if (denominator > MOST_DECIMALS) return false;
            numerator = 10 * numerator + (*text - '0');
            denominator *= 10;
        }
    }
    int64_t divisor = greatest_divisor(numerator, denominator);
    if (*text || denominator / divisor > MOST_DECIMALS) return false;
    *value = (Rational){numerator / divisor, denominator / divisor};
    return true;
}

static bool in_range(const ConfigKey *key, double value) {
    return value >= key->min && value <= key->max;
}

// ---- the front -------------------------------------------------------------------------------------------

void config_value_legal(const ConfigKey *key, char text[256]) {
    switch (key->type) {
    case KEY_INTEGER:
        snprintf(text, 256, "a whole number from %.0f to %.0f", key->min, key->max);
        return;
    case KEY_NUMBER:
        snprintf(text, 256, "a number from %g to %g", key->min, key->max);
        return;
    case KEY_RATIONAL:
        snprintf(text, 256, "a decimal with at most 4 places or a fraction a/b, from %g to %g",
                 key->min, key->max);
        return;
    case KEY_FLAG:
        snprintf(text, 256, "true or false");
        return;
    case KEY_PATH:
        snprintf(text, 256, "%s", key->choices ? "" : "a path in UTF-8 without control characters");
        break;
    case KEY_CHOICE:
    case KEY_WORD:
        text[0] = '\0';
        break;
    }
    if (!key->choices) return;
    int count = choice_count(key->choices);
    size_t used = strlen(text);
    for (int i = 0; i < count; i++) {
        char word[64];
        choice_at(key->choices, i, word);
        bool last = i == count - 1 && key->type != KEY_PATH;
        used += (size_t)snprintf(text + used, 256 - used, "%s%s",
                                 i == 0 ? ""
                                 : last ? " or "
                                        : ", ",
                                 word);
    }
    if (key->type == KEY_PATH) snprintf(text + used, 256 - used, " or a path");
}

bool config_value_parse(const ConfigKey *key, const char *text, const char *base_folder,
                        TrainConfig *config, Error *err) {
    void *field = (char *)config + key->offset;
    bool legal = false;
    char hint[96] = "";
    switch (key->type) {
    case KEY_INTEGER: {
        int64_t value;
        legal = integer_parse(text, &value) && in_range(key, (double)value);
        if (legal) memcpy(field, &value, sizeof value);
        break;
    }
    case KEY_NUMBER: {
        double value;
        legal = number_parse(text, &value) && in_range(key, value);
        if (legal) memcpy(field, &value, sizeof value);
        break;
    }
    case KEY_RATIONAL: {
        Rational value;
        legal = rational_parse(text, &value) &&
                in_range(key, (double)value.numerator / (double)value.denominator);
        if (legal) memcpy(field, &value, sizeof value);
        break;
    }
    case KEY_FLAG: {
        bool value = strcmp(text, "true") == 0;
        legal = value || strcmp(text, "false") == 0;
        if (legal) memcpy(field, &value, sizeof value);
        break;
    }
    case KEY_CHOICE: {
        int index = choice_index(key->choices, text);
        legal = index >= 0;
        if (legal) memcpy(field, &index, sizeof index);
        break;
    }
    case KEY_WORD: {
        legal = choice_index(key->choices, text) >= 0;
        if (!legal) break;
        memset(field, 0, 16); // no rest of a longer value: equal configurations have equal bytes
        snprintf(field, 16, "%s", text);
        break;
    }
    case KEY_PATH: {
        legal = is_printable(text);
        if (!legal) break;
        memset(field, 0, CONFIG_PATH_BYTES);
        if (choice_index(key->choices, text) >= 0 || (!text[0] && key->initial)) {
            snprintf(field, CONFIG_PATH_BYTES, "%s", text);
            return true;
        }
        legal = text[0] != '\0';
        if (legal) return path_resolve(base_folder, text, field, err);
        break;
    }
    }
    if (legal) return true;
    if (key->type == KEY_CHOICE || key->type == KEY_WORD) choice_hint(key->choices, text, hint);
    char quoted[80], expected[256];
    value_quote(text, quoted);
    config_value_legal(key, expected);
    return error_set(err, EXIT_CONFIG, "%s is %s, but must be %s%s", key->name, quoted, expected,
                     hint);
}

void config_value_format(const ConfigKey *key, const TrainConfig *config,
                         char text[CONFIG_VALUE_BYTES]) {
    const void *field = (const char *)config + key->offset;
    switch (key->type) {
    case KEY_INTEGER: {
        int64_t value;
        memcpy(&value, field, sizeof value);
        snprintf(text, CONFIG_VALUE_BYTES, "%lld", (long long)value);
        return;
    }
    case KEY_NUMBER: {
        double value;
        memcpy(&value, field, sizeof value);
        for (int digits = 6; digits <= 17;
             digits++) { // the shortest text that reads back to the same bits
            snprintf(text, CONFIG_VALUE_BYTES, "%.*g", digits, value);
            if (strtod(text, NULL) == value) return;
        }
        return;
    }
    case KEY_RATIONAL: {
        Rational value;
        memcpy(&value, field, sizeof value);
        if (MOST_DECIMALS % value.denominator == 0)
            snprintf(text, CONFIG_VALUE_BYTES, "%.9g",
                     (double)value.numerator / (double)value.denominator);
        else
            snprintf(text, CONFIG_VALUE_BYTES, "%lld/%lld", (long long)value.numerator,
                     (long long)value.denominator);
        return;
    }
    case KEY_FLAG: {
        bool value;
        memcpy(&value, field, sizeof value);
        snprintf(text, CONFIG_VALUE_BYTES, "%s", value ? "true" : "false");
        return;
    }
    case KEY_CHOICE: {
        int index;
        memcpy(&index, field, sizeof index);
        choice_at(key->choices, index, text);
        return;
    }
    case KEY_WORD:
    case KEY_PATH:
        snprintf(text, CONFIG_VALUE_BYTES, "%s", (const char *)field);
        return;
    }
}
