// What multiplies P in the balance losses, and the losses themselves, against the words of each
// scope: f counted from the choices that the router made, over the tokens of the scope.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "comm/comm.h"
#include "gradient_check.h"
#include "model/moe_layer.h"
#include "model/router_balance.h"

enum { SEQUENCES = 4, T = 6, N = SEQUENCES * T, SHARDS = 2, E = 4, K = 2, MICRO_BATCHES = 3 };

static int wrong;

static void expect_near(const char *what, int64_t micro_batch, int64_t n, double got, double want) {
    // f32 rounds to 2^-24; the sum of P of a few tokens is exact to less.
    if (fabs(got - want) <= 1e-6 * fabs(want)) return;
    if (wrong++ < 5)
        printf("FAILED %s of micro-batch %lld, token %lld: %.9g, wanted %.9g\n", what,
               (long long)micro_batch, (long long)n, got, want);
}

// All choices of the step so far: those of micro-batch m are (m, N, K).
typedef struct Choices {
    int32_t ids[MICRO_BATCHES][N * K];
    double p[MICRO_BATCHES][N * E];
} Choices;

// f of the tokens around token n of micro-batch m, of expert e.
static double share(const Choices *choices, BalanceScope scope, int64_t m, int64_t n, int64_t e) {
    int64_t first = 0, count = N, first_batch = m;
    if (scope == BALANCE_STEP) first_batch = 0;
    if (scope == BALANCE_SHARD) count = N / SHARDS;
    if (scope == BALANCE_SEQUENCE) count = T;
    first = n / count * count;
    double chosen = 0, all = 0;
    for (int64_t b = first_batch; b <= m; b++)
        for (int64_t i = first * K; i < (first + count) * K; i++) {
            chosen += choices->ids[b][i] == e;
            all++;
        }
    return chosen / all;
}

static double softmax(const float *z, int64_t e) {
    double sum = 0;
    for (int64_t i = 0; i < E; i++) sum += exp((double)z[i] - (double)z[e]);
    return 1 / sum;
}

static void check_terms(const char *name, BalanceTerms terms) {
    GradientCase the_case = {.model = tiny_model()};
    the_case.model.moe.balance = terms;
    Device dev;
    Model model = {0};
    Error err = {0};
    CHECK(device_open(&dev, "cpu", 1, 0, 1, &err), "%s", err.message);
    ModelSplit split = {.ranks = 1,
                        .expert_parallel = 1,
                        .shards = SHARDS,
                        .sequences = SEQUENCES,
                        .context = T,
                        .micro_batches = MICRO_BATCHES,
                        .training = true};
    model_measure(&model, &the_case.model, split, &dev);
    model_allocate(&model, process_groups_open(1, &dev), 0);
    param_init(&model.params, &dev, model.values, 3);
    const Router *router = &((const MoeLayer *)model.blocks[1].feed_forward.state)->router;

    static Choices choices;
    double loss[BALANCE_TERMS_MAX] = {0}, per_token = 1.0 / (N * MICRO_BATCHES);
    for (int64_t m = 0; m < MICRO_BATCHES; m++) {
        int32_t tokens[N], targets[N];
        for (int64_t n = 0; n < N; n++) {
            uint32_t words[4];
            rng_words((RngStream){3, RNG_TEST, 0, 0}, (uint64_t)(m * N + n), words);
            tokens[n] = targets[n] = (int32_t)(words[0] % 5);
        }
        model_train_micro_batch(&model, tensor_1d(tokens, I32, N), tensor_1d(targets, I32, N), m,
                                0);
        for (int64_t i = 0; i < N * K; i++) choices.ids[m][i] = tensor_i32(router->ids)[i];
        for (int64_t i = 0; i < N * E; i++)
            choices.p[m][i] = softmax(tensor_f32(router->logits) + i / E * E, i % E);
        for (int64_t n = 0; n < N; n++)
            for (int64_t e = 0; e < E; e++) {
                double coefficient = 0;
                for (int64_t t = 0; t < terms.count; t++) {
                    double f =
                        share(&choices, (BalanceScope)terms.maps[t].scope, m, n, e) * E * per_token;
                    coefficient += terms.maps[t].factor * f;
                    loss[t] += f * choices.p[m][n * E + e];
                }
                int64_t part = n / (N / router->balance.shape[0]);
                expect_near("coefficient", m, n, (double)tensor_f32(router->balance)[part * E + e],
                            coefficient);
            }
    }
    statistics_reduce(&model.stats, &model.work);
    for (int64_t t = 0; t < terms.count; t++) {
        const char *column = router_balance_column(ROUTER_OF_FEED_FORWARD, &terms, t);
        expect_near(column, MICRO_BATCHES, 0, statistics_value(&model.stats, column, 1), loss[t]);
    }
    process_groups_close(&model.work.groups);
    model_free(&model);
    printf("%s %s\n", wrong ? "FAILED" : "ok    ", name);
}

int main(int argc, char **argv) {
    comm_init(&argc, &argv);
    check_terms("shard", (BalanceTerms){1, {{BALANCE_LOAD, BALANCE_SHARD, 0.3}}});
    check_terms("sequence", (BalanceTerms){1, {{BALANCE_LOAD, BALANCE_SEQUENCE, 0.3}}});
    check_terms("batch", (BalanceTerms){1, {{BALANCE_LOAD, BALANCE_BATCH, 0.3}}});
    check_terms("step", (BalanceTerms){1, {{BALANCE_LOAD, BALANCE_STEP, 0.3}}});
    check_terms("all", (BalanceTerms){4,
                                      {{BALANCE_LOAD, BALANCE_STEP, 0.3},
                                       {BALANCE_LOAD, BALANCE_SHARD, 2},
                                       {BALANCE_LOAD, BALANCE_BATCH, 0.1},
                                       {BALANCE_LOAD, BALANCE_SEQUENCE, 1}}});
    comm_finalize();
    return wrong > 0;
}
