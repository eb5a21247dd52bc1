// What holds for every key of the configuration, whoever adds it: a name, a place, words and limits
// of its own, a default that is legal, and help.
#include "launcher/config_keys.h"

#include <ctype.h>
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "launcher/config_value.h"
#include "launcher/habit_words.h"
#include "launcher/value_text.h"

enum { TEXT_BYTES = 2048 };

// Parses a value of the key; what is refused is said.
static bool takes(int number, const char *text, TrainConfig *config) {
    Error err = {0};
    void *field = config_key_field(config, number);
    return config_value_parse(config_key(number), text, "/", field, &err);
}

static void every_key_is_found_by_its_name_and_no_other(void **state) {
    (void)state;
    assert_true(config_key_count() > 60);
    for (int number = 0; number < config_key_count(); number++)
        assert_int_equal(config_key_find(config_key(number)->name), number);
    assert_int_equal(config_key_find("no.such_key"), -1);
    assert_int_equal(config_key_find("moe"), -1);
}

// section.key or a word; lower case, as all the field's words are in code.
static void names_are_of_one_kind_and_sections_stand_together(void **state) {
    (void)state;
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
    for (int number = 0; number < config_key_count(); number++) {
        const char *name = config_key(number)->name;
        size_t section = strspn(name, letters), rest = section;
        if (name[section] == '.') rest = section + 1 + strspn(name + section + 1, letters);
        if (section == 0 || name[rest] || name[rest - 1] == '.') fail_msg("the name '%s'", name);
        bool left = false; // whether another section has stood since this one's last key
        for (int later = number + 1; later < config_key_count() && name[section]; later++) {
            bool same = strncmp(config_key(later)->name, name, section + 1) == 0;
            if (same && left) fail_msg("%s stands apart from its section", config_key(later)->name);
            left = left || !same;
        }
    }
}

static size_t bytes_of(const Option *key) {
    switch (key->type) {
    case OPTION_INTEGER:
        return sizeof(int64_t);
    case OPTION_NUMBER:
        return sizeof(double);
    case OPTION_RATIONAL:
        return sizeof(Rational);
    case OPTION_FLAG:
        return sizeof(bool);
    case OPTION_CHOICE:
        return sizeof(int);
    case OPTION_WORD:
        return CONFIG_WORD_BYTES;
    case OPTION_PATH:
    case OPTION_NAMES:
        return CONFIG_PATH_BYTES;
    case OPTION_PATTERN:
        return CONFIG_PATTERN_BYTES;
    case OPTION_LABEL:
        return CONFIG_LABEL_BYTES;
    case OPTION_INTEGERS:
    case OPTION_CHOICES:
        return sizeof(PerLayer);
    case OPTION_MAPS:
        return sizeof(int64_t) + (size_t)key->map->most * key->map->bytes;
    }
    return 0;
}

static void every_key_has_a_field_of_its_own(void **state) {
    (void)state;
    TrainConfig *config = calloc(1, sizeof *config);
    int *owner = malloc(sizeof(TrainConfig) * sizeof *owner);
    assert_true(config && owner);
    memset(owner, 0xFF, sizeof(TrainConfig) * sizeof *owner);
    for (int number = 0; number < config_key_count(); number++) {
        const char *field = config_key_field(config, number);
        assert_ptr_equal(field, config_key_value(config, number));
        size_t first = (size_t)(field - (const char *)config), bytes = bytes_of(config_key(number));
        assert_true(first + bytes <= sizeof(TrainConfig));
        for (size_t i = first; i < first + bytes; i++) {
            if (owner[i] >= 0)
                fail_msg("%s and %s have one field", config_key(number)->name,
                         config_key(owner[i])->name);
            owner[i] = number;
        }
    }
    free(owner);
    free(config);
}

static void every_key_has_help_and_a_kind(void **state) {
    (void)state;
    for (int number = 0; number < config_key_count(); number++) {
        const Option *key = config_key(number);
        char legal[CONFIG_LEGAL_BYTES];
        config_value_legal(key, legal);
        size_t length = key->help ? strlen(key->help) : 0;
        // Words, not a sentence with a full stop: the default follows in brackets.
        if (length < 10 || key->help[length - 1] == '.' || isspace((unsigned char)key->help[0]))
            fail_msg("the help of %s", key->name);
        if (key->kind < KIND_FREE || key->kind > KIND_STATE) fail_msg("the kind of %s", key->name);
        if (!legal[0] || strlen(legal) >= CONFIG_LEGAL_BYTES - 1)
            fail_msg("the legal values of %s: %s", key->name, legal);
    }
}

static void tables_of_choices_are_complete(void **state) {
    (void)state;
    for (int number = 0; number < config_key_count(); number++) {
        const Option *key = config_key(number);
        bool needed =
            key->type == OPTION_CHOICE || key->type == OPTION_CHOICES || key->type == OPTION_WORD;
        if (needed && !key->choices) fail_msg("%s has no choices", key->name);
        TrainConfig *config = calloc(1, sizeof *config);
        for (int i = 0; key->choices && i < key->choices->count; i++) {
            const char *word = choice_row(*key->choices, i)->word;
            if (!word) fail_msg("%s: value %d of its table has no word", key->name, i);
            assert_int_equal(choice_find(*key->choices, word), i); // no word stands twice
            if (!takes(number, word, config)) fail_msg("%s refuses its word %s", key->name, word);
        }
        free(config);
    }
}

// A field of a map is a row as well: a word, help, a default that reads back, a place of its own.
static void fields_of_maps_are_complete(void **state) {
    (void)state;
    for (int number = 0; number < config_key_count(); number++) {
        const OptionMap *map = config_key(number)->map;
        assert_int_equal(map != NULL, config_key(number)->type == OPTION_MAPS);
        for (int i = 0; map && i < map->count; i++) {
            const Option *field = &map->fields[i];
            char *at = calloc(1, map->bytes), text[TEXT_BYTES] = "";
            Error err = {0};
            size_t end = field->offset + bytes_of(field);
            assert_true(at && end <= map->bytes && map->bytes % 8 == 0);
            assert_true(strlen(field->help) >= 10 && field->kind == KIND_NONE);
            for (int j = 0; j < map->count; j++) {
                bool apart = map->fields[j].offset >= end ||
                             map->fields[j].offset + bytes_of(&map->fields[j]) <= field->offset;
                if (i != j && (!apart || strcmp(map->fields[j].name, field->name) == 0))
                    fail_msg("%s: the field %s is not apart from another", config_key(number)->name,
                             field->name);
            }
            bool text_field = bytes_of(field) > sizeof(Rational); // what a required one may be
            const char *initial = field->initial ? field->initial : text_field ? "x" : "1";
            if (!config_value_parse(field, initial, "/", at + field->offset, &err))
                fail_msg("%s: %s", config_key(number)->name, err.message);
            FILE *out = fmemopen(text, sizeof text, "w");
            config_value_print(out, field, at + field->offset);
            fclose(out);
            const char *written = field->type == OPTION_PATH    ? "\"/x\""
                                  : field->type == OPTION_LABEL ? "x"
                                                                : "\"x\"";
            if (field->initial || !text_field) written = initial[0] ? initial : "\"\"";
            assert_string_equal(text, written);
            free(at);
        }
    }
}

// Defaults are legal, and printed as they are written: a resume compares the texts.
static void defaults_are_legal_and_read_back(void **state) {
    (void)state;
    TrainConfig *config = calloc(1, sizeof *config);
    for (int number = 0; number < config_key_count(); number++) {
        const Option *key = config_key(number);
        bool required = strcmp(key->name, "data.train") == 0;
        if (required != (!key->initial && !key->derived) || (key->initial && key->derived))
            fail_msg("%s has no default, or two", key->name);
        if (key->derive && !key->derived) fail_msg("%s is derived without words", key->name);
        if (!key->initial) continue;
        if (!takes(number, key->initial, config)) fail_msg("the default of %s", key->name);
        char text[TEXT_BYTES] = "";
        FILE *out = fmemopen(text, sizeof text, "w");
        config_value_print(out, key, config_key_value(config, number));
        fclose(out);
        bool empty = !key->initial[0] && (strcmp(text, "\"\"") == 0 || strcmp(text, "[]") == 0);
        if (!empty && strcmp(text, key->initial) != 0)
            fail_msg("the default of %s is %s, but printed as %s", key->name, key->initial, text);
    }
    free(config);
}

static void limits_are_legal_and_what_lies_beyond_is_not(void **state) {
    (void)state;
    TrainConfig *config = calloc(1, sizeof *config);
    for (int number = 0; number < config_key_count(); number++) {
        const Option *key = config_key(number);
        bool whole = key->type == OPTION_INTEGER || key->type == OPTION_INTEGERS;
        if (!whole && key->type != OPTION_NUMBER && key->type != OPTION_RATIONAL) continue;
        if (key->min >= key->max) fail_msg("%s has no range", key->name);
        double limits[] = {key->min, key->max};
        for (int i = 0; i < 2; i++) {
            char text[64], beyond[64];
            snprintf(text, sizeof text, whole ? "%.0f" : "%.17g", limits[i]);
            if (key->type == OPTION_RATIONAL) snprintf(text, sizeof text, "%.0f", limits[i]);
            snprintf(beyond, sizeof beyond, whole ? "%.0f" : "%.17g",
                     i ? limits[i] * (1 + 1e-15) + 1 : limits[i] - 1);
            if (!takes(number, text, config)) fail_msg("%s refuses %s", key->name, text);
            if (takes(number, beyond, config)) fail_msg("%s takes %s", key->name, beyond);
        }
    }
    free(config);
}

// "train.steps / 10, at most 50": the keys that a derived value follows from, by which a resume
// finds the cause of a change.
static void derived_values_name_keys(void **state) {
    (void)state;
    for (int number = 0; number < config_key_count(); number++) {
        const Option *key = config_key(number);
        bool names = !key->derived || strcmp(key->name, "run.dir") == 0;
        for (int other = 0; !names && other < config_key_count(); other++)
            names = other != number && strstr(key->derived, config_key(other)->name);
        if (!names) fail_msg("%s is derived from no key: %s", key->name, key->derived);
    }
}

// ---- sources ------------------------------------------------------------------------------------

// Papers are named by their number; systems, and papers without one, as these.
static const char *const SOURCES[] = {
    "arXiv:",    "Megatron", "DeepSpeed", "DeepSeek", "Tutel",       "transformers", "OLMo",
    "Qwen",      "GPT-",     "gpt-oss",   "makeMoE",  "Switch",      "GShard",       "torch.optim",
    "Command R", "Gemma",    "SmolLM",    "Miller",   "Jordan 2024",
};
// Sizes, the run itself, and what no one else has.
static const char *const PLAIN[] = {
    "model.d_model",
    "model.layers",
    "model.d_ff",
    "model.norm_eps",
    "model.embedding_init_std",
    "attention.d_head",
    "attention.d_value",
    // the choice of layers, and what is kept of a run
    "moe.first",
    "moe.record",
    "moe.max_expert_replicas",
    "moe.bias_decay_steps",
    "moe.hot_experts",
    // the course of training
    "train.steps",
    "train.batch",
    "train.context",
    "train.micro_batches",
    "train.shards",
    "train.reproducible",
    "train.precision",
    "train.max_skipped",
    "train.threads",
    "train.lr",
    "train.min_lr",
    "train.warmup",
    "train.decay",
    "train.skip_window",
    "train.rollback_limit",
};

static bool names_a_source(const char *text) {
    for (size_t i = 0; text && i < sizeof SOURCES / sizeof *SOURCES; i++)
        if (strstr(text, SOURCES[i])) return true;
    return false;
}

static bool is_plain(const char *name) {
    for (size_t i = 0; i < sizeof PLAIN / sizeof *PLAIN; i++)
        if (strcmp(name, PLAIN[i]) == 0) return true;
    return false;
}

// A reader of the help of a key of models or training finds where its rule comes from: in its own
// words or in those of what it may be. A key of which nobody has written says all itself, and
// stands in the list above.
static void keys_of_models_and_training_name_their_source(void **state) {
    (void)state;
    static const char *const sections[] = {"model.", "attention.", "moe.", "train."};
    size_t plain = 0;
    for (int number = 0; number < config_key_count(); number++) {
        const Option *key = config_key(number);
        bool due = false, named = names_a_source(key->help);
        for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
            due = due || strncmp(key->name, sections[i], strlen(sections[i])) == 0;
        for (int i = 0; key->choices && i < key->choices->count; i++)
            named = named || names_a_source(choice_row(*key->choices, i)->meaning);
        plain += is_plain(key->name);
        if (due && !named && !is_plain(key->name)) fail_msg("%s names no source", key->name);
        if (named && is_plain(key->name)) fail_msg("%s names a source and is plain", key->name);
    }
    assert_int_equal(plain, sizeof PLAIN / sizeof *PLAIN); // each is a key
}

// Words of other programs mean keys that there are, and are no keys themselves.
static void words_of_other_programs_mean_keys(void **state) {
    (void)state;
    for (const Habit *habit = HABIT_KEYS; habit->word; habit++) {
        if (config_key_find(habit->meant) < 0) fail_msg("%s means %s", habit->word, habit->meant);
        if (config_key_find(habit->word) >= 0) fail_msg("%s is a key", habit->word);
        for (const Habit *other = HABIT_KEYS; other != habit; other++)
            if (strcmp(other->word, habit->word) == 0) fail_msg("%s stands twice", habit->word);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_found_by_its_name_and_no_other),
        cmocka_unit_test(names_are_of_one_kind_and_sections_stand_together),
        cmocka_unit_test(every_key_has_a_field_of_its_own),
        cmocka_unit_test(every_key_has_help_and_a_kind),
        cmocka_unit_test(tables_of_choices_are_complete),
        cmocka_unit_test(fields_of_maps_are_complete),
        cmocka_unit_test(defaults_are_legal_and_read_back),
        cmocka_unit_test(limits_are_legal_and_what_lies_beyond_is_not),
        cmocka_unit_test(derived_values_name_keys),
        cmocka_unit_test(keys_of_models_and_training_name_their_source),
        cmocka_unit_test(words_of_other_programs_mean_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
