// How two configurations differ: which keys, what follows from what, what resume.allow lets pass.
#include "checkpoint/config_difference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const KeyRule RULES[] = {
    {"train.lr", KIND_COURSE, "0.001", NULL},
    {"train.batch", KIND_COURSE, "16", NULL},
    {"train.shards", KIND_STATE, NULL, "largest power of two that divides train.batch"},
    {"data.train", KIND_COURSE, NULL, NULL},
    {"heads", KIND_FUNCTION, "4", NULL},
    {"d_head", KIND_FUNCTION, NULL, "d_model / heads"},
    {"d_value", KIND_FUNCTION, NULL, "d_head"},
    {"d_value2", KIND_FUNCTION, NULL, "d_value"},
    {"new.list", KIND_FREE, "", NULL},
    {"new.path", KIND_FREE, "", NULL},
    {"new.number", KIND_FUNCTION, "7", NULL},
    {"new.derived", KIND_FUNCTION, NULL, "heads / 2"},
    {NULL, KIND_NONE, NULL, NULL},
};

static const char SAVED[] = "train.lr: 0.001\ntrain.batch: 16\ntrain.shards: 8\n"
                            "data.train: \"/a: b\"\nheads: 4\nd_head: 8\nd_value: 8\nd_value2: 8\n";

static int find(const ConfigChanges *changes, const char *key) {
    for (int i = 0; i < changes->count; i++)
        if (strcmp(changes->list[i].rule->key, key) == 0) return i;
    return -1;
}

static void equal_texts_do_not_differ(void **state) {
    (void)state;
    ConfigChanges changes;
    config_changes_find(&changes, SAVED, SAVED, RULES);
    assert_int_equal(changes.count, 0);
    config_changes_free(&changes);
}

static void both_values_are_told(void **state) {
    (void)state;
    ConfigChanges changes;
    config_changes_find(&changes, SAVED, "train.lr: 0.01\ndata.train: \"/a: c\"\nheads: 4\n",
                        RULES);
    assert_int_equal(changes.count, 2);
    assert_string_equal(changes.list[0].saved, "0.001");
    assert_string_equal(changes.list[0].current, "0.01");
    assert_string_equal(changes.list[1].saved, "\"/a: b\"");
    assert_string_equal(changes.list[1].current, "\"/a: c\"");
    config_changes_free(&changes);
}

static void what_follows_from_a_change_is_known(void **state) {
    (void)state;
    ConfigChanges changes;
    config_changes_find(&changes, SAVED, "heads: 2\nd_head: 16\nd_value: 16\nd_value2: 16\n",
                        RULES);
    assert_int_equal(changes.count, 4);
    int heads = find(&changes, "heads"), d_head = find(&changes, "d_head");
    int d_value = find(&changes, "d_value"), d_value2 = find(&changes, "d_value2");
    assert_int_equal(changes.list[heads].cause, -1);
    assert_int_equal(changes.list[d_head].cause, heads);
    assert_int_equal(changes.list[d_value].cause, d_head);
    assert_int_equal(changes.list[d_value2].cause, d_value); // not d_head, nor itself
    assert_true(config_change_allowed(&changes, d_value2, "heads"));
    assert_true(config_change_allowed(&changes, d_value2, "x,d_value"));
    assert_false(config_change_allowed(&changes, heads, "d_head,d_value"));
    assert_false(config_change_allowed(&changes, d_value, "d_value2"));
    assert_false(config_change_allowed(&changes, heads, ""));
    config_changes_free(&changes);
}

// The batch may change; what is derived from it may not follow by that alone.
static void a_free_cause_allows_nothing(void **state) {
    (void)state;
    ConfigChanges changes;
    config_changes_find(&changes, SAVED, "train.batch: 4\ntrain.shards: 4\n", RULES);
    int shards = find(&changes, "train.shards");
    assert_int_equal(changes.list[shards].cause, find(&changes, "train.batch"));
    assert_false(config_change_allowed(&changes, shards, "train.batch"));
    assert_true(config_change_allowed(&changes, shards, "train.shards"));
    config_changes_free(&changes);
}

static void keys_that_the_saved_text_lacks_had_their_defaults(void **state) {
    (void)state;
    ConfigChanges changes;
    config_changes_find(&changes, SAVED,
                        "new.list: []\nnew.path: \"\"\nnew.number: 7\nnew.derived: 2\n", RULES);
    assert_int_equal(changes.count, 0);
    config_changes_free(&changes);
    config_changes_find(&changes, SAVED, "new.list: [heads]\nnew.number: 8\n", RULES);
    assert_int_equal(changes.count, 2);
    assert_string_equal(changes.list[1].saved, "7");
    config_changes_free(&changes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_texts_do_not_differ),
        cmocka_unit_test(both_values_are_told),
        cmocka_unit_test(what_follows_from_a_change_is_known),
        cmocka_unit_test(a_free_cause_allows_nothing),
        cmocka_unit_test(keys_that_the_saved_text_lacks_had_their_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
