// Dispatch and combine over ranks. Token n's row holds integers that name it, so that every
// comparison is exact and an expert's rows can be recognised. Choices are a function of the global
// token, hence the same at every np.
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "model/moe_layer.h"
#include "rank_test.h"
#include "tiny_model.h"

enum { E = TINY_EXPERTS, D = TINY_WIDTH, T = 5, SEQUENCES = 16, TOKENS = SEQUENCES * T };

typedef enum Pattern {
    SPREAD,       // hashed choices, all kept
    HASHED_DROPS, // a third of the choices dropped
    // first choice always expert 0: the fullest a rank can be; experts 5 to 7 get nothing
    ONE_EXPERT,
    // the tokens of the first eighth are all dropped: with 8 ranks, rank 0 sends no row
    FIRST_RANK_OUT,
    NOTHING, // every choice of every token dropped
    PATTERNS,
} Pattern;

static uint32_t hash(int64_t token, int64_t what) {
    return rng_u32((RngStream){7, RNG_TEST, (uint32_t)what, 0}, (uint64_t)token);
}

static int32_t choice(Pattern pattern, int64_t token, int64_t k) {
    if (pattern == ONE_EXPERT) return k == 0 ? 0 : (int32_t)(1 + (token + k) % 4);
    uint32_t step = 1 + 2 * (hash(token, 1) % 4); // odd, so that the K choices differ
    return (int32_t)((hash(token, 0) + (uint32_t)k * step) % E);
}

static bool is_kept(Pattern pattern, int64_t token, int64_t k) {
    if (pattern == NOTHING) return false;
    if (pattern == HASHED_DROPS) return hash(token, 10 + k) % 3 != 0;
    return pattern != FIRST_RANK_OUT || token >= TOKENS / 8;
}

static float feature(int64_t token, int64_t d) {
    return (float)(token * 64 + d * 8 + 3);
}

// Powers of two that sum to 1: products and sums with integers below 2^20 are exact.
static float gate_weight(int64_t k, int64_t K) {
    return k < K - 1 ? 1.0f / (float)(2 << k) : 1.0f / (float)(1 << (K - 1));
}

typedef struct Fixture {
    Model model;
    Device dev;
    ProcessGroups groups;
    MoeLayer *moe;
    Tensor x, out, ids, kept, weights;
    int64_t first_token;
} Fixture;

static void open_model(Fixture *f, ModelConfig config, int ep, int64_t chunks) {
    *f = (Fixture){0};
    tiny_model_measure(&f->model, &f->dev, &f->groups, &config,
                       (TinySplit){ep, SEQUENCES, T, chunks});
    tiny_model_begin(&f->model, f->groups);
    f->moe = f->model.blocks[0].feed_forward.state;
    f->first_token = f->model.work.shape.N * comm_rank();
}

static void close_model(Fixture *f) {
    tiny_model_close(&f->model, &f->dev, &f->groups);
}

static ModelConfig one_layer_config(int64_t K) {
    ModelConfig config = tiny_model_config();
    config.layers = 1;
    config.moe.top_k = (PerLayer){1, {(int32_t)K}};
    config.moe.balance = (BalanceTerms){1, {{.factor = 0.01}}};
    config.moe.z_loss = 0.001;
    return config;
}

static Tensor new_tensor(DType dtype, int64_t n0, int64_t n1) {
    void *data = calloc((size_t)(n0 * n1) + 1, dtype_bytes(dtype));
    CHECK(data, "no memory");
    return tensor_2d(data, dtype, n0, n1);
}

static void open_pattern(Fixture *f, Pattern pattern, int64_t K, int ep, int64_t chunks) {
    open_model(f, one_layer_config(K), ep, chunks);
    int64_t N = f->model.work.shape.N;
    f->x = new_tensor(F32, N, D);
    f->out = new_tensor(F32, N, D);
    f->ids = new_tensor(I32, N, K);
    f->kept = new_tensor(U8, N, K);
    f->weights = new_tensor(F32, N, K);
    for (int64_t n = 0; n < N; n++) {
        for (int64_t d = 0; d < D; d++)
            tensor_f32(f->x)[n * D + d] = feature(f->first_token + n, d);
        for (int64_t k = 0; k < K; k++) {
            tensor_i32(f->ids)[n * K + k] = choice(pattern, f->first_token + n, k);
            tensor_u8(f->kept)[n * K + k] = is_kept(pattern, f->first_token + n, k);
            tensor_f32(f->weights)[n * K + k] = gate_weight(k, K);
        }
    }
    // Stale contents must never come through.
    memset(f->moe->routed.expert_in.data, 0xff, tensor_bytes(f->moe->routed.expert_in));
    memset(f->moe->routed.sent_out.data, 0xff, tensor_bytes(f->moe->routed.sent_out));
}

static void close_pattern(Fixture *f) {
    free(f->x.data);
    free(f->out.data);
    free(f->ids.data);
    free(f->kept.data);
    free(f->weights.data);
    close_model(f);
}

static const int64_t top_ks[] = {1, 2, 4};

// All chunks of the way there, as moe_layer.c takes them, all begun before the first is waited for.
static void send_all(Fixture *f, Tensor expert_rows, Tensor sent_rows, TrafficKind kind) {
    Pending pending[CHUNKS_MAX];
    Dispatch *d = &f->moe->plan;
    Tensor received = f->moe->routed.received_in;
    int64_t chunks = d->chunks;
    for (int64_t c = 0; c < chunks; c++)
        pending[c] = dispatch_send(d, &f->model.work, c, received, sent_rows, kind);
    for (int64_t c = 0; c < chunks; c++)
        dispatch_arrive(d, &f->model.work, c, &pending[c], expert_rows, received, kind);
}

static void dispatch_tokens(Fixture *f) {
    ExpertExchange *e = &f->moe->routed;
    dispatch_gather(&f->moe->plan, &f->model.work, e->sent_in, f->x);
    if (f->model.work.shape.ep_size > 1) send_all(f, e->expert_in, e->sent_in, TRAFFIC_DISPATCH);
}

// Runs `check` for every pattern, K, expert-parallel degree and number of chunks that this number
// of ranks allows.
static void for_every_layout(void (*check)(Fixture *f, Pattern pattern, int64_t K)) {
    for (int ep = 1; ep <= comm_size() && ep <= E; ep *= 2)
        for (int pattern = 0; pattern < PATTERNS; pattern++)
            for (int i = 0; i < 3; i++)
                for (int chunks = 1; chunks <= (ep > 1 && ep < E ? 2 : 1); chunks++) {
                    Fixture f;
                    open_pattern(&f, (Pattern)pattern, top_ks[i], ep, chunks);
                    dispatch_plan(&f.moe->plan, &f.model.work, f.ids, f.kept);
                    dispatch_tokens(&f);
                    check(&f, (Pattern)pattern, top_ks[i]);
                    close_pattern(&f);
                }
}

// The expert's output is its input; then the way back and the weighted sum, as in
// moe_layer_forward.
static void check_round_trip(Fixture *f, Pattern pattern, int64_t K) {
    Work *work = &f->model.work;
    Dispatch *d = &f->moe->plan;
    Tensor sent = f->moe->routed.sent_out;
    if (work->shape.ep_size > 1) {
        Pending pending[CHUNKS_MAX];
        for (int64_t c = 0; c < f->moe->plan.chunks; c++)
            pending[c] = dispatch_return(d, work, c, sent, f->moe->routed.received_in,
                                         f->moe->routed.expert_in, TRAFFIC_COMBINE);
        for (int64_t c = 0; c < f->moe->plan.chunks; c++)
            dispatch_returned(d, work, c, &pending[c], sent, TRAFFIC_COMBINE);
    } else
        memcpy(sent.data, f->moe->routed.expert_in.data, (size_t)d->sent * D * sizeof(float));
    combine_forward(&f->dev, f->out, sent, d->slot_row, f->weights);
    for (int64_t n = 0; n < work->shape.N; n++) {
        float survived = 0;
        for (int64_t k = 0; k < K; k++)
            if (is_kept(pattern, f->first_token + n, k)) survived += gate_weight(k, K);
        for (int64_t i = 0; i < D; i++) {
            float x = feature(f->first_token + n, i), y = tensor_f32(f->out)[n * D + i];
            EXPECT(y == x * survived,
                   "pattern %d, K %lld, ep %lld: token %lld gave %g, not %g of %g", (int)pattern,
                   (long long)K, (long long)work->shape.ep_size, (long long)(f->first_token + n),
                   (double)y, (double)survived, (double)x);
        }
    }
}

static void identity_experts_return_the_input(void) {
    for_every_layout(check_round_trip);
}

// Every expert of this rank must hold its tokens in (shard, token, slot) order over the whole
// expert-parallel group. Shards are runs of tokens and a token chooses an expert once, so that is
// the order of global tokens.
static void check_order(Fixture *f, Pattern pattern, int64_t K) {
    Work *work = &f->model.work;
    Dispatch *d = &f->moe->plan;
    int64_t chunks = f->moe->plan.chunks, first_segment = 0;
    Segments rows = dispatch_chunk(d, work, 0).rows; // the others follow it
    rows.groups *= chunks;
    for (int64_t c = 0; c < chunks; c++) {
        ExpertChunk chunk = dispatch_chunk(d, work, c);
        EXPECT(chunk.first_expert * rows.parts == first_segment &&
                   chunk.rows.offsets == rows.offsets + first_segment,
               "chunk %lld", (long long)c);
        first_segment += chunk.rows.groups * rows.parts;
    }
    int64_t local = E / work->shape.ep_size, group_tokens = work->shape.N * work->shape.ep_size;
    int64_t group_first = f->first_token - work->shape.N * work->shape.ep_rank;
    int64_t row = 0;
    for (int64_t e = 0; e < local; e++)
        for (int64_t part = 0; part < rows.parts; part++) {
            int64_t begin = group_first + group_tokens / rows.parts * part;
            EXPECT(rows.offsets[e * rows.parts + part] == row, "expert %lld part %lld",
                   (long long)e, (long long)part);
            for (int64_t token = begin; token < begin + group_tokens / rows.parts; token++)
                for (int64_t k = 0; k < K; k++) {
                    if (choice(pattern, token, k) != work->shape.ep_rank * local + e ||
                        !is_kept(pattern, token, k))
                        continue;
                    float *got = tensor_f32(f->moe->routed.expert_in) + row++ * D;
                    for (int64_t i = 0; i < D; i++)
                        EXPECT(got[i] == feature(token, i),
                               "pattern %d, K %lld, ep %lld: expert %lld, row %lld", (int)pattern,
                               (long long)K, (long long)work->shape.ep_size, (long long)e,
                               (long long)(row - 1));
                }
        }
    EXPECT(row == d->received && row == rows.offsets[local * rows.parts],
           "%lld rows, %lld received", (long long)row, (long long)d->received);
    EXPECT(d->received <= d->max_rows, "room for %lld", (long long)d->max_rows);
}

static void rows_are_ordered_by_shard_token_slot(void) {
    for_every_layout(check_order);
}

// Rows that are already in send order take the same way as tokens: what the backward pass of
// combine relies on.
static void check_rows_like_tokens(Fixture *f, Pattern pattern, int64_t K) {
    Work *work = &f->model.work;
    Dispatch *d = &f->moe->plan;
    if (work->shape.ep_size == 1) return;
    Tensor sent = new_tensor(F32, work->shape.N * K, D), again = new_tensor(F32, d->max_rows, D);
    for (int64_t n = 0; n < work->shape.N; n++)
        for (int64_t k = 0; k < K; k++) {
            int32_t row = tensor_i32(d->slot_row)[n * K + k];
            EXPECT((row < 0) == !is_kept(pattern, f->first_token + n, k), "token %lld",
                   (long long)n);
            if (row >= 0)
                memcpy(tensor_f32(sent) + row * D, tensor_f32(f->x) + n * D, D * sizeof(float));
        }
    send_all(f, again, sent, TRAFFIC_COMBINE);
    EXPECT(memcmp(again.data, f->moe->routed.expert_in.data,
                  (size_t)d->received * D * sizeof(float)) == 0,
           "pattern %d, K %lld, ep %lld", (int)pattern, (long long)K,
           (long long)work->shape.ep_size);
    free(sent.data);
    free(again.data);
}

static void rows_travel_as_tokens_do(void) {
    for_every_layout(check_rows_like_tokens);
}

// Only kept choices travel, and nothing of what stays on the rank is counted.
static void check_traffic(Fixture *f, Pattern pattern, int64_t K) {
    Work *work = &f->model.work;
    int64_t crossing = 0, local = E / work->shape.ep_size;
    for (int64_t n = 0; n < work->shape.N; n++)
        for (int64_t k = 0; k < K; k++)
            if (is_kept(pattern, f->first_token + n, k) &&
                choice(pattern, f->first_token + n, k) / local != work->shape.ep_rank)
                crossing++;
    int64_t before = traffic_sent_bytes(TRAFFIC_DISPATCH);
    dispatch_tokens(f);
    EXPECT(traffic_sent_bytes(TRAFFIC_DISPATCH) - before == crossing * D * 4,
           "pattern %d, K %lld, ep %lld", (int)pattern, (long long)K,
           (long long)work->shape.ep_size);
}

static void only_kept_choices_travel(void) {
    for_every_layout(check_traffic);
}

// Two layers with experts, one training micro-batch, and what the statistics say about it.
static void expect_counts(DropPolicy drop, RoutingGroup group, Rational capacity_factor, int64_t K,
                          int ep) {
    ModelConfig config = one_layer_config(K);
    config.layers = 2;
    config.moe.drop = drop;
    config.moe.routing_group = group;
    config.moe.capacity_factor = capacity_factor;
    Fixture f;
    open_model(&f, config, ep, 2);
    Work *work = &f.model.work;
    Tensor tokens = new_tensor(I32, work->shape.N, 1), targets = new_tensor(I32, work->shape.N, 1);
    tokens.rank = targets.rank = 1;
    for (int64_t n = 0; n < work->shape.N; n++) {
        tensor_i32(tokens)[n] = (int32_t)(hash(f.first_token + n, 2) % TINY_VOCABULARY);
        tensor_i32(targets)[n] = (int32_t)(hash(f.first_token + n, 3) % TINY_VOCABULARY);
    }
    model_train_micro_batch(&f.model, tokens, targets, 0, 3);

    // Rows that the experts of all ranks got, layer by layer, before statistics_reduce sums the
    // rest.
    int64_t received[2];
    for (int layer = 0; layer < 2; layer++)
        received[layer] =
            ((const MoeLayer *)f.model.blocks[layer].feed_forward.state)->plan.received;
    all_reduce_sum(f.groups.world, tensor_1d(received, I64, 2), REDUCE_ANY_ORDER, (Tensor){0},
                   TRAFFIC_OTHER);
    statistics_reduce(&f.model.stats, work);
    int64_t group_tokens = group == GROUP_SEQUENCE ? T : TOKENS / TINY_SHARDS;
    int64_t groups = TOKENS / group_tokens,
            capacity = moe_capacity(&config.moe, moe_shape(&config, 0), group_tokens);
    for (int layer = 0; layer < 2; layer++) {
        const int64_t *kept = statistics_count_values(&f.model.stats, "routed", layer);
        const int64_t *lost = statistics_count_values(&f.model.stats, "dropped", layer);
        int64_t routed = 0, dropped = 0;
        for (int64_t e = 0; e < E; e++) {
            routed += kept[e];
            dropped += lost[e];
            EXPECT(capacity < 0 || kept[e] <= capacity * groups, "expert %lld above its capacity",
                   (long long)e);
        }
        EXPECT(routed + dropped == TOKENS * K, "layer %d: %lld routed + %lld dropped", layer,
               (long long)routed, (long long)dropped);
        EXPECT(received[layer] == routed, "layer %d: experts got %lld rows, %lld were routed",
               layer, (long long)received[layer], (long long)routed);
        EXPECT((dropped > 0) == (capacity >= 0), "layer %d: %lld dropped", layer,
               (long long)dropped);
    }
    free(tokens.data);
    free(targets.data);
    close_model(&f);
}

static void routed_and_dropped_are_all_choices(void) {
    for (int ep = 1; ep <= comm_size(); ep *= 2)
        for (int i = 0; i < 2; i++) {
            expect_counts(DROP_POSITION, GROUP_SHARD, (Rational){0, 1}, top_ks[i], ep);
            expect_counts(DROP_POSITION, GROUP_SHARD, (Rational){1, 1}, top_ks[i], ep);
            expect_counts(DROP_PROBABILITY, GROUP_SEQUENCE, (Rational){1, 2}, top_ks[i], ep);
            expect_counts(DROP_RANDOM, GROUP_SHARD, (Rational){3, 4}, top_ks[i], ep);
        }
}

int main(int argc, char **argv) {
    static const RankTest tests[] = {
        {"identity experts and weights that sum to 1 return the input exactly; drops take their "
         "share",
         identity_experts_return_the_input},
        {"an expert's rows are ordered by shard, token and slot",
         rows_are_ordered_by_shard_token_slot},
        {"rows in send order travel as tokens do", rows_travel_as_tokens_do},
        {"only kept choices of other ranks' experts are sent", only_kept_choices_travel},
        {"routed plus dropped choices are N·K in every layer, and experts get what was routed",
         routed_and_dropped_are_all_choices},
    };
    return rank_tests_run(argc, argv, tests, (int)(sizeof tests / sizeof *tests));
}
