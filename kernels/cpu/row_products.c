#include "kernels/cpu/row_products.h"

#include "kernels/check.h"
#include "kernels/cpu/bf16.h"
#include "kernels/cpu/f16.h"
#include "kernels/cpu/register_tile.h"
#include "kernels/integers.h"

// The depth of the next block of `left`: DEPTH_BLOCK, and the last two evened out.
static int64_t block_depth(int64_t left) {
    if (left >= 2 * DEPTH_BLOCK) return DEPTH_BLOCK;
    return left > DEPTH_BLOCK ? (left + 1) / 2 : left;
}

static inline int64_t weight_bytes(DType type) { // that a compiler knows where it knows the type
    return type == F32 ? 4 : type == I8 ? 1 : 2;
}
static inline const void *weight_at(WeightRows w, int64_t row, int64_t column) {
    return (const char *)w.data + (row * w.width + column) * weight_bytes(w.type);
}
static inline WeightRows weights_at(WeightRows w, int64_t row, int64_t column) {
    return (WeightRows){weight_at(w, row, column), w.type, w.width};
}

// ---- few rows: lanes are columns of y -----------------------------------------------------------

// w is read once and transposed in registers, LANES x LANES words at a time: what matters is how
// fast memory delivers it. A word of 32 bits holds one number of a row or, so that a narrower type
// costs no more to transpose by the byte, several.
enum {
    LANE_ROWS = LANES / 2, // so many rows at most: more are cheaper the other way
    MOST_LANE_ROWS = 8,    // with any width of registers
    MOST_PACKED = 2,       // numbers of a word
};

typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

// The lower half of each word as binary16, in f32.
static inline __attribute__((always_inline)) Lanes lanes_from_f16(Words halves) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)halves));
#elif defined(__AVX2__) && defined(__F16C__)
    __m256i low = (__m256i)(halves & 0xffffu);
    __m128i together =
        _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    return (Lanes)_mm256_cvtph_ps(together);
#else
    Lanes wide = {0};
    for (int i = 0; i < LANES; i++) wide[i] = f32_from_f16((uint16_t)halves[i]);
    return wide;
#endif
}

// Number `part` of each word of a narrow type, in f32.
static inline __attribute__((always_inline)) Lanes unpack(Lanes packed, const int part,
                                                          const DType type) {
    Words words = (Words)packed;
    if (type == F16) return lanes_from_f16(words >> 16 * part);
    return (Lanes)(part == 0 ? words << 16 : words & 0xffff0000u);
}

// So many bytes ahead of those at work a row is fetched: the processor alone does not follow as
// many rows at once. Behind a row's end that is the beginning of the row that takes its place. Into
// the second cache: where rows are a power of two apart, few of the first one's places are theirs.
enum { AHEAD = 1024, INTO_SECOND_CACHE = 2 };

// Bytes from what is at work to what is fetched, where `left` numbers of the row are to come.
static inline int64_t bytes_ahead(WeightRows w, int64_t depth, int64_t left) {
    int64_t bytes = weight_bytes(w.type);
    return AHEAD + (left * bytes > AHEAD ? 0 : (LANES * w.width - depth) * bytes);
}

// LANES words of LANES rows from column k on, turned round; `last`: the last row that there is,
// which stands for those behind it.
static inline __attribute__((always_inline)) void
load_words(Lanes block[LANES], WeightRows w, int64_t last, int64_t k, int64_t ahead) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) block[i] = lanes_load(weight_at(w, i < last ? i : last, k));
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        __builtin_prefetch((const char *)weight_at(w, i, k) + ahead, 0, INTO_SECOND_CACHE);
    transpose_lanes(block);
}

// sum[r] (LANES columns of w from its first on) += x w over `depth`, of `whole` of which `left` are
// to come.
static inline __attribute__((always_inline)) void
sum_wide(Lanes *sum, const float *x, int64_t x_width, WeightRows w, int64_t last, int64_t depth,
         int64_t whole, int64_t left, const int rows) {
    int64_t k = 0;
    w.type = F32;
    for (; k + LANES <= depth; k += LANES) {
        Lanes block[LANES];
        load_words(block, w, last, k, bytes_ahead(w, whole, left - k));
#pragma GCC unroll 16
        for (int j = 0; j < LANES; j++)
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                sum[r] = lanes_fma(lanes_set(x[r * x_width + k + j]), block[j], sum[r]);
    }
    for (; k < depth; k++) {
        Lanes column;
        for (int i = 0; i < LANES; i++)
            column[i] = *(const float *)weight_at(w, i < last ? i : last, k);
        for (int r = 0; r < rows; r++)
            sum[r] = lanes_fma(lanes_set(x[r * x_width + k]), column, sum[r]);
    }
}

static inline void widen_f16(float *to, const uint16_t *from, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        Words halves = {0};
        for (int j = 0; j < LANES; j++) halves[j] = from[i + j];
        lanes_store(to + i, lanes_from_f16(halves));
    }
    for (; i < n; i++) to[i] = f32_from_f16(from[i]);
}

// n numbers of a row in f32.
static inline __attribute__((always_inline)) void widen(float *to, const void *from, int64_t n,
                                                        const DType type) {
    switch (type) {
    case F32:
        memcpy(to, from, (size_t)n * sizeof *to);
        break;
    case BF16:
        widen_bf16(to, from, n);
        break;
    case F16:
        widen_f16(to, from, n);
        break;
    case I8:
        for (int64_t i = 0; i < n; i++) to[i] = ((const int8_t *)from)[i];
        break;
    default:
        CHECK(false, "weights of type %d", (int)type);
    }
}

// The same for a type of which a word holds several; what is left of the depth is widened.
static inline __attribute__((always_inline)) void
sum_packed(Lanes *sum, const float *x, int64_t x_width, WeightRows w, int64_t last, int64_t depth,
           int64_t whole, int64_t left, const int rows, const DType type) {
    const int PACKED = (int)(4 / weight_bytes(type));
    int64_t k = 0;
    w.type = type;
    for (; k + LANES * PACKED <= depth; k += LANES * PACKED) {
        Lanes block[LANES];
        load_words(block, w, last, k, bytes_ahead(w, whole, left - k));
#pragma GCC unroll 16
        for (int j = 0; j < LANES; j++)
#pragma GCC unroll 4
            for (int part = 0; part < PACKED; part++) {
                Lanes column = unpack(block[j], part, type);
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++)
                    sum[r] = lanes_fma(lanes_set(x[r * x_width + k + j * PACKED + part]), column,
                                       sum[r]);
            }
    }
    if (k == depth) return;
    float room[LANES * LANES * MOST_PACKED];
    WeightRows rest = {room, F32, LANES * MOST_PACKED};
    for (int i = 0; i < LANES && i <= last; i++)
        widen(room + i * rest.width, weight_at(w, i, k), depth - k, type);
    sum_wide(sum, x + k, x_width, rest, last, depth - k, whole, left, rows);
}

static inline __attribute__((always_inline)) void
few_rows(float *y, int64_t y_width, const float *x, int64_t x_width, WeightRows w, const int rows,
         int64_t columns, int64_t depth, bool add, const DType type) {
    w.type = type;
    for (int64_t n = 0; n < columns; n += LANES) {
        int64_t count = smaller(LANES, columns - n), last = columns - 1 - n;
        Lanes total[MOST_LANE_ROWS] = {{0}};
        for (int r = 0; r < rows && add; r++)
            for (int64_t i = 0; i < count; i++) total[r][i] = y[r * y_width + n + i];
        for (int64_t k = 0, deep; k < depth; k += deep) {
            Lanes sum[MOST_LANE_ROWS] = {{0}};
            deep = block_depth(depth - k);
            if (type == F32)
                sum_wide(sum, x + k, x_width, weights_at(w, n, k), last, deep, depth, depth - k,
                         rows);
            else
                sum_packed(sum, x + k, x_width, weights_at(w, n, k), last, deep, depth, depth - k,
                           rows, type);
            for (int r = 0; r < rows; r++) total[r] = add || k > 0 ? total[r] + sum[r] : sum[r];
        }
        for (int r = 0; r < rows; r++) {
            float row[LANES];
            lanes_store(row, total[r]);
            for (int64_t i = 0; i < count; i++) y[r * y_width + n + i] = row[i];
        }
    }
}

// The type and the number of rows known to the loops; of numbers that narrow registers never have
// there is no code.
static void few_rows_of(float *y, int64_t y_width, const float *x, int64_t x_width, WeightRows w,
                        int64_t rows, int64_t columns, int64_t depth, bool add) {
#define FEW(T, R)                                                                                  \
    case 16 * T + R:                                                                               \
        if (R <= LANE_ROWS) few_rows(y, y_width, x, x_width, w, R, columns, depth, add, T);        \
        break;
#define FEW_OF(T) FEW(T, 1) FEW(T, 2) FEW(T, 3) FEW(T, 4) FEW(T, 5) FEW(T, 6) FEW(T, 7) FEW(T, 8)
    switch (16 * (int)w.type + rows) {
        FEW_OF(F32)
        FEW_OF(BF16)
        FEW_OF(F16)
    default:
        CHECK(false, "%lld rows of type %d are not few", (long long)rows, (int)w.type);
    }
#undef FEW_OF
#undef FEW
}

// ---- more rows: lanes are rows of y -------------------------------------------------------------

enum { TILE_COLUMNS = LANES == 16 ? 16 : 24 }; // of y: whole registers, and whole tiles

// `height` rows of w in f32, of which there are `count`: where they are, or in `room`. What lies
// behind the last one is not read, and not used.
static Factor tile_rows(WeightRows w, int64_t count, int64_t height, int64_t depth, float *room) {
    if (w.type == F32 && count >= height) return (Factor){w.data, w.width, 1};
    for (int64_t i = 0; i < height; i++)
        widen(room + i * depth, weight_at(w, smaller(i, count - 1), 0), depth, w.type);
    return (Factor){room, depth, 1};
}

// y (rows, columns) = or += tile (columns, ROWS_AT_ONCE)ᵀ
static void store_tile(float *y, int64_t y_width, const float *tile, int64_t rows, int64_t columns,
                       bool add) {
    int64_t whole = columns / LANES * LANES;
    for (int64_t r = 0; r < rows; r += LANES)
        for (int64_t n = 0; n < whole; n += LANES) {
            Lanes x[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) x[i] = lanes_load(tile + (n + i) * ROWS_AT_ONCE + r);
            transpose_lanes(x);
            for (int64_t i = 0; i < smaller(LANES, rows - r); i++) {
                float *to = y + (r + i) * y_width + n;
                lanes_store(to, add ? lanes_load(to) + x[i] : x[i]);
            }
        }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t n = whole; n < columns; n++) {
            float *to = y + r * y_width + n, sum = tile[n * ROWS_AT_ONCE + r];
            *to = add ? *to + sum : sum;
        }
}

// to: panels (depth, REGISTER_COLUMNS) of x (rows, depth)ᵀ, zeros behind the last row.
static void pack_panels(float *to, const float *x, int64_t x_width, int64_t rows, int64_t depth) {
    for (int64_t r = 0; r < rows; r += REGISTER_COLUMNS) {
        float *panel = to + r * depth;
        int64_t here = smaller(REGISTER_COLUMNS, rows - r);
        if (here < REGISTER_COLUMNS)
            memset(panel, 0, (size_t)(REGISTER_COLUMNS * depth) * sizeof *panel);
        transpose(panel, REGISTER_COLUMNS, x + r * x_width, x_width, here, depth);
    }
}

// x is turned round, so that one number of w meets registers of rows: a panel of these and a tile's
// rows of w are what the first cache holds.
static void across_rows(float *y, int64_t y_width, const float *x, int64_t x_width, WeightRows w,
                        int64_t rows, int64_t columns, int64_t depth, bool add, float *scratch) {
    float *panels = scratch, *narrow = panels + ROWS_AT_ONCE * DEPTH_BLOCK;
    float *tile = narrow + REGISTER_ROWS * DEPTH_BLOCK;
    for (int64_t k = 0, deep; k < depth; k += deep) {
        deep = block_depth(depth - k);
        pack_panels(panels, x + k, x_width, rows, deep);
        for (int64_t n = 0; n < columns; n += TILE_COLUMNS) {
            int64_t count = smaller(TILE_COLUMNS, columns - n);
            for (int64_t i = 0, height; i < count; i += height) {
                height = tile_height(count - i);
                Factor factor = tile_rows(weights_at(w, n + i, k), count - i, height, deep, narrow);
                float *to = tile + i * ROWS_AT_ONCE;
                int64_t r = 0;
                for (; r + LANES < rows; r += REGISTER_COLUMNS)
                    multiply_tile(to + r, ROWS_AT_ONCE, factor, panels + r * deep, REGISTER_COLUMNS,
                                  deep, height, 2, false);
                if (r < rows)
                    multiply_tile(to + r, ROWS_AT_ONCE, factor, panels + r * deep, REGISTER_COLUMNS,
                                  deep, height, 1, false);
            }
            store_tile(y + n, y_width, tile, rows, count, add || k > 0);
        }
    }
}

// ---- i8: lanes are of the depth -----------------------------------------------------------------

// A register of i8 becomes f32 in fewer steps than it is turned round, so the sums are: each lane
// adds every LANES-th product of a block, and then the lanes meet by halves.
static inline Lanes load_i8(const int8_t *from) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif defined(__AVX2__) && defined(__FMA__)
    return (Lanes)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    Lanes wide = {0};
    for (int i = 0; i < LANES; i++) wide[i] = from[i];
    return wide;
#endif
}

static inline __attribute__((always_inline)) Lanes load_lanes(const void *from, int64_t k,
                                                              const DType type) {
    return type == I8 ? load_i8((const int8_t *)from + k) : lanes_load((const float *)from + k);
}

// What is left of a row, and zeros behind it.
static inline Lanes load_rest(const void *from, int64_t n, const DType type) {
    float x[LANES] = {0};
    widen(x, from, n, type);
    return lanes_load(x);
}

// The products of x (depth) with LANES rows of w, the last of which stands for those behind it.
static inline __attribute__((always_inline)) Lanes dot_rows(const float *x, WeightRows w,
                                                            int64_t last, int64_t depth,
                                                            int64_t ahead, const DType type) {
    enum { STEPS = 4 }; // with a row before the next one's turn
    Lanes sum[LANES] = {{0}};
    int64_t k = 0;
    w.type = type;
    for (; k + STEPS * LANES <= depth; k += STEPS * LANES)
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            const char *from = weight_at(w, i < last ? i : last, k);
            if (type == I8) __builtin_prefetch(from + ahead, 0, INTO_SECOND_CACHE);
#pragma GCC unroll 4
            for (int step = 0; step < STEPS; step++)
                sum[i] = lanes_fma(lanes_load(x + k + step * LANES),
                                   load_lanes(from, step * LANES, type), sum[i]);
        }
    for (; k + LANES <= depth; k += LANES)
        for (int i = 0; i < LANES; i++)
            sum[i] = lanes_fma(lanes_load(x + k),
                               load_lanes(weight_at(w, i < last ? i : last, k), 0, type), sum[i]);
    if (k < depth) {
        Lanes own = load_rest(x + k, depth - k, F32);
        for (int i = 0; i < LANES; i++)
            sum[i] = lanes_fma(
                own, load_rest(weight_at(w, i < last ? i : last, k), depth - k, type), sum[i]);
    }
    transpose_lanes(sum);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) sum[i] += sum[i + width];
    return sum[0];
}

static void along_depth(float *y, int64_t y_width, const float *x, int64_t x_width, WeightRows w,
                        int64_t rows, int64_t columns, int64_t depth, bool add, float *scratch) {
    for (int64_t n = 0; n < columns; n += LANES) {
        int64_t count = smaller(LANES, columns - n);
        for (int64_t k = 0, deep; k < depth; k += deep) {
            deep = block_depth(depth - k);
            WeightRows block = weights_at(w, n, k), wide = {scratch, F32, deep};
            for (int64_t i = 0; i < count && rows > 1; i++) // once for all of them
                widen(scratch + i * deep, weight_at(block, i, 0), deep, I8);
            for (int64_t r = 0; r < rows; r++) {
                const float *own = x + r * x_width + k;
                float sum[LANES], *to = y + r * y_width + n;
                int64_t ahead = bytes_ahead(block, depth, depth - k);
                lanes_store(sum, rows > 1 ? dot_rows(own, wide, count - 1, deep, 0, F32)
                                          : dot_rows(own, block, count - 1, deep, ahead, I8));
                for (int64_t i = 0; i < count; i++) to[i] = add || k > 0 ? to[i] + sum[i] : sum[i];
            }
        }
    }
}

void row_product(float *y, int64_t y_width, const float *x, int64_t x_width, WeightRows w,
                 int64_t rows, int64_t columns, int64_t depth, bool add, float *scratch) {
    if (w.type == I8)
        along_depth(y, y_width, x, x_width, w, rows, columns, depth, add, scratch);
    else if (rows <= LANE_ROWS)
        few_rows_of(y, y_width, x, x_width, w, rows, columns, depth, add);
    else
        across_rows(y, y_width, x, x_width, w, rows, columns, depth, add, scratch);
}
