// Checkpoints on one rank: what is saved comes back, the right file is found, and a mismatch is
// explained.
//
// Long because it is a list of cases.
#include "checkpoint/checkpoint.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint/checkpoint_list.h"
#include "comm/comm.h"
#include "tests/parallel/checkpoint_sample.h"

// Each test has an empty run directory.
static char run_dir[] = "/tmp/test_checkpoint.XXXXXX";

static int make_run_dir(void **state) {
    (void)state;
    memcpy(strchr(run_dir, '.'), ".XXXXXX", 8);
    return mkdtemp(run_dir) ? 0 : -1;
}

static int remove_run_dir(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r '%s'", run_dir);
    return system(command);
}

// RUN/checkpoints/NAME, until the next call.
static const char *path_of(const char *name) {
    static char path[CHECKPOINT_PATH_BYTES];
    snprintf(path, sizeof path, "%s/checkpoints/%s", run_dir, name);
    return path;
}

static const char *file_of(int64_t step) {
    char name[64];
    snprintf(name, sizeof name, "step-%08lld.h5", (long long)step);
    return path_of(name);
}

static bool exists(const char *path) {
    return access(path, F_OK) == 0;
}

static void create_file(const char *name) {
    int fd = open(path_of(name), O_CREAT | O_WRONLY, 0666);
    assert_true(fd >= 0);
    close(fd);
}

static void save(int64_t step, int keep_last) {
    Sample sample;
    Error err = {0};
    sample_init(&sample, step, 0, 1, false);
    if (!checkpoint_save(run_dir, &sample.checkpoint, (CheckpointKeep){.last = keep_last}, &err))
        fail_msg("%s", err.message);
    sample_free(&sample);
}

static bool loads_as(const char *path, int64_t step) {
    Sample sample;
    Error err = {0};
    sample_init(&sample, 0, 0, 1, false);
    sample_clear(&sample);
    bool ok = checkpoint_load(path, &sample.checkpoint, &err) && sample_equals(&sample, step, 0);
    sample_free(&sample);
    return ok;
}

// The step of the checkpoint found; -1 for none.
static int64_t newest(void) {
    char path[CHECKPOINT_PATH_BYTES];
    Error err = {0};
    if (!checkpoint_find_latest(run_dir, INT64_MAX, VERIFY_ALL, path, &err))
        fail_msg("%s", err.message);
    return path[0] ? strtoll(strstr(path, "step-") + 5, NULL, 10) : -1;
}

static void what_is_saved_comes_back(void **state) {
    (void)state;
    save(7, 0);
    assert_int_equal(newest(), 7);
    assert_true(loads_as(file_of(7), 7));
    assert_false(loads_as(file_of(7), 8)); // the comparison can fail
}

static void a_new_directory_has_no_checkpoint(void **state) {
    (void)state;
    assert_int_equal(newest(), -1);
    assert_int_equal(mkdir(path_of(""), 0777), 0);
    assert_int_equal(newest(), -1);
}

static void only_files_with_our_names_count(void **state) {
    (void)state;
    save(5, 0);
    static const char *const names[] = {"step-6.h5",          "step-00000007.h5.bak",
                                        "step-00000008",      "step--0000009.h5",
                                        "step-+0000009.h5",   "latest.h5",
                                        "step-0000000010.h5", "step-00000011.h5.tmp"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) create_file(names[i]);
    assert_int_equal(newest(), 5);
}

static void the_newest_are_kept_and_later_steps_left_alone(void **state) {
    (void)state;
    for (int64_t step = 10; step <= 50; step += 10) save(step, 0);
    save(35, 2); // after a resume from an older checkpoint
    assert_false(exists(file_of(10)));
    assert_false(exists(file_of(20)));
    assert_true(exists(file_of(30)));
    assert_true(exists(file_of(35)));
    assert_true(exists(file_of(40)));
    assert_true(exists(file_of(50)));
    save(100000000, 1); // nine digits sort as numbers
    assert_false(exists(file_of(50)));
    assert_int_equal(newest(), 100000000);
}

static void save_run(int64_t step, int keep_last, RunIdentity run) {
    Sample sample;
    Error err = {0};
    sample_init(&sample, step, 0, 1, false);
    sample.checkpoint.state.run = run;
    if (!checkpoint_save(run_dir, &sample.checkpoint, (CheckpointKeep){.last = keep_last}, &err))
        fail_msg("%s", err.message);
    sample_free(&sample);
}

static void the_newest_healthy_one_is_never_pruned(void **state) {
    (void)state;
    const RunIdentity healthy = {.parent_step = -1, .healthy = 1}, sick = {.parent_step = -1};
    save_run(1, 1, healthy);
    save_run(2, 1, healthy);
    assert_false(exists(file_of(1)));
    for (int64_t step = 3; step < 9; step++) {
        save_run(step, 1, sick);
        assert_true(exists(file_of(2)));
        assert_true(exists(file_of(step)));
        assert_false(exists(file_of(step - 1)) && step > 3);
    }
    save_run(9, 1, healthy);
    assert_false(exists(file_of(2)) || exists(file_of(8)));
    assert_true(exists(file_of(9)));

    // What cannot be read may be the good one: it and what is older stays until a healthy one is
    // found.
    save_run(10, 2, sick);
    assert_int_equal(unlink(file_of(9)), 0);
    assert_int_equal(symlink("step-00000009.h5", file_of(9)), 0);
    save_run(11, 1, sick);
    struct stat info;
    assert_int_equal(lstat(file_of(9), &info), 0);
    assert_false(exists(file_of(10)));
}

static void multiples_of_keep_every_stay(void **state) {
    (void)state;
    Error err = {0};
    for (int64_t step = 5; step <= 40; step += 5) {
        Sample sample;
        sample_init(&sample, step, 0, 1, false);
        CheckpointKeep keep = {.last = 2, .every = 15};
        assert_true(checkpoint_save(run_dir, &sample.checkpoint, keep, &err));
        sample_free(&sample);
    }
    for (int64_t step = 5; step <= 40; step += 5)
        assert_int_equal(exists(file_of(step)), step % 15 == 0 || step >= 35);
    checkpoint_list_wait_freed(); // legal at any time
    checkpoint_list_wait_freed();
}

static void a_run_is_told_from_another(void **state) {
    (void)state;
    RunIdentity run = {.run = "0123456789abcdef0123456789abcdef",
                       .parent_run = "fedcba9876543210fedcba9876543210",
                       .parent_step = 3,
                       .began_from = "/runs/other/checkpoints/step-00000003.h5",
                       .healthy = 0};
    TrainState read;
    Error err = {0};
    char digest[40], other[40];
    save_run(4, 0, run);
    assert_true(checkpoint_read_state(file_of(4), &read, &err));
    assert_memory_equal(&read.run, &run, sizeof run);
    assert_true(checkpoint_digest(file_of(4), digest, &err));
    save_run(4, 0, (RunIdentity){.parent_step = -1, .healthy = 1});
    assert_true(checkpoint_digest(file_of(4), other, &err));
    assert_string_equal(digest, other); // the same bits, whatever their story

    const char *const crafted[] = {"../../0123456789abcdef0123456789", "0123"};
    for (int i = 0; i < 2; i++) {
        snprintf(run.run, sizeof run.run, "%s", crafted[i]);
        save_run(4, 0, run);
        assert_false(checkpoint_read_state(file_of(4), &read, &err));
        assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
    }
}

// A read error says nothing about the bytes: an older checkpoint in its place would undo work.
static void a_checkpoint_that_cannot_be_read_is_not_passed_over(void **state) {
    (void)state;
    // a circle; a file system that is away
    const char *const targets[] = {"step-00000006.h5", "nowhere"};
    char path[CHECKPOINT_PATH_BYTES];
    save(5, 0);
    for (int i = 0; i < 2; i++) {
        Error err = {0};
        assert_int_equal(symlink(targets[i], file_of(6)), 0);
        assert_false(checkpoint_find_latest(run_dir, INT64_MAX, VERIFY_ALL, path, &err));
        assert_int_equal(err.exit_code, EXIT_IO);
        assert_non_null(strstr(err.message, "step-00000006.h5"));
        assert_int_equal(unlink(file_of(6)), 0);
    }
    assert_int_equal(newest(), 5);
}

static void saving_a_step_again_replaces_its_file(void **state) {
    (void)state;
    save(5, 0);
    sample_flip(file_of(5), 4000);
    save(5, 0);
    assert_true(loads_as(file_of(5), 5));
}

static void leftovers_of_crashed_saves_are_removed(void **state) {
    (void)state;
    save(5, 0);
    create_file("step-00000004.h5.tmp");
    create_file("step-00000006.h5.tmp");
    create_file("notes.tmp");
    save(6, 0);
    assert_false(exists(path_of("step-00000004.h5.tmp")));
    assert_false(exists(path_of("step-00000006.h5.tmp")));
    assert_true(exists(path_of("notes.tmp"))); // not ours
}

static void a_damaged_newest_is_passed_over(void **state) {
    (void)state;
    save(5, 0);
    save(6, 0);
    create_file("step-00000007.h5"); // empty
    sample_flip(file_of(6), -100);
    assert_int_equal(newest(), 5);
}

static void only_damaged_ones_are_an_error(void **state) {
    (void)state;
    char path[CHECKPOINT_PATH_BYTES];
    Error err = {0};
    save(5, 0);
    sample_flip(file_of(5), 30);
    assert_false(checkpoint_find_latest(run_dir, INT64_MAX, VERIFY_ALL, path, &err));
    assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
    assert_string_equal(path, "");
}

static void damage_is_named_by_dataset_and_block(void **state) {
    (void)state;
    Error err = {0};
    save(5, 0);
    // The embedding begins where its first element's value stands.
    uint32_t wanted = (uint32_t)sample_bits(5, 0, 0), value = 0;
    long offset = 0;
    FILE *file = fopen(file_of(5), "rb");
    for (; value != wanted; offset++) {
        assert_int_equal(fseek(file, offset, SEEK_SET), 0);
        assert_int_equal(fread(&value, sizeof value, 1, file), 1);
    }
    fclose(file);
    sample_flip(file_of(5), offset - 1);
    assert_false(checkpoint_verify(file_of(5), &err));
    assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
    assert_non_null(strstr(err.message, "parameters/embedding is damaged in block 0 of 1"));
    assert_non_null(strstr(err.message, file_of(5)));
    assert_false(loads_as(file_of(5), 5)); // loading looks at the hashes too
}

static void a_missing_file_is_not_a_checkpoint(void **state) {
    (void)state;
    Error err = {0};
    assert_false(checkpoint_verify(file_of(1), &err));
    assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
    assert_false(checkpoint_verify(run_dir, &err)); // a directory
    assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
}

static void a_directory_that_cannot_be_made_fails_the_save(void **state) {
    (void)state;
    char below_a_file[128];
    Sample sample;
    Error err = {0};
    save(1, 0);
    sample_init(&sample, 2, 0, 1, false);
    snprintf(below_a_file, sizeof below_a_file, "%s/checkpoints/step-00000001.h5", run_dir);
    assert_false(checkpoint_save(below_a_file, &sample.checkpoint, (CheckpointKeep){0}, &err));
    assert_int_equal(err.exit_code, EXIT_IO);
    sample_free(&sample);
}

// Loads step 5 after `change` to the wanted model; the message of the refusal.
static const char *refusal(void (*change)(Sample *sample)) {
    static Error err;
    Sample sample;
    err = (Error){0};
    sample_init(&sample, 0, 0, 1, false);
    change(&sample);
    bool ok = checkpoint_load(file_of(5), &sample.checkpoint, &err);
    sample_free(&sample);
    assert_true(ok == (err.exit_code == 0));
    if (!ok) assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
    return ok ? NULL : err.message;
}

static void other_shape(Sample *sample) {
    sample->tensors[1].shape[1] = 7;
    sample->checkpoint.config_yaml = "model.layers: 2\nmoe.experts: 8\nmoe.top_k: 4\n";
}
static void other_type(Sample *sample) {
    sample->tensors[7].dtype = F32;
}
static void other_name(Sample *sample) {
    sample->tensors[0].name[0] = 'q';
}
static void fewer_parameters(Sample *sample) {
    void *data = sample->tensors[2].data;
    sample->tensors[2] = sample->tensors[1]; // experts.bias is left out, experts.up twice
    sample->tensors[2].data = data;
    sample->tensors[2].elements = 0;
}
static void other_history(Sample *sample) {
    utilization_free(&sample->utilization);
    sample->utilization = sample_empty_history(SAMPLE_EXPERTS + 1);
}
static void parameters_only(Sample *sample) {
    sample->checkpoint.tensor_count = 3;
}

static void a_mismatch_is_explained(void **state) {
    (void)state;
    save(5, 0);
    const char *message = refusal(other_shape);
    assert_non_null(strstr(message, "parameters/experts.up is f32 (8, 6, 10) in the checkpoint"));
    assert_non_null(strstr(message, "f32 (8, 7, 10) here"));
    assert_non_null(strstr(message, "moe.top_k 2 -> 4"));
    assert_null(strstr(message, "moe.experts"));
    assert_non_null(strstr(refusal(other_type), "data/code_points is i32"));
    assert_non_null(strstr(refusal(other_name), "qarameters/embedding is not in the checkpoint"));
    assert_non_null(strstr(refusal(fewer_parameters),
                           "parameters/experts.bias is in the checkpoint and not in the model"));
    assert_non_null(strstr(refusal(other_history), "2 layers of up to 8 values in the checkpoint"));
}

static void a_reader_of_parameters_needs_no_optimizer(void **state) {
    (void)state;
    save(5, 0);
    assert_null(refusal(parameters_only));
}

static void any_slice_can_be_loaded(void **state) {
    (void)state;
    save(5, 0);
    // A dense tensor in one block, and an expert tensor in a block of 60 elements for each of its
    // eight rows.
    const int chosen[] = {0, 1};
    for (int i = 0; i < 2; i++)
        for (int64_t first = 0; first <= 480; first += 37)
            for (int64_t elements = 0; elements <= 480 - first; elements += 59) {
                Sample sample;
                Error err = {0};
                sample_init(&sample, 0, 0, 1, false);
                sample_clear(&sample);
                SavedTensor *tensor = &sample.tensors[chosen[i]];
                tensor->first_element = first;
                tensor->elements = elements;
                assert_true(checkpoint_load(file_of(5), &sample.checkpoint, &err));
                assert_true(sample_visit(tensor, chosen[i], 5, false));
                const uint8_t *behind = (uint8_t *)tensor->data + sample_bytes(tensor);
                if (elements < 480) assert_int_equal(*behind, 0xee); // not written
                sample_free(&sample);
            }
}

static void info_tells_what_is_inside(void **state) {
    (void)state;
    CheckpointInfo info;
    char *config = NULL, digest[40];
    Error err = {0};
    save(5, 0);
    assert_true(checkpoint_read_info(file_of(5), &info, &err));
    assert_int_equal(info.tensor_count, SAMPLE_TENSORS);
    assert_string_equal(info.tensors[0].name, "data/code_points"); // in name order
    assert_int_equal(info.tensors[0].elements, 50);
    assert_int_equal(info.state.tokens, 5000);
    assert_string_equal(info.state.data_id, "c0ffee-5");
    assert_true(sample_utilization_equals(&info.utilization, 5));
    assert_string_equal(info.program_version, MOETRAIN_VERSION);
    assert_int_equal(strlen(info.created_utc), strlen("2026-01-31T12:00:00Z"));
    assert_true(checkpoint_read_config(file_of(5), &config, &err));
    assert_string_equal(info.config_yaml, config);
    assert_true(checkpoint_digest(file_of(5), digest, &err));
    assert_string_equal(info.digest, digest);
    free(config);
    checkpoint_free_info(&info);
}

static void the_table_is_read_without_reading_any_tensor(void **state) {
    (void)state;
    CheckpointInfo info, table;
    Error err = {0};
    save(5, 0);
    assert_true(checkpoint_read_info(file_of(5), &info, &err));
    FILE *file = fopen(file_of(5), "r+b"); // a tensor's bytes, damaged
    assert_non_null(file);
    assert_int_equal(0, fseek(file, 0, SEEK_END));
    assert_int_equal(0, fseek(file, ftell(file) / 2, SEEK_SET));
    int byte = fgetc(file);
    assert_int_equal(0, fseek(file, -1, SEEK_CUR));
    assert_int_equal(byte ^ 1, fputc(byte ^ 1, file));
    assert_int_equal(0, fclose(file));
    assert_false(checkpoint_read_info(file_of(5), &table, &err));
    assert_true(checkpoint_read_table(file_of(5), &table, &err));
    assert_int_equal(info.tensor_count, table.tensor_count);
    for (int i = 0; i < info.tensor_count; i++) {
        assert_string_equal(info.tensors[i].name, table.tensors[i].name);
        assert_memory_equal(info.tensors[i].shape, table.tensors[i].shape,
                            sizeof info.tensors[i].shape);
    }
    checkpoint_free_info(&info);
    checkpoint_free_info(&table);
}

static void save_changed(int64_t step, const char *config, int tensor, bool replicated) {
    Sample sample;
    Error err = {0};
    sample_init(&sample, 5, 0, 1, false);
    sample.checkpoint.state.step = step;
    sample.checkpoint.config_yaml = config;
    if (tensor >= 0) ((uint8_t *)sample.tensors[tensor].data)[3] ^= 1;
    if (replicated) // the same bytes in other blocks
        for (int i = 0; i < SAMPLE_TENSORS; i++) sample.tensors[i].replicated = true;
    if (!checkpoint_save(run_dir, &sample.checkpoint, (CheckpointKeep){0}, &err))
        fail_msg("%s", err.message);
    sample_free(&sample);
}

static void digest_of(int64_t step, char digest[40]) {
    Error err = {0};
    if (!checkpoint_digest(file_of(step), digest, &err)) fail_msg("%s", err.message);
}

static void the_digest_is_of_content_alone(void **state) {
    (void)state;
    char first[40], other[40];
    save_changed(5, "a: 1\n", -1, false);
    digest_of(5, first);
    assert_int_equal(strlen(first), 32);
    save_changed(5, "a: 2\nb: 3\n", -1, true);
    digest_of(5, other);
    assert_string_equal(first, other);
    for (int tensor = 0; tensor < SAMPLE_TENSORS; tensor++) {
        if (tensor == 6) continue; // the empty one
        save_changed(5, "a: 1\n", tensor, false);
        digest_of(5, other);
        assert_string_not_equal(first, other);
    }
    save_changed(6, "a: 1\n", -1, false);
    digest_of(6, other);
    assert_string_not_equal(first, other);
}

// Saves step 5 with a history of ten steps, closed into a row each `every` steps; `more` choices
// go to one expert in the last of them, `lost` are dropped there.
static void save_history(int64_t every, int64_t more, int64_t lost) {
    Sample sample;
    Error err = {0};
    sample_init(&sample, 5, 0, 1, false);
    utilization_free(&sample.utilization);
    sample.utilization = sample_empty_history(SAMPLE_EXPERTS);
    HistorySample columns = sample_columns(SAMPLE_EXPERTS);
    const int last = SAMPLE_EXPERTS - 1;
    for (int64_t step = 1; step <= 10; step++) {
        for (int cell = 0; cell < SAMPLE_LAYERS * SAMPLE_EXPERTS; cell++) {
            int64_t layer = cell / SAMPLE_EXPERTS, e = cell % SAMPLE_EXPERTS;
            step_counts(&columns, "routed", layer)[e] = step + cell;
            step_sums(&columns, "weight_mass", layer)[e] = 0.1 * (double)(step * cell);
        }
        step_counts(&columns, "routed", 1)[last] += step == 10 ? more : 0;
        step_counts(&columns, "dropped", 1)[last] = step == 10 ? lost : 0;
        *step_sums(&columns, "entropy", 0) = 0.1 * (double)step;
        *step_sums(&columns, "entropy", 1) = 0.3;
        history_sample_add(&columns, &sample.utilization);
        if (step % every == 0) utilization_close_row(&sample.utilization, step);
    }
    history_sample_free(&columns);
    if (!checkpoint_save(run_dir, &sample.checkpoint, (CheckpointKeep){0}, &err))
        fail_msg("%s", err.message);
    sample_free(&sample);
}

static void the_digest_counts_choices_not_rows(void **state) {
    (void)state;
    char first[40], other[40];
    save_history(1, 0, 0);
    digest_of(5, first);
    for (int64_t every = 2; every <= 11; every++) { // 11: all steps in the open row
        save_history(every, 0, 0);
        digest_of(5, other);
        assert_string_equal(first, other);
    }
    for (int64_t every = 1; every <= 4; every += 3) {
        save_history(every, 1, 0);
        digest_of(5, other);
        assert_string_not_equal(first, other);
        save_history(every, 0, 1);
        digest_of(5, other);
        assert_string_not_equal(first, other);
    }
}

static void a_dense_model_without_history_can_be_saved(void **state) {
    (void)state;
    Error err = {0};
    Checkpoint empty = {.state = {.step = 3}};
    Checkpoint loaded = {0};
    assert_true(checkpoint_save(run_dir, &empty, (CheckpointKeep){0}, &err));
    assert_int_equal(newest(), 3);
    assert_true(checkpoint_load(file_of(3), &loaded, &err));
    assert_int_equal(loaded.state.step, 3);
}

// A file written by the first release: whoever changes the format must still read it.
static void the_first_format_is_still_read(void **state) {
    (void)state;
    char golden[CHECKPOINT_PATH_BYTES], digest[40];
    Error err = {0};
    const char *slash = strrchr(__FILE__, '/');
    snprintf(golden, sizeof golden, "%.*scheckpoint-format-1.h5", (int)(slash + 1 - __FILE__),
             __FILE__);
    assert_true(checkpoint_verify(golden, &err));
    assert_true(loads_as(golden, 5));
    TrainState read;
    assert_true(checkpoint_read_state(golden, &read, &err));
    assert_string_equal(read.run.run, ""); // it did not know of runs
    assert_int_equal(read.run.parent_step, -1);
    assert_true(checkpoint_digest(golden, digest, &err));
    assert_string_equal(digest, "2ce1794171289e107df8d1d5745671f3");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_run_dir, remove_run_dir)

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        TEST(what_is_saved_comes_back),
        TEST(a_new_directory_has_no_checkpoint),
        TEST(only_files_with_our_names_count),
        TEST(the_newest_are_kept_and_later_steps_left_alone),
        TEST(the_newest_healthy_one_is_never_pruned),
        TEST(multiples_of_keep_every_stay),
        TEST(a_run_is_told_from_another),
        TEST(a_checkpoint_that_cannot_be_read_is_not_passed_over),
        TEST(saving_a_step_again_replaces_its_file),
        TEST(leftovers_of_crashed_saves_are_removed),
        TEST(a_damaged_newest_is_passed_over),
        TEST(only_damaged_ones_are_an_error),
        TEST(damage_is_named_by_dataset_and_block),
        TEST(a_missing_file_is_not_a_checkpoint),
        TEST(a_directory_that_cannot_be_made_fails_the_save),
        TEST(a_mismatch_is_explained),
        TEST(a_reader_of_parameters_needs_no_optimizer),
        TEST(any_slice_can_be_loaded),
        TEST(info_tells_what_is_inside),

        TEST(the_table_is_read_without_reading_any_tensor),
        TEST(the_digest_is_of_content_alone),
        TEST(the_digest_counts_choices_not_rows),
        TEST(a_dense_model_without_history_can_be_saved),
        TEST(the_first_format_is_still_read),
    };
    comm_init(&argc, &argv);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_finalize();
    return failed;
}
