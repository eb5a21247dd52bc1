// Documents packed into windows: every pair of an input and its target in one place, each piece in
// the least room, and windows read as they were packed.
#include "worker/data/data_loader.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/rng.h"

enum { DOCUMENTS = 400, LONGEST = 90 };

static uint32_t drawn(uint64_t i, uint32_t below) {
    return rng_u32((RngStream){11, RNG_TEST, 0, 0}, i) % below;
}

// Lengths, short ones more often, some of none; up to about T where that is large.
static DocumentStarts random_documents(int64_t *tokens, int64_t T, uint64_t seed) {
    DocumentStarts documents = {0};
    int64_t room = 0;
    *tokens = 0;
    for (uint64_t i = 0; i < DOCUMENTS; i++) {
        documents_add(&documents, *tokens, &room);
        int64_t length = drawn(2 * i + seed * 4096, 1 + drawn(2 * i + 1 + seed * 4096, LONGEST));
        *tokens += T > 1000 ? length * T / 70 : length;
    }
    (*tokens)++;
    return documents;
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

// The same by looking at every window for every piece: the rooms left in the windows.
static int64_t pack_plainly(int64_t *left, int64_t T, const int64_t lengths[], int64_t count) {
    int64_t windows = 0;
    for (int64_t length = T; length > 0; length--)
        for (int64_t i = 0; i < count; i++) {
            if (lengths[i] != length) continue;
            int64_t best = -1;
            for (int64_t w = 0; w < windows; w++)
                if (left[w] >= length && (best < 0 || left[w] < left[best])) best = w;
            if (best < 0) left[best = windows++] = T;
            left[best] -= length;
        }
    return windows;
}

static void each_piece_takes_the_least_room(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 2, 7, 64, 65, 100, 4096, 5000, 20000};
    for (uint64_t seed = 0; seed < sizeof widths / sizeof *widths; seed++) {
        int64_t tokens, T = widths[seed], count = 0;
        DocumentStarts documents = random_documents(&tokens, T, seed);
        Packing packing;
        packing_make(&packing, &documents, tokens, T);
        // Each pair once, and no document's last token before another's first.
        uint8_t *seen = calloc((size_t)tokens, 1);
        int64_t *lengths = calloc((size_t)tokens, sizeof *lengths);
        int64_t *left = calloc((size_t)tokens, sizeof *left);
        int64_t *wanted = calloc((size_t)tokens, sizeof *wanted);
        assert_true(seen && lengths && left && wanted);
        for (int64_t w = 0; w < packing.windows; w++) {
            int64_t used = 0, before = T;
            for (int64_t i = packing.of_window[w]; i < packing.of_window[w + 1]; i++) {
                Piece piece = packing.pieces[i];
                assert_true(piece.length >= 1 && piece.length <= before);
                before = piece.length;
                used += lengths[count++] = piece.length;
                for (int64_t t = 0; t < piece.length; t++)
                    assert_int_equal(0, seen[piece.first + t]++);
            }
            assert_true(used >= 1 && used <= T);
            left[w] = T - used;
        }
        int64_t pairs = 0;
        for (int64_t i = 0; i < documents.count; i++) {
            int64_t end = i + 1 < documents.count ? documents.starts[i + 1] : tokens;
            for (int64_t t = documents.starts[i]; t + 1 < end; t++, pairs++)
                assert_int_equal(1, seen[t]);
            if (end > documents.starts[i]) assert_int_equal(0, seen[end - 1]);
        }
        assert_int_equal(pairs, packing.pairs);
        assert_int_equal(pack_plainly(wanted, T, lengths, count), packing.windows);
        qsort(left, (size_t)packing.windows, sizeof *left, by_size);
        qsort(wanted, (size_t)packing.windows, sizeof *wanted, by_size);
        for (int64_t w = 0; w < packing.windows; w++) assert_int_equal(wanted[w], left[w]);
        double places = (double)(packing.windows * T);
        assert_true(packing_padding(&packing) == 1 - (double)pairs / places);
        free(seen);
        free(lengths);
        free(left);
        free(wanted);
        packing_free(&packing);
        documents_free(&documents);
    }
}

// Tokens are 0, 1, 2, … but for the 9999 that ends a document.
static void windows_have_the_documents_that_were_packed(void **state) {
    (void)state;
    enum { T = 24, TOKENS = 3000, END = 9999, EPOCHS = 2 };
    uint16_t numbers[TOKENS];
    char path[64];
    snprintf(path, sizeof path, "best-fit-%d.bin", (int)getpid());
    for (int i = 0; i < TOKENS; i++) numbers[i] = (uint16_t)(drawn((uint64_t)i, 12) == 0 ? END : i);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(TOKENS, fwrite(numbers, 2, TOKENS, out));
    assert_int_equal(0, fclose(out));
    Vocabulary vocabulary = {
        .format = DATA_UINT16, .size = 10000, .content = {.recognise = true, .documents = true}};
    snprintf(vocabulary.content.document_end, sizeof vocabulary.content.document_end, "9999");
    DataFile *file = NULL;
    Error err = {0};
    assert_true(data_file_open(&file, path, PART_TRAINING, &vocabulary, 0, 1, &err));
    assert_true(data_file_pack(file, T, &err));
    int64_t windows = data_file_windows(file, T), padding = 0, other = 0;
    assert_int_equal(windows, data_file_packing(file)->windows);
    int32_t first_inputs[T];
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        int seen[TOKENS] = {0};
        for (int64_t w = 0; w < windows; w++) {
            int32_t inputs[T], targets[T], positions[T];
            assert_true(data_file_training_window(file, 5, (DataCursor){epoch, 0}, w, T, inputs,
                                                  targets, positions, &err));
            for (int t = 0; t < T; t++) {
                if (targets[t] == NO_TARGET) { // padding, to the end
                    assert_int_equal(0, inputs[t]);
                    for (int rest = t; rest < T; rest++)
                        assert_int_equal(rest - t, positions[rest]);
                    padding += T - t;
                    break;
                }
                assert_true(inputs[t] != END);
                assert_true(targets[t] == END || targets[t] == inputs[t] + 1);
                assert_int_equal(positions[t] > 0, t > 0 && targets[t - 1] == inputs[t]);
                seen[inputs[t]]++;
            }
            if (w == 0 && epoch == 0) memcpy(first_inputs, inputs, sizeof inputs);
            if (w == 0 && epoch == 1) other = memcmp(first_inputs, inputs, sizeof inputs) != 0;
        }
        for (int i = 0; i + 1 < TOKENS; i++) assert_int_equal(numbers[i] != END, seen[i]);
    }
    assert_int_equal(1, other); // another order
    double share = (double)padding / (double)(windows * T * EPOCHS);
    assert_true(fabs(share - packing_padding(data_file_packing(file))) < 1e-12);
    data_file_close(file);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_piece_takes_the_least_room),
        cmocka_unit_test(windows_have_the_documents_that_were_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
