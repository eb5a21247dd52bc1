// The place in a mix while its weights change with the steps. No file is read: which source each
// window has is all that is asked.
#include "worker/data/data_mix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BATCH = 7, STEPS = 60 };

static TrainConfig config;

static void set_weights(Rational a, Rational b, Rational c) {
    const Rational weights[] = {a, b, c};
    config = (TrainConfig){.steps = STEPS, .batch = BATCH};
    config.data.train.count = 3;
    for (int s = 0; s < 3; s++) {
        config.data.train.maps[s].weight = weights[s];
        config.data.train.maps[s].name[0] = (char)('a' + s);
    }
}

static void add_row(int64_t from, char source, Rational weight) {
    CurriculumRow *row = &config.data.curriculum.maps[config.data.curriculum.count++];
    *row = (CurriculumRow){.from = from, .source = {source}, .weight = weight};
}

static DataMix open_mix(void) {
    DataMix mix = {.count = 3, .sources = &config.data.train, .windows = {10, 20, 30}, .seed = 5};
    Error err = {0};
    if (!curriculum_make(&mix.curriculum, &config.data, &err)) fail_msg("%s", err.message);
    memcpy(mix.place.share, mix.curriculum.ranges[0].share, sizeof mix.place.share);
    mix.cursor_windows = INT64_MAX / 2;
    mix_schedule_make(&mix.schedule, mix.place.share, mix.count, mix.seed);
    return mix;
}

static void close_mix(DataMix *mix) {
    mix_schedule_free(&mix->schedule);
}

// Goes through [step, end), and compares counts with the shares of each range that begins there.
static DataCursor go(DataMix *mix, DataCursor cursor, int64_t step, int64_t end, int64_t had[3]) {
    int64_t begin[3] = {0}, windows = 0;
    const CurriculumRange *range = curriculum_at(&mix->curriculum, step);
    bool whole = false;
    for (; step < end; step++) {
        data_mix_begin_step(mix, cursor, step);
        if (mix->place.begin == cursor.index) {
            whole = true;
            range = curriculum_at(&mix->curriculum, step);
            memcpy(begin, had, sizeof begin);
            windows = 0;
        }
        for (int64_t i = 0; i < BATCH; i++) {
            int64_t number, sum = range->share[0] + range->share[1] + range->share[2];
            int s = data_mix_source(mix, cursor, i, &number);
            assert_int_equal(had[s], number); // none is left out or read again
            had[s]++;
            windows++;
            for (int k = 0; whole && k < 3; k++)
                if (llabs((had[k] - begin[k]) * sum - windows * range->share[k]) >= sum)
                    fail_msg("step %lld: %lld windows of source %d among %lld of the range",
                             (long long)step, (long long)(had[k] - begin[k]), k,
                             (long long)windows);
        }
        cursor = data_mix_advance(mix, cursor, BATCH);
    }
    return cursor;
}

static void counts_are_within_one_of_the_weights_in_every_range(void **state) {
    (void)state;
    set_weights((Rational){1, 2}, (Rational){1, 2}, (Rational){0, 1});
    config.data.train.maps[2].weight = (Rational){1, 7};
    add_row(20, 'c', (Rational){3, 1});
    add_row(0, 'c', (Rational){0, 1});
    add_row(41, 'a', (Rational){0, 1});
    DataMix mix = open_mix();
    assert_int_equal(3, mix.curriculum.count);
    int64_t had[3] = {0};
    DataCursor begin = {0, 0}, cursor = go(&mix, begin, 0, 20, had);
    assert_int_equal(0, had[2]);
    cursor = go(&mix, cursor, 20, 41, had);
    int64_t of_a = had[0];
    cursor = go(&mix, cursor, 41, STEPS, had);
    assert_int_equal(of_a, had[0]);
    // What a plan says beforehand, and what a resume says on the way, is what came.
    DataMix fresh = open_mix();
    for (int s = 0; s < 3; s++) {
        assert_true(data_mix_count(&fresh, s, &config, begin, 0) == (double)had[s]);
        assert_true(data_mix_count(&mix, s, &config, cursor, STEPS) == (double)had[s]);
    }
    close_mix(&fresh);
    close_mix(&mix);
}

static void a_saved_place_goes_on_with_the_same_windows_and_with_other_weights(void **state) {
    (void)state;
    set_weights((Rational){1, 2}, (Rational){1, 3}, (Rational){1, 6});
    add_row(11, 'b', (Rational){1, 5});
    DataMix whole = open_mix();
    int64_t had[3] = {0}, again[3] = {0};
    DataCursor cursor = go(&whole, (DataCursor){0, 0}, 0, 30, had);
    MixPlace place = whole.place;
    memcpy(again, had, sizeof again);
    DataMix resumed = open_mix();
    Error err = {0};
    resumed.place = place;
    assert_true(data_mix_resume(&resumed, cursor, &err));
    go(&resumed, cursor, 30, 45, again);
    go(&whole, cursor, 30, 45, had);
    assert_memory_equal(had, again, sizeof had);
    close_mix(&resumed);
    // Other weights hold from there on, and what was read stays read.
    config.data.curriculum.count = 0;
    config.data.train.maps[0].weight = (Rational){0, 1};
    resumed = open_mix();
    resumed.place = place;
    assert_true(data_mix_resume(&resumed, cursor, &err));
    int64_t then[3] = {0};
    for (int s = 0; s < 3; s++)
        then[s] =
            place.before[s] + mix_schedule_count(&resumed.schedule, s, cursor.index - place.begin);
    int64_t of_a = then[0];
    double foretold = data_mix_count(&resumed, 1, &config, cursor, 30);
    go(&resumed, cursor, 30, STEPS, then);
    assert_int_equal(of_a, then[0]);
    assert_true(foretold == (double)then[1]);
    close_mix(&resumed);
    close_mix(&whole);
}

static void damaged_places_are_refused(void **state) {
    (void)state;
    set_weights((Rational){1, 2}, (Rational){1, 3}, (Rational){1, 6});
    const MixPlace places[] = {
        {.begin = 8, .share = {1, 1, 1}},
        {.begin = -1, .share = {1, 1, 1}},
        {.begin = 3, .share = {0, 0, 0}},
        {.begin = 3, .share = {1, -1, 1}},
        {.begin = 3, .share = {MIX_PERIOD_MAX, 1, 1}},
        {.begin = 3, .share = {INT64_MAX, 1, 1}},
        {.begin = 3, .share = {1, 1, 1}, .before = {0, 4, 0}},
    };
    DataMix mix = open_mix();
    MixPlace sound = mix.place;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        Error err = {0};
        mix.place = places[i];
        assert_false(data_mix_resume(&mix, (DataCursor){0, 7}, &err));
        assert_int_equal(EXIT_CHECKPOINT, err.exit_code);
    }
    mix.place = sound;
    Error err = {0};
    assert_true(data_mix_resume(&mix, (DataCursor){0, 7}, &err));
    assert_false(data_mix_resume(&mix, (DataCursor){1, 7}, &err));
    close_mix(&mix);
}

static void senseless_rows_are_refused(void **state) {
    (void)state;
    Curriculum curriculum;
    Error err = {0};
    set_weights((Rational){1, 2}, (Rational){1, 3}, (Rational){1, 6});
    add_row(5, 'd', (Rational){1, 1});
    assert_false(curriculum_make(&curriculum, &config.data, &err));
    assert_non_null(strstr(err.message, "no source of data.train has that name"));
    config.data.curriculum.count = 0;
    add_row(5, 'a', (Rational){1, 1});
    add_row(5, 'a', (Rational){1, 2});
    assert_false(curriculum_make(&curriculum, &config.data, &err));
    assert_non_null(strstr(err.message, "two weights for a after 5 steps"));
    config.data.curriculum.count = 0;
    for (char s = 'a'; s <= 'c'; s++) add_row(9, s, (Rational){0, 1});
    assert_false(curriculum_make(&curriculum, &config.data, &err));
    assert_non_null(strstr(err.message, "after 9 steps: no source has a weight"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_within_one_of_the_weights_in_every_range),
        cmocka_unit_test(a_saved_place_goes_on_with_the_same_windows_and_with_other_weights),
        cmocka_unit_test(damaged_places_are_refused),
        cmocka_unit_test(senseless_rows_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
