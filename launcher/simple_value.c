#include "launcher/simple_value.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/integers.h"
#include "kernels/suggest.h"
#include "launcher/config_keys.h"
#include "launcher/config_path.h"
#include "launcher/habits.h"
#include "launcher/unknown_key.h"
#include "launcher/value_text.h"

// ---- words --------------------------------------------------------------------------------------

// The value of the word among the key's choices, or -1.
static int choice_of(const Option *key, const char *word) {
    return key->choices ? choice_find(*key->choices, word) : -1;
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

// Names with the shell's * and ?, which fit the field.
static bool pattern_is_legal(const char *text) {
    static const char legal[] = "abcdefghijklmnopqrstuvwxyz0123456789_.*?";
    size_t length = strspn(text, legal);
    return length > 0 && !text[length] && length < CONFIG_PATTERN_BYTES;
}

// ---- one value ----------------------------------------------------------------------------------

// The types of fixed size, as they lie in their structs.
typedef union Value {
    int64_t integer;
    double number;
    Rational rational;
    bool flag;
    int choice; // an enum
} Value;

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
        return path_is_printable(text) && (text[0] || key->initial) && !path_is_habit(text);
    case OPTION_PATTERN:
        return pattern_is_legal(text);
    case OPTION_LABEL:
        return path_is_printable(text) && strlen(text) < CONFIG_LABEL_BYTES &&
               (text[0] || key->initial);
    case OPTION_NAMES: // names_parse has the better messages
        return true;
    case OPTION_INTEGERS:
    case OPTION_CHOICES: // items_parse reads them one by one
    case OPTION_MAPS:    // are none of these
        break;
    }
    return false;
}

bool option_takes_list(const Option *key) {
    return key->type == OPTION_NAMES || key->type == OPTION_INTEGERS ||
           key->type == OPTION_CHOICES || key->type == OPTION_MAPS;
}

// The row that an item of the list would have alone; of other keys their own.
static Option item_of(const Option *key) {
    Option item = *key;
    if (key->type == OPTION_INTEGERS) item.type = OPTION_INTEGER;
    if (key->type == OPTION_CHOICES) item.type = OPTION_CHOICE;
    return item;
}

// `name` is what the message calls the value: the key, or an item of its list.
static bool refuse(const Option *key, const char *name, const char *text, Error *err) {
    char quoted[80], legal[CONFIG_LEGAL_BYTES], advice[160];
    Option item = item_of(key);
    value_quote(text, quoted);
    config_value_legal(key, legal);
    habit_value(&item, text, advice);
    const char *near = advice[0] ? NULL : suggest_choice(key, text);
    return error_set(err, EXIT_CONFIG, "%s is %s, but must be %s%s%s%s%s", name, quoted, legal,
                     advice, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

// Text: no rest of a longer value stays, so that equal configurations have equal bytes.
static bool text_parse(const Option *key, const char *text, const char *base_folder, char *field,
                       size_t bytes, Error *err) {
    memset(field, 0, bytes);
    bool word = !text[0] || choice_of(key, text) >= 0;
    if (!word)
        return path_resolve(base_folder, text, field, err) || error_prefix(err, "%s", key->name);
    snprintf(field, bytes, "%s", text);
    return true;
}

// ---- lists --------------------------------------------------------------------------------------

bool simple_items_parse(const Option *key, const char *const *items, int count, void *field,
                        int *wrong, Error *err) {
    PerLayer list = {0};
    Option item = item_of(key);
    *wrong = -1;
    if (count == 0)
        return error_set(err, EXIT_CONFIG,
                         "%s is an empty list; write one value for each layer in "
                         "turn, or leave the key out",
                         key->name);
    if (count > PER_LAYER_MAX)
        return error_set(err, EXIT_CONFIG, "%s has %d items, but at most %d layers are possible",
                         key->name, count, PER_LAYER_MAX);
    for (int i = 0; i < count; i++) {
        char name[128];
        Value value;
        snprintf(name, sizeof name, "item %d of %s", i + 1, key->name);
        if (!value_parse(&item, items[i], &value)) {
            *wrong = i;
            return refuse(count > 1 ? &item : key, count > 1 ? name : key->name, items[i], err);
        }
        list.values[list.count++] =
            item.type == OPTION_CHOICE ? (int32_t)value.choice : (int32_t)value.integer;
    }
    per_layer_shorten(&list);
    memcpy(field, &list, sizeof list);
    return true;
}

// "8", "8,16" or "[8, 16]", as it stands on the command line.
static bool list_parse(const Option *key, const char *text, void *field, Error *err) {
    size_t length = strlen(text);
    bool brackets = length >= 2 && text[0] == '[' && text[length - 1] == ']';
    char *copy = strndup(text + brackets, length - 2 * (size_t)brackets);
    const char **items = calloc(length + 1, sizeof *items);
    CHECK_MEMORY(copy && items, "out of memory");
    int count = 0, wrong;
    bool empty = brackets && !copy[strspn(copy, " ")];
    for (char *item = copy; item && !empty;) {
        item += strspn(item, " ");
        char *end = item + strcspn(item, ","), *next = *end ? end + 1 : NULL;
        while (end > item && end[-1] == ' ') end--;
        *end = '\0';
        items[count++] = item;
        item = next;
    }
    bool plain = count == 1 && !brackets; // with its blanks, which are no part of a value
    if (plain) items[0] = text;
    bool ok = simple_items_parse(key, items, count, field, &wrong, err);
    free(items);
    free(copy);
    return ok;
}

// ---- the front ----------------------------------------------------------------------------------

bool simple_value_parse(const Option *key, const char *text, const char *base_folder, void *field,
                        Error *err) {
    Value value;
    bool list = key->type == OPTION_INTEGERS || key->type == OPTION_CHOICES;
    if (!list && !value_parse(key, text, &value)) return refuse(key, key->name, text, err);
    switch (key->type) {
    case OPTION_INTEGER:
        memcpy(field, &value.integer, sizeof value.integer);
        return true;
    case OPTION_NUMBER:
        memcpy(field, &value.number, sizeof value.number);
        return true;
    case OPTION_RATIONAL:
        memcpy(field, &value.rational, sizeof value.rational);
        return true;
    case OPTION_FLAG:
        memcpy(field, &value.flag, sizeof value.flag);
        return true;
    case OPTION_CHOICE:
        memcpy(field, &value.choice, sizeof value.choice);
        return true;
    case OPTION_WORD:
        return text_parse(key, text, base_folder, field, CONFIG_WORD_BYTES, err);
    case OPTION_PATH:
        return text_parse(key, text, base_folder, field, CONFIG_PATH_BYTES, err);
    case OPTION_PATTERN:
        memset(field, 0, CONFIG_PATTERN_BYTES);
        memcpy(field, text, strlen(text));
        return true;
    case OPTION_LABEL:
        memset(field, 0, CONFIG_LABEL_BYTES);
        memcpy(field, text, strlen(text));
        return true;
    case OPTION_NAMES:
        return names_parse(key, text, field, err);
    case OPTION_INTEGERS:
    case OPTION_CHOICES:
        return list_parse(key, text, field, err);
    case OPTION_MAPS:
        break;
    }
    CHECK(false, "%s is a list of maps", key->name);
}
