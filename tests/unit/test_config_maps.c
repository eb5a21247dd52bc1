// Lists of maps as values: what is refused and where, and that text and value are one in both ways.
#include "launcher/config_maps.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/option_rows.h"
#include "launcher/config_value.h"

typedef struct Group {
    char match[CONFIG_PATTERN_BYTES];
    double decay;
    int64_t count;
    int scope;
    bool frozen;
} Group;
typedef struct GroupList {
    int64_t count;
    Group maps[3];
} GroupList;
typedef struct Section {
    GroupList groups;
} Section;

static const Choice SCOPES[] = {{"shard", NULL}, {"sequence", NULL}};
static const ChoiceTable SCOPE_CHOICES = CHOICE_TABLE(SCOPES);

// clang-format off
#define SECTION_STRUCT Group
static const Option FIELDS[] = {
    PATTERN("match", NONE, match, REQUIRED, "names of parameters"),
    NUMBER("decay", NONE, decay, DEFAULT("0.1"), RANGE(0, 1), "weight decay of these"),
    INTEGER("count", NONE, count, DEFAULT("2"), RANGE(1, 9), "how many there are"),
    CHOICE("scope", NONE, scope, DEFAULT("shard"), OF(SCOPE_CHOICES), "tokens that count"),
    FLAG("frozen", NONE, frozen, DEFAULT("false"), "whether they stay"),
};
static const OptionMap GROUP_MAP = MAP_FIELDS(FIELDS, GroupList);
#undef SECTION_STRUCT
#define SECTION_STRUCT Section
static const Option KEY =
    MAPS("train.groups", COURSE, groups, DEFAULT("[]"), GROUP_MAP, "groups of parameters");
// clang-format on

static void maps_read_back_to_what_is_printed(void **state) {
    (void)state;
    static const struct {
        const char *text, *written;
    } cases[] = {
        {"[]", "[]"},
        {"[ ]", "[]"},
        {"[{match: head}]",
         "[{match: \"head\", decay: 0.1, count: 2, scope: shard, frozen: false}]"},
        {"[{frozen: true, scope: sequence, count: 9, decay: 1e-4, match: \"*.router\"}, "
         "{'match': 'layers.?.moe'}]",
         "[{match: \"*.router\", decay: 0.0001, count: 9, scope: sequence, frozen: true}, "
         "{match: \"layers.?.moe\", decay: 0.1, count: 2, scope: shard, frozen: false}]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        GroupList read, again;
        char text[1024] = "";
        Error err = {0};
        memset(&read, 0x5A, sizeof read); // what is not used becomes zero: bytes are compared
        memset(&again, 0xA5, sizeof again);
        if (!config_value_parse(&KEY, cases[i].text, "/", &read, &err)) fail_msg("%s", err.message);
        FILE *out = fmemopen(text, sizeof text, "w");
        config_value_print(out, &KEY, &read);
        fclose(out);
        assert_string_equal(text, cases[i].written);
        if (!config_value_parse(&KEY, text, "/", &again, &err)) fail_msg("%s", err.message);
        assert_memory_equal(&again, &read, sizeof read);
    }
}

static void what_is_wrong_in_a_map_is_named(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"[{match: a, dekay: 0}]",
         "map 1 of train.groups: unknown field 'dekay'; did you mean 'decay'?"},
        {"[{match:a}]", "map 1 of train.groups: unknown field 'match:a'; write a space after the "
                        "colon"},
        {"[{match: a, colour: 0}]", "map 1 of train.groups: unknown field 'colour'; `moetrain help "
                                    "train.groups` lists all fields"},
        {"[{match: a}, {decay: 0}]",
         "map 2 of train.groups: the field 'match' is missing: names of parameters"},
        {"[{match: a, decay: 2}]",
         "map 1 of train.groups: decay is '2', but must be a number from 0 to 1"},
        {"[{match: a, decay: 0, decay: 0}]",
         "map 1 of train.groups: 'decay' is given twice; keep one"},
        {"[{match: a, scope: shards}]", "map 1 of train.groups: scope is 'shards', but must be "
                                        "shard or sequence; did you mean 'shard'?"},
        {"[{match: a}, {match: a}, {match: a}, {match: a}]",
         "train.groups has 4 maps, but at most 3 are possible"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        GroupList field;
        Error err = {0};
        assert_false(config_value_parse(&KEY, cases[i].text, "/", &field, &err));
        assert_string_equal(err.message, cases[i].message);
        assert_int_equal(err.exit_code, EXIT_CONFIG);
    }
}

static void what_is_no_list_of_maps_is_refused(void **state) {
    (void)state;
    static const char *const texts[] = {"",
                                        "x",
                                        "[x]",
                                        "{match: a}",
                                        "[{match: a}",
                                        "[{match: a}, b]",
                                        "[a, {match: a}]",
                                        "[[{match: a}]]",
                                        "[{match: [a]}]",
                                        "[{match: {a: b}}]",
                                        "[{match: A}]",
                                        "[{match: \"\"}]",
                                        "[{match: *a}]",
                                        "[{match: &a b}]",
                                        "[]\nother: []",
                                        "[] # []",
                                        "[{[a]: b}]",
                                        NULL};
    for (int i = 0; texts[i]; i++) {
        GroupList field;
        Error err = {0};
        memset(&field, 0x5A, sizeof field);
        if (config_value_parse(&KEY, texts[i], "/", &field, &err)) fail_msg("takes %s", texts[i]);
        assert_non_null(strstr(err.message, "train.groups"));
        assert_null(strchr(err.message, '\n'));
        for (size_t byte = 0; byte < sizeof field; byte++) // set only on success
            assert_int_equal(((unsigned char *)&field)[byte], 0x5A);
    }
}

// ---- in a file ----------------------------------------------------------------------------------

static bool visit(void *context, const char *name, const YamlValue *value, YamlPlace *place,
                  Error *err) {
    assert_string_equal(name, "train.groups");
    return config_maps_parse(&KEY, value, "/", context, place, err);
}

static void a_file_tells_the_line_of_the_field(void **state) {
    (void)state;
    static const struct {
        const char *text, *place;
    } cases[] = {
        {"train:\n  groups:\n  - match: a\n    decay: 3\n", "f:4:12: map 1"},
        {"train:\n  groups:\n  - match: a\n  - decay: 1\n", "f:4:5: map 2"},
        {"train.groups:\n- match: a\n  match: b\n", "f:3:10: map 1"},
        {"train.groups: a\n", "f:1:1: train.groups is 'a'"},
        {"train.groups: [a]\n", "f:1:15: train.groups is 'a'"},
        {"train.groups: [{match: a}, b]\n", "f:1:15: an item of the list train.groups is no map"},
        {"train.groups: [{match: [a]}]\n", "f:1:24: 'match' in a map of train.groups is no"},
    };
    GroupList field;
    Error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_false(yaml_read("f", cases[i].text, strlen(cases[i].text), visit, &field, &err));
        if (strncmp(err.message, cases[i].place, strlen(cases[i].place)) != 0)
            fail_msg("'%s' should begin with '%s'", err.message, cases[i].place);
    }
    static const char block[] = "train.groups:\n- match: a\n  count: 3\n- {match: b}\n";
    assert_true(yaml_read("f", block, strlen(block), visit, &field, &err));
    assert_int_equal(field.count, 2);
    assert_int_equal(field.maps[0].count, 3);
    assert_string_equal(field.maps[1].match, "b");
}

// A list whose maps may be written as one value: the path of the only one.
typedef struct Source {
    char path[CONFIG_PATH_BYTES], name[CONFIG_LABEL_BYTES];
    double weight;
} Source;
typedef struct SourceList {
    int64_t count;
    Source maps[3];
} SourceList;
typedef struct Sources {
    SourceList list;
} Sources;

// clang-format off
#undef SECTION_STRUCT
#define SECTION_STRUCT Source
static const Option SOURCE_FIELDS[] = {
    NUMBER("weight", NONE, weight, DEFAULT("1"), RANGE(0, 9), "a share of all"),
    PATH("path", NONE, path, REQUIRED, "a file of text"),
    LABEL("name", NONE, name, DEFAULT(""), "what it is called"),
};
static const OptionMap SOURCE_MAP = MAP_FIELDS_OR(SOURCE_FIELDS, SourceList, "path");
#undef SECTION_STRUCT
#define SECTION_STRUCT Sources
static const Option REQUIRED_KEY = MAPS("data.train", COURSE, list, REQUIRED, SOURCE_MAP, "sources of text");
static const Option EMPTY_KEY = MAPS("data.validation", FREE, list, DEFAULT(""), SOURCE_MAP, "sources of text");
// clang-format on

static void a_list_may_be_written_as_the_value_of_its_only_map(void **state) {
    (void)state;
    static const struct {
        const char *text, *written;
        int count;
    } cases[] = {
        {"a b.txt", "\"/base/a b.txt\"", 1},
        {"[{path: a.txt}]", "\"/base/a.txt\"", 1},
        {"[{path: a.txt, weight: 2}]", "[{weight: 2, path: \"/base/a.txt\", name: \"\"}]", 1},
        {"[{path: /a, name: x}, {path: ../b, name: 'a \"b'}]",
         "[{weight: 1, path: \"/a\", name: x}, {weight: 1, path: \"/b\", name: \"a \\\"b\"}]", 2},
        {"", "\"\"", 0},
        {"[]", "\"\"", 0},
    };
    static SourceList read, again;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024] = "";
        Error err = {0};
        memset(&read, 0x5A, sizeof read);
        if (!config_value_parse(&EMPTY_KEY, cases[i].text, "/base", &read, &err))
            fail_msg("%s", err.message);
        assert_int_equal(read.count, cases[i].count);
        FILE *out = fmemopen(text, sizeof text, "w");
        config_value_print(out, &EMPTY_KEY, &read);
        fclose(out);
        assert_string_equal(text, cases[i].written);
        if (text[0] == '"') continue; // quotes are of YAML, and no list stands in them
        memset(&again, 0xA5, sizeof again);
        assert_true(config_value_parse(&EMPTY_KEY, text, "/", &again, &err));
        assert_memory_equal(&again, &read, sizeof read);
    }
    Error err = {0};
    assert_false(config_value_parse(&REQUIRED_KEY, "", "/", &read, &err));
    assert_non_null(strstr(err.message, "data.train is '', but must be a path"));
    assert_false(config_value_parse(&EMPTY_KEY, "[{weight: 1}]", "/", &read, &err));
    assert_non_null(strstr(err.message, "the field 'path' is missing"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_read_back_to_what_is_printed),
        cmocka_unit_test(what_is_wrong_in_a_map_is_named),
        cmocka_unit_test(what_is_no_list_of_maps_is_refused),
        cmocka_unit_test(a_file_tells_the_line_of_the_field),
        cmocka_unit_test(a_list_may_be_written_as_the_value_of_its_only_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
