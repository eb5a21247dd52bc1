// Copies of parameters and states that ranks hold: equal ones pass, one flipped bit anywhere is
// found by every rank, which all name the same tensor and the rank that stands alone.
#include <stdio.h>
#include <string.h>

#include "comm/comm.h"
#include "rank_test.h"
#include "tiny_model.h"
#include "worker/watch/replica_check.h"

typedef struct Fixture {
    Device dev;
    ProcessGroups groups;
    Model model;
    Optimizer optimizer;
    ReplicaCheck check;
} Fixture;

static void open_fixture(Fixture *f, int ep) {
    *f = (Fixture){0};
    ModelConfig config = tiny_model_config();
    config.moe.bias_update = BIAS_UPDATE_SIGN;
    tiny_model_measure(&f->model, &f->dev, &f->groups, &config, (TinySplit){ep, 8, 3, 1});
    optimizer_measure(&f->optimizer, &f->model, &(OptimizerConfig){.kind = OPTIMIZER_ADAMW});
    tiny_model_begin(&f->model, f->groups);
    optimizer_allocate(&f->optimizer, &f->model);
    replica_check_open(&f->check, &f->model, &f->optimizer);
}

static void close_fixture(Fixture *f) {
    replica_check_close(&f->check);
    optimizer_free(&f->optimizer);
    tiny_model_close(&f->model, &f->dev, &f->groups);
}

static void equal_copies_pass(void) {
    Error err = {0};
    for (int ep = 1; ep <= comm_size(); ep *= 2) {
        Fixture f;
        open_fixture(&f, ep);
        EXPECT(replica_check_compare(&f.check, 1, &err), "%s", err.message);
        size_t bytes = replica_check_bytes(&f.model, &f.optimizer);
        size_t taken = f.check.arena.peak_bytes + f.check.host_arena.peak_bytes;
        EXPECT(taken <= bytes, "%zu bytes of %zu planned", taken, bytes);
        close_fixture(&f);
    }
}

// Flips a bit of the replica on rank `odd` and compares; then flips it back.
static void expect_found(Fixture *f, const ReplicaRun *run, int64_t replica, int odd) {
    static int64_t step;
    Error err = {0};
    bool dense = f->check.replicas[replica].param->kind == PARAM_DENSE;
    int holders = dense ? comm_size() : (int)f->model.work.shape.expert_replicas;
    Tensor x = run->set.run[run->run];
    int64_t place = f->check.places[replica] + f->check.elements[replica] - 1;
    uint32_t *word = (uint32_t *)(void *)(tensor_f32(x) + place), bit = 1u << (replica % 32);
    if (comm_rank() == odd) *word ^= bit;
    bool found = !replica_check_compare(&f->check, ++step, &err);
    char tensor[160], rank[32];
    snprintf(tensor, sizeof tensor, "%s/%s", f->check.replicas[replica].folder,
             f->check.replicas[replica].param->name);
    snprintf(rank, sizeof rank, "rank %d on ", odd);
    EXPECT(found && err.exit_code == EXIT_NUMERIC, "%s of rank %d is not found", tensor, odd);
    EXPECT(strstr(err.message, tensor) && strstr(err.message, rank), "%s of rank %d: %s", tensor,
           odd, err.message);
    EXPECT(!strstr(err.message, "no majority") == (holders > 2), "%s", err.message);
    if (comm_rank() == odd) *word ^= bit;
    EXPECT(replica_check_compare(&f->check, ++step, &err), "%s", err.message);
}

static void a_flipped_bit_is_found_and_named(void) {
    for (int ep = 1; ep <= comm_size(); ep *= 2) {
        Fixture f;
        open_fixture(&f, ep);
        int64_t tensors = 0;
        for (int i = 0; i < f.check.run_count; i++) {
            const ReplicaRun *run = &f.check.runs[i];
            for (int64_t k = run->first; k < run->first + run->count; k += 3, tensors++)
                expect_found(&f, run, k, (int)(k % comm_size()));
        }
        EXPECT((tensors > 0) == (comm_size() > 1), "%lld tensors", (long long)tensors);
        close_fixture(&f);
    }
}

// Two of eight ranks agree on something wrong: the majority still says who.
static void several_odd_ranks_are_counted(void) {
    if (comm_size() < 8) return;
    Fixture f;
    Error err = {0};
    open_fixture(&f, 2);
    Tensor dense = f.model.values.run[RUN_DENSE];
    if (comm_rank() == 3 || comm_rank() == 6) tensor_f32(dense)[0] += 1;
    EXPECT(!replica_check_compare(&f.check, 1, &err) && strstr(err.message, "rank 3 on ") &&
               strstr(err.message, "1 rank beside it") && strstr(err.message, "the 6 other ranks"),
           "%s", err.message);
    close_fixture(&f);
}

int main(int argc, char **argv) {
    static const RankTest tests[] = {
        {"equal copies pass, within the planned memory", equal_copies_pass},
        {"a flipped bit of any copy is found, and its rank and tensor are named",
         a_flipped_bit_is_found_and_named},
        {"of several ranks that differ the first is named, and how many there are",
         several_odd_ranks_are_counted},
    };
    return rank_tests_run(argc, argv, tests, (int)(sizeof tests / sizeof *tests));
}
