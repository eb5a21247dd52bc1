// Values of the configuration: what is refused, and that text and value are one in both ways.
#include "launcher/config_value.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/rng.h"
#include "launcher/config_path.h"
#include "launcher/simple_value.h"
#include "model/model_config.h"

enum { TEXT_BYTES = 16384 };

static void print_value(const Option *key, const void *field, char text[TEXT_BYTES]) {
    memset(text, 0, TEXT_BYTES);
    FILE *out = fmemopen(text, TEXT_BYTES, "w");
    assert_non_null(out);
    config_value_print(out, key, field);
    assert_true(ftell(out) < TEXT_BYTES - 1);
    fclose(out);
}

static const Option integer = {
    .name = "train.steps", .type = OPTION_INTEGER, .min = 0, .max = 9007199254740991.0};
static const Option number = {
    .name = "train.lr", .type = OPTION_NUMBER, .min = -DBL_MAX, .max = DBL_MAX};
static const Option rational = {
    .name = "moe.capacity_factor", .type = OPTION_RATIONAL, .min = 0, .max = 1000};
static const Choice WORDS[] = {{"dense", NULL}, {"moe", NULL}};
static const ChoiceTable WORD_CHOICES = CHOICE_TABLE(WORDS);
static const Option integers = {
    .name = "moe.experts", .type = OPTION_INTEGERS, .min = 0, .max = 65536};
static const Option choices = {
    .name = "model.feed_forward", .type = OPTION_CHOICES, .choices = &WORD_CHOICES};
static const Option flag = {.name = "data.check", .type = OPTION_FLAG};

static void assert_refused(const Option *key, const char *const *texts) {
    for (; *texts; texts++) {
        union {
            int64_t integer;
            double number;
            Rational rational;
            bool flag;
        } field;
        memset(&field, 0x5A, sizeof field);
        Error err = {0};
        if (config_value_parse(key, *texts, "/base", &field, &err))
            fail_msg("%s takes '%s'", key->name, *texts);
        assert_int_equal(err.exit_code, EXIT_CONFIG);
        assert_non_null(strstr(err.message, key->name));
        for (size_t i = 0; i < sizeof field; i++) // set only on success
            assert_int_equal(((unsigned char *)&field)[i], 0x5A);
    }
}

static void what_is_not_exactly_a_value_is_refused(void **state) {
    (void)state;
    assert_refused(&integer,
                   (const char *const[]){"", " 3", "3 ", "3.5", "3.0", "1e3", "0x10", "010", "+3",
                                         "-", "--3", "3a", "-1", "9007199254740992",
                                         "99999999999999999999999", "nan", NULL});
    assert_refused(&number,
                   (const char *const[]){"", " 1", "1 ", "nan", "inf", "-inf", "1e400", "0x1p3",
                                         "1,5", "1e", ".", "e5", "1.2.3", "1d3", NULL});
    assert_refused(&rational,
                   (const char *const[]){"", "-1", "1.", ".5", "1/0", "1/", "/2", "1.00001",
                                         "1/10001", "1e2", "1001", "1.5/2", "1/2/3", " 1", NULL});
    assert_refused(&flag, (const char *const[]){"", "True", "yes", "on", "1", "0", " true", NULL});
}

static void integers_are_exact_up_to_their_bounds(void **state) {
    (void)state;
    static const int64_t values[] = {0, 1, 10, 9007199254740991};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char text[TEXT_BYTES];
        int64_t read = -1;
        Error err = {0};
        print_value(&integer, &values[i], text);
        assert_true(config_value_parse(&integer, text, "/base", &read, &err));
        assert_int_equal(read, values[i]);
    }
}

// Any bits of a finite double, the largest, the smallest and what lies beside round numbers.
static void numbers_read_back_to_the_same_bits(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t bits;
        uint32_t words[4];
        rng_words((RngStream){.seed = 7, .purpose = RNG_TEST}, i, words);
        memcpy(&bits, words, sizeof bits);
        double value, read = 0;
        memcpy(&value, &bits, sizeof value);
        if (i < 4) value = (double[]){DBL_MAX, DBL_MIN, DBL_TRUE_MIN, -0.0}[i];
        if (i >= 4 && i < 100) value = nextafter((double)i / 100, i % 2 ? 1 : 0);
        if (!isfinite(value)) continue;
        char text[TEXT_BYTES];
        Error err = {0};
        print_value(&number, &value, text);
        if (!config_value_parse(&number, text, "/base", &read, &err)) fail_msg("%s", err.message);
        assert_memory_equal(&read, &value, sizeof value);
    }
    char text[TEXT_BYTES];
    print_value(&number, &(double){0.1}, text);
    assert_string_equal(text, "0.1"); // the shortest
}

static void rationals_are_exact_and_in_lowest_terms(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t numerator, denominator;
        const char *written;
    } cases[] = {
        {"1.1", 11, 10, "1.1"},    {"1.25", 5, 4, "1.25"},
        {"5/4", 5, 4, "1.25"},     {"10/8", 5, 4, "1.25"},
        {"2", 2, 1, "2"},          {"0", 0, 1, "0"},
        {"0/7", 0, 1, "0"},        {"1/3", 1, 3, "1/3"},
        {"1000", 1000, 1, "1000"}, {"0.0001", 1, 10000, "0.0001"},
        {"22/7", 22, 7, "22/7"},   {"999.9999", 9999999, 10000, "999.9999"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Rational read = {0}, again = {0};
        Error err = {0};
        char text[TEXT_BYTES];
        assert_true(config_value_parse(&rational, cases[i].text, "/base", &read, &err));
        assert_int_equal(read.numerator, cases[i].numerator);
        assert_int_equal(read.denominator, cases[i].denominator);
        print_value(&rational, &read, text);
        assert_string_equal(text, cases[i].written);
        assert_true(config_value_parse(&rational, text, "/base", &again, &err));
        assert_memory_equal(&again, &read, sizeof read);
    }
}

static void paths_start_at_the_folder_of_their_file(void **state) {
    (void)state;
    static const struct {
        const char *base, *path, *resolved;
    } cases[] = {
        {"/a/b", "c.txt", "/a/b/c.txt"},
        {"/a/b", "./c.txt", "/a/b/c.txt"},
        {"/a/b", "../c.txt", "/a/c.txt"},
        {"/a/b", "../../c.txt", "/c.txt"},
        {"/a/b", "../../../c.txt", "/c.txt"},
        {"/a/b", "/c.txt", "/c.txt"},
        {"/", "c.txt", "/c.txt"},
        {"/", "../c.txt", "/c.txt"},
        {"/a/b", ".", "/a/b"},
        {"/a/b", ".hidden", "/a/b/.hidden"},
        {"/a/b", "..c", "/a/b/..c"},
        {"/a/b", "c/../d", "/a/b/c/../d"}, // c may be a link
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char resolved[CONFIG_PATH_BYTES];
        Error err = {0};
        assert_true(path_resolve(cases[i].base, cases[i].path, resolved, &err));
        assert_string_equal(resolved, cases[i].resolved);
    }
    char longest[CONFIG_PATH_BYTES], resolved[CONFIG_PATH_BYTES];
    Error err = {0};
    memset(longest, 'x', sizeof longest);
    longest[CONFIG_PATH_BYTES - 4] = 0; // "/a/" and 1020 letters are 1023 bytes
    assert_true(path_resolve("/a", longest, resolved, &err));
    assert_false(path_resolve("/aa", longest, resolved, &err));
    assert_int_equal(err.exit_code, EXIT_CONFIG);
}

// A list of one kind of item, as the command line has it.
static void lists_repeat_over_the_layers(void **state) {
    (void)state;
    static const struct {
        const Option *key;
        const char *text, *written;
        int64_t count;
        int32_t values[4];
    } cases[] = {
        {&integers, "8", "8", 1, {8}},
        {&integers, "[8]", "8", 1, {8}},
        {&integers, "8,16", "[8, 16]", 2, {8, 16}},
        {&integers, "[8, 16]", "[8, 16]", 2, {8, 16}},
        {&integers, "[ 8 ,16 ]", "[8, 16]", 2, {8, 16}},
        {&integers, "8,8,8", "8", 1, {8}},
        {&integers, "8,16,8,16", "[8, 16]", 2, {8, 16}},
        {&integers, "8,16,8", "[8, 16, 8]", 3, {8, 16, 8}}, // repeats as 8 16 8 8 16 8
        {&integers, "65536,0", "[65536, 0]", 2, {65536, 0}},
        {&choices, "moe", "moe", 1, {1}},
        {&choices, "[dense, moe]", "[dense, moe]", 2, {0, 1}},
        {&choices, "dense,moe,moe", "[dense, moe, moe]", 3, {0, 1, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        PerLayer read, again, expected = {.count = cases[i].count};
        char text[TEXT_BYTES];
        Error err = {0};
        memcpy(expected.values, cases[i].values, sizeof cases[i].values);
        memset(&read, 0x5A, sizeof read);
        if (!config_value_parse(cases[i].key, cases[i].text, "/", &read, &err))
            fail_msg("%s", err.message);
        assert_memory_equal(&read, &expected, sizeof read); // what is not used is zero
        print_value(cases[i].key, &read, text);
        assert_string_equal(text, cases[i].written);
        assert_true(config_value_parse(cases[i].key, text, "/", &again, &err));
        assert_memory_equal(&again, &read, sizeof read);
    }
    assert_refused(&integers, (const char *const[]){"", " 8", "8 ", "[]", "[ ]", "[8", "8]", "8,",
                                                    ",8", "8,,8", "8;9", "8,x", "8,65537", "8,-1",
                                                    "1,000", "[[8]]", "8 9", NULL});
    assert_refused(&choices,
                   (const char *const[]){"", "Moe", "moe,", "moe,MoE", "[moe, 1]", "0", NULL});
}

static void a_list_has_at_most_as_many_items_as_layers_are_possible(void **state) {
    (void)state;
    char text[TEXT_BYTES] = "", written[TEXT_BYTES];
    PerLayer read, again;
    Error err = {0};
    for (int i = 0; i < PER_LAYER_MAX; i++)
        snprintf(text + strlen(text), TEXT_BYTES - strlen(text), "%s%d", i ? "," : "", 64000 + i);
    assert_true(config_value_parse(&integers, text, "/", &read, &err));
    assert_int_equal(read.count, PER_LAYER_MAX);
    assert_int_equal(read.values[PER_LAYER_MAX - 1], 64000 + PER_LAYER_MAX - 1);
    print_value(&integers, &read, written);
    assert_true(config_value_parse(&integers, written, "/", &again, &err));
    assert_memory_equal(&again, &read, sizeof read);
    snprintf(text + strlen(text), TEXT_BYTES - strlen(text), ",1");
    assert_false(config_value_parse(&integers, text, "/", &read, &err));
    assert_non_null(strstr(err.message, "1025 items"));
}

static void the_item_that_is_refused_is_named(void **state) {
    (void)state;
    static const char *const items[] = {"dense", "moe", "mo"};
    PerLayer read;
    Error err = {0};
    int wrong = -2;
    assert_false(simple_items_parse(&choices, items, 3, &read, &wrong, &err));
    assert_int_equal(wrong, 2);
    assert_string_equal(err.message, "item 3 of model.feed_forward is 'mo', but must be dense or "
                                     "moe; did you mean 'moe'?");
    assert_true(simple_items_parse(&choices, items, 2, &read, &wrong, &err));
    assert_false(simple_items_parse(&choices, items, 0, &read, &wrong, &err));
    assert_int_equal(wrong, -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_exactly_a_value_is_refused),
        cmocka_unit_test(integers_are_exact_up_to_their_bounds),
        cmocka_unit_test(numbers_read_back_to_the_same_bits),
        cmocka_unit_test(rationals_are_exact_and_in_lowest_terms),
        cmocka_unit_test(lists_repeat_over_the_layers),
        cmocka_unit_test(a_list_has_at_most_as_many_items_as_layers_are_possible),
        cmocka_unit_test(the_item_that_is_refused_is_named),
        cmocka_unit_test(paths_start_at_the_folder_of_their_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
