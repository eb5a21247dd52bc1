// Buckets of gradients: every element is summed over ranks once, and what a rank sends is counted.
#include "model/gradients.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

// An embedding, a layer with two experts, and a norm, without memory.
static void add_rows(ParamTable *table, Gradients *gradients) {
    gradients_init(gradients);
    int embedding = param_add(table, (Param){.rank = 2, .shape = {10, 5}}, "embedding"); // 64
    gradients_add_bucket(gradients, table);
    param_add(table, (Param){.rank = 1, .shape = {5}}, "layer.norm"); // 16
    param_add(table, (Param){.kind = PARAM_EXPERT, .rank = 2, .shape = {2, 40}}, "layer.experts");
    param_add(table, (Param){.rank = 1, .shape = {2}, .update = UPDATE_RULE}, "layer.rule");
    param_add(table, (Param){.rank = 2, .shape = {5, 5}}, "layer.w"); // 32
    gradients_add_bucket(gradients, table);
    param_add(table, (Param){.rank = 1, .shape = {5}}, "norm"); // 16
    gradients_add_bucket(gradients, table);
    gradients_add_share(gradients, embedding);
}

static void buckets_cover_every_gradient_once(void **state) {
    (void)state;
    ParamTable table = {0};
    Gradients gradients;
    add_rows(&table, &gradients);
    assert_int_equal(gradients.count, 3);
    const int64_t first[3][2] = {{0, 0}, {64, 0}, {112, 80}};
    const int64_t elements[3][2] = {{64, 0}, {48, 80}, {16, 0}};
    for (int i = 0; i < 3; i++)
        for (int run = 0; run < GRADIENT_RUNS; run++) {
            assert_int_equal(gradients.buckets[i].first[run], first[i][run]);
            assert_int_equal(gradients.buckets[i].elements[run], elements[i][run]);
        }
    gradients_free(&gradients);
    gradients_free(&gradients); // legal on a zeroed one
    param_table_free(&table);
}

// Two ranks that hold the same experts. A tied table's head is a sum of its own by the fixed tree,
// in each micro-batch; in any order all is summed once a step.
static void what_is_sent_is_every_bucket(void **state) {
    (void)state;
    ParamTable table = {0};
    Gradients gradients;
    add_rows(&table, &gradients);
    Work work = {.params = &table,
                 .shape = {.ranks = 2,
                           .deal = {2, 2, 1},
                           .ep_size = 1,
                           .expert_replicas = 2,
                           .micro_batches = 3,
                           .reduce_order = REDUCE_FIXED_TREE}};
    const int64_t sums[] = {64, 48, 80, 16, 50};
    int64_t tree = 0;
    for (int i = 0; i < 5; i++)
        tree += all_reduce_sum_sent_bytes(2, sums[i], F32, REDUCE_FIXED_TREE);
    int64_t head = all_reduce_sum_sent_bytes(2, 50, F32, REDUCE_FIXED_TREE);
    assert_int_equal(gradients_sent_bytes(&gradients, &work), 3 * tree);
    work.shape.reduce_order = REDUCE_ANY_ORDER;
    assert_int_equal(gradients_sent_bytes(&gradients, &work), tree - head);
    gradients_free(&gradients);
    param_table_free(&table);
}

// Three layers, and a module of multi-token prediction, on ranks of which one has three nodes of
// the tree: as much room as the head, the embedding or a layer need, a layer's beside it, and the
// module's.
static void sums_over_further_nodes_have_room_for_two_buckets(void **state) {
    (void)state;
    ParamTable table = {0};
    Gradients gradients;
    ModelConfig config = {.layers = 3, .mtp = {.layers = 1}};
    gradients_init(&gradients);
    int embedding = param_add(&table, (Param){.rank = 2, .shape = {10, 5}}, "embedding"); // 64
    gradients_add_bucket(&gradients, &table);
    for (int layer = 0; layer < 3; layer++) {
        param_add(&table, (Param){.rank = 1, .shape = {5}}, "layers.%d.norm", layer); // 16
        param_add(&table, (Param){.rank = 2, .shape = {5, 5}}, "layers.%d.w", layer); // 32
        gradients_add_bucket(&gradients, &table);
    }
    param_add(&table, (Param){.rank = 1, .shape = {5}}, "norm"); // 16
    gradients_add_bucket(&gradients, &table);
    gradients_add_share(&gradients, embedding);
    param_add(&table, (Param){.rank = 1, .shape = {5}}, "mtp.0.norm"); // 16
    gradients_add_bucket(&gradients, &table);
    gradients_add_share(&gradients, embedding);
    Work work = {.config = &config,
                 .params = &table,
                 .shape = {.ranks = 3,
                           .deal = {16, 3, 3},
                           .ep_size = 3,
                           .expert_replicas = 1,
                           .micro_batches = 1,
                           .most_nodes = 3,
                           .reduce_order = REDUCE_FIXED_TREE}};
    Arena arena, scratch;
    arena_measure(&arena, "gradients", NULL);
    arena_measure(&scratch, "scratch", NULL);
    gradients_layout(&gradients, &work, &arena, &scratch);
    enum { HEAD = 16 + 64, LAYER = 48, MODULE = 16 + 64 };
    assert_int_equal(work.node_gradients.shape[0], 2);
    assert_int_equal(work.node_gradients.shape[1], HEAD + LAYER + MODULE);
    const int64_t offsets[] = {0, HEAD, HEAD + 16, 0, 16, HEAD, HEAD + 16, 0, HEAD + LAYER};
    assert_int_equal(table.count, 9);
    for (int i = 0; i < table.count; i++) assert_int_equal(table.rows[i].node_offset, offsets[i]);
    assert_int_equal(work.node_share_offset[0], 16);
    assert_int_equal(work.node_share_offset[1], HEAD + LAYER + 16);
    gradients_free(&gradients);
    param_table_free(&table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_cover_every_gradient_once),
        cmocka_unit_test(what_is_sent_is_every_bucket),
        cmocka_unit_test(sums_over_further_nodes_have_room_for_two_buckets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
