// Matrix products of our own: all experts in one launch, with bits that no neighbour changes.
//
// cuBLAS promises the same bits for the same call, but a training run on 2 ranks and on 4 makes
// different calls: other rows, other segments. Here an element of the result is one sum, in one
// order, whatever the call:
//
//   - One thread (f32) or one warp's tensor core instructions (bf16) add it up, along the summed
//     dimension from 0 to the end
//     of the segment, in steps of one fused multiply-add (f32) or of one m16n8k16 instruction
//       (bf16). It is never split.
//   - Steps past the end multiply zeros, which changes no sum.
//   - The two tile sizes, and the two ways of loading a tile, differ in who does this, not in what
//     is done: the same
//     instructions follow each other for an element. So the choice between them may follow the
//       number of rows. This rests on
//     an m16n8k16 instruction treating all its rows and columns alike, as any use of it by a row at
//       another place of a
//     segment does. tests/kernels/check_matmul.c compares the bits.
//
// A block computes tiles of SIDE by SIDE elements with 2 SIDE threads. Panels of a and b, SIDE by
// 64 bytes of the summed dimension, come through a ring of STAGES in shared memory by cp.async, so
// that loads of the next ones run under the arithmetic. A panel lies in shared memory as it lies in
// memory:
//
//   summed dimension innermost (x, w of y = x wᵀ)
//   SIDE lines of 64 bytes, each followed by 16 unused
//   summed dimension outermost (w of dx = dy w, …)
//   64 / sizeof(T) lines of SIDE elements, followed by 16 unused bytes
//
// The 16 bytes put the eight rows that ldmatrix reads (80 or 272 bytes apart) into different banks.
// Of memory a tile reads 2 SIDE depth elements for SIDE² depth multiply-adds: at SIDE 128 in bf16,
// 32 of them a byte, enough for tensor cores only because neighbouring tiles meet in the L2 cache;
// therefore tiles of one segment follow each other, columns first.
//
// Long because both products share tiles, staging and their order of sums, which are read together.
#include "kernels/cuda/grouped_matmul.h"

#include "kernels/cuda/product_tile.cuh"

enum { STAGES = 4, PANEL_BYTES = 64, WARP_COLUMNS = 32 };
enum { LARGE = 128, SMALL = 64 }; // SIDE of a tile
template <int SIDE> struct Block {
    static const int THREADS = 2 * SIDE;
    // On a multiprocessor at least; bounds registers to 128 a thread of large tiles and 168 of
    // small ones.
    static const int RESIDENT = SIDE == LARGE ? 2 : 3;
    static const int SUMS = SIDE * SIDE / THREADS; // of one thread
};

template <typename T, int SIDE, bool INNERMOST> struct Panel {
    static const int DEPTH = PANEL_BYTES / (int)sizeof(T);
    static const int LINES = INNERMOST ? SIDE : DEPTH;
    static const int LENGTH = INNERMOST ? DEPTH : SIDE;
    static const int STRIDE = LENGTH + Vector<T>::COUNT;
    static const int ELEMENTS = LINES * STRIDE;
};

// The lines of a matrix that a tile needs: `count` of them from `data` on.
template <typename T> struct Lines {
    const T *data;
    int width;
    int count;
};

template <typename T>
__device__ static inline Lines<T> lines_of(const T *data, int64_t width, int64_t left, int side) {
    Lines<T> lines = {data, (int)width, (int)(left < side ? left : side)};
    return lines;
}

// ---- panels -------------------------------------------------------------------------------------

// Starts copying the panel from `depth` first on; what lies outside the matrix becomes zeros. Each
// thread copies two vectors.
template <typename T, int SIDE, bool INNERMOST, bool VECTORS>
__device__ static inline void load_panel(T *panel, Lines<T> lines, int first, int depth) {
    typedef Panel<T, SIDE, INNERMOST> P;
    const int COUNT = Vector<T>::COUNT, PER_LINE = P::LENGTH / COUNT;
#pragma unroll
    for (int i = 0; i < P::LINES * PER_LINE / Block<SIDE>::THREADS; i++) {
        int vector = (int)threadIdx.x + i * Block<SIDE>::THREADS;
        int line = vector / PER_LINE, at = vector % PER_LINE * COUNT;
        T *to = panel + line * P::STRIDE + at;
        int side = INNERMOST ? line : at;
        int d = first + (INNERMOST ? at : line);
        const T *from =
            lines.data + (int64_t)(INNERMOST ? side : d) * lines.width + (INNERMOST ? d : side);
        if (VECTORS) {
            bool inside = side < lines.count && d < depth;
            cp_async_16(to, from, inside);
        } else {
#pragma unroll
            for (int j = 0; j < COUNT; j++) {
                bool inside = INNERMOST ? side < lines.count && d + j < depth
                                        : side + j < lines.count && d < depth;
                to[j] = inside ? from[j] : from_float<T>(0.0f);
            }
        }
    }
}

// Where a thread's sums lie in the tile. bf16: a warp owns SIDE/2 rows by 32 columns, in tiles of
// the instruction; f32: a thread owns SIDE/16 by 8 elements, along an innermost panel at distances
// that spread over the banks, along an outermost one in fours that are loaded together.
template <int SIDE> __device__ static inline int warp_first_row() {
    int warp = (int)threadIdx.x / WARP;
    return warp / (SIDE / WARP_COLUMNS) * (SIDE / 2);
}
template <int SIDE> __device__ static inline int warp_first_column() {
    int warp = (int)threadIdx.x / WARP;
    return warp % (SIDE / WARP_COLUMNS) * WARP_COLUMNS;
}
enum { THREAD_COLUMNS = 8 };
template <int SIDE> __device__ static inline int thread_row() { // of 16
    return (int)threadIdx.x / (SIDE / THREAD_COLUMNS);
}
template <int SIDE> __device__ static inline int thread_column() { // of SIDE / 8
    return (int)threadIdx.x % (SIDE / THREAD_COLUMNS);
}
// The i-th of `each` lines of the t-th of `threads` threads.
template <bool INNERMOST> __device__ static inline int line_of(int t, int threads, int i) {
    return INNERMOST ? t + threads * i : i / 4 * 4 * threads + 4 * t + i % 4;
}

// sums += one stage's product, bf16: per 16 of depth SIDE/32 + 2 ldmatrix for SIDE/8 instructions
// of the tensor core.
template <int SIDE, bool A_INNERMOST, bool B_INNERMOST>
__device__ static inline void multiply_stage(float *sums, const bf16 *a, const bf16 *b) {
    typedef Panel<bf16, SIDE, A_INNERMOST> A;
    typedef Panel<bf16, SIDE, B_INNERMOST> B;
    const int lane = (int)threadIdx.x % WARP, line = lane % 8;
    const int low = lane / 8 % 2 * 8, high = lane / 16 * 8; // this lane's matrix among the four
    const int row = warp_first_row<SIDE>(), column = warp_first_column<SIDE>();
#pragma unroll
    for (int k = 0; k < A::DEPTH; k += 16) {
        uint32_t b_tiles[2][4]; // each two tiles of 8 columns
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int n = column + 16 * j + high;
            if (B_INNERMOST)
                ldmatrix_x4(b_tiles[j], b + (n + line) * B::STRIDE + k + low);
            else
                ldmatrix_x4_transposed(b_tiles[j], b + (k + low + line) * B::STRIDE + n);
        }
#pragma unroll
        for (int i = 0; i < SIDE / 32; i++) {
            uint32_t a_tile[4];
            int m = row + 16 * i + low;
            if (A_INNERMOST)
                ldmatrix_x4(a_tile, a + (m + line) * A::STRIDE + k + high);
            else
                ldmatrix_x4_transposed(a_tile, a + (k + high + line) * A::STRIDE + m);
#pragma unroll
            for (int j = 0; j < 4; j++)
                mma_bf16_m16n8k16(sums + (i * 4 + j) * 4, a_tile, b_tiles[j / 2] + j % 2 * 2);
        }
    }
}

// Some of depth of four of a thread's lines: to[i][d] of the (first + i)-th line, depth k + d.
template <int SIDE, bool INNERMOST, int DEEP>
__device__ static inline void load_lines(float (*to)[DEEP], const float *panel, int t, int threads,
                                         int first, int k) {
    typedef Panel<float, SIDE, INNERMOST> P;
#pragma unroll
    for (int i = 0; i < (INNERMOST ? 4 : DEEP); i++) {
        int line = line_of<INNERMOST>(t, threads, INNERMOST ? first + i : first);
        if (!INNERMOST) {
            float four[4];
            load_vector(four, panel + (k + i) * P::STRIDE + line);
#pragma unroll
            for (int j = 0; j < 4; j++) to[j][i] = four[j];
        } else if (DEEP == 4) {
            load_vector(to[i], panel + line * P::STRIDE + k);
        } else {
            float2 two = *reinterpret_cast<const float2 *>(panel + line * P::STRIDE + k);
            to[i][0] = two.x, to[i][1] = two.y;
        }
    }
}

// The same in f32. As deep as 128 registers allow.
template <int SIDE, bool A_INNERMOST, bool B_INNERMOST>
__device__ static inline void multiply_stage(float *sums, const float *a, const float *b) {
    const int DEEP = A_INNERMOST && !B_INNERMOST ? 2 : 4;
#pragma unroll 1
    for (int k = 0; k < Panel<float, SIDE, A_INNERMOST>::DEPTH; k += DEEP) {
        float b_lines[THREAD_COLUMNS][DEEP];
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; j += 4)
            load_lines<SIDE, B_INNERMOST, DEEP>(b_lines + j, b, thread_column<SIDE>(),
                                                SIDE / THREAD_COLUMNS, j, k);
#pragma unroll
        for (int row = 0; row < SIDE / 16; row += 4) {
            float a_lines[4][DEEP];
            load_lines<SIDE, A_INNERMOST, DEEP>(a_lines, a, thread_row<SIDE>(), 16, row, k);
#pragma unroll
            for (int d = 0; d < DEEP; d++)
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < THREAD_COLUMNS; j++) {
                        float *sum = sums + (row + i) * THREAD_COLUMNS + j;
                        *sum = fmaf(a_lines[i][d], b_lines[j][d], *sum);
                    }
        }
    }
}

template <typename T, int SIDE, bool A_INNERMOST, bool B_INNERMOST>
static constexpr size_t shared_bytes() {
    return STAGES * sizeof(T) *
           (size_t)(Panel<T, SIDE, A_INNERMOST>::ELEMENTS + Panel<T, SIDE, B_INNERMOST>::ELEMENTS);
}

// sums = the tile's product over the whole depth. Stage s is filled while the STAGES - 1 before it
// are used; one barrier a stage: it says that stage `step` has arrived for all, and that all have
// done with the one that is filled next.
template <typename T, int SIDE, bool A_INNERMOST, bool B_INNERMOST, bool VECTORS>
__device__ static inline void multiply_tile(float *sums, Lines<T> a, Lines<T> b, int depth,
                                            T *shared) {
    typedef Panel<T, SIDE, A_INNERMOST> A;
    typedef Panel<T, SIDE, B_INNERMOST> B;
    const int STAGE = A::ELEMENTS + B::ELEMENTS;
    int steps = (depth + A::DEPTH - 1) / A::DEPTH;
#pragma unroll
    for (int i = 0; i < Block<SIDE>::SUMS; i++) sums[i] = 0.0f;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            T *stage = shared + s * STAGE;
            load_panel<T, SIDE, A_INNERMOST, VECTORS>(stage, a, s * A::DEPTH, depth);
            load_panel<T, SIDE, B_INNERMOST, VECTORS>(stage + A::ELEMENTS, b, s * A::DEPTH, depth);
        }
        cp_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        int next = step + STAGES - 1;
        if (next < steps) {
            T *stage = shared + next % STAGES * STAGE;
            load_panel<T, SIDE, A_INNERMOST, VECTORS>(stage, a, next * A::DEPTH, depth);
            load_panel<T, SIDE, B_INNERMOST, VECTORS>(stage + A::ELEMENTS, b, next * A::DEPTH,
                                                      depth);
        }
        cp_async_commit();
        const T *stage = shared + step % STAGES * STAGE;
        multiply_stage<SIDE, A_INNERMOST, B_INNERMOST>(sums, stage, stage + A::ELEMENTS);
    }
    cp_async_wait<0>();
    __syncthreads(); // the next tile fills the same stages
}

// ---- results ------------------------------------------------------------------------------------

// Writes the tile's sums: rows of c from `c` on, `rows` by `columns` of them exist. T is the type
// that was multiplied.
template <typename T, int SIDE, bool A_INNERMOST, bool B_INNERMOST> struct Store;

template <int SIDE, bool A_INNERMOST, bool B_INNERMOST>
struct Store<bf16, SIDE, A_INNERMOST, B_INNERMOST> {
    template <typename O>
    __device__ static inline void tile(O *c, int64_t width, int rows, int columns,
                                       const float *sums, bool aligned) {
        int lane = (int)threadIdx.x % WARP;
        int first_row = warp_first_row<SIDE>() + lane / 4;
        int first_column = warp_first_column<SIDE>() + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < SIDE / 32; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = first_row + 16 * i + 8 * half;
                if (row >= rows) continue;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    int column = first_column + 8 * j, left = columns - column;
                    store_neighbours<2>(c + row * width + column, sums + (i * 4 + j) * 4 + 2 * half,
                                        left, aligned && left >= 2);
                }
            }
    }
};

template <int SIDE, bool A_INNERMOST, bool B_INNERMOST>
struct Store<float, SIDE, A_INNERMOST, B_INNERMOST> {
    template <typename O>
    __device__ static inline void tile(O *c, int64_t width, int rows, int columns,
                                       const float *sums, bool aligned) {
        const int TOGETHER = B_INNERMOST ? 1 : 4;
#pragma unroll
        for (int i = 0; i < SIDE / 16; i++) {
            int row = line_of<A_INNERMOST>(thread_row<SIDE>(), 16, i);
            if (row >= rows) continue;
#pragma unroll
            for (int j = 0; j < THREAD_COLUMNS; j += TOGETHER) {
                int column = line_of<B_INNERMOST>(thread_column<SIDE>(), SIDE / THREAD_COLUMNS, j);
                int left = columns - column;
                store_neighbours<TOGETHER>(c + row * width + column, sums + i * THREAD_COLUMNS + j,
                                           left, TOGETHER == 4 && aligned && left >= 4);
            }
        }
    }
};

// ---- y = x wᵀ and dx = dy w ---------------------------------------------------------------------

// A block computes one tile of one segment: block number = row tile · column tiles + column tile.
// Blocks whose tile has no rows leave. Reads each row of a once and b's matrix once for every SIDE
// rows, through the L2 cache; writes c once. Rows of c that no segment has stay as they are. c is
// `narrow` bf16 or f32.
template <typename T, int SIDE, bool B_INNERMOST, bool VECTORS>
__global__ __launch_bounds__(Block<SIDE>::THREADS, Block<SIDE>::RESIDENT) void grouped_rows_kernel(
    void *c, bool narrow, bool c_aligned, int64_t c_width, const T *a, int64_t a_width, const T *b,
    int64_t b_width, int64_t m, int64_t n, int64_t depth, const int64_t *offsets, int64_t segments,
    int64_t parts) {
    DYNAMIC_SHARED(T, shared);
    int64_t column_tiles = (n + SIDE - 1) / SIDE;
    int64_t tile = blockIdx.x / column_tiles;
    int64_t column = blockIdx.x % column_tiles * SIDE, first = 0, end = m;
    if (offsets) {
        int64_t s = find_segment(offsets, segments, SIDE, tile);
        tile -= first_tile(offsets, s, SIDE);
        first = offsets[s];
        end = offsets[s + 1];
        b += s / parts * n * depth;
    }
    first += tile * SIDE;
    if (first >= end) return;
    float sums[Block<SIDE>::SUMS];
    Lines<T> rows = lines_of(a + first * a_width, a_width, end - first, SIDE);
    Lines<T> columns =
        lines_of(b + column * (B_INNERMOST ? b_width : 1), b_width, n - column, SIDE);
    multiply_tile<T, SIDE, true, B_INNERMOST, VECTORS>(sums, rows, columns, (int)depth, shared);
    int64_t at = first * c_width + column;
    if (narrow)
        Store<T, SIDE, true, B_INNERMOST>::tile(static_cast<bf16 *>(c) + at, c_width, rows.count,
                                                columns.count, sums, c_aligned);
    else
        Store<T, SIDE, true, B_INNERMOST>::tile(static_cast<float *>(c) + at, c_width, rows.count,
                                                columns.count, sums, c_aligned);
}

// Whether all vectors of a product's matrices can be loaded whole.
template <typename T> static bool vectors_fit(MatrixProduct p) {
    bool rows = p.a_transposed ? p.m % Vector<T>::COUNT == 0 : p.depth % Vector<T>::COUNT == 0;
    bool columns = p.b_transposed ? p.n % Vector<T>::COUNT == 0 : p.depth % Vector<T>::COUNT == 0;
    return rows && columns && rows_are_vectors<T>(p.a, p.a_width) &&
           rows_are_vectors<T>(p.b, p.b_width);
}
// Whether results can be written in fours (f32) or twos (bf16) wherever a tile starts.
static bool result_aligned(MatrixProduct p) {
    return p.c_width % 4 == 0 && (uintptr_t)p.c % 16 == 0;
}

template <typename T, int SIDE, bool B_INNERMOST, bool VECTORS>
static void launch_rows(Device *dev, MatrixProduct p, SegmentRows rows) {
    int64_t row_tiles = rows.offsets ? p.m / SIDE + rows.segments : ceil_div(p.m, SIDE);
    launch(dev, grouped_rows_kernel<T, SIDE, B_INNERMOST, VECTORS>,
           grid_of(row_tiles * ceil_div(p.n, SIDE)), dim3(Block<SIDE>::THREADS),
           shared_bytes<T, SIDE, true, B_INNERMOST>(), p.c, p.c_type == BF16, result_aligned(p),
           p.c_width, static_cast<const T *>(p.a), p.a_width, static_cast<const T *>(p.b),
           p.b_width, p.m, p.n, p.depth, rows.offsets, rows.segments, rows.parts);
}

// A large tile reuses what it loads twice as often; a small one wastes less on segments of few
// rows.
template <typename T, bool B_INNERMOST>
static void choose_rows(Device *dev, MatrixProduct p, SegmentRows rows) {
    bool large = p.n > SMALL && p.m > SMALL * rows.segments;
    if (!vectors_fit<T>(p))
        launch_rows<T, SMALL, B_INNERMOST, false>(dev, p, rows);
    else if (large)
        launch_rows<T, LARGE, B_INNERMOST, true>(dev, p, rows);
    else
        launch_rows<T, SMALL, B_INNERMOST, true>(dev, p, rows);
}

void grouped_matmul_rows(Device *dev, MatrixProduct p, SegmentRows rows) {
    if (p.m == 0 || rows.segments == 0) return;
    if (warpgroup_multiplies(dev, p))
        warpgroup_matmul_rows(dev, p, rows);
    else if (p.type == BF16 && p.b_transposed)
        choose_rows<bf16, false>(dev, p, rows);
    else if (p.type == BF16)
        choose_rows<bf16, true>(dev, p, rows);
    else if (p.b_transposed)
        choose_rows<float, false>(dev, p, rows);
    else
        choose_rows<float, true>(dev, p, rows);
}

// ---- dw = dyᵀ x ---------------------------------------------------------------------------------

// A block computes tiles blockIdx.x, + gridDim.x, … of all groups' matrices, each over all parts of
// its group. The parts' sums meet as the fixed binary tree, like carries in a binary counter: after
// part p, each trailing one bit of p adds the sums that were kept on that level, the result is kept
// on the next. `kept` has (gridDim.x, levels, SUMS, threads) floats, each thread using its own.
// Reads a and b once for every SIDE rows or columns of c, through the L2 cache; writes c once.
template <typename T, int SIDE, bool VECTORS>
__global__
__launch_bounds__(Block<SIDE>::THREADS, Block<SIDE>::RESIDENT) void grouped_weight_kernel(
    float *c, bool c_aligned, int64_t c_width, const T *a, int64_t a_width, const T *b,
    int64_t b_width, int64_t m, int64_t n, int64_t depth, const int64_t *offsets, int64_t groups,
    int64_t parts, int levels, float *kept) {
    DYNAMIC_SHARED(T, shared);
    const int SUMS = Block<SIDE>::SUMS, THREADS = Block<SIDE>::THREADS;
    int64_t column_tiles = (n + SIDE - 1) / SIDE, tiles = (m + SIDE - 1) / SIDE * column_tiles;
    float *mine = kept + blockIdx.x * (int64_t)(levels * SUMS * THREADS) + threadIdx.x;
    for (int64_t i = blockIdx.x; i < groups * tiles; i += gridDim.x) {
        int64_t group = i / tiles, row = i % tiles / column_tiles * SIDE;
        int64_t column = i % column_tiles * SIDE;
        Lines<T> rows = lines_of(a + row, a_width, m - row, SIDE);
        Lines<T> columns = lines_of(b + column, b_width, n - column, SIDE);
        float sums[SUMS];
        for (int64_t p = 0; p < parts; p++) {
            int64_t first = offsets ? offsets[group * parts + p] : 0;
            int64_t end = offsets ? offsets[group * parts + p + 1] : depth;
            Lines<T> part_rows = rows, part_columns = columns;
            part_rows.data += first * a_width;
            part_columns.data += first * b_width;
            multiply_tile<T, SIDE, false, false, VECTORS>(sums, part_rows, part_columns,
                                                          (int)(end - first), shared);
            float *level = mine;
            for (int64_t bits = p; bits & 1; bits >>= 1) {
#pragma unroll
                for (int j = 0; j < SUMS; j++) sums[j] = level[j * THREADS] + sums[j];
                level += SUMS * THREADS;
            }
            if (p + 1 < parts) {
#pragma unroll
                for (int j = 0; j < SUMS; j++) level[j * THREADS] = sums[j];
            }
        }
        Store<T, SIDE, false, false>::tile(c + (group * m + row) * c_width + column, c_width,
                                           rows.count, columns.count, sums, c_aligned);
    }
}

template <typename T, int SIDE, bool VECTORS>
static void launch_weight(Device *dev, MatrixProduct p, SegmentRows rows) {
    int64_t groups = rows.segments / rows.parts;
    int64_t blocks = groups * ceil_div(p.m, SIDE) * ceil_div(p.n, SIDE);
    int levels = 0;
    while ((int64_t)1 << levels < rows.parts) levels++;
    float *kept = NULL;
    if (levels > 0) {
        // As many blocks as run at a time, so that the memory for the tree does not grow with the
        // matrices.
        int64_t resident = (int64_t)cuda_state(dev)->multiprocessors * Block<SIDE>::RESIDENT;
        if (blocks > resident) blocks = resident;
        kept = static_cast<float *>(
            cuda_workspace(dev, (size_t)(blocks * levels * SIDE * SIDE) * sizeof *kept));
    }
    launch(dev, grouped_weight_kernel<T, SIDE, VECTORS>, grid_of(blocks),
           dim3(Block<SIDE>::THREADS), shared_bytes<T, SIDE, false, false>(),
           static_cast<float *>(p.c), result_aligned(p), p.c_width, static_cast<const T *>(p.a),
           p.a_width, static_cast<const T *>(p.b), p.b_width, p.m, p.n, p.depth, rows.offsets,
           groups, rows.parts, levels, kept);
}

template <typename T> static void choose_weight(Device *dev, MatrixProduct p, SegmentRows rows) {
    if (!vectors_fit<T>(p))
        launch_weight<T, SMALL, false>(dev, p, rows);
    else if (p.m > SMALL && p.n > SMALL)
        launch_weight<T, LARGE, true>(dev, p, rows);
    else
        launch_weight<T, SMALL, true>(dev, p, rows);
}

void grouped_matmul_weight(Device *dev, MatrixProduct p, SegmentRows rows) {
    if (warpgroup_multiplies(dev, p))
        warpgroup_matmul_weight(dev, p, rows);
    else if (p.type == BF16)
        choose_weight<bf16>(dev, p, rows);
    else
        choose_weight<float>(dev, p, rows);
}

// ---- around the library -------------------------------------------------------------------------

__device__ static inline const void *pointer_of(PointerRule rule, int64_t row, int64_t group) {
    return static_cast<const char *>(rule.base) + row * rule.row_bytes + group * rule.group_bytes;
}

// One warp; segments in order, 32 at a time. Writes 24 bytes a segment.
__global__ __launch_bounds__(WARP) void grouped_pointers_kernel(const void **to, PointerRule first,
                                                                PointerRule second,
                                                                PointerRule third,
                                                                const int64_t *offsets,
                                                                int64_t segments, int64_t parts) {
    int lane = (int)threadIdx.x;
    int64_t filled = 0;
    for (int64_t block = 0; block < segments; block += WARP) {
        int64_t s = block + lane;
        bool rows = s < segments && offsets[s + 1] > offsets[s];
        unsigned with_rows = __ballot_sync(ALL_LANES, rows);
        if (rows) {
            int64_t at = filled + __popc(with_rows & ((1u << lane) - 1u));
            to[at] = pointer_of(first, offsets[s], s / parts);
            to[segments + at] = pointer_of(second, offsets[s], s / parts);
            to[2 * segments + at] = pointer_of(third, offsets[s], s / parts);
        }
        filled += __popc(with_rows);
    }
}

void grouped_pointers(Device *dev, const void **to, PointerRule first, PointerRule second,
                      PointerRule third, SegmentRows rows) {
    launch(dev, grouped_pointers_kernel, dim3(1), dim3(WARP), 0, to, first, second, third,
           rows.offsets, rows.segments, rows.parts);
}

enum { BLOCK = 256 };

// A thread adds one element: 12 bytes of memory for each, all coalesced.
__global__ __launch_bounds__(BLOCK) void add_floats_kernel(float *to, const float *from,
                                                           int64_t n) {
    int64_t i = blockIdx.x * (int64_t)BLOCK + threadIdx.x;
    if (i < n) to[i] += from[i];
}

void add_floats(Device *dev, float *to, const float *from, int64_t n) {
    launch(dev, add_floats_kernel, grid_of(ceil_div(n, BLOCK)), dim3(BLOCK), 0, to, from, n);
}

// Knuth's multiplicative hash of the index, its upper 24 bits taken as a number in [-1, 1).
template <typename T>
__global__ __launch_bounds__(BLOCK) void fill_test_pattern_kernel(T *to, int64_t n, uint32_t seed) {
    int64_t i = blockIdx.x * (int64_t)BLOCK + threadIdx.x;
    if (i >= n) return;
    uint32_t bits = ((uint32_t)i + seed) * 2654435761u;
    bits = (bits ^ bits >> 15) * 2246822519u;
    to[i] = from_float<T>((float)(bits >> 8) * 0x1p-23f - 1.0f);
}

void fill_test_pattern(Device *dev, void *to, DType type, int64_t n, uint32_t seed) {
    dim3 grid = grid_of(ceil_div(n, BLOCK));
    if (type == BF16)
        launch(dev, fill_test_pattern_kernel<bf16>, grid, dim3(BLOCK), 0, static_cast<bf16 *>(to),
               n, seed);
    else
        launch(dev, fill_test_pattern_kernel<float>, grid, dim3(BLOCK), 0, static_cast<float *>(to),
               n, seed);
}
