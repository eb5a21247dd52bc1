// What the backward kernels of attention share, on tensor cores of any kind.
#ifndef MOETRAIN_KERNELS_CUDA_ATTENTION_BACKWARD_CUH
#define MOETRAIN_KERNELS_CUDA_ATTENTION_BACKWARD_CUH

#include "kernels/cuda/attention_tile.cuh"

// What a block works on: blocks are numbered (sequence, head, tile); `heads` are query heads or
// key/value heads.
typedef struct OwnTile {
    int64_t row; // first row of the sequence
    int head;
    int first, end; // its tokens
} OwnTile;

__device__ static inline OwnTile own_tile(int T, int heads, int tokens, int64_t block,
                                          bool last_first) {
    int tiles = (T + tokens - 1) / tokens;
    int tile = (int)(block % tiles), pair = (int)(block / tiles);
    if (last_first) tile = tiles - 1 - tile;
    return {(int64_t)(pair / heads) * T, pair % heads, tile * tokens, min((tile + 1) * tokens, T)};
}

// The last query that sees some key of the tile.
__device__ static inline int last_query(Heads g, OwnTile own) {
    return last_query(g, own.row, own.end - 1);
}
// A query from which on some see keys of the tile, in whole tiles of `others` before it.
__device__ static inline int first_query(Heads g, OwnTile own, int others, bool both) {
    return both ? first_key_seen(g, own.row, own.first) / others * others : own.first;
}

// The log-sum-exp, to base 2, and delta of the query that this thread fetches for a tile; zeros
// past the sequence's end.
typedef struct QueryNumbers {
    float lse_log2, delta;
} QueryNumbers;
__device__ static inline QueryNumbers query_numbers(const float *lse, const float *delta,
                                                    int64_t row, int query, int head, Heads g) {
    if (query >= g.T) return {0.0f, 0.0f}; // p = 2^0 then, and multiplies zeros
    int64_t at = (row + query) * g.heads + head;
    return {lse[at] * LOG2_E, delta[at]};
}

#endif
