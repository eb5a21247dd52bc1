#include "launcher/config_value.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/integers.h"
#include "kernels/utf8.h"
#include "launcher/config_keys.h"
#include "launcher/habits.h"
#include "launcher/suggest.h"
#include "launcher/unknown_key.h"

enum {
    // Largest denominator of a rational: keeps the capacity's products inside 64 bits
    // (model_config.c).
    MOST_DECIMALS = 10000,
};

// ---- words --------------------------------------------------------------------------------------

// The value of the word among the key's choices, or -1.
static int choice_of(const Option *key, const char *word) {
    return key->choices ? choice_find(*key->choices, word) : -1;
}

// "a, b or c"; `more` is one more choice, or NULL.
static void list_choices(ChoiceTable choices, const char *more, char list[256]) {
    size_t used = 0;
    for (int i = 0; i < choices.count; i++) {
        bool last = i == choices.count - 1 && !more;
        const char *separator = i == 0 ? "" : last ? " or " : ", ";
        int length =
            snprintf(list + used, 256 - used, "%s%s", separator, choice_row(choices, i)->word);
        used += (size_t)length;
        CHECK(used < 256, "the choices take more than a line: %s", list);
    }
    if (more) snprintf(list + used, 256 - used, " or %s", more);
}

// The choice that a wrong word is near to, or NULL.
static const char *suggest_choice(const Option *key, const char *word) {
    if (!key->choices) return NULL;
    const char **words = calloc((size_t)key->choices->count + 1, sizeof *words);
    CHECK_MEMORY(words, "out of memory");
    for (int i = 0; i < key->choices->count; i++) words[i] = choice_row(*key->choices, i)->word;
    const char *near = suggest_word(word, words);
    free(words);
    return near;
}

// ---- paths --------------------------------------------------------------------------------------

// Whether the text is UTF-8 that YAML can hold on one line: no control characters, no line
// separators.
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
    if (base > 0 && strcmp(path, ".") == 0) path = "./";
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
    const char *slash = base > 0 && base_folder[base - 1] != '/' && path[0] ? "/" : "";
    int length =
        snprintf(resolved, CONFIG_PATH_BYTES, "%.*s%s%s", (int)base, base_folder, slash, path);
    if (length < CONFIG_PATH_BYTES) return true;
    return error_set(err, EXIT_CONFIG, "the path is %d bytes long; at most %d are possible", length,
                     CONFIG_PATH_BYTES - 1);
}

// ---- numbers ------------------------------------------------------------------------------------

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
    int64_t divisor = greatest_common_divisor(numerator, denominator);
    if (*text || denominator / divisor > MOST_DECIMALS) return false;
    *value = (Rational){numerator / divisor, denominator / divisor};
    return true;
}

static bool in_range(const Option *key, double value) {
    return value >= key->min && value <= key->max;
}

// ---- names of keys ------------------------------------------------------------------------------

// "a, b" to "a,b". False with exit 2 for what is not the name of a key, or when it is too long.
static bool names_parse(const Option *key, const char *text, char names[CONFIG_PATH_BYTES],
                        Error *err) {
    static const char space[] = " ,\t";
    size_t used = 0;
    memset(names, 0, CONFIG_PATH_BYTES);
    for (text += strspn(text, space); *text; text += strspn(text, space)) {
        char name[80], quoted[80];
        size_t length = strcspn(text, space);
        snprintf(name, sizeof name, "%.*s", (int)(length < 79 ? length : 79), text);
        if (config_key_find(name) < 0) {
            const char *near = suggest_key(name);
            value_quote(name, quoted);
            return error_set(err, EXIT_CONFIG, "%s names %s, which is no key%s%s%s", key->name,
                             quoted, near ? "; did you mean '" : "; `moetrain help` lists all keys",
                             near ? near : "", near ? "'?" : "");
        }
        if (used + length + 2 > CONFIG_PATH_BYTES)
            return error_set(err, EXIT_CONFIG, "%s is longer than %d bytes", key->name,
                             CONFIG_PATH_BYTES - 1);
        if (used > 0) names[used++] = ',';
        memcpy(names + used, name, length);
        used += length;
        text += length;
    }
    return true;
}

// ---- the front ----------------------------------------------------------------------------------

// The types of fixed size, as they lie in their structs.
typedef union Value {
    int64_t integer;
    double number;
    Rational rational;
    bool flag;
    int choice; // an enum
} Value;

static const size_t VALUE_BYTES[] = {
    [OPTION_INTEGER] = sizeof(int64_t),   [OPTION_NUMBER] = sizeof(double),
    [OPTION_RATIONAL] = sizeof(Rational), [OPTION_FLAG] = sizeof(bool),
    [OPTION_CHOICE] = sizeof(int),
};

static bool value_parse(const Option *key, const char *text, Value *value) {
    switch (key->type) {
    case OPTION_INTEGER:
        return integer_parse(text, &value->integer) && in_range(key, (double)value->integer);
    case OPTION_NUMBER:
        return number_parse(text, &value->number) && in_range(key, value->number);
    case OPTION_RATIONAL:
        return rational_parse(text, &value->rational) &&
               in_range(key,
                        (double)value->rational.numerator / (double)value->rational.denominator);
    case OPTION_FLAG:
        value->flag = strcmp(text, "true") == 0;
        return value->flag || strcmp(text, "false") == 0;
    case OPTION_CHOICE:
        value->choice = choice_of(key, text);
        return value->choice >= 0;
    case OPTION_WORD:
        return choice_of(key, text) >= 0;
    case OPTION_PATH:
        return is_printable(text) && (text[0] || key->initial) && !path_is_habit(text);
    case OPTION_NAMES:
        return true; // names_parse has the better message
    }
    return false;
}

bool config_value_parse(const Option *key, const char *text, const char *base_folder, void *field,
                        Error *err) {
    Value value;
    if (!value_parse(key, text, &value)) {
        char quoted[80], legal[256], advice[160];
        value_quote(text, quoted);
        config_value_legal(key, legal);
        habit_value(key, text, advice);
        const char *near = advice[0] ? NULL : suggest_choice(key, text);
        return error_set(err, EXIT_CONFIG, "%s is %s, but must be %s%s%s%s%s", key->name, quoted,
                         legal, advice, near ? "; did you mean '" : "", near ? near : "",
                         near ? "'?" : "");
    }
    if (key->type == OPTION_NAMES) return names_parse(key, text, field, err);
    if (key->type != OPTION_WORD && key->type != OPTION_PATH) {
        memcpy(field, &value, VALUE_BYTES[key->type]);
        return true;
    }
    // Text: no rest of a longer value stays, so that equal configurations have equal bytes.
    size_t room = key->type == OPTION_WORD ? CONFIG_WORD_BYTES : CONFIG_PATH_BYTES;
    memset(field, 0, room);
    bool word = !text[0] || choice_of(key, text) >= 0;
    if (!word)
        return path_resolve(base_folder, text, field, err) || error_prefix(err, "%s", key->name);
    snprintf(field, room, "%s", text);
    return true;
}

void config_value_format(const Option *key, const void *field, char text[CONFIG_VALUE_BYTES]) {
    Value value = {0};
    if (key->type != OPTION_WORD && key->type != OPTION_PATH && key->type != OPTION_NAMES)
        memcpy(&value, field, VALUE_BYTES[key->type]);
    switch (key->type) {
    case OPTION_INTEGER:
        snprintf(text, CONFIG_VALUE_BYTES, "%lld", (long long)value.integer);
        return;
    case OPTION_NUMBER:
        for (int digits = 6; digits <= 17;
             digits++) { // the shortest text that reads back to the same bits
            snprintf(text, CONFIG_VALUE_BYTES, "%.*g", digits, value.number);
            if (strtod(text, NULL) == value.number) return;
        }
        return;
    case OPTION_RATIONAL:
        if (MOST_DECIMALS % value.rational.denominator == 0)
            snprintf(text, CONFIG_VALUE_BYTES, "%.9g",
                     (double)value.rational.numerator / (double)value.rational.denominator);
        else
            snprintf(text, CONFIG_VALUE_BYTES, "%lld/%lld", (long long)value.rational.numerator,
                     (long long)value.rational.denominator);
        return;
    case OPTION_FLAG:
        snprintf(text, CONFIG_VALUE_BYTES, "%s", value.flag ? "true" : "false");
        return;
    case OPTION_CHOICE:
        snprintf(text, CONFIG_VALUE_BYTES, "%s", choice_row(*key->choices, value.choice)->word);
        return;
    case OPTION_WORD:
    case OPTION_PATH:
    case OPTION_NAMES:
        snprintf(text, CONFIG_VALUE_BYTES, "%s", (const char *)field);
        return;
    }
}

void config_value_legal(const Option *key, char text[256]) {
    switch (key->type) {
    case OPTION_INTEGER:
        snprintf(text, 256, "a whole number from %.0f to %.0f", key->min, key->max);
        return;
    case OPTION_NUMBER:
        snprintf(text, 256, "a number from %g to %g", key->min, key->max);
        return;
    case OPTION_RATIONAL:
        snprintf(text, 256, "a decimal with at most 4 places or a fraction a/b, from %g to %g",
                 key->min, key->max);
        return;
    case OPTION_FLAG:
        snprintf(text, 256, "true or false");
        return;
    case OPTION_CHOICE:
    case OPTION_WORD:
        list_choices(*key->choices, NULL, text);
        return;
    case OPTION_PATH:
        if (key->choices)
            list_choices(*key->choices, "a path", text);
        else
            snprintf(text, 256, "a path in UTF-8 without control characters");
        return;
    case OPTION_NAMES:
        snprintf(text, 256, "names of keys: a list in YAML, joined by commas on the command line");
        return;
    }
}
