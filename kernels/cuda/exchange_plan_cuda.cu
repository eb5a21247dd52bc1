// The exchange plan: from counts, where every row of the all-to-all comes from and goes to.
//
// For one source rank and one expert of this rank the rows of all shards lie together, in the same
// order, among the received rows and among the expert rows: a segment. There are E of them, and two
// orders in which they follow each other:
//   expert order    (expert, source rank)          number e · ep + source
//   received order  (chunk, source rank, expert)
//   number (chunk · ep + source) · chunk_experts + e % chunk_experts
// place_segments finds the first row of each segment in both orders; enter_rows writes the two
// permutations, row by row. Integers only, no atomics.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/cuda/storage.cuh"

static const int PLACE_THREADS = 1024, PLACE_WARPS = PLACE_THREADS / WARP, ENTER_THREADS = 256;

// A Deal (kernels/deal.h) in the device's hands.
typedef struct DeviceDeal {
    int32_t first_ranks, large, small;
} DeviceDeal;
__device__ static inline int32_t count_of(DeviceDeal deal, int32_t rank) {
    return rank < deal.first_ranks ? deal.large : deal.small;
}
__device__ static inline int32_t first_of(DeviceDeal deal, int32_t rank) {
    int32_t large = rank < deal.first_ranks ? rank : deal.first_ranks;
    return large * deal.large + (rank - large) * deal.small;
}
__device__ static inline int32_t owner_of(DeviceDeal deal, int32_t piece) {
    int32_t large = deal.first_ranks * deal.large;
    return piece < large ? piece / deal.large : deal.first_ranks + (piece - large) / deal.small;
}
static DeviceDeal device_deal(Deal deal) {
    return {(int32_t)deal.first_ranks, (int32_t)deal.large, (int32_t)deal.small};
}

typedef struct ExchangeShape {
    DeviceDeal experts, shards;
    int32_t ep, local, S;          // ranks; this rank's experts and shards
    int32_t chunks, chunk_experts; // chunks · chunk_experts = local
    int32_t parts, part_shards;    // parts · part_shards = the shards of all
} ExchangeShape;

// Of a source rank and one expert of this rank: how many rows of each shard.
__device__ static inline const int32_t *counts_from(const int32_t *all_counts, ExchangeShape s,
                                                    int32_t source, int32_t e) {
    return all_counts + (int64_t)s.local * first_of(s.shards, source) +
           (int64_t)e * count_of(s.shards, source);
}

// First rows of the segments; behind the last one the number of rows.
typedef struct SegmentRows {
    int64_t *expert, *received; // (E + 1) each, in their own order
} SegmentRows;

// Rows of one segment.
__device__ static inline int64_t segment_rows(const int32_t *all_counts, ExchangeShape s,
                                              int32_t source, int32_t e) {
    const int32_t *of_shard = counts_from(all_counts, s, source, e);
    int32_t shards = count_of(s.shards, source);
    int64_t rows = 0;
    for (int32_t i = 0; i < shards; i++) rows += of_shard[i];
    return rows;
}

// Block 0 places the segments in expert order, block 1 in received order, and so knows what each
// source sends in each chunk; the warps of the other blocks add up what this rank sends, one warp
// for each (chunk, rank), whose counts lie together. A thread takes one segment at a time; a block
// goes through all of them. Bytes: all_counts twice, counts once.
static __global__ void __launch_bounds__(PLACE_THREADS)
    place_segments(SegmentRows first, int64_t *__restrict__ send_rows,
                   int64_t *__restrict__ receive_rows, const int32_t *__restrict__ counts,
                   const int32_t *__restrict__ all_counts, ExchangeShape s) {
    __shared__ int64_t spare[WARP];
    int32_t segments = s.ep * s.local, transfers = s.chunks * s.ep;
    int32_t thread = (int32_t)threadIdx.x;
    if (blockIdx.x >= 2) {
        int32_t t = ((int32_t)blockIdx.x - 2) * PLACE_WARPS + thread / WARP, lane = thread % WARP;
        if (t >= transfers) return;
        int32_t chunk = t / s.ep, to = t % s.ep, experts = count_of(s.experts, to) / s.chunks;
        int32_t length = experts * s.S;
        const int32_t *of_run = counts + ((int64_t)first_of(s.experts, to) + chunk * experts) * s.S;
        int64_t rows = 0;
        for (int32_t i = lane; i < length; i += WARP) rows += of_run[i];
        rows = warp_sum(rows);
        if (lane == 0) send_rows[t] = rows;
        return;
    }
    bool by_expert = blockIdx.x == 0;
    int64_t *first_row = by_expert ? first.expert : first.received;
    int64_t placed = 0;
    for (int32_t base = 0; base < segments; base += PLACE_THREADS) {
        int32_t i = base + thread, source = i % s.ep, e = i / s.ep;
        if (!by_expert) {
            int32_t run = i / s.chunk_experts;
            source = run % s.ep;
            e = run / s.ep * s.chunk_experts + i % s.chunk_experts;
        }
        int64_t rows = i < segments ? segment_rows(all_counts, s, source, e) : 0, total;
        int64_t row = placed + block_sum_before(rows, spare, &total);
        if (i < segments) first_row[i] = row;
        placed += total;
    }
    if (thread == 0) first_row[segments] = placed;
    if (by_expert) return;
    __syncthreads();
    for (int32_t t = thread; t < transfers; t += PLACE_THREADS)
        receive_rows[t] = first_row[(t + 1) * s.chunk_experts] - first_row[t * s.chunk_experts];
}

// The segment of a row: the last one that begins at or before it. row < first[segments].
__device__ static inline int32_t segment_of(const int64_t *first, int32_t segments, int64_t row) {
    int32_t low = 0, high = segments; // first[low] ≤ row < first[high]
    while (high - low > 1) {
        int32_t middle = (low + high) / 2;
        if (first[middle] <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// A thread a row, of both permutations, and one offset: it finds the row's segment and counts on
// from that segment's first row in the other order. Neighbouring threads write neighbouring rows
// and search in the same cache lines. Bytes: 8 written a row; the first rows (16 a segment) from
// cache.
static __global__ void __launch_bounds__(ENTER_THREADS)
    enter_rows(int32_t *__restrict__ to_expert, int32_t *__restrict__ to_received,
               int64_t *__restrict__ offsets, SegmentRows first,
               const int32_t *__restrict__ all_counts, ExchangeShape s, int64_t max_rows) {
    int64_t i = (int64_t)blockIdx.x * ENTER_THREADS + threadIdx.x;
    int32_t segments = s.ep * s.local;
    int64_t rows = first.expert[segments];
    if (i < max_rows) {
        int64_t received = -1, expert = -1;
        if (i < rows) {
            int32_t g = segment_of(first.expert, segments, i), e = g / s.ep, source = g % s.ep;
            int32_t h = (e / s.chunk_experts * s.ep + source) * s.chunk_experts;
            h += e % s.chunk_experts;
            received = first.received[h] + (i - first.expert[g]);

            h = segment_of(first.received, segments, i);
            source = h / s.chunk_experts % s.ep;
            e = h / s.chunk_experts / s.ep * s.chunk_experts + h % s.chunk_experts;
            expert = first.expert[e * s.ep + source] + (i - first.received[h]);
        }
        to_expert[i] = received < max_rows ? (int32_t)received : -1;
        to_received[i] = expert < max_rows ? (int32_t)expert : -1;
    }
    int64_t last = (int64_t)s.local * s.parts;
    if (i > last) return;
    if (i == last) {
        offsets[i] = rows;
        return;
    }
    // A part begins at a shard of a source: that segment's first row and the shards before.
    int32_t e = (int32_t)i / s.parts, shard = (int32_t)i % s.parts * s.part_shards;
    int32_t source = owner_of(s.shards, shard), before = shard - first_of(s.shards, source);
    int64_t row = first.expert[e * s.ep + source];
    const int32_t *of_shard = counts_from(all_counts, s, source, e);
    for (int32_t j = 0; j < before; j++) row += of_shard[j];
    offsets[i] = row;
}

static ExchangeShape shape_of(ExchangeCut cut, int64_t chunks, int64_t parts) {
    int64_t local = deal_count(cut.experts, cut.rank), shards = deal_first(cut.shards, cut.ranks);
    CHECK(cut.ranks * local < INT32_MAX && local * parts < INT32_MAX && shards < INT32_MAX,
          "%lld experts in %lld parts cannot be numbered by 31 bits",
          (long long)(cut.ranks * local), (long long)parts);
    ExchangeShape s = {device_deal(cut.experts),
                       device_deal(cut.shards),
                       (int32_t)cut.ranks,
                       (int32_t)local,
                       (int32_t)deal_count(cut.shards, cut.rank),
                       (int32_t)chunks,
                       (int32_t)(local / chunks),
                       (int32_t)parts,
                       (int32_t)(shards / parts)};
    return s;
}

extern "C" void exchange_plan_cuda(Device *dev, ExchangePlan plan, Tensor counts, Tensor all_counts,
                                   ExchangeCut cut, int64_t parts) {
    int64_t ep = cut.ranks, local = deal_count(cut.experts, cut.rank);
    int64_t chunks = plan.send_rows.shape[0], max_rows = plan.to_expert.shape[0];
    CHECK(max_rows <= INT32_MAX, "%lld rows cannot be numbered by 31 bits", (long long)max_rows);
    ExchangeShape s = shape_of(cut, chunks, parts);
    int64_t segments = ep * local;
    SegmentRows first;
    first.expert =
        static_cast<int64_t *>(cuda_workspace(dev, (size_t)(2 * (segments + 1)) * sizeof(int64_t)));
    first.received = first.expert + segments + 1;
    const int32_t *count = device_data<int32_t>(all_counts);
    launch(dev, place_segments, grid_of(2 + ceil_div(chunks * ep, PLACE_WARPS)),
           dim3(PLACE_THREADS), 0, first, device_data<int64_t>(plan.send_rows),
           device_data<int64_t>(plan.receive_rows), device_data<int32_t>(counts), count, s);
    int64_t offsets = local * parts + 1, longest = max_rows > offsets ? max_rows : offsets;
    launch(dev, enter_rows, grid_of(ceil_div(longest, ENTER_THREADS)), dim3(ENTER_THREADS), 0,
           device_data<int32_t>(plan.to_expert), device_data<int32_t>(plan.to_received),
           device_data<int64_t>(plan.offsets), first, count, s, max_rows);
}

// A block an expert and a shard of the group: its threads add the rows of the expert's shards
// before, then number its own. Bytes: 8 written a row; the counts from cache.
static __global__ void __launch_bounds__(ENTER_THREADS)
    number_rows(int64_t *__restrict__ numbers, const int64_t *__restrict__ offsets,
                const int32_t *__restrict__ all_counts, const int32_t *__restrict__ experts,
                ExchangeShape s, RowNumbering rule, int64_t room) {
    __shared__ int64_t spare[WARP];
    int32_t shards = first_of(s.shards, s.ep);
    int32_t e = (int32_t)blockIdx.x / shards, own = (int32_t)blockIdx.x % shards;
    int64_t before = 0;
    for (int32_t j = (int32_t)threadIdx.x; j < own; j += ENTER_THREADS) {
        int32_t source = owner_of(s.shards, j);
        before += counts_from(all_counts, s, source, e)[j - first_of(s.shards, source)];
    }
    before = block_sum(before, spare);
    int64_t first = offsets[e * s.parts] + before;
    int32_t source = owner_of(s.shards, own);
    int32_t rows = counts_from(all_counts, s, source, e)[own - first_of(s.shards, source)];
    int64_t run = experts[e] * rule.shards + rule.first_shard + own;
    for (int32_t i = (int32_t)threadIdx.x; i < rows; i += ENTER_THREADS)
        if (first + i < room) numbers[first + i] = run * rule.most + i;
}

extern "C" void expert_row_numbers_cuda(Device *dev, Tensor numbers, Tensor offsets,
                                        Tensor all_counts, Tensor experts, ExchangeCut cut,
                                        RowNumbering rule) {
    int64_t local = deal_count(cut.experts, cut.rank), shards = deal_first(cut.shards, cut.ranks);
    launch(dev, number_rows, grid_of(local * shards), dim3(ENTER_THREADS), 0,
           device_data<int64_t>(numbers), device_data<int64_t>(offsets),
           device_data<int32_t>(all_counts),
           device_data<int32_t>(experts) + deal_first(cut.experts, cut.rank),
           shape_of(cut, 1, (offsets.shape[0] - 1) / local), rule, numbers.shape[0]);
}
