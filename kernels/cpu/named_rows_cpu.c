#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/marked_rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/stored_rows.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/integers.h"

// The row of a number, or -1 where it has none here.
static inline int64_t row_of(int32_t id, int64_t first, int64_t E) {
    int64_t row = id - first;
    return row >= 0 && row < E ? row : -1;
}

// Rows lie anywhere in a table. One that no cache holds is asked for them before they are needed;
// in a cache that costs more than it saves.
enum { CACHED_BYTES = 2 << 20 };

static inline int64_t row_bytes(Tensor table) {
    return table.shape[1] * (table.dtype == F32 ? 4 : 2);
}

static inline bool is_far(Tensor table) {
    return table.shape[0] * row_bytes(table) > CACHED_BYTES;
}

static inline void ask_for_row(Tensor table, int64_t row) {
    int64_t bytes = row_bytes(table);
    const char *at = (const char *)table.data + row * bytes;
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(at + b);
}

static inline const void *row_at(Tensor x, int64_t row) {
    return (const char *)x.data + row * row_bytes(x);
}

typedef uint16_t StoredLanes __attribute__((vector_size(2 * LANES)));
typedef uint32_t WideLanes __attribute__((vector_size(4 * LANES)));

// Numbers of a row from the d-th on, and one of them.
static inline Lanes stored_lanes(const void *row, int64_t d, bool bf16) {
    if (!bf16) return lanes_load((const float *)row + d);
    StoredLanes stored;
    memcpy(&stored, (const uint16_t *)row + d, sizeof stored);
    return (Lanes)(__builtin_convertvector(stored, WideLanes) << 16);
}

static inline float stored_number(const void *row, int64_t d, bool bf16) {
    return bf16 ? f32_from_bf16(((const uint16_t *)row)[d]) : ((const float *)row)[d];
}

// ---- the rows that a token names ----------------------------------------------------------------

typedef struct NamedSlot {
    int32_t row, slot;
} NamedSlot;

// Those that are here, by parts of the table and in a part in the order of their slots: those of
// part p are slots[from[p]] … slots[from[p + 1] - 1].
typedef struct TokenSlots {
    NamedSlot *slots; // (K), behind them those that are elsewhere
    int64_t from[NAMED_PARTS + 1];
} TokenSlots;

// Tokens that go through the parts of a table together: a part stays in a cache, where the table
// may not.
enum { TOKENS = 32 };

// Of a token's numbers ids[0..K), in parts of part_rows rows. part_of (K): scratch.
static void order_slots(TokenSlots *to, int32_t *part_of, const int32_t *ids, int64_t K,
                        NamedRows rows, int64_t parts, int64_t part_rows) {
    int32_t first = (int32_t)rows.first, E = (int32_t)rows.table.shape[0];
    int32_t elsewhere = (int32_t)parts;
    double inverse = inverse_of(part_rows);
    for (int64_t k = 0; k < K; k++) {
        int32_t row = ids[k] - first, part = quotient(row, inverse);
        bool is_here = (row >= 0) & (row < E); // both, so that it is no branch
        part_of[k] = is_here ? part : elsewhere;
    }
    int64_t at[NAMED_PARTS + 1] = {0};
    for (int32_t p = 0; p < parts; p++) {
        int32_t count = 0;
        for (int64_t k = 0; k < K; k++) count += part_of[k] == p;
        at[p + 1] = at[p] + count;
    }
    memcpy(to->from, at, sizeof at);
    for (int64_t k = 0; k < K; k++)
        to->slots[at[part_of[k]]++] = (NamedSlot){ids[k] - first, (int32_t)k};
}

static size_t slots_scratch_bytes(int64_t K) {
    return (size_t)K * (TOKENS * sizeof(NamedSlot) + sizeof(int32_t));
}

// Of tokens [first, first + count), at most TOKENS; scratch: slots_scratch_bytes.
static void order_tokens(TokenSlots *tokens, void *scratch, Tensor ids, int64_t first,
                         int64_t count, NamedRows rows, int64_t parts, int64_t part_rows) {
    int64_t K = ids.shape[1];
    NamedSlot *slots = scratch;
    int32_t *part_of = (int32_t *)(slots + TOKENS * K);
    for (int64_t i = 0; i < count; i++) {
        tokens[i].slots = slots + i * K;
        order_slots(&tokens[i], part_of, (const int32_t *)ids.data + (first + i) * K, K, rows,
                    parts, part_rows);
    }
}

// ---- products -----------------------------------------------------------------------------------

enum { TOGETHER = 8, FEW_TOGETHER = 4 }; // rows multiplied by x at once, so that x is loaded once

typedef float FourSums __attribute__((vector_size(16)));

// As lanes_sum begins, down to four.
static inline FourSums sum_to_four(Lanes v) {
#if defined(__AVX512F__)
    __m256 halves =
        _mm512_castps512_ps256((__m512)v) + _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1));
    return (FourSums)(_mm256_castps256_ps128(halves) + _mm256_extractf128_ps(halves, 1));
#elif defined(__AVX2__) && defined(__FMA__)
    return (FourSums)(_mm256_castps256_ps128((__m256)v) + _mm256_extractf128_ps((__m256)v, 1));
#else
    return v;
#endif
}

// The sums of four vectors, each as lanes_sum adds it, side by side.
static inline FourSums sums_of_four(const Lanes *sums) {
    FourSums a = sum_to_four(sums[0]), b = sum_to_four(sums[1]);
    FourSums c = sum_to_four(sums[2]), d = sum_to_four(sums[3]);
    FourSums ab01 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    FourSums ab23 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    FourSums cd01 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    FourSums cd23 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    FourSums even = __builtin_shufflevector(ab01, cd01, 0, 1, 4, 5) +
                    __builtin_shufflevector(ab23, cd23, 0, 1, 4, 5);
    FourSums odd = __builtin_shufflevector(ab01, cd01, 2, 3, 6, 7) +
                   __builtin_shufflevector(ab23, cd23, 2, 3, 6, 7);
    return even + odd;
}

// products[i] = x · rows[i]: one vector of partial sums each, then the tail.
static inline __attribute__((always_inline)) void multiply_some(float *products, const float *x,
                                                                const void *const *rows, int64_t D,
                                                                int count, bool bf16) {
    Lanes sums[TOGETHER] = {0};
    int64_t d = 0;
    for (; d + 4 * LANES <= D; d += 4 * LANES) {
        Lanes x0 = lanes_load(x + d), x1 = lanes_load(x + d + LANES);
        Lanes x2 = lanes_load(x + d + 2 * LANES), x3 = lanes_load(x + d + 3 * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < count; i++) {
            sums[i] = lanes_fma(x0, stored_lanes(rows[i], d, bf16), sums[i]);
            sums[i] = lanes_fma(x1, stored_lanes(rows[i], d + LANES, bf16), sums[i]);
            sums[i] = lanes_fma(x2, stored_lanes(rows[i], d + 2 * LANES, bf16), sums[i]);
            sums[i] = lanes_fma(x3, stored_lanes(rows[i], d + 3 * LANES, bf16), sums[i]);
        }
    }
    for (; d + LANES <= D; d += LANES) {
        Lanes here = lanes_load(x + d);
#pragma GCC unroll 8
        for (int i = 0; i < count; i++)
            sums[i] = lanes_fma(here, stored_lanes(rows[i], d, bf16), sums[i]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < count; i += 4) {
        FourSums four = sums_of_four(sums + i);
        memcpy(products + i, &four, sizeof four);
    }
    for (int i = 0; i < count; i++)
        for (int64_t t = d; t < D; t++) products[i] += x[t] * stored_number(rows[i], t, bf16);
}

static void multiply_rows(float *products, const float *x, const void *const *rows, Tensor table,
                          bool few) {
    int64_t D = table.shape[1];
    if (table.dtype == F32 && !few) multiply_some(products, x, rows, D, TOGETHER, false);
    if (table.dtype == F32 && few) multiply_some(products, x, rows, D, FEW_TOGETHER, false);
    if (table.dtype != F32 && !few) multiply_some(products, x, rows, D, TOGETHER, true);
    if (table.dtype != F32 && few) multiply_some(products, x, rows, D, FEW_TOGETHER, true);
}

// Of one token, whose slots are `found`.
static void token_products(float *to, const float *x, Tensor table, const NamedSlot *found,
                           int64_t count) {
    int64_t ahead = is_far(table) ? TOGETHER : 0;
    for (int64_t i = 0; i < count; i += TOGETHER) {
        const void *rows[TOGETHER];
        float products[TOGETHER];
        int64_t here = count - i < TOGETHER ? count - i : TOGETHER;
        for (int64_t j = i + TOGETHER; j < i + TOGETHER + ahead && j < count; j++)
            ask_for_row(table, found[j].row);
        for (int64_t j = 0; j < TOGETHER; j++) // the last group has its last row several times
            rows[j] = j < here ? row_at(table, found[i + j].row) : rows[here - 1];
        multiply_rows(products, x, rows, table, here <= FEW_TOGETHER);
        for (int64_t j = 0; j < here; j++) to[found[i + j].slot] = products[j];
    }
}

// Into how many parts a table is cut for products, which are the same whatever comes of it: where
// TOKENS tokens name each row more than twice, and the core's own cache does not hold all of them.
static int64_t cache_parts(Tensor table, int64_t K) {
    enum { OWN_CACHE_BYTES = 256 << 10 };
    bool is_cut =
        TOKENS * K > 2 * table.shape[0] && table.shape[0] * row_bytes(table) > OWN_CACHE_BYTES;
    return is_cut ? NAMED_PARTS : 1;
}

static size_t products_scratch_bytes(int64_t K, int64_t D) {
    return slots_scratch_bytes(K) + (size_t)(D * TOKENS) * sizeof(float);
}

void named_products_cpu(Device *dev, NamedRows out, Tensor x, Tensor ids) {
    int64_t M = x.shape[0], D = x.shape[1], K = ids.shape[1], W = out.coefficients.shape[1];
    int64_t parts = cache_parts(out.table, K);
    int64_t part_rows = (out.table.shape[0] + parts - 1) / parts;
    float *products = tensor_f32(out.coefficients) + out.first_column;
#pragma omp parallel
    {
        float *spare = thread_scratch(products_scratch_bytes(K, D));
        void *scratch = spare + D * TOKENS;
        TokenSlots tokens[TOKENS];
        const float *rows[TOKENS];
#pragma omp for schedule(static)
        for (int64_t first = 0; first < M; first += TOKENS) {
            int64_t count = smaller(M - first, TOKENS);
            order_tokens(tokens, scratch, ids, first, count, out, parts, part_rows);
            for (int64_t i = 0; i < count; i++) {
                rows[i] = row_as_f32(x, first + i, spare + i * D);
                if (tokens[i].from[parts] < K)
                    memset(products + (first + i) * W, 0, (size_t)K * sizeof *products);
            }
            for (int64_t p = 0; p < parts; p++)
                for (int64_t i = 0; i < count; i++) {
                    int64_t from = tokens[i].from[p];
                    token_products(products + (first + i) * W, rows[i], out.table,
                                   tokens[i].slots + from, tokens[i].from[p + 1] - from);
                }
        }
    }
}

// ---- sums ---------------------------------------------------------------------------------------

typedef struct Term {
    const void *row;
    float factor;
} Term;

enum { HELD = 8 }; // vectors of a row that are added up in registers

// Some vectors of columns of add_terms.
static inline __attribute__((always_inline)) void add_columns(float *sum, const Term *terms,
                                                              int64_t count, int64_t d, int vectors,
                                                              bool on, bool bf16) {
    Lanes held[HELD];
    for (int v = 0; v < vectors; v++) held[v] = on ? lanes_load(sum + d + v * LANES) : (Lanes){0};
    for (int64_t i = 0; i < count; i++) {
        Lanes by = lanes_set(terms[i].factor);
        for (int v = 0; v < vectors; v++)
            held[v] = lanes_fma(by, stored_lanes(terms[i].row, d + v * LANES, bf16), held[v]);
    }
    for (int v = 0; v < vectors; v++) lanes_store(sum + d + v * LANES, held[v]);
}

static inline __attribute__((always_inline)) void
add_some(float *sum, const Term *terms, int64_t count, int64_t D, bool on, bool bf16) {
    int64_t d = 0;
    for (; d + HELD * LANES <= D; d += HELD * LANES)
        add_columns(sum, terms, count, d, HELD, on, bf16);
    for (; d + LANES <= D; d += LANES) add_columns(sum, terms, count, d, 1, on, bf16);
    for (; d < D; d++) {
        if (!on) sum[d] = 0;
        for (int64_t i = 0; i < count; i++)
            sum[d] += terms[i].factor * stored_number(terms[i].row, d, bf16);
    }
}

// sum (D) = Σ factor · row, in their order; on: +=.
static void add_terms(float *sum, const Term *terms, int64_t count, int64_t D, bool on,
                      DType dtype) {
    if (dtype == F32) add_some(sum, terms, count, D, on, false);
    if (dtype != F32) add_some(sum, terms, count, D, on, true);
}

// A binary tree over parts that come one after the other: part p is added up in partial sum
// tree_level(p), and then added to those that it completes.
enum { TREE_LEVELS = 4 }; // of NAMED_PARTS
static inline int tree_level(int64_t p) {
    return __builtin_popcountll((unsigned long long)p);
}

static void add_row(float *to, const float *row, int64_t D) {
    for (int64_t d = 0; d < D; d++) to[d] += row[d];
}

// sums (levels of the tree, D): part p of token m; terms: scratch.
static void sum_part(float *sums, Term *terms, const TokenSlots *token, NamedTables tables,
                     int64_t m, int64_t p) {
    int64_t count = 0, D = tables.rows[0].table.shape[1];
    for (const NamedRows *of = tables.rows; of < tables.rows + tables.count; of++) {
        const float *factors =
            (const float *)of->coefficients.data + m * of->coefficients.shape[1] + of->first_column;
        for (int64_t i = token->from[p]; i < token->from[p + 1]; i++) {
            NamedSlot slot = token->slots[i];
            terms[count++] = (Term){row_at(of->table, slot.row), factors[slot.slot]};
        }
    }
    float *sum = sums + tree_level(p) * D;
    add_terms(sum, terms, count, D, false, tables.rows[0].table.dtype);
    for (; p & 1; p /= 2, sum -= D) add_row(sum - D, sum, D);
}

static size_t sums_scratch_bytes(int64_t K, int64_t D) {
    return (size_t)(NAMED_TABLES * K) * sizeof(Term) + slots_scratch_bytes(K) +
           (size_t)(D * TOKENS * TREE_LEVELS) * sizeof(float);
}

void named_sums_cpu(Device *dev, Tensor out, NamedTables tables, Tensor ids, int64_t parts) {
    int64_t M = out.shape[0], D = out.shape[1], K = ids.shape[1];
    int64_t part_rows = tables.rows[0].table.shape[0] / parts;
    float *to = tensor_f32(out);
#pragma omp parallel
    {
        Term *terms = thread_scratch(sums_scratch_bytes(K, D));
        float *sums = (float *)(terms + NAMED_TABLES * K);
        void *scratch = sums + D * TOKENS * TREE_LEVELS;
        TokenSlots tokens[TOKENS];
#pragma omp for schedule(static)
        for (int64_t first = 0; first < M; first += TOKENS) {
            int64_t count = smaller(M - first, TOKENS);
            order_tokens(tokens, scratch, ids, first, count, tables.rows[0], parts, part_rows);
            for (int64_t p = 0; p < parts; p++)
                for (int64_t i = 0; i < count; i++)
                    sum_part(sums + i * TREE_LEVELS * D, terms, &tokens[i], tables, first + i, p);
            for (int64_t i = 0; i < count; i++)
                memcpy(to + (first + i) * D, sums + i * TREE_LEVELS * D, (size_t)D * sizeof *sums);
        }
    }
}

// ---- the gradient of a table --------------------------------------------------------------------

// A counting sort.
void list_names_cpu(Device *dev, Tensor at, Tensor listed, Tensor ids, int64_t first) {
    int64_t places = tensor_elements(ids), E = listed.shape[0] - 1;
    const int32_t *id = tensor_i32(ids);
    int32_t *list = tensor_i32(at), *begin = tensor_i32(listed), total = 0;
    memset(begin, 0, (size_t)(E + 1) * sizeof *begin);
    for (int64_t i = 0; i < places; i++) {
        int64_t row = row_of(id[i], first, E);
        if (row >= 0) begin[row]++;
    }
    for (int64_t e = 0; e <= E; e++) begin[e] = total += begin[e]; // the ends, for now
    for (int64_t i = places - 1; i >= 0; i--) {
        int64_t row = row_of(id[i], first, E);
        if (row >= 0) list[--begin[row]] = (int32_t)i;
    }
}

// What the gradient of rows is added up of.
typedef struct Places {
    const float *coefficients; // from the first column on
    int64_t W, K, tokens_per_part;
    double inverse_K;
    Tensor x;
} Places;

enum { TERMS = 256 }; // that are looked up at once

static void look_up(Term *terms, const Places *p, const int32_t *at, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        int64_t token = quotient(at[i], p->inverse_K);
        int64_t slot = at[i] - token * p->K;
        terms[i] = (Term){row_at(p->x, token), p->coefficients[token * p->W + slot]};
    }
}

// sum (D) = Σ of the places at[0..count), in their order.
static void sum_many(const Places *p, float *sum, const int32_t *at, int64_t count) {
    Term terms[TERMS];
    for (int64_t first = 0; first < count; first += TERMS) {
        int64_t here = smaller(count - first, TERMS);
        look_up(terms, p, at + first, here);
        add_terms(sum, terms, here, p->x.shape[1], first > 0, p->x.dtype);
    }
}

// How many of ascending places are before one.
static int64_t count_before(const int32_t *at, int64_t count, int64_t place) {
    int32_t before = 0, end = (int32_t)place;
    for (int64_t i = 0; i < count; i++) before += at[i] < end;
    return before;
}

// sum (D) = the binary tree over parts [first_part, first_part + parts) of the places at[0..count).
// terms: of these, or NULL where they are too many. spare: D floats for each level of the tree
// below this one. Parts without places are +0: skipped.
static void sum_parts(const Places *p, float *sum, const int32_t *at, const Term *terms,
                      int64_t count, int64_t first_part, int64_t parts, float *spare) {
    int64_t D = p->x.shape[1];
    if (count == 0 || parts == 1) {
        if (terms || count == 0)
            add_terms(sum, terms, count, D, false, p->x.dtype);
        else
            sum_many(p, sum, at, count);
        return;
    }
    int64_t middle = (first_part + parts / 2) * p->tokens_per_part * p->K;
    int64_t left = count_before(at, count, middle);
    sum_parts(p, sum, at, terms, left, first_part, parts / 2, spare + D);
    if (left == count) return;
    sum_parts(p, spare, at + left, terms ? terms + left : NULL, count - left,
              first_part + parts / 2, parts / 2, spare + D);
    add_row(sum, spare, D);
}

// The gradient of one row.
static void sum_row(const Places *p, float *sum, const int32_t *at, int64_t count, int64_t parts,
                    float *spare) {
    Term terms[TERMS];
    bool few = count <= TERMS;
    if (few) look_up(terms, p, at, count);
    sum_parts(p, sum, at, few ? terms : NULL, count, 0, parts, spare);
}

// Whether any of the rows [first, end) has to be written: it is named, or it was and must become
// zero.
static inline bool any_touched(const int32_t *marks, const int32_t *listed, int64_t first,
                               int64_t end) {
    return !marks || any_listed(listed, first, end) || any_marked(marks, first, end);
}

static int64_t tree_levels(int64_t parts) {
    int64_t levels = 1;
    while ((int64_t)1 << levels <= parts) levels++;
    return levels;
}

static size_t gradient_scratch_bytes(int64_t D, int64_t parts) {
    return (size_t)(tree_levels(parts) * D) * sizeof(float);
}

void named_gradient_cpu(Device *dev, Tensor dtable, Tensor marks, NamedRows rows, Tensor x,
                        Tensor at, Tensor listed, int64_t K, int64_t parts) {
    int64_t E = dtable.shape[0], D = dtable.shape[1];
    const int32_t *list = tensor_i32(at), *begin = tensor_i32(listed);
    int32_t *marked = marks.data ? tensor_i32(marks) : NULL;
    float *gradient = tensor_f32(dtable);
    Places places = {.coefficients = tensor_f32(rows.coefficients) + rows.first_column,
                     .W = rows.coefficients.shape[1],
                     .K = K,
                     .tokens_per_part = x.shape[0] / parts,
                     .inverse_K = inverse_of(K),
                     .x = x};
#pragma omp parallel
    {
        float *spare = thread_scratch(gradient_scratch_bytes(D, parts));
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < E; first += ROW_RUN) {
            int64_t end = row_run_end(first, E);
            if (!any_touched(marked, begin, first, end)) continue;
            for (int64_t e = first; e < end; e++) {
                int64_t count = begin[e + 1] - begin[e];
                if (!any_touched(marked, begin, e, e + 1)) continue;
                sum_row(&places, gradient + e * D, list + begin[e], count, parts, spare);
                if (marked) marked[e] = count > 0;
            }
        }
    }
}

int64_t named_rows_scratch_bytes(int64_t K, int64_t D, int64_t parts) {
    int64_t products = (int64_t)products_scratch_bytes(K, D),
            sums = (int64_t)sums_scratch_bytes(K, D);
    return larger(larger(products, sums), (int64_t)gradient_scratch_bytes(D, parts));
}
