#include "worker/tokenizer/split_pattern.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/suggest.h"

// ---- the field's patterns -----------------------------------------------------------------------

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER_CLASS  "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER_CLASS  "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define BEFORE_WORD  "[^\\r\\n\\p{L}\\p{N}]?"

static const SplitFacts SPLITS[] = {
    [SPLIT_GPT2] = {.choice = {"gpt2", "GPT-2: words with the space before them, digits together"},
                    .pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                               "\\s+(?!\\S)|\\s+",
                    .in_byte_level = true},
    [SPLIT_LLAMA3] = {.choice = {"llama3", "Llama 3 and cl100k: up to three digits together"},
                      .pattern = CONTRACTIONS "|" BEFORE_WORD
                                              "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                                              "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    [SPLIT_QWEN2] = {.choice = {"qwen2", "Qwen 2 and 3: each digit alone, normal form C"},
                     .pattern = CONTRACTIONS "|" BEFORE_WORD
                                             "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                                             "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                     .nfc = true},
    [SPLIT_O200K] = {.choice = {"o200k",
                                "o200k and gpt-oss: words also end where a capital follows"},
                     .pattern = BEFORE_WORD UPPER_CLASS
                     "*" LOWER_CLASS "+" CONTRACTIONS "?|" BEFORE_WORD UPPER_CLASS "+" LOWER_CLASS
                     "*" CONTRACTIONS "?|\\p{N}{1,3}|"
                     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
};
const ChoiceTable SPLIT_CHOICES = CHOICE_TABLE(SPLITS);

const SplitFacts *split_facts(SplitKind kind) {
    return (const SplitFacts *)choice_row(SPLIT_CHOICES, (int)kind);
}

bool split_check(const char *pattern, Error *err) {
    if (choice_find(SPLIT_CHOICES, pattern) >= 0) return true;
    char quoted[80];
    value_quote(pattern, quoted);
    return error_set(err, EXIT_CONFIG,
                     "command line: --pattern is %s, but must be gpt2, llama3, qwen2 or o200k",
                     quoted);
}

// ---- from Oniguruma to PCRE2 --------------------------------------------------------------------

// White space of Unicode. PCRE2's own \s also has U+180E, which was a space until Unicode 6.3.
#define SPACES "\\t-\\r\\x{85}\\p{Z}"

typedef struct Translation {
    const char *pattern, *at;
    char *out, *end; // room for SPACES and brackets in the place of every byte
    Error *err;
} Translation;

static bool refuse(Translation *t, const char *what, const char *why) {
    return error_set(t->err, EXIT_DATA, "'%.20s' at byte %td of the pattern is %s; %s", t->at,
                     t->at - t->pattern, what, why);
}

static const char UNKNOWN[] = "rewrite the pattern without it, or tokenize with the library that "
                              "the file is for and train on the token numbers";

static bool copy(Translation *t, size_t count) {
    memcpy(t->end, t->at, count);
    t->end += count;
    t->at += count;
    return true;
}

static void write_text(Translation *t, const char *text, size_t taken) {
    size_t count = strlen(text);
    memcpy(t->end, text, count);
    t->end += count;
    t->at += taken;
}

// \p{Name}
static bool copy_property(Translation *t) {
    size_t name = t->at[2] == '{' ? 3 + strspn(t->at + 3, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                          "abcdefghijklmnopqrstuvwxyz_")
                                  : 0;
    if (name < 4 || t->at[name] != '}')
        return refuse(t, "no property of Unicode", "write \\p{NAME}");
    return copy(t, name + 1);
}

// \uHHHH, \xHH or \x{H…}
static bool copy_number(Translation *t) {
    static const char digits[] = "0123456789abcdefABCDEF";
    size_t count = strspn(t->at + 2, digits);
    if (t->at[1] == 'u' && count >= 4) {
        char number[16];
        snprintf(number, sizeof number, "\\x{%.4s}", t->at + 2);
        write_text(t, number, 6);
        return true;
    }
    if (t->at[1] == 'x' && count >= 2) return copy(t, 4);
    size_t braced = t->at[2] == '{' ? strspn(t->at + 3, digits) : 0;
    if (t->at[1] == 'x' && braced > 0 && t->at[3 + braced] == '}') return copy(t, braced + 4);
    return refuse(t, "no number of a character", "write \\x{HEX}");
}

static bool translate_escape(Translation *t, bool in_class) {
    char c = t->at[1];
    if (c == 'p' || c == 'P') return copy_property(t);
    if (c == 'x' || c == 'u') return copy_number(t);
    if (c == 's' || (c == 'S' && !in_class)) {
        write_text(t, in_class ? SPACES : c == 's' ? "[" SPACES "]" : "[^" SPACES "]", 2);
        return true;
    }
    if (c != '\0' && (strchr("rntdD", c) || ispunct((unsigned char)c))) return copy(t, 2);
    return refuse(t, "unknown here, or has another meaning in PCRE2", UNKNOWN);
}

static bool translate_class(Translation *t) {
    copy(t, t->at[1] == '^' ? 2 : 1);
    if (*t->at == ']') return refuse(t, "an empty class", UNKNOWN);
    while (*t->at != ']') {
        if (*t->at == '\0') return refuse(t, "a class without its end", "write ] behind it");
        if (*t->at == '[' || (t->at[0] == '&' && t->at[1] == '&'))
            return refuse(t, "a class in a class", UNKNOWN);
        if (*t->at == '\\' ? !translate_escape(t, true) : !copy(t, 1)) return false;
    }
    return copy(t, 1);
}

static bool translate_group(Translation *t) {
    static const char *const known[] = {"(?:", "(?i:", "(?=", "(?!"};
    if (t->at[1] == '*') return refuse(t, "no group", UNKNOWN);
    if (t->at[1] != '?') return copy(t, 1);
    for (int i = 0; i < 4; i++)
        if (strncmp(t->at, known[i], strlen(known[i])) == 0) return copy(t, strlen(known[i]));
    return refuse(t, "a group that is unknown here", UNKNOWN);
}

// {n}, {n,} or {n,m}
static bool copy_count(Translation *t) {
    size_t length = 1 + strspn(t->at + 1, "0123456789");
    if (length > 1 && t->at[length] == ',') length += 1 + strspn(t->at + length + 1, "0123456789");
    if (length < 2 || t->at[length] != '}')
        return refuse(t, "no count of repetitions", "write \\{ for a brace");
    if (t->at[length + 1] == '+')
        return refuse(t, "a repetition of repetitions to one engine and possessive to the other",
                      "leave the + out");
    return copy(t, length + 1);
}

bool split_pattern_translate(const char *pattern, char **translated, Error *err) {
    size_t room = (sizeof SPACES + 4) * (strlen(pattern) + 1);
    Translation t = {.pattern = pattern, .at = pattern, .out = malloc(room), .err = err};
    CHECK_MEMORY(t.out, "no memory for a pattern of %zu bytes", room);
    t.end = t.out;
    bool ok = *pattern != '\0' || refuse(&t, "empty", "write a pattern");
    while (ok && *t.at != '\0') {
        switch (*t.at) {
        case '\\':
            ok = translate_escape(&t, false);
            break;
        case '[':
            ok = translate_class(&t);
            break;
        case '(':
            ok = translate_group(&t);
            break;
        case '{':
            ok = copy_count(&t);
            break;
        case '^':
        case '$':
            ok = refuse(&t, "the border of a line to one engine and of the text to the other",
                        UNKNOWN);
            break;
        default:
            ok = copy(&t, 1);
        }
    }
    *t.end = '\0';
    if (ok)
        *translated = t.out;
    else
        free(t.out);
    return ok;
}

char *split_pattern_quote(const char *text, size_t bytes) {
    char *pattern = malloc(2 * bytes + 1), *end = pattern;
    CHECK_MEMORY(pattern, "no memory for a pattern of %zu bytes", 2 * bytes + 1);
    for (size_t i = 0; i < bytes; i++) {
        if (ispunct((unsigned char)text[i])) *end++ = '\\';
        *end++ = text[i];
    }
    *end = '\0';
    return pattern;
}
