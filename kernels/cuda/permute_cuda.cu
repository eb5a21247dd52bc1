// Permutation, dispatch and combine: a stable counting sort of choices, and the row copies and
// weighted sums on its result.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/cuda/storage.cuh"

// ---- plan ---------------------------------------------------------------------------------------
//
// The rows are the choices sorted by (expert, part), stable in (token, slot): a radix sort with a
// single digit. Choices are cut into chunks that do not cross parts, so that a run (expert, part)
// is the same expert's choices of the part's chunks, one chunk after the other:
//   count_choices   a block a chunk: how many choices it keeps for each expert
//   chunk_rows (E, parts, chunks of a part)
//   number_chunks   a few lanes a run: sums over the chunks before each one, and counts (E, parts)
//   number_runs     one block: first row of each run (only without `padded_rows`)
//   deal_rows       a block a chunk: the rows of its choices; and what is left of row_choice
// Integers only; atomics count, in any order with the same result.

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
                  const uint8_t *__restrict__ kept, ChunkCut cut, int32_t E) {
    __shared__ int32_t count[TILE_EXPERTS];
    int32_t first_expert = (int32_t)blockIdx.y * TILE_EXPERTS, begin, end;
    int32_t experts = min(E - first_expert, (int32_t)TILE_EXPERTS);
    chunk_range(cut, &begin, &end);
    for (int32_t i = (int32_t)threadIdx.x; i < experts; i += PLAN_THREADS) count[i] = 0;
    __syncthreads();
    for (int32_t c = begin + (int32_t)threadIdx.x; c < end; c += PLAN_THREADS) {
        int32_t i = ids[c] - first_expert;
        if (kept[c] && i >= 0 && i < experts) atomicAdd(&count[i], 1);
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
// choice beyond `padded_rows`, which the caller must not have, gets no row. Five blocks on a
// multiprocessor leave 48 registers a thread; for six a register would be missing.
static __global__ void __launch_bounds__(PLAN_THREADS, 5)
    deal_rows(RowPlan plan, const int32_t *__restrict__ ids, const uint8_t *__restrict__ kept,
              ChunkCut cut, int32_t E) {
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
            int32_t of_tile = ids[c] - first_expert;
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
        if (row >= 0) plan.row_choice[row] = c;
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
                                      Tensor counts, Tensor ids, Tensor kept, int64_t parts,
                                      int64_t padded_rows) {
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
    dim3 grid((unsigned)chunks, (unsigned)ceil_div(E, TILE_EXPERTS));
    launch(dev, count_choices, grid, dim3(PLAN_THREADS), 0, chunk_rows, id, keep, cut, E);
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
           keep, cut, E);
}

// ---- rows ---------------------------------------------------------------------------------------

static const int ROW_THREADS = 256;
static const int PIECES_PER_THREAD = 4; // loads of a thread under way at once
// Choices of a token that are read at once. A power of two that covers K of 8 in two rounds.
static const int SLOTS = 4;
// Blocks of combine_rows on a multiprocessor, with 64 registers a thread: rows under way count for
// more than threads.
static const int COMBINE_BLOCKS = 4;

// A block of ROW_THREADS in which `x` threads share a row, so that each has `each` of its pieces or
// the block is one row.
static dim3 block_of_rows(int64_t pieces, int64_t each, int64_t least) {
    int64_t x = least;
    while (x < ROW_THREADS && x * each < pieces) x *= 2;
    return dim3((unsigned)x, (unsigned)(ROW_THREADS / x));
}

// blockDim.x threads copy a row of `pieces` P, each up to four pieces at a time; blockDim.y rows a
// block. Bytes: each row once in and out; a token's row that K choices share comes from L2 but the
// first time. Copies only: no rounding, nothing to order.
template <typename P>
static __global__ void __launch_bounds__(ROW_THREADS)
    gather_pieces(P *__restrict__ out, const P *__restrict__ x, const int32_t *__restrict__ index,
                  int64_t rows, int64_t pieces, int32_t divisor) {
    int64_t r = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    int32_t at = index[r];
    const P *from = x + (int64_t)(at / divisor) * pieces;
    P *to = out + r * pieces;
    for (int64_t first = threadIdx.x; first < pieces;
         first += (int64_t)blockDim.x * PIECES_PER_THREAD) {
        P piece[PIECES_PER_THREAD];
#pragma unroll
        for (int i = 0; i < PIECES_PER_THREAD; i++) {
            int64_t p = first + (int64_t)i * blockDim.x;
            piece[i] = P();
            if (at >= 0 && p < pieces) piece[i] = from[p];
        }
#pragma unroll
        for (int i = 0; i < PIECES_PER_THREAD; i++) {
            int64_t p = first + (int64_t)i * blockDim.x;
            if (p < pieces) to[p] = piece[i];
        }
    }
}

template <typename P>
static void gather(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows, int64_t divisor) {
    int64_t pieces =
        x.shape[1] * (int64_t)dtype_bytes(x.dtype) / (int64_t)sizeof(P); // whole: see the caller
    dim3 block = block_of_rows(pieces, PIECES_PER_THREAD, 8);
    launch(dev, gather_pieces<P>, grid_of(ceil_div(rows, block.y)), block, 0,
           static_cast<P *>(out.data), static_cast<const P *>(x.data), device_data<int32_t>(index),
           rows, pieces, divisor);
}

template <typename T>
static void gather_stored(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows,
                          int64_t divisor) {
    T *to = device_data<T>(out), *from = device_data<T>(x);
    if (rows_are_vectors<T>(to, x.shape[1]) && rows_are_vectors<T>(from, x.shape[1])) {
        gather<uint4>(dev, out, x, index, rows, divisor);
    } else {
        gather<T>(dev, out, x, index, rows, divisor);
    }
}

extern "C" void gather_rows_cuda(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows,
                                 int64_t divisor) {
    // No choice has a number beyond 31 bits: what divides more divides them all to 0.
    if (divisor > INT32_MAX) divisor = INT32_MAX;
    if (x.dtype == BF16) {
        gather_stored<bf16>(dev, out, x, index, rows, divisor);
    } else {
        gather_stored<float>(dev, out, x, index, rows, divisor);
    }
}

// COUNT elements of a row as f32: a whole vector, or one.
template <typename T, int COUNT>
__device__ static inline void load_piece(float *to, const T *from) {
    if constexpr (COUNT == 1) {
        to[0] = to_float(from[0]);
    } else {
        load_vector(to, from);
    }
}
template <typename T, int COUNT>
__device__ static inline void store_piece(T *to, const float *from) {
    if constexpr (COUNT == 1) {
        to[0] = from_float<T>(from[0]);
    } else {
        store_vector(to, from);
    }
}

// blockDim.x threads make a token's row, each COUNT columns at a time, in f32 registers; blockDim.y
// tokens a block. Four choices' rows are read at once and added in slot order, from 0 (dropped ones
// as zeros): the order depends on nothing else. Bytes: each kept choice's row once in, each token's
// row once out: the minimum.
template <typename T, int COUNT>
static __global__ void __launch_bounds__(ROW_THREADS, COMBINE_BLOCKS)
    combine_rows(T *__restrict__ out, const T *__restrict__ y, const int32_t *__restrict__ slot_row,
                 const float *__restrict__ weights, int64_t N, int64_t D, int32_t K) {
    int64_t n = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    for (int64_t d = (int64_t)threadIdx.x * COUNT; d < D; d += (int64_t)blockDim.x * COUNT) {
        float sum[COUNT] = {};
        for (int32_t first = 0; first < K; first += SLOTS) {
            // Indices, then rows, then sums, the sums without a branch: each kind of load is under
            // way four times.
            float part[SLOTS][COUNT] = {}, weight[SLOTS] = {};
            int32_t row[SLOTS];
#pragma unroll
            for (int i = 0; i < SLOTS; i++) {
                row[i] = first + i < K ? slot_row[n * K + first + i] : -1;
                if (row[i] >= 0) weight[i] = weights ? weights[n * K + first + i] : 1.0f;
            }
#pragma unroll
            for (int i = 0; i < SLOTS; i++)
                if (row[i] >= 0) load_piece<T, COUNT>(part[i], y + row[i] * D + d);
#pragma unroll
            for (int i = 0; i < SLOTS; i++) {
#pragma unroll
                for (int j = 0; j < COUNT; j++) sum[j] += weight[i] * part[i][j];
            }
        }
        store_piece<T, COUNT>(out + n * D + d, sum);
    }
}

template <typename T>
static void combine(Device *dev, Tensor out, Tensor y, Tensor slot_row, Tensor weights) {
    int64_t N = out.shape[0], D = out.shape[1], K = slot_row.shape[1];
    T *to = device_data<T>(out), *from = device_data<T>(y);
    const int32_t *row = device_data<int32_t>(slot_row);
    const float *weight = device_data<float>(weights);
    bool vectors = rows_are_vectors<T>(to, D) && rows_are_vectors<T>(from, D);
    dim3 block = block_of_rows(vectors ? D / Vector<T>::COUNT : D, 1, 8);
    launch(dev, vectors ? combine_rows<T, Vector<T>::COUNT> : combine_rows<T, 1>,
           grid_of(ceil_div(N, block.y)), block, 0, to, from, row, weight, N, D, K);
}

extern "C" void combine_forward_cuda(Device *dev, Tensor out, Tensor y, Tensor slot_row,
                                     Tensor weights) {
    if (y.dtype == BF16) {
        combine<bf16>(dev, out, y, slot_row, weights);
    } else {
        combine<float>(dev, out, y, slot_row, weights);
    }
}

// A warp takes a token (blockDim is (32, 8)), or where rows are wide a block does (blockDim is
// (256, 1)). Each thread has the same columns of dout, of the rows of y and of those of dy: it
// reads y before it writes dy there, and no other thread touches them, so dy may be y. Four choices
// at a time share one reading of dout. The products of a dot are added by thread, columns in order,
// then over lanes, then over warps: an order of D alone. Bytes: rows of y once in, rows of dy once
// out, dout once from memory and from L1 for each further four choices.
template <typename T, int COUNT>
static __global__ void __launch_bounds__(ROW_THREADS)
    combine_backward_rows(T *dy, float *__restrict__ dweights, const T *__restrict__ dout,
                          const T *y, const int32_t *__restrict__ slot_row,
                          const float *__restrict__ weights, int64_t N, int64_t D, int32_t K) {
    __shared__ float of_warp[ROW_THREADS / WARP][SLOTS];
    int64_t n = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return; // a whole warp without a token; a block of wide rows has one
    for (int32_t first = 0; first < K; first += SLOTS) {
        float dot[SLOTS] = {}, weight[SLOTS] = {};
        int32_t row[SLOTS];
#pragma unroll
        for (int i = 0; i < SLOTS; i++) {
            row[i] = first + i < K ? slot_row[n * K + first + i] : -1;
            if (row[i] >= 0) weight[i] = weights[n * K + first + i];
        }
        for (int64_t d = (int64_t)threadIdx.x * COUNT; d < D; d += (int64_t)blockDim.x * COUNT) {
            float dsum[COUNT], part[SLOTS][COUNT] = {};
            load_piece<T, COUNT>(dsum, dout + n * D + d);
#pragma unroll
            for (int i = 0; i < SLOTS; i++)
                if (row[i] >= 0) load_piece<T, COUNT>(part[i], y + row[i] * D + d);
#pragma unroll
            for (int i = 0; i < SLOTS; i++) {
                if (row[i] < 0) continue;
#pragma unroll
                for (int j = 0; j < COUNT; j++) {
                    dot[i] += dsum[j] * part[i][j];
                    part[i][j] = weight[i] * dsum[j];
                }
                store_piece<T, COUNT>(dy + row[i] * D + d, part[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < SLOTS; i++) dot[i] = warp_sum(dot[i]);
        if (blockDim.x > WARP) {
            int warp = threadIdx.x / WARP;
            __syncthreads(); // the sums of the choices before have been read
            if (threadIdx.x % WARP == 0) {
#pragma unroll
                for (int i = 0; i < SLOTS; i++) of_warp[warp][i] = dot[i];
            }
            __syncthreads();
            if (threadIdx.x < SLOTS && first + (int32_t)threadIdx.x < K) {
                float sum = 0.0f;
                for (int w = 0; w < ROW_THREADS / WARP; w++) sum += of_warp[w][threadIdx.x];
                dweights[n * K + first + threadIdx.x] = sum;
            }
        } else if (threadIdx.x == 0) {
#pragma unroll
            for (int i = 0; i < SLOTS; i++)
                if (first + i < K) dweights[n * K + first + i] = dot[i];
        }
    }
}

// The rows of x that no choice names become zeros: blockDim.x threads a row, blockDim.y rows a
// block. Bytes: each such row once out, and 4 a row.
template <typename T, int COUNT>
static __global__ void __launch_bounds__(ROW_THREADS)
    clear_padding(T *x, const int32_t *__restrict__ row_choice, int64_t rows, int64_t D) {
    int64_t r = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows || row_choice[r] >= 0) return;
    const float zeros[COUNT] = {};
    for (int64_t d = (int64_t)threadIdx.x * COUNT; d < D; d += (int64_t)blockDim.x * COUNT)
        store_piece<T, COUNT>(x + r * D + d, zeros);
}

// Pieces of a row that a warp still reads in few rounds; wider rows take a block.
static const int WARP_PIECES = 4 * WARP;

template <typename T>
static void combine_backward_stored(Device *dev, Tensor dy, Tensor dweights, Tensor dout, Tensor y,
                                    Tensor slot_row, Tensor row_choice, Tensor weights) {
    int64_t N = dout.shape[0], D = dout.shape[1], K = slot_row.shape[1];
    T *to = device_data<T>(dy), *from = device_data<T>(y), *gradient = device_data<T>(dout);
    float *dweight = device_data<float>(dweights);
    const float *weight = device_data<float>(weights);
    bool vectors = rows_are_vectors<T>(to, D) && rows_are_vectors<T>(from, D) &&
                   rows_are_vectors<T>(gradient, D);
    bool wide = (vectors ? D / Vector<T>::COUNT : D) > WARP_PIECES;
    dim3 block = wide ? dim3(ROW_THREADS) : dim3(WARP, ROW_THREADS / WARP);
    launch(dev, vectors ? combine_backward_rows<T, Vector<T>::COUNT> : combine_backward_rows<T, 1>,
           grid_of(ceil_div(N, block.y)), block, 0, to, dweight, gradient, from,
           device_data<int32_t>(slot_row), weight, N, D, K);
    if (!row_choice.data) return;
    int64_t rows = row_choice.shape[0];
    launch(dev, vectors ? clear_padding<T, Vector<T>::COUNT> : clear_padding<T, 1>,
           grid_of(ceil_div(rows, block.y)), block, 0, to, device_data<int32_t>(row_choice), rows,
           D);
}

extern "C" void combine_backward_cuda(Device *dev, Tensor dy, Tensor dweights, Tensor dout,
                                      Tensor y, Tensor slot_row, Tensor row_choice,
                                      Tensor weights) {
    if (y.dtype == BF16) {
        combine_backward_stored<bf16>(dev, dy, dweights, dout, y, slot_row, row_choice, weights);
    } else {
        combine_backward_stored<float>(dev, dy, dweights, dout, y, slot_row, row_choice, weights);
    }
}

// ---- weights ------------------------------------------------------------------------------------

// A thread a token, its K weights added in slot order; neighbouring threads' weights share the
// cache lines. Bytes: 9 a choice.
static __global__ void __launch_bounds__(ROW_THREADS)
    renormalize_weights(float *__restrict__ scaled, const float *__restrict__ weights,
                        const uint8_t *__restrict__ kept, int64_t N, int64_t K) {
    int64_t n = (int64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    if (n >= N) return;
    float sum = 0.0f;
    for (int64_t c = n * K; c < (n + 1) * K; c++) sum += kept[c] ? weights[c] : 0.0f;
    for (int64_t c = n * K; c < (n + 1) * K; c++)
        scaled[c] = kept[c] && sum > 0.0f ? weights[c] / sum : 0.0f;
}

extern "C" void renormalize_forward_cuda(Device *dev, Tensor scaled, Tensor weights, Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    launch(dev, renormalize_weights, grid_of(ceil_div(N, ROW_THREADS)), dim3(ROW_THREADS), 0,
           device_data<float>(scaled), device_data<float>(weights), device_data<uint8_t>(kept), N,
           K);
}

// s_k = w_k / Σ w over the kept: dw_k = (ds_k - Σ_j ds_j s_j) / Σ w. A thread a token, in slot
// order. Bytes: 17 a choice.
static __global__ void __launch_bounds__(ROW_THREADS)
    renormalize_gradients(float *__restrict__ gradient, const float *__restrict__ scaled,
                          const float *__restrict__ weights, const uint8_t *__restrict__ kept,
                          int64_t N, int64_t K) {
    int64_t n = (int64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    if (n >= N) return;
    float sum = 0.0f, mean = 0.0f;
    for (int64_t c = n * K; c < (n + 1) * K; c++) {
        sum += kept[c] ? weights[c] : 0.0f;
        mean += kept[c] ? gradient[c] * scaled[c] : 0.0f;
    }
    for (int64_t c = n * K; c < (n + 1) * K; c++)
        gradient[c] = kept[c] && sum > 0.0f ? (gradient[c] - mean) / sum : 0.0f;
}

extern "C" void renormalize_backward_cuda(Device *dev, Tensor dscaled, Tensor scaled,
                                          Tensor weights, Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    launch(dev, renormalize_gradients, grid_of(ceil_div(N, ROW_THREADS)), dim3(ROW_THREADS), 0,
           device_data<float>(dscaled), device_data<float>(scaled), device_data<float>(weights),
           device_data<uint8_t>(kept), N, K);
}
