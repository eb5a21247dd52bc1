#include "worker/tokenizer/tokenizer_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/tokenizer/json_fields.h"
#include "worker/tokenizer/split_pattern.h"

bool read_normalizer(Tokenizer *t, const json_t *normalizer, Error *err) {
    static const char *const known[] = {"type", "normalizers", NULL};
    if (!normalizer || json_is_null(normalizer)) return true;
    if (!json_keys_known(normalizer, "normalizer", known, err)) return false;
    if (strcmp(part_type(normalizer), "NFC") == 0) return t->nfc = true;
    const json_t *rows = json_object_get(normalizer, "normalizers"), *row;
    size_t i;
    if (strcmp(part_type(normalizer), "Sequence") != 0 || !json_is_array(rows))
        return json_refuse("normalizer", normalizer, "only NFC is known here", err);
    json_array_foreach((json_t *)rows, i, row) {
        if (strcmp(part_type(row), "NFC") != 0 || json_object_size(row) != 1)
            return json_refuse("normalizer.normalizers", row, "only NFC is known here", err);
        t->nfc = true;
    }
    return true;
}

// ---- the pre-tokenizer --------------------------------------------------------------------------

static bool is_known(const char *pattern) {
    for (int kind = 0; kind < SPLIT_CHOICES.count; kind++)
        if (strcmp(split_facts((SplitKind)kind)->pattern, pattern) == 0) return true;
    return false;
}

static bool add_stage(Tokenizer *t, const char *pattern, const char *field, Error *err) {
    char *translated = NULL;
    bool ok = split_pattern_translate(pattern, &translated, err) &&
              pre_split_add(t->split, translated, err);
    free(translated);
    // One alone, since a second one cuts the words of the first.
    t->known_pattern = ok && t->stages++ == 0 && is_known(pattern);
    return ok || error_prefix(err, "%s", field);
}

static bool read_split(Tokenizer *t, const json_t *part, const char *field, Error *err) {
    static const char *const known[] = {"type", "pattern", "behavior", "invert", NULL};
    const json_t *pattern = json_object_get(part, "pattern");
    const json_t *behavior = json_object_get(part, "behavior");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *text = json_string_value(json_object_get(pattern, "String"));
    const char *word = json_string_value(behavior);
    bool ok = true;
    char name[128];
    if (!json_keys_known(part, field, known, err)) return false;
    snprintf(name, sizeof name, "%s.behavior", field);
    if (!word || strcmp(word, "Isolated") != 0)
        return json_refuse(name, behavior, "only Isolated is known here", err);
    snprintf(name, sizeof name, "%s.invert", field);
    if (json_flag(part, field, "invert", false, &ok, err))
        return json_refuse(name, json_true(), NULL, err);
    snprintf(name, sizeof name, "%s.pattern", field);
    if (!regex == !text)
        return json_refuse(name, pattern, "it must be {\"Regex\": ...} or {\"String\": ...}", err);
    if (regex) return ok && add_stage(t, regex, name, err);
    char *quoted = split_pattern_quote(text, strlen(text));
    ok = ok && add_stage(t, quoted, name, err);
    free(quoted);
    return ok;
}

static bool read_digits(Tokenizer *t, const json_t *part, const char *field, Error *err) {
    static const char *const known[] = {"type", "individual_digits", NULL};
    bool ok = true;
    if (!json_keys_known(part, field, known, err)) return false;
    bool each = json_flag(part, field, "individual_digits", false, &ok, err);
    return ok && add_stage(t, each ? "\\p{N}" : "\\p{N}+", field, err);
}

// trim_offsets is about places in the text, not about tokens.
static bool read_byte_level(Tokenizer *t, const json_t *part, const char *field, bool alone,
                            Error *err) {
    static const char *const known[] = {"type", "add_prefix_space", "trim_offsets", "use_regex",
                                        NULL};
    bool ok = true;
    if (!json_keys_known(part, field, known, err)) return false;
    bool use_regex = json_flag(part, field, "use_regex", true, &ok, err);
    t->add_prefix_space = json_flag(part, field, "add_prefix_space", true, &ok, err);
    char name[128];
    snprintf(name, sizeof name, "%s.add_prefix_space", field);
    if (ok && t->add_prefix_space && !alone)
        return json_refuse(name, json_true(),
                           "set it to false: behind other parts it would put "
                           "spaces into the text",
                           err);
    return ok && (!use_regex || add_stage(t, split_facts(SPLIT_GPT2)->pattern, field, err));
}

static bool read_part(Tokenizer *t, const json_t *part, const char *field, bool last, bool alone,
                      Error *err) {
    const char *type = part_type(part);
    if (last && strcmp(type, "ByteLevel") == 0) return read_byte_level(t, part, field, alone, err);
    if (!last && strcmp(type, "Split") == 0) return read_split(t, part, field, err);
    if (!last && strcmp(type, "Digits") == 0) return read_digits(t, part, field, err);
    return json_refuse(field, part,
                       "only Split and Digits are known here, and ByteLevel at the end, without "
                       "which tokens are not bytes",
                       err);
}

bool read_pre_tokenizer(Tokenizer *t, const json_t *pre_tokenizer, Error *err) {
    static const char *const known[] = {"type", "pretokenizers", NULL};
    if (strcmp(part_type(pre_tokenizer), "Sequence") != 0)
        return read_part(t, pre_tokenizer, "pre_tokenizer", true, true, err);
    const json_t *parts = json_object_get(pre_tokenizer, "pretokenizers"), *part;
    size_t i, count = json_array_size(parts);
    if (!json_keys_known(pre_tokenizer, "pre_tokenizer", known, err)) return false;
    if (count == 0)
        return json_refuse("pre_tokenizer.pretokenizers", parts, "the last must be ByteLevel", err);
    json_array_foreach((json_t *)parts, i, part) {
        char field[64];
        snprintf(field, sizeof field, "pre_tokenizer.pretokenizers[%zu]", i);
        if (!read_part(t, part, field, i == count - 1, count == 1, err)) return false;
    }
    return true;
}

// ---- what comes after the tokens ----------------------------------------------------------------

static bool read_processor(Tokenizer *t, const json_t *processor, Error *err) {
    static const char *const templates[] = {"TemplateProcessing", "RobertaProcessing",
                                            "BertProcessing"};
    const char *type = part_type(processor);
    if (strcmp(type, "ByteLevel") == 0) return true; // about places in the text
    for (int i = 0; i < 3; i++)
        if (strcmp(type, templates[i]) == 0) {
            snprintf(t->post_processor, sizeof t->post_processor, "%s", type);
            return true;
        }
    return json_refuse("post_processor", processor, "set it to null", err);
}

bool read_post_processor(Tokenizer *t, const json_t *post_processor, Error *err) {
    size_t i;
    json_t *part;
    if (!post_processor || json_is_null(post_processor)) return true;
    if (strcmp(part_type(post_processor), "Sequence") != 0)
        return read_processor(t, post_processor, err);
    json_array_foreach(json_object_get(post_processor, "processors"), i,
                       part) if (!read_processor(t, part, err)) return false;
    return true;
}

bool read_decoder(const json_t *decoder, Error *err) {
    return strcmp(part_type(decoder), "ByteLevel") == 0 ||
           json_refuse("decoder", decoder, "only ByteLevel is known here", err);
}
