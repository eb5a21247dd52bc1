// The step graph has the FLOPs and bytes that the plan has.
#include "worker/simulation/step_graph.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "launcher/config.h"
#include "launcher/config_rules.h"
#include "worker/plan.h"

enum { VOCABULARY = 256, MOST_WORDS = 8 };

static const char TEXT[] = "data.train: x\n"
                           "model: {d_model: 64, layers: 4}\n"
                           "attention: {heads: 4, kv_heads: 2}\n"
                           "moe: {experts: 16, top_k: 2, d_ff: 96, every: 2}\n"
                           "train: {batch: 16, context: 32, shards: 16, micro_batches: 2}\n";

// Of the text with changes, on so many ranks.
static TrainConfig *read(int ranks, const char *const *words) {
    Config *config = config_new();
    TrainConfig *train = calloc(1, sizeof *train);
    Error err = {0};
    int count = 0;
    while (words[count]) count++;
    if (!config_read(config, "graph.yaml", TEXT, strlen(TEXT), words, count, &err) ||
        !config_check_ranks(config, ranks, train, &err))
        fail_msg("%s", err.message);
    train->model.vocab_size = VOCABULARY;
    free(config);
    return train;
}

static StepGraph graph_of(const TrainConfig *train, int ranks) {
    StepGraph graph;
    Error err = {0};
    if (!step_graph_make(&graph, train, ranks, &err)) fail_msg("%s", err.message);
    return graph;
}

static void assert_near(double x, double wanted) {
    if (fabs(x - wanted) > 1e-9 * fabs(wanted)) fail_msg("%.3f, %.3f wanted", x, wanted);
}

// What the first rank sends in a step.
static void assert_as_planned(int ranks, const char *const *words) {
    TrainConfig *train = read(ranks, words);
    StepGraph graph = graph_of(train, ranks);
    Plan plan;
    Error err = {0};
    assert_true(plan_make(train, (PlanHost){ranks, 1, ON_HOST}, &plan, &err));
    double flops = graph.head_flops, exchanged = 0, summed = 0;
    int64_t ep = graph.expert_parallel, layers = graph.half_count / 2;
    double tokens = (double)(train->batch * train->context);
    double own = graph.shard_tokens * (double)(shard_runs_most(graph.deal) * graph.micro_batches);
    for (int64_t i = 0; i < graph.half_count; i++) {
        const GraphHalf *half = &graph.halves[i];
        double padding = half->padded ? half->most_share * (double)half->experts : 1;
        flops += half->flops + half->expert_flops;
        exchanged += 2 * half->token_bytes * padding * own * (double)(ep - 1) / (double)ep;
    }
    for (int64_t i = 0; i < layers + 2; i++)
        summed += (double)tree_sum_sent_bytes(graph.deal, (int64_t)graph.sums[i].dense, F32) +
                  (double)all_reduce_sum_sent_bytes(ranks / (int)ep, (int64_t)graph.sums[i].expert,
                                                    F32, REDUCE_FIXED_TREE);
    assert_near(3 * flops, plan.train_flops_per_token);
    assert_near(graph.flops, tokens * plan.train_flops_per_token);
    assert_near(exchanged, plan.sent_bytes[TRAFFIC_DISPATCH] + plan.sent_bytes[TRAFFIC_COMBINE]);
    assert_near(summed * (double)graph.micro_batches, plan.sent_bytes[TRAFFIC_GRADIENTS]);
    step_graph_free(&graph);
    free(train);
}

static void a_graph_has_what_the_plan_has(void **state) {
    (void)state;
    static const char *const none[MOST_WORDS] = {NULL};
    static const char *const replicas[MOST_WORDS] = {"parallel.expert=2", NULL};
    static const char *const padded[MOST_WORDS] = {"moe.dispatch=padded", "moe.capacity_factor=1.5",
                                                   NULL};
    static const char *const others[MOST_WORDS] = {
        "train.precision=bf16",       "model.mixer=moa",
        "attention.experts=8",        "attention.kv_heads=1",
        "model.tied_embeddings=true", NULL};
    static const char *const ahead[MOST_WORDS] = {"mtp.layers=1", NULL};
    for (int ranks = 1; ranks <= 8; ranks *= 2) {
        assert_as_planned(ranks, none);
        assert_as_planned(ranks, padded);
        assert_as_planned(ranks, others);
        assert_as_planned(ranks, ahead);
    }
    assert_as_planned(8, replicas);
}

static void a_skewed_load_is_what_a_draw_without_repeats_makes_of_its_weights(void **state) {
    (void)state;
    static const char *const skewed[MOST_WORDS] = {"moe.force=skewed", "moe.force_sigma=3", NULL};
    TrainConfig *train = read(4, skewed);
    StepGraph graph = graph_of(train, 4);
    step_graph_skew(&graph, train);
    int64_t routed = 0;
    for (int64_t i = 0; i < graph.half_count; i++) {
        const GraphHalf *half = &graph.halves[i];
        double sum = 0, most = 0;
        assert_true(half->routed == (half->load != NULL));
        for (int64_t e = 0; half->load && e < half->experts; e++) {
            sum += half->load[e];
            most = fmax(most, half->load[e]);
        }
        if (!half->load) continue;
        routed++;
        assert_near(sum, 1);
        assert_true(most > 0.25 && most <= 0.5); // one of a token's two choices at most
    }
    assert_int_equal(routed, 2);
    step_graph_free(&graph);
    free(train);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_graph_has_what_the_plan_has),
        cmocka_unit_test(a_skewed_load_is_what_a_draw_without_repeats_makes_of_its_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
