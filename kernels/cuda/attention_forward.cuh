// What the forward kernels of attention share, on tensor cores of any kind.
#ifndef MOETRAIN_KERNELS_CUDA_ATTENTION_FORWARD_CUH
#define MOETRAIN_KERNELS_CUDA_ATTENTION_FORWARD_CUH

#include "kernels/cuda/attention_tile.cuh"

// What a block works on: blocks are numbered (sequence, head, tile), a head's last and longest tile
// first.
typedef struct QueryTile {
    int64_t row; // first row of the sequence
    int head, kv_head;
    int first, end; // its queries
} QueryTile;

__device__ static inline QueryTile query_tile(Heads g, int queries) {
    int tiles = (g.T + queries - 1) / queries;
    int tile = tiles - 1 - (int)(blockIdx.x % tiles), pair = (int)(blockIdx.x / tiles);
    int head = pair % g.heads;
    return {(int64_t)(pair / g.heads) * g.T, head, head / (g.heads / g.kv_heads), tile * queries,
            min((tile + 1) * queries, g.T)};
}

// Hides keys that queries do not see: the strip's first row is query `query`, its first column key
// `key`.
template <int COLUMNS>
__device__ static inline void hide_unseen_keys(float scores[COLUMNS][4], Heads g, int64_t row,
                                               int query, int key, bool both) {
    int lane = threadIdx.x % WARP;
    query += lane / 4;
    key += lane % 4 * 2;
    int first[2] = {first_key_seen(g, row, query), first_key_seen(g, row, query + 8)};
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int at = key + n * 8 + i % 2, own = query + i / 2 * 8;
            bool hidden = both ? !sees(g, row, own, at, true) : at > own || at < first[i / 2];
            if (hidden) scores[n][i] = -INFINITY;
        }
}

// One more tile of keys for half a strip's rows (half 0: rows 0 … 7): raises the maximum, turns
// scores into exponentials, and shrinks what has been summed so far. `largest` is unscaled;
// `normaliser` is this lane's share of the row's sum.
template <int COLUMNS, int WIDTH>
__device__ static inline void softmax_step(float scores[COLUMNS][4], float sum[WIDTH][4], int half,
                                           float *largest, float *normaliser, float scale_log2) {
    float top = *largest;
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
        top = fmaxf(top, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
    top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
    float shift = top * scale_log2, factor = power_of_two(*largest * scale_log2 - shift);
    float added = 0.0f;
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
            scores[n][i] = power_of_two(fmaf(scores[n][i], scale_log2, -shift));
            added += scores[n][i];
        }
#pragma unroll
    for (int n = 0; n < WIDTH; n++) {
        sum[n][2 * half] *= factor;
        sum[n][2 * half + 1] *= factor;
    }
    *largest = top;
    *normaliser = *normaliser * factor + added;
}

#endif
