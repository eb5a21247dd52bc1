#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/marked_rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/stored_rows.h"
#include "kernels/cpu/vector_math.h"

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

// Quotients of numbers below 2^31, faster than by a division: half a number is too much for an
// error of rounding to reach the next.
static inline double inverse_of(int64_t divisor) {
    return 1 / (double)divisor;
}

static inline int64_t quotient(int32_t number, double inverse) {
    return (int32_t)(((double)number + 0.5) * inverse);
}

// The rows that a token names and that are here, in the order of its slots.
typedef struct NamedSlot {
    int32_t row, slot;
} NamedSlot;

static int64_t find_slots(NamedSlot *found, const int32_t *ids, int64_t K, int64_t first,
                          int64_t E) {
    int64_t count = 0;
    for (int64_t k = 0; k < K; k++) {
        int64_t row = row_of(ids[k], first, E);
        if (row >= 0) found[count++] = (NamedSlot){(int32_t)row, (int32_t)k};
    }
    return count;
}

// ---- products -----------------------------------------------------------------------------------

enum { TOGETHER = 8, FEW_TOGETHER = 4 }; // rows multiplied by x at once, so that x is loaded once

typedef float FourSums __attribute__((vector_size(16)));

// As lanes_sum begins, down to four.
static inline FourSums sum_to_four(Lanes v) {
    FourSums parts[LANES / 4];
    memcpy(parts, &v, sizeof parts);
    for (int width = LANES / 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++) parts[i] += parts[i + width];
    return parts[0];
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
    for (; d + LANES <= D; d += LANES) {
        Lanes here = lanes_load(x + d);
        for (int i = 0; i < count; i++)
            sums[i] = lanes_fma(here, stored_lanes(rows[i], d, bf16), sums[i]);
    }
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

void named_products_cpu(Device *dev, NamedRows out, Tensor x, Tensor ids) {
    int64_t M = x.shape[0], D = x.shape[1], K = ids.shape[1], W = out.coefficients.shape[1];
#pragma omp parallel
    {
        NamedSlot *found = thread_scratch((size_t)K * sizeof *found + (size_t)D * sizeof(float));
        float *spare = (float *)(found + K);
#pragma omp for schedule(static)
        for (int64_t m = 0; m < M; m++) {
            const int32_t *id = tensor_i32(ids) + m * K;
            float *to = tensor_f32(out.coefficients) + m * W + out.first_column;
            int64_t count = find_slots(found, id, K, out.first, out.table.shape[0]);
            if (count < K) memset(to, 0, (size_t)K * sizeof *to);
            token_products(to, row_as_f32(x, m, spare), out.table, found, count);
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

// Tokens that go through the parts of a table together: a part stays in a cache, where the table
// may not.
enum { TOKENS = 16 };

// Slots in the order of their parts, and of a part in their own: those of part p are
// slots[from[p]] … slots[from[p + 1] - 1].
typedef struct Ordered {
    NamedSlot *slots;
    int64_t from[NAMED_PARTS + 1];
} Ordered;

static void order_by_part(Ordered *to, const NamedSlot *found, int64_t count, int64_t parts,
                          int64_t part_rows) {
    int64_t at[NAMED_PARTS] = {0};
    double inverse = inverse_of(part_rows);
    for (int64_t i = 0; i < count; i++) at[quotient(found[i].row, inverse)]++;
    to->from[0] = 0;
    for (int64_t p = 0; p < parts; p++) {
        to->from[p + 1] = to->from[p] + at[p];
        at[p] = to->from[p];
    }
    for (int64_t i = 0; i < count; i++) to->slots[at[quotient(found[i].row, inverse)]++] = found[i];
}

// sums (levels of the tree, D): part p of token m.
static void sum_part(float *sums, Term *terms, const Ordered *ordered, NamedTables tables,
                     int64_t m, int64_t p) {
    int64_t count = 0, D = tables.rows[0].table.shape[1];
    for (int64_t t = 0; t < tables.count; t++) {
        NamedRows rows = tables.rows[t];
        const float *factors = (const float *)rows.coefficients.data +
                               m * rows.coefficients.shape[1] + rows.first_column;
        for (int64_t i = ordered->from[p]; i < ordered->from[p + 1]; i++) {
            NamedSlot slot = ordered->slots[i];
            terms[count++] = (Term){row_at(rows.table, slot.row), factors[slot.slot]};
        }
    }
    float *sum = sums + tree_level(p) * D;
    add_terms(sum, terms, count, D, false, tables.rows[0].table.dtype);
    for (; p & 1; p /= 2, sum -= D) add_row(sum - D, sum, D);
}

static size_t sums_scratch_bytes(int64_t K, int64_t D) {
    return (size_t)K * (NAMED_TABLES * sizeof(Term) + (TOKENS + 1) * sizeof(NamedSlot)) +
           (size_t)D * TOKENS * TREE_LEVELS * sizeof(float);
}

void named_sums_cpu(Device *dev, Tensor out, NamedTables tables, Tensor ids, int64_t parts) {
    const NamedRows *rows = tables.rows;
    int64_t M = out.shape[0], D = out.shape[1], K = ids.shape[1], E = rows[0].table.shape[0];
#pragma omp parallel
    {
        Term *terms = thread_scratch(sums_scratch_bytes(K, D));
        NamedSlot *found = (NamedSlot *)(terms + NAMED_TABLES * K), *slots = found + K;
        float *sums = (float *)(slots + TOKENS * K);
        Ordered ordered[TOKENS];
        for (int64_t i = 0; i < TOKENS; i++) ordered[i].slots = slots + i * K;
#pragma omp for schedule(static)
        for (int64_t first = 0; first < M; first += TOKENS) {
            int64_t count = M - first < TOKENS ? M - first : TOKENS;
            for (int64_t i = 0; i < count; i++) {
                int64_t here =
                    find_slots(found, tensor_i32(ids) + (first + i) * K, K, rows[0].first, E);
                order_by_part(&ordered[i], found, here, parts, E / parts);
            }
            for (int64_t p = 0; p < parts; p++)
                for (int64_t i = 0; i < count; i++)
                    sum_part(sums + i * TREE_LEVELS * D, terms, &ordered[i], tables, first + i, p);
            for (int64_t i = 0; i < count; i++)
                memcpy(tensor_f32(out) + (first + i) * D, sums + i * TREE_LEVELS * D,
                       (size_t)D * sizeof *sums);
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

// sum (D) = Σ of the places at[0..count), in their order.
static void sum_places(const Places *p, float *sum, const int32_t *at, int64_t count) {
    Term terms[TERMS];
    for (int64_t first = 0; first == 0 || first < count; first += TERMS) {
        int64_t here = count - first < TERMS ? count - first : TERMS;
        for (int64_t i = 0; i < here; i++) {
            int64_t token = quotient(at[first + i], p->inverse_K);
            int64_t slot = at[first + i] - token * p->K;
            terms[i] = (Term){row_at(p->x, token), p->coefficients[token * p->W + slot]};
        }
        add_terms(sum, terms, here, p->x.shape[1], first > 0, p->x.dtype);
    }
}

// sum (D) = the binary tree over parts [first_part, first_part + parts) of the places at[0..count).
// spare: D floats for each level of the tree below this one. Parts without places are +0: skipped.
static void sum_parts(const Places *p, float *sum, const int32_t *at, int64_t count,
                      int64_t first_part, int64_t parts, float *spare) {
    int64_t D = p->x.shape[1];
    if (count == 0 || parts == 1) {
        sum_places(p, sum, at, count);
        return;
    }
    int64_t middle = (first_part + parts / 2) * p->tokens_per_part * p->K, left = 0;
    while (left < count && at[left] < middle) left++;
    sum_parts(p, sum, at, left, first_part, parts / 2, spare + D);
    if (left == count) return;
    sum_parts(p, spare, at + left, count - left, first_part + parts / 2, parts / 2, spare + D);
    add_row(sum, spare, D);
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
                sum_parts(&places, tensor_f32(dtable) + e * D, list + begin[e], count, 0, parts,
                          spare);
                if (marked) marked[e] = count > 0;
            }
        }
    }
}

int64_t named_rows_scratch_bytes(int64_t K, int64_t D, int64_t parts) {
    size_t sums = sums_scratch_bytes(K, D), gradient = gradient_scratch_bytes(D, parts);
    return (int64_t)(sums > gradient ? sums : gradient);
}
