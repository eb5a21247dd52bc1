// Blockwise attention with a running softmax, forward (FlashAttention, arXiv:2205.14135). One
// thread takes a whole (sequence, head). It first copies the head's rows into tiles padded with
// zeros, so that no inner loop has a tail.
#include "kernels/cpu/attention_scores.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"

typedef struct ForwardTiles {
    Rows k, v;         // (T, d_head), (T, d_value)
    Rows q, q_t;       // (BLOCK, d_head), (d_head, BLOCK); the second one is scaled
    Rows scores;       // (BLOCK keys, BLOCK queries), then their exponentials
    Rows sum;          // (BLOCK queries, d_value): the output before normalisation
    float *largest;    // (BLOCK): running maximum of each query
    float *normaliser; // (BLOCK): running Σ exp(score - largest)
    float *factor;     // (BLOCK): what the sums so far shrink by when the maximum grows
    float *peak;       // (BLOCK): running maximum of the scores as they are multiplied
    Rows dropout;      // (BLOCK keys, BLOCK queries)
} ForwardTiles;

static ForwardTiles forward_tiles(AttentionShape s, int64_t T) {
    int64_t d = round_up(s.d_head, LANES), dv = round_up(s.d_value, LANES);
    int64_t rows = round_up(T, BLOCK);
    int64_t floats = rows * (d + dv) + BLOCK * (2 * d + 2 * BLOCK + dv + 4);
    float *memory = thread_scratch((size_t)floats * sizeof *memory);
    return (ForwardTiles){
        .k = take(&memory, rows, d),
        .v = take(&memory, rows, dv),
        .q = take(&memory, BLOCK, d),
        .q_t = take(&memory, d, BLOCK),
        .scores = take(&memory, BLOCK, BLOCK),
        .sum = take(&memory, BLOCK, dv),
        .largest = take(&memory, 1, BLOCK).data,
        .normaliser = take(&memory, 1, BLOCK).data,
        .factor = take(&memory, 1, BLOCK).data,
        .peak = take(&memory, 1, BLOCK).data,
        .dropout = take(&memory, BLOCK, BLOCK),
    };
}

// One more block of keys: raises the maxima and turns the scores into exponentials.
static void softmax_block(ForwardTiles t, int64_t keys, int64_t queries, bool diagonal) {
    for (int64_t i = 0; i < queries; i += LANES) {
        float *scores = t.scores.data + i;
        int64_t seen = keys_seen(keys, i, diagonal);
        Lanes before = lanes_load(t.largest + i), largest = before;
        for (int64_t j = 0; j < seen; j++)
            largest = lanes_max(largest, lanes_load(scores + j * BLOCK));
        Lanes factor = lanes_exp(before - largest), sum = lanes_load(t.normaliser + i) * factor;
        for (int64_t j = 0; j < seen; j++) {
            Lanes e = lanes_exp(lanes_load(scores + j * BLOCK) - largest);
            lanes_store(scores + j * BLOCK, e);
            sum += e;
        }
        for (int64_t j = seen; j < keys; j++) lanes_store(scores + j * BLOCK, (Lanes){0});
        lanes_store(t.largest + i, largest);
        lanes_store(t.factor + i, factor);
        lanes_store(t.normaliser + i, sum);
    }
}

static void raise_peaks(ForwardTiles t, Square at, bool diagonal) {
    for (int64_t i = 0; i < at.queries; i += LANES) {
        int64_t seen = keys_seen(at.keys, i, diagonal);
        Lanes peak = lanes_load(t.peak + i);
        for (int64_t j = 0; j < seen; j++)
            peak = lanes_max(peak, lanes_load(t.scores.data + j * BLOCK + i));
        lanes_store(t.peak + i, peak);
    }
}

// Where one block of queries of a head has its numbers: at those of its first row.
typedef struct Queries {
    Stored q, out;
    float *lse, *largest; // largest may be NULL
    int64_t first, count; // in the sequence
    int64_t head, token;  // as in Square
} Queries;

static void forward_block(ForwardTiles t, AttentionRule rule, Queries x) {
    AttentionShape s = rule.shape;
    SoftmaxStart start = softmax_start(rule, x.head);
    int64_t T = rule.T, queries = round_up(x.count, LANES), dv = t.v.width;
    pack(t.q, queries, x.q, attention_qkv_width(s), x.count, s.d_head);
    transpose_scaled(t.q_t, t.q, queries, s.d_head, rule.scale);
    clear(t.sum, queries);
    for (int64_t i = 0; i < queries; i++) {
        t.largest[i] = start.largest;
        t.normaliser[i] = start.normaliser;
        t.peak[i] = -INFINITY;
    }
    int64_t first_block = first_key_seen(rule, x.first) / BLOCK * BLOCK;
    int64_t last = last_key_seen(rule, x.first + x.count - 1);
    for (int64_t key = first_block; key <= last; key += BLOCK) {
        int64_t keys = round_up(smaller(BLOCK, T - key), ROW_STEP);
        Square at = {x.head, x.token, key, keys, x.first, queries};
        bool diagonal = is_diagonal(rule, at);
        multiply(t.scores, plain(row_at(t.k, key)), t.q_t, keys, queries, s.d_head);
        hide_unseen(t.scores, rule, at);
        if (x.largest) raise_peaks(t, at, diagonal);
        if (scores_are_shaped(rule)) {
            shape_scores(t.scores, (Rows){0}, rule, at);
            hide_unseen(t.scores, rule, at);
        }
        softmax_block(t, keys, queries, diagonal);
        if (rule.dropout.rate > 0.0f) {
            draw_dropout(t.dropout, rule, at);
            multiply_elements(t.scores, t.dropout, at);
        }
        if (key > first_block)
            for (int64_t i = 0; i < queries; i++)
                for (int64_t c = 0; c < dv; c++) t.sum.data[i * dv + c] *= t.factor[i];
        multiply_add(t.sum, transposed(t.scores), row_at(t.v, key), queries, dv, keys);
    }
    for (int64_t i = 0; i < x.count; i++) {
        float inverse = 1.0f / t.normaliser[i];
        Stored row = stored_at(x.out, i * s.heads * s.d_value);
        float *sum = t.sum.data + i * dv, *to = x.out.type == F32 ? row.data : sum;
        for (int64_t c = 0; c < s.d_value; c++) to[c] = sum[c] * inverse;
        if (x.out.type == BF16) round_to_bf16(row.data, to, s.d_value);
        x.lse[i * s.heads] = t.largest[i] + logf(t.normaliser[i]);
        if (x.largest) x.largest[i * s.heads] = t.peak[i];
    }
}

void attention_forward_cpu(Device *dev, Tensor out, Tensor lse, Tensor largest, Tensor qkv,
                           AttentionRule rule) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, sequences = qkv.shape[0] / T, W = qkv.shape[1];
    Stored x = stored(qkv), to = stored(out);
    float *lse_of = tensor_f32(lse), *largest_of = largest.data ? tensor_f32(largest) : NULL;
#pragma omp parallel
    {
        ForwardTiles t = forward_tiles(s, T);
#pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < sequences; b++)
            for (int64_t h = 0; h < s.heads; h++) {
                int64_t kv = h / (s.heads / s.kv_heads), rows = round_up(T, ROW_STEP);
                Stored from = stored_at(x, b * T * W);
                AttentionRule own = rule_of_sequence(rule, b * T);
                pack(t.k, rows, stored_at(from, key_column(s, kv)), W, T, s.d_head);
                pack(t.v, rows, stored_at(from, value_column(s, kv)), W, T, s.d_value);
                for (int64_t i = 0; i < T; i += BLOCK) {
                    int64_t row = b * T + i;
                    forward_block(
                        t, own,
                        (Queries){.q = stored_at(from, i * W + query_column(s, h)),
                                  .out = stored_at(to, (row * s.heads + h) * s.d_value),
                                  .lse = lse_of + row * s.heads + h,
                                  .largest = largest_of ? largest_of + row * s.heads + h : NULL,
                                  .first = i,
                                  .count = smaller(BLOCK, T - i),
                                  .head = h,
                                  .token = b * T});
                }
            }
    }
}
