// Fills, copies, conversions, sums and AdamW on every device.
//
// Long because it is a list of cases.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/bf16.h"

// Runs on the device, and on an emulated GPU once more with its threads in another order, which
// must not change a byte of the outputs.
static void run_twice(Device *dev, void (*run)(Device *dev, void *context), void *context,
                      Tensor *const *tensors, int count, Tensor *const *outputs, int output_count) {
    enum { MOST = 8 };
    Tensor before[MOST], after[MOST];
    CHECK(output_count <= MOST, "%d outputs", output_count);
    for (int i = 0; i < output_count; i++) before[i] = copy_of(*outputs[i]);
    run_on(dev, run, context, tensors, count);
    if (dev->place == ON_HOST) return;
    for (int i = 0; i < output_count; i++) {
        after[i] = copy_of(*outputs[i]);
        memcpy(outputs[i]->data, before[i].data, tensor_bytes(before[i]));
    }
    begin_other_schedule();
    run_on(dev, run, context, tensors, count);
    end_other_schedule();
    for (int i = 0; i < output_count; i++)
        expect_same_bytes("output in another order of threads", *outputs[i], after[i].data);
}

static const DType STORAGES[] = {F32, BF16};

// ---- bf16 ---------------------------------------------------------------------------------------

typedef struct Pair {
    Tensor out, x;
} Pair;

static void run_convert(Device *dev, void *context) {
    Pair *c = context;
    convert(dev, c->out, c->x);
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static bool bf16_is_nan(uint16_t bits) {
    return (bits & 0x7fff) > 0x7f80;
}

// Any NaN stands for any other.
static void expect_bf16(const char *what, uint32_t x, uint16_t got, uint16_t want) {
    expect(got == want || (bf16_is_nan(got) && bf16_is_nan(want)),
           "%s of %08x is %04x, wanted %04x", what, x, got, want);
}

// All 2^16 patterns, and every place where rounding decides: beside each pattern the nearest f32
// above it, those around the half way to the next pattern, and the last before it. Neighbouring
// patterns are neighbouring numbers, the largest finite one and infinity included, so that what is
// right follows from the lower half alone: below half way down, above it up, half way to the even
// pattern.
enum { PATTERNS = 1 << 16 };
static const uint32_t LOWER[] = {0x0000, 0x0001, 0x7fff, 0x8000, 0x8001, 0xffff};
enum { LOWERS = sizeof LOWER / sizeof *LOWER };

static uint16_t rounded_pattern(uint32_t upper, uint32_t lower) {
    bool is_special = (upper & 0x7f80) == 0x7f80; // infinity or NaN; with a lower half always NaN
    if (is_special) return (uint16_t)((upper & 0x7f) == 0 && lower == 0 ? upper : 0x7fc0);
    return (uint16_t)(upper + (lower > 0x8000 || (lower == 0x8000 && upper % 2 == 1)));
}

static void check_bf16_patterns(Device *dev) {
    begin_case("bf16 on %s", dev->name);
    Pair widen = {new_1d(F32, PATTERNS), new_1d(BF16, PATTERNS)};
    Pair round = {new_1d(BF16, PATTERNS * LOWERS), new_1d(F32, PATTERNS * LOWERS)};
    for (uint32_t p = 0; p < PATTERNS; p++) {
        tensor_bf16(widen.x)[p] = (uint16_t)p;
        for (uint32_t i = 0; i < LOWERS; i++)
            tensor_f32(round.x)[p * LOWERS + i] = float_of(p << 16 | LOWER[i]);
    }
    run_on(dev, run_convert, &widen, TENSORS(&widen.out, &widen.x));
    run_on(dev, run_convert, &round, TENSORS(&round.out, &round.x));
    for (uint32_t p = 0; p < PATTERNS; p++) {
        uint32_t wide = bits_of(tensor_f32(widen.out)[p]);
        expect(wide == p << 16 || (bf16_is_nan((uint16_t)p) && bf16_is_nan((uint16_t)(wide >> 16))),
               "%04x widens to %08x", p, wide);
        for (uint32_t i = 0; i < LOWERS; i++)
            expect_bf16("bf16", p << 16 | LOWER[i], tensor_bf16(round.out)[p * LOWERS + i],
                        rounded_pattern(p, LOWER[i]));
    }
    release_all();
}

// The same by its values, so that not only patterns are compared with patterns.
static void check_bf16_values(Device *dev) {
    static const double values[][2] = {
        {0.0, 0.0},
        {1.0 + 0x1p-8, 1.0},             // half way: even is below
        {1.0 + 0x1.8p-7, 1.0 + 0x1p-6},  // half way: even is above
        {1.0 + 0x1.02p-8, 1.0 + 0x1p-7}, // just above half way
        {-1.0 - 0x1.02p-8, -1.0 - 0x1p-7},
        {0x1.fep127, 0x1.fep127},     // the largest bf16
        {0x1.fefffep127, 0x1.fep127}, // just below half way to 2^128
        {0x1.ffp127, INFINITY},       // half way
        {-0x1.fffffep127, -INFINITY}, // the largest f32
        {INFINITY, INFINITY},
        {-INFINITY, -INFINITY},
        {0x1p-133, 0x1p-133},         // the smallest bf16
        {0x1p-134, 0.0},              // half of it
        {0x1.0002p-134, 0x1p-133},    // just above
        {0x1p-149, 0.0},              // the smallest f32
        {-0x1.fcp-127, -0x1.fcp-127}, // the largest subnormal bf16
    };
    enum { COUNT = sizeof values / sizeof *values };
    begin_case("bf16 values on %s", dev->name);
    Pair c = {new_1d(BF16, COUNT), new_1d(F32, COUNT)};
    for (int i = 0; i < COUNT; i++) tensor_f32(c.x)[i] = (float)values[i][0];
    run_on(dev, run_convert, &c, TENSORS(&c.out, &c.x));
    const float *got = tensor_f32(widened(c.out));
    for (int i = 0; i < COUNT; i++)
        expect((double)got[i] == values[i][1], "%a becomes %a, wanted %a", values[i][0],
               (double)got[i], values[i][1]);
    release_all();
}

// The header itself, which other ops round and widen with.
static void check_bf16_header(void) {
    begin_case("bf16.h");
    expect_bf16("rounding", 0x80000000, bf16_from_f32(-0.0f), 0x8000);
    for (uint32_t p = 0; p < PATTERNS; p++) {
        uint16_t pattern = (uint16_t)p, there_and_back;
        float wide;
        widen_bf16(&wide, &pattern, 1);
        expect(bits_of(wide) == p << 16, "%04x widens to %08x", p, bits_of(wide));
        expect(bits_of(f32_from_bf16(pattern)) == p << 16, "%04x widens wrong", p);
        round_to_bf16(&there_and_back, &wide, 1);
        expect_bf16("there and back", p << 16, there_and_back, pattern);
        for (uint32_t i = 0; i < LOWERS; i++)
            expect_bf16("rounding", p << 16 | LOWER[i], bf16_from_f32(float_of(p << 16 | LOWER[i])),
                        rounded_pattern(p, LOWER[i]));
    }
}

// ---- elementwise --------------------------------------------------------------------------------

// `shift` elements stand before and after those that the op is given: unaligned where it is 1, and
// none may be touched.
typedef struct Elementwise {
    Tensor out, a, b;
    int64_t n, shift;
    enum { INTO_OUT, INTO_A, INTO_B } into;
} Elementwise;

static Tensor inner(const Elementwise *c, Tensor x) {
    return tensor_range(x, c->shift, c->n);
}

static void run_add(Device *dev, void *context) {
    Elementwise *c = context;
    Tensor a = inner(c, c->a), b = inner(c, c->b);
    add(dev, c->into == INTO_A ? a : c->into == INTO_B ? b : inner(c, c->out), a, b);
}

static void run_copy(Device *dev, void *context) {
    Elementwise *c = context;
    copy(dev, inner(c, c->out), inner(c, c->a));
}

static void run_fill(Device *dev, void *context) {
    Elementwise *c = context;
    fill_zero(dev, inner(c, c->out));
}

static void run_inner_convert(Device *dev, void *context) {
    Elementwise *c = context;
    convert(dev, inner(c, c->out), inner(c, c->a));
}

// `got` holds `want` from c->shift on, and around it the bytes 0xff that new tensors have.
static void expect_inner(const char *name, const Elementwise *c, Tensor got, const void *want) {
    expect_same_bytes(name, inner(c, got), want);
    size_t edge = (size_t)c->shift * dtype_bytes(got.dtype);
    const unsigned char *front = got.data, *back = front + tensor_bytes(got) - edge;
    for (size_t i = 0; i < edge; i++)
        expect(front[i] == 0xff && back[i] == 0xff, "%s writes outside", name);
}

static void check_add(Device *dev, int64_t n, int64_t shift, DType out, DType a, DType b) {
    begin_case("add on %s: %lld elements from %lld, %s = %s + %s", dev->name, (long long)n,
               (long long)shift, dtype_name(out), dtype_name(a), dtype_name(b));
    Tensor x = random_1d(n + 2 * shift), y = random_1d(n + 2 * shift);
    Elementwise c = {new_1d(out, n + 2 * shift), stored_as(a, x), stored_as(b, y), n, shift, 0};
    // Two f32 are added with one rounding and stored with one more: nothing is left to chance.
    Tensor sum = new_1d(F32, n);
    for (int64_t i = 0; i < n; i++)
        tensor_f32(sum)[i] = tensor_f32(x)[shift + i] + tensor_f32(y)[shift + i];
    const void *want = stored_as(out, sum).data;
    run_on(dev, run_add, &c, TENSORS(&c.out, &c.a, &c.b));
    expect_inner("add", &c, c.out, want);
    if (out == a) {
        Elementwise in_place = c;
        in_place.into = INTO_A;
        in_place.a = copy_of(c.a);
        run_on(dev, run_add, &in_place, TENSORS(&in_place.a, &in_place.b));
        expect_same_bytes("add into a", inner(&c, in_place.a), want);
    }
    if (out == b) {
        c.into = INTO_B;
        run_on(dev, run_add, &c, TENSORS(&c.a, &c.b));
        expect_same_bytes("add into b", inner(&c, c.b), want);
    }
    release_all();
}

static void check_convert(Device *dev, int64_t n, int64_t shift, DType from, DType to) {
    begin_case("convert on %s: %lld elements from %lld, %s to %s", dev->name, (long long)n,
               (long long)shift, dtype_name(from), dtype_name(to));
    Tensor x = random_1d(n + 2 * shift);
    Elementwise c = {.out = new_1d(to, n + 2 * shift), .n = n, .shift = shift};
    c.a = from == F32 ? copy_of(x) : stored_as(BF16, x);
    const char *want = from == F32 ? stored_as(BF16, x).data : x.data;
    run_on(dev, run_inner_convert, &c, TENSORS(&c.out, &c.a));
    expect_inner("convert", &c, c.out, want + (size_t)shift * dtype_bytes(to));
    release_all();
}

static void check_copies(Device *dev, int64_t n, int64_t shift) {
    begin_case("copies on %s: %lld elements from %lld", dev->name, (long long)n, (long long)shift);
    Tensor x = random_1d(n + 2 * shift);
    Elementwise c = {.out = new_1d(F32, n + 2 * shift), .a = x, .n = n, .shift = shift};
    run_on(dev, run_copy, &c, TENSORS(&c.out, &c.a));
    expect_inner("copy", &c, c.out, tensor_f32(x) + shift);
    Tensor zeros = new_1d(F32, n);
    memset(zeros.data, 0, tensor_bytes(zeros));
    run_on(dev, run_fill, &c, TENSORS(&c.out));
    expect_inner("fill_zero", &c, c.out, zeros.data);
    release_all();
}

static void check_elementwise(Device *dev) {
    // A block of the GPU takes 2048 elements.
    static const int64_t sizes[] = {0, 1, 3, 17, 333, 2048, 3 * 2048 + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int64_t shift = 0; shift < 2; shift++) {
            for (int types = 0; types < 8; types++)
                check_add(dev, sizes[i], shift, STORAGES[types & 1], STORAGES[types >> 1 & 1],
                          STORAGES[types >> 2]);
            check_convert(dev, sizes[i], shift, F32, BF16);
            check_convert(dev, sizes[i], shift, BF16, F32);
            check_copies(dev, sizes[i], shift);
        }
}

// ---- sums ---------------------------------------------------------------------------------------

typedef struct SegmentSum {
    Tensor sums, x;
    int64_t column;
    double divisor;
} SegmentSum;

static void run_segment_sum(Device *dev, void *context) {
    SegmentSum *c = context;
    segment_sum(dev, c->sums, c->column, c->x, c->divisor);
}

static void check_segment_sum(Device *dev, int64_t parts, int64_t count) {
    begin_case("segment_sum on %s: %lld parts of %lld", dev->name, (long long)parts,
               (long long)count);
    enum { COLUMNS = 3, COLUMN = 1 };
    const double divisor = 3.0;
    SegmentSum c = {new_2d(F64, parts, COLUMNS), random_1d(parts * count), COLUMN, divisor};
    double *sums = tensor_f64(c.sums), *want = new_doubles(parts * COLUMNS);
    for (int64_t i = 0; i < parts * COLUMNS; i++) want[i] = sums[i] = (double)i + 0.5;
    for (int64_t p = 0; p < parts; p++) {
        double sum = 0;
        for (int64_t i = 0; i < count; i++) sum += (double)tensor_f32(c.x)[p * count + i];
        want[p * COLUMNS + COLUMN] += sum / divisor;
    }
    run_twice(dev, run_segment_sum, &c, TENSORS(&c.sums, &c.x), TENSORS(&c.sums));
    if (dev->place == ON_HOST) {
        expect_same_bytes("sums in the order of elements", c.sums, want);
    } else {
        // Numbers below 1, hence partial sums below `count`, each rounded in f64; then the division
        // and the addition.
        double error = 0x1p-53 * (double)count * (double)count + 0x1p-52 * (double)(3 * parts + 1);
        expect_near("sums", c.sums, want, 0, NULL, error);
    }
    // A part alone gives the same bits.
    if (parts > 1) {
        SegmentSum alone = {new_2d(F64, 1, 1), copy_of(tensor_range(c.x, count, count)), 0,
                            divisor};
        SegmentSum from_zero = c;
        from_zero.sums = new_2d(F64, parts, COLUMNS);
        memset(from_zero.sums.data, 0, tensor_bytes(from_zero.sums));
        tensor_f64(alone.sums)[0] = 0;
        run_on(dev, run_segment_sum, &alone, TENSORS(&alone.sums, &alone.x));
        run_on(dev, run_segment_sum, &from_zero, TENSORS(&from_zero.sums, &from_zero.x));
        expect_same_bytes("a part alone", alone.sums,
                          tensor_f64(from_zero.sums) + COLUMNS + COLUMN);
    }
    release_all();
}

typedef struct Squares {
    Tensor sums, x, offsets, marks;
} Squares;

static void run_squares(Device *dev, void *context) {
    Squares *c = context;
    sum_of_squares(dev, c->sums, c->x, c->offsets, c->marks);
}

// `lengths` of the segments, one after the other from element `first` of x on; x goes on for `rest`
// elements.
static void check_squares(Device *dev, const char *name, const int64_t *lengths, int64_t segments,
                          int64_t first, int64_t rest) {
    begin_case("sum_of_squares on %s: %s", dev->name, name);
    Squares c = {.sums = new_1d(F64, segments), .offsets = new_1d(I64, segments + 1)};
    int64_t *at = tensor_i64(c.offsets), longest = 0;
    at[0] = first;
    for (int64_t s = 0; s < segments; s++) {
        at[s + 1] = at[s] + lengths[s];
        if (lengths[s] > longest) longest = lengths[s];
    }
    c.x = random_1d(at[segments] + rest);
    const float *x = tensor_f32(c.x);
    double *want = new_doubles(segments);
    for (int64_t s = 0; s < segments; s++) {
        want[s] = 0;
        for (int64_t i = at[s]; i < at[s + 1]; i++) want[s] += (double)x[i] * (double)x[i];
    }
    run_twice(dev, run_squares, &c, TENSORS(&c.sums, &c.x, &c.offsets), TENSORS(&c.sums));
    // Positive terms in double, on both sides: n roundings at most.
    expect_near("sum_of_squares", c.sums, want, 0x1p-52 * (double)(longest + 1), NULL, 0);
    for (int64_t s = 0; s < segments; s++)
        if (at[s] == at[s + 1]) expect(tensor_f64(c.sums)[s] == 0, "empty segment %d", (int)s);
    if (dev->place == ON_HOST) expect_same_for_any_threads(run_squares, &c, &c.sums, 1);
    // Segments without a mark are not read.
    Squares marked = {new_1d(F64, segments), copy_of(c.x), c.offsets, new_1d(I32, segments)};
    Tensor sums = copy_of(c.sums);
    for (int64_t s = 0; s < segments; s++) {
        tensor_i32(marked.marks)[s] = (int32_t)(s % 2);
        for (int64_t i = at[s]; i < at[s + 1] && s % 2 == 0; i++) tensor_f32(marked.x)[i] = NAN;
        if (s % 2 == 0) tensor_f64(sums)[s] = 0;
    }
    run_on(dev, run_squares, &marked,
           TENSORS(&marked.sums, &marked.x, &marked.offsets, &marked.marks));
    expect_same_bytes("marked segments", marked.sums, sums.data);
    // Every segment alone, elsewhere and unaligned, gives the same bits.
    for (int64_t s = 0; s < segments; s++) {
        Squares alone = {new_1d(F64, 1), new_1d(F32, lengths[s] + 3), new_1d(I64, 2), {0}};
        memcpy(tensor_f32(alone.x) + 1, x + at[s], (size_t)lengths[s] * sizeof *x);
        tensor_i64(alone.offsets)[0] = 1, tensor_i64(alone.offsets)[1] = 1 + lengths[s];
        run_on(dev, run_squares, &alone, TENSORS(&alone.sums, &alone.x, &alone.offsets));
        expect_same_bytes("a segment alone", alone.sums, tensor_f64(c.sums) + s);
    }
    release_all();
}

typedef struct RowSquares {
    Tensor sums, x, marks;
} RowSquares;

static void run_row_squares(Device *dev, void *context) {
    RowSquares *c = context;
    sum_of_row_squares(dev, c->sums, c->x, c->marks);
}

// Every third of a part's first rows, then one at the end of many.
static bool has_squares(int64_t row, int64_t rows) {
    return row % rows < 64 ? row % 3 == 0 : row % rows % 64 == 63;
}

// Some rows are marked, others are zeros; all of them give the same sums, and so do marked rows
// alone where others must not be read.
static void check_row_squares(Device *dev, int64_t parts, int64_t rows, int64_t D) {
    begin_case("sum_of_row_squares on %s: %d parts of %d rows of %d", dev->name, (int)parts,
               (int)rows, (int)D);
    int64_t R = parts * rows;
    RowSquares all = {new_1d(F64, parts), random_2d(R, D), {0}};
    double *want = new_doubles(parts);
    for (int64_t p = 0; p < parts; p++) want[p] = 0;
    for (int64_t i = 0; i < R * D; i++) {
        float *x = tensor_f32(all.x) + i;
        if (!has_squares(i / D, rows)) *x = 0;
        want[i / (rows * D)] += (double)*x * (double)*x;
    }
    run_twice(dev, run_row_squares, &all, TENSORS(&all.sums, &all.x), TENSORS(&all.sums));
    // Positive terms in double, on both sides: n roundings at most.
    expect_near("sum_of_row_squares", all.sums, want, 0x1p-52 * (double)(rows * D + 1), NULL, 0);
    if (dev->place == ON_HOST) expect_same_for_any_threads(run_row_squares, &all, &all.sums, 1);
    RowSquares marked = {new_1d(F64, parts), copy_of(all.x), new_1d(I32, R)};
    for (int64_t r = 0; r < R; r++) {
        tensor_i32(marked.marks)[r] = has_squares(r, rows);
        for (int64_t d = 0; d < D && !has_squares(r, rows); d++)
            tensor_f32(marked.x)[r * D + d] = NAN;
    }
    run_on(dev, run_row_squares, &marked, TENSORS(&marked.sums, &marked.x, &marked.marks));
    expect_same_bytes("marked rows", marked.sums, all.sums.data);
    if (parts > 1) { // a part alone
        RowSquares alone = {new_1d(F64, 1), copy_of(tensor_rows(all.x, rows, rows)), {0}};
        run_on(dev, run_row_squares, &alone, TENSORS(&alone.sums, &alone.x));
        expect_same_bytes("a part alone", alone.sums, tensor_f64(all.sums) + 1);
    }
    release_all();
}

static void check_sums(Device *dev) {
    check_row_squares(dev, 1, 1, 1);
    check_row_squares(dev, 8, 37, 33);
    check_row_squares(dev, 2, 300, 128); // several rows a thread
    check_segment_sum(dev, 1, 0);
    check_segment_sum(dev, 1, 1);
    check_segment_sum(dev, 4, 17);
    check_segment_sum(dev, 3, 333);
    check_segment_sum(dev, 2, 4099); // several elements a thread
    check_squares(dev, "no segments", NULL, 0, 0, 0);
    check_squares(dev, "no segments beside elements", NULL, 0, 0, 9);
    static const int64_t empty[] = {0, 0, 0};
    check_squares(dev, "only empty segments", empty, 3, 0, 0);
    check_squares(dev, "empty segments at the end", empty, 3, 4096, 0);
    // Around the 4096 elements of a block, empty ones between, beginning and ending within x.
    static const int64_t uneven[] = {0, 1, 4095, 4096, 4097, 0, 0, 17, 9000, 3, 0};
    check_squares(dev, "uneven segments", uneven, 11, 0, 0);
    check_squares(dev, "uneven segments within x", uneven, 11, 4099, 333);
    static const int64_t aligned[] = {4096, 16, 8192, 4112};
    check_squares(dev, "aligned segments", aligned, 4, 16, 0);
    // More blocks than the GPU adds at once.
    static const int64_t large[] = {257 * 4096 + 1, 16};
    check_squares(dev, "a large segment", large, 2, 0, 0);
}

// ---- AdamW --------------------------------------------------------------------------------------

typedef struct Update {
    Tensor w, copy, g, m, v, groups, w_before, m_before, v_before;
    AdamW rule;
} Update;

enum { UNIT = 16 }; // elements of one group number

// from_zero: weights of 0, so that they become the update itself and no rounding of theirs hides
// its errors.
static Update new_update(int64_t n, bool with_copy, float eps, bool from_zero) {
    Update c = {.w = new_1d(F32, n), .g = random_1d(n), .m = new_1d(F32, n), .v = new_1d(F32, n)};
    c.copy = with_copy ? new_1d(BF16, n) : (Tensor){0};
    c.groups = new_1d(U8, n / UNIT);
    for (int64_t u = 0; u < n / UNIT; u++)
        tensor_u8(c.groups)[u] = (uint8_t)random_below(UPDATE_GROUPS);
    c.w_before = random_1d(n), c.m_before = random_1d(n), c.v_before = random_1d(n);
    for (int64_t i = 0; i < n; i++) tensor_f32(c.v_before)[i] = fabsf(tensor_f32(c.v_before)[i]);
    for (int64_t i = 0; i < n && from_zero; i++) tensor_f32(c.w_before)[i] = 0;
    c.rule = (AdamW){.beta1 = 0.9f,
                     .beta2 = 0.999f,
                     .eps = eps,
                     .bias_correction1 = 0.271f,
                     .bias_correction2 = 0.002997f,
                     .grad_scale = 0.5f};
    for (int group = 0; group < UPDATE_GROUPS; group++) {
        c.rule.lr[group] = 0.01f * (float)(1 + group % 3);
        c.rule.weight_decay[group] = 0.1f * (float)(group % 4);
    }
    return c;
}

static void run_adamw(Device *dev, void *context) {
    Update *c = context;
    adamw_update(dev, c->w, c->copy, c->g, c->m, c->v, c->groups, c->rule);
}
static void run_adamw_afresh(Device *dev, void *context) {
    Update *c = context;
    copy(dev, c->w, c->w_before);
    copy(dev, c->m, c->m_before);
    copy(dev, c->v, c->v_before);
    run_adamw(dev, c);
}

static void check_adamw(Device *dev, int64_t n, bool with_copy, float eps, bool from_zero) {
    begin_case("adamw on %s: %lld elements%s, eps %g%s", dev->name, (long long)n,
               with_copy ? " and the copy" : "", (double)eps,
               from_zero ? ", the update alone" : "");
    Update c = new_update(n, with_copy, eps, from_zero);
    run_twice(
        dev, run_adamw_afresh, &c,
        TENSORS(&c.w, &c.copy, &c.g, &c.m, &c.v, &c.groups, &c.w_before, &c.m_before, &c.v_before),
        TENSORS(&c.w, &c.m, &c.v));
    double *w = new_doubles(n), *m = new_doubles(n), *v = new_doubles(n), *unit = new_doubles(n);
    for (int64_t i = 0; i < n; i++) {
        w[i] = (double)tensor_f32(c.w_before)[i];
        m[i] = (double)tensor_f32(c.m_before)[i];
        v[i] = (double)tensor_f32(c.v_before)[i];
        reference_adamw(w + i, m + i, v + i, (double)tensor_f32(c.g)[i],
                        tensor_u8(c.groups)[i / UNIT], c.rule);
        // The step divides by sqrt(v̂): its rounding errors are relative to the step itself.
        unit[i] = fabs((double)tensor_f32(c.w_before)[i]) + fabs(w[i]) + (from_zero ? 1e-4 : 0.01);
    }
    expect_near("m", c.m, m, 0, NULL, 4 * F32_EPS);
    // 1 - beta2 in f32 has lost ten bits; so has its share of v, which g² < 1/4 bounds.
    expect_near("v", c.v, v, 4 * F32_EPS, NULL, 4 * F32_EPS);
    expect_near("w", c.w, w, 0, unit, 16 * F32_EPS);
    if (with_copy) expect_same_bytes("copy", c.copy, stored_as(BF16, copy_of(c.w)).data);
    if (dev->place == ON_HOST)
        expect_same_for_any_threads(run_adamw_afresh, &c, (Tensor[]){c.w, c.m, c.v}, 3);
    release_all();
}

static void check_updates(Device *dev) {
    // A block of the GPU takes 1024 elements.
    static const int64_t sizes[] = {0, 16, 48, 1024, 3 * 1024 + 336};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int with_copy = 0; with_copy < 2; with_copy++) {
            check_adamw(dev, sizes[i], with_copy, 1e-8f, false);
            // As large as the root it is added to: missing, or inside the root, it shows.
            check_adamw(dev, sizes[i], with_copy, 0.1f, false);
            check_adamw(dev, sizes[i], with_copy, 0.1f, true);
        }
}

// ---- timing -------------------------------------------------------------------------------------

typedef struct Bench {
    Update update;
    Elementwise sum;
    Squares squares;
} Bench;

static void run_sums(Device *dev, void *context) {
    Bench *c = context;
    run_add(dev, &c->sum);
    run_squares(dev, &c->squares);
}

static void bench(int64_t n) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Bench c = {new_update(n, false, 1e-8f, false),
                   {new_1d(F32, n), random_1d(n), random_1d(n), n, 0, INTO_OUT},
                   {new_1d(F64, 1), random_1d(n), new_1d(I64, 2), {0}}};
        tensor_i64(c.squares.offsets)[0] = 0, tensor_i64(c.squares.offsets)[1] = n;
        run_adamw_afresh(&dev, &c.update);
        double update = time_call(run_adamw, &dev, &c.update), sums = time_call(run_sums, &dev, &c);
        printf("%lld elements, %d threads: adamw %.2f ms, %.1f GB/s; add and squares %.2f ms\n",
               (long long)n, threads, 1e3 * update, 28e-9 * (double)n / update, 1e3 * sums);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(9000000 / UNIT * UNIT);
        return 0;
    }
    check_bf16_header();
    for (int i = 0; i < device_count(); i++) {
        Device *dev = device_at(i);
        check_bf16_patterns(dev);
        check_bf16_values(dev);
        check_elementwise(dev);
        check_sums(dev);
        check_updates(dev);
    }
    return failures();
}
