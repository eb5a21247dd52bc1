// Counting right first guesses, which has to be exact: expected is what a plain loop counts.
#include "tests/kernels/harness.h"

#include <math.h>
#include <string.h>

typedef struct Case {
    Tensor counts, logits, targets;
} Case;

static void run(Device *dev, void *context) {
    Case *c = context;
    count_right_guesses(dev, c->counts, c->logits, c->targets);
}

static int64_t first_of_the_largest(const float *z, int64_t V) {
    int64_t best = 0;
    for (int64_t v = 1; v < V; v++)
        if (z[v] > z[best]) best = v;
    return best;
}

// Of few different values, so that many are the largest; half of the targets are the first of these
// and a quarter another of them.
static void check(DType T, int64_t N, int64_t V) {
    Tensor wide = new_2d(F32, N, V);
    Case c = {new_1d(I64, 2), (Tensor){0}, new_1d(I32, N)};
    for (int64_t i = 0; i < N * V; i++) tensor_f32(wide)[i] = (float)random_below(5);
    int64_t want[] = {(int64_t)1 << 33, 7};
    for (int64_t n = 0; n < N; n++) {
        const float *z = tensor_f32(wide) + n * V;
        int64_t best = first_of_the_largest(z, V), target = random_below(V);
        if (n % 2 == 0) target = best;
        if (n % 4 == 1)
            for (target = V - 1; z[target] < z[best];) target--;
        if (n % 9 == 8) target = NO_TARGET;
        tensor_i32(c.targets)[n] = (int32_t)target;
        want[0] += target != NO_TARGET;
        want[1] += target == best;
    }
    c.logits = stored_as(T, wide);
    for (int d = 0; d < device_count(); d++) {
        begin_case("right guesses on %s: N=%lld V=%lld %s", device_at(d)->name, (long long)N,
                   (long long)V, dtype_name(T));
        tensor_i64(c.counts)[0] = (int64_t)1 << 33;
        tensor_i64(c.counts)[1] = 7;
        run_on(device_at(d), run, &c, TENSORS(&c.counts, &c.logits, &c.targets));
        expect_same_bytes("counts", c.counts, want);
    }
    release_all();
}

// A NaN is no guess, whichever it is.
static void check_nan(DType T, int64_t V) {
    Case c = {new_1d(I64, 2), new_2d(T, 2, V), new_1d(I32, 2)};
    const int64_t want[] = {2, 0};
    for (int d = 0; d < device_count(); d++) {
        begin_case("right guesses on %s: a NaN, V=%lld %s", device_at(d)->name, (long long)V,
                   dtype_name(T));
        memset(c.logits.data, 0, tensor_bytes(c.logits));
        for (int64_t n = 0; n < 2; n++) {
            tensor_i32(c.targets)[n] = n == 0 ? 0 : (int32_t)V - 1;
            if (T == F32)
                tensor_f32(c.logits)[n * V + V - 1] = NAN;
            else
                tensor_bf16(c.logits)[n * V + V - 1] = 0x7fc0;
        }
        tensor_i64(c.counts)[0] = tensor_i64(c.counts)[1] = 0;
        run_on(device_at(d), run, &c, TENSORS(&c.counts, &c.logits, &c.targets));
        expect_same_bytes("counts", c.counts, want);
    }
    release_all();
}

int main(void) {
    static const int64_t shapes[][2] = {{0, 5},    {1, 1},    {40, 2},    {33, 65},
                                        {18, 256}, {20, 257}, {12, 1000}, {9, 8193}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check(F32, shapes[i][0], shapes[i][1]);
        check(BF16, shapes[i][0], shapes[i][1]);
    }
    check_nan(F32, 300);
    check_nan(BF16, 300);
    return failures();
}
