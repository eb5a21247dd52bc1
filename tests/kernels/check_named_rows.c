// Products and sums over rows that tokens name by number, and the gradient of their table, against
// sums in double, on every device and in every storage.
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    int64_t first, parts, token_parts;
    Tensor tables[2];          // (E, D) T
    Tensor x, ids;             // (M, D) T, (M, K)
    Tensor products;           // (M, 2K + 1)
    Tensor coefficients;       // (M, 2K)
    Tensor sums, one;          // (M, D): over both tables, over one
    Tensor at, listed, dtable; // list; (E, D)
    Tensor marked, marks, marked_before, marks_before;
    Tensor pairs, a, b;
} Case;

static NamedRows rows_of(const Case *c, int table, Tensor coefficients, int64_t column) {
    return (NamedRows){c->tables[table], c->first, coefficients, column};
}

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    int64_t K = c->ids.shape[1];
    named_products(dev, rows_of(c, 0, c->products, 1), c->x, c->ids);
    named_products(dev, rows_of(c, 1, c->products, 1 + K), c->x, c->ids);
    NamedRows both[2] = {rows_of(c, 0, c->coefficients, 0), rows_of(c, 1, c->coefficients, K)};
    named_sums(dev, c->sums, (NamedTables){both, 2}, c->ids, c->parts);
    named_sums(dev, c->one, (NamedTables){both + 1, 1}, c->ids, c->parts);
    list_names(dev, c->at, c->listed, c->ids, c->first);
    named_gradient(dev, c->dtable, (Tensor){0}, both[1], c->x, c->at, c->listed, K, c->token_parts);
    // Marked rows of another gradient become zeros, those without a mark are not read.
    copy(dev, c->marked, c->marked_before);
    copy(dev, c->marks, c->marks_before);
    named_gradient(dev, c->marked, c->marks, both[1], c->x, c->at, c->listed, K, c->token_parts);
    multiply_pairs(dev, c->pairs, c->a, c->b);
}

// The double results, and the sums of magnitudes that errors are in proportion to.
typedef struct Wanted {
    double *products, *product_units, *sums, *sum_units, *one, *one_units, *dtable, *dtable_units;
} Wanted;

static Wanted reference(const Case *c, Tensor table[2], Tensor x) {
    int64_t M = x.shape[0], D = x.shape[1], K = c->ids.shape[1], E = c->tables[0].shape[0];
    int64_t W = 2 * K + 1;
    Wanted w = {new_doubles(M * W), new_doubles(M * W), new_doubles(M * D), new_doubles(M * D),
                new_doubles(M * D), new_doubles(M * D), new_doubles(E * D), new_doubles(E * D)};
    memset(w.products, 0, (size_t)(M * W) * sizeof(double));
    memset(w.product_units, 0, (size_t)(M * W) * sizeof(double));
    double *const small[] = {w.sums, w.sum_units, w.one, w.one_units};
    for (int i = 0; i < 4; i++) memset(small[i], 0, (size_t)(M * D) * sizeof(double));
    memset(w.dtable, 0, (size_t)(E * D) * sizeof(double));
    memset(w.dtable_units, 0, (size_t)(E * D) * sizeof(double));
    for (int64_t i = 0; i < M * K; i++) {
        int64_t m = i / K, k = i % K, row = tensor_i32(c->ids)[i] - c->first;
        if (row < 0 || row >= E) continue;
        for (int t = 0; t < 2; t++) {
            double factor = (double)tensor_f32(c->coefficients)[m * 2 * K + t * K + k];
            for (int64_t d = 0; d < D; d++) {
                double r = (double)tensor_f32(table[t])[row * D + d];
                double v = (double)tensor_f32(x)[m * D + d];
                w.products[m * W + 1 + t * K + k] += r * v;
                w.product_units[m * W + 1 + t * K + k] += fabs(r * v);
                w.sums[m * D + d] += factor * r;
                w.sum_units[m * D + d] += fabs(factor * r);
                if (t == 0) continue;
                w.one[m * D + d] += factor * r;
                w.one_units[m * D + d] += fabs(factor * r);
                w.dtable[row * D + d] += factor * v;
                w.dtable_units[row * D + d] += fabs(factor * v);
            }
        }
    }
    return w;
}

// Who names each row, in order.
static void check_list(const Case *c) {
    int64_t E = c->listed.shape[0] - 1, places = tensor_elements(c->ids), listed = 0;
    for (int64_t e = 0; e < E; e++) {
        expect(tensor_i32(c->listed)[e] == listed, "row %lld begins at %d", (long long)e,
               (int)tensor_i32(c->listed)[e]);
        for (int64_t i = 0; i < places; i++)
            if (tensor_i32(c->ids)[i] == c->first + e)
                expect(tensor_i32(c->at)[listed++] == i, "place %lld of row %lld", (long long)i,
                       (long long)e);
    }
    expect(tensor_i32(c->listed)[E] == listed, "%d places listed", (int)tensor_i32(c->listed)[E]);
}

typedef struct Shape {
    int64_t M, D, K, E, first, parts, token_parts;
} Shape;

static Case new_case(Shape s, DType T, Tensor x, Tensor tables[2]) {
    Case c = {.first = s.first,
              .parts = s.parts,
              .token_parts = s.token_parts,
              .tables = {stored_as(T, tables[0]), stored_as(T, tables[1])},
              .x = stored_as(T, x),
              .ids = new_2d(I32, s.M, s.K),
              .products = random_2d(s.M, 2 * s.K + 1),
              .coefficients = random_2d(s.M, 2 * s.K),
              .sums = new_2d(F32, s.M, s.D),
              .one = new_2d(F32, s.M, s.D),
              .at = new_1d(I32, s.M * s.K + 3),
              .listed = new_1d(I32, s.E + 1),
              .dtable = random_2d(s.E, s.D), // of a step before
              .marked = new_2d(F32, s.E, s.D),
              .marks = new_1d(I32, s.E),
              .marked_before = random_2d(s.E, s.D),
              .marks_before = new_1d(I32, s.E),
              .pairs = new_2d(F32, s.M, s.K),
              .a = random_2d(s.M, s.K),
              .b = random_2d(s.M, s.K)};
    for (int64_t e = 0; e < s.E; e++) { // of some long runs of rows only the last one, of some none
        int64_t run = e / 64 % 3;
        int32_t mark = run == 0 ? (int32_t)random_below(2) : run == 1 && e % 64 == 63;
        tensor_i32(c.marks_before)[e] = mark;
        for (int64_t d = 0; d < s.D && !tensor_i32(c.marks_before)[e]; d++)
            tensor_f32(c.marked_before)[e * s.D + d] = 0;
    }
    // Half of the rows are named often, a few are named by no token, some numbers have no row here.
    int64_t numbers = s.first > 0 ? 2 * s.first + s.E : s.E;
    for (int64_t i = 0; i < s.M * s.K; i++)
        tensor_i32(c.ids)[i] =
            (int32_t)(i % 3 ? random_below(numbers) : s.first + random_below((s.E + 1) / 2));
    for (int64_t i = 0; i < s.M * s.K && s.E > 640; i++) // of a long run the last one alone
        if (tensor_i32(c.ids)[i] >= s.first + 640)
            tensor_i32(c.ids)[i] = (int32_t)(s.first + 15 * 64 - 1);
    // Of 5 rows the last is named by the second half of the tokens, and by these alone.
    for (int64_t i = 0; i < s.M * s.K && s.E == 5; i++)
        tensor_i32(c.ids)[i] = (int32_t)(i < s.M / 2 * s.K ? i % (s.E - 1) : s.E - 1);
    return c;
}

static void check_on(Device *dev, DType T, Shape s) {
    begin_case("named rows on %s %s M=%lld D=%lld K=%lld E=%lld from %lld, parts %lld, %lld",
               dev->name, dtype_name(T), (long long)s.M, (long long)s.D, (long long)s.K,
               (long long)s.E, (long long)s.first, (long long)s.parts, (long long)s.token_parts);
    Tensor x = random_2d(s.M, s.D), tables[2] = {random_2d(s.E, s.D), random_2d(s.E, s.D)};
    Case c = new_case(s, T, x, tables);
    Wanted w = reference(&c, tables, x);
    for (int64_t m = 0; m < s.M; m++) // stays as it is
        w.products[m * (2 * s.K + 1)] = (double)tensor_f32(c.products)[m * (2 * s.K + 1)];
    double *products = new_doubles(s.M * s.K);
    for (int64_t i = 0; i < s.M * s.K; i++)
        products[i] = (double)(tensor_f32(c.a)[i] * tensor_f32(c.b)[i]);
    run_on(dev, run_ops, &c,
           TENSORS(&c.tables[0], &c.tables[1], &c.x, &c.ids, &c.products, &c.coefficients, &c.sums,
                   &c.one, &c.at, &c.listed, &c.dtable, &c.pairs, &c.a, &c.b, &c.marked, &c.marks,
                   &c.marked_before, &c.marks_before));
    check_list(&c);
    expect_same_bytes("marked rows", c.marked, c.dtable.data);
    for (int64_t e = 0; e < s.E; e++)
        expect(tensor_i32(c.marks)[e] == (tensor_i32(c.listed)[e + 1] > tensor_i32(c.listed)[e]),
               "row %lld is marked %d", (long long)e, (int)tensor_i32(c.marks)[e]);
    // Sums in a fixed order stray by the root of their length, over the sum of magnitudes.
    double of_D = (4 + 4 * sqrt((double)s.D)) * F32_EPS;
    double of_K = (4 + 4 * sqrt((double)(2 * s.K))) * F32_EPS;
    double of_M = (4 + 4 * sqrt((double)(s.M * s.K))) * F32_EPS;
    expect_near("products", c.products, w.products, 0, w.product_units, of_D);
    expect_near("sums", c.sums, w.sums, 0, w.sum_units, of_K);
    expect_near("sums of one", c.one, w.one, 0, w.one_units, of_K);
    expect_near("dtable", c.dtable, w.dtable, 0, w.dtable_units, of_M);
    expect_near("pairs", c.pairs, products, 0, NULL, 0);
    if (dev->place == ON_HOST)
        expect_same_for_any_threads(
            run_ops, &c, (Tensor[]){c.products, c.sums, c.one, c.listed, c.dtable, c.pairs}, 6);
    release_all();
}

// Halves of a table on two ranks: their sums by part add up to those of the whole, bit by bit.
static void check_halves(Device *dev, DType T) {
    Shape s = {19, 37, 12, 40, 0, 8, 1};
    begin_case("halves of a table on %s %s", dev->name, dtype_name(T));
    Tensor x = random_2d(s.M, s.D), tables[2] = {random_2d(s.E, s.D), random_2d(s.E, s.D)};
    Case whole = new_case(s, T, x, tables), halves[2];
    for (int h = 0; h < 2; h++) {
        halves[h] = whole;
        halves[h].first = h * s.E / 2;
        halves[h].parts = s.parts / 2;
        for (int t = 0; t < 2; t++)
            halves[h].tables[t] = tensor_rows(whole.tables[t], h * s.E / 2, s.E / 2);
        halves[h].sums = new_2d(F32, s.M, s.D);
        halves[h].one = new_2d(F32, s.M, s.D);
        halves[h].products = copy_of(whole.products);
        halves[h].listed = new_1d(I32, s.E / 2 + 1);
        halves[h].dtable = new_2d(F32, s.E / 2, s.D);
        halves[h].marked = new_2d(F32, s.E / 2, s.D);
        halves[h].marks = new_1d(I32, s.E / 2);
        halves[h].marked_before = tensor_rows(whole.marked_before, h * s.E / 2, s.E / 2);
        halves[h].marks_before = tensor_range(whole.marks_before, h * s.E / 2, s.E / 2);
    }
    Case *const all[] = {&whole, &halves[0], &halves[1]};
    for (int i = 0; i < 3; i++) {
        Case *c = all[i];
        run_on(dev, run_ops, c,
               TENSORS(&c->tables[0], &c->tables[1], &c->x, &c->ids, &c->products, &c->coefficients,
                       &c->sums, &c->one, &c->at, &c->listed, &c->dtable, &c->pairs, &c->a, &c->b,
                       &c->marked, &c->marks, &c->marked_before, &c->marks_before));
    }
    Tensor sum = new_2d(F32, s.M, s.D);
    for (int64_t i = 0; i < s.M * s.D; i++)
        tensor_f32(sum)[i] = tensor_f32(halves[0].sums)[i] + tensor_f32(halves[1].sums)[i];
    expect_same_bytes("sums", whole.sums, sum.data);
    for (int h = 0; h < 2; h++)
        expect_same_bytes("dtable", tensor_rows(whole.dtable, h * s.E / 2, s.E / 2),
                          halves[h].dtable.data);
    release_all();
}

static void bench(int64_t E) {
    Shape s = {512, 256, 128, E, 0, 8, 8};
    Tensor x = random_2d(s.M, s.D), tables[2] = {random_2d(s.E, s.D), random_2d(s.E, s.D)};
    Case c = new_case(s, F32, x, tables);
    Device dev = open_cpu(1);
    printf("two products, two sums, list and gradient, M=512 D=256 K=128 E=%lld: %.3f ms\n",
           (long long)E, 1e3 * time_call(run_ops, &dev, &c));
    release_all();
}

int main(int argc, char **argv) {
    static const Shape shapes[] = {
        // M, D, K, E, first, parts, parts of tokens
        {0, 8, 2, 4, 0, 1, 1},       {1, 1, 1, 1, 0, 1, 1},     {8, 7, 3, 6, 0, 2, 2},
        {12, 64, 9, 16, 5, 4, 4},    {32, 300, 2, 8, 0, 8, 8},  {6, 1027, 40, 64, 10, 8, 2},
        {64, 16, 33, 600, 0, 4, 16}, {5, 40, 7, 1100, 3, 1, 1}, {40, 200, 64, 637, 10, 1, 4},
        {64, 16, 33, 5, 0, 1, 8},
    };
    if (wants_bench(argc, argv)) {
        for (int64_t E = 1 << 10; E <= 1 << 18; E *= 16) bench(E);
        return 0;
    }
    for (int d = 0; d < device_count(); d++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
                check_on(device_at(d), bf16 ? BF16 : F32, shapes[s]);
            check_halves(device_at(d), bf16 ? BF16 : F32);
        }
    return failures();
}
