// The bf16 products of grouped_matmul.h on Hopper, by its warpgroup instructions (wgmma), which
// alone reach the speed of its tensor cores: mma.sync has about half.
//
// The bits are as free of rows, segments and alignment as those of grouped_matmul_cuda.cu, and for
// the same reason: an element of the result is one sum, along the summed dimension from 0 to the
// end of the segment in steps of one instruction of depth 16; steps past the end multiply zeros.
// They are not the bits of mma.sync, so which of the two kernels multiplies follows from the GPU
// and from n and depth (m and n of a weight gradient) alone.
//
// Two warpgroups compute a tile. Panels of 64 of the summed dimension come through a ring of
// stages in shared memory by cp.async, laid out as the instruction reads them (ptx.cuh). A block
// computes tile after tile, and the ring does not stop between them: the panels of the next tile
// are on their way while the results of the last are written. One barrier a stage: what it says at
// step s is that stage s has arrived for all, and that the products of step s - 2 have ended for
// all, whose stage is filled next; those of step s - 1 still run.
//
// What bounds it is the L2 cache: a tile of 128 by 256 does 85 operations for a byte that it reads
// there, one of 128 by 128 does 64.
#include "kernels/cuda/grouped_matmul.h"
#include "kernels/cuda/product_tile.cuh"

constexpr int WARPGROUP = 128;
constexpr int GROUPS = 2;
constexpr int THREADS = GROUPS * WARPGROUP;
constexpr int ROWS = 64 * GROUPS; // of a tile
constexpr int DEPTH = 64;         // of a stage
constexpr int LINE = 128;         // bytes: 64 elements
constexpr int PIECE = 8;          // elements that a cp.async copies
constexpr int PIECES = LINE / 16; // of a line
constexpr int STEP = 16;          // depth of an instruction
constexpr int AHEAD = 2;          // stages that are filled, or used, when one is filled: see above
constexpr int ALIGNMENT = 8 * LINE; // of a panel

// ---- panels -------------------------------------------------------------------------------------

// A matrix from the tile's first row or column on: `width` elements from one row of memory to the
// next, `side` of the tile's are inside.
struct Strip {
    const bf16 *data;
    int64_t width;
    int side;
};

// Starts copying 16 bytes, of which `left` elements are inside the matrix; the rest becomes zeros.
template <bool VECTORS>
__device__ static inline void load_piece(unsigned char *to, const bf16 *from, int left) {
    if constexpr (VECTORS) {
        cp_async_16(to, from, left > 0);
    } else {
#pragma unroll
        for (int i = 0; i < PIECE; i++)
            reinterpret_cast<bf16 *>(to)[i] = i < left ? from[i] : from_float<bf16>(0.0f);
    }
}

__device__ static inline int swizzled(int line, int piece) {
    return line * LINE + (piece ^ line % 8) * 16;
}

// The panel of `SIDE` rows with the summed dimension innermost, from `first` on: a line a row.
template <int SIDE, bool VECTORS>
__device__ static inline void load_innermost(unsigned char *panel, Strip strip, int first,
                                             int depth) {
    int piece = (int)threadIdx.x % PIECES, line = (int)threadIdx.x / PIECES;
    int k = first + piece * PIECE;
    const bf16 *from = strip.data + line * strip.width + k;
#pragma unroll
    for (int i = 0; i < SIDE * PIECES / THREADS; i++) {
        load_piece<VECTORS>(panel + swizzled(line, piece), from, line < strip.side ? depth - k : 0);
        line += THREADS / PIECES;
        from += (int64_t)(THREADS / PIECES) * strip.width;
    }
}

// The panel of SIDE rows with the summed dimension outermost: a line is 64 rows at one depth.
template <int SIDE, bool VECTORS>
__device__ static inline void load_outermost(unsigned char *panel, Strip strip, int64_t first,
                                             int64_t end) {
    const int ACROSS = SIDE / PIECE; // pieces at one depth
    int row = (int)threadIdx.x % ACROSS * PIECE, line = (int)threadIdx.x / ACROSS;
    const bf16 *from = strip.data + (first + line) * strip.width + row;
    unsigned char *lines = panel + row / DEPTH * (DEPTH * LINE);
#pragma unroll
    for (int i = 0; i < DEPTH * ACROSS / THREADS; i++) {
        load_piece<VECTORS>(lines + swizzled(line, row % DEPTH / PIECE), from,
                            first + line < end ? strip.side - row : 0);
        line += THREADS / ACROSS;
        from += (int64_t)(THREADS / ACROSS) * strip.width;
    }
}

// Dynamic shared memory from the first address on that a panel may have.
__device__ static inline unsigned char *aligned_panels(unsigned char *shared) {
    return shared + (ALIGNMENT - (uintptr_t)shared % ALIGNMENT) % ALIGNMENT;
}

// ---- results ------------------------------------------------------------------------------------

// Lane t of four has words t of what the four lanes hold: word s of lane t becomes word t of lane
// s.
__device__ static inline void transpose_four(uint32_t word[4]) {
    int lane = (int)threadIdx.x % 4;
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2) {
        bool high = lane & bit;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int low = bit == 1 ? 2 * i : i;
            uint32_t sent = high ? word[low] : word[low + bit];
            uint32_t got = __shfl_xor_sync(ALL_LANES, sent, bit);
            if (high)
                word[low] = got;
            else
                word[low + bit] = got;
        }
    }
}

// This thread's sums of a tile with COLUMNS columns, from c on, the tile's first element; rows and
// columns of it are inside.
template <int COLUMNS, typename O>
__device__ static inline void store_tile(O *c, int64_t width, int rows, int columns,
                                         const float *sums, bool aligned) {
    int lane = (int)threadIdx.x % WARP;
    int first = (int)threadIdx.x / WARP * 16 + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = first + 8 * half;
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; j += 4) {
            const float *from = sums + j * 4 + half * 2;
            if (sizeof(O) == 2 && aligned) { // 16 bytes of a lane instead of 4
                uint32_t word[4];
#pragma unroll
                for (int i = 0; i < 4; i++) word[i] = pack_bf16(from[4 * i], from[4 * i + 1]);
                transpose_four(word);
                int column = (j + lane % 4) * 8;
                if (row < rows && column < columns)
                    *reinterpret_cast<uint4 *>(c + row * width + column) =
                        make_uint4(word[0], word[1], word[2], word[3]);
                continue;
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int column = (j + i) * 8 + lane % 4 * 2, left = columns - column;
                if (row < rows)
                    store_neighbours<2>(c + row * width + column, from + 4 * i, left,
                                        aligned && left >= 2);
            }
        }
    }
}

// ---- y = x wᵀ and dx = dy w ---------------------------------------------------------------------

constexpr int ROW_COLUMNS = 256; // of a tile
constexpr int ROW_SUMS = 128;    // of a thread
constexpr int ROW_STAGES = 4;
constexpr int BAND = 12; // column tiles
constexpr int ROW_A_BYTES = ROWS * LINE;
constexpr int ROW_STAGE_BYTES = ROW_A_BYTES + ROW_COLUMNS * LINE;

struct RowsProduct {
    void *c;
    const bf16 *a, *b;
    bool narrow, c_aligned; // c is bf16; its rows are multiples of 16 bytes
    int64_t c_width, a_width, b_width;
    int64_t m, n, depth;
    const int64_t *offsets;
    int64_t segments, parts;
    int row_tiles, column_tiles, tiles;
};

// A tile with rows. Numbers run over the column tiles of a band, then over all row tiles, then over
// the bands: the blocks that run at a time have about as many rows as columns, and find both in
// the L2 cache.
struct RowsTile {
    int number; // tiles when there is none left
    Strip a, b;
    int64_t at; // of c
};

// The next tile of this block from `number` on that has rows. Whole warps.
template <bool B_INNERMOST>
__device__ static inline RowsTile rows_tile(const RowsProduct &p, int number) {
    RowsTile tile = {p.tiles, {}, {}, 0};
    for (; number < p.tiles; number += (int)gridDim.x) {
        int band = number / (p.row_tiles * BAND), in_band = number % (p.row_tiles * BAND);
        int left = p.column_tiles - band * BAND, across = left < BAND ? left : BAND;
        int64_t i = in_band / across;
        int64_t column = (int64_t)(band * BAND + in_band % across) * ROW_COLUMNS;
        int64_t first = 0, end = p.m;
        const bf16 *b = p.b;
        if (p.offsets) {
            int64_t s = find_segment(p.offsets, p.segments, ROWS, i);
            i -= first_tile(p.offsets, s, ROWS);
            first = p.offsets[s];
            end = p.offsets[s + 1];
            b += s / p.parts * p.n * p.depth;
        }
        first += i * ROWS;
        if (first >= end) continue;
        tile.number = number;
        tile.a.data = p.a + first * p.a_width;
        tile.a.width = p.a_width;
        tile.a.side = (int)(end - first < ROWS ? end - first : ROWS);
        tile.b.data = b + column * (B_INNERMOST ? p.b_width : 1);
        tile.b.width = p.b_width;
        tile.b.side = (int)(p.n - column < ROW_COLUMNS ? p.n - column : ROW_COLUMNS);
        tile.at = first * p.c_width + column;
        break;
    }
    return tile;
}

// Reads each row of a once for every 256 columns and b's matrix once for every 128 rows, through
// the L2 cache; writes c once. Rows of c that no segment has stay as they are.
template <bool B_INNERMOST, bool VECTORS>
__global__ __launch_bounds__(THREADS, 1) void warpgroup_rows_kernel(RowsProduct p) {
    DYNAMIC_SHARED(unsigned char, shared);
    unsigned char *ring = aligned_panels(shared);
    const int steps = (int)((p.depth + DEPTH - 1) / DEPTH);
    const int group = (int)threadIdx.x / WARPGROUP;
    RowsTile filling = rows_tile<B_INNERMOST>(p, (int)blockIdx.x), tile = filling;
    int filled = 0, fill = 0, use = 0; // steps of `filling`; stages of the ring
    auto fill_stage = [&]() {
        if (filled == steps) {
            filling = rows_tile<B_INNERMOST>(p, filling.number + (int)gridDim.x);
            filled = 0;
        }
        if (filling.number < p.tiles) {
            unsigned char *stage = ring + fill * ROW_STAGE_BYTES;
            int first = filled++ * DEPTH;
            load_innermost<ROWS, VECTORS>(stage, filling.a, first, (int)p.depth);
            if (B_INNERMOST)
                load_innermost<ROW_COLUMNS, VECTORS>(stage + ROW_A_BYTES, filling.b, first,
                                                     (int)p.depth);
            else
                load_outermost<ROW_COLUMNS, VECTORS>(stage + ROW_A_BYTES, filling.b, first,
                                                     p.depth);
        }
        cp_async_commit();
        fill = fill + 1 == ROW_STAGES ? 0 : fill + 1;
    };
    for (int i = 0; i < ROW_STAGES - AHEAD; i++) fill_stage();
    float sums[ROW_SUMS];
    while (tile.number < p.tiles) {
        for (int step = 0; step < steps; step++) {
            cp_async_wait<ROW_STAGES - AHEAD - 1>();
            shared_for_products();
            __syncthreads();
            const unsigned char *stage = ring + use * ROW_STAGE_BYTES;
            SharedPanel a = shared_panel(stage + group * (64 * LINE), 0);
            SharedPanel b = shared_panel(stage + ROW_A_BYTES, DEPTH * LINE);
            warpgroup_arrive();
#pragma unroll
            for (int k = 0; k < DEPTH / STEP; k++)
                warpgroup_multiply_256<false, !B_INNERMOST>(
                    sums, shared_panel_from(a, k * STEP * 2),
                    shared_panel_from(b, k * STEP * (B_INNERMOST ? 2 : LINE)), step > 0 || k > 0);
            warpgroup_commit();
            fill_stage();
            warpgroup_wait<1>();
            use = use + 1 == ROW_STAGES ? 0 : use + 1;
        }
        warpgroup_wait<0>();
        if (p.narrow)
            store_tile<ROW_COLUMNS>(static_cast<bf16 *>(p.c) + tile.at, p.c_width, tile.a.side,
                                    tile.b.side, sums, p.c_aligned);
        else
            store_tile<ROW_COLUMNS>(static_cast<float *>(p.c) + tile.at, p.c_width, tile.a.side,
                                    tile.b.side, sums, p.c_aligned);
        tile = rows_tile<B_INNERMOST>(p, tile.number + (int)gridDim.x);
    }
    cp_async_wait<0>();
}

// Whether all pieces of a product's matrices can be loaded whole.
static bool vectors_fit(MatrixProduct p) {
    bool rows = (p.a_transposed ? p.m : p.depth) % PIECE == 0;
    bool columns = (p.b_transposed ? p.n : p.depth) % PIECE == 0;
    return rows && columns && rows_are_vectors<bf16>(p.a, p.a_width) &&
           rows_are_vectors<bf16>(p.b, p.b_width);
}
static bool result_aligned(MatrixProduct p) {
    return p.n % PIECE == 0 && p.c_width % PIECE == 0 && (uintptr_t)p.c % 16 == 0;
}

template <bool B_INNERMOST, bool VECTORS>
static void launch_rows(Device *dev, MatrixProduct p, SegmentRows rows) {
    RowsProduct product = {p.c,
                           static_cast<const bf16 *>(p.a),
                           static_cast<const bf16 *>(p.b),
                           p.c_type == BF16,
                           result_aligned(p),
                           p.c_width,
                           p.a_width,
                           p.b_width,
                           p.m,
                           p.n,
                           p.depth,
                           rows.offsets,
                           rows.segments,
                           rows.parts,
                           0,
                           (int)ceil_div(p.n, ROW_COLUMNS),
                           0};
    product.row_tiles = (int)(rows.offsets ? p.m / ROWS + rows.segments : ceil_div(p.m, ROWS));
    product.tiles = product.row_tiles * product.column_tiles;
    int blocks = cuda_state(dev)->multiprocessors;
    launch(dev, warpgroup_rows_kernel<B_INNERMOST, VECTORS>,
           grid_of(blocks < product.tiles ? blocks : product.tiles), dim3(THREADS),
           ROW_STAGES * ROW_STAGE_BYTES + ALIGNMENT, product);
}

void warpgroup_matmul_rows(Device *dev, MatrixProduct p, SegmentRows rows) {
    bool vectors = vectors_fit(p);
    if (p.b_transposed && vectors)
        launch_rows<false, true>(dev, p, rows);
    else if (p.b_transposed)
        launch_rows<false, false>(dev, p, rows);
    else if (vectors)
        launch_rows<true, true>(dev, p, rows);
    else
        launch_rows<true, false>(dev, p, rows);
}

// ---- dw = dyᵀ x ---------------------------------------------------------------------------------

constexpr int WEIGHT_COLUMNS = 128;
constexpr int WEIGHT_SUMS = 64; // of a thread
constexpr int WEIGHT_STAGES = 6;
constexpr int WEIGHT_A_BYTES = ROWS * LINE;
constexpr int WEIGHT_STAGE_BYTES = WEIGHT_A_BYTES + WEIGHT_COLUMNS * LINE;
constexpr int LEVELS_IN_REGISTERS = 2;

struct WeightProduct {
    float *c;
    const bf16 *a, *b;
    bool c_aligned;
    int64_t c_width, a_width, b_width;
    int m, n, depth;
    const int64_t *offsets;
    int groups, parts;
    int column_tiles, tiles; // of one group
    int levels;              // of the tree in memory
    float *kept;             // (gridDim.x, levels, WEIGHT_SUMS, THREADS)
};

// Where in the stream of all panels of this block's tiles a stage is: rows `at` to `end` of a part.
struct WeightCursor {
    int tile, part; // the tile is groups · tiles, or more, when there is none left
    int at, end;
};

// The cursor at the first rows of its part.
__device__ static inline void enter_part(const WeightProduct &p, WeightCursor *cursor) {
    int segment = cursor->tile / p.tiles * p.parts + cursor->part;
    bool inside = cursor->tile < p.groups * p.tiles;
    cursor->at = inside && p.offsets ? (int)p.offsets[segment] : 0;
    cursor->end = !inside ? 0 : p.offsets ? (int)p.offsets[segment + 1] : p.depth;
}
__device__ static inline void next_part(const WeightProduct &p, WeightCursor *cursor) {
    if (++cursor->part == p.parts) {
        cursor->part = 0;
        cursor->tile += (int)gridDim.x;
    }
    enter_part(p, cursor);
}

// A block computes tiles blockIdx.x, + gridDim.x, … of all groups' matrices, each over all parts of
// its group; the parts' sums meet as the fixed binary tree, as in grouped_weight_kernel. The two
// lowest levels, three of four additions, stay in registers.
template <bool VECTORS>
__global__ __launch_bounds__(THREADS, 1) void warpgroup_weight_kernel(WeightProduct p) {
    DYNAMIC_SHARED(unsigned char, shared);
    unsigned char *ring = aligned_panels(shared);
    const int group = (int)threadIdx.x / WARPGROUP;
    const int all = p.groups * p.tiles;
    WeightCursor filling = {(int)blockIdx.x, 0, 0, 0};
    enter_part(p, &filling);
    int fill = 0, use = 0;
    auto fill_stage = [&]() {
        while (filling.tile < all && filling.at >= filling.end) next_part(p, &filling);
        if (filling.tile < all) {
            unsigned char *stage = ring + fill * WEIGHT_STAGE_BYTES;
            int in_group = filling.tile % p.tiles, row = in_group / p.column_tiles * ROWS;
            int column = in_group % p.column_tiles * WEIGHT_COLUMNS;
            Strip a = {p.a + row, p.a_width, p.m - row < ROWS ? p.m - row : ROWS};
            Strip b = {p.b + column, p.b_width,
                       p.n - column < WEIGHT_COLUMNS ? p.n - column : WEIGHT_COLUMNS};
            load_outermost<ROWS, VECTORS>(stage, a, filling.at, filling.end);
            load_outermost<WEIGHT_COLUMNS, VECTORS>(stage + WEIGHT_A_BYTES, b, filling.at,
                                                    filling.end);
            filling.at += DEPTH;
        }
        cp_async_commit();
        fill = fill + 1 == WEIGHT_STAGES ? 0 : fill + 1;
    };
    for (int i = 0; i < WEIGHT_STAGES - AHEAD; i++) fill_stage();
    float sums[WEIGHT_SUMS], one[WEIGHT_SUMS], two[WEIGHT_SUMS]; // one and two: levels of the tree
    for (WeightCursor cursor = {(int)blockIdx.x, 0, 0, 0}; cursor.tile < all;) {
        enter_part(p, &cursor);
        int steps = (cursor.end - cursor.at + DEPTH - 1) / DEPTH;
        if (steps == 0) {
#pragma unroll
            for (int j = 0; j < WEIGHT_SUMS; j++) sums[j] = 0.0f;
        }
        for (int step = 0; step < steps; step++) {
            cp_async_wait<WEIGHT_STAGES - AHEAD - 1>();
            shared_for_products();
            __syncthreads();
            const unsigned char *stage = ring + use * WEIGHT_STAGE_BYTES;
            SharedPanel a = shared_panel(stage + group * (DEPTH * LINE), DEPTH * LINE);
            SharedPanel b = shared_panel(stage + WEIGHT_A_BYTES, DEPTH * LINE);
            warpgroup_arrive();
#pragma unroll
            for (int k = 0; k < DEPTH / STEP; k++)
                warpgroup_multiply_128<true, true>(sums, shared_panel_from(a, k * STEP * LINE),
                                                   shared_panel_from(b, k * STEP * LINE),
                                                   step > 0 || k > 0);
            warpgroup_commit();
            fill_stage();
            warpgroup_wait<1>();
            use = use + 1 == WEIGHT_STAGES ? 0 : use + 1;
        }
        warpgroup_wait<0>();
        const int part = cursor.part;
        const bool last = part + 1 == p.parts;
        if (part & 1) {
#pragma unroll
            for (int j = 0; j < WEIGHT_SUMS; j++) sums[j] = one[j] + sums[j];
        } else if (!last) {
#pragma unroll
            for (int j = 0; j < WEIGHT_SUMS; j++) one[j] = sums[j];
        }
        if ((part & 3) == 3) {
#pragma unroll
            for (int j = 0; j < WEIGHT_SUMS; j++) sums[j] = two[j] + sums[j];
        } else if ((part & 3) == 1 && !last) {
#pragma unroll
            for (int j = 0; j < WEIGHT_SUMS; j++) two[j] = sums[j];
        }
        if ((part & 3) == 3) {
            float *level =
                p.kept + blockIdx.x * (int64_t)(p.levels * WEIGHT_SUMS * THREADS) + threadIdx.x;
            for (int bits = part >> LEVELS_IN_REGISTERS; bits & 1; bits >>= 1) {
#pragma unroll
                for (int j = 0; j < WEIGHT_SUMS; j++) sums[j] = level[j * THREADS] + sums[j];
                level += WEIGHT_SUMS * THREADS;
            }
            if (!last) {
#pragma unroll
                for (int j = 0; j < WEIGHT_SUMS; j++) level[j * THREADS] = sums[j];
            }
        }
        if (last) {
            int in_group = cursor.tile % p.tiles, row = in_group / p.column_tiles * ROWS;
            int column = in_group % p.column_tiles * WEIGHT_COLUMNS;
            int64_t to = (int64_t)(cursor.tile / p.tiles) * p.m + row;
            store_tile<WEIGHT_COLUMNS>(p.c + to * p.c_width + column, p.c_width, p.m - row,
                                       p.n - column, sums, p.c_aligned);
            cursor.part = 0;
            cursor.tile += (int)gridDim.x;
        } else {
            cursor.part++;
        }
    }
    cp_async_wait<0>();
}

template <bool VECTORS> static void launch_weight(Device *dev, MatrixProduct p, SegmentRows rows) {
    WeightProduct product = {static_cast<float *>(p.c),
                             static_cast<const bf16 *>(p.a),
                             static_cast<const bf16 *>(p.b),
                             result_aligned(p),
                             p.c_width,
                             p.a_width,
                             p.b_width,
                             (int)p.m,
                             (int)p.n,
                             (int)p.depth,
                             rows.offsets,
                             (int)(rows.segments / rows.parts),
                             (int)rows.parts,
                             (int)ceil_div(p.n, WEIGHT_COLUMNS),
                             0,
                             0,
                             NULL};
    product.tiles = (int)ceil_div(p.m, ROWS) * product.column_tiles;
    int64_t blocks = cuda_state(dev)->multiprocessors;
    if (blocks > product.groups * product.tiles) blocks = product.groups * product.tiles;
    while ((int64_t)1 << (LEVELS_IN_REGISTERS + product.levels) < rows.parts) product.levels++;
    if (product.levels > 0)
        product.kept = static_cast<float *>(cuda_workspace(
            dev, (size_t)(blocks * product.levels * ROWS * WEIGHT_COLUMNS) * sizeof(float)));
    launch(dev, warpgroup_weight_kernel<VECTORS>, grid_of(blocks), dim3(THREADS),
           WEIGHT_STAGES * WEIGHT_STAGE_BYTES + ALIGNMENT, product);
}

void warpgroup_matmul_weight(Device *dev, MatrixProduct p, SegmentRows rows) {
    if (vectors_fit(p))
        launch_weight<true>(dev, p, rows);
    else
        launch_weight<false>(dev, p, rows);
}

// ---- the choice ---------------------------------------------------------------------------------

bool warpgroup_multiplies(const Device *dev, MatrixProduct p) {
    enum { LEAST = 64 }; // columns, and rows of a weight gradient: below, half of a tile is empty
    return cuda_state(dev)->compute_capability == 90 && p.type == BF16 && p.n > LEAST &&
           (!p.a_transposed || p.m > LEAST);
}
