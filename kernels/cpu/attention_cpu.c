#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/register_tile.h"
#include "kernels/cpu/scratch.h"

// Blockwise attention with a running softmax (FlashAttention, arXiv:2205.14135). One thread takes a whole
// (sequence, head). It first copies the head's rows into tiles padded with zeros, so that no inner loop has
// a tail. Scores are kept transposed, a row for each key and a column for each query: the softmax then runs
// down columns, 16 queries at a time, and needs no sums across lanes.
enum { BLOCK = 64 }; // queries and keys of a block of scores

static int64_t round_up(int64_t n, int64_t step) {
    return (n + step - 1) / step * step;
}

// ---- a small matrix product ----------------------------------------------------------------------------

// A row-major matrix of lanes-padded rows.
typedef struct Rows {
    float *data;
    int64_t width; // floats from row to row, a multiple of LANES
} Rows;

static inline __attribute__((always_inline)) void multiply_with(Rows c, Factor a, Rows b,
                                                                int64_t rows, int64_t columns,
                                                                int64_t depth, const bool add) {
    for (int64_t i = 0; i < rows; i += REGISTER_ROWS) {
        Factor part = {a.data + i * a.row, a.row, a.column};
        float *to = c.data + i * c.width;
        int64_t j = 0;
        for (; j + REGISTER_COLUMNS <= columns; j += REGISTER_COLUMNS)
            multiply_tile(to + j, c.width, part, b.data + j, b.width, depth, 2, add);
        if (j < columns) multiply_tile(to + j, c.width, part, b.data + j, b.width, depth, 1, add);
    }
}

// c (rows, columns) = a (rows, depth) b (depth, columns); rows a multiple of REGISTER_ROWS, columns of LANES.
static void multiply(Rows c, Factor a, Rows b, int64_t rows, int64_t columns, int64_t depth) {
    multiply_with(c, a, b, rows, columns, depth, false);
}

// c += a b
static void multiply_add(Rows c, Factor a, Rows b, int64_t rows, int64_t columns, int64_t depth) {
    multiply_with(c, a, b, rows, columns, depth, true);
}

// ---- tiles ---------------------------------------------------------------------------------------------

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static Rows row_at(Rows r, int64_t row) {
    return (Rows){r.data + row * r.width, r.width};
}
static Rows column_at(Rows r, int64_t column) {
    return (Rows){r.data + column, r.width};
}
static Factor plain(Rows r) {
    return (Factor){r.data, r.width, 1};
}
static Factor transposed(Rows r) {
    return (Factor){r.data, 1, r.width};
}

static Rows take(float **memory, int64_t rows, int64_t width) {
    Rows r = {*memory, width};
    *memory += rows * width;
    return r;
}

static void clear(Rows r, int64_t rows) {
    memset(r.data, 0, (size_t)(rows * r.width) * sizeof(float));
}

static void copy_row(float *to, const float *from, int64_t columns) {
    int64_t j = 0;
    for (; j + LANES <= columns; j += LANES) lanes_store(to + j, lanes_load(from + j));
    for (; j < columns; j++) to[j] = from[j];
}

// to (padded_rows, to.width) = from (rows, columns) with zeros around it. The rows of a head lie far apart, where
// the processor's own prefetching does not follow.
static void pack(Rows to, int64_t padded_rows, const float *from, int64_t from_width, int64_t rows,
                 int64_t columns) {
    enum { LINE = 16 };
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < columns; j += LINE)
            __builtin_prefetch(from + i * from_width + columns + j);
        copy_row(to.data + i * to.width, from + i * from_width, columns);
        for (int64_t j = columns; j < to.width; j++) to.data[i * to.width + j] = 0.0f;
    }
    clear(row_at(to, rows), padded_rows - rows);
}

// to (columns, rows) = from (rows, columns)ᵀ · scale
static void transpose_scaled(Rows to, Rows from, int64_t rows, int64_t columns, float scale) {
    transpose(to.data, to.width, from.data, from.width, rows, columns);
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rows; i++) to.data[j * to.width + i] *= scale;
}

static void unpack(float *to, int64_t to_width, Rows from, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i++)
        copy_row(to + i * to_width, from.data + i * from.width, columns);
}

// Of the keys of a block, how many some query of [query, query + LANES) may see. A diagonal block is one whose
// keys and queries are the same tokens: there no query sees a later key.
static int64_t keys_seen(int64_t keys, int64_t query, bool diagonal) {
    return diagonal ? least(keys, query + LANES) : keys;
}

// Hides the later keys in the only squares of a diagonal block that are partly seen.
static void mask(Rows scores, int64_t keys) {
    for (int64_t key = 0; key < keys; key++)
        for (int64_t query = key / LANES * LANES; query < key; query++)
            scores.data[key * scores.width + query] = -INFINITY;
}

// Where head h and its key/value head lie in a row of the fused projection.
static int64_t query_column(AttentionShape s, int64_t h) {
    return h * s.d_head;
}
static int64_t key_column(AttentionShape s, int64_t kv) {
    return (s.heads + kv) * s.d_head;
}
static int64_t value_column(AttentionShape s, int64_t kv) {
    return (s.heads + s.kv_heads) * s.d_head + kv * s.d_value;
}

// ---- forward -------------------------------------------------------------------------------------------

typedef struct ForwardTiles {
    Rows k, v;         // (T, d_head), (T, d_value)
    Rows q, q_t;       // (BLOCK, d_head), (d_head, BLOCK); the second one is scaled
    Rows scores;       // (BLOCK keys, BLOCK queries), then their exponentials
    Rows sum;          // (BLOCK queries, d_value): the output before normalisation
    float *largest;    // (BLOCK): running maximum of each query
    float *normaliser; // (BLOCK): running Σ exp(score - largest)
    float *factor;     // (BLOCK): what the sums so far shrink by when the maximum grows
} ForwardTiles;

static ForwardTiles forward_tiles(AttentionShape s, int64_t T) {
    int64_t d = round_up(s.d_head, LANES), dv = round_up(s.d_value, LANES);
    int64_t rows = round_up(T, BLOCK);
    int64_t floats = rows * (d + dv) + BLOCK * (2 * d + BLOCK + dv + 3);
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

// Queries [first, first + count) of one head; out and lse point at the first one's numbers.
static void forward_block(ForwardTiles t, AttentionShape s, float *out, float *lse, const float *q,
                          int64_t W, int64_t first, int64_t count, int64_t T, float scale) {
    int64_t queries = round_up(count, LANES), dv = t.v.width;
    pack(t.q, queries, q, W, count, s.d_head);
    transpose_scaled(t.q_t, t.q, queries, s.d_head, scale);
    clear(t.sum, queries);
    for (int64_t i = 0; i < queries; i++) {
        t.largest[i] = -INFINITY;
        t.normaliser[i] = 0.0f;
    }
    for (int64_t key = 0; key <= first; key += BLOCK) {
        int64_t keys = round_up(least(BLOCK, T - key), REGISTER_ROWS);
        multiply(t.scores, plain(row_at(t.k, key)), t.q_t, keys, queries, s.d_head);
        if (key == first) mask(t.scores, keys);
        softmax_block(t, keys, queries, key == first);
        if (key > 0)
            for (int64_t i = 0; i < queries; i++)
                for (int64_t c = 0; c < dv; c++) t.sum.data[i * dv + c] *= t.factor[i];
        multiply_add(t.sum, transposed(t.scores), row_at(t.v, key), queries, dv, keys);
    }
    for (int64_t i = 0; i < count; i++) {
        float inverse = 1.0f / t.normaliser[i];
        for (int64_t c = 0; c < s.d_value; c++)
            out[i * s.heads * s.d_value + c] = t.sum.data[i * dv + c] * inverse;
        lse[i * s.heads] = t.largest[i] + logf(t.normaliser[i]);
    }
}

void attention_forward_cpu(Device *dev, Tensor out, Tensor lse, Tensor qkv, AttentionShape s,
                           int64_t T, float scale) {
    int64_t sequences = qkv.shape[0] / T, W = qkv.shape[1];
    const float *x = tensor_f32(qkv);
    float *to = tensor_f32(out), *lse_of = tensor_f32(lse);
#pragma omp parallel
    {
        ForwardTiles t = forward_tiles(s, T);
#pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < sequences; b++)
            for (int64_t h = 0; h < s.heads; h++) {
                int64_t kv = h / (s.heads / s.kv_heads), rows = round_up(T, REGISTER_ROWS);
                const float *from = x + b * T * W;
                pack(t.k, rows, from + key_column(s, kv), W, T, s.d_head);
                pack(t.v, rows, from + value_column(s, kv), W, T, s.d_value);
                for (int64_t i = 0; i < T; i += BLOCK)
                    forward_block(t, s, to + (b * T + i) * s.heads * s.d_value + h * s.d_value,
                                  lse_of + (b * T + i) * s.heads + h,
                                  from + i * W + query_column(s, h), W, i, least(BLOCK, T - i), T,
                                  scale);
            }
    }
}

// ---- backward ------------------------------------------------------------------------------------------

typedef struct BackwardTiles {
    Rows k, v, dk, dv;             // (T, d_head) or (T, d_value) of a key/value head
    Rows q, q_t, dq, dout, dout_t; // of one query head: (T, ·), transposed (·, T); q_t is scaled
    float *lse, *delta;            // (T): of that head; delta = Σ dout · out
    Rows p, ds;                    // (BLOCK keys, BLOCK queries): softmax, gradient of the scores
} BackwardTiles;

static BackwardTiles backward_tiles(AttentionShape s, int64_t T) {
    int64_t d = round_up(s.d_head, LANES), dv = round_up(s.d_value, LANES);
    int64_t rows = round_up(T, BLOCK);
    int64_t floats = rows * (5 * d + 4 * dv + 2) + 2 * BLOCK * BLOCK;
    float *memory = thread_scratch((size_t)floats * sizeof *memory);
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
static void backward_block(BackwardTiles t, AttentionShape s, int64_t key, int64_t query, int64_t T,
                           float scale) {
    int64_t keys = round_up(least(BLOCK, T - key), REGISTER_ROWS);
    int64_t queries = round_up(least(BLOCK, T - query), LANES);
    multiply(t.p, plain(row_at(t.k, key)), column_at(t.q_t, query), keys, queries, s.d_head);
    if (key == query) mask(t.p, keys);
    multiply(t.ds, plain(row_at(t.v, key)), column_at(t.dout_t, query), keys, queries, s.d_value);
    softmax_gradient(t, query, keys, queries, key == query, scale);
    multiply_add(row_at(t.dv, key), plain(t.p), row_at(t.dout, query), keys, t.dv.width, queries);
    multiply_add(row_at(t.dk, key), plain(t.ds), row_at(t.q, query), keys, t.dk.width, queries);
    multiply_add(row_at(t.dq, query), transposed(t.ds), row_at(t.k, key), queries, t.dq.width,
                 keys);
}

// One query head of one sequence against its packed keys and values; q, dout, out and lse point at its first row.
static void backward_head(BackwardTiles t, AttentionShape s, const float *q, const float *dout,
                          const float *out, const float *lse, int64_t T, float scale) {
    int64_t rows = round_up(T, LANES), W = attention_qkv_width(s), O = s.heads * s.d_value;
    pack(t.q, rows, q, W, T, s.d_head);
    transpose_scaled(t.q_t, t.q, rows, s.d_head, scale);
    pack(t.dout, rows, dout, O, T, s.d_value);
    transpose(t.dout_t.data, t.dout_t.width, t.dout.data, t.dout.width, rows, s.d_value);
    clear(t.dq, rows);
    for (int64_t i = 0; i < rows; i++) { // padding queries get finite numbers that multiply zeros
        t.lse[i] = i < T ? lse[i * s.heads] : 0.0f;
        t.delta[i] = i < T ? dot_product(dout + i * O, out + i * O, s.d_value) : 0.0f;
    }
    for (int64_t key = 0; key < T; key += BLOCK)
        for (int64_t query = key; query < T; query += BLOCK)
            backward_block(t, s, key, query, T, scale);
}

// One thread takes a key/value head with all its query heads, in order: dk and dv have one owner.
void attention_backward_cpu(Device *dev, Tensor dqkv, Tensor dout, Tensor qkv, Tensor out,
                            Tensor lse, AttentionShape s, int64_t T, float scale) {
    int64_t sequences = qkv.shape[0] / T, W = qkv.shape[1], O = s.heads * s.d_value;
    int64_t rows = round_up(T, LANES), group = s.heads / s.kv_heads;
    const float *x = tensor_f32(qkv), *y = tensor_f32(out), *dy = tensor_f32(dout);
    const float *lse_of = tensor_f32(lse);
    float *dx = tensor_f32(dqkv);
#pragma omp parallel
    {
        BackwardTiles t = backward_tiles(s, T);
#pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < sequences; b++)
            for (int64_t kv = 0; kv < s.kv_heads; kv++) {
                const float *from = x + b * T * W;
                float *to = dx + b * T * W;
                pack(t.k, rows, from + key_column(s, kv), W, T, s.d_head);
                pack(t.v, rows, from + value_column(s, kv), W, T, s.d_value);
                clear(t.dk, rows);
                clear(t.dv, rows);
                for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
                    int64_t at = b * T * O + h * s.d_value;
                    backward_head(t, s, from + query_column(s, h), dy + at, y + at,
                                  lse_of + b * T * s.heads + h, T, scale);
                    unpack(to + query_column(s, h), W, t.dq, T, s.d_head);
                }
                unpack(to + key_column(s, kv), W, t.dk, T, s.d_head);
                unpack(to + value_column(s, kv), W, t.dv, T, s.d_value);
            }
    }
}

// ---- decoding ------------------------------------------------------------------------------------------

// One query against the cache, memory-bound: one thread a head, keys in order.
void attention_decode_cpu(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionShape s,
                          int64_t position, float scale) {
    int64_t W = cache.shape[1], keys = position + 1;
    const float *q = tensor_f32(qkv), *rows = tensor_f32(cache);
    float *to = tensor_f32(out);
#pragma omp parallel for schedule(static)
    for (int64_t h = 0; h < s.heads; h++) {
        int64_t kv = h / (s.heads / s.kv_heads);
        const float *k = rows + kv * s.d_head, *v = rows + s.kv_heads * s.d_head + kv * s.d_value;
        float *p = thread_scratch((size_t)keys * sizeof *p), *sum = to + h * s.d_value;
        for (int64_t j = 0; j < keys; j++)
            p[j] = scale * dot_product(q + h * s.d_head, k + j * W, s.d_head);
        float largest = max_of(p, keys);
        for (int64_t j = 0; j < keys; j++) p[j] = exp_f32(p[j] - largest);
        float inverse = 1.0f / sum_of(p, keys);
        memset(sum, 0, (size_t)s.d_value * sizeof *sum);
        for (int64_t j = 0; j < keys; j++)
            for (int64_t c = 0; c < s.d_value; c++) sum[c] += p[j] * inverse * v[j * W + c];
    }
}
