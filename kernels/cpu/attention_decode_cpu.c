// Attention of new tokens against the cache. A query goes through the same blocks of keys as in
// the pass over whole sequences (attention_cpu.c), and each of its numbers through the same
// operations in the same order: the outputs have the same bits.
#include "kernels/cpu/attention_scores.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"

enum {
    QUERIES = 16, // that share a block of keys once it is packed
    CHAINS = 4,   // sums that are added to in turn, since each waits for its last addition
};

typedef struct DecodeTiles {
    Rows k, v;    // (BLOCK, ·) of the head's keys and values
    Rows k_t;     // (d_head, BLOCK)
    float *score; // (BLOCK)
    // Of each query and head, on its way through the blocks:
    Rows q;            // (·, d_head) scaled
    Rows sum;          // (·, d_value): the output before normalisation
    float *largest;    // running maximum
    float *normaliser; // running Σ exp(score - largest)
} DecodeTiles;

static DecodeTiles decode_tiles(AttentionShape s, int64_t queries) {
    int64_t d = round_up(s.d_head, LANES), dv = round_up(s.d_value, LANES);
    int64_t room = round_up(queries, LANES);
    int64_t floats = BLOCK * (2 * d + dv + 1) + queries * (d + dv) + 2 * room;
    float *memory = thread_scratch((size_t)floats * sizeof *memory);
    return (DecodeTiles){
        .k = take(&memory, BLOCK, d),
        .v = take(&memory, BLOCK, dv),
        .k_t = take(&memory, d, BLOCK),
        .score = take(&memory, 1, BLOCK).data,
        .q = take(&memory, queries, d),
        .sum = take(&memory, queries, dv),
        .largest = take(&memory, 1, room).data,
        .normaliser = take(&memory, 1, room).data,
    };
}

static void begin_query(DecodeTiles t, AttentionRule rule, Stored q, int64_t i, int64_t head) {
    SoftmaxStart start = softmax_start(rule, head);
    float *query = row_at(t.q, i).data;
    load_row(query, q, rule.shape.d_head);
    for (int64_t c = 0; c < rule.shape.d_head; c++) query[c] *= rule.scale;
    clear(row_at(t.sum, i), 1);
    t.largest[i] = start.largest;
    t.normaliser[i] = start.normaliser;
}

// The scores of `keys` keys from `key` on, those before the window's `first` one hidden.
static void score_keys(DecodeTiles t, const float *q, AttentionRule rule, int64_t head,
                       int64_t query, int64_t key, int64_t keys, int64_t first) {
    for (int64_t j = 0; j < keys; j += CHAINS * LANES) {
        Lanes sum[CHAINS] = {{0}};
        for (int64_t c = 0; c < rule.shape.d_head; c++)
            for (int i = 0; i < CHAINS; i++)
                sum[i] = lanes_fma(lanes_load(t.k_t.data + c * BLOCK + j + i * LANES),
                                   lanes_set(q[c]), sum[i]);
        for (int i = 0; i < CHAINS; i++) lanes_store(t.score + j + i * LANES, sum[i]);
    }
    float slope = slope_of_head(rule, head);
    for (int64_t j = 0; j < keys && scores_are_shaped(rule); j++)
        t.score[j] = shaped_score(t.score[j], rule.softcap, slope, (float)(query - key - j));
    for (int64_t j = 0; j < first - key; j++) t.score[j] = -INFINITY;
}

// to (chains · LANES columns of the output from `column` on) = factor · to + score · v
static inline __attribute__((always_inline)) void
add_values(float *to, DecodeTiles t, int64_t column, int64_t keys, float factor, const int chains) {
    Lanes sum[CHAINS];
    for (int i = 0; i < chains; i++) sum[i] = lanes_load(to + i * LANES) * factor;
    for (int64_t j = 0; j < keys; j++)
        for (int i = 0; i < chains; i++)
            sum[i] = lanes_fma(lanes_set(t.score[j]),
                               lanes_load(row_at(t.v, j).data + column + i * LANES), sum[i]);
    for (int i = 0; i < chains; i++) lanes_store(to + i * LANES, sum[i]);
}

// Query i takes in a block of scored keys; `begins`: it is the query's first.
static void take_block(DecodeTiles t, int64_t i, int64_t keys, bool begins) {
    float before = t.largest[i], largest = before;
    for (int64_t j = 0; j < keys; j++) largest = largest > t.score[j] ? largest : t.score[j];
    float factor = exp_f32(before - largest), normaliser = t.normaliser[i] * factor;
    for (int64_t j = 0; j < keys; j++) t.score[j] = exp_f32(t.score[j] - largest);
    for (int64_t j = 0; j < keys; j++) normaliser += t.score[j];
    for (int64_t c = 0; c < t.v.width; c += CHAINS * LANES) {
        float *to = row_at(t.sum, i).data + c;
        int count = (int)smaller(CHAINS, (t.v.width - c) / LANES);
        if (count == CHAINS)
            add_values(to, t, c, keys, begins ? 1.0f : factor, CHAINS);
        else
            for (int k = 0; k < count; k++)
                add_values(to + k * LANES, t, c + k * LANES, keys, begins ? 1.0f : factor, 1);
    }
    t.largest[i] = largest;
    t.normaliser[i] = normaliser;
}

// The query heads of one key/value head for rows [row, row + rows) of qkv, of which the first
// stands at `position`.
static void decode_heads(Tensor out, Tensor qkv, Tensor cache, AttentionRule rule, int64_t kv,
                         int64_t row, int64_t rows, int64_t position) {
    AttentionShape s = rule.shape;
    int64_t group = s.heads / s.kv_heads, W = cache.shape[1], last = position + rows - 1;
    Stored x = stored(qkv), cached = stored(cache), to = stored(out);
    DecodeTiles t = decode_tiles(s, rows * group);
    for (int64_t i = 0; i < rows * group; i++) {
        int64_t head = kv * group + i % group, at = (row + i / group) * qkv.shape[1];
        begin_query(t, rule, stored_at(x, at + query_column(s, head)), i, head);
    }
    for (int64_t key = first_key_seen(rule, position) / BLOCK * BLOCK; key <= last; key += BLOCK) {
        int64_t count = smaller(BLOCK, last + 1 - key);
        Stored from = stored_at(cached, key * W);
        pack(t.k, round_up(count, LANES), stored_at(from, kv * s.d_head), W, count, s.d_head);
        pack(t.v, count, stored_at(from, s.kv_heads * s.d_head + kv * s.d_value), W, count,
             s.d_value);
        transpose(t.k_t.data, BLOCK, t.k.data, t.k.width, round_up(count, LANES), s.d_head);
        for (int64_t i = 0; i < rows * group; i++) {
            int64_t query = position + i / group, first = first_key_seen(rule, query);
            int64_t keys = smaller(BLOCK, query + 1 - key);
            if (keys <= 0 || first >= key + BLOCK) continue;
            score_keys(t, row_at(t.q, i).data, rule, kv * group + i % group, query, key, keys,
                       first);
            take_block(t, i, keys, first >= key);
        }
    }
    for (int64_t i = 0; i < rows * group; i++) {
        float inverse = 1.0f / t.normaliser[i], *sum = row_at(t.sum, i).data;
        int64_t head = kv * group + i % group;
        for (int64_t c = 0; c < s.d_value; c++) sum[c] *= inverse;
        store_row(stored_at(to, ((row + i / group) * s.heads + head) * s.d_value), sum, s.d_value);
    }
}

void attention_decode_cpu(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionRule rule,
                          int64_t position) {
    int64_t N = qkv.shape[0];
#pragma omp parallel for schedule(dynamic, 1) collapse(2)
    for (int64_t kv = 0; kv < rule.shape.kv_heads; kv++)
        for (int64_t row = 0; row < N; row += QUERIES)
            decode_heads(out, qkv, cache, rule, kv, row, smaller(QUERIES, N - row), position + row);
}
