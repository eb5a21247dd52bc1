// Capacity, permutation, dispatch and combine: the integer parts exactly, the sums against the reference.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    int64_t N, K, E, parts, capacity;
    DropPolicy policy;
    Tensor ids, weights, kept, routed, dropped, order, slot_row, row_choice, counts;
    Tensor x, rows, out, dout, dy, dweights, scaled, dscaled, dscaled_before;
} Case;

static const RngStream drop_stream = {.seed = 7, .purpose = RNG_DROP, .a = 3, .b = 1};
static const int64_t first_token = 1000;

// Routing of N tokens to K different experts; `used` experts get all the tokens, the others starve.
static Case new_case(int64_t N, int64_t K, int64_t E, int64_t used, int64_t parts, int64_t D) {
    Case c = {.N = N, .K = K, .E = E, .parts = parts, .capacity = -1};
    c.ids = new_2d(I32, N, K);
    c.weights = random_2d(N, K);
    for (int64_t n = 0; n < N; n++) {
        int64_t first = random_below(used);
        for (int64_t k = 0; k < K; k++) {
            tensor_i32(c.ids)[n * K + k] = (int32_t)((first + k) % used);
            float *w = tensor_f32(c.weights) + n * K + k; // few different ones: ties
            *w = (float)(1 + random_below(9)) / 16.0f;
        }
    }
    c.kept = new_2d(U8, N, K);
    c.routed = new_2d(I32, parts, E);
    c.dropped = new_2d(I32, parts, E);
    c.order = new_1d(I32, N * K + E + 1);
    c.slot_row = new_2d(I32, N, K);
    c.row_choice = new_1d(I32, N * K);
    c.counts = new_2d(I32, E, parts);
    c.x = random_2d(N, D);
    c.rows = new_2d(F32, N * K, D);
    c.out = new_2d(F32, N, D);
    c.dout = random_2d(N, D);
    c.dy = new_2d(F32, N * K, D);
    c.dweights = new_2d(F32, N, K);
    c.scaled = new_2d(F32, N, K);
    c.dscaled = new_2d(F32, N, K);
    c.dscaled_before = random_2d(N, K);
    return c;
}

static int64_t kept_rows(const Case *c) {
    int64_t rows = 0;
    for (int64_t i = 0; i < c->E * c->parts; i++) rows += tensor_i32(c->counts)[i];
    return rows;
}

static void run_plan(Device *dev, void *context) {
    Case *c = context;
    capacity_assign(dev, c->kept, c->routed, c->dropped, c->ids, c->weights, c->parts, c->capacity,
                    c->policy, drop_stream, first_token, c->order);
    permutation_plan(dev, c->slot_row, c->row_choice, c->counts, c->ids, c->kept, c->parts);
}
static void run_exchange(Device *dev, void *context) {
    Case *c = context;
    memcpy(c->dscaled.data, c->dscaled_before.data, tensor_bytes(c->dscaled));
    renormalize_forward(dev, c->scaled, c->weights, c->kept);
    renormalize_backward(dev, c->dscaled, c->scaled, c->weights, c->kept);
    gather_rows(dev, c->rows, c->x, c->row_choice, kept_rows(c), c->K);
    combine_forward(dev, c->out, c->rows, c->slot_row, c->weights);
    combine_backward(dev, c->dy, c->dweights, c->dout, c->rows, c->slot_row, c->weights);
}
static void run_all(Device *dev, void *context) {
    run_plan(dev, context);
    run_exchange(dev, context);
}

static void check_plan(Case *c) {
    int64_t choices = c->N / c->parts * c->K;
    uint8_t *kept = new_2d(U8, c->N, c->K).data;
    int32_t *routed = new_2d(I32, c->parts, c->E).data, *dropped = new_2d(I32, c->parts, c->E).data;
    for (int64_t p = 0; p < c->parts; p++)
        reference_capacity_assign(
            kept + p * choices, routed + p * c->E, dropped + p * c->E,
            tensor_i32(c->ids) + p * choices, tensor_f32(c->weights) + p * choices, c->N / c->parts,
            c->K, c->E, c->capacity, c->policy, drop_stream, first_token + p * c->N / c->parts);
    expect_same_bytes("kept", c->kept, kept);
    expect_same_bytes("routed", c->routed, routed);
    expect_same_bytes("dropped", c->dropped, dropped);
    int32_t *slot_row = new_2d(I32, c->N, c->K).data, *row_choice = new_1d(I32, c->N * c->K).data;
    int32_t *counts = new_2d(I32, c->E, c->parts).data;
    reference_permutation_plan(slot_row, row_choice, counts, tensor_i32(c->ids), kept, c->N, c->K,
                               c->E, c->parts);
    expect_same_bytes("slot_row", c->slot_row, slot_row);
    expect_same_bytes("row_choice", c->row_choice, row_choice);
    expect_same_bytes("counts", c->counts, counts);
}

static void check_exchange(Device *dev, Case *c) {
    int64_t N = c->N, K = c->K, D = c->x.shape[1], rows = kept_rows(c);
    const int32_t *slot_row = tensor_i32(c->slot_row);
    const float *w = tensor_f32(c->weights);
    bool gathered = true;
    for (int64_t r = 0; r < rows; r++)
        gathered = gathered && memcmp(tensor_f32(c->rows) + r * D,
                                      tensor_f32(c->x) + tensor_i32(c->row_choice)[r] / K * D,
                                      (size_t)D * sizeof(float)) == 0;
    expect(gathered, "gathered rows are not their tokens'");
    double *out = new_doubles(N * D), *dy = new_doubles(N * K * D), *dw = new_doubles(N * K);
    // Numbers below 1: K products and sums forward, D in a gate's gradient.
    double forward_error = F32_EPS * 2 * (double)K, dot_error = F32_EPS * (4 + 2 * sqrt((double)D));
    reference_combine_forward(out, tensor_f32(c->rows), slot_row, w, N, D, K);
    expect_near("out", c->out, out, 0, NULL, forward_error);
    reference_combine_backward(dy, dw, tensor_f32(c->dout), tensor_f32(c->rows), slot_row, w, N, D,
                               K);
    expect_near("dy", tensor_rows(c->dy, 0, rows), dy, F32_EPS, NULL, 0);
    expect_near("dweights", c->dweights, dw, 0, NULL, dot_error * sqrt((double)D));
    reference_renormalize_forward(dw, w, tensor_u8(c->kept), N, K);
    expect_near("scaled", c->scaled, dw, F32_EPS * (double)(K + 2), NULL, 0);
    reference_renormalize_backward(dw, tensor_f32(c->dscaled_before), w, tensor_u8(c->kept), N, K);
    // Divides by a sum of weights that is at least 1/16.
    expect_near("dweights of scaled", c->dscaled, dw, 0, NULL, 16 * F32_EPS * 4 * (double)(K + 1));

    // In place, and with all weights 1: out is then the sum of x over the kept choices.
    Tensor in_place = copy_of(c->rows), dweights = new_2d(F32, N, K);
    combine_backward(dev, in_place, dweights, c->dout, in_place, c->slot_row, c->weights);
    expect_same_bytes("dy in place", tensor_rows(in_place, 0, rows), c->dy.data);
    expect_same_bytes("dweights in place", dweights, c->dweights.data);
    combine_forward(dev, c->out, c->rows, c->slot_row, tensor_2d(NULL, F32, N, K));
    reference_combine_forward(out, tensor_f32(c->rows), slot_row, NULL, N, D, K);
    expect_near("out with weights 1", c->out, out, 0, NULL, forward_error * (double)K);
}

static void check(int64_t N, int64_t K, int64_t E, int64_t used, int64_t parts, int64_t D) {
    static const int64_t capacities[] = {-1, 0, 1, 3, 1000000};
    for (size_t i = 0; i < sizeof capacities / sizeof *capacities; i++)
        for (int policy = DROP_POSITION; policy <= DROP_RANDOM; policy++) {
            begin_case("N=%lld K=%lld E=%lld (%lld used) parts=%lld capacity=%lld policy %d",
                       (long long)N, (long long)K, (long long)E, (long long)used, (long long)parts,
                       (long long)capacities[i], policy);
            Case c = new_case(N, K, E, used, parts, D);
            c.capacity = capacities[i];
            c.policy = (DropPolicy)policy;
            Device dev = open_cpu(0);
            run_all(&dev, &c);
            check_plan(&c);
            check_exchange(&dev, &c);
            expect_same_for_any_threads(run_all, &c,
                                        (Tensor[]){c.kept, c.slot_row, c.row_choice, c.counts,
                                                   c.rows, c.out, c.dy, c.dweights, c.scaled,
                                                   c.dscaled},
                                        10);
            release_all();
        }
}

// Identity experts, nothing dropped, weights that sum to 1: the layer returns its input.
static void check_identity(void) {
    begin_case("combine after dispatch is the identity");
    Case c = new_case(50, 2, 8, 8, 2, 24);
    for (int64_t n = 0; n < c.N; n++) // halves and quarters: exact in f32
        tensor_f32(c.weights)[2 * n] = 0.75f, tensor_f32(c.weights)[2 * n + 1] = 0.25f;
    Device dev = open_cpu(0);
    run_all(&dev, &c);
    double *want = new_doubles(c.N * 24);
    for (int64_t i = 0; i < c.N * 24; i++) want[i] = (double)tensor_f32(c.x)[i];
    expect_near("out", c.out, want, F32_EPS, NULL, 0);
    release_all();
}

static void bench(int64_t N, int64_t K, int64_t E, int64_t D, DropPolicy policy) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = new_case(N, K, E, E, 1, D);
        c.capacity = policy == DROP_POSITION ? -1 : N * K / E;
        c.policy = policy;
        double plan = time_call(run_plan, &dev, &c), exchange = time_call(run_exchange, &dev, &c);
        printf("%lld tokens, top-%lld of %lld, D %lld, policy %d, %d threads: plan %.1f us, "
               "exchange %.1f us, %.1f GB/s\n",
               (long long)N, (long long)K, (long long)E, (long long)D, policy, threads, 1e6 * plan,
               1e6 * exchange, 4e-9 * (double)(kept_rows(&c) * D * 7) / exchange);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(512, 2, 8, 128, DROP_POSITION);
        bench(4096, 2, 8, 256, DROP_POSITION);
        bench(4096, 2, 512, 256, DROP_POSITION);
        bench(4096, 8, 512, 256, DROP_PROBABILITY);
        bench(4096, 8, 64, 256, DROP_RANDOM);
        return 0;
    }
    check(0, 2, 4, 4, 1, 8);
    check(1, 1, 1, 1, 1, 1);
    check(13, 3, 5, 4, 1, 17);
    check(64, 2, 8, 8, 4, 33);
    check(40, 8, 512, 300, 2, 16);
    check_identity();
    return failures();
}
