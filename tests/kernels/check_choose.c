// Experts that no score chooses: the same ids on every device, by a reference that keeps the list
// of the experts that are left; shares of what is drawn by the binomial law.
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    int64_t K;
    ExpertDraw draw;
    Tensor ids, tokens, ends; // (N, K), (N) or none, (E) or none
} Case;

// Every word of the stream is in use; the counter's high half too.
static const RngStream forced = {
    .seed = 0x123456789abcdef, .purpose = RNG_FORCED, .a = 0x89abcdef, .b = 0xfedcba98};
static const int64_t far_token = ((int64_t)1 << 36) + 1000;

static void run_draw(Device *dev, void *context) {
    Case *c = context;
    choose_by_draw(dev, c->ids, c->tokens, c->ends, c->draw);
}
static void run_turn(Device *dev, void *context) {
    Case *c = context;
    choose_in_turn(dev, c->ids, c->draw.experts, c->draw.first_token);
}

typedef struct Heads {
    int64_t E;
    Tensor ids, out; // (N·H, K), (N, H·K)
} Heads;

static void run_heads(Device *dev, void *context) {
    Heads *c = context;
    choices_of_heads(dev, c->out, c->ids, c->E);
}

static void check_heads(int64_t N, int64_t H, int64_t K, int64_t E) {
    Heads c = {E, new_2d(I32, N * H, K), new_2d(I32, N, H * K)};
    Tensor wanted = new_2d(I32, N, H * K);
    for (int64_t n = 0; n < N; n++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t k = 0; k < K; k++) {
                int32_t e = (int32_t)random_below(E);
                tensor_i32(c.ids)[(n * H + h) * K + k] = e;
                tensor_i32(wanted)[n * H * K + h * K + k] = (int32_t)(h * E) + e;
            }
    for (int d = 0; d < device_count(); d++) {
        begin_case("of heads on %s N=%lld H=%lld K=%lld E=%lld", device_at(d)->name, (long long)N,
                   (long long)H, (long long)K, (long long)E);
        memset(c.out.data, 0xff, tensor_bytes(c.out));
        run_on(device_at(d), run_heads, &c, TENSORS(&c.ids, &c.out));
        expect_same_bytes("ids", c.out, wanted.data);
    }
    release_all();
}

static int32_t weight_of(Tensor ends, int64_t e) {
    if (!ends.data) return 1;
    return tensor_i32(ends)[e] - (e > 0 ? tensor_i32(ends)[e - 1] : 0);
}

// Walks along the experts that are left.
static void reference_draw(int32_t *ids, const Case *c, uint64_t number) {
    int64_t E = c->draw.experts, left = 0;
    int32_t *weight = new_1d(I32, E).data;
    for (int64_t e = 0; e < E; e++) left += weight[e] = weight_of(c->ends, e);
    for (int64_t k = 0; k < c->K; k++) {
        uint64_t word = rng_u32(c->draw.stream, number * (uint64_t)c->K + (uint64_t)k);
        int64_t r = (int64_t)(word * (uint64_t)left >> 32), e = 0;
        while (r >= weight[e]) r -= weight[e++];
        left -= weight[e];
        weight[e] = 0;
        ids[k] = (int32_t)e;
    }
}

static Tensor random_ends(int64_t E, int64_t most, int64_t without) {
    Tensor ends = new_1d(I32, E);
    int32_t sum = 0;
    for (int64_t e = 0; e < E; e++)
        tensor_i32(ends)[e] = sum += e < without ? 0 : (int32_t)(1 + random_below(most));
    return ends;
}

static void check_draw(int64_t N, int64_t K, int64_t E, bool by_token, Tensor ends) {
    Case c = {.K = K,
              .draw = {E, forced, by_token ? 0 : far_token},
              .tokens = by_token ? new_1d(I32, N) : (Tensor){0},
              .ends = ends};
    for (int64_t n = 0; by_token && n < N; n++) tensor_i32(c.tokens)[n] = (int32_t)random_below(9);
    Tensor want = new_2d(I32, N, K);
    for (int64_t n = 0; n < N; n++)
        reference_draw(tensor_i32(want) + n * K, &c,
                       by_token ? (uint64_t)tensor_i32(c.tokens)[n] : (uint64_t)(far_token + n));
    for (int d = 0; d < device_count(); d++) {
        begin_case("draw on %s N=%lld K=%lld E=%lld %s%s", device_at(d)->name, (long long)N,
                   (long long)K, (long long)E, by_token ? "by token id" : "by place",
                   ends.data ? " weighted" : "");
        c.ids = new_2d(I32, N, K);
        run_on(device_at(d), run_draw, &c, TENSORS(&c.ids, &c.tokens, &c.ends));
        expect_same_bytes("ids", c.ids, want.data);
    }
    expect_same_for_any_threads(run_draw, &c, &c.ids, 1);
    release_all();
}

static void check_turn(int64_t N, int64_t K, int64_t E) {
    Case c = {.K = K, .draw = {.experts = E, .first_token = far_token}};
    Tensor want = new_2d(I32, N, K);
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++)
            tensor_i32(want)[n * K + k] = (int32_t)(((far_token + n) * K + k) % E);
    for (int d = 0; d < device_count(); d++) {
        begin_case("in turn on %s N=%lld K=%lld E=%lld", device_at(d)->name, (long long)N,
                   (long long)K, (long long)E);
        c.ids = new_2d(I32, N, K);
        run_on(device_at(d), run_turn, &c, TENSORS(&c.ids));
        expect_same_bytes("ids", c.ids, want.data);
    }
    release_all();
}

// The first and the second choice of expert e have the probabilities w_e / W and
// Σ_{i ≠ e} w_i / W · w_e / (W - w_i). Counts lie within 5 standard deviations, which the few
// fixed words do or do not.
static void check_shares(void) {
    enum { N = 20000, E = 5 };
    static const double w[E] = {1, 7, 0, 3, 12};
    Case c = {.K = 2, .draw = {E, forced, 0}, .ends = new_1d(I32, E), .ids = new_2d(I32, N, 2)};
    double W = 0;
    for (int e = 0; e < E; e++) tensor_i32(c.ends)[e] = (int32_t)(W += w[e]);
    run_draw(device_at(0), &c);
    for (int k = 0; k < 2; k++)
        for (int e = 0; e < E; e++) {
            double p = k == 0 ? w[e] / W : 0, count = 0;
            for (int i = 0; k == 1 && i < E; i++)
                if (i != e) p += w[i] / W * w[e] / (W - w[i]);
            for (int n = 0; n < N; n++) count += tensor_i32(c.ids)[n * 2 + k] == e;
            begin_case("shares of expert %d as choice %d", e, k);
            expect(fabs(count - N * p) <= 5 * sqrt(N * p * (1 - p)), "%g of %d, expected %g", count,
                   N, N * p);
        }
    release_all();
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        Case c = {.K = 8, .draw = {64, forced, 0}, .ids = new_2d(I32, 8192, 8)};
        double seconds = time_call(run_draw, device_at(0), &c);
        printf("draw of 8 of 64 for 8192 tokens: %.3f ms\n", seconds * 1e3);
        return 0;
    }
    check_turn(7, 1, 1);
    check_turn(33, 3, 8);
    check_turn(300, 2, 64);
    check_heads(1, 1, 1, 1);
    check_heads(75, 3, 4, 9);
    check_heads(40, 16, 2, 64);
    check_draw(50, 1, 1, false, (Tensor){0});
    check_draw(300, 2, 8, false, (Tensor){0});
    check_draw(300, 8, 8, true, (Tensor){0});
    check_draw(200, 64, 1024, false, (Tensor){0});
    check_draw(129, 3, 40, true, random_ends(40, 1000, 0));
    check_draw(129, 64, 64, false, random_ends(64, 1 << 18, 0));
    check_draw(129, 5, 9, false, random_ends(9, 3, 4)); // as many as have a weight
    check_shares();
    return failures();
}
