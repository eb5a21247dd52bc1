// Attention of new tokens against the cache, all of them in one launch, or as many as the workspace
// holds. For each the cache is cut into splits of 128 keys, so that a long one keeps the whole GPU
// busy; a second kernel joins the splits, in order.
#include "kernels/cuda/attention_scores.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/integers.h"

enum { SPLIT_KEYS = 128, DECODE_THREADS = 256, KEY_LANES = 8, JOIN_THREADS = 128 };

static const int64_t SPLITS_BYTES = 32 << 20; // of rows that are joined together; a row's at least

// The keys that new token number `row` sees: `count` of them from `first` on.
typedef struct SeenKeys {
    int64_t position; // of the first new token
    int64_t window;   // of keys; 0: all
} SeenKeys;
__host__ __device__ static inline int64_t first_seen(SeenKeys seen, int64_t row) {
    int64_t position = seen.position + row;
    return seen.window > 0 && position >= seen.window ? position - seen.window + 1 : 0;
}
__host__ __device__ static inline int keys_seen(SeenKeys seen, int64_t row) {
    return (int)(seen.position + row + 1 - first_seen(seen, row));
}

// What a split knows of a head: the largest score and the sum of exponentials, both to base 2, and
// Σ exponential · v.
enum { SPLIT_LARGEST, SPLIT_NORMALISER, SPLIT_SUM }; // of 2 + d_value floats

static inline size_t split_shared_bytes(AttentionShape s, int count) {
    return (size_t)(s.d_head + SPLIT_KEYS + DECODE_THREADS * count + WARP) * sizeof(float);
}

// COUNT elements of a row: a vector, or one.
template <int COUNT, typename T> __device__ static inline void load_some(float *to, const T *from) {
    if constexpr (COUNT == 1) {
        to[0] = to_float(from[0]);
    } else {
        load_vector(to, from);
    }
}

// A block owns a split of one head of row blockIdx.y, if that row sees so many keys. First, for the
// scores, 8 lanes have a key. Then, for the sum, a thread has COUNT columns of every n-th key, n
// threads the same columns; each adds its keys in order, then their sums are added one after
// another. Blocks of one split are neighbours: query heads that share a key/value head find its
// rows in the L2 cache. Bytes moved: the cache once for every row.
template <typename T, int COUNT>
__global__ void __launch_bounds__(DECODE_THREADS, 1)
    attention_decode_split(float *splits, const T *qkv, int64_t qkv_width, const T *cache, Heads g,
                           SeenKeys seen, float scale_log2) {
    DYNAMIC_SHARED(float, query);
    float *p = query + g.d_head, *sums = p + SPLIT_KEYS, *spare = sums + DECODE_THREADS * COUNT;
    int head = blockIdx.x % g.heads, split = blockIdx.x / g.heads, thread = threadIdx.x;
    int keys = keys_seen(seen, blockIdx.y);
    int kv_head = head / (g.heads / g.kv_heads),
        count = min(keys - split * SPLIT_KEYS, (int)SPLIT_KEYS);
    if (count <= 0) return;
    const T *rows = cache + (first_seen(seen, blockIdx.y) + (int64_t)split * SPLIT_KEYS) * g.width;
    const T *k = rows + kv_head * g.d_head;
    const T *v = rows + g.kv_heads * g.d_head + kv_head * g.d_value;
    float slope = slope_of_head(g, head);
    float *result =
        splits + ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * (SPLIT_SUM + g.d_value);
    qkv += blockIdx.y * qkv_width;

    for (int c = thread; c < g.d_head; c += DECODE_THREADS)
        query[c] = to_float(qkv[query_column(g, head) + c]);
    __syncthreads();
    for (int key = thread / KEY_LANES; key < SPLIT_KEYS; key += DECODE_THREADS / KEY_LANES) {
        float score = 0.0f;
        if (key < count)
            for (int c = thread % KEY_LANES * COUNT; c < g.d_head; c += KEY_LANES * COUNT) {
                float x[COUNT];
                load_some<COUNT>(x, k + key * g.width + c);
#pragma unroll
                for (int i = 0; i < COUNT; i++) score += query[c + i] * x[i];
            }
#pragma unroll
        for (int distance = KEY_LANES / 2; distance > 0; distance /= 2)
            score += __shfl_xor_sync(ALL_LANES, score, distance);
        if (thread % KEY_LANES == 0) {
            if (g.softcap > 0.0f || g.slopes)
                score = shape_score(g, score, slope, keys - 1 - split * SPLIT_KEYS - key);
            p[key] = key < count ? score * scale_log2 : -INFINITY;
        }
    }
    __syncthreads();
    float score = thread < SPLIT_KEYS ? p[thread] : -INFINITY;
    float largest = block_max(score, spare), e = exp2f(score - largest);
    if (thread < SPLIT_KEYS) p[thread] = e;
    float normaliser = block_sum(e, spare); // with a barrier: p is there
    if (thread == 0) {
        result[SPLIT_LARGEST] = largest;
        result[SPLIT_NORMALISER] = normaliser;
    }

    for (int first = 0; first < g.d_value; first += DECODE_THREADS * COUNT) {
        int columns = min(g.d_value - first, DECODE_THREADS * COUNT), across = columns / COUNT;
        int groups = DECODE_THREADS / across, group = thread / across;
        float sum[COUNT] = {};
        if (group < groups)
            for (int key = group; key < count; key += groups) {
                float x[COUNT];
                load_some<COUNT>(x, v + key * g.width + first + thread % across * COUNT);
#pragma unroll
                for (int i = 0; i < COUNT; i++) sum[i] += p[key] * x[i];
            }
#pragma unroll
        for (int i = 0; i < COUNT; i++) sums[thread * COUNT + i] = sum[i];
        __syncthreads();
        for (int c = thread; c < columns; c += DECODE_THREADS) {
            float total = 0.0f;
            for (int other = 0; other < groups; other++) total += sums[other * columns + c];
            result[SPLIT_SUM + first + c] = total;
        }
        __syncthreads();
    }
}

// A block owns a head of row blockIdx.y: its splits in order, of `most` that there is room for.
template <typename T>
__global__ void __launch_bounds__(JOIN_THREADS)
    attention_decode_join(T *out, const float *splits, int most, Heads g, SeenKeys seen) {
    int head = blockIdx.x, count = (keys_seen(seen, blockIdx.y) + SPLIT_KEYS - 1) / SPLIT_KEYS;
    int64_t width = SPLIT_SUM + g.d_value, step = g.heads * width;
    const float *first = splits + blockIdx.y * most * step + head * width;
    out += blockIdx.y * g.out_width;
    float largest = first_largest(g, head, 1.0f); // scores are to base 2 already
    float begin = largest, normaliser = first_normaliser(g);
    for (int split = 0; split < count; split++)
        largest = fmaxf(largest, first[split * step + SPLIT_LARGEST]);
    if (g.softmax != SOFTMAX_PLAIN) normaliser *= exp2f(begin - largest);
    for (int split = 0; split < count; split++)
        normaliser += first[split * step + SPLIT_NORMALISER] *
                      exp2f(first[split * step + SPLIT_LARGEST] - largest);
    for (int c = threadIdx.x; c < g.d_value; c += JOIN_THREADS) {
        float sum = 0.0f;
        for (int split = 0; split < count; split++)
            sum += first[split * step + SPLIT_SUM + c] *
                   exp2f(first[split * step + SPLIT_LARGEST] - largest);
        out[head * g.d_value + c] = from_float<T>(sum / normaliser);
    }
}

// Rows [0, rows) of qkv, of which the first stands at `position`.
template <typename T>
static void decode(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionRule rule,
                   SeenKeys seen, int64_t rows) {
    AttentionShape s = rule.shape;
    const int COUNT = Vector<T>::COUNT;
    const T *keys = device_data<T>(cache);
    Heads g = heads_of<T>(rule, seen.position + rows, keys, out.data);
    g.width = attention_kv_width(s);
    int64_t most = ceil_div(keys_seen(seen, rows - 1), SPLIT_KEYS); // a later row sees no fewer
    size_t bytes = (size_t)(rows * most * s.heads * (SPLIT_SUM + s.d_value)) * sizeof(float);
    float *splits = static_cast<float *>(cuda_workspace(dev, bytes));
    dim3 grid = grid_of(most * s.heads);
    grid.y = (unsigned)rows;
    launch(dev, g.vectors ? attention_decode_split<T, COUNT> : attention_decode_split<T, 1>, grid,
           dim3(DECODE_THREADS), split_shared_bytes(s, g.vectors ? COUNT : 1), splits,
           device_data<T>(qkv), qkv.shape[1], keys, g, seen, rule.scale * LOG2_E);
    launch(dev, attention_decode_join<T>, dim3((unsigned)s.heads, (unsigned)rows),
           dim3(JOIN_THREADS), 0, device_data<T>(out), splits, most, g, seen);
}

void attention_decode_cuda(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionRule rule,
                           int64_t position) {
    AttentionShape s = rule.shape;
    int64_t N = qkv.shape[0], most = ceil_div(position + N, SPLIT_KEYS);
    int64_t row_bytes = most * s.heads * (SPLIT_SUM + s.d_value) * (int64_t)sizeof(float);
    int64_t together = larger(1, smaller(SPLITS_BYTES / row_bytes, 65535)); // of a grid's y
    for (int64_t row = 0, rows; row < N; row += rows) {
        rows = smaller(together, N - row);
        (qkv.dtype == F32 ? decode<float> : decode<bf16>)(dev, tensor_rows(out, row, rows),
                                                          tensor_rows(qkv, row, rows), cache, rule,
                                                          (SeenKeys){position + row, rule.window},
                                                          rows);
    }
}
