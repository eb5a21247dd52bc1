// Blockwise attention, backward: probabilities are computed again from the scores and their
// log-sum-exp, block by block (FlashAttention, arXiv:2205.14135).
#include "kernels/cpu/attention_scores.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"

typedef struct BackwardTiles {
    Rows k, v, dk, dv;             // (T, d_head) or (T, d_value) of a key/value head
    Rows q, q_t, dq, dout, dout_t; // of one query head: (T, ·), transposed (·, T); q_t is scaled
    float *lse, *delta;            // (T): of that head; delta = Σ dout · out
    Rows p, ds;                    // (BLOCK keys, BLOCK queries): softmax, gradient of the scores
    Rows dropout, cap;             // likewise: what dropout multiplies by, derivative of the cap
} BackwardTiles;

int64_t attention_scratch_floats(AttentionShape s, int64_t T) { // more than of the other passes
    int64_t d = round_up(s.d_head, LANES), dv = round_up(s.d_value, LANES);
    return round_up(T, BLOCK) * (5 * d + 4 * dv + 2) + 4 * BLOCK * BLOCK;
}

static BackwardTiles backward_tiles(AttentionShape s, int64_t T) {
    int64_t d = round_up(s.d_head, LANES), dv = round_up(s.d_value, LANES);
    int64_t rows = round_up(T, BLOCK);
    float *memory = thread_scratch((size_t)attention_scratch_floats(s, T) * sizeof *memory);
    return (BackwardTiles){
        .k = take(&memory, rows, d),
        .v = take(&memory, rows, dv),
        .dk = take(&memory, rows, d),
        .dv = take(&memory, rows, dv),
        .q = take(&memory, rows, d),
        .q_t = take(&memory, d, rows),
        .dq = take(&memory, rows, d),
        .dout = take(&memory, rows, dv),
        .dout_t = take(&memory, dv, rows),
        .lse = take(&memory, 1, rows).data,
        .delta = take(&memory, 1, rows).data,
        .p = take(&memory, BLOCK, BLOCK),
        .ds = take(&memory, BLOCK, BLOCK),
        .dropout = take(&memory, BLOCK, BLOCK),
        .cap = take(&memory, BLOCK, BLOCK),
    };
}

// Turns p from scores into probabilities and ds from dout · v into the gradient of the scores.
static void softmax_gradient(BackwardTiles t, int64_t query, int64_t keys, int64_t queries,
                             bool diagonal, float scale) {
    for (int64_t i = 0; i < queries; i += LANES) {
        float *p = t.p.data + i, *ds = t.ds.data + i;
        int64_t seen = keys_seen(keys, i, diagonal);
        Lanes lse = lanes_load(t.lse + query + i), delta = lanes_load(t.delta + query + i);
        for (int64_t j = 0; j < seen; j++) {
            Lanes probability = lanes_exp(lanes_load(p + j * BLOCK) - lse);
            lanes_store(p + j * BLOCK, probability);
            lanes_store(ds + j * BLOCK, probability * (lanes_load(ds + j * BLOCK) - delta) * scale);
        }
        for (int64_t j = seen; j < keys; j++) {
            lanes_store(p + j * BLOCK, (Lanes){0});
            lanes_store(ds + j * BLOCK, (Lanes){0});
        }
    }
}

// Adds what the scores between keys [key, …) and queries [query, …) say to dq, dk and dv.
static void backward_block(BackwardTiles t, AttentionRule rule, int64_t head, int64_t token,
                           int64_t key, int64_t query) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, keys = round_up(smaller(BLOCK, T - key), ROW_STEP);
    int64_t queries = round_up(smaller(BLOCK, T - query), LANES);
    Square at = {head, token, key, keys, query, queries};
    bool drops = rule.dropout.rate > 0.0f;
    multiply(t.p, plain(row_at(t.k, key)), column_at(t.q_t, query), keys, queries, s.d_head);
    if (scores_are_shaped(rule)) shape_scores(t.p, t.cap, rule, at);
    hide_unseen(t.p, rule, at);
    multiply(t.ds, plain(row_at(t.v, key)), column_at(t.dout_t, query), keys, queries, s.d_value);
    if (drops) {
        draw_dropout(t.dropout, rule, at);
        multiply_elements(t.ds, t.dropout, at);
    }
    softmax_gradient(t, query, keys, queries, is_diagonal(rule, at), rule.scale);
    if (drops) multiply_elements(t.p, t.dropout, at);
    if (rule.softcap > 0.0f) multiply_elements(t.ds, t.cap, at);
    multiply_add(row_at(t.dv, key), plain(t.p), row_at(t.dout, query), keys, t.dv.width, queries);
    multiply_add(row_at(t.dk, key), plain(t.ds), row_at(t.q, query), keys, t.dk.width, queries);
    multiply_add(row_at(t.dq, query), transposed(t.ds), row_at(t.k, key), queries, t.dq.width,
                 keys);
}

// Where one query head of a sequence has its numbers: at those of its first row.
typedef struct HeadRows {
    Stored q, dout, out;
    const float *lse;
    float *dsink;        // SOFTMAX_SINK alone
    int64_t head, token; // as in Square
} HeadRows;

// One query head of one sequence against its packed keys and values.
static void backward_head(BackwardTiles t, AttentionRule rule, HeadRows x) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, rows = round_up(T, LANES), W = attention_qkv_width(s),
            O = s.heads * s.d_value;
    for (int64_t i = 0; i < rows; i++) { // padding queries get finite numbers that multiply zeros
        float *room = t.dout.data, *more = room + t.dout.width; // still free, BLOCK rows or more
        t.lse[i] = i < T ? x.lse[i * s.heads] : 0.0f;
        t.delta[i] = i < T
                         ? dot_product(as_f32(stored_at(x.dout, i * O), s.d_value, room),
                                       as_f32(stored_at(x.out, i * O), s.d_value, more), s.d_value)
                         : 0.0f;
    }
    if (rule.softmax == SOFTMAX_SINK)
        for (int64_t i = 0; i < T; i++)
            x.dsink[i * s.heads] = -exp_f32(tensor_f32(rule.sinks)[x.head] - t.lse[i]) * t.delta[i];
    pack(t.q, rows, x.q, W, T, s.d_head);
    transpose_scaled(t.q_t, t.q, rows, s.d_head, rule.scale);
    pack(t.dout, rows, x.dout, O, T, s.d_value);
    transpose(t.dout_t.data, t.dout_t.width, t.dout.data, t.dout.width, rows, s.d_value);
    clear(t.dq, rows);
    for (int64_t key = 0; key < T; key += BLOCK) {
        int64_t first = rule.bidirectional ? first_key_seen(rule, key) / BLOCK * BLOCK : key;
        for (int64_t query = first; query < T && first_key_seen(rule, query) < key + BLOCK;
             query += BLOCK)
            backward_block(t, rule, x.head, x.token, key, query);
    }
}

// One thread takes a key/value head with all its query heads, in order: dk and dv have one owner.
void attention_backward_cpu(Device *dev, Tensor dqkv, Tensor dsinks, Tensor dout, Tensor qkv,
                            Tensor out, Tensor lse, AttentionRule rule) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, sequences = qkv.shape[0] / T, W = qkv.shape[1], O = s.heads * s.d_value;
    int64_t rows = round_up(T, LANES), group = s.heads / s.kv_heads;
    Stored x = stored(qkv), y = stored(out), dy = stored(dout), dx = stored(dqkv);
    const float *lse_of = tensor_f32(lse);
    float *dsinks_of = rule.softmax == SOFTMAX_SINK ? tensor_f32(dsinks) : NULL;
#pragma omp parallel
    {
        BackwardTiles t = backward_tiles(s, T);
#pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < sequences; b++)
            for (int64_t kv = 0; kv < s.kv_heads; kv++) {
                AttentionRule own = rule_of_sequence(rule, b * T);
                Stored from = stored_at(x, b * T * W), to = stored_at(dx, b * T * W);
                pack(t.k, rows, stored_at(from, key_column(s, kv)), W, T, s.d_head);
                pack(t.v, rows, stored_at(from, value_column(s, kv)), W, T, s.d_value);
                clear(t.dk, rows);
                clear(t.dv, rows);
                for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
                    int64_t at = b * T * O + h * s.d_value, number = b * T * s.heads + h;
                    backward_head(t, own,
                                  (HeadRows){.q = stored_at(from, query_column(s, h)),
                                             .dout = stored_at(dy, at),
                                             .out = stored_at(y, at),
                                             .lse = lse_of + number,
                                             .dsink = dsinks_of ? dsinks_of + number : NULL,
                                             .head = h,
                                             .token = b * T});
                    unpack(stored_at(to, query_column(s, h)), W, t.dq, T, s.d_head);
                }
                unpack(stored_at(to, key_column(s, kv)), W, t.dk, T, s.d_head);
                unpack(stored_at(to, value_column(s, kv)), W, t.dv, T, s.d_value);
            }
    }
}
