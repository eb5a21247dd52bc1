// Counting choices, which has to be exact: expected are the bytes of a plain loop; and squares.
#include <math.h>
#include <string.h>

#include "tests/kernels/harness.h"

typedef struct Case {
    Tensor counts, ids, kept; // kept.data NULL: all are
} Case;

static void run(Device *dev, void *context) {
    Case *c = context;
    count_ids(dev, c->counts, c->ids, c->kept);
}

// Ids from -2 to E + 1: those that are no expert count nothing. `hot` sends all to one expert.
static void check(int64_t n, int64_t K, int64_t E, bool hot, bool some) {
    Case c = {.counts = new_1d(I64, E), .ids = new_2d(I32, n, K)};
    if (some) c.kept = new_2d(U8, n, K);
    int64_t *before = new_1d(I64, E).data, *want = new_1d(I64, E).data;
    for (int64_t e = 0; e < E; e++) want[e] = before[e] = ((int64_t)1 << 33) + e;
    for (int64_t i = 0; i < n * K; i++) {
        int32_t id = (int32_t)(hot ? E - 1 : random_below(E + 4) - 2);
        tensor_i32(c.ids)[i] = id;
        if (some) tensor_u8(c.kept)[i] = random_below(3) > 0;
        if (id >= 0 && id < E && (!some || tensor_u8(c.kept)[i])) want[id]++;
    }
    for (int d = 0; d < device_count(); d++) {
        begin_case("count_ids on %s of %lld x %lld, %lld experts%s", device_at(d)->name,
                   (long long)n, (long long)K, (long long)E, some ? ", some kept" : "");
        memcpy(c.counts.data, before, (size_t)E * sizeof *before);
        run_on(device_at(d), run, &c, TENSORS(&c.counts, &c.ids, &c.kept));
        expect_same_bytes("counts", c.counts, want);
    }
    release_all();
}

// ---- of parts, and of squares -------------------------------------------------------------------

static void run_first(Device *dev, void *context) {
    Case *c = context;
    count_first_choices(dev, c->counts, c->ids);
}

static void check_first(int64_t n, int64_t K, int64_t E, int64_t parts) {
    Case c = {.ids = new_2d(I32, n, K)};
    int32_t *want = new_2d(I32, parts, E).data;
    for (int64_t i = 0; i < parts * E; i++) want[i] = 0;
    for (int64_t i = 0; i < n * K; i++) {
        int32_t id = (int32_t)(random_below(E + 4) - 2);
        tensor_i32(c.ids)[i] = id;
        if (i % K == 0 && id >= 0 && id < E) want[i / (n * K / parts) * E + id]++;
    }
    for (int d = 0; d < device_count(); d++) {
        begin_case("first choices on %s of %lld x %lld, %lld experts", device_at(d)->name,
                   (long long)n, (long long)K, (long long)E);
        c.counts = new_2d(I32, parts, E);
        run_on(device_at(d), run_first, &c, TENSORS(&c.counts, &c.ids));
        expect_same_bytes("counts", c.counts, want);
    }
    release_all();
}

static void run_squares(Device *dev, void *context) {
    Case *c = context;
    count_squares(dev, c->counts, c->ids, 3); // here the ids are squares
}

// Tiny, huge and broken squares: each is exact to 2^-33, or is as large as it may be.
static void check_squares(int64_t n) {
    Case c = {.ids = new_1d(F32, n)};
    int64_t want[3] = {5, 7, 11 + n};
    for (int64_t i = 0; i < n; i++) {
        float square = (float)random_below(1 << 20) * (i % 3 ? 0x1p-20f : 1.0f);
        if (i % 50 == 7) square = i % 100 == 7 ? NAN : INFINITY;
        tensor_f32(c.ids)[i] = square;
        double mean = isnan(square) ? 0 : fmin((double)square / 3, 0x1p40);
        want[0] += (int64_t)floor(mean);
        want[1] += (int64_t)rint((mean - floor(mean)) * 0x1p32);
    }
    for (int d = 0; d < device_count(); d++) {
        begin_case("squares on %s of %lld tokens", device_at(d)->name, (long long)n);
        c.counts = new_1d(I64, 3);
        for (int64_t i = 0; i < 3; i++) tensor_i64(c.counts)[i] = (const int64_t[]){5, 7, 11}[i];
        run_on(device_at(d), run_squares, &c, TENSORS(&c.counts, &c.ids));
        expect_same_bytes("counts", c.counts, want);
    }
    release_all();
}

int main(void) {
    check_first(0, 1, 3, 1);
    check_first(12, 2, 5, 3);
    check_first(3000, 3, 300, 2);
    check_squares(0);
    check_squares(1000);
    expect(root_mean_square((const int64_t[]){8, INT64_C(1) << 33, 2}) == sqrt(5), "a root");
    expect(root_mean_square((const int64_t[]){0, 0, 0}) == 0, "a root of nothing");

    for (int some = 0; some < 2; some++) {
        check(1, 1, 1, false, some);
        check(7, 2, 5, false, some);
        check(3000, 3, 64, false, some);
        check(5000, 2, 8, true, some);
        check(2100, 2, 300, false, some);
    }
    return failures();
}
