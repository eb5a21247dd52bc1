#include "model/peer.h"

#include <math.h>

#include "kernels/integers.h"
#include "model/dense_gradient.h"
#include "model/peer_usage.h"
#include "model/stream_digests.h"

// Scores of a half that are made before the best of them are found, at most; on a CPU so many of
// each thread, which lie in its cache until then.
enum { SCORES_AT_ONCE = 1 << 20, SCORES_OF_THREAD = 1 << 16 };
// Up to so many keys for each that is chosen the gradient of all scores is a matrix.
enum { FEW_KEYS = 4 };

// Equal parts of the experts, as many as ranks at most share them.
static int64_t parts_of(const ModelConfig *config) {
    int64_t experts = config->peer.keys * config->peer.keys;
    return smaller(largest_power_of_two_divisor(experts), NAMED_PARTS);
}

static int64_t parts(const ModelConfig *config, int64_t layer) {
    (void)layer;
    return parts_of(config);
}

static int64_t choices_of(const ModelConfig *config) {
    return config->peer.heads * config->peer.top_k;
}

static bool is_normed(const Work *work) {
    return work->config->peer.query_norm == PEER_QUERIES_BATCH;
}

static bool has_few_keys(const PeerLayer *peer) {
    return peer->n <= FEW_KEYS * peer->top_k;
}

// ---- layout -------------------------------------------------------------------------------------

static void half_declare(KeyHalf *half, const PeerLayer *peer, Work *work, const char *which) {
    const ModelConfig *config = work->config;
    Param query = {.rank = 2,
                   .shape = {peer->heads * peer->d_key, config->d_model},
                   .group = GROUP_HIDDEN,
                   .init_std = config->init_std};
    half->query = linear_declare(work, query, false, "peer.query_%s", which);
    if (is_normed(work))
        query_norm_declare(&half->norm, work, peer->layer, peer->heads * peer->d_key, which);
    half->keys = param_add(work->params,
                           (Param){.rank = 2,
                                   .shape = {peer->n, peer->d_key},
                                   .init_std = 1 / sqrt((double)peer->d_key)},
                           "peer.keys_%s", which);
}

static int table_declare(const PeerLayer *peer, Work *work, const char *name, double init_std) {
    int64_t experts = peer->n * peer->n;
    double active = (double)(peer->heads * peer->top_k) / (double)experts;
    return param_add(work->params,
                     (Param){.kind = PARAM_EXPERT,
                             .rank = 2,
                             .shape = {experts, work->config->d_model},
                             .init_std = init_std,
                             .few_rows = true,
                             .active = active < 1 ? active : 1},
                     "peer.experts.%s", name);
}

static void declare(void *self, Work *work, int64_t layer) {
    PeerLayer *peer = self;
    const ModelConfig *config = work->config;
    peer->layer = layer;
    peer->n = config->peer.keys;
    peer->heads = config->peer.heads;
    peer->top_k = config->peer.top_k;
    peer->d_key = config->peer.d_key;
    half_declare(&peer->halves[0], peer, work, "first");
    half_declare(&peer->halves[1], peer, work, "second");
    peer->gate = -1;
    if (activation_is_gated(config->peer.activation))
        peer->gate = table_declare(peer, work, "gate", config->init_std);
    peer->up = table_declare(peer, work, "up", config->init_std);
    peer->down = table_declare(peer, work, "down", model_residual_std(config));
}

static void half_layout(KeyHalf *half, const PeerLayer *peer, Work *work, Statistics *stats,
                        Arena *activations) {
    int64_t N = work->shape.N, H = peer->heads;
    if (is_normed(work)) query_norm_layout(&half->norm, work, stats, activations);
    half->queries = arena_2d(activations, F32, N, H * peer->d_key);
}

static void half_layout_backward(KeyHalf *half, const PeerLayer *peer, Work *work, Arena *scratch) {
    int64_t N = work->shape.N, width = peer->heads * peer->d_key;
    half->chosen = arena_2d(scratch, I32, N * peer->heads, peer->top_k);
    if (has_few_keys(peer)) half->dscores = arena_2d(scratch, F32, N * peer->heads, peer->n);
    half->dqueries = arena_2d(scratch, F32, N, width);
    half->dqueries_stored = half->dqueries;
    if (work->storage != F32) half->dqueries_stored = arena_2d(scratch, work->storage, N, width);
}

static int64_t group_tokens(const Work *work) {
    return work->shape.N * work->shape.ep_size;
}

static void layout(void *self, Work *work, Statistics *stats, Arena *activations, Arena *scratch) {
    PeerLayer *peer = self;
    int64_t N = work->shape.N, M = group_tokens(work), D = work->config->d_model;
    int64_t K = choices_of(work->config), experts = peer->n * peer->n;
    bool shared = work->shape.ep_size > 1;
    peer->counts = peer_usage_report(stats, peer->layer, experts);
    for (int h = 0; h < 2; h++) half_layout(&peer->halves[h], peer, work, stats, activations);
    peer->ids = arena_2d(activations, I32, N, K);
    peer->weights = arena_2d(activations, F32, N, K);
    peer->all_ids = shared ? arena_2d(activations, I32, M, K) : peer->ids;
    peer->all_weights = shared ? arena_2d(activations, F32, M, K) : peer->weights;
    if (shared) peer->all_x = arena_2d(activations, work->storage, M, D);
    if (work->training) {
        peer->at = arena_1d(activations, I32, M * K);
        peer->listed = arena_1d(activations, I32, experts / work->shape.ep_size + 1);
        peer->head_offsets = arena_1d(work->host, I64, work->shape.dense_parts + 1);
    }
    peer->hidden = arena_2d(activations, F32, M, (peer->gate >= 0 ? 2 : 1) * K);

    size_t mark = arena_mark(scratch);
    peer->scored = smaller(N * peer->heads, larger(SCORES_AT_ONCE / peer->n, 1));
    for (int h = 0; h < 2; h++)
        peer->halves[h].scores = arena_2d(scratch, F32, peer->scored, peer->n);
    arena_release(scratch, mark);
    peer->activated = arena_2d(scratch, F32, M, K);
    peer->partial = arena_2d(scratch, F32, M, D);
    peer->returned = shared ? arena_2d(scratch, F32, M, D) : peer->partial;
    if (work->training) {
        peer->dx_f32 = arena_2d(scratch, F32, N, D);
        peer->dproduct = arena_2d(scratch, F32, M, K);
        peer->dweights = arena_2d(scratch, F32, M, K);
        peer->own_dweights = shared ? arena_2d(scratch, F32, N, K) : peer->dweights;
        if (shared) peer->all_dout = arena_2d(scratch, work->storage, M, D);
        int64_t choices = N * K;
        peer->dsums = arena_2d(scratch, F32, N * peer->heads, peer->top_k);
        if (!has_few_keys(peer)) {
            peer->key_at = arena_1d(scratch, I32, choices);
            peer->key_listed = arena_1d(scratch, I32, peer->n + 1);
        }
        for (int h = 0; h < 2; h++) half_layout_backward(&peer->halves[h], peer, work, scratch);
    }
    arena_release(scratch, mark);
}

static void cost(const void *self, const Work *work, LayerCost *cost) {
    const PeerLayer *peer = self;
    double D = (double)work->config->d_model, K = (double)choices_of(work->config);
    double H = (double)peer->heads, keys = (double)peer->n, d_key = (double)peer->d_key;
    double tables = peer->gate >= 0 ? 3 : 2;
    cost->flops_per_token += 2 * (2 * H * d_key * (D + keys) + K * tables * D);
    int64_t ep = work->shape.ep_size;
    double micro = (double)work->shape.micro_batches, N = (double)work->shape.N;
    double tokens = micro * (double)(ep - 1) * N, stored = (double)dtype_bytes(work->storage);
    // Tokens, their choices and weights; backward the gradients of both.
    cost->sent_bytes[TRAFFIC_DISPATCH] += tokens * (D * stored + 8 * K + D * 4 + 4 * K);
    cost->sent_bytes[TRAFFIC_COMBINE] += tokens * (D * 4 + D * stored);
    cost->scratch.K = larger(cost->scratch.K, choices_of(work->config));
    cost->scratch.parts = larger(cost->scratch.parts, work->shape.expert_parts);
    cost->scratch.D = larger(cost->scratch.D, peer->d_key);
}

static void bound(const ModelConfig *config, int64_t layer, LayerBound *bound) {
    (void)layer;
    const PeerConfig *peer = &config->peer;
    double D = (double)config->d_model, n = (double)peer->keys, K = (double)choices_of(config);
    double queries = 2 * (double)peer->heads * (double)peer->d_key;
    bound->parameters += 3 * n * n * D + queries * (D + 2) + 2 * n * (double)peer->d_key;
    bound->kept += queries + 6 * K;
    if (bound->choices < K) bound->choices = K;
}

// ---- choosing -----------------------------------------------------------------------------------

// The queries of all heads below one another.
static Tensor by_head(const PeerLayer *peer, Tensor queries) {
    return tensor_reshape_2d(queries, queries.shape[0] * peer->heads, peer->d_key);
}

// Queries whose scores are made at once.
static int64_t queries_at_once(const PeerLayer *peer, const Device *dev) {
    if (dev->place == ON_DEVICE) return peer->scored;
    return smaller(peer->scored, larger(dev->threads * (int64_t)SCORES_OF_THREAD / peer->n, 1));
}

// Some queries after others, so that nobody keeps the scores of all.
static void choose(PeerLayer *peer, Work *work, Statistics *stats, Tensor x) {
    int64_t R = work->shape.N * peer->heads, k = peer->top_k;
    int64_t at_once = queries_at_once(peer, work->dev);
    Tensor ids = tensor_reshape_2d(peer->ids, R, k);
    Tensor weights = tensor_reshape_2d(peer->weights, R, k);
    for (int h = 0; h < 2; h++) {
        KeyHalf *half = &peer->halves[h];
        linear_forward(work, half->query, half->queries, x);
        if (is_normed(work)) query_norm_forward(&half->norm, work, stats, half->queries);
    }
    for (int64_t first = 0; first < R; first += at_once) {
        int64_t count = smaller(at_once, R - first);
        const Segments rows = {.groups = 1, .parts = 1, .offsets = (int64_t[]){0, count}};
        Tensor scores[2];
        for (int h = 0; h < 2; h++) {
            const KeyHalf *half = &peer->halves[h];
            scores[h] = tensor_rows(half->scores, 0, count);
            matmul_forward(work->dev, scores[h],
                           tensor_rows(by_head(peer, half->queries), first, count),
                           as_matrix(work_value(work, half->keys)), rows);
        }
        product_keys_forward(work->dev, tensor_rows(ids, first, count),
                             tensor_rows(weights, first, count), scores[0], scores[1]);
    }
}

// Of the keys of chosen numbers, from the gradient of their scores.
static void key_gradient(PeerLayer *peer, const KeyHalf *half, Work *work) {
    Tensor queries = by_head(peer, half->queries);
    for (int node = 0; node < work->shape.node_count; node++) {
        NamedRows keys = {work_value(work, half->keys), 0, node_rows(work, node, peer->dsums), 0};
        list_names(work->dev, peer->key_at, peer->key_listed, node_rows(work, node, half->chosen),
                   0);
        named_gradient(work->dev, node_gradient(work, half->keys, OWN_GRADIENT, node), (Tensor){0},
                       keys, node_rows(work, node, queries), peer->key_at, peer->key_listed,
                       peer->top_k, work->shape.nodes[node].count);
    }
}

// The queries of all heads, by part.
static Segments head_rows(const PeerLayer *peer, const Work *work) {
    Segments rows = work_dense_rows(work);
    int64_t *offsets = tensor_i64(peer->head_offsets);
    for (int64_t p = 0; p <= rows.parts; p++) offsets[p] = rows.offsets[p] * peer->heads;
    rows.offsets = offsets;
    return rows;
}

// The gradients of a half's keys and queries, by the matrix of all scores.
static void scores_backward(PeerLayer *peer, KeyHalf *half, Work *work) {
    Tensor queries = by_head(peer, half->queries);
    Segments rows = head_rows(peer, work);
    spread_sums(work->dev, half->dscores, peer->dsums, half->chosen);
    matmul_backward_input(work->dev, by_head(peer, half->dqueries), half->dscores,
                          as_matrix(work_value(work, half->keys)), rows);
    for (int node = 0; node < work->shape.node_count; node++) {
        rows.parts = work->shape.nodes[node].count;
        matmul_backward_weight(
            work->dev, as_matrix(node_gradient(work, half->keys, OWN_GRADIENT, node)),
            node_rows(work, node, half->dscores), node_rows(work, node, queries), rows);
    }
}

// The same, over the chosen.
static void chosen_backward(PeerLayer *peer, KeyHalf *half, Work *work) {
    NamedRows keys = {work_value(work, half->keys), 0, peer->dsums, 0};
    key_gradient(peer, half, work);
    named_sums(work->dev, by_head(peer, half->dqueries), (NamedTables){&keys, 1}, half->chosen, 1);
}

// From the gradient of the weights; dx (N, D) stored = sum (N, D) f32 + that of the queries.
static void choose_backward(PeerLayer *peer, Work *work, Tensor dx, Tensor sum, Tensor dweights) {
    int64_t R = work->shape.N * peer->heads, k = peer->top_k;
    product_keys_backward(work->dev, peer->dsums, peer->halves[0].chosen, peer->halves[1].chosen,
                          tensor_reshape_2d(dweights, R, k), tensor_reshape_2d(peer->ids, R, k),
                          tensor_reshape_2d(peer->weights, R, k), peer->n);
    for (int h = 0; h < 2; h++) {
        KeyHalf *half = &peer->halves[h];
        (has_few_keys(peer) ? scores_backward : chosen_backward)(peer, half, work);
        if (is_normed(work)) query_norm_backward(&half->norm, work, half->dqueries, half->queries);
        digest_part(work, "queries", half->dqueries);
        linear_backward(work, half->query, peer->dx_f32,
                        work_stored(work, half->dqueries_stored, half->dqueries), peer->x);
        add(work->dev, h == 0 ? sum : dx, sum, peer->dx_f32);
    }
}

// ---- over ranks ---------------------------------------------------------------------------------

static Tensor gathered(Work *work, Tensor all, Tensor own, TrafficKind kind) {
    if (work->shape.ep_size == 1) return own;
    all_gather(work->groups.expert_parallel, all, own, kind);
    return all;
}

// What all ranks have made of this rank's tokens, (N, D) f32: the tree over their partial sums,
// which goes on the one over each rank's parts.
static Tensor sum_of_ranks(PeerLayer *peer, Work *work, TrafficKind kind) {
    int64_t ep = work->shape.ep_size, N = work->shape.N;
    if (ep == 1) return peer->partial;
    int64_t rows[NAMED_PARTS];
    for (int64_t p = 0; p < ep; p++) rows[p] = N;
    RowRuns runs = {.rows = rows};
    all_to_all_rows(work->groups.expert_parallel, peer->returned, runs, peer->partial, runs, kind);
    for (int64_t apart = 1; apart < ep; apart *= 2)
        for (int64_t p = 0; p < ep; p += 2 * apart) {
            Tensor left = tensor_rows(peer->returned, p * N, N);
            add(work->dev, left, left, tensor_rows(peer->returned, (p + apart) * N, N));
        }
    return tensor_rows(peer->returned, 0, N);
}

// ---- both passes --------------------------------------------------------------------------------

// This rank's rows of a table of experts, with the numbers that tokens have of each.
static NamedRows rows_of(const Work *work, int table, Tensor coefficients, int64_t column) {
    return (NamedRows){work_matrix(work, table), work->params->rows[table].first, coefficients,
                       column};
}

// The columns of `hidden`.
static int64_t up_column(const PeerLayer *peer) {
    return peer->gate >= 0 ? peer->all_ids.shape[1] : 0;
}

static int64_t own_parts(const Work *work) {
    return parts_of(work->config) / work->shape.ep_size;
}

// Who chose each expert, for the backward pass; and those that anybody chose become what updates
// have made of them.
static void list_chosen(PeerLayer *peer, Work *work, Tensor ids) {
    if (!work->training) return;
    list_names(work->dev, peer->at, peer->listed, ids, work->params->rows[peer->up].first);
    if (!work->keeper) return;
    const int tables[] = {peer->down, peer->up, peer->gate};
    for (int t = 0; t < (peer->gate >= 0 ? 3 : 2); t++)
        work->keeper->catch_up(work->keeper, tables[t], peer->listed);
}

static void forward(void *self, Work *work, Statistics *stats, Tensor out, Tensor x) {
    PeerLayer *peer = self;
    Activation kind = work->config->peer.activation;
    peer->x = x;
    choose(peer, work, stats, x);
    peer_usage_count(stats, work, peer->counts, peer->n * peer->n, peer->ids);
    for (int h = 0; h < 2; h++) digest_part(work, "queries", peer->halves[h].queries);
    digest_part(work, "choice", peer->ids);
    digest_part(work, "choice", peer->weights);
    Tensor all_x = gathered(work, peer->all_x, x, TRAFFIC_DISPATCH);
    Tensor ids = gathered(work, peer->all_ids, peer->ids, TRAFFIC_DISPATCH);
    Tensor weights = gathered(work, peer->all_weights, peer->weights, TRAFFIC_DISPATCH);
    digest_rows_of_parts(work, "dispatched", all_x, parts_of(work->config));
    digest_rows_of_parts(work, "dispatched", ids, parts_of(work->config));
    digest_rows_of_parts(work, "dispatched", weights, parts_of(work->config));
    list_chosen(peer, work, ids);
    if (peer->gate >= 0)
        named_products(work->dev, rows_of(work, peer->gate, peer->hidden, 0), all_x, ids);
    named_products(work->dev, rows_of(work, peer->up, peer->hidden, up_column(peer)), all_x, ids);
    activation_forward(work->dev, peer->activated, peer->hidden, kind);
    multiply_pairs(work->dev, peer->activated, peer->activated, weights);
    NamedRows down = rows_of(work, peer->down, peer->activated, 0);
    named_sums(work->dev, peer->partial, (NamedTables){&down, 1}, ids, own_parts(work));
    Tensor sum = sum_of_ranks(peer, work, TRAFFIC_COMBINE);
    digest_part(work, "returned", sum);
    (work->storage == F32 ? copy : convert)(work->dev, out, sum);
}

// The gradient of one table: of each expert over the tokens that chose it.
static void table_backward(PeerLayer *peer, Work *work, int table, Tensor coefficients,
                           int64_t column, Tensor tokens) {
    named_gradient(work->dev, work_gradient(work, table),
                   param_marks(work->params, work->gradients, table),
                   rows_of(work, table, coefficients, column), tokens, peer->at, peer->listed,
                   peer->all_ids.shape[1], work->shape.expert_parts);
}

static void backward(void *self, Work *work, Tensor dx, Tensor dout) {
    PeerLayer *peer = self;
    Device *dev = work->dev;
    Activation kind = work->config->peer.activation;
    Tensor all_x = work->shape.ep_size > 1 ? peer->all_x : peer->x;
    Tensor ids = peer->all_ids, weights = peer->all_weights;
    Tensor all_dout = gathered(work, peer->all_dout, dout, TRAFFIC_COMBINE);
    digest_rows_of_parts(work, "returned", all_dout, parts_of(work->config));
    activation_forward(dev, peer->activated, peer->hidden, kind);
    named_products(dev, rows_of(work, peer->down, peer->dproduct, 0), all_dout, ids);
    multiply_pairs(dev, peer->dweights, peer->dproduct, peer->activated);
    multiply_pairs(dev, peer->activated, peer->activated, weights);
    multiply_pairs(dev, peer->dproduct, peer->dproduct, weights);
    activation_backward(dev, peer->hidden, peer->dproduct, peer->hidden, kind);

    table_backward(peer, work, peer->down, peer->activated, 0, all_dout);
    table_backward(peer, work, peer->up, peer->hidden, up_column(peer), all_x);
    if (peer->gate >= 0) table_backward(peer, work, peer->gate, peer->hidden, 0, all_x);

    NamedRows in[NAMED_TABLES] = {rows_of(work, peer->up, peer->hidden, up_column(peer))};
    if (peer->gate >= 0) in[1] = rows_of(work, peer->gate, peer->hidden, 0);
    named_sums(dev, peer->partial, (NamedTables){in, peer->gate >= 0 ? 2 : 1}, ids,
               own_parts(work));
    Tensor dweights = peer->dweights;
    if (work->shape.ep_size > 1) { // each choice is one rank's, the others have zeros
        reduce_scatter_sum(work->groups.expert_parallel, peer->own_dweights, peer->dweights,
                           TRAFFIC_DISPATCH);
        dweights = peer->own_dweights;
    }
    // That of dweights is in those of queries: whether a zero has a sign, which changes nothing, is
    // up to the number of ranks.
    Tensor sum = sum_of_ranks(peer, work, TRAFFIC_DISPATCH);
    digest_part(work, "dispatched", sum);
    choose_backward(peer, work, dx, sum, dweights);
}

static void after_step(void *self, Work *work, const Statistics *stats) {
    PeerLayer *peer = self;
    for (int h = 0; h < 2 && is_normed(work); h++)
        query_norm_after_step(&peer->halves[h].norm, work, stats);
}

const LayerKind PEER_FEED_FORWARD = {
    .state_bytes = sizeof(PeerLayer),
    .bound = bound,
    .experts = parts,
    .experts_name = "the parts that peer.keys^2 experts are shared out in",
    .experts_evenly = true,
    .declare = declare,
    .layout = layout,
    .cost = cost,
    .forward = forward,
    .backward = backward,
    .after_step = after_step,
};
