// Attention, forward: FlashAttention-2 (arXiv:2307.08691). A block owns a tile of one head's
// queries and walks over tiles of keys with a running softmax, so that scores never leave the chip.
//
// Bytes moved: each query and result once; keys and values once a query tile, from the L2 cache,
// where neighbouring blocks (the tiles of one head, then the heads that share a key/value head)
// find them. A block reads its own sequence alone and adds in an order fixed by T and the head's
// width: no bit depends on the batch.
#include "kernels/cuda/attention_forward.cuh"
#include "kernels/cuda/attention_scores.cuh"
#include "kernels/cuda/attention_warpgroup.cuh"
#include "kernels/cuda/cuda_ops.h"

// ---- bf16 ---------------------------------------------------------------------------------------

// A block of 4 warps; a warp owns STRIPS strips of 16 queries. One buffer for keys, one for values:
// the values arrive while scores are computed, the next keys while values are summed.
template <int P, bool SHAPED> struct ForwardTiles {
    static const int WARPS = 4, THREADS = WARPS * WARP;
    static const int STRIPS = P == 256 || SHAPED ? 1 : 2; // what 255 registers a thread can hold
    static const int UNROLL = P == 64 || (P == 256 && SHAPED) ? 2 : 4; // likewise
    static const int QUERIES = WARPS * STRIPS * STRIP, KEYS = 64;
    static const int BYTES = (QUERIES + 2 * KEYS) * P * (int)sizeof(bf16);
};

// Shapes a strip's scores and raises its rows' `peaks`, of this lane's columns. The strip's first
// row is query `query`, its first column key `key`.
template <int COLUMNS>
__device__ static inline void shape_scores(float scores[COLUMNS][4], float peaks[2], Heads g,
                                           int head, int query, int key) {
    int lane = threadIdx.x % WARP;
    float slope = slope_of_head(g, head);
    query += lane / 4;
    key += lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            peaks[i / 2] = fmaxf(peaks[i / 2], scores[n][i]);
            scores[n][i] =
                shape_score(g, scores[n][i], slope, query + i / 2 * 8 - (key + n * 8 + i % 2));
        }
}

// Drops of a strip's exponentials; `row` is that of the sequence's first token.
template <int COLUMNS>
__device__ static inline void drop(float scores[COLUMNS][4], Heads g, int64_t row, int head,
                                   int query, int key) {
    if (g.drop_below == 0) return;
    int lane = threadIdx.x % WARP;
    query += lane / 4;
    key += lane % 4 * 2;
#pragma unroll 1
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            scores[n][i] *= dropout_factor(g, row + query + i / 2 * 8, head, key + n * 8 + i % 2);
}

template <int P, bool SHAPED>
__global__ void __launch_bounds__(ForwardTiles<P, SHAPED>::THREADS, SHAPED ? 1 : 0)
    attention_forward_bf16(bf16 *out, float *lse, const bf16 *qkv, Heads g, float scale_log2) {
    typedef ForwardTiles<P, SHAPED> S;
    const int STRIPS = S::STRIPS, COLUMNS = S::KEYS / 8, WIDTH = P / 8, THREADS = S::THREADS;
    DYNAMIC_SHARED(bf16, queries);
    bf16 *keys = queries + S::QUERIES * P, *values = keys + S::KEYS * P;
    QueryTile tile = query_tile(g, S::QUERIES);
    const bool both = SHAPED && g.bidirectional;
    const bf16 *from = qkv + tile.row * g.width;
    const bf16 *k = from + key_column(g, tile.kv_head), *v = from + value_column(g, tile.kv_head);
    load_tile<bf16, P, S::QUERIES, THREADS>(
        queries, from + tile.first * g.width + query_column(g, tile.head), g.width,
        tile.end - tile.first, g.d_head, g.vectors);
    int first_key = first_key_seen(g, tile.row, tile.first) / S::KEYS * S::KEYS;
    int end_key = last_key_seen(g, tile.row, tile.end - 1, both) + 1;
    load_tile<bf16, P, S::KEYS, THREADS>(keys, k + first_key * g.width, g.width, g.T - first_key,
                                         g.d_head, g.vectors);
    cp_async_commit();

    int warp_row = threadIdx.x / WARP * STRIPS * STRIP; // within the tile
    int warp_first = tile.first + warp_row, warp_last = warp_first + STRIPS * STRIP - 1;
    float sum[STRIPS][WIDTH][4] = {}, scores[STRIPS][COLUMNS][4] = {};
    float largest[STRIPS][2], normaliser[STRIPS][2], peaks[STRIPS][2];
    float top = first_largest(g, tile.head, scale_log2);
    float counted = threadIdx.x % 4 == 0 ? first_normaliser(g) : 0.0f; // in one of a row's lanes
#pragma unroll
    for (int m = 0; m < STRIPS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            largest[m][half] = top, normaliser[m][half] = counted, peaks[m][half] = -INFINITY;

    for (int key = first_key; key < end_key; key += S::KEYS) {
        bool seen = (both || key <= warp_last) && warp_first < g.T && // by this warp
                    key + S::KEYS > first_key_seen(g, tile.row, warp_first);
        cp_async_wait<0>();
        __syncthreads(); // the keys are there, nobody reads values
        load_tile<bf16, P, S::KEYS, THREADS>(values, v + key * g.width, g.width, g.T - key,
                                             g.d_value, g.vectors);
        cp_async_commit();
        if (seen) multiply_tiles<P, STRIPS, COLUMNS, S::UNROLL>(scores, queries, warp_row, keys);
        cp_async_wait<0>();
        __syncthreads(); // the values are there, nobody reads keys
        int next = key + S::KEYS;
        if (next < end_key)
            load_tile<bf16, P, S::KEYS, THREADS>(keys, k + next * g.width, g.width, g.T - next,
                                                 g.d_head, g.vectors);
        cp_async_commit();
        if (!seen) continue;
#pragma unroll
        for (int m = 0; m < STRIPS; m++) {
            int query = warp_first + m * STRIP;
            if (both || next > query + 1 || key < first_key_seen(g, tile.row, query + STRIP - 1))
                hide_unseen_keys<COLUMNS>(scores[m], g, tile.row, query, key, both);
            if (SHAPED) shape_scores<COLUMNS>(scores[m], peaks[m], g, tile.head, query, key);
#pragma unroll
            for (int half = 0; half < 2; half++)
                softmax_step<COLUMNS, WIDTH>(scores[m], sum[m], half, &largest[m][half],
                                             &normaliser[m][half], scale_log2);
            if (SHAPED) drop<COLUMNS>(scores[m], g, tile.row, tile.head, query, key);
        }
        add_product<P, STRIPS, COLUMNS, WIDTH>(sum, scores, values, 0);
    }

    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int m = 0; m < STRIPS; m++) {
        float inverse[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = normaliser[m][half];
            total += __shfl_xor_sync(ALL_LANES, total, 1);
            total += __shfl_xor_sync(ALL_LANES, total, 2);
            inverse[half] = 1.0f / total;
            int query = warp_first + m * STRIP + half * 8 + lane / 4;
            if (lane % 4 == 0 && query < g.T)
                lse[(tile.row + query) * g.heads + tile.head] =
                    (largest[m][half] * scale_log2 + log2f(total)) * LN_2;
            if (SHAPED && g.largest) {
                float peak = peaks[m][half];
                peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, 1));
                peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, 2));
                if (lane % 4 == 0 && query < g.T)
                    g.largest[(tile.row + query) * g.heads + tile.head] = peak * g.scale;
            }
        }
        // A warp alone reads its queries: their place is free for its results.
        stage_strip<P, WIDTH>(queries, warp_row + m * STRIP, 0, sum[m], inverse[0], inverse[1]);
    }
    __syncthreads();
    store_tile<P, S::QUERIES, THREADS>(
        out + (tile.row + tile.first) * g.out_width + tile.head * g.d_value, g.out_width, queries,
        tile.end - tile.first, 0, g.d_value, g.vectors);
}

// ---- f32 ----------------------------------------------------------------------------------------

// One more tile of keys for this thread's rows of scores, 16 threads to a row; writes exponentials
// and each row's factor. The block's first row is query `query` of the tile's sequence, the first
// column key `key`.
template <int P, bool SHAPED>
__device__ static inline void
softmax_step(Heads g, QueryTile tile, int key,
             float scores[PlainTiles<P>::DOWN][PlainTiles<P>::ACROSS], float *exponentials,
             float *factors, float largest[PlainTiles<P>::DOWN],
             float normaliser[PlainTiles<P>::DOWN], float scale_log2) {
    typedef PlainTiles<P> S;
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
    for (int i = 0; i < S::DOWN; i++) {
        float top = largest[i];
#pragma unroll
        for (int j = 0; j < S::ACROSS; j++) top = fmaxf(top, scores[i][j]);
#pragma unroll
        for (int distance = 8; distance > 0; distance /= 2)
            top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, distance));
        float shift = top * scale_log2, factor = exp2f(largest[i] * scale_log2 - shift);
        float added = 0.0f;
#pragma unroll
        for (int j = 0; j < S::ACROSS; j++) {
            float e = exp2f(fmaf(scores[i][j], scale_log2, -shift));
            added += e;
            if (SHAPED)
                e *= dropout_factor(g, tile.row + tile.first + y + 8 * i, tile.head,
                                    key + x + 16 * j);
            exponentials[(y + 8 * i) * S::SCORE_ROW + x + 16 * j] = e;
        }
        if (x == 0) factors[y + 8 * i] = factor;
        largest[i] = top;
        normaliser[i] = normaliser[i] * factor + added;
    }
}

template <int P> static inline size_t forward_f32_bytes() {
    typedef PlainTiles<P> S;
    return (S::OWN_FLOATS + 2 * S::OTHER_FLOATS + S::SCORE_FLOATS + S::OWN) * sizeof(float);
}

// A block of 128 threads owns 4096 / P queries; the buffers take turns as above.
template <int P, bool SHAPED>
__global__ void __launch_bounds__(PlainTiles<P>::THREADS, 2)
    attention_forward_f32(float *out, float *lse, const float *qkv, Heads g, float scale_log2) {
    typedef PlainTiles<P> S;
    const int OWN = S::OWN, OTHER = S::OTHER, THREADS = S::THREADS;
    DYNAMIC_SHARED(float, queries);
    float *keys = queries + S::OWN_FLOATS, *values = keys + S::OTHER_FLOATS;
    float *exponentials = values + S::OTHER_FLOATS, *factors = exponentials + S::SCORE_FLOATS;
    QueryTile tile = query_tile(g, OWN);
    const bool both = SHAPED && g.bidirectional;
    const float *from = qkv + tile.row * g.width;
    const float *k = from + key_column(g, tile.kv_head), *v = from + value_column(g, tile.kv_head);
    load_tile<float, P, OWN, THREADS>(queries,
                                      from + tile.first * g.width + query_column(g, tile.head),
                                      g.width, tile.end - tile.first, g.d_head, g.vectors);
    int first_key = first_key_seen(g, tile.row, tile.first) / OTHER * OTHER;
    int end_key = last_key_seen(g, tile.row, tile.end - 1, both) + 1;
    load_tile<float, P, OTHER, THREADS>(keys, k + first_key * g.width, g.width, g.T - first_key,
                                        g.d_head, g.vectors);
    cp_async_commit();

    int x = threadIdx.x % 16, y = threadIdx.x / 16;
    int row = S::sum_row(), column = S::sum_column();
    float sum[8][4] = {}, largest[S::DOWN], normaliser[S::DOWN], peaks[S::DOWN];
    float slope = SHAPED ? slope_of_head(g, tile.head) : 0.0f;
#pragma unroll
    for (int i = 0; i < S::DOWN; i++) {
        largest[i] = first_largest(g, tile.head, scale_log2);
        normaliser[i] = x == 0 ? first_normaliser(g) : 0.0f; // in one of a row's threads
        peaks[i] = -INFINITY;
    }

    for (int key = first_key; key < end_key; key += OTHER) {
        float scores[S::DOWN][S::ACROSS];
        cp_async_wait<0>();
        __syncthreads(); // the keys are there, nobody reads values and exponentials
        load_tile<float, P, OTHER, THREADS>(values, v + key * g.width, g.width, g.T - key,
                                            g.d_value, g.vectors);
        cp_async_commit();
        multiply_tiles<P>(scores, queries, keys);
        if (both || key + OTHER > tile.first + 1 ||
            key < first_key_seen(g, tile.row, tile.first + OWN - 1))
#pragma unroll
            for (int i = 0; i < S::DOWN; i++)
#pragma unroll
                for (int j = 0; j < S::ACROSS; j++)
                    if (!sees(g, tile.row, tile.first + y + 8 * i, key + x + 16 * j, both))
                        scores[i][j] = -INFINITY;
        if (SHAPED)
#pragma unroll
            for (int i = 0; i < S::DOWN; i++)
#pragma unroll
                for (int j = 0; j < S::ACROSS; j++) {
                    peaks[i] = fmaxf(peaks[i], scores[i][j]);
                    scores[i][j] = shape_score(g, scores[i][j], slope,
                                               tile.first + y + 8 * i - (key + x + 16 * j));
                }
        softmax_step<P, SHAPED>(g, tile, key, scores, exponentials, factors, largest, normaliser,
                                scale_log2);
        cp_async_wait<0>();
        __syncthreads(); // values and exponentials are there, nobody reads keys
        int next = key + OTHER;
        if (next < end_key)
            load_tile<float, P, OTHER, THREADS>(keys, k + next * g.width, g.width, g.T - next,
                                                g.d_head, g.vectors);
        cp_async_commit();
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float factor = factors[row + i * S::GROUPS];
#pragma unroll
            for (int j = 0; j < 4; j++) sum[i][j] *= factor;
        }
        add_product<P>(sum, exponentials, values);
    }

    __syncthreads(); // nobody reads factors
#pragma unroll
    for (int i = 0; i < S::DOWN; i++) {
        float total = normaliser[i];
#pragma unroll
        for (int distance = 8; distance > 0; distance /= 2)
            total += __shfl_xor_sync(ALL_LANES, total, distance);
        int query = tile.first + y + 8 * i;
        if (SHAPED && g.largest) {
            float peak = peaks[i];
#pragma unroll
            for (int distance = 8; distance > 0; distance /= 2)
                peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, distance));
            if (x == 0 && query < g.T)
                g.largest[(tile.row + query) * g.heads + tile.head] = peak * g.scale;
        }
        if (x != 0) continue;
        factors[y + 8 * i] = 1.0f / total;
        if (query < g.T)
            lse[(tile.row + query) * g.heads + tile.head] =
                (largest[i] * scale_log2 + log2f(total)) * LN_2;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int query = tile.first + row + i * S::GROUPS;
        float inverse = factors[row + i * S::GROUPS];
        if (query >= g.T) continue;
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] *= inverse;
        store_four(out + (tile.row + query) * g.out_width + tile.head * g.d_value + column, sum[i],
                   g.d_value - column, g.vectors);
    }
}

// ---- the op -------------------------------------------------------------------------------------

template <int P, bool SHAPED>
static void forward_bf16(Device *dev, Tensor out, Tensor lse, Tensor qkv, Heads g) {
    typedef ForwardTiles<P, SHAPED> S;
    if (attention_by_warpgroups(dev, P, SHAPED)) {
        attention_forward_warpgroup(dev, P, device_data<bf16>(out), device_data<float>(lse),
                                    device_data<bf16>(qkv), qkv.shape[0] / g.T, g);
        return;
    }
    int64_t blocks = qkv.shape[0] / g.T * g.heads * ceil_div(g.T, S::QUERIES);
    launch(dev, attention_forward_bf16<P, SHAPED>, grid_of(blocks), dim3(S::THREADS), S::BYTES,
           device_data<bf16>(out), device_data<float>(lse), device_data<bf16>(qkv), g,
           g.scale * LOG2_E);
}

template <int P, bool SHAPED>
static void forward_f32(Device *dev, Tensor out, Tensor lse, Tensor qkv, Heads g) {
    typedef PlainTiles<P> S;
    int64_t blocks = qkv.shape[0] / g.T * g.heads * ceil_div(g.T, S::OWN);
    launch(dev, attention_forward_f32<P, SHAPED>, grid_of(blocks), dim3(S::THREADS),
           forward_f32_bytes<P>(), device_data<float>(out), device_data<float>(lse),
           device_data<float>(qkv), g, g.scale * LOG2_E);
}

template <int P>
static void forward(Device *dev, Tensor out, Tensor lse, Tensor largest, Tensor qkv,
                    AttentionRule rule) {
    bool wide = qkv.dtype == F32;
    Heads g = wide ? heads_of<float>(rule, rule.T, qkv.data, out.data)
                   : heads_of<bf16>(rule, rule.T, qkv.data, out.data);
    if (largest.data) g.largest = device_data<float>(largest);
    if (is_shaped(g)) {
        (wide ? forward_f32<P, true> : forward_bf16<P, true>)(dev, out, lse, qkv, g);
    } else {
        (wide ? forward_f32<P, false> : forward_bf16<P, false>)(dev, out, lse, qkv, g);
    }
}

void attention_forward_cuda(Device *dev, Tensor out, Tensor lse, Tensor largest, Tensor qkv,
                            AttentionRule rule) {
    int width = padded_head(rule.shape);
    (width == 64    ? forward<64>
     : width == 128 ? forward<128>
                    : forward<256>)(dev, out, lse, largest, qkv, rule);
}
