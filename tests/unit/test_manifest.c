// The manifest alone: places and sizes of blocks, and what a parser of untrusted files must refuse.
#include "checkpoint/manifest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MIB = 1 << 20, FILE_BYTES = 1 << 26 };

static void add(Manifest *manifest, const char *name, int64_t n0, int64_t n1, bool row_blocks) {
    manifest_add(manifest, name, F32, 2, (int64_t[]){n0, n1}, row_blocks);
}

// Blocks tile the dataset without gap or overlap, and none crosses a row where rows count.
static void assert_tiled(const Dataset *dataset) {
    int64_t at = 0;
    for (int64_t i = 0; i < dataset->blocks; i++) {
        Span span = dataset_block(dataset, i);
        assert_int_equal(span.begin, at);
        assert_in_range(span.bytes, 1, BLOCK_BYTES);
        if (dataset->row_blocks)
            assert_int_equal(span.begin / dataset->row_bytes,
                             (span.begin + span.bytes - 1) / dataset->row_bytes);
        at += span.bytes;
    }
    assert_int_equal(at, dataset->bytes);
}

static void blocks_tile_every_dataset(void **state) {
    (void)state;
    Manifest manifest = {0};
    Error err = {0};
    add(&manifest, "dense/small", 3, 5, false);
    add(&manifest, "dense/exact", 4, MIB, false);
    add(&manifest, "dense/large", 7, MIB + 1, false);
    add(&manifest, "experts/small", 5, 3, true);
    add(&manifest, "experts/exact", 3, MIB, true);
    add(&manifest, "experts/large", 3, MIB + 1, true);
    add(&manifest, "empty/rows", 0, 9, true);
    add(&manifest, "empty/columns", 9, 0, true);
    assert_true(manifest_arrange(&manifest, &err));
    int64_t blocks = 0;
    for (int64_t i = 0; i < manifest.count; i++) {
        assert_tiled(&manifest.datasets[i]);
        assert_int_equal(manifest.datasets[i].first_block, blocks);
        blocks += manifest.datasets[i].blocks;
    }
    assert_int_equal(blocks, manifest.blocks);
    assert_int_equal(manifest_find(&manifest, "dense/exact")->blocks, 4);
    assert_int_equal(manifest_find(&manifest, "dense/large")->blocks, 8);
    assert_int_equal(manifest_find(&manifest, "experts/small")->blocks, 5);
    assert_int_equal(manifest_find(&manifest, "experts/large")->blocks, 6);
    assert_int_equal(manifest_find(&manifest, "empty/columns")->blocks, 0);
    assert_null(manifest_find(&manifest, "dense"));
    manifest_free(&manifest);
}

static bool name_accepted(const char *name) {
    Manifest manifest = {0};
    Error err = {0};
    add(&manifest, name, 1, 1, false);
    bool ok = manifest_arrange(&manifest, &err);
    manifest_free(&manifest);
    return ok;
}

static void names_are_plain_paths(void **state) {
    (void)state;
    assert_true(name_accepted("parameters/layers.0.moe-a_B/x"));
    assert_true(name_accepted("..a"));
    const char *refused[] = {"",   "/",      "/a",  "a/",  "a//b", ".",
                             "..", "a/../b", "a b", "a\n", "a\xff"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_false(name_accepted(refused[i]));
}

static void a_name_occurs_once(void **state) {
    (void)state;
    Manifest manifest = {0};
    Error err = {0};
    add(&manifest, "b", 1, 1, false);
    add(&manifest, "a", 1, 1, false);
    add(&manifest, "b", 2, 2, false);
    assert_false(manifest_arrange(&manifest, &err));
    assert_non_null(strstr(err.message, "b is listed twice"));
    manifest_free(&manifest);
}

// A file of two datasets that decode accepts; tests then spoil one number of it.
typedef struct Sample {
    FileHeader header;
    ManifestRecord records[2];
    Hash hashes[4];
} Sample;

static Sample sample(void) {
    Sample s = {.header = {.format_version = 1,
                           .file_bytes = FILE_BYTES,
                           .records_offset = 1024,
                           .record_count = 2,
                           .hashes_offset = 2048,
                           .block_count = 4}};
    s.records[0] = (ManifestRecord){"a", "f32", 2, {3, 5, 1}, 1, 4096};
    s.records[1] = (ManifestRecord){"b", "i64", 1, {10, 1, 1}, 0, 4096 + 60};
    for (int i = 0; i < 4; i++) memset(&s.hashes[i], i + 1, sizeof s.hashes[i]);
    header_seal(&s.header);
    return s;
}

static bool decodes(const Sample *s, Error *err) {
    Manifest manifest = {0};
    bool ok = manifest_decode(&manifest, &s->header, s->records, s->hashes, err);
    assert_true(ok == (manifest.datasets != NULL)); // set on success only
    if (!ok) assert_int_equal(err->exit_code, EXIT_CHECKPOINT);
    manifest_free(&manifest);
    return ok;
}

static void decode_gives_back_what_was_encoded(void **state) {
    (void)state;
    Sample s = sample();
    Manifest manifest = {0};
    Error err = {0};
    assert_true(header_check(&s.header, FILE_BYTES, &err));
    assert_true(manifest_decode(&manifest, &s.header, s.records, s.hashes, &err));
    assert_int_equal(manifest.count, 2);
    assert_int_equal(manifest.blocks, 4);
    assert_memory_equal(manifest.hashes, s.hashes, sizeof s.hashes);
    for (int i = 0; i < 2; i++) {
        ManifestRecord record = dataset_encode(&manifest.datasets[i]);
        assert_memory_equal(&record, &s.records[i], sizeof record);
    }
    manifest_free(&manifest);
}

// Each line spoils the sample in one way.
#define ASSERT_REFUSED(change, reason)                                                             \
    do {                                                                                           \
        Sample s = sample();                                                                       \
        Error err = {0};                                                                           \
        change;                                                                                    \
        assert_false(decodes(&s, &err));                                                           \
        assert_non_null(strstr(err.message, reason));                                              \
    } while (0)

static void decode_refuses_impossible_records(void **state) {
    (void)state;
    ASSERT_REFUSED(memset(s.records[0].name, 'x', DATASET_NAME_BYTES), "cannot be the name");
    ASSERT_REFUSED(s.records[0].name[0] = 0, "cannot be the name");
    ASSERT_REFUSED(s.records[1].name[0] = 'a', "twice or out of order");
    ASSERT_REFUSED(s.records[0].name[0] = 'c', "twice or out of order");
    ASSERT_REFUSED(s.records[0].dtype[0] = 'F', "not understood");
    ASSERT_REFUSED(s.records[0].dtype[3] = '4', "not understood");
    ASSERT_REFUSED(s.records[0].row_blocks = 2, "not understood");
    ASSERT_REFUSED(s.records[0].row_blocks = -1, "not understood");
    ASSERT_REFUSED(s.records[0].rank = 0, "axes");
    ASSERT_REFUSED(s.records[0].rank = 4, "axes");
    ASSERT_REFUSED(s.records[0].rank = (1LL << 32) + 2, "axes");
    ASSERT_REFUSED(s.records[0].shape[0] = -1, "impossible shape");
    ASSERT_REFUSED(s.records[0].shape[2] = 2, "impossible shape"); // an axis beyond its rank
    ASSERT_REFUSED((s.records[0].shape[0] = 1LL << 40, s.records[0].shape[1] = 1LL << 40),
                   "impossible shape");
    ASSERT_REFUSED(s.records[0].shape[0] = 1LL << 61, "impossible shape");
}

static void decode_refuses_impossible_places(void **state) {
    (void)state;
    ASSERT_REFUSED(s.records[0].offset = 0, "not inside");
    ASSERT_REFUSED(s.records[0].offset = HEADER_BYTES - 1, "not inside");
    ASSERT_REFUSED(s.records[0].offset = -8, "not inside");
    ASSERT_REFUSED(s.records[0].offset = INT64_MAX, "not inside");
    ASSERT_REFUSED(s.records[1].offset = FILE_BYTES - 79, "not inside");
    ASSERT_REFUSED(s.records[1].shape[0] = FILE_BYTES, "not inside");
    ASSERT_REFUSED(s.records[1].shape[0] = 0, "not inside"); // empty, yet somewhere
    ASSERT_REFUSED(s.records[1].offset = 4096 + 59, "overlap");
    ASSERT_REFUSED(s.records[1].offset = 4096, "overlap");
    ASSERT_REFUSED(s.header.block_count = 3, "3 block hashes for 4 blocks");
    Sample edge = sample();
    Error err = {0};
    edge.records[1].offset = FILE_BYTES - 80;
    assert_true(decodes(&edge, &err));
}

#define ASSERT_HEADER_REFUSED(change, reason)                                                      \
    do {                                                                                           \
        Sample s = sample();                                                                       \
        Error err = {0};                                                                           \
        change;                                                                                    \
        header_seal(&s.header);                                                                    \
        assert_false(header_check(&s.header, FILE_BYTES, &err));                                   \
        assert_int_equal(err.exit_code, EXIT_CHECKPOINT);                                          \
        assert_non_null(strstr(err.message, reason));                                              \
    } while (0)

static void a_header_points_inside_its_file(void **state) {
    (void)state;
    ASSERT_HEADER_REFUSED(s.header.format_version = 2, "format version 2");
    ASSERT_HEADER_REFUSED(s.header.file_bytes++, "bytes and should have");
    ASSERT_HEADER_REFUSED(s.header.records_offset = 0, "outside the file");
    ASSERT_HEADER_REFUSED(s.header.records_offset = -1, "outside the file");
    ASSERT_HEADER_REFUSED(s.header.records_offset = FILE_BYTES - 100, "outside the file");
    ASSERT_HEADER_REFUSED(s.header.record_count = 0, "outside the file");
    ASSERT_HEADER_REFUSED(s.header.record_count = INT64_MAX, "outside the file");
    ASSERT_HEADER_REFUSED(s.header.hashes_offset = FILE_BYTES + 1, "outside the file");
    ASSERT_HEADER_REFUSED(s.header.block_count = -1, "outside the file");
    ASSERT_HEADER_REFUSED(s.header.block_count = FILE_BYTES, "outside the file");
}

static void every_flipped_bit_of_a_header_is_found(void **state) {
    (void)state;
    for (size_t bit = 0; bit < 8 * sizeof(FileHeader); bit++) {
        Sample s = sample();
        Error err = {0};
        ((uint8_t *)&s.header)[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(header_check(&s.header, FILE_BYTES, &err));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_tile_every_dataset),
        cmocka_unit_test(names_are_plain_paths),
        cmocka_unit_test(a_name_occurs_once),
        cmocka_unit_test(decode_gives_back_what_was_encoded),
        cmocka_unit_test(decode_refuses_impossible_records),
        cmocka_unit_test(decode_refuses_impossible_places),
        cmocka_unit_test(a_header_points_inside_its_file),
        cmocka_unit_test(every_flipped_bit_of_a_header_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
