// Attention in bf16 on Hopper: the kernels of attention_cuda.cu and attention_backward_cuda.cu,
// their tiles, their order of sums and their functions of scores, with the products of a warpgroup
// (wgmma) in place of a warp's. Scores come from two tiles in shared memory and stay in registers
// as the left operand of the sums over them; the tensor cores read the right one from shared
// memory by themselves, where mma.sync needs a load of a warp for every two products.
//
// A block is one warpgroup with 64 tokens of its own, and walks over tiles of 64 others in two
// buffers. It waits for its products; the other blocks of the multiprocessor fill the tensor cores
// meanwhile. Heads are padded to 64 or 128 channels; wider ones, and scores that are capped,
// sloped or dropped, are left to the other kernels.
#include "kernels/cuda/attention_warpgroup.cuh"

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_forward.cuh"

constexpr int TOKENS = 64;   // of a tile, own or other
constexpr int THREADS = 128; // a warpgroup
constexpr int ACROSS = TOKENS / 8;
constexpr int LINE = 128; // bytes of a panel's line
constexpr int ALIGNMENT = 8 * LINE;

template <int P> struct Panels {
    typedef PanelTile<P, TOKENS> Layout;
    static const int TILE = TOKENS * P, WIDTH = P / 8; // elements
    static const int TILE_BYTES = TILE * (int)sizeof(bf16);
    // Blocks on a multiprocessor, as registers allow.
    static const int FORWARD = P == 64 ? 4 : 3, KEYS = 2, QUERIES = P == 64 ? 3 : 2;
    // Two tiles of its own, two buffers of two.
    static const int BYTES = 6 * TILE_BYTES + ALIGNMENT;
};

template <int P>
__device__ static inline void load(bf16 *tile, const bf16 *from, int64_t width, int rows,
                                   int columns, bool vectors) {
    load_tile<bf16, P, TOKENS, THREADS, typename Panels<P>::Layout>(tile, from, width, rows,
                                                                    columns, vectors);
}

__device__ static inline bf16 *aligned_tiles(unsigned char *shared) {
    return reinterpret_cast<bf16 *>(shared +
                                    (ALIGNMENT - (uintptr_t)shared % ALIGNMENT) % ALIGNMENT);
}

// A tile as an operand, whichever dimension is summed.
__device__ static inline SharedPanel operand(const bf16 *tile) {
    return shared_panel(tile, TOKENS * LINE);
}

// scores = rows of a times rows of b. Begun, not waited for.
template <int P>
__device__ static inline void begin_scores(float scores[ACROSS][4], SharedPanel a, SharedPanel b) {
    warpgroup_arrive();
#pragma unroll
    for (int k = 0; k < P; k += 16) {
        int at = k / 64 * TOKENS * LINE + k % 64 * 2;
        warpgroup_multiply_64<false, false>(scores[0], shared_panel_from(a, at),
                                            shared_panel_from(b, at), k > 0);
    }
    warpgroup_commit();
}

// Hides keys from queries that do not see them, of scores with keys down and queries across. The
// warp's first row is key `key`, its first column query `query`.
__device__ static inline void hide_from_queries(float scores[ACROSS][4], Heads g, int64_t row,
                                                int key, int query) {
    int lane = threadIdx.x % WARP;
    key += lane / 4;
    query += lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < ACROSS; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int last = query + n * 8 + i, first = first_key_seen(g, row, last);
            if (key > last || key < first) scores[n][i] = -INFINITY;
            if (key + 8 > last || key + 8 < first) scores[n][i + 2] = -INFINITY;
        }
}

// sum += scores, rounded to bf16, times rows of b. Begun, not waited for: `left` is where the
// rounded scores are meanwhile.
template <int P>
__device__ static inline void begin_sum(float sum[P / 8][4], uint32_t left[ACROSS / 2][4],
                                        const float scores[ACROSS][4], SharedPanel b) {
#pragma unroll
    for (int k = 0; k < ACROSS / 2; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *two = scores[2 * k + i / 2] + i % 2 * 2;
            left[k][i] = pack_bf16(two[0], two[1]);
        }
    warpgroup_arrive();
#pragma unroll
    for (int k = 0; k < ACROSS / 2; k++) {
        SharedPanel panel = shared_panel_from(b, k * 16 * LINE);
        if constexpr (P == 64)
            warpgroup_add_64(sum[0], left[k], panel);
        else
            warpgroup_add_128(sum[0], left[k], panel);
    }
    warpgroup_commit();
}

// ---- forward ------------------------------------------------------------------------------------

// A block owns 64 queries of a head.
template <int P>
__global__ void __launch_bounds__(THREADS, Panels<P>::FORWARD)
    attention_forward_warpgroup_kernel(bf16 *out, float *lse, const bf16 *qkv, Heads g,
                                       float scale_log2) {
    typedef Panels<P> S;
    DYNAMIC_SHARED(unsigned char, shared);
    bf16 *queries = aligned_tiles(shared), *buffers = queries + S::TILE;
    const SharedPanel of_queries = operand(queries), of_buffers = operand(buffers);
    QueryTile tile = query_tile(g, TOKENS);
    const bf16 *from = qkv + tile.row * g.width;
    const bf16 *k = from + key_column(g, tile.kv_head), *v = from + value_column(g, tile.kv_head);
    load<P>(queries, from + tile.first * g.width + query_column(g, tile.head), g.width,
            tile.end - tile.first, g.d_head, g.vectors);
    int first_key = first_key_seen(g, tile.row, tile.first) / TOKENS * TOKENS;

    int lane = threadIdx.x % WARP, warp_row = threadIdx.x / WARP * STRIP;
    int query = tile.first + warp_row; // the first of this warp
    float sum[S::WIDTH][4] = {}, largest[2], normaliser[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        largest[half] = first_largest(g, tile.head, scale_log2);
        normaliser[half] = lane % 4 == 0 ? first_normaliser(g) : 0.0f; // in one of a row's lanes
    }
    for (int key = first_key - TOKENS; key < tile.end; key += TOKENS) { // the first turn only loads
        cp_async_wait<0>();
        shared_for_products();
        __syncthreads(); // this step's buffer is there, nobody reads the other one
        int coming = key + TOKENS;
        if (coming < tile.end) {
            bf16 *buffer = buffers + coming / TOKENS % 2 * (2 * S::TILE);
            load<P>(buffer, k + coming * g.width, g.width, g.T - coming, g.d_head, g.vectors);
            load<P>(buffer + S::TILE, v + coming * g.width, g.width, g.T - coming, g.d_value,
                    g.vectors);
        }
        cp_async_commit();
        if (key < first_key) continue;
        SharedPanel keys = shared_panel_from(of_buffers, key / TOKENS % 2 * (2 * S::TILE_BYTES));
        float scores[ACROSS][4];
        uint32_t left[ACROSS / 2][4];
        begin_scores<P>(scores, of_queries, keys);
        warpgroup_wait<0>();
        if (key + TOKENS > query + 1 || key < first_key_seen(g, tile.row, query + STRIP - 1))
            hide_unseen_keys<ACROSS>(scores, g, tile.row, query, key, false);
#pragma unroll
        for (int half = 0; half < 2; half++)
            softmax_step<ACROSS, S::WIDTH>(scores, sum, half, &largest[half], &normaliser[half],
                                           scale_log2);
        begin_sum<P>(sum, left, scores, shared_panel_from(keys, S::TILE_BYTES));
        warpgroup_wait<0>();
    }

    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float total = normaliser[half];
        total += __shfl_xor_sync(ALL_LANES, total, 1);
        total += __shfl_xor_sync(ALL_LANES, total, 2);
        inverse[half] = 1.0f / total;
        int own = query + half * 8 + lane / 4;
        if (lane % 4 == 0 && own < g.T)
            lse[(tile.row + own) * g.heads + tile.head] =
                (largest[half] * scale_log2 + log2f(total)) * LN_2;
    }
    __syncthreads(); // nobody reads queries
    stage_strip<P, S::WIDTH, typename S::Layout>(queries, warp_row, 0, sum, inverse[0], inverse[1]);
    __syncthreads();
    store_tile<P, TOKENS, THREADS, typename S::Layout>(
        out + (tile.row + tile.first) * g.out_width + tile.head * g.d_value, g.out_width, queries,
        tile.end - tile.first, 0, g.d_value, g.vectors);
}

// ---- backward -----------------------------------------------------------------------------------

// A block owns 64 keys of a key/value head. Scores are kept transposed, as in
// attention_backward_keys_bf16.
template <int P>
__global__ void __launch_bounds__(THREADS, Panels<P>::KEYS)
    attention_backward_keys_warpgroup(bf16 *dqkv, const bf16 *dout, const bf16 *qkv,
                                      const float *lse, const float *delta, Heads g, float scale) {
    typedef Panels<P> S;
    __shared__ float numbers[2][2][TOKENS];
    DYNAMIC_SHARED(unsigned char, shared);
    bf16 *keys = aligned_tiles(shared), *values = keys + S::TILE, *buffers = values + S::TILE;
    const SharedPanel of_keys = operand(keys), of_values = operand(values);
    const SharedPanel of_buffers = operand(buffers);
    OwnTile own = own_tile(g.T, g.kv_heads, TOKENS, blockIdx.x, false);
    int group = g.heads / g.kv_heads;
    int tiles = (last_query(g, own) - own.first + TOKENS) / TOKENS;
    int thread = threadIdx.x, lane = thread % WARP, warp_row = thread / WARP * STRIP;
    float scale_log2 = scale * LOG2_E;
    const bf16 *from = qkv + (own.row + own.first) * g.width;
    const bf16 *dout_from = dout + (own.row + own.first) * g.out_width;
    load<P>(keys, from + key_column(g, own.head), g.width, own.end - own.first, g.d_head,
            g.vectors);
    load<P>(values, from + value_column(g, own.head), g.width, own.end - own.first, g.d_value,
            g.vectors);

    float dk[S::WIDTH][4] = {}, dv[S::WIDTH][4] = {};
    // Step i takes the i % tiles-th tile of queries of the group's i / tiles-th head; the turn
    // before the first only loads.
    for (int step = -1; step < group * tiles; step++) {
        cp_async_wait<0>();
        shared_for_products();
        __syncthreads(); // this step's buffer is there, nobody reads the other one
        int coming = step + 1, head = own.head * group + coming / tiles;
        int offset = coming % tiles * TOKENS; // of the queries, from own.first on
        QueryNumbers next = {};
        if (coming < group * tiles) {
            bf16 *buffer = buffers + coming % 2 * (2 * S::TILE);
            int rows = g.T - own.first - offset;
            load<P>(buffer, from + offset * g.width + query_column(g, head), g.width, rows,
                    g.d_head, g.vectors);
            load<P>(buffer + S::TILE, dout_from + offset * g.out_width + head * g.d_value,
                    g.out_width, rows, g.d_value, g.vectors);
            if (thread < TOKENS)
                next = query_numbers(lse, delta, own.row, own.first + offset + thread, head, g);
        }
        cp_async_commit();
        if (step >= 0) {
            int query = step % tiles * TOKENS;
            SharedPanel queries = shared_panel_from(of_buffers, step % 2 * (2 * S::TILE_BYTES));
            SharedPanel douts = shared_panel_from(queries, S::TILE_BYTES);
            const float *lse_log2 = numbers[step % 2][0], *deltas = numbers[step % 2][1];
            float p[ACROSS][4], ds[ACROSS][4];
            uint32_t of_p[ACROSS / 2][4], of_ds[ACROSS / 2][4];
            begin_scores<P>(p, of_keys, queries);
            if (P == 64) begin_scores<P>(ds, of_values, douts); // otherwise registers do not do
            warpgroup_wait<P == 64 ? 1 : 0>();
            if (query < warp_row + STRIP ||
                first_key_seen(g, own.row, own.first + query + TOKENS - 1) > own.first + warp_row)
                hide_from_queries(p, g, own.row, own.first + warp_row, own.first + query);
#pragma unroll
            for (int n = 0; n < ACROSS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    p[n][i] = power_of_two(
                        fmaf(p[n][i], scale_log2, -lse_log2[n * 8 + lane % 4 * 2 + i % 2]));
            if (P > 64) begin_scores<P>(ds, of_values, douts);
            begin_sum<P>(dv, of_p, p, douts);
            warpgroup_wait<1>(); // for ds
#pragma unroll
            for (int n = 0; n < ACROSS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    ds[n][i] = p[n][i] * (ds[n][i] - deltas[n * 8 + lane % 4 * 2 + i % 2]);
            begin_sum<P>(dk, of_ds, ds, queries);
            warpgroup_wait<0>();
        }
        if (thread < TOKENS) { // not before: they take as long to come as the tiles
            numbers[coming % 2][0][thread] = next.lse_log2;
            numbers[coming % 2][1][thread] = next.delta;
        }
    }

    __syncthreads(); // nobody reads keys and values
    stage_strip<P, S::WIDTH, typename S::Layout>(keys, warp_row, 0, dk, scale, scale);
    stage_strip<P, S::WIDTH, typename S::Layout>(values, warp_row, 0, dv, 1.0f, 1.0f);
    __syncthreads();
    bf16 *to = dqkv + (own.row + own.first) * g.width;
    int rows = own.end - own.first;
    store_tile<P, TOKENS, THREADS, typename S::Layout>(to + key_column(g, own.head), g.width, keys,
                                                       rows, 0, g.d_head, g.vectors);
    store_tile<P, TOKENS, THREADS, typename S::Layout>(to + value_column(g, own.head), g.width,
                                                       values, rows, 0, g.d_value, g.vectors);
}

// A block owns 64 queries of a head.
template <int P>
__global__ void __launch_bounds__(THREADS, Panels<P>::QUERIES)
    attention_backward_queries_warpgroup(bf16 *dqkv, const bf16 *dout, const bf16 *qkv,
                                         const float *lse, const float *delta, Heads g,
                                         float scale) {
    typedef Panels<P> S;
    DYNAMIC_SHARED(unsigned char, shared);
    bf16 *queries = aligned_tiles(shared), *douts = queries + S::TILE, *buffers = douts + S::TILE;
    const SharedPanel of_queries = operand(queries), of_douts = operand(douts);
    const SharedPanel of_buffers = operand(buffers);
    OwnTile own = own_tile(g.T, g.heads, TOKENS, blockIdx.x, true);
    int kv_head = own.head / (g.heads / g.kv_heads), rows = own.end - own.first;
    int lane = threadIdx.x % WARP, warp_row = threadIdx.x / WARP * STRIP;
    int warp_first = own.first + warp_row;
    float scale_log2 = scale * LOG2_E;
    const bf16 *from = qkv + own.row * g.width;
    load<P>(queries, from + own.first * g.width + query_column(g, own.head), g.width, rows,
            g.d_head, g.vectors);
    load<P>(douts, dout + (own.row + own.first) * g.out_width + own.head * g.d_value, g.out_width,
            rows, g.d_value, g.vectors);
    QueryNumbers upper = query_numbers(lse, delta, own.row, warp_first + lane / 4, own.head, g);
    QueryNumbers lower = query_numbers(lse, delta, own.row, warp_first + lane / 4 + 8, own.head, g);

    float dq[S::WIDTH][4] = {};
    int first_key = first_key_seen(g, own.row, own.first) / TOKENS * TOKENS;
    for (int key = first_key - TOKENS; key < own.end; key += TOKENS) { // the first turn only loads
        cp_async_wait<0>();
        shared_for_products();
        __syncthreads(); // this step's buffer is there, nobody reads the other one
        int coming = key + TOKENS;
        if (coming < own.end) {
            bf16 *buffer = buffers + coming / TOKENS % 2 * (2 * S::TILE);
            const bf16 *next = from + coming * g.width;
            load<P>(buffer, next + key_column(g, kv_head), g.width, g.T - coming, g.d_head,
                    g.vectors);
            load<P>(buffer + S::TILE, next + value_column(g, kv_head), g.width, g.T - coming,
                    g.d_value, g.vectors);
        }
        cp_async_commit();
        if (key < first_key) continue;
        SharedPanel keys = shared_panel_from(of_buffers, key / TOKENS % 2 * (2 * S::TILE_BYTES));
        SharedPanel values = shared_panel_from(keys, S::TILE_BYTES);
        float p[ACROSS][4], ds[ACROSS][4];
        uint32_t of_ds[ACROSS / 2][4];
        begin_scores<P>(p, of_queries, keys);
        begin_scores<P>(ds, of_douts, values);
        warpgroup_wait<1>();
        if (key + TOKENS > warp_first + 1 ||
            key < first_key_seen(g, own.row, warp_first + STRIP - 1))
            hide_unseen_keys<ACROSS>(p, g, own.row, warp_first, key, false);
#pragma unroll
        for (int n = 0; n < ACROSS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                p[n][i] =
                    power_of_two(fmaf(p[n][i], scale_log2, -(i < 2 ? upper : lower).lse_log2));
        warpgroup_wait<0>();
#pragma unroll
        for (int n = 0; n < ACROSS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                ds[n][i] = p[n][i] * (ds[n][i] - (i < 2 ? upper : lower).delta);
        begin_sum<P>(dq, of_ds, ds, keys);
        warpgroup_wait<0>();
    }

    __syncthreads(); // nobody reads queries
    stage_strip<P, S::WIDTH, typename S::Layout>(queries, warp_row, 0, dq, scale, scale);
    __syncthreads();
    store_tile<P, TOKENS, THREADS, typename S::Layout>(
        dqkv + (own.row + own.first) * g.width + query_column(g, own.head), g.width, queries, rows,
        0, g.d_head, g.vectors);
}

// ---- the ops ------------------------------------------------------------------------------------

bool attention_by_warpgroups(const Device *dev, int padded, bool shaped) {
    return cuda_state(dev)->compute_capability == 90 && padded <= 128 && !shaped;
}

template <int P>
static void forward(Device *dev, bf16 *out, float *lse, const bf16 *qkv, int64_t sequences,
                    Heads g) {
    launch(dev, attention_forward_warpgroup_kernel<P>,
           grid_of(sequences * g.heads * ceil_div(g.T, TOKENS)), dim3(THREADS), Panels<P>::BYTES,
           out, lse, qkv, g, g.scale * LOG2_E);
}

void attention_forward_warpgroup(Device *dev, int padded, bf16 *out, float *lse, const bf16 *qkv,
                                 int64_t sequences, Heads g) {
    (padded == 64 ? forward<64> : forward<128>)(dev, out, lse, qkv, sequences, g);
}

template <int P>
static void backward(Device *dev, bf16 *dqkv, const bf16 *dout, const bf16 *qkv, const float *lse,
                     const float *delta, int64_t sequences, Heads g) {
    int64_t tiles = sequences * ceil_div(g.T, TOKENS);
    launch(dev, attention_backward_keys_warpgroup<P>, grid_of(tiles * g.kv_heads), dim3(THREADS),
           Panels<P>::BYTES, dqkv, dout, qkv, lse, delta, g, g.scale);
    launch(dev, attention_backward_queries_warpgroup<P>, grid_of(tiles * g.heads), dim3(THREADS),
           Panels<P>::BYTES, dqkv, dout, qkv, lse, delta, g, g.scale);
}

void attention_backward_warpgroup(Device *dev, int padded, bf16 *dqkv, const bf16 *dout,
                                  const bf16 *qkv, const float *lse, const float *delta,
                                  int64_t sequences, Heads g) {
    (padded == 64 ? backward<64> : backward<128>)(dev, dqkv, dout, qkv, lse, delta, sequences, g);
}
