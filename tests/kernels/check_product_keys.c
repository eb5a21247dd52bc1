// Product keys: the experts that a query finds against all n² of them in order, weights and
// gradients against sums in double, on every device.
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Case {
    Tensor ids, weights, first, second; // (R, k), (R, n)
    Tensor dweights, dsums, first_keys, second_keys;
    Tensor spread; // (R, n), of the second keys, several of which are one
} Case;

static Case new_case(int64_t R, int64_t n, int64_t k) {
    return (Case){.ids = new_2d(I32, R, k),
                  .weights = new_2d(F32, R, k),
                  .first = random_2d(R, n),
                  .second = random_2d(R, n),
                  .dweights = random_2d(R, k),
                  .dsums = new_2d(F32, R, k),
                  .first_keys = new_2d(I32, R, k),
                  .second_keys = new_2d(I32, R, k),
                  .spread = new_2d(F32, R, n)};
}

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    product_keys_forward(dev, c->ids, c->weights, c->first, c->second);
    product_keys_backward(dev, c->dsums, c->first_keys, c->second_keys, c->dweights, c->ids,
                          c->weights, c->first.shape[1]);
    spread_sums(dev, c->spread, c->dsums, c->second_keys);
}

static void run_case(Device *dev, Case *c) {
    run_on(dev, run_ops, c,
           TENSORS(&c->ids, &c->weights, &c->first, &c->second, &c->dweights, &c->dsums,
                   &c->first_keys, &c->second_keys, &c->spread));
}

typedef struct Pair {
    float sum;
    int64_t i, j, rank_i, rank_j; // keys, and their places among those of their half
} Pair;

static int compare(const void *a, const void *b) {
    const Pair *x = a, *y = b;
    if (x->sum != y->sum) return x->sum > y->sum ? -1 : 1;
    if (x->rank_i != y->rank_i) return x->rank_i < y->rank_i ? -1 : 1;
    return (x->rank_j > y->rank_j) - (x->rank_j < y->rank_j);
}

static void rank_all(int64_t *ranks, const float *scores, int64_t n) {
    for (int64_t key = 0; key < n; key++) {
        ranks[key] = 0;
        for (int64_t i = 0; i < n; i++)
            ranks[key] += scores[i] > scores[key] || (scores[i] == scores[key] && i < key);
    }
}

// All n² sums, in order.
static void sort_pairs(Pair *pairs, const float *a, const float *b, int64_t n) {
    enum { MOST = 1024 };
    int64_t ranks_a[MOST], ranks_b[MOST];
    CHECK(n <= MOST, "%lld keys", (long long)n);
    rank_all(ranks_a, a, n);
    rank_all(ranks_b, b, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            pairs[i * n + j] = (Pair){a[i] + b[j], i, j, ranks_a[i], ranks_b[j]};
    qsort(pairs, (size_t)(n * n), sizeof *pairs, compare);
}

static void check_on(Device *dev, int64_t R, int64_t n, int64_t k, bool ties) {
    begin_case("product keys on %s R=%lld n=%lld k=%lld%s", dev->name, (long long)R, (long long)n,
               (long long)k, ties ? ", ties" : "");
    Case c = new_case(R, n, k);
    for (int64_t i = 0; ties && i < R * n; i++) { // few different scores
        tensor_f32(c.first)[i] = (float)random_below(3);
        tensor_f32(c.second)[i] = (float)random_below(3);
    }
    Pair *pairs = malloc((size_t)(n * n) * sizeof *pairs);
    CHECK(pairs, "no memory");
    Tensor want_ids = new_2d(I32, R, k);
    Tensor want_first = new_2d(I32, R, k), want_second = new_2d(I32, R, k);
    double *want = new_doubles(R * k), *dsums = new_doubles(R * k);
    for (int64_t r = 0; r < R; r++) {
        double total = 0, mean = 0;
        sort_pairs(pairs, tensor_f32(c.first) + r * n, tensor_f32(c.second) + r * n, n);
        for (int64_t i = 0; i < k; i++) {
            tensor_i32(want_ids)[r * k + i] = (int32_t)(pairs[i].i * n + pairs[i].j);
            total += want[r * k + i] = exp((double)pairs[i].sum - (double)pairs[0].sum);
        }
        for (int64_t i = 0; i < k; i++) {
            want[r * k + i] /= total;
            mean += want[r * k + i] * (double)tensor_f32(c.dweights)[r * k + i];
        }
        for (int64_t i = 0; i < k; i++) {
            tensor_i32(want_first)[r * k + i] = (int32_t)pairs[i].i;
            tensor_i32(want_second)[r * k + i] = (int32_t)pairs[i].j;
            dsums[r * k + i] = want[r * k + i] * ((double)tensor_f32(c.dweights)[r * k + i] - mean);
        }
    }
    free(pairs);
    run_case(dev, &c);
    expect_same_bytes("ids", c.ids, want_ids.data);
    // A sum of k exponentials below 1 and what expf itself strays; gradients are below 2.
    double steps = (double)(k + 8) * F32_EPS;
    expect_near("weights", c.weights, want, steps, NULL, 0);
    expect_near("dsums", c.dsums, dsums, steps, NULL, 2 * steps);
    expect_same_bytes("first keys", c.first_keys, want_first.data);
    expect_same_bytes("second keys", c.second_keys, want_second.data);
    float *spread = new_2d(F32, R, n).data;
    memset(spread, 0, (size_t)(R * n) * sizeof *spread);
    for (int64_t i = 0; i < R * k; i++)
        spread[i / k * n + tensor_i32(want_second)[i]] += tensor_f32(c.dsums)[i];
    expect_same_bytes("spread sums", c.spread, spread);
    if (dev->place == ON_HOST)
        expect_same_for_any_threads(run_ops, &c, (Tensor[]){c.ids, c.weights, c.dsums, c.spread},
                                    4);
    release_all();
}

// Whatever the scores are, experts are those that there are.
static void check_not_a_number(Device *dev) {
    enum { R = 21, N = 9, K = 4 }; // more than stand side by side
    begin_case("product keys of scores that are no numbers on %s", dev->name);
    Case c = new_case(R, N, K);
    for (int64_t i = 0; i < R * N; i++) {
        int64_t kind = i / N % 5;
        if (kind == 1 || (kind == 2 && i % 2)) tensor_f32(c.first)[i] = NAN;
        if (kind == 3) tensor_f32(c.second)[i] = -INFINITY;
        if (kind == 4 && i % 3 == 0) tensor_f32(c.second)[i] = INFINITY;
    }
    run_case(dev, &c);
    for (int64_t i = 0; i < R * K; i++)
        expect(tensor_i32(c.ids)[i] >= 0 && tensor_i32(c.ids)[i] < N * N, "expert %d",
               (int)tensor_i32(c.ids)[i]);
    Tensor found = copy_of(c.ids); // as those of the smallest scores
    for (int64_t i = 0; i < R * N; i++)
        if (isnan(tensor_f32(c.first)[i])) tensor_f32(c.first)[i] = -INFINITY;
    run_case(dev, &c);
    expect_same_bytes("ids", c.ids, found.data);
    release_all();
}

static void bench(int64_t R, int64_t n, int64_t k) {
    Case c = new_case(R, n, k);
    Device dev = open_cpu(1);
    printf("product keys, forward and backward, R=%lld n=%lld k=%lld: %.3f ms\n", (long long)R,
           (long long)n, (long long)k, 1e3 * time_call(run_ops, &dev, &c));
    release_all();
}

int main(int argc, char **argv) {
    static const int64_t shapes[][3] = {// R, n, k
                                        {0, 4, 2},   {1, 1, 1},    {7, 5, 5},    {9, 8, 3},
                                        {3, 70, 64}, {5, 33, 33},  {6, 130, 16}, {2, 700, 64},
                                        {2, 600, 3}, {37, 36, 30}, {50, 64, 2},  {35, 64, 64}};
    if (wants_bench(argc, argv)) {
        bench(4096, 32, 16);
        bench(4096, 1024, 16);
        return 0;
    }
    for (int d = 0; d < device_count(); d++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int ties = 0; ties < 2; ties++)
                check_on(device_at(d), shapes[s][0], shapes[s][1], shapes[s][2], ties);
        check_not_a_number(device_at(d));
    }
    return failures();
}
