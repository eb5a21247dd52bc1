// Attention, backward: FlashAttention-2 (arXiv:2307.08691) without its atomic additions.
// With p the probabilities, recomputed from the scores and their log-sum-exp, and delta = Σ dout ·
// out of a query and head:
//   dv = pᵀ dout;  ds = p · (dout vᵀ - delta);  dq = scale · ds k;  dk = scale · dsᵀ q
// Three kernels: delta; dk and dv, a block for each tile of keys; dq, a block for each tile of
// queries. Scores are computed twice, seven products of tiles instead of five, and in return every
// sum has one owner and one order: the query heads of a group in turn, each one's tiles from first
// to last. No bit depends on the batch.
//
// Bytes moved: own tiles and results once; the tiles walked over once a block, from the L2 cache.
#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_delta.cuh"
#include "kernels/cuda/attention_scores.cuh"
#include "kernels/cuda/attention_warpgroup.cuh"
#include "kernels/cuda/cuda_ops.h"

// ---- bf16 ---------------------------------------------------------------------------------------

// A block owns OWN tokens, 16 a warp, and walks over tiles of OTHER tokens in two buffers: one
// arrives while the other is computed with. All stays below 99 KB of shared memory, which every GPU
// since Ampere has.
template <int P> struct BackwardTiles {
    static const int WARPS = P == 128 ? 8 : 4, THREADS = WARPS * WARP;
    static const int OWN = WARPS * STRIP, OTHER = P == 256 ? 16 : 32;
    static const int COLUMNS = P == 256 ? 128 : P; // of dk and dv that a block's registers hold
    static const int SLICES = P / COLUMNS;
    static const int STAGE = 2 * OTHER * P; // elements of a buffer
    static const int TILE_BYTES = (2 * OWN * P + 2 * STAGE) * (int)sizeof(bf16);
    static const int BYTES = TILE_BYTES + 2 * 2 * OTHER * (int)sizeof(float);
};

// The gradient of a score that was shaped: `p` is its probability, negative where dropout took it,
// dp = dout · v. The score comes back from the probability: to keep it would take registers that
// there are not.
__device__ static inline float shaped_gradient(Heads g, float p, float dp, float lse_log2,
                                               float delta, float slope, int distance) {
    float size = fabsf(p);
    if (size == 0.0f) return 0.0f;
    if (g.drop_below > 0) dp = p > 0.0f ? dp * g.kept_factor : 0.0f;
    float score = (log2f(size) + lse_log2) * LN_2;
    return size * (dp - delta) * cap_derivative(g, score, slope, distance);
}

// A block owns OWN keys of a key/value head, and COLUMNS columns of dk and dv. Scores are kept
// transposed, keys down and queries across, so that they are the left operand of both sums as they
// lie in registers.
template <int P, bool SHAPED>
__global__ void __launch_bounds__(BackwardTiles<P>::THREADS, SHAPED ? 1 : 0)
    attention_backward_keys_bf16(bf16 *dqkv, const bf16 *dout, const bf16 *qkv, const float *lse,
                                 const float *delta, Heads g, float scale) {
    typedef BackwardTiles<P> S;
    const int OWN = S::OWN, OTHER = S::OTHER, ACROSS = OTHER / 8, WIDTH = S::COLUMNS / 8;
    const int THREADS = S::THREADS;
    DYNAMIC_SHARED(bf16, keys);
    bf16 *values = keys + OWN * P, *buffers = values + OWN * P;
    float *numbers = reinterpret_cast<float *>(buffers + 2 * S::STAGE); // (2, 2, OTHER)
    OwnTile own = own_tile(g.T, g.kv_heads, OWN, blockIdx.x / S::SLICES, false);
    const bool both = SHAPED && g.bidirectional;
    int slice = (int)(blockIdx.x % S::SLICES) * S::COLUMNS;
    int group = g.heads / g.kv_heads, first = first_query(g, own, OTHER, both);
    int tiles = (last_query(g, own) - first + OTHER) / OTHER;
    int thread = threadIdx.x, lane = thread % WARP, warp_row = thread / WARP * STRIP;
    float scale_log2 = scale * LOG2_E;
    const bf16 *from = qkv + own.row * g.width + own.first * g.width;
    const bf16 *queries_from = qkv + (own.row + first) * g.width;
    const bf16 *dout_from = dout + (own.row + first) * g.out_width;
    load_tile<bf16, P, OWN, THREADS>(keys, from + key_column(g, own.head), g.width,
                                     own.end - own.first, g.d_head, g.vectors);
    load_tile<bf16, P, OWN, THREADS>(values, from + value_column(g, own.head), g.width,
                                     own.end - own.first, g.d_value, g.vectors);

    float dk[1][WIDTH][4] = {}, dv[1][WIDTH][4] = {};
    // Step i takes the i % tiles-th tile of queries of the group's i / tiles-th head; the turn
    // before the first only loads.
    for (int step = -1; step < group * tiles; step++) {
        cp_async_wait<0>();
        __syncthreads(); // this step's buffer is there, nobody reads the other one
        int coming = step + 1, head = own.head * group + coming / tiles;
        int offset = coming % tiles * OTHER; // of the queries, from `first` on
        bf16 *buffer = buffers + coming % 2 * S::STAGE;
        QueryNumbers next = {};
        if (coming < group * tiles) {
            int rows = g.T - first - offset;
            load_tile<bf16, P, OTHER, THREADS>(
                buffer, queries_from + offset * g.width + query_column(g, head), g.width, rows,
                g.d_head, g.vectors);
            load_tile<bf16, P, OTHER, THREADS>(buffer + OTHER * P,
                                               dout_from + offset * g.out_width + head * g.d_value,
                                               g.out_width, rows, g.d_value, g.vectors);
            if (thread < OTHER)
                next = query_numbers(lse, delta, own.row, first + offset + thread, head, g);
        }
        cp_async_commit();
        int query = first - own.first + step % tiles * OTHER;
        // Some query sees some key of this warp.
        if (step >= 0 && (both || query + OTHER > warp_row) &&
            first_key_seen(g, own.row, own.first + query) < own.first + warp_row + STRIP) {
            const bf16 *queries = buffers + step % 2 * S::STAGE, *douts = queries + OTHER * P;
            const float *lse_log2 = numbers + step % 2 * 2 * OTHER, *deltas = lse_log2 + OTHER;
            float p[1][ACROSS][4], ds[1][ACROSS][4];
            multiply_tiles<P, 1, ACROSS>(p, keys, warp_row, queries);
            bool partly =
                both || query < warp_row + STRIP ||
                first_key_seen(g, own.row, own.first + query + OTHER - 1) > own.first + warp_row;
            int turn = own.head * group + step / tiles; // the query head
            float slope = SHAPED ? slope_of_head(g, turn) : 0.0f;
#pragma unroll
            for (int n = 0; n < ACROSS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int column = n * 8 + lane % 4 * 2 + i % 2, row = lane / 4 + i / 2 * 8;
                    if (SHAPED)
                        p[0][n][i] =
                            shape_score(g, p[0][n][i], slope, query + column - (warp_row + row));
                    float e = exp2f(fmaf(p[0][n][i], scale_log2, -lse_log2[column]));
                    if (partly && !sees(g, own.row, own.first + query + column,
                                        own.first + warp_row + row, both))
                        e = 0.0f;
                    p[0][n][i] = e;
                }
            if constexpr (SHAPED) {
                // Dropped probabilities become negative; the sum below sees zeros in their place.
                float kept[1][ACROSS][4];
#pragma unroll
                for (int n = 0; n < ACROSS; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        int column = n * 8 + lane % 4 * 2 + i % 2, row = lane / 4 + i / 2 * 8;
                        float factor = dropout_factor(g, own.row + own.first + query + column, turn,
                                                      own.first + warp_row + row);
                        kept[0][n][i] = p[0][n][i] * factor;
                        if (factor == 0.0f) p[0][n][i] = -p[0][n][i];
                    }
                add_product<P, 1, ACROSS, WIDTH>(dv, kept, douts, slice);
            } else {
                add_product<P, 1, ACROSS, WIDTH>(dv, p, douts, slice);
            }
            // Not before: with both products' operands at once, 255 registers a thread do not do.
            multiply_tiles<P, 1, ACROSS>(ds, values, warp_row, douts);
#pragma unroll
            for (int n = 0; n < ACROSS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int column = n * 8 + lane % 4 * 2 + i % 2, row = lane / 4 + i / 2 * 8;
                    if constexpr (SHAPED)
                        ds[0][n][i] = shaped_gradient(g, p[0][n][i], ds[0][n][i], lse_log2[column],
                                                      deltas[column], slope,
                                                      query + column - (warp_row + row));
                    else
                        ds[0][n][i] = p[0][n][i] * (ds[0][n][i] - deltas[column]);
                }
            add_product<P, 1, ACROSS, WIDTH>(dk, ds, queries, slice);
        }
        if (thread < OTHER) { // not before: they take as long to come as the tiles
            float *to = numbers + coming % 2 * 2 * OTHER;
            to[thread] = next.lse_log2;
            to[OTHER + thread] = next.delta;
        }
    }

    // A warp alone reads its keys and values: their place is free for its results.
    stage_strip<P, WIDTH>(keys, warp_row, slice, dk[0], scale, scale);
    stage_strip<P, WIDTH>(values, warp_row, slice, dv[0], 1.0f, 1.0f);
    __syncthreads();
    bf16 *to = dqkv + (own.row + own.first) * g.width;
    int rows = own.end - own.first;
    store_tile<P, OWN, THREADS>(to + key_column(g, own.head), g.width, keys, rows, slice,
                                min(slice + S::COLUMNS, g.d_head), g.vectors);
    store_tile<P, OWN, THREADS>(to + value_column(g, own.head), g.width, values, rows, slice,
                                min(slice + S::COLUMNS, g.d_value), g.vectors);
}

// A block owns OWN queries of a head.
template <int P, bool SHAPED>
__global__ void __launch_bounds__(BackwardTiles<P>::THREADS, SHAPED ? 1 : 0)
    attention_backward_queries_bf16(bf16 *dqkv, const bf16 *dout, const bf16 *qkv, const float *lse,
                                    const float *delta, Heads g, float scale) {
    typedef BackwardTiles<P> S;
    const int OWN = S::OWN, OTHER = S::OTHER, ACROSS = OTHER / 8, WIDTH = P / 8;
    const int THREADS = S::THREADS;
    DYNAMIC_SHARED(bf16, queries);
    bf16 *douts = queries + OWN * P, *buffers = douts + OWN * P;
    OwnTile own = own_tile(g.T, g.heads, OWN, blockIdx.x, true);
    const bool both = SHAPED && g.bidirectional;
    int kv_head = own.head / (g.heads / g.kv_heads), rows = own.end - own.first;
    int lane = threadIdx.x % WARP, warp_row = threadIdx.x / WARP * STRIP;
    int warp_first = own.first + warp_row;
    float scale_log2 = scale * LOG2_E;
    const bf16 *from = qkv + own.row * g.width;
    load_tile<bf16, P, OWN, THREADS>(queries,
                                     from + own.first * g.width + query_column(g, own.head),
                                     g.width, rows, g.d_head, g.vectors);
    load_tile<bf16, P, OWN, THREADS>(
        douts, dout + (own.row + own.first) * g.out_width + own.head * g.d_value, g.out_width, rows,
        g.d_value, g.vectors);
    float slope = SHAPED ? slope_of_head(g, own.head) : 0.0f;
    QueryNumbers upper = query_numbers(lse, delta, own.row, warp_first + lane / 4, own.head, g);
    QueryNumbers lower = query_numbers(lse, delta, own.row, warp_first + lane / 4 + 8, own.head, g);

    float dq[1][WIDTH][4] = {};
    int first_key = first_key_seen(g, own.row, own.first) / OTHER * OTHER;
    int end_key = last_key_seen(g, own.row, own.end - 1, both) + 1;
    for (int key = first_key - OTHER; key < end_key; key += OTHER) { // the first turn only loads
        cp_async_wait<0>();
        __syncthreads(); // this step's buffer is there, nobody reads the other one
        int coming = key + OTHER;
        bf16 *buffer = buffers + coming / OTHER % 2 * S::STAGE;
        const bf16 *next = from + coming * g.width;
        if (coming < end_key) {
            load_tile<bf16, P, OTHER, THREADS>(buffer, next + key_column(g, kv_head), g.width,
                                               g.T - coming, g.d_head, g.vectors);
            load_tile<bf16, P, OTHER, THREADS>(buffer + OTHER * P, next + value_column(g, kv_head),
                                               g.width, g.T - coming, g.d_value, g.vectors);
        }
        cp_async_commit();
        // Later than all queries of this warp, or before all their windows.
        if (key < first_key || (!both && key >= warp_first + STRIP) ||
            key + OTHER <= first_key_seen(g, own.row, warp_first))
            continue;
        const bf16 *keys = buffers + key / OTHER % 2 * S::STAGE, *values = keys + OTHER * P;
        float p[1][ACROSS][4], ds[1][ACROSS][4];
        multiply_tiles<P, 1, ACROSS>(p, queries, warp_row, keys);
        multiply_tiles<P, 1, ACROSS>(ds, douts, warp_row, values);
        bool partly = both || key + OTHER > warp_first + 1 ||
                      key < first_key_seen(g, own.row, warp_first + STRIP - 1);
#pragma unroll
        for (int n = 0; n < ACROSS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                QueryNumbers of = i < 2 ? upper : lower;
                int column = n * 8 + lane % 4 * 2 + i % 2, row = lane / 4 + i / 2 * 8;
                int distance = warp_first + row - (key + column);
                if (SHAPED) p[0][n][i] = shape_score(g, p[0][n][i], slope, distance);
                float e = exp2f(fmaf(p[0][n][i], scale_log2, -of.lse_log2));
                if (partly && !sees(g, own.row, warp_first + row, key + column, both)) e = 0.0f;
                if (SHAPED) {
                    ds[0][n][i] *=
                        dropout_factor(g, own.row + warp_first + row, own.head, key + column);
                    e *= cap_derivative(g, p[0][n][i] * scale, slope, distance);
                }
                ds[0][n][i] = e * (ds[0][n][i] - of.delta);
            }
        add_product<P, 1, ACROSS, WIDTH>(dq, ds, keys, 0);
    }

    stage_strip<P, WIDTH>(queries, warp_row, 0, dq[0], scale, scale); // its own rows, as above
    __syncthreads();
    store_tile<P, OWN, THREADS>(dqkv + (own.row + own.first) * g.width + query_column(g, own.head),
                                g.width, queries, rows, 0, g.d_head, g.vectors);
}

// ---- f32 ----------------------------------------------------------------------------------------

// A block of 128 threads owns OWN tokens and walks over OTHER tokens at a time; two or more blocks
// on a multiprocessor hide each other's loads.
template <int P> static inline size_t keys_f32_bytes() {
    typedef PlainTiles<P> S;
    return (2 * S::OWN_FLOATS + 2 * S::OTHER_FLOATS + 2 * S::SCORE_FLOATS + 2 * S::OTHER) *
           sizeof(float);
}
template <int P> static inline size_t queries_f32_bytes() {
    typedef PlainTiles<P> S;
    return (2 * S::OWN_FLOATS + 2 * S::OTHER_FLOATS + S::SCORE_FLOATS) * sizeof(float);
}

// Writes this thread's rows of a sum, times `factor`, into the head at `to`: its first own row.
template <int P>
__device__ static inline void store_sum(float *to, int64_t width, float sum[8][4], float factor,
                                        int rows, int columns, bool vectors) {
    typedef PlainTiles<P> S;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int row = S::sum_row() + i * S::GROUPS;
        if (row >= rows) continue;
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] *= factor;
        store_four(to + row * width + S::sum_column(), sum[i], columns - S::sum_column(), vectors);
    }
}

template <int P, bool SHAPED>
__global__ void __launch_bounds__(PlainTiles<P>::THREADS, 2)
    attention_backward_keys_f32(float *dqkv, const float *dout, const float *qkv, const float *lse,
                                const float *delta, Heads g, float scale) {
    typedef PlainTiles<P> S;
    const int OWN = S::OWN, OTHER = S::OTHER, THREADS = S::THREADS;
    DYNAMIC_SHARED(float, keys);
    float *values = keys + S::OWN_FLOATS, *queries = values + S::OWN_FLOATS;
    float *douts = queries + S::OTHER_FLOATS, *p_tile = douts + S::OTHER_FLOATS;
    float *ds_tile = p_tile + S::SCORE_FLOATS, *numbers = ds_tile + S::SCORE_FLOATS;
    OwnTile own = own_tile(g.T, g.kv_heads, OWN, blockIdx.x, false);
    const bool both = SHAPED && g.bidirectional;
    int group = g.heads / g.kv_heads, rows = own.end - own.first;
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
    float scale_log2 = scale * LOG2_E;
    const float *from = qkv + (own.row + own.first) * g.width;
    load_tile<float, P, OWN, THREADS>(keys, from + key_column(g, own.head), g.width, rows, g.d_head,
                                      g.vectors);
    load_tile<float, P, OWN, THREADS>(values, from + value_column(g, own.head), g.width, rows,
                                      g.d_value, g.vectors);
    float dk[8][4] = {}, dv[8][4] = {};
    for (int head = own.head * group; head < (own.head + 1) * group; head++)
        for (int query = first_query(g, own, OTHER, both); query <= last_query(g, own);
             query += OTHER) {
            const float *q = qkv + (own.row + query) * g.width + query_column(g, head);
            const float *dy = dout + (own.row + query) * g.out_width + head * g.d_value;
            __syncthreads(); // nobody reads the last queries
            load_tile<float, P, OTHER, THREADS>(queries, q, g.width, g.T - query, g.d_head,
                                                g.vectors);
            load_tile<float, P, OTHER, THREADS>(douts, dy, g.out_width, g.T - query, g.d_value,
                                                g.vectors);
            cp_async_commit();
            if (threadIdx.x < OTHER) {
                QueryNumbers of = query_numbers(lse, delta, own.row, query + threadIdx.x, head, g);
                numbers[threadIdx.x] = of.lse_log2;
                numbers[OTHER + threadIdx.x] = of.delta;
            }
            cp_async_wait<0>();
            __syncthreads();
            float p[S::DOWN][S::ACROSS], ds[S::DOWN][S::ACROSS];
            multiply_tiles<P>(p, keys, queries);
            multiply_tiles<P>(ds, values, douts);
            float slope = SHAPED ? slope_of_head(g, head) : 0.0f;
#pragma unroll
            for (int i = 0; i < S::DOWN; i++)
#pragma unroll
                for (int j = 0; j < S::ACROSS; j++) {
                    int row = y + 8 * i, column = x + 16 * j;
                    int distance = query + column - (own.first + row);
                    if (SHAPED) p[i][j] = shape_score(g, p[i][j], slope, distance);
                    float e = exp2f(fmaf(p[i][j], scale_log2, -numbers[column]));
                    if (!sees(g, own.row, query + column, own.first + row, both)) e = 0.0f;
                    float factor = 1.0f;
                    if (SHAPED)
                        factor = dropout_factor(g, own.row + query + column, head, own.first + row);
                    p_tile[row * S::SCORE_ROW + column] = SHAPED ? e * factor : e;
                    if (SHAPED) {
                        ds[i][j] *= factor;
                        e *= cap_derivative(g, p[i][j] * scale, slope, distance);
                    }
                    ds_tile[row * S::SCORE_ROW + column] = e * (ds[i][j] - numbers[OTHER + column]);
                }
            __syncthreads(); // p and ds are there
            add_product<P>(dv, p_tile, douts);
            add_product<P>(dk, ds_tile, queries);
        }
    float *to = dqkv + (own.row + own.first) * g.width;
    store_sum<P>(to + key_column(g, own.head), g.width, dk, scale, rows, g.d_head, g.vectors);
    store_sum<P>(to + value_column(g, own.head), g.width, dv, 1.0f, rows, g.d_value, g.vectors);
}

template <int P, bool SHAPED>
__global__ void __launch_bounds__(PlainTiles<P>::THREADS, SHAPED ? 1 : 0)
    attention_backward_queries_f32(float *dqkv, const float *dout, const float *qkv,
                                   const float *lse, const float *delta, Heads g, float scale) {
    typedef PlainTiles<P> S;
    const int OWN = S::OWN, OTHER = S::OTHER, THREADS = S::THREADS;
    DYNAMIC_SHARED(float, queries);
    float *douts = queries + S::OWN_FLOATS, *keys = douts + S::OWN_FLOATS;
    float *values = keys + S::OTHER_FLOATS, *ds_tile = values + S::OTHER_FLOATS;
    OwnTile own = own_tile(g.T, g.heads, OWN, blockIdx.x, true);
    const bool both = SHAPED && g.bidirectional;
    int kv_head = own.head / (g.heads / g.kv_heads), rows = own.end - own.first;
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
    float scale_log2 = scale * LOG2_E;
    const float *from = qkv + own.row * g.width;
    load_tile<float, P, OWN, THREADS>(queries,
                                      from + own.first * g.width + query_column(g, own.head),
                                      g.width, rows, g.d_head, g.vectors);
    load_tile<float, P, OWN, THREADS>(
        douts, dout + (own.row + own.first) * g.out_width + own.head * g.d_value, g.out_width, rows,
        g.d_value, g.vectors);
    float slope = SHAPED ? slope_of_head(g, own.head) : 0.0f;
    QueryNumbers of[S::DOWN];
#pragma unroll
    for (int i = 0; i < S::DOWN; i++)
        of[i] = query_numbers(lse, delta, own.row, own.first + y + 8 * i, own.head, g);
    float dq[8][4] = {};
    int first_key = first_key_seen(g, own.row, own.first) / OTHER * OTHER;
    int end_key = last_key_seen(g, own.row, own.end - 1, both) + 1;
    for (int key = first_key; key < end_key; key += OTHER) {
        __syncthreads(); // nobody reads the last keys
        load_tile<float, P, OTHER, THREADS>(keys, from + key * g.width + key_column(g, kv_head),
                                            g.width, g.T - key, g.d_head, g.vectors);
        load_tile<float, P, OTHER, THREADS>(values, from + key * g.width + value_column(g, kv_head),
                                            g.width, g.T - key, g.d_value, g.vectors);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        float p[S::DOWN][S::ACROSS], ds[S::DOWN][S::ACROSS];
        multiply_tiles<P>(p, queries, keys);
        multiply_tiles<P>(ds, douts, values);
#pragma unroll
        for (int i = 0; i < S::DOWN; i++)
#pragma unroll
            for (int j = 0; j < S::ACROSS; j++) {
                int row = y + 8 * i, column = x + 16 * j;
                int distance = own.first + row - (key + column);
                if (SHAPED) p[i][j] = shape_score(g, p[i][j], slope, distance);
                float e = exp2f(fmaf(p[i][j], scale_log2, -of[i].lse_log2));
                if (!sees(g, own.row, own.first + row, key + column, both)) e = 0.0f;
                if (SHAPED) {
                    ds[i][j] *=
                        dropout_factor(g, own.row + own.first + row, own.head, key + column);
                    e *= cap_derivative(g, p[i][j] * scale, slope, distance);
                }
                ds_tile[row * S::SCORE_ROW + column] = e * (ds[i][j] - of[i].delta);
            }
        __syncthreads(); // ds is there
        add_product<P>(dq, ds_tile, keys);
    }
    store_sum<P>(dqkv + (own.row + own.first) * g.width + query_column(g, own.head), g.width, dq,
                 scale, rows, g.d_head, g.vectors);
}

// ---- the op -------------------------------------------------------------------------------------

template <typename T>
static Heads backward_heads(Tensor dqkv, Tensor dout, Tensor qkv, AttentionRule rule) {
    Heads g = heads_of<T>(rule, rule.T, qkv.data, dout.data);
    g.vectors = g.vectors && rows_are_vectors<T>(dqkv.data, rule.shape.d_head);
    return g;
}

template <int P, bool SHAPED>
static void backward_bf16(Device *dev, Tensor dqkv, Tensor dout, Tensor qkv, const float *lse,
                          const float *delta, Heads g) {
    typedef BackwardTiles<P> S;
    if (attention_by_warpgroups(dev, P, SHAPED)) {
        attention_backward_warpgroup(dev, P, device_data<bf16>(dqkv), device_data<bf16>(dout),
                                     device_data<bf16>(qkv), lse, delta, qkv.shape[0] / g.T, g);
        return;
    }
    int64_t tiles = qkv.shape[0] / g.T * ceil_div(g.T, S::OWN);
    launch(dev, attention_backward_keys_bf16<P, SHAPED>, grid_of(tiles * g.kv_heads * S::SLICES),
           dim3(S::THREADS), S::BYTES, device_data<bf16>(dqkv), device_data<bf16>(dout),
           device_data<bf16>(qkv), lse, delta, g, g.scale);
    launch(dev, attention_backward_queries_bf16<P, SHAPED>, grid_of(tiles * g.heads),
           dim3(S::THREADS), S::TILE_BYTES, device_data<bf16>(dqkv), device_data<bf16>(dout),
           device_data<bf16>(qkv), lse, delta, g, g.scale);
}

template <int P, bool SHAPED>
static void backward_f32(Device *dev, Tensor dqkv, Tensor dout, Tensor qkv, const float *lse,
                         const float *delta, Heads g) {
    typedef PlainTiles<P> S;
    int64_t tiles = qkv.shape[0] / g.T * ceil_div(g.T, S::OWN);
    launch(dev, attention_backward_keys_f32<P, SHAPED>, grid_of(tiles * g.kv_heads),
           dim3(S::THREADS), keys_f32_bytes<P>(), device_data<float>(dqkv),
           device_data<float>(dout), device_data<float>(qkv), lse, delta, g, g.scale);
    launch(dev, attention_backward_queries_f32<P, SHAPED>, grid_of(tiles * g.heads),
           dim3(S::THREADS), queries_f32_bytes<P>(), device_data<float>(dqkv),
           device_data<float>(dout), device_data<float>(qkv), lse, delta, g, g.scale);
}

template <int P>
static void backward(Device *dev, Tensor dqkv, Tensor dout, Tensor qkv, const float *lse,
                     const float *delta, AttentionRule rule) {
    bool wide = qkv.dtype == F32;
    Heads g = wide ? backward_heads<float>(dqkv, dout, qkv, rule)
                   : backward_heads<bf16>(dqkv, dout, qkv, rule);
    if (is_shaped(g)) {
        (wide ? backward_f32<P, true> : backward_bf16<P, true>)(dev, dqkv, dout, qkv, lse, delta,
                                                                g);
    } else {
        (wide ? backward_f32<P, false> : backward_bf16<P, false>)(dev, dqkv, dout, qkv, lse, delta,
                                                                  g);
    }
}

void attention_backward_cuda(Device *dev, Tensor dqkv, Tensor dsinks, Tensor dout, Tensor qkv,
                             Tensor out, Tensor lse, AttentionRule rule) {
    AttentionShape s = rule.shape;
    int width = padded_head(s);
    size_t bytes = (size_t)(dout.shape[0] * s.heads) * sizeof(float);
    float *delta = static_cast<float *>(cuda_workspace(dev, bytes));
    const float *lse_data = device_data<float>(lse);
    SinkRows sinks = {};
    if (rule.softmax == SOFTMAX_SINK)
        sinks = {device_data<float>(dsinks), lse_data, device_data<float>(rule.sinks),
                 (int)s.heads};
    (qkv.dtype == F32 ? launch_delta<float> : launch_delta<bf16>)(dev, delta, sinks, dout, out,
                                                                  s.d_value);
    (width == 64    ? backward<64>
     : width == 128 ? backward<128>
                    : backward<256>)(dev, dqkv, dout, qkv, lse_data, delta, rule);
}
