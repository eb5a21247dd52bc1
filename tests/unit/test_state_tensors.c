// What a checkpoint says of the state and the history: numbers that cannot be are refused when it
// is read.
#include "checkpoint/state_tensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/comm.h"
#include "tests/parallel/checkpoint_sample.h"

static char run_dir[] = "/tmp/test_state_tensors.XXXXXX";

static int make_run_dir(void **state) {
    (void)state;
    return mkdtemp(run_dir) ? 0 : -1;
}

static int remove_run_dir(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r '%s'", run_dir);
    return system(command);
}

// A file whose hashes hold and whose numbers cannot be.
static void expect_refused(void (*spoil)(TrainState *state, UtilizationHistory *history),
                           const char *word) {
    Sample sample;
    CheckpointInfo info;
    Error err = {0};
    char path[CHECKPOINT_PATH_BYTES];
    snprintf(path, sizeof path, "%s/checkpoints/step-00000005.h5", run_dir);
    sample_init(&sample, 5, 0, 1, false);
    spoil(&sample.checkpoint.state, sample.checkpoint.utilization);
    if (!checkpoint_save(run_dir, &sample.checkpoint, (CheckpointKeep){0}, &err))
        fail_msg("%s", err.message);
    assert_true(checkpoint_verify(path, &err));
    assert_false(checkpoint_load(path, &sample.checkpoint, &err));
    assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
    assert_non_null(strstr(err.message, word));
    assert_false(checkpoint_read_info(path, &info, &err));
    assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
    sample_free(&sample);
}

static void negative_cursor(TrainState *state, UtilizationHistory *history) {
    (void)history;
    state->data_index = -1;
}
static void absurd_step_count(TrainState *state, UtilizationHistory *history) {
    (void)history;
    state->adam_steps = INT64_MAX;
}
static void negative_load(TrainState *state, UtilizationHistory *history) {
    (void)state;
    ((int64_t *)utilization_find(history, "routed")->rows)[1] = -5;
}
static void negative_open_load(TrainState *state, UtilizationHistory *history) {
    (void)state;
    ((int64_t *)utilization_find(history, "dropped")->open)[0] = -5;
}
static void row_of_no_steps(TrainState *state, UtilizationHistory *history) {
    (void)state;
    history->steps[0] = 0;
}

static void layer_of_too_many(TrainState *state, UtilizationHistory *history) {
    (void)state;
    utilization_find(history, "routed")->of[1].values = SAMPLE_EXPERTS + 1;
}

static void numbers_that_cannot_be_are_refused(void **state) {
    (void)state;
    expect_refused(negative_cursor, "state/data_index holds -1");
    expect_refused(absurd_step_count, "state/adam_steps holds 9223372036854775807");
    expect_refused(negative_load, "utilization/routed holds -5");
    expect_refused(negative_open_load, "utilization/open/dropped holds -5");
    expect_refused(layer_of_too_many, "utilization/layers/routed gives a layer 9 of 8 values");
    expect_refused(row_of_no_steps, "utilization/steps holds 0");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_that_cannot_be_are_refused),
    };
    comm_init(&argc, &argv);
    int failed = cmocka_run_group_tests(tests, make_run_dir, remove_run_dir);
    comm_finalize();
    return failed;
}
