// What the attention kernels share: where heads lie in memory, tiles in shared memory, and the two
// small matrix products that all of attention is made of, for bf16 on tensor cores and for f32 on
// plain multipliers.
//
// The products: a tile of scores, A Bᵀ with A and B in shared memory, rows of both as long as a
// head is wide; and a sum over scores, C += S B, with S the scores after the softmax. Their sums
// run in an order that the tile's shape fixes.
#ifndef MOETRAIN_KERNELS_CUDA_ATTENTION_TILE_CUH
#define MOETRAIN_KERNELS_CUDA_ATTENTION_TILE_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/storage.cuh"
#include "kernels/kernels.h"

// Kernels compute with 2^x, which GPUs have in hardware (exp2f: within 2 ulp); these change the
// base.
#define LOG2_E 1.44269504f
#define LN_2   0.693147181f

// ---- where things lie ---------------------------------------------------------------------------

// The shape of one call, as kernels get it.
typedef struct Heads {
    int64_t width, out_width; // of a row of qkv and of out, in elements
    int T, heads, kv_heads, d_head, d_value;
    int vectors; // whether every head's row is whole 16-byte vectors
    AttentionSoftmax softmax;
    const float *sinks;       // SOFTMAX_SINK alone
    int window;               // T where a query sees all keys before it
    const int32_t *positions; // of rows of qkv in their documents; NULL: sequences are documents
    // What only shaped kernels look at (attention_scores.cuh).
    bool bidirectional;
    float scale, softcap; // softcap 0: none
    const float *slopes;  // NULL: none
    uint32_t drop_below;  // of 2^16; 0: no dropout
    float kept_factor;
    RngStream dropout;
    int64_t first_token;
    float *largest; // of the forward pass; NULL: not wanted
} Heads;

// Keys [first_key_seen, last_key_seen] are those that a query sees; `row` is that of the sequence's
// first token. They never fall from query to query; those behind the sequence see what the last one
// sees.
__device__ static inline int first_key_seen(Heads g, int64_t row, int query) {
    int first = max(query - g.window + 1, 0);
    if (!g.positions) return first;
    int last = min(query, g.T - 1);
    return max(first, last - g.positions[row + last]);
}
// The last query that sees a key of the sequence, if none saw a later key.
__device__ static inline int last_query(Heads g, int64_t row, int key) {
    int last = min(key + g.window, g.T) - 1;
    if (!g.positions) return last;
    for (int first = key; first < last;) { // it is one of [first, last]
        int middle = (first + last + 1) / 2;
        if (first_key_seen(g, row, middle) <= key)
            first = middle;
        else
            last = middle - 1;
    }
    return last;
}
// `both`: to both sides.
__device__ static inline int last_key_seen(Heads g, int64_t row, int query, bool both) {
    return both ? last_query(g, row, min(query, g.T - 1)) : query;
}
__device__ static inline bool sees(Heads g, int64_t row, int query, int key, bool both) {
    if (both && key > query) return key < g.T && query >= first_key_seen(g, row, key);
    return key <= query && key >= first_key_seen(g, row, query);
}

__device__ static inline int query_column(Heads g, int head) {
    return head * g.d_head;
}
__device__ static inline int key_column(Heads g, int kv_head) {
    return (g.heads + kv_head) * g.d_head;
}
__device__ static inline int value_column(Heads g, int kv_head) {
    return (g.heads + g.kv_heads) * g.d_head + kv_head * g.d_value;
}

// Less than any score, and finite: the difference of two of them is no NaN, which counts where a
// window hides the first tile of keys from a query. A power of two: its products are exact.
#define NOTHING_SEEN (-0x1p100f)

// Where the running softmax of a head begins: as if it had seen one score, whose exponential adds
// to the normaliser and to no output. The score is one before scores are multiplied by scale_log2.
__device__ static inline float first_largest(Heads g, int head, float scale_log2) {
    if (g.softmax == SOFTMAX_SINK) return g.sinks[head] * LOG2_E / scale_log2;
    return g.softmax == SOFTMAX_OFF_BY_ONE ? 0.0f : NOTHING_SEEN;
}
__device__ static inline float first_normaliser(Heads g) {
    return g.softmax == SOFTMAX_PLAIN ? 0.0f : 1.0f;
}

// For rows of qkv's and of out's width at these addresses.
template <typename T>
static inline Heads heads_of(AttentionRule rule, int64_t tokens, const void *qkv, const void *out) {
    AttentionShape s = rule.shape;
    CHECK(tokens <= 1 << 30, "sequences of %lld tokens", (long long)tokens);
    Heads g = {.width = attention_qkv_width(s),
               .out_width = s.heads * s.d_value,
               .T = (int)tokens,
               .heads = (int)s.heads,
               .kv_heads = (int)s.kv_heads,
               .d_head = (int)s.d_head,
               .d_value = (int)s.d_value,
               .vectors = rows_are_vectors<T>(qkv, s.d_head) && rows_are_vectors<T>(out, s.d_value),
               .softmax = rule.softmax,
               .sinks = rule.softmax == SOFTMAX_SINK ? device_data<float>(rule.sinks) : NULL,
               .window = (int)(rule.window > 0 && rule.window < tokens ? rule.window : tokens),
               .positions = rule.positions.data ? device_data<int32_t>(rule.positions) : NULL,
               .bidirectional = rule.bidirectional,
               .scale = rule.scale,
               .softcap = rule.softcap,
               .slopes = rule.slopes.data ? device_data<float>(rule.slopes) : NULL,
               .drop_below = rule.dropout.rate > 0.0f ? attention_drop_below(rule.dropout.rate) : 0,
               .kept_factor = attention_kept_factor(rule.dropout.rate),
               .dropout = rule.dropout.stream,
               .first_token = rule.dropout.first_token,
               .largest = NULL};
    return g;
}

// The head width that kernels are compiled for: 64, 128 or 256. Narrower heads are padded with
// zeros in shared memory.
static inline int padded_head(AttentionShape s) {
    int64_t widest = s.d_head > s.d_value ? s.d_head : s.d_value;
    CHECK(widest <= WIDEST_HEAD, "attention heads of %lld channels, the kernels take %d",
          (long long)widest, (int)WIDEST_HEAD);
    return widest <= 64 ? 64 : widest <= 128 ? 128 : 256;
}

// ---- tiles in shared memory ---------------------------------------------------------------------

// A row-major tile with rows of P elements. Eight rows' vectors at the same column fall into
// different banks: bf16 rows, of which tensor cores read 8 by 8 corners, are permuted by vectors;
// f32 rows are one vector longer. For bf16, at(row, column + k) = at(row, column) ^ k where k is a
// multiple of 16 and column below 16, and eight rows further on is 8 P further on: one instruction
// an address, and no registers to keep addresses in.
template <typename T, int P> struct Tile;
template <int P> struct Tile<bf16, P> {
    static const int ROW = P;
    __device__ static inline int at(int row, int column) {
        return row * P + ((column / 8 ^ (row & 7)) * 8 | column % 8);
    }
};
template <int P> struct Tile<float, P> {
    static const int ROW = P + 4;
    __device__ static inline int at(int row, int column) { return row * ROW + column; }
};

// A tile of ROWS rows as the products of warpgroups read it (ptx.cuh): 64 columns of all rows, then
// the next 64.
template <int P, int ROWS> struct PanelTile {
    __device__ static inline int at(int row, int column) {
        return column / 64 * (ROWS * 64) + row * 64 +
               ((column / 8 % 8 ^ (row & 7)) * 8 | column % 8);
    }
};

// Starts copying rows [0, rows) of `columns` elements, `width` apart, into a tile of ROWS rows; the
// rest becomes zeros. The tile may be read after cp_async_wait and a barrier.
template <typename T, int P, int ROWS, int THREADS, typename Layout = Tile<T, P>>
__device__ static inline void load_tile(T *tile, const T *from, int64_t width, int rows,
                                        int columns, bool vectors) {
    if (vectors) {
        const int ACROSS = P / Vector<T>::COUNT, STEP = THREADS / ACROSS;
        int column = threadIdx.x % ACROSS * Vector<T>::COUNT, row = threadIdx.x / ACROSS;
        const T *next = from + row * width + column;
        if (column >= columns) rows = 0;
#pragma unroll 2
        for (; row < ROWS; row += STEP, next += STEP * width)
            cp_async_16(tile + Layout::at(row, column), row < rows ? next : from, row < rows);
    } else {
        for (int i = threadIdx.x; i < ROWS * P; i += THREADS) {
            int row = i / P, column = i % P;
            tile[Layout::at(row, column)] =
                row < rows && column < columns ? from[row * width + column] : T(0.0f);
        }
    }
}

// Writes columns [first, end) of a tile's first `rows` rows to rows `width` apart.
template <int P, int ROWS, int THREADS, typename Layout = Tile<bf16, P>>
__device__ static inline void store_tile(bf16 *to, int64_t width, const bf16 *tile, int rows,
                                         int first, int end, bool vectors) {
    if (vectors) {
        const int ACROSS = P / 8;
        for (int i = threadIdx.x; i < ROWS * ACROSS; i += THREADS) {
            int row = i / ACROSS, column = i % ACROSS * 8;
            if (row < rows && column >= first && column < end)
                *reinterpret_cast<uint4 *>(to + row * width + column) =
                    *reinterpret_cast<const uint4 *>(tile + Layout::at(row, column));
        }
    } else {
        for (int i = threadIdx.x; i < ROWS * P; i += THREADS) {
            int row = i / P, column = i % P;
            if (row < rows && column >= first && column < end)
                to[row * width + column] = tile[Layout::at(row, column)];
        }
    }
}

// ---- bf16: products of a warp on tensor cores ---------------------------------------------------

// A warp owns strips of 16 rows. A strip's product lies in registers as mma leaves it (ptx.cuh):
// per 8 columns four numbers, [0] [1] in row lane / 4, columns 2 (lane % 4) and the next, [2] [3]
// eight rows below.
enum { STRIP = 16 };

// scores (STRIPS · 16, COLUMNS · 8) = rows of `a` from a_row, times rows of `b` transposed.
// Unrolled less for narrow heads, so that the backward pass for keys stays at 168 registers a
// thread there: three blocks on a multiprocessor.
template <int P, int STRIPS, int COLUMNS, int UNROLL = P == 64 ? 2 : 4>
__device__ static inline void multiply_tiles(float scores[STRIPS][COLUMNS][4], const bf16 *a,
                                             int a_row, const bf16 *b) {
    int lane = threadIdx.x % WARP;
    int a_start = Tile<bf16, P>::at(a_row + lane % 16, lane / 16 * 8);
    int b_start = Tile<bf16, P>::at(lane % 8 + lane / 16 * 8, lane / 8 % 2 * 8);
#pragma unroll
    for (int m = 0; m < STRIPS; m++)
#pragma unroll
        for (int n = 0; n < COLUMNS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) scores[m][n][i] = 0.0f;
#pragma unroll(UNROLL)
    for (int k = 0; k < P; k += 16) {
        uint32_t left[STRIPS][4];
#pragma unroll
        for (int m = 0; m < STRIPS; m++) ldmatrix_x4(left[m], a + (a_start ^ k) + m * STRIP * P);
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 2) {
            uint32_t right[4]; // of columns n and n + 1
            ldmatrix_x4(right, b + (b_start ^ k) + n * 8 * P);
#pragma unroll
            for (int m = 0; m < STRIPS; m++) {
                mma_bf16_m16n8k16(scores[m][n], left[m], right);
                mma_bf16_m16n8k16(scores[m][n + 1], left[m], right + 2);
            }
        }
    }
}

// sum (STRIPS · 16, COLUMNS · 8) += scores (STRIPS · 16, DEPTH · 8), rounded to bf16, times rows 0
// … DEPTH · 8 - 1 of `b` from its column `first` on.
template <int P, int STRIPS, int DEPTH, int COLUMNS>
__device__ static inline void add_product(float sum[STRIPS][COLUMNS][4],
                                          const float scores[STRIPS][DEPTH][4], const bf16 *b,
                                          int first) {
    int lane = threadIdx.x % WARP;
    int b_start = Tile<bf16, P>::at(lane % 16, lane / 16 * 8);
#pragma unroll
    for (int k = 0; k < DEPTH; k += 2) {
        uint32_t left[STRIPS][4]; // a product of mma is an operand of the next one, lane by lane
#pragma unroll
        for (int m = 0; m < STRIPS; m++) {
            left[m][0] = pack_bf16(scores[m][k][0], scores[m][k][1]);
            left[m][1] = pack_bf16(scores[m][k][2], scores[m][k][3]);
            left[m][2] = pack_bf16(scores[m][k + 1][0], scores[m][k + 1][1]);
            left[m][3] = pack_bf16(scores[m][k + 1][2], scores[m][k + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 2) {
            uint32_t right[4];
            ldmatrix_x4_transposed(right, b + (b_start ^ (first + n * 8)) + k * 8 * P);
#pragma unroll
            for (int m = 0; m < STRIPS; m++) {
                mma_bf16_m16n8k16(sum[m][n], left[m], right);
                mma_bf16_m16n8k16(sum[m][n + 1], left[m], right + 2);
            }
        }
    }
}

// Puts one strip of results times `upper` (rows 0 … 7) and `lower` (8 … 15) into a tile at (row,
// column), as bf16.
template <int P, int COLUMNS, typename Layout = Tile<bf16, P>>
__device__ static inline void stage_strip(bf16 *tile, int row, int column, float sum[COLUMNS][4],
                                          float upper, float lower) {
    int lane = threadIdx.x % WARP;
    row += lane / 4;
    column += lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < COLUMNS; n++) {
        *reinterpret_cast<uint32_t *>(tile + Layout::at(row, column + n * 8)) =
            pack_bf16(sum[n][0] * upper, sum[n][1] * upper);
        *reinterpret_cast<uint32_t *>(tile + Layout::at(row + 8, column + n * 8)) =
            pack_bf16(sum[n][2] * lower, sum[n][3] * lower);
    }
}

// ---- f32: products of a block of 128 threads ----------------------------------------------------

// A block owns OWN = 4096 / P rows, so that each thread keeps 8 rows by 4 columns of a sum over
// scores. Scores are (OWN, OTHER); of them a thread computes rows y + 8 i and columns x + 16 j, x =
// thread % 16, y = thread / 16, and hands them to the other product through shared memory.
template <int P> struct PlainTiles {
    static const int THREADS = 128, OWN = 4096 / P, OTHER = P == 256 ? 16 : 32;
    static const int DOWN = OWN / 8, ACROSS = OTHER / 16; // a thread's rows and columns of scores
    static const int SCORE_ROW = OTHER + 4;               // 4 words: rows in different banks
    static const int GROUPS = OWN / 8;                    // threads down a column of a sum
    static const int OWN_FLOATS = OWN * Tile<float, P>::ROW;
    static const int OTHER_FLOATS = OTHER * Tile<float, P>::ROW;
    static const int SCORE_FLOATS = OWN * SCORE_ROW;
    // The first row and the first column of this thread's part of a sum; its rows are GROUPS apart.
    __device__ static inline int sum_row() { return threadIdx.x / (P / 4); }
    __device__ static inline int sum_column() { return threadIdx.x % (P / 4) * 4; }
};

// This thread's scores of a (OWN rows) bᵀ (OTHER rows).
template <int P>
__device__ static inline void
multiply_tiles(float scores[PlainTiles<P>::DOWN][PlainTiles<P>::ACROSS], const float *a,
               const float *b) {
    typedef PlainTiles<P> S;
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
    for (int i = 0; i < S::DOWN; i++)
#pragma unroll
        for (int j = 0; j < S::ACROSS; j++) scores[i][j] = 0.0f;
#pragma unroll 2
    for (int k = 0; k < P; k += 4) {
        float right[S::ACROSS][4];
#pragma unroll
        for (int j = 0; j < S::ACROSS; j++)
            load_vector(right[j], b + Tile<float, P>::at(x + 16 * j, k));
#pragma unroll
        for (int i = 0; i < S::DOWN; i++) {
            float left[4];
            load_vector(left, a + Tile<float, P>::at(y + 8 * i, k));
#pragma unroll
            for (int j = 0; j < S::ACROSS; j++)
#pragma unroll
                for (int c = 0; c < 4; c++) scores[i][j] += left[c] * right[j][c];
        }
    }
}

// This thread's part of sum (OWN, P) += scores (OWN, OTHER) b (OTHER, P).
template <int P>
__device__ static inline void add_product(float sum[8][4], const float *scores, const float *b) {
    typedef PlainTiles<P> S;
    int row = S::sum_row(), column = S::sum_column();
#pragma unroll 1
    for (int k = 0; k < S::OTHER; k += 4) {
        float right[4][4];
#pragma unroll
        for (int c = 0; c < 4; c++) load_vector(right[c], b + Tile<float, P>::at(k + c, column));
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float left[4];
            load_vector(left, scores + (row + i * S::GROUPS) * S::SCORE_ROW + k);
#pragma unroll
            for (int c = 0; c < 4; c++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += left[c] * right[c][j];
        }
    }
}

// Writes four results of a row, of which `columns` exist.
__device__ static inline void store_four(float *to, const float x[4], int columns, bool vectors) {
    if (vectors && columns >= 4) {
        store_vector(to, x);
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (j < columns) to[j] = x[j];
    }
}

#endif
