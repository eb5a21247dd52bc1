// Permutation: a stable counting sort of choices.
//
// The rows are the choices sorted by (expert, part), stable in (token, slot), where an expert's
// number is that of its place: a radix sort with a single digit. Choices are cut into chunks that
// do not cross parts, so that a run (expert, part) is the same expert's choices of the part's
// chunks, one chunk after the other:
//   count_choices   a block a chunk: how many choices it keeps for each expert
//   chunk_rows (E, parts, chunks of a part)
//   number_chunks   a few lanes a run: sums over the chunks before each one, and counts (E, parts)
//   number_runs     one block: first row of each run (only without `padded_rows`)
//   deal_rows       a block a chunk: the rows of its choices; and what is left of row_choice
// Integers only; atomics count, in any order with the same result.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/cuda/storage.cuh"

static const int PLAN_THREADS = 256, PLAN_WARPS = PLAN_THREADS / WARP;
static const int CHOICES_PER_LANE = 8, WARP_CHOICES = CHOICES_PER_LANE * WARP;
static const int CHUNK_CHOICES = PLAN_WARPS * WARP_CHOICES;
// Experts whose counters a block holds: 32 KiB with one each for its eight warps. More experts take
// more blocks a chunk (gridDim.y), each for its own ones.
static const int TILE_EXPERTS = 1024;
static const int SCAN_THREADS = 1024, RUNS_PER_THREAD = 8;

typedef struct ChunkCut {
    int32_t parts, per_part;     // choices in a part
    int32_t part_chunks, chunks; // chunks in a part, at least one; in all
} ChunkCut;

// The choices [begin, end) of this block's chunk.
__device__ static inline void chunk_range(ChunkCut cut, int32_t *begin, int32_t *end) {
    int32_t part = (int32_t)blockIdx.x / cut.part_chunks, first = part * cut.per_part;
    *begin = first + (int32_t)blockIdx.x % cut.part_chunks * CHUNK_CHOICES;
    *end = min(*begin + CHUNK_CHOICES, first + cut.per_part);
}

// A block counts one chunk for up to TILE_EXPERTS experts in shared memory; consecutive threads
// read consecutive choices. Bytes: 5 a choice, 4 for each (expert, chunk).
static __global__ void __launch_bounds__(PLAN_THREADS)
    count_choices(int32_t *chunk_rows, const int32_t *__restrict__ ids,
                  const uint8_t *__restrict__ kept, const int32_t *__restrict__ places,
                  ChunkCut cut, int32_t E) {
    __shared__ int32_t count[TILE_EXPERTS];
    int32_t first_expert = (int32_t)blockIdx.y * TILE_EXPERTS, begin, end;
    int32_t experts = min(E - first_expert, (int32_t)TILE_EXPERTS);
    chunk_range(cut, &begin, &end);
    for (int32_t i = (int32_t)threadIdx.x; i < experts; i += PLAN_THREADS) count[i] = 0;
    __syncthreads();
    for (int32_t c = begin + (int32_t)threadIdx.x; c < end; c += PLAN_THREADS) {
        if (!kept[c]) continue;
        int32_t i = places[ids[c]] - first_expert;
        if (i >= 0 && i < experts) atomicAdd(&count[i], 1);
    }
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < experts; i += PLAN_THREADS)
        chunk_rows[(int64_t)(first_expert + i) * cut.chunks + blockIdx.x] = count[i];
}

// `lanes` neighbouring lanes take a run and turn its counts by chunk into sums over the chunks
// before; the whole is the run's count. Bytes: chunk_rows read and written once.
static __global__ void __launch_bounds__(PLAN_THREADS)
    number_chunks(int32_t *chunk_rows, int32_t *counts, int64_t runs, int32_t part_chunks,
                  int32_t lanes) {
    int64_t run = ((int64_t)blockIdx.x * PLAN_THREADS + threadIdx.x) / lanes;
    int32_t lane = (int32_t)threadIdx.x % lanes, before = 0;
    int32_t *of_chunk = chunk_rows + run * part_chunks;
    for (int32_t first = 0; first < part_chunks; first += lanes) { // the whole warp: shuffles
        bool inside = run < runs && first + lane < part_chunks;
        int32_t rows = inside ? of_chunk[first + lane] : 0;
        int32_t sum = lanes_running_sum(rows, lanes);
        if (inside) of_chunk[first + lane] = before + sum - rows;
        before += __shfl_sync(ALL_LANES, sum, lanes - 1, lanes);
    }
    if (run < runs && lane == 0) counts[run] = before;
}

// One block: the first row of each run, and behind the last run the number of rows. A thread takes
// RUNS_PER_THREAD neighbouring runs at a time. Bytes: 8 a run; there are only E·parts of them.
static __global__ void __launch_bounds__(SCAN_THREADS)
    number_runs(int32_t *first_row, const int32_t *__restrict__ counts, int64_t runs) {
    __shared__ int32_t spare[WARP];
    int32_t rows = 0;
    for (int64_t base = 0; base < runs; base += SCAN_THREADS * RUNS_PER_THREAD) {
        int64_t first = base + (int64_t)threadIdx.x * RUNS_PER_THREAD;
        int32_t count[RUNS_PER_THREAD], sum = 0, total;
#pragma unroll
        for (int i = 0; i < RUNS_PER_THREAD; i++) {
            count[i] = first + i < runs ? counts[first + i] : 0;
            sum += count[i];
        }
        int32_t row = rows + block_sum_before(sum, spare, &total);
#pragma unroll
        for (int i = 0; i < RUNS_PER_THREAD; i++) {
            if (first + i < runs) first_row[first + i] = row;
            row += count[i];
        }
        rows += total;
    }
    if (threadIdx.x == 0) first_row[runs] = rows;
}

// What deal_rows knows of a choice that gets no row from this block: that it was dropped, which the
// first tile's block writes down; or that it is another tile's, or no choice at all.
static const int DROPPED = -1, NOT_MINE = -2;

typedef struct RowPlan {
    int32_t *slot_row, *row_choice;
    const int32_t *chunk_rows; // of number_chunks
    const int32_t *first_row;  // of number_runs; not read with padded_rows
    const int32_t *counts;
    int32_t padded_rows, rows; // rows of row_choice
} RowPlan;

// A block deals out the rows of one chunk. Each of its warps has WARP_CHOICES neighbouring choices
// and an own counter for each expert: first the warps count, then the counts become the first row
// of (expert, warp), then each warp takes its choices 32 at a time, in which lanes with the same
// expert find each other by match. Lanes below come first: the order is that of the choices. The
// choices of a run in a chunk lie together in row_choice. Bytes: 5 read and 8 written a choice. A
// choice beyond `padded_rows` or all rows, which the caller must not have, gets none. Five blocks
// on a multiprocessor leave 48 registers a thread; for six a register would be missing.
static __global__ void __launch_bounds__(PLAN_THREADS, 5)
    deal_rows(RowPlan plan, const int32_t *__restrict__ ids, const uint8_t *__restrict__ kept,
              const int32_t *__restrict__ places, ChunkCut cut, int32_t E) {
    DYNAMIC_SHARED(int32_t, next_row); // (PLAN_WARPS, experts)
    int32_t first_expert = (int32_t)blockIdx.y * TILE_EXPERTS, begin, end;
    int32_t experts = min(E - first_expert, (int32_t)TILE_EXPERTS);
    int32_t part = (int32_t)blockIdx.x / cut.part_chunks;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int32_t *mine = next_row + warp * experts;
    chunk_range(cut, &begin, &end);
    for (int32_t i = (int32_t)threadIdx.x; i < PLAN_WARPS * experts; i += PLAN_THREADS)
        next_row[i] = 0;
    __syncthreads();

    int32_t first = begin + warp * WARP_CHOICES + lane;
    int32_t expert[CHOICES_PER_LANE]; // within the tile, or DROPPED or NOT_MINE
#pragma unroll
    for (int i = 0; i < CHOICES_PER_LANE; i++) {
        int32_t c = first + i * WARP;
        expert[i] = NOT_MINE;
        if (c >= end) continue;
        if (kept[c]) {
            int32_t of_tile = places[ids[c]] - first_expert;
            if (of_tile >= 0 && of_tile < experts) expert[i] = of_tile;
        } else if (blockIdx.y == 0) {
            expert[i] = DROPPED;
        }
        if (expert[i] >= 0) atomicAdd(&mine[expert[i]], 1);
    }
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < experts; i += PLAN_THREADS) {
        int32_t run = (first_expert + i) * cut.parts + part;
        int32_t row = plan.padded_rows < 0 ? plan.first_row[run] : run * plan.padded_rows;
        row += plan.chunk_rows[(int64_t)(first_expert + i) * cut.chunks + blockIdx.x];
        for (int w = 0; w < PLAN_WARPS; w++) {
            int32_t count = next_row[w * experts + i];
            next_row[w * experts + i] = row;
            row += count;
        }
    }
    __syncthreads();

#pragma unroll
    for (int i = 0; i < CHOICES_PER_LANE; i++) {
        int32_t c = first + i * WARP, row = -1;
        unsigned peers = __match_any_sync(ALL_LANES, expert[i]);
        int before = __popc(peers & ((1u << lane) - 1u));
        if (expert[i] >= 0) row = mine[expert[i]] + before;
        __syncwarp();
        if (expert[i] >= 0 && before == 0) mine[expert[i]] = row + __popc(peers);
        __syncwarp();
        if (plan.padded_rows >= 0 && expert[i] >= 0) {
            int32_t run = (first_expert + expert[i]) * cut.parts + part;
            if (row - run * plan.padded_rows >= plan.padded_rows) row = -1;
        }
        if (row >= 0 && row < plan.rows) plan.row_choice[row] = c;
        if (expert[i] != NOT_MINE) plan.slot_row[c] = row;
    }

    if (blockIdx.y > 0) return;
    for (int64_t r = (int64_t)blockIdx.x * PLAN_THREADS + threadIdx.x; r < plan.rows;
         r += (int64_t)gridDim.x * PLAN_THREADS) {
        bool used = plan.padded_rows < 0 ? r < plan.first_row[(int64_t)E * cut.parts]
                                         : (int32_t)r % plan.padded_rows <
                                               plan.counts[(int32_t)r / plan.padded_rows];
        if (!used) plan.row_choice[r] = -1;
    }
}

extern "C" void permutation_plan_cuda(Device *dev, Tensor slot_row, Tensor row_choice,
                                      Tensor counts, Tensor ids, Tensor kept, Tensor places,
                                      int64_t parts, int64_t padded_rows) {
    int64_t choices = tensor_elements(ids), E = counts.shape[0], runs = E * parts;
    int64_t per_part = choices / parts, part_chunks = ceil_div(per_part, CHUNK_CHOICES);
    if (part_chunks == 0) part_chunks = 1; // counts and row_choice are written without tokens, too
    int64_t chunks = parts * part_chunks, rows = row_choice.shape[0];
    CHECK(choices <= INT32_MAX - CHUNK_CHOICES && rows <= INT32_MAX,
          "%lld choices and %lld rows to number, about %d of each can be", (long long)choices,
          (long long)rows, INT32_MAX);
    ChunkCut cut = {(int32_t)parts, (int32_t)per_part, (int32_t)part_chunks, (int32_t)chunks};

    int32_t *chunk_rows = static_cast<int32_t *>(
        cuda_workspace(dev, (size_t)(E * chunks + runs + 1) * sizeof(int32_t)));
    int32_t *first_row = chunk_rows + E * chunks;
    int32_t *count = device_data<int32_t>(counts);
    const int32_t *id = device_data<int32_t>(ids);
    const uint8_t *keep = device_data<uint8_t>(kept);
    const int32_t *place = device_data<int32_t>(places);
    dim3 grid((unsigned)chunks, (unsigned)ceil_div(E, TILE_EXPERTS));
    launch(dev, count_choices, grid, dim3(PLAN_THREADS), 0, chunk_rows, id, keep, place, cut, E);
    int64_t lanes = 1;
    while (lanes < WARP && lanes < part_chunks) lanes *= 2;
    launch(dev, number_chunks, grid_of(ceil_div(runs * lanes, PLAN_THREADS)), dim3(PLAN_THREADS), 0,
           chunk_rows, count, runs, part_chunks, lanes);
    if (padded_rows < 0)
        launch(dev, number_runs, dim3(1), dim3(SCAN_THREADS), 0, first_row, count, runs);
    RowPlan plan = {device_data<int32_t>(slot_row),
                    device_data<int32_t>(row_choice),
                    chunk_rows,
                    first_row,
                    count,
                    (int32_t)padded_rows,
                    (int32_t)rows};
    size_t tile = (size_t)(E < TILE_EXPERTS ? E : (int64_t)TILE_EXPERTS);
    launch(dev, deal_rows, grid, dim3(PLAN_THREADS), PLAN_WARPS * tile * sizeof(int32_t), plan, id,
           keep, place, cut, E);
}
