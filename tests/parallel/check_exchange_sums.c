// Exchanges of tokens whose rows are damaged on the way: every one of a step is found before the
// step is applied, on all ranks, with its layer, direction and ranks. The link wraps
// all_to_all_rows_begin.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "rank_test.h"
#include "tiny_model.h"

enum { LAYERS = 2, SEQUENCES = 16, T = 5 };

// ---- damage -------------------------------------------------------------------------------------

// The exchange with this number, from 0, is damaged on this rank; -1: none.
static struct {
    int64_t number, calls;
    int64_t peer; // whose row it was; -1: none had come
    int ep;       // ranks of the group
} damage;

Pending __real_all_to_all_rows_begin(Group *group, Tensor out, RowRuns receive, Tensor in,
                                     RowRuns send, TrafficKind kind);
Pending __wrap_all_to_all_rows_begin(Group *group, Tensor out, RowRuns receive, Tensor in,
                                     RowRuns send, TrafficKind kind);

Pending __wrap_all_to_all_rows_begin(Group *group, Tensor out, RowRuns receive, Tensor in,
                                     RowRuns send, TrafficKind kind) {
    Pending pending = __real_all_to_all_rows_begin(group, out, receive, in, send, kind);
    if (damage.calls++ != damage.number) return pending;
    collective_wait(&pending);
    for (int p = 0; p < damage.ep && damage.peer < 0; p++) {
        if (p == comm_rank() % damage.ep || receive.rows[p] == 0) continue;
        int64_t last = (run_first(receive, p) + receive.rows[p]) * out.shape[1] - 1;
        *(uint32_t *)(void *)(tensor_f32(out) + last) ^= 1u << damage.number % 32;
        damage.peer = p;
    }
    return pending;
}

// ---- a step -------------------------------------------------------------------------------------

typedef struct Fixture {
    Device dev;
    ProcessGroups groups;
    Model model;
    Tensor tokens, targets;
} Fixture;

static Tensor random_tokens(int64_t n, uint32_t what) {
    int32_t *ids = calloc((size_t)n, sizeof *ids);
    CHECK_MEMORY(ids, "no memory for %lld tokens", (long long)n);
    for (int64_t i = 0; i < n; i++)
        ids[i] =
            (int32_t)(rng_u32((RngStream){7, RNG_TEST, what, 0}, (uint64_t)(n * comm_rank() + i)) %
                      TINY_VOCABULARY);
    return tensor_1d(ids, I32, n);
}

static void open_fixture(Fixture *f, int ep, int64_t chunks, bool padded) {
    *f = (Fixture){0};
    ModelConfig config = tiny_model_config();
    if (padded) {
        config.moe.capacity_factor = (Rational){5, 4};
        config.moe.dispatch = DISPATCH_PADDED;
    }
    tiny_model_measure(&f->model, &f->dev, &f->groups, &config,
                       (TinySplit){ep, SEQUENCES, T, chunks});
    tiny_model_begin(&f->model, f->groups);
    f->tokens = random_tokens(f->model.work.shape.N, 1);
    f->targets = random_tokens(f->model.work.shape.N, 2);
}

static void close_fixture(Fixture *f) {
    free(f->tokens.data);
    free(f->targets.data);
    tiny_model_close(&f->model, &f->dev, &f->groups);
}

static bool step(Fixture *f, int64_t damaged, Error *err) {
    Model *model = &f->model;
    damage.ep = (int)model->work.shape.ep_size;
    damage.number = damaged;
    damage.calls = 0;
    damage.peer = -1;
    model_train_micro_batch(model, f->tokens, f->targets, 0, 3);
    statistics_reduce(&model->stats, &model->work);
    return exchange_check_verify(&model->exchange_check, &model->work, &model->stats, err);
}

// ---- what is found ------------------------------------------------------------------------------

static void expect_found(Fixture *f, int64_t number, int damaging) {
    static const char *const ways[] = {"dispatch of tokens", "combine of outputs",
                                       "dispatch of the outputs' gradients",
                                       "combine of the inputs' gradients"};
    Error err = {0};
    int ep = (int)f->model.work.shape.ep_size;
    int64_t a_pass = damage.calls / LAYERS / 2, pass = number / a_pass;
    int64_t layer = pass < LAYERS ? pass : 2 * LAYERS - 1 - pass;
    int way = 2 * (pass >= LAYERS) + (number % a_pass >= a_pass / 2);
    bool ok = step(f, comm_rank() == damaging ? number : -1, &err);
    int64_t peer = comm_rank() == damaging ? damage.peer : 0;
    broadcast(f->groups.world, &peer, sizeof peer, damaging);
    EXPECT(ok == (peer < 0), "exchange %lld, rank %d", (long long)number, damaging);
    if (peer < 0) return;
    char want[160], from[32];
    snprintf(want, sizeof want, "layer %lld, %s: rank %d on ", (long long)layer, ways[way],
             damaging);
    snprintf(from, sizeof from, "what rank %d on ", damaging / ep * ep + (int)peer);
    EXPECT(err.exit_code == EXIT_COMMUNICATION && strstr(err.message, want) &&
               strstr(err.message, from),
           "exchange %lld, rank %d: %s, not %s %s", (long long)number, damaging, err.message, want,
           from);
}

static void every_damaged_exchange_is_found(void) {
    for (int ep = 2; ep <= comm_size(); ep *= 2)
        for (int kind = 0; kind < 3; kind++) {
            Fixture f;
            Error err = {0};
            open_fixture(&f, ep, kind == 1 && ep < TINY_EXPERTS ? 2 : 1, kind == 2);
            EXPECT(step(&f, -1, &err), "%s", err.message);
            EXPECT(damage.calls > 0, "nothing is exchanged");
            for (int64_t number = 0, all = damage.calls; number < all; number++)
                expect_found(&f, number, (int)(number % comm_size()));
            EXPECT(step(&f, -1, &err), "afterwards: %s", err.message);
            close_fixture(&f);
        }
}

static void one_rank_has_nothing_to_check(void) {
    Fixture f;
    Error err = {0};
    open_fixture(&f, 1, 1, false);
    EXPECT(!f.model.exchange_check.on && step(&f, -1, &err), "%s", err.message);
    close_fixture(&f);
}

int main(int argc, char **argv) {
    static const RankTest tests[] = {
        {"a flipped bit in any exchange of a step is found and named",
         every_damaged_exchange_is_found},
        {"where no rows travel nothing is checked", one_rank_has_nothing_to_check},
    };
    return rank_tests_run(argc, argv, tests, (int)(sizeof tests / sizeof *tests));
}
