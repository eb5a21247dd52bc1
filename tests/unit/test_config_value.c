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

static const Option integer = {
    .name = "train.steps", .type = OPTION_INTEGER, .min = 0, .max = 9007199254740991.0};
static const Option number = {
    .name = "train.lr", .type = OPTION_NUMBER, .min = -DBL_MAX, .max = DBL_MAX};
static const Option rational = {
    .name = "moe.capacity_factor", .type = OPTION_RATIONAL, .min = 0, .max = 1000};
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
        char text[CONFIG_VALUE_BYTES];
        int64_t read = -1;
        Error err = {0};
        config_value_format(&integer, &values[i], text);
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
        char text[CONFIG_VALUE_BYTES];
        Error err = {0};
        config_value_format(&number, &value, text);
        if (!config_value_parse(&number, text, "/base", &read, &err)) fail_msg("%s", err.message);
        assert_memory_equal(&read, &value, sizeof value);
    }
    char text[CONFIG_VALUE_BYTES];
    config_value_format(&number, &(double){0.1}, text);
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
        char text[CONFIG_VALUE_BYTES];
        assert_true(config_value_parse(&rational, cases[i].text, "/base", &read, &err));
        assert_int_equal(read.numerator, cases[i].numerator);
        assert_int_equal(read.denominator, cases[i].denominator);
        config_value_format(&rational, &read, text);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_exactly_a_value_is_refused),
        cmocka_unit_test(integers_are_exact_up_to_their_bounds),
        cmocka_unit_test(numbers_read_back_to_the_same_bits),
        cmocka_unit_test(rationals_are_exact_and_in_lowest_terms),
        cmocka_unit_test(paths_start_at_the_folder_of_their_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
