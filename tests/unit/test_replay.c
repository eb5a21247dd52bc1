// A step of two ranks with one layer, replayed, against what it comes to by hand: products of 1
// MFLOP a second, memory that costs nothing, messages of half a second and 100 kB a second.
#include "worker/simulation/replay.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const Link WIRE = {.latency = 0.5, .gap = 0.25, .bandwidth = 1e5};

typedef struct Example {
    GraphHalf halves[2];
    GraphSum sums[3]; // embedding, layer, output
    double load[4];
    StepGraph graph;
    Cluster cluster;
} Example;

// Forward 1 s of attention and 2 s of experts, each way 1 s; backward twice the computing.
static Example *example(void) {
    static Example e;
    e = (Example){
        .halves = {{.flops = 1e4, .most_share = INFINITY},
                   {.expert_flops = 2e4,
                    .experts = 4,
                    .token_bytes = 2e3,
                    .routed = true,
                    .most_share = INFINITY}},
        .graph = {.ranks = 2,
                  .expert_parallel = 2,
                  .micro_batches = 1,
                  .deal = {8, 2, 2},
                  .fixed_tree = true,
                  .shard_tokens = 25,
                  .chunks = 1,
                  .half_count = 2,
                  .statistics = 1,
                  .flops = 18e6},
        .cluster = {.products = 1e6,
                    .memory = INFINITY,
                    .reached = 1,
                    .node_ranks = 2,
                    .between_links = 1,
                    .inside = WIRE},
    };
    e.graph.halves = e.halves;
    e.graph.sums = e.sums;
    return &e;
}

static void share_among(Example *e, int64_t ranks, int64_t expert_parallel) {
    e->graph.ranks = ranks;
    e->graph.expert_parallel = expert_parallel;
    e->graph.deal = (ShardDeal){8, ranks, expert_parallel};
}

static const double SMALL_SUMS = 5 * 2 * (0.5 + 4 / 1e5); // there and back, of half of 8 bytes

static void assert_near(double x, double wanted) {
    if (fabs(x - wanted) > 1e-9) fail_msg("%.9f, %.9f wanted", x, wanted);
}

static void assert_parts(StepForecast step, double compute, double imbalance, double wait,
                         double exchange, double reduction) {
    const double wanted[STEP_PARTS] = {compute, imbalance, wait, exchange, reduction, SMALL_SUMS};
    for (int i = 0; i < STEP_PARTS; i++)
        if (fabs(step.parts[i] - wanted[i]) > 1e-9)
            fail_msg("%s %.9f, %.9f wanted", STEP_PART_NAMES[i], step.parts[i], wanted[i]);
    assert_near(step.seconds, step_parts_sum(wanted));
}

static void a_step_is_what_it_computes_and_sends(void **state) {
    (void)state;
    Example *e = example();
    e->sums[1] = (GraphSum){.dense = 1000};
    // 2000 bytes to the other rank and as many back.
    StepForecast step = replay_step(&e->graph, &e->cluster);
    assert_parts(step, 9, 0, 0, 4, 2 * (0.5 + 0.02));
    assert_near(step.gemm_share, 18 / 2 / step.seconds);
}

static void one_rank_sends_nothing(void **state) {
    (void)state;
    Example *e = example();
    share_among(e, 1, 1);
    e->halves[1].token_bytes = 0;
    e->cluster.step = 0.125;
    StepForecast step = replay_step(&e->graph, &e->cluster);
    assert_near(step.seconds, 18.125);
    assert_near(step.parts[PART_COMPUTE], 18.125);
}

// With chunks: the first arrives after 0.75 s, the second while it is computed, 1 s each; the last
// returns in 0.75 s. Backward they are 2 s each.
static void chunks_travel_while_others_are_computed(void **state) {
    (void)state;
    Example *e = example();
    e->graph.chunks = 2;
    e->cluster.overlap = true;
    assert_parts(replay_step(&e->graph, &e->cluster), 9, 0, 0, 4 * 0.75, 0);
    e->cluster.overlap = false; // all of them are waited for
    assert_parts(replay_step(&e->graph, &e->cluster), 9, 0, 0, 8 * 0.75, 0);
    e->halves[1].experts = 6; // three of a rank are not cut in two
    assert_parts(replay_step(&e->graph, &e->cluster), 9, 0, 0, 4, 0);
}

// The output's gradients are ready when backward begins, which takes 8 s; meanwhile the links are
// the exchange's for 2 s.
static void sums_of_gradients_hide_behind_the_backward_pass(void **state) {
    (void)state;
    Example *e = example();
    e->cluster.overlap = true;
    e->sums[2] = (GraphSum){.dense = 100000}; // 200 kB there and back
    assert_parts(replay_step(&e->graph, &e->cluster), 9, 0, 0, 4, 0);
    e->sums[2] = (GraphSum){.dense = 200000}; // 9 s
    assert_parts(replay_step(&e->graph, &e->cluster), 9, 0, 0, 4, 3);
    e->cluster.overlap = false;
    assert_parts(replay_step(&e->graph, &e->cluster), 9, 0, 0, 4, 9);
}

// Three quarters of the choices are the first rank's: 75 kB come in, 3 s forward, 6 s backward.
static void a_busy_expert_makes_the_others_wait(void **state) {
    (void)state;
    Example *e = example();
    e->halves[1].load = e->load;
    e->load[0] = e->load[1] = 0.375;
    e->load[2] = e->load[3] = 0.125;
    assert_parts(replay_step(&e->graph, &e->cluster), 9, 3, 0, 4 * 1.25, 0);
    e->halves[1].most_share = 0.25; // as much as is even, by capacity: the rest of it is dropped
    assert_parts(replay_step(&e->graph, &e->cluster), 7.5, 1.5, 0, 4, 0);
    e->halves[1].padded = true; // all experts take so much, of whatever
    assert_parts(replay_step(&e->graph, &e->cluster), 9, 0, 0, 4, 0);
}

// Four ranks in two nodes: one message inside, two between, which two ranks send at once.
static void messages_take_the_links_of_their_nodes(void **state) {
    (void)state;
    Example *e = example();
    share_among(e, 4, 4);
    e->cluster.between = (Link){.latency = 2, .gap = 1, .bandwidth = 5e4};
    // 50 tokens of a rank, a quarter of each to each: 12.5 kB inside, 25 kB between.
    double way = 0.5 + 0.125 + 2 + 1 + 25e3 / 25e3;
    StepForecast step = replay_step(&e->graph, &e->cluster);
    assert_near(step.parts[PART_COMPUTE], 4.5);
    assert_near(step.parts[PART_EXCHANGE], 4 * way);
    e->cluster.between_links = 2;
    way = 0.5 + 0.125 + 2 + 1 + 25e3 / 5e4;
    step = replay_step(&e->graph, &e->cluster);
    assert_near(step.parts[PART_EXCHANGE], 4 * way);
    // Halving: half of the bytes to the neighbour, a quarter to the other node; and back.
    e->halves[1].token_bytes = 0;
    e->sums[0] = (GraphSum){.dense = 100000};
    step = replay_step(&e->graph, &e->cluster);
    assert_near(step.parts[PART_REDUCTION], 2 * (0.5 + 2 + 2 + 2));
}

// Two ranks hold the same experts: the expert's gradients travel between these, not in a group.
static void replicas_of_experts_sum_their_gradients(void **state) {
    (void)state;
    Example *e = example();
    share_among(e, 4, 2);
    e->cluster.between = WIRE;
    e->sums[0] = (GraphSum){.expert = 50000}; // 100 kB to the replica, which is in the other node
    e->cluster.between_links = 2;
    StepForecast step = replay_step(&e->graph, &e->cluster);
    assert_near(step.parts[PART_REDUCTION], 2 * 1.5);
}

static void three_ranks_give_each_other_slices(void **state) {
    (void)state;
    Example *e = example();
    share_among(e, 3, 1);
    e->cluster.node_ranks = 3;
    e->sums[0] = (GraphSum){.dense = 75000}; // 100 kB to each of two, together
    StepForecast step = replay_step(&e->graph, &e->cluster);
    assert_near(step.parts[PART_REDUCTION], 2 * (0.5 + 0.25 + 2));
    // Four of eight shards are the first rank's, two each of the others.
    assert_near(step.parts[PART_COMPUTE], 6);
    assert_near(step.parts[PART_IMBALANCE], 3);
    // Three, three and two, of which ranks send two partial sums at most.
    share_among(e, 3, 3);
    e->halves[1].token_bytes = 0;
    step = replay_step(&e->graph, &e->cluster);
    assert_near(step.parts[PART_REDUCTION], 3 * (0.5 + 0.25 + 2));
}

static void ranks_that_share_a_cpu_take_turns(void **state) {
    (void)state;
    Example *e = example();
    e->cluster.node_cpus = 1;
    StepForecast step = replay_step(&e->graph, &e->cluster);
    assert_near(step.parts[PART_COMPUTE], 18);
    assert_near(step.parts[PART_EXCHANGE], 8); // copies are theirs too
    e->halves[1].load = e->load;
    e->load[0] = 1; // all of the experts' work is the first rank's, which has the CPU to itself
    step = replay_step(&e->graph, &e->cluster);
    assert_near(step.parts[PART_COMPUTE], (18 + 6) / 2.0);
    assert_near(step.parts[PART_IMBALANCE], 6);
}

static void ranks_of_a_node_share_its_memory(void **state) {
    (void)state;
    Example *e = example();
    e->graph.update_bytes = 6e6;
    e->cluster.memory = 6e6;
    e->cluster.node_memory = 20e6;
    assert_near(replay_step(&e->graph, &e->cluster).parts[PART_COMPUTE], 10); // enough for both
    e->cluster.node_memory = 6e6;
    assert_near(replay_step(&e->graph, &e->cluster).parts[PART_COMPUTE], 11);
    e->cluster.node_cpus = 1; // they take turns
    assert_near(replay_step(&e->graph, &e->cluster).parts[PART_COMPUTE], 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_what_it_computes_and_sends),
        cmocka_unit_test(one_rank_sends_nothing),
        cmocka_unit_test(chunks_travel_while_others_are_computed),
        cmocka_unit_test(sums_of_gradients_hide_behind_the_backward_pass),
        cmocka_unit_test(a_busy_expert_makes_the_others_wait),
        cmocka_unit_test(messages_take_the_links_of_their_nodes),
        cmocka_unit_test(replicas_of_experts_sum_their_gradients),
        cmocka_unit_test(three_ranks_give_each_other_slices),
        cmocka_unit_test(ranks_of_a_node_share_its_memory),
        cmocka_unit_test(ranks_that_share_a_cpu_take_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
