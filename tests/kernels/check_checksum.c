// Checksums of runs of rows, against plain loops; and that no change of one or two words is missed.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/harness.h"

typedef struct Case {
    Tensor sums, x;
    CheckedRuns runs;
} Case;

static void run(Device *dev, void *context) {
    Case *c = context;
    checksums(dev, c->sums, c->x, c->runs);
}

// The definition, byte by byte.
static void add_reference(int64_t sums[2], const unsigned char *bytes, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint64_t part = (uint64_t)bytes[i] << 8 * (i % 4);
        sums[0] = (int64_t)((uint64_t)sums[0] + part);
        sums[1] = (int64_t)((uint64_t)sums[1] + part * (uint64_t)(i / 4));
    }
}

static Tensor random_rows(DType dtype, int64_t rows, int64_t width) {
    Tensor x = new_2d(dtype, rows, width);
    for (size_t i = 0; i < tensor_bytes(x); i++)
        ((unsigned char *)x.data)[i] = (unsigned char)random_below(256);
    return x;
}

// Runs that overlap nowhere and are in no order, one of them empty; or one after the other.
static void check(DType dtype, int64_t rows, int64_t width, int64_t count, int64_t except,
                  bool in_order) {
    int64_t first[80], lengths[80], at = 0, want[160];
    Tensor x = random_rows(dtype, rows, width);
    for (int64_t s = 0; s < count; s++) {
        lengths[s] = s == 1 ? 0 : rows / count;
        first[s] = in_order ? at : (count - 1 - s) * (rows / count);
        at += lengths[s];
    }
    Case c = {
        new_2d(I64, count, 2),
        x,
        {.count = count, .first = in_order ? NULL : first, .rows = lengths, .except = except}};
    for (int64_t i = 0; i < 2 * count; i++) want[i] = i % 2 ? -i : INT64_MAX - i;
    Tensor before = copy_of(tensor_2d(want, I64, count, 2));
    size_t row = tensor_bytes(x) / (size_t)(rows > 0 ? rows : 1);
    for (int64_t s = 0; s < count; s++)
        if (s != except)
            add_reference(want + 2 * s, (unsigned char *)x.data + (size_t)first[s] * row,
                          lengths[s] * (int64_t)row);
    for (int d = 0; d < device_count(); d++) {
        Device *dev = device_at(d);
        begin_case("checksums on %s of %lld x %lld %s, %lld runs%s", dev->name, (long long)rows,
                   (long long)width, dtype_name(dtype), (long long)count,
                   in_order ? " in order" : "");
        memcpy(c.sums.data, before.data, tensor_bytes(before));
        run_on(dev, run, &c, TENSORS(&c.sums, &c.x));
        expect_same_bytes("sums", c.sums, want);
    }
    release_all();
}

// As those of what gather_rows makes, whose runs may begin between words of bf16.
static void check_gathered(DType dtype, int64_t rows, int64_t width, int64_t gathered) {
    enum { RUNS = 3 };
    Tensor x = random_rows(dtype, rows, width), index = new_1d(I32, gathered);
    size_t row = tensor_bytes(x) / (size_t)rows;
    unsigned char *out = calloc((size_t)gathered, row);
    for (int64_t r = 0; r < gathered; r++) {
        int32_t from = tensor_i32(index)[r] = (int32_t)random_below(rows + 1) - 1;
        if (from >= 0) memcpy(out + (size_t)r * row, (char *)x.data + (size_t)from * row, row);
    }
    int64_t lengths[RUNS] = {1, 0, gathered - 1}, want[2 * RUNS] = {0}, first = 0;
    for (int s = 0; s < RUNS; first += lengths[s++])
        add_reference(want + 2 * s, out + (size_t)first * row, lengths[s] * (int64_t)row);
    Case c = {
        new_2d(I64, RUNS, 2), x, {.count = RUNS, .rows = lengths, .except = -1, .index = index}};
    for (int d = 0; d < device_count(); d++) {
        Device *dev = device_at(d);
        begin_case("checksums on %s of %lld of %lld x %lld %s", dev->name, (long long)gathered,
                   (long long)rows, (long long)width, dtype_name(dtype));
        memset(c.sums.data, 0, tensor_bytes(c.sums));
        run_on(dev, run, &c, TENSORS(&c.sums, &c.x, &c.runs.index));
        expect_same_bytes("sums", c.sums, want);
    }
    free(out);
    release_all();
}

// Every flip of one bit, and every exchange of two words, in the tensor's first and last words.
static void check_what_is_found(void) {
    enum { WORDS = 5000 };
    Device *dev = device_at(0);
    begin_case("a change is found");
    Case c = {new_2d(I64, 1, 2),
              random_rows(F32, WORDS, 1),
              {.count = 1, .rows = (int64_t[]){WORDS}, .except = -1}};
    uint32_t *words = c.x.data;
    int64_t good[2] = {0};
    add_reference(good, c.x.data, 4 * WORDS);
    for (int i = 0; i < 64; i++) {
        uint32_t *word = i % 2 ? &words[i / 2] : &words[WORDS - 1 - i / 2];
        for (int bit = 0; bit < 32; bit++) {
            memset(c.sums.data, 0, tensor_bytes(c.sums));
            *word ^= (uint32_t)1 << bit;
            run(dev, &c);
            *word ^= (uint32_t)1 << bit;
            expect(tensor_i64(c.sums)[0] != good[0], "bit %d of word %d", bit, i);
        }
        uint32_t *other = &words[WORDS / 2 + i], kept = *word;
        if (*other == kept) continue;
        memset(c.sums.data, 0, tensor_bytes(c.sums));
        *word = *other, *other = kept;
        run(dev, &c);
        *other = *word, *word = kept;
        expect(tensor_i64(c.sums)[0] == good[0] && tensor_i64(c.sums)[1] != good[1],
               "word %d exchanged", i);
    }
    release_all();
}

static void bench(void) {
    enum { WIDTH = 512 };
    for (int64_t rows = 64; rows <= 1 << 16; rows *= 32) {
        Case c = {new_2d(I64, 1, 2),
                  random_rows(F32, rows, WIDTH),
                  {.count = 1, .rows = &rows, .except = -1}};
        double seconds = time_call(run, device_at(0), &c);
        printf("checksums of %lld x %d f32 (%.2f MiB): %.2f GB/s\n", (long long)rows, WIDTH,
               (double)tensor_bytes(c.x) / 1048576, (double)tensor_bytes(c.x) / seconds / 1e9);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench();
        return 0;
    }
    static const DType types[] = {F32, BF16, U8};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int64_t width = 1; width <= 9; width += 4)
            for (int i = 0; i < 2; i++) {
                check(types[t], 40, width, 4, i ? 2 : -1, i);
                check(types[t], 9000, width, 3, -1, i);
                check(types[t], 160, width, 80, 7, i);
                check_gathered(types[t], 40, i ? 9000 : width, i ? 70 : 3000);
            }
    check(F32, 0, 4, 2, -1, true);
    check_what_is_found();
    return failures();
}
