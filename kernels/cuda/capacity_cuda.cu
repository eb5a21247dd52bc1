#include "kernels/cuda/column_sum.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

// ---- queues -------------------------------------------------------------------------------------
//
// The choices of a routing group stand in a queue: for DROP_POSITION all first choices in token
// order, then all second ones, …; otherwise by number (token, slot). Queues are cut into chunks of
// CHUNK places, one for a block; a warp owns SHARE neighbouring places, ROUNDS times one for each
// lane. Three steps give every choice its rank among the choices of its expert, exactly, without an
// atomic: count each chunk's experts; sum the counts over the chunks; count again up to each place.
enum { WARPS = 8, THREADS = WARPS * WARP, ROUNDS = 8, SHARE = ROUNDS * WARP };
enum { CHUNK = WARPS * SHARE };

typedef struct Queues {
    const int32_t *ids; // (groups · tokens, K)
    int32_t *counts;    // (groups, chunks, E)
    int tokens, K, E;   // tokens of a group
    int choices;        // tokens · K
    int chunks;         // of a group
    bool by_slot;
} Queues;

__device__ static inline unsigned lanes_below() {
    return (1u << threadIdx.x % WARP) - 1u;
}

// The block's group, and the first place of the queue that its warp owns.
__device__ static inline int group_of_block(Queues q) {
    return (int)(blockIdx.x / (unsigned)q.chunks);
}
__device__ static inline int place_of_warp(Queues q) {
    return (int)(blockIdx.x % (unsigned)q.chunks) * CHUNK + (int)threadIdx.x / WARP * SHARE;
}

// The number, within the group, of the choice at a place; -1 behind the queue's end.
__device__ static inline int choice_at(Queues q, int place) {
    if (place >= q.choices) return -1;
    return q.by_slot ? place % q.tokens * q.K + place / q.tokens : place;
}

// The choice at the lane's place in each round, and its expert; -1 both behind the end.
__device__ static inline void load_share(int *choice, int *expert, Queues q) {
    const int32_t *ids = q.ids + (int64_t)group_of_block(q) * q.choices;
#pragma unroll
    for (int r = 0; r < ROUNDS; r++) {
        choice[r] = choice_at(q, place_of_warp(q) + r * WARP + (int)threadIdx.x % WARP);
        expert[r] = choice[r] < 0 ? -1 : ids[choice[r]];
    }
}

// Takes the lanes' places in turn: rank[r] = count of the place's expert so far; the counts then
// include the warp's share. `count` (E) is the warp's own. One lane of those with the same expert
// writes.
__device__ static inline void rank_share(int *rank, int *count, const int *expert) {
#pragma unroll
    for (int r = 0; r < ROUNDS; r++) {
        unsigned same = __match_any_sync(ALL_LANES, expert[r]);
        bool first = (same & lanes_below()) == 0;
        int before = expert[r] < 0 ? 0 : count[expert[r]];
        rank[r] = before + __popc(same & lanes_below());
        __syncwarp();
        if (first && expert[r] >= 0) count[expert[r]] = before + __popc(same);
        __syncwarp();
    }
}

// Shared memory of both: (WARPS, E) counts.
__device__ static inline void count_shares(int *counts, const int *expert, int E) {
    int rank[ROUNDS];
    for (int i = (int)threadIdx.x; i < WARPS * E; i += THREADS) counts[i] = 0;
    __syncthreads();
    rank_share(rank, counts + (int)threadIdx.x / WARP * E, expert);
    __syncthreads();
}

// A block owns a chunk and writes how often each expert is in it. Bytes: 4 a choice and 4 E a chunk
// (2048 choices).
__global__ static void __launch_bounds__(THREADS) count_chunks(Queues q) {
    DYNAMIC_SHARED(int, counts);
    int choice[ROUNDS], expert[ROUNDS];
    load_share(choice, expert, q);
    count_shares(counts, expert, q.E);
    for (int e = (int)threadIdx.x; e < q.E; e += THREADS) {
        int sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += counts[w * q.E + e];
        q.counts[(int64_t)blockIdx.x * q.E + e] = sum;
    }
}

// The rank of each of the lane's choices among its expert's, by the chunk's counts before it
// (sum_chunks).
__device__ static inline void rank_choices(int *rank, const int *expert, int *counts, Queues q) {
    count_shares(counts, expert, q.E);
    for (int e = (int)threadIdx.x; e < q.E; e += THREADS) {
        int before = q.counts[(int64_t)blockIdx.x * q.E + e];
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            int of_warp = counts[w * q.E + e];
            counts[w * q.E + e] = before;
            before += of_warp;
        }
    }
    __syncthreads();
    rank_share(rank, counts + (int)threadIdx.x / WARP * q.E, expert);
}

// A block owns WARP experts of a group: replaces each chunk's counts by the counts of all chunks
// before it, a warp a run of chunks, and writes the totals. Bytes: 4 read and written for each
// chunk and expert, the second time from the cache.
__global__ static void __launch_bounds__(COLUMN_THREADS)
    sum_chunks(int32_t *tokens_per_expert, int32_t *dropped, int32_t *counts, int chunks, int E,
               int capacity) {
    __shared__ int sums[COLUMN_WARPS][WARP];
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int tiles = (E + WARP - 1) / WARP, group = (int)(blockIdx.x / (unsigned)tiles);
    int e = (int)(blockIdx.x % (unsigned)tiles) * WARP + lane;
    int run = (chunks + COLUMN_WARPS - 1) / COLUMN_WARPS;
    int first = min(warp * run, chunks), end = min(first + run, chunks), sum = 0;
    int32_t *column = counts + (int64_t)group * chunks * E + e;
    if (e < E) {
#pragma unroll 4
        for (int c = first; c < end; c++) sum += column[(int64_t)c * E];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (e >= E) return;
    int before = 0, total = 0;
    for (int w = 0; w < COLUMN_WARPS; w++) {
        if (w == warp) before = total;
        total += sums[w][lane];
    }
#pragma unroll 4
    for (int c = first; c < end; c++) {
        int of_chunk = column[(int64_t)c * E];
        column[(int64_t)c * E] = before;
        before += of_chunk;
    }
    if (warp > 0) return;
    tokens_per_expert[(int64_t)group * E + e] = total;
    dropped[(int64_t)group * E + e] = total > capacity ? total - capacity : 0;
}

// ---- who comes first ----------------------------------------------------------------------------

// A block owns a chunk: a choice is kept when its rank is below the capacity. Bytes: 5 a choice, of
// which a line holds 1/K where the queue runs by slot; the caches serve the rest.
__global__ static void __launch_bounds__(THREADS)
    keep_first(uint8_t *kept, Queues q, int capacity) {
    DYNAMIC_SHARED(int, counts);
    int choice[ROUNDS], expert[ROUNDS], rank[ROUNDS];
    load_share(choice, expert, q);
    rank_choices(rank, expert, counts, q);
    uint8_t *of_group = kept + (int64_t)group_of_block(q) * q.choices;
#pragma unroll
    for (int r = 0; r < ROUNDS; r++)
        if (choice[r] >= 0) of_group[choice[r]] = rank[r] < capacity;
}

// ---- who is best --------------------------------------------------------------------------------

// A block owns a group: start[g, e] = Σ tokens_per_expert[g, 0 … e-1], the place of expert e's list
// within the group's choices.
__global__ static void __launch_bounds__(MOST_EXPERTS)
    start_lists(int32_t *start, const int32_t *tokens_per_expert, int E) {
    __shared__ int sums[WARP];
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, e = (int)threadIdx.x;
    int own = e < E ? tokens_per_expert[(int64_t)blockIdx.x * E + e] : 0, sum = own;
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        int below = __shfl_up_sync(ALL_LANES, sum, distance);
        if (lane >= distance) sum += below;
    }
    if (lane == WARP - 1) sums[warp] = sum;
    __syncthreads();
    for (int w = 0; w < warp; w++) sum += sums[w];
    if (e < E) start[(int64_t)blockIdx.x * E + e] = sum - own;
}

// A block owns a chunk and puts each choice into its expert's list, ascending, with its key: the
// smallest are kept (capacity_cpu.c's key; its low half, the choice's number, is the place in the
// list). Gate weights are not negative, so their bits order as they do. Bytes: 8 read and 8 written
// a choice, written in runs of one expert's.
__global__ static void __launch_bounds__(THREADS)
    list_choices(int32_t *order, uint32_t *key, Queues q, const int32_t *start,
                 const float *weights, bool random, RngStream stream, uint64_t first_choice) {
    DYNAMIC_SHARED(int, counts);
    int choice[ROUNDS], expert[ROUNDS], rank[ROUNDS], group = group_of_block(q);
    load_share(choice, expert, q);
    rank_choices(rank, expert, counts, q);
    int64_t of_group = (int64_t)group * q.choices;
#pragma unroll
    for (int r = 0; r < ROUNDS; r++) {
        if (choice[r] < 0) continue;
        int64_t c = of_group + choice[r];
        int64_t place = of_group + start[(int64_t)group * q.E + expert[r]] + rank[r];
        order[place] = (int32_t)c;
        key[place] =
            random ? philox_u32(stream, first_choice + (uint64_t)c) : ~__float_as_uint(weights[c]);
    }
}

enum { DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS };

// Counts the digit at `shift` of those of the block's `count` keys that agree with `prefix` above
// it. Lanes with the same digit count as one: few digits are common, as the exponents of gate
// weights.
__device__ static inline void count_digits(int *digits, const uint32_t *key, int count,
                                           uint32_t prefix, int shift) {
    for (int d = (int)threadIdx.x; d < DIGITS; d += (int)blockDim.x) digits[d] = 0;
    __syncthreads();
    for (int first = 0; first < count; first += (int)blockDim.x) {
        int i = first + (int)threadIdx.x;
        uint32_t k = i < count ? key[i] : 0;
        // In two shifts: one of 32 bits would be undefined.
        bool agrees = i < count && (k ^ prefix) >> shift >> DIGIT_BITS == 0;
        int digit = agrees ? (int)(k >> shift & (DIGITS - 1)) : -1;
        unsigned same = __match_any_sync(ALL_LANES, digit);
        if (agrees && (same & lanes_below()) == 0) atomicAdd(&digits[digit], __popc(same));
    }
    __syncthreads();
}

// Finds in which digit the wanted-th key (1-based) lies: the digit, its rank among that digit's,
// and their number, by the first warp for all.
__device__ static inline void find_digit(int *found, const int *digits, int wanted) {
    const int PER_LANE = (int)DIGITS / WARP;
    int lane = (int)threadIdx.x;
    if (lane < WARP) {
        int own = 0;
        for (int i = 0; i < PER_LANE; i++) own += digits[lane * PER_LANE + i];
        int end = own;
#pragma unroll
        for (int distance = 1; distance < WARP; distance *= 2) {
            int below = __shfl_up_sync(ALL_LANES, end, distance);
            if (lane >= distance) end += below;
        }
        int before = end - own;
        if (before < wanted && wanted <= end) {
            int digit = lane * PER_LANE;
            while (before + digits[digit] < wanted) before += digits[digit++];
            found[0] = digit;
            found[1] = wanted - before;
            found[2] = digits[digit];
        }
    }
    __syncthreads();
}

// A block owns one expert's list in one group, if it is too long: finds the key of the last choice
// that is kept, digit by digit from the top, and marks the choices behind it as dropped; of equal
// keys the first in the list are kept. Reads a list's keys five times, the last four from the
// cache. Exact; the atomics count integers.
__global__ static void __launch_bounds__(1024)
    keep_best(uint8_t *kept, const int32_t *order, const uint32_t *key,
              const int32_t *tokens_per_expert, const int32_t *start, int E, int choices,
              int capacity) {
    __shared__ int digits[DIGITS], found[3], equal_in[WARP];
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int count = tokens_per_expert[blockIdx.x];
    if (count <= capacity) return; // the whole block
    int64_t list = (int64_t)(blockIdx.x / (unsigned)E) * choices + start[blockIdx.x];
    order += list;
    key += list;
    if (capacity == 0) {
        for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) kept[order[i]] = 0;
        return;
    }
    uint32_t last = 0;
    int wanted = capacity, equal = 0;
    for (int shift = 32 - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        count_digits(digits, key, count, last, shift);
        find_digit(found, digits, wanted);
        last |= (uint32_t)found[0] << shift;
        wanted = found[1];
        equal = found[2];
    }
    // `wanted` of the `equal` choices whose key is `last` are kept.
    if (wanted == equal) {
        for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x)
            if (key[i] > last) kept[order[i]] = 0;
        return;
    }
    for (int first = 0, seen = 0; first < count; first += (int)blockDim.x) {
        int i = first + (int)threadIdx.x;
        bool is_equal = i < count && key[i] == last;
        unsigned equals = __ballot_sync(ALL_LANES, is_equal);
        __syncthreads();
        if (lane == 0) equal_in[warp] = __popc(equals);
        __syncthreads();
        int before = seen + __popc(equals & lanes_below());
        for (int w = 0; w < (int)blockDim.x / WARP; w++) {
            before += w < warp ? equal_in[w] : 0;
            seen += equal_in[w];
        }
        if (i < count && (key[i] > last || (is_equal && before >= wanted))) kept[order[i]] = 0;
    }
}

static size_t aligned(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

// Threads for an expert's list of average length: as many as it has choices, within reason.
static int list_threads(int64_t average) {
    int threads = 128;
    while (threads < 1024 && threads * 4 < average) threads *= 2;
    return threads;
}

extern "C" void capacity_assign_cuda(Device *dev, Tensor kept, Tensor tokens_per_expert,
                                     Tensor dropped, Tensor ids, Tensor weights, CapacityRule rule,
                                     Tensor order) {
    int64_t N = ids.shape[0], K = ids.shape[1], groups = tokens_per_expert.shape[0],
            E = tokens_per_expert.shape[1];
    int64_t tokens = N / groups, choices = tokens * K, chunks = ceil_div(choices, CHUNK);
    CHECK_ROUTING(E, K);
    CHECK(N * K <= INT32_MAX - CHUNK, "%lld choices in one capacity_assign, at most %d",
          (long long)(N * K), INT32_MAX - CHUNK);
    int limit = (int)(rule.capacity < 0 || rule.capacity > choices ? choices : rule.capacity);
    size_t counts_bytes = aligned((size_t)(groups * chunks * E) * sizeof(int32_t));
    size_t start_bytes = aligned((size_t)(groups * E) * sizeof(int32_t));
    char *workspace = (char *)cuda_workspace(dev, counts_bytes + start_bytes +
                                                      (size_t)(N * K) * sizeof(uint32_t));
    int32_t *start = (int32_t *)(workspace + counts_bytes);
    uint32_t *key = (uint32_t *)(workspace + counts_bytes + start_bytes);
    uint8_t *keep = device_data<uint8_t>(kept);
    int32_t *of_expert = device_data<int32_t>(tokens_per_expert),
            *list = device_data<int32_t>(order);
    bool in_order = false, random = false; // else by weight
    switch (rule.policy) {
    case DROP_POSITION:
        in_order = true;
        break;
    case DROP_PROBABILITY:
        break;
    case DROP_RANDOM:
        random = true;
        break;
    }
    Queues q = {device_data<int32_t>(ids),
                (int32_t *)workspace,
                (int)tokens,
                (int)K,
                (int)E,
                (int)choices,
                (int)chunks,
                in_order};
    dim3 grid = grid_of(groups * chunks);
    size_t shared = (size_t)(WARPS * E) * sizeof(int);

    launch(dev, count_chunks, grid, dim3(THREADS), shared, q);
    launch(dev, sum_chunks, grid_of(groups * ceil_div(E, WARP)), dim3(COLUMN_THREADS), 0, of_expert,
           device_data<int32_t>(dropped), q.counts, chunks, E, limit);
    if (in_order && limit < choices) {
        launch(dev, keep_first, grid, dim3(THREADS), shared, keep, q, limit);
        return;
    }
    CUDA_CHECK(cudaMemsetAsync(keep, 1, (size_t)(N * K), cuda_state(dev)->compute));
    if (limit == choices) return;
    launch(dev, start_lists, grid_of(groups), dim3(MOST_EXPERTS), 0, start, of_expert, E);
    launch(dev, list_choices, grid, dim3(THREADS), shared, list, key, q, start,
           device_data<float>(weights), random, rule.stream, (uint64_t)(rule.first_token * K));
    launch(dev, keep_best, grid_of(groups * E), dim3((unsigned)list_threads(choices / E)), 0, keep,
           list, key, of_expert, start, E, choices, limit);
}

// ---- expert load --------------------------------------------------------------------------------

enum { LOAD_WARPS = 4, LOAD_THREADS = LOAD_WARPS * WARP, LOAD_CHUNK = LOAD_WARPS * SHARE };

typedef struct LoadChunks { // of each of the parts, sums over its choices by expert
    double *mass;           // (parts, chunks, E)
    int32_t *tokens_per_expert, *dropped;
    int64_t chunks; // of a part
} LoadChunks;

// A block owns a chunk of a part's choices, a warp SHARE of them, and sums them by expert: lanes
// with the same expert by lane, a warp's rounds and then the warps in order, so the mass has one
// order, given by the part. Bytes: 9 a choice and 16 E a chunk (1024 choices). Shared memory: for
// each warp and expert the mass, and tokens_per_expert + 2^16 dropped.
__global__ static void __launch_bounds__(LOAD_THREADS)
    load_chunks(LoadChunks out, const int32_t *ids, const float *weights, const uint8_t *kept,
                int64_t choices, int E) {
    DYNAMIC_SHARED(double, masses);
    unsigned *counts = (unsigned *)(masses + LOAD_WARPS * E);
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    for (int i = (int)threadIdx.x; i < LOAD_WARPS * E; i += LOAD_THREADS)
        masses[i] = 0, counts[i] = 0;
    __syncthreads();
    int64_t part = blockIdx.x / out.chunks, chunk = blockIdx.x % out.chunks;
    int64_t of_warp = chunk * LOAD_CHUNK + warp * SHARE;
    int expert[ROUNDS];
    float weight[ROUNDS];
    bool keep[ROUNDS];
#pragma unroll
    for (int r = 0; r < ROUNDS; r++) {
        int64_t within = of_warp + r * WARP + lane, c = part * choices + within;
        expert[r] = within < choices ? ids[c] : -1;
        keep[r] = within < choices && kept[c];
        weight[r] = keep[r] ? weights[c] : 0.0f;
    }
#pragma unroll
    for (int r = 0; r < ROUNDS; r++) {
        unsigned same = __match_any_sync(ALL_LANES, expert[r]);
        unsigned keeps = same & __ballot_sync(ALL_LANES, keep[r]), rest = keeps;
        double mass = 0;
        while (__any_sync(ALL_LANES, rest != 0)) {
            int source = rest ? __ffs((int)rest) - 1 : lane;
            float next = __shfl_sync(ALL_LANES, weight[r], source);
            if (rest) mass += (double)next;
            rest &= rest - 1;
        }
        if (expert[r] >= 0 && (same & lanes_below()) == 0) {
            masses[warp * E + expert[r]] += mass;
            counts[warp * E + expert[r]] += (unsigned)__popc(same) | (unsigned)__popc(same & ~keeps)
                                                                         << 16;
        }
        __syncwarp();
    }
    __syncthreads();
    for (int e = (int)threadIdx.x; e < E; e += LOAD_THREADS) {
        double mass = 0;
        unsigned count = 0;
#pragma unroll
        for (int w = 0; w < LOAD_WARPS; w++) mass += masses[w * E + e], count += counts[w * E + e];
        int64_t at = (int64_t)blockIdx.x * E + e;
        out.mass[at] = mass;
        out.tokens_per_expert[at] = (int32_t)(count & 0xffffu);
        out.dropped[at] = (int32_t)(count >> 16);
    }
}

// A block owns WARP experts of a part and adds the chunks in column_sum's order. Reads what
// load_chunks wrote.
__global__ static void __launch_bounds__(COLUMN_THREADS)
    add_load_chunks(int32_t *tokens_per_expert, int32_t *dropped, double *weight_mass,
                    LoadChunks from, int64_t E, bool kept_alone) {
    __shared__ double spare[COLUMN_WARPS][WARP];
    __shared__ int spare_counts[COLUMN_WARPS][WARP];
    int64_t tiles = (E + WARP - 1) / WARP, part = blockIdx.x / tiles;
    int64_t e = blockIdx.x % tiles * WARP + threadIdx.x % WARP;
    int64_t first = part * from.chunks * E + e;
    bool inside = e < E;
    double mass = column_sum<double>(from.mass + first, from.chunks, E, inside, spare);
    int in = column_sum<int>(from.tokens_per_expert + first, from.chunks, E, inside, spare_counts);
    int out = column_sum<int>(from.dropped + first, from.chunks, E, inside, spare_counts);
    if (threadIdx.x >= WARP || !inside) return;
    weight_mass[part * E + e] = mass;
    tokens_per_expert[part * E + e] = kept_alone ? in - out : in;
    dropped[part * E + e] = kept_alone ? 0 : out;
}

extern "C" void expert_load_cuda(Device *dev, RouterSums sums, Tensor ids, Tensor weights,
                                 Tensor kept, bool kept_alone) {
    int64_t N = ids.shape[0], K = ids.shape[1];
    int64_t parts = sums.tokens_per_expert.shape[0], E = sums.tokens_per_expert.shape[1];
    int64_t choices = N / parts * K, chunks = ceil_div(choices, LOAD_CHUNK);
    CHECK_ROUTING(E, K);
    size_t count = (size_t)(parts * chunks * E);
    double *mass = (double *)cuda_workspace(dev, count * (sizeof(double) + 2 * sizeof(int32_t)));
    int32_t *tokens_per_expert = (int32_t *)(mass + count);
    LoadChunks of_chunks = {mass, tokens_per_expert, tokens_per_expert + count, chunks};
    launch(dev, load_chunks, grid_of(parts * chunks), dim3(LOAD_THREADS),
           (size_t)(LOAD_WARPS * E) * (sizeof(double) + sizeof(unsigned)), of_chunks,
           device_data<int32_t>(ids), device_data<float>(weights), device_data<uint8_t>(kept),
           choices, E);
    launch(dev, add_load_chunks, grid_of(parts * ceil_div(E, WARP)), dim3(COLUMN_THREADS), 0,
           device_data<int32_t>(sums.tokens_per_expert), device_data<int32_t>(sums.dropped),
           device_data<double>(sums.weight_mass), of_chunks, E, kept_alone);
}
