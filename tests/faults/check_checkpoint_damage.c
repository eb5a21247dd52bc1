// Damage to a checkpoint on the disk: bits flipped (FAULTS_ALL=1: one of every byte), files cut
// off, lengthened, with pages zeroed or exchanged. All of it is found before anything is used; what
// loads is what was saved; and without comparing hashes it would not be found. On one rank, without
// arguments.
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint/hash.h"
#include "comm/comm.h"
#include "tests/faults/inject/wrap.h"
#include "tests/parallel/checkpoint_sample.h"

enum { STEP = 5 };

static char run_dir[] = "/tmp/check_damage.XXXXXX";
static char path[CHECKPOINT_PATH_BYTES];
static uint8_t *original; // (file_bytes)
static int64_t file_bytes;
static int file; // open for changes

static bool hashes_are_compared = true;

WRAP(bool, hash_equal, Hash a, Hash b) {
    return !hashes_are_compared || __real_hash_equal(a, b);
}

static bool verifies(void) {
    Error err = {0};
    bool ok = checkpoint_verify(path, &err);
    assert_true(ok == (err.exit_code == 0));
    if (!ok) assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
    return ok;
}

// A load either fails or brings back exactly what was saved.
static void assert_no_load_is_wrong(void) {
    Sample sample;
    Error err = {0};
    sample_init(&sample, 0, 0, 1, false);
    sample_clear(&sample);
    if (checkpoint_load(path, &sample.checkpoint, &err))
        assert_true(sample_equals(&sample, STEP, 0));
    sample_free(&sample);
}

static void overwrite(int64_t offset, const void *bytes, size_t count) {
    assert_int_equal(pwrite(file, bytes, count, offset), count);
}

static void restore(void) {
    assert_int_equal(ftruncate(file, file_bytes), 0);
    overwrite(0, original, (size_t)file_bytes);
}

static void every_changed_byte_is_found(void **state) {
    (void)state;
    assert_true(verifies());                              // the file is good to begin with
    const int64_t stride = getenv("FAULTS_ALL") ? 1 : 11; // more than 4000 of 46,000
    print_message("%lld faults\n", (long long)(file_bytes / stride));
    for (int64_t offset = 0; offset < file_bytes; offset += stride) {
        uint8_t changed = original[offset] ^ (uint8_t)(1 << (offset * 5 + offset / 8) % 8);
        overwrite(offset, &changed, 1);
        if (verifies()) fail_msg("a changed bit at offset %lld was not found", (long long)offset);
        if (offset % 16 == 0) assert_no_load_is_wrong();
        overwrite(offset, &original[offset], 1);
    }
    assert_true(verifies());
}

// The test is tested: a program that reads hashes and does not compare them.
static void without_hashes_most_changes_would_pass(void **state) {
    (void)state;
    int passed = 0, flips = 0;
    hashes_are_compared = false;
    for (int64_t offset = 600; offset < file_bytes; offset += file_bytes / 200, flips++) {
        uint8_t changed = original[offset] ^ 1;
        overwrite(offset, &changed, 1);
        Error err = {0};
        passed += checkpoint_verify(path, &err);
        overwrite(offset, &original[offset], 1);
    }
    hashes_are_compared = true;
    print_message("%d faults\n", flips);
    assert_true(passed > flips / 2);
}

static void every_other_length_is_found(void **state) {
    (void)state;
    print_message("%d faults\n", 210);
    for (int64_t i = 0; i < 200; i++) {
        assert_int_equal(ftruncate(file, file_bytes * i / 200), 0);
        assert_false(verifies());
        restore();
    }
    for (int64_t more = 1; more < 10000; more *= 7) {
        assert_int_equal(ftruncate(file, file_bytes - (more < 600 ? more : 600)), 0);
        assert_false(verifies());
        restore();
        assert_int_equal(ftruncate(file, file_bytes + more), 0);
        assert_false(verifies());
        restore();
    }
    assert_true(verifies());
}

// A write that was lost: a sector reads as zeros, or as its neighbour.
static void every_lost_sector_is_found(void **state) {
    (void)state;
    enum { SECTOR = 512 };
    static const uint8_t zeros[SECTOR];
    for (int64_t offset = 0; offset + SECTOR < file_bytes; offset += SECTOR) {
        const uint8_t *here = original + offset, *next = original + offset + SECTOR;
        if (memcmp(here, zeros, SECTOR) != 0) {
            overwrite(offset, zeros, SECTOR);
            assert_false(verifies());
        }
        size_t bytes = (size_t)(file_bytes - offset) < 2 * SECTOR
                           ? (size_t)(file_bytes - offset) - SECTOR
                           : SECTOR;
        if (memcmp(here, next, bytes) != 0) {
            overwrite(offset, here, SECTOR);
            overwrite(offset, next, bytes);
            assert_false(verifies());
        }
        overwrite(offset, here, SECTOR);
    }
    assert_true(verifies());
}

static void equal_blocks_cannot_change_places(void **state) {
    (void)state;
    // Rows of an expert tensor are blocks of one size, each intact for itself.
    Sample sample;
    sample_init(&sample, STEP, 0, 1, false);
    size_t row = sample_bytes(&sample.tensors[1]) / SAMPLE_EXPERTS;
    const uint8_t *first = memmem(original, (size_t)file_bytes, sample.tensors[1].data, row);
    assert_non_null(first);
    overwrite(first - original, first + row, row);
    overwrite(first - original + (int64_t)row, first, row);
    assert_false(verifies());
    restore();
    sample_free(&sample);
}

// Readers that do not look at the whole file still trust no part of the table of contents.
static void a_damaged_manifest_is_found_by_every_reader(void **state) {
    (void)state;
    static const char first_name[] = "about/created_utc"; // of the table, in name order
    const uint8_t *records = memmem(original, (size_t)file_bytes, first_name, sizeof first_name);
    assert_non_null(records);
    for (int64_t offset = records - original; offset < records - original + 4096; offset += 8) {
        uint8_t changed = original[offset] ^ 1;
        char *config = NULL;
        Error err = {0};
        overwrite(offset, &changed, 1);
        assert_false(checkpoint_read_config(path, &config, &err));
        assert_non_null(strstr(err.message, "the manifest is damaged"));
        overwrite(offset, &original[offset], 1);
    }
    char *config = NULL;
    Error err = {0};
    assert_true(checkpoint_read_config(path, &config, &err));
    free(config);
}

static int save_sample(void **state) {
    (void)state;
    Sample sample;
    Error err = {0};
    struct stat info;
    if (!mkdtemp(run_dir)) return -1;
    sample_init(&sample, STEP, 0, 1, false);
    if (!checkpoint_save(run_dir, &sample.checkpoint, (CheckpointKeep){0}, &err)) return -1;
    sample_free(&sample);
    snprintf(path, sizeof path, "%s/checkpoints/step-%08d.h5", run_dir, STEP);
    file = open(path, O_RDWR);
    if (file < 0 || fstat(file, &info) != 0) return -1;
    file_bytes = info.st_size;
    original = malloc((size_t)file_bytes);
    return original && pread(file, original, (size_t)file_bytes, 0) == file_bytes ? 0 : -1;
}

static int remove_sample(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r '%s'", run_dir);
    close(file);
    free(original);
    return system(command);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_changed_byte_is_found),
        cmocka_unit_test(without_hashes_most_changes_would_pass),
        cmocka_unit_test(every_other_length_is_found),
        cmocka_unit_test(every_lost_sector_is_found),
        cmocka_unit_test(equal_blocks_cannot_change_places),
        cmocka_unit_test(a_damaged_manifest_is_found_by_every_reader),
    };
    comm_init(&argc, &argv);
    int failed = cmocka_run_group_tests(tests, save_sample, remove_sample);
    comm_finalize();
    return failed;
}
