#include <math.h>
#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/register_tile.h"
#include "kernels/cpu/scratch.h"
#include "kernels/integers.h"

// Blockwise attention with a running softmax (FlashAttention, arXiv:2205.14135). One thread takes a
// whole (sequence, head). It first copies the head's rows into tiles padded with zeros, so that no
// inner loop has a tail. Scores are kept transposed, a row for each key and a column for each
// query: the softmax then runs down columns, 16 queries at a time, and needs no sums across lanes.
// Tiles are f32: what is stored as bf16 is widened when it is copied in, and results are rounded
// when they are copied out.
enum { BLOCK = 64 }; // queries and keys of a block of scores

static int64_t round_up(int64_t n, int64_t step) {
    return (n + step - 1) / step * step;
}

// ---- storage ------------------------------------------------------------------------------------

// Elements of a tensor, f32 or bf16.
typedef struct Stored {
    void *data;
    DType type;
} Stored;

static Stored stored(Tensor x) {
    return (Stored){x.dtype == BF16 ? (void *)tensor_bf16(x) : (void *)tensor_f32(x), x.dtype};
}
static Stored stored_at(Stored x, int64_t element) {
    return (Stored){(char *)x.data + element * (x.type == BF16 ? 2 : 4), x.type};
}

// n elements as f32: where they are, or widened into `room`.
static const float *as_f32(Stored x, int64_t n, float *room) {
    if (x.type == F32) return x.data;
    widen_bf16(room, x.data, n);
    return room;
}

// ---- a small matrix product ---------------------------------------------------------------------

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

// c (rows, columns) = a (rows, depth) b (depth, columns); rows a multiple of REGISTER_ROWS, columns
// of LANES.
static void multiply(Rows c, Factor a, Rows b, int64_t rows, int64_t columns, int64_t depth) {
    multiply_with(c, a, b, rows, columns, depth, false);
}

// c += a b
static void multiply_add(Rows c, Factor a, Rows b, int64_t rows, int64_t columns, int64_t depth) {
    multiply_with(c, a, b, rows, columns, depth, true);
}

// ---- tiles --------------------------------------------------------------------------------------

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

static void load_row(float *to, Stored from, int64_t columns) {
    if (from.type == F32) {
        copy_row(to, from.data, columns);
    } else {
        widen_bf16(to, from.data, columns);
    }
}

static void store_row(Stored to, const float *from, int64_t columns) {
    if (to.type == F32) {
        copy_row(to.data, from, columns);
    } else {
        round_to_bf16(to.data, from, columns);
    }
}

// to (padded_rows, to.width) = from (rows, columns) with zeros around it. The rows of a head lie
// far apart, where the processor's own prefetching does not follow.
static inline __attribute__((always_inline)) void pack_with(Rows to, int64_t padded_rows,
                                                            Stored from, int64_t from_width,
                                                            int64_t rows, int64_t columns) {
    enum { LINE = 16 };
    for (int64_t i = 0; i < rows; i++) {
        Stored row = stored_at(from, i * from_width);
        for (int64_t j = 0; j < columns; j += LINE)
            __builtin_prefetch(stored_at(row, columns + j).data);
        load_row(to.data + i * to.width, row, columns);
        for (int64_t j = columns; j < to.width; j++) to.data[i * to.width + j] = 0.0f;
    }
    clear(row_at(to, rows), padded_rows - rows);
}

static void pack(Rows to, int64_t padded_rows, Stored from, int64_t from_width, int64_t rows,
                 int64_t columns) {
    if (from.type == F32) { // the type known to the loops
        pack_with(to, padded_rows, (Stored){from.data, F32}, from_width, rows, columns);
    } else {
        pack_with(to, padded_rows, (Stored){from.data, BF16}, from_width, rows, columns);
    }
}

// to (columns, rows) = from (rows, columns)ᵀ · scale
static void transpose_scaled(Rows to, Rows from, int64_t rows, int64_t columns, float scale) {
    transpose(to.data, to.width, from.data, from.width, rows, columns);
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rows; i++) to.data[j * to.width + i] *= scale;
}

static inline __attribute__((always_inline)) void
unpack_with(Stored to, int64_t to_width, Rows from, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i++)
        store_row(stored_at(to, i * to_width), from.data + i * from.width, columns);
}
static void unpack(Stored to, int64_t to_width, Rows from, int64_t rows, int64_t columns) {
    if (to.type == F32) {
        unpack_with((Stored){to.data, F32}, to_width, from, rows, columns);
    } else {
        unpack_with((Stored){to.data, BF16}, to_width, from, rows, columns);
    }
}

// The keys that the query at `query` sees begin here: 0, or `window` - 1 tokens before it.
static int64_t first_key_seen(AttentionRule rule, int64_t query) {
    return rule.window > 0 && query >= rule.window ? query - rule.window + 1 : 0;
}

// Of the keys of a block, how many some query of [query, query + LANES) may see. A diagonal block
// is one whose keys and queries are the same tokens: there no query sees a later key.
static int64_t keys_seen(int64_t keys, int64_t query, bool diagonal) {
    return diagonal ? smaller(keys, query + LANES) : keys;
}

// Hides the later keys in the only squares of a diagonal block that are partly seen.
static void mask(Rows scores, int64_t keys) {
    for (int64_t key = 0; key < keys; key++)
        for (int64_t query = key / LANES * LANES; query < key; query++)
            scores.data[key * scores.width + query] = -INFINITY;
}

// Hides the keys that lie before the window of a query: in a block of keys [key, …) and queries
// [query, query + queries).
static void mask_early(Rows scores, AttentionRule rule, int64_t key, int64_t keys, int64_t query,
                       int64_t queries) {
    if (first_key_seen(rule, query + queries - 1) <= key) return;
    for (int64_t j = 0; j < keys; j++) {
        int64_t first = key + j + rule.window - query; // of the queries that are too late for it
        for (int64_t i = first > 0 ? first : 0; i < queries; i++)
            scores.data[j * scores.width + i] = -INFINITY;
    }
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

// Less than any score, and finite: the difference of two of them is no NaN, which counts where a
// window hides the first block of keys from a query.
#define NOTHING_SEEN (-0x1p100f)

// Where the running softmax of a head begins: as if it had seen one score, `largest`, whose
// exponential adds to the normaliser and to no output.
typedef struct SoftmaxStart {
    float largest, normaliser;
} SoftmaxStart;

static SoftmaxStart softmax_start(AttentionRule rule, int64_t h) {
    switch (rule.softmax) {
    case SOFTMAX_PLAIN:
        break;
    case SOFTMAX_OFF_BY_ONE:
        return (SoftmaxStart){0.0f, 1.0f};
    case SOFTMAX_SINK:
        return (SoftmaxStart){tensor_f32(rule.sinks)[h], 1.0f};
    }
    return (SoftmaxStart){NOTHING_SEEN, 0.0f};
}

// ---- forward ------------------------------------------------------------------------------------

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
static void forward_block(ForwardTiles t, AttentionRule rule, SoftmaxStart start, Stored out,
                          float *lse, Stored q, int64_t W, int64_t first, int64_t count) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, queries = round_up(count, LANES), dv = t.v.width;
    pack(t.q, queries, q, W, count, s.d_head);
    transpose_scaled(t.q_t, t.q, queries, s.d_head, rule.scale);
    clear(t.sum, queries);
    for (int64_t i = 0; i < queries; i++) {
        t.largest[i] = start.largest;
        t.normaliser[i] = start.normaliser;
    }
    int64_t first_block = first_key_seen(rule, first) / BLOCK * BLOCK;
    for (int64_t key = first_block; key <= first; key += BLOCK) {
        int64_t keys = round_up(smaller(BLOCK, T - key), REGISTER_ROWS);
        multiply(t.scores, plain(row_at(t.k, key)), t.q_t, keys, queries, s.d_head);
        if (key == first) mask(t.scores, keys);
        mask_early(t.scores, rule, key, keys, first, queries);
        softmax_block(t, keys, queries, key == first);
        if (key > first_block)
            for (int64_t i = 0; i < queries; i++)
                for (int64_t c = 0; c < dv; c++) t.sum.data[i * dv + c] *= t.factor[i];
        multiply_add(t.sum, transposed(t.scores), row_at(t.v, key), queries, dv, keys);
    }
    for (int64_t i = 0; i < count; i++) {
        float inverse = 1.0f / t.normaliser[i];
        Stored row = stored_at(out, i * s.heads * s.d_value);
        float *sum = t.sum.data + i * dv, *to = out.type == F32 ? row.data : sum;
        for (int64_t c = 0; c < s.d_value; c++) to[c] = sum[c] * inverse;
        if (out.type == BF16) round_to_bf16(row.data, to, s.d_value);
        lse[i * s.heads] = t.largest[i] + logf(t.normaliser[i]);
    }
}

void attention_forward_cpu(Device *dev, Tensor out, Tensor lse, Tensor qkv, AttentionRule rule) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, sequences = qkv.shape[0] / T, W = qkv.shape[1];
    Stored x = stored(qkv), to = stored(out);
    float *lse_of = tensor_f32(lse);
#pragma omp parallel
    {
        ForwardTiles t = forward_tiles(s, T);
#pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < sequences; b++)
            for (int64_t h = 0; h < s.heads; h++) {
                int64_t kv = h / (s.heads / s.kv_heads), rows = round_up(T, REGISTER_ROWS);
                Stored from = stored_at(x, b * T * W);
                pack(t.k, rows, stored_at(from, key_column(s, kv)), W, T, s.d_head);
                pack(t.v, rows, stored_at(from, value_column(s, kv)), W, T, s.d_value);
                for (int64_t i = 0; i < T; i += BLOCK)
                    forward_block(t, rule, softmax_start(rule, h),
                                  stored_at(to, (b * T + i) * s.heads * s.d_value + h * s.d_value),
                                  lse_of + (b * T + i) * s.heads + h,
                                  stored_at(from, i * W + query_column(s, h)), W, i,
                                  smaller(BLOCK, T - i));
            }
    }
}

// ---- backward -----------------------------------------------------------------------------------

typedef struct BackwardTiles {
    Rows k, v, dk, dv;             // (T, d_head) or (T, d_value) of a key/value head
    Rows q, q_t, dq, dout, dout_t; // of one query head: (T, ·), transposed (·, T); q_t is scaled
    float *lse, *delta;            // (T): of that head; delta = Σ dout · out
    Rows p, ds;                    // (BLOCK keys, BLOCK queries): softmax, gradient of the scores
} BackwardTiles;

int64_t attention_scratch_floats(AttentionShape s, int64_t T) { // more than of the other passes
    int64_t d = round_up(s.d_head, LANES), dv = round_up(s.d_value, LANES);
    return round_up(T, BLOCK) * (5 * d + 4 * dv + 2) + 2 * BLOCK * BLOCK;
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
static void backward_block(BackwardTiles t, AttentionRule rule, int64_t key, int64_t query) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, keys = round_up(smaller(BLOCK, T - key), REGISTER_ROWS);
    int64_t queries = round_up(smaller(BLOCK, T - query), LANES);
    multiply(t.p, plain(row_at(t.k, key)), column_at(t.q_t, query), keys, queries, s.d_head);
    if (key == query) mask(t.p, keys);
    mask_early(t.p, rule, key, keys, query, queries);
    multiply(t.ds, plain(row_at(t.v, key)), column_at(t.dout_t, query), keys, queries, s.d_value);
    softmax_gradient(t, query, keys, queries, key == query, rule.scale);
    multiply_add(row_at(t.dv, key), plain(t.p), row_at(t.dout, query), keys, t.dv.width, queries);
    multiply_add(row_at(t.dk, key), plain(t.ds), row_at(t.q, query), keys, t.dk.width, queries);
    multiply_add(row_at(t.dq, query), transposed(t.ds), row_at(t.k, key), queries, t.dq.width,
                 keys);
}

// One query head of one sequence against its packed keys and values; q, dout, out and lse point at
// its first row.
static void backward_head(BackwardTiles t, AttentionRule rule, Stored q, Stored dout, Stored out,
                          const float *lse) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, rows = round_up(T, LANES), W = attention_qkv_width(s),
            O = s.heads * s.d_value;
    for (int64_t i = 0; i < rows; i++) { // padding queries get finite numbers that multiply zeros
        float *room = t.dout.data, *more = room + t.dout.width; // still free, BLOCK rows or more
        t.lse[i] = i < T ? lse[i * s.heads] : 0.0f;
        t.delta[i] = i < T ? dot_product(as_f32(stored_at(dout, i * O), s.d_value, room),
                                         as_f32(stored_at(out, i * O), s.d_value, more), s.d_value)
                           : 0.0f;
    }
    pack(t.q, rows, q, W, T, s.d_head);
    transpose_scaled(t.q_t, t.q, rows, s.d_head, rule.scale);
    pack(t.dout, rows, dout, O, T, s.d_value);
    transpose(t.dout_t.data, t.dout_t.width, t.dout.data, t.dout.width, rows, s.d_value);
    clear(t.dq, rows);
    for (int64_t key = 0; key < T; key += BLOCK)
        for (int64_t query = key; query < T && first_key_seen(rule, query) < key + BLOCK;
             query += BLOCK)
            backward_block(t, rule, key, query);
}

// One thread takes a key/value head with all its query heads, in order: dk and dv have one owner.
void attention_backward_cpu(Device *dev, Tensor dqkv, Tensor dout, Tensor qkv, Tensor out,
                            Tensor lse, AttentionRule rule) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, sequences = qkv.shape[0] / T, W = qkv.shape[1], O = s.heads * s.d_value;
    int64_t rows = round_up(T, LANES), group = s.heads / s.kv_heads;
    Stored x = stored(qkv), y = stored(out), dy = stored(dout), dx = stored(dqkv);
    const float *lse_of = tensor_f32(lse);
#pragma omp parallel
    {
        BackwardTiles t = backward_tiles(s, T);
#pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < sequences; b++)
            for (int64_t kv = 0; kv < s.kv_heads; kv++) {
                Stored from = stored_at(x, b * T * W), to = stored_at(dx, b * T * W);
                pack(t.k, rows, stored_at(from, key_column(s, kv)), W, T, s.d_head);
                pack(t.v, rows, stored_at(from, value_column(s, kv)), W, T, s.d_value);
                clear(t.dk, rows);
                clear(t.dv, rows);
                for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
                    int64_t at = b * T * O + h * s.d_value;
                    backward_head(t, rule, stored_at(from, query_column(s, h)), stored_at(dy, at),
                                  stored_at(y, at), lse_of + b * T * s.heads + h);
                    unpack(stored_at(to, query_column(s, h)), W, t.dq, T, s.d_head);
                }
                unpack(stored_at(to, key_column(s, kv)), W, t.dk, T, s.d_head);
                unpack(stored_at(to, value_column(s, kv)), W, t.dv, T, s.d_value);
            }
    }
}

// ---- decoding -----------------------------------------------------------------------------------

// One query against the cache, memory-bound: one thread a head, keys in order.
void attention_decode_cpu(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionRule rule,
                          int64_t position) {
    AttentionShape s = rule.shape;
    int64_t W = cache.shape[1], first = first_key_seen(rule, position), keys = position + 1 - first;
    Stored x = stored(qkv), rows = stored_at(stored(cache), first * W), to = stored(out);
#pragma omp parallel for schedule(static)
    for (int64_t h = 0; h < s.heads; h++) {
        int64_t kv = h / (s.heads / s.kv_heads);
        Stored k = stored_at(rows, kv * s.d_head);
        Stored v = stored_at(rows, s.kv_heads * s.d_head + kv * s.d_value);
        float *p = thread_scratch((size_t)(keys + 2 * s.d_head + 2 * s.d_value) * sizeof *p);
        float *sum = p + keys, *v_room = sum + s.d_value, *q_room = v_room + s.d_value;
        const float *q = as_f32(stored_at(x, h * s.d_head), s.d_head, q_room);
        for (int64_t j = 0; j < keys; j++)
            p[j] =
                rule.scale *
                dot_product(q, as_f32(stored_at(k, j * W), s.d_head, q_room + s.d_head), s.d_head);
        SoftmaxStart start = softmax_start(rule, h);
        float largest = fmaxf(max_of(p, keys), start.largest);
        for (int64_t j = 0; j < keys; j++) p[j] = exp_f32(p[j] - largest);
        float more = start.normaliser * exp_f32(start.largest - largest);
        float inverse = 1.0f / (sum_of(p, keys) + more);
        memset(sum, 0, (size_t)s.d_value * sizeof *sum);
        for (int64_t j = 0; j < keys; j++) {
            const float *value = as_f32(stored_at(v, j * W), s.d_value, v_room);
            for (int64_t c = 0; c < s.d_value; c++) sum[c] += p[j] * inverse * value[c];
        }
        store_row(stored_at(to, h * s.d_value), sum, s.d_value);
    }
}
