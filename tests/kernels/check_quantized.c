// Products with weights in fewer bits: what quantising does to a row, the product against the
// reference on every device, and bits that depend neither on the rows beside one nor on threads.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/f16.h"

static const DType types[] = {BF16, F16, I8};
enum { TYPES = 3 };

typedef struct Case {
    Tensor x, y;
    QuantizedMatrix w;
    Tensor wide; // (G, N, K) f32: what w stands for
    Segments rows;
} Case;

static float value_of(QuantizedMatrix w, int64_t i) {
    float value = 0;
    if (w.values.dtype == BF16) value = f32_from_bf16(((const uint16_t *)w.values.data)[i]);
    if (w.values.dtype == F16) value = f32_from_f16(((const uint16_t *)w.values.data)[i]);
    if (w.values.dtype == I8) value = ((const int8_t *)w.values.data)[i];
    return value;
}

static Case new_case(const int64_t *offsets, int64_t groups, int64_t parts, int64_t N, int64_t K,
                     DType type, bool experts) {
    int64_t segments = groups * parts, M = offsets[segments] + 3;
    Case c = {.x = random_2d(M, K), .y = new_2d(F32, M, N), .wide = random_3d(groups, N, K)};
    c.w.values = new_3d(type, groups, N, K);
    if (type == I8) c.w.scales = new_1d(F32, groups * N);
    Error err = {0};
    expect(quantize_rows(type, c.w.values.data, type == I8 ? tensor_f32(c.w.scales) : NULL,
                         tensor_f32(c.wide), groups * N, K, &err),
           "%s", err.message);
    for (int64_t i = 0; i < groups * N * K; i++)
        tensor_f32(c.wide)[i] =
            value_of(c.w, i) * (type == I8 ? tensor_f32(c.w.scales)[i / K] : 1.0f);
    c.rows = (Segments){groups, parts, offsets, {0}};
    if (experts)
        c.rows.device_offsets =
            tensor_1d(memcpy(new_1d(I64, segments + 1).data, offsets, (size_t)(segments + 1) * 8),
                      I64, segments + 1);
    return c;
}

static void run_forward(Device *dev, void *context) {
    Case *c = context;
    matmul_quantized(dev, c->y, c->x, c->w, c->rows);
}
static void run_case(Device *dev, Case *c) {
    run_on(dev, run_forward, c,
           TENSORS(&c->x, &c->y, &c->w.values, &c->w.scales, &c->rows.device_offsets));
}

// As in check_matmul.c; the scale is one rounding more, and `wide`, which has it, another.
static double tolerance(int64_t n) {
    return F32_EPS * (4.0 + 4.0 * sqrt((double)n));
}

static void check_values(Device *dev, Case *c) {
    int64_t N = c->y.shape[1], K = c->x.shape[1], first = c->rows.offsets[0];
    int64_t end = c->rows.offsets[c->rows.groups * c->rows.parts];
    double *want = new_doubles(tensor_elements(c->y)), *unit = new_doubles(tensor_elements(c->y));
    run_case(dev, c);
    reference_matmul_forward(want, unit, tensor_f32(c->x), tensor_f32(c->wide), c->rows, N, K);
    expect_near("y", tensor_rows(c->y, first, end - first), want + first * N, 0, unit + first * N,
                tolerance(K));
    for (int64_t i = 0; i < first * N; i++)
        expect(isnan(tensor_f32(c->y)[i]), "a row before the first was written");
    for (int64_t i = end * N; i < (end + 3) * N; i++)
        expect(isnan(tensor_f32(c->y)[i]), "a row past the last was written");
}

// Rows [first, first + count), which are of group `group`, as a product of their own, whose x and w
// lie at other addresses.
static void check_rows(Device *dev, Case c, int64_t group, int64_t first, int64_t count) {
    int64_t N = c.y.shape[1], K = c.x.shape[1], offsets[] = {0, count};
    Case alone = new_case(offsets, 1, 1, N, K, c.w.values.dtype, c.rows.device_offsets.data);
    memcpy(alone.x.data, tensor_rows(c.x, first, count).data, (size_t)(count * K) * 4);
    QuantizedMatrix own = quantized_range(c.w, group, 1);
    memcpy(alone.w.values.data, own.values.data, tensor_bytes(own.values));
    if (own.scales.data) memcpy(alone.w.scales.data, own.scales.data, tensor_bytes(own.scales));
    run_case(dev, &alone);
    expect_same_bytes("rows without the others", tensor_rows(alone.y, 0, count),
                      tensor_f32(c.y) + first * N);
}

// Numbers of fewer bits are numbers: on the CPU f32 weights with these values give these bits.
static void check_bits_of_f32(Case c) {
    if (c.w.values.dtype == I8) return; // the scale comes after the sum
    Tensor y = new_2d(F32, c.y.shape[0], c.y.shape[1]);
    matmul_forward(device_at(0), y, c.x, c.wide, c.rows);
    int64_t first = c.rows.offsets[0], end = c.rows.offsets[c.rows.groups * c.rows.parts];
    expect_same_bytes("the product with f32 weights", tensor_rows(c.y, first, end - first),
                      tensor_rows(y, first, end - first).data);
}

static void check_products(void) {
    static const int64_t widths[][2] = {{1, 1},    {3, 5},     {16, 64},   {65, 128},
                                        {33, 111}, {384, 512}, {40, 1000}, {7, 2049}};
    static const struct {
        int64_t groups, parts, offsets[9];
    } segments[] = {
        {1, 1, {0, 1}},       {1, 1, {0, 0}},
        {1, 1, {2, 9}},       {1, 2, {0, 70, 140}},
        {1, 1, {3, 40}},      {4, 1, {0, 17, 17, 18, 41}},
        {3, 1, {1, 2, 3, 4}}, {2, 2, {2, 9, 9, 20, 22}},
    };
    const size_t first_experts = 4;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (size_t j = 0; j < sizeof segments / sizeof *segments; j++)
            for (int t = 0; t < TYPES; t++) {
                const int64_t *offsets = segments[j].offsets;
                int64_t count = segments[j].groups * segments[j].parts;
                Case c = new_case(offsets, segments[j].groups, segments[j].parts, widths[i][0],
                                  widths[i][1], types[t], j >= first_experts);
                for (int d = 0; d < device_count(); d++) {
                    if (d > 0 && (i + 2 * j + (size_t)t) % 4 != 0) continue; // emulation is slow
                    begin_case("%s N=%lld K=%lld segments %zu %s", device_at(d)->name,
                               (long long)widths[i][0], (long long)widths[i][1], j,
                               dtype_name(types[t]));
                    memset(c.y.data, 0xff, tensor_bytes(c.y));
                    check_values(device_at(d), &c);
                    int64_t last = offsets[count] - offsets[count - 1];
                    if (last == 0) continue;
                    int64_t group = segments[j].groups - 1;
                    check_rows(device_at(d), c, group, offsets[count] - 1, 1);
                    check_rows(device_at(d), c, group, offsets[count - 1], (last + 1) / 2);
                    if (d == 0) check_bits_of_f32(c);
                }
                if (device_count() == 1) expect_same_for_any_threads(run_forward, &c, &c.y, 1);
                release_all();
            }
}

static void check_quantising(void) {
    begin_case("quantising");
    const float row[] = {1, -2, 0.5f, 127, 1e-30f, -0.3f};
    const float nothing[6] = {0};
    int8_t q[6];
    uint16_t half[6];
    float scale;
    Error err = {0};
    expect(quantize_rows(I8, q, &scale, row, 1, 6, &err) && scale == 1, "a scale of %g",
           (double)scale);
    static const int8_t want[] = {1, -2, 0, 127, 0, 0}; // a tie to even
    expect(memcmp(q, want, sizeof q) == 0, "%d %d %d %d %d %d", q[0], q[1], q[2], q[3], q[4], q[5]);
    expect(quantize_rows(I8, q, &scale, nothing, 1, 6, &err) && scale == 0 && q[0] == 0,
           "a row of zeros");
    for (int i = 0; i < 3; i++) {
        const float bad[] = {1, i == 0 ? NAN : i == 1 ? INFINITY : 65520.0f};
        for (int t = 0; t < TYPES; t++)
            expect(quantize_rows(types[t], half, &scale, bad, 1, 2, &err) ==
                       (i == 2 && types[t] != F16),
                   "%g as %s", (double)bad[1], dtype_name(types[t]));
    }
    // Every number of f16 is its own nearest one, and so is what lies a little beside it.
    for (uint32_t h = 0; h < 0x10000; h++) {
        float x = f32_from_f16((uint16_t)h);
        if ((h >> 10 & 31) == 31) continue;
        float above = nextafterf(x, INFINITY), below = nextafterf(x, -INFINITY);
        if (f16_from_f32(x) != h || f32_from_f16(f16_from_f32(above)) != x ||
            f32_from_f16(f16_from_f32(below)) != x)
            expect(false, "0x%04x: %g", h, (double)x);
        // halfway to the next one: to the even one of the two
        float next = f32_from_f16((uint16_t)(h + 1));
        uint16_t middle = f16_from_f32((x + next) / 2);
        if (((h + 1) & 0x7c00) != 0x7c00 && middle != (h & 1 ? h + 1 : h))
            expect(false, "beyond 0x%04x: 0x%04x", h, middle);
    }
}

int main(void) {
    check_quantising();
    check_products();
    return failures();
}
