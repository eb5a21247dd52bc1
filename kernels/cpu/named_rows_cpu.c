#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/stored_rows.h"
#include "kernels/cpu/vector_math.h"

// The row of a number, or -1 where it has none here.
static inline int64_t row_of(int32_t id, int64_t first, int64_t E) {
    int64_t row = id - first;
    return row >= 0 && row < E ? row : -1;
}

// A row as f32, as row_as_f32 has it, inlined into loops over rows.
static inline const float *numbered_row(Tensor x, int64_t row, float *spare) {
    return x.dtype == F32 ? (const float *)x.data + row * x.shape[1] : row_as_f32(x, row, spare);
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

enum { TOGETHER = 4 }; // rows that are multiplied by x at once, so that x is loaded once

// The sums of four vectors, each as lanes_sum adds it, side by side.
static inline void sum_lanes(float totals[TOGETHER], const Lanes sums[TOGETHER]) {
    float x[LANES][TOGETHER];
    for (int i = 0; i < TOGETHER; i++)
        for (int lane = 0; lane < LANES; lane++) x[lane][i] = sums[i][lane];
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; lane++)
            for (int i = 0; i < TOGETHER; i++) x[lane][i] += x[lane + width][i];
    memcpy(totals, x[0], sizeof x[0]);
}

// products[i] = x · rows[i]: one vector of partial sums each, then the tail.
static void multiply_rows(float *products, const float *x, const float *const *rows, int64_t D) {
    Lanes sums[TOGETHER] = {0};
    int64_t d = 0;
    for (; d + LANES <= D; d += LANES) {
        Lanes here = lanes_load(x + d);
        for (int i = 0; i < TOGETHER; i++)
            sums[i] = lanes_fma(here, lanes_load(rows[i] + d), sums[i]);
    }
    sum_lanes(products, sums);
    for (int i = 0; i < TOGETHER; i++) {
        for (int64_t t = d; t < D; t++) products[i] += x[t] * rows[i][t];
    }
}

// Of one token, whose slots are `found`; room: a row for each of those at once.
static void token_products(float *to, const float *x, Tensor table, const NamedSlot *found,
                           int64_t count, float *room) {
    int64_t D = table.shape[1], ahead = is_far(table) ? TOGETHER : 0;
    for (int64_t i = 0; i < count; i += TOGETHER) {
        const float *rows[TOGETHER];
        float products[TOGETHER];
        int64_t here = count - i < TOGETHER ? count - i : TOGETHER;
        for (int64_t j = i + TOGETHER; j < i + TOGETHER + ahead && j < count; j++)
            ask_for_row(table, found[j].row);
        for (int64_t j = 0; j < TOGETHER; j++) // the last group has its last row several times
            rows[j] =
                j < here ? numbered_row(table, found[i + j].row, room + j * D) : rows[here - 1];
        multiply_rows(products, x, rows, D);
        for (int64_t j = 0; j < here; j++) to[found[i + j].slot] = products[j];
    }
}

void named_products_cpu(Device *dev, NamedRows out, Tensor x, Tensor ids) {
    int64_t M = x.shape[0], D = x.shape[1], K = ids.shape[1], W = out.coefficients.shape[1];
    int64_t rooms = (TOGETHER + 1) * D;
#pragma omp parallel
    {
        NamedSlot *found =
            thread_scratch((size_t)K * sizeof *found + (size_t)rooms * sizeof(float));
        float *room = (float *)(found + K);
#pragma omp for schedule(static)
        for (int64_t m = 0; m < M; m++) {
            const int32_t *id = tensor_i32(ids) + m * K;
            float *to = tensor_f32(out.coefficients) + m * W + out.first_column;
            int64_t count = find_slots(found, id, K, out.first, out.table.shape[0]);
            if (count < K) memset(to, 0, (size_t)K * sizeof *to);
            token_products(to, row_as_f32(x, m, room + TOGETHER * D), out.table, found, count,
                           room);
        }
    }
}

// ---- sums ---------------------------------------------------------------------------------------

enum { HELD = 8 }; // vectors of a row that are added up in registers

// sum += Σ factors · rows, in their order, for n columns of each.
static void add_rows(float *sum, const float *factors, const float *const *rows, int64_t count,
                     int64_t n) {
    int64_t d = 0;
    for (; d + HELD * LANES <= n; d += HELD * LANES) {
        Lanes held[HELD];
        for (int v = 0; v < HELD; v++) held[v] = lanes_load(sum + d + v * LANES);
        for (int64_t i = 0; i < count; i++) {
            Lanes by = lanes_set(factors[i]);
            for (int v = 0; v < HELD; v++)
                held[v] = lanes_fma(by, lanes_load(rows[i] + d + v * LANES), held[v]);
        }
        for (int v = 0; v < HELD; v++) lanes_store(sum + d + v * LANES, held[v]);
    }
    for (; d + LANES <= n; d += LANES) {
        Lanes held = lanes_load(sum + d);
        for (int64_t i = 0; i < count; i++)
            held = lanes_fma(lanes_set(factors[i]), lanes_load(rows[i] + d), held);
        lanes_store(sum + d, held);
    }
    for (int64_t i = 0; i < count; i++)
        for (int64_t t = d; t < n; t++) sum[t] += factors[i] * rows[i][t];
}

// Rows and their factors, which are added up when there are many or when they end; rows of bf16 are
// widened meanwhile.
enum { GATHERED = 16 };
typedef struct Gathering {
    float *sum; // (D)
    int64_t D;
    float *room; // (GATHERED, D)
    float factors[GATHERED];
    const float *rows[GATHERED];
    int64_t count;
} Gathering;

static inline void add_gathered(Gathering *g) {
    add_rows(g->sum, g->factors, g->rows, g->count, g->D);
    g->count = 0;
}

static inline void gather(Gathering *g, float factor, Tensor from, int64_t row) {
    g->factors[g->count] = factor;
    g->rows[g->count] = numbered_row(from, row, g->room + g->count * g->D);
    if (++g->count == GATHERED) add_gathered(g);
}

// Puts the slots in the order of their parts, `rows` of a table each, and of a part in their own;
// those of part p are from[p] … from[p + 1] - 1.
static void order_by_part(NamedSlot *ordered, int64_t *from, const NamedSlot *found, int64_t count,
                          int64_t parts, int64_t part_rows) {
    int64_t at[NAMED_PARTS] = {0};
    uint32_t rows = (uint32_t)part_rows; // which divides faster than 64 bits
    for (int64_t i = 0; i < count; i++) at[(uint32_t)found[i].row / rows]++;
    from[0] = 0;
    for (int64_t p = 0; p < parts; p++) {
        from[p + 1] = from[p] + at[p];
        at[p] = from[p];
    }
    for (int64_t i = 0; i < count; i++) ordered[at[(uint32_t)found[i].row / rows]++] = found[i];
}

// sums (parts, D): row 0 becomes the tree over all of them.
static void add_tree(float *sums, int64_t parts, int64_t D) {
    for (int64_t apart = 1; apart < parts; apart *= 2)
        for (int64_t p = 0; p < parts; p += 2 * apart)
            for (int64_t d = 0; d < D; d++) sums[p * D + d] += sums[(p + apart) * D + d];
}

void named_sums_cpu(Device *dev, Tensor out, NamedTables tables, Tensor ids, int64_t parts) {
    const NamedRows *rows = tables.rows;
    int64_t M = out.shape[0], D = out.shape[1], K = ids.shape[1], E = rows[0].table.shape[0];
    int64_t rooms = (parts + GATHERED) * D;
    bool far = is_far(rows[0].table);
#pragma omp parallel
    {
        NamedSlot *found =
            thread_scratch((size_t)(2 * K) * sizeof *found + (size_t)rooms * sizeof(float));
        NamedSlot *ordered = found + K;
        float *sums = (float *)(ordered + K);
        int64_t from[NAMED_PARTS + 1];
#pragma omp for schedule(static)
        for (int64_t m = 0; m < M; m++) {
            int64_t count = find_slots(found, tensor_i32(ids) + m * K, K, rows[0].first, E);
            for (int64_t t = 0; t < tables.count && far; t++)
                for (int64_t i = 0; i < count; i++) ask_for_row(rows[t].table, found[i].row);
            order_by_part(ordered, from, found, count, parts, E / parts);
            memset(sums, 0, (size_t)(parts * D) * sizeof *sums);
            for (int64_t p = 0; p < parts; p++) {
                Gathering g = {.sum = sums + p * D, .D = D, .room = sums + parts * D};
                for (int64_t t = 0; t < tables.count; t++) {
                    const float *factors = (const float *)rows[t].coefficients.data +
                                           m * rows[t].coefficients.shape[1] + rows[t].first_column;
                    for (int64_t i = from[p]; i < from[p + 1]; i++)
                        gather(&g, factors[ordered[i].slot], rows[t].table, ordered[i].row);
                }
                add_gathered(&g);
            }
            add_tree(sums, parts, D);
            memcpy(tensor_f32(out) + m * D, sums, (size_t)D * sizeof *sums);
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

// What a row's gradient is added up of.
typedef struct Places {
    const float *coefficients; // from the first column on
    int64_t W, K, tokens_per_part;
    Tensor x;
} Places;

// sum (D) = the binary tree over parts [first_part, first_part + parts) of the places at[0..count).
// spare: D floats for each level of the tree below this one, and those of a Gathering. Parts
// without places are +0: skipped.
static void sum_parts(const Places *p, float *sum, const int32_t *at, int64_t count,
                      int64_t first_part, int64_t parts, float *spare) {
    int64_t D = p->x.shape[1];
    if (count == 0 || parts == 1) {
        Gathering g = {.sum = sum, .D = D, .room = spare};
        memset(sum, 0, (size_t)D * sizeof *sum);
        for (int64_t i = 0; i < count; i++) {
            int64_t token = (uint32_t)at[i] / (uint32_t)p->K, slot = at[i] - token * p->K;
            gather(&g, p->coefficients[token * p->W + slot], p->x, token);
        }
        add_gathered(&g);
        return;
    }
    int64_t middle = (first_part + parts / 2) * p->tokens_per_part * p->K, left = 0;
    while (left < count && at[left] < middle) left++;
    sum_parts(p, sum, at, left, first_part, parts / 2, spare + D);
    if (left == count) return;
    sum_parts(p, spare, at + left, count - left, first_part + parts / 2, parts / 2, spare + D);
    for (int64_t d = 0; d < D; d++) sum[d] += spare[d];
}

// Whether a row has to be written: it is named, or it was and must become zero; marks it.
static inline bool is_touched(int32_t *marks, int64_t e, bool named) {
    if (!marks) return true;
    bool touched = named || marks[e] != 0;
    if (touched) marks[e] = named;
    return touched;
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
                     .x = x};
    int64_t levels = 1;
    while ((int64_t)1 << levels <= parts) levels++;
#pragma omp parallel
    {
        float *spare = thread_scratch((size_t)((levels + GATHERED) * D) * sizeof *spare);
#pragma omp for schedule(dynamic, 64)
        for (int64_t e = 0; e < E; e++)
            if (is_touched(marked, e, begin[e + 1] > begin[e]))
                sum_parts(&places, tensor_f32(dtable) + e * D, list + begin[e],
                          begin[e + 1] - begin[e], 0, parts, spare);
    }
}

int64_t named_rows_scratch_bytes(int64_t K, int64_t D, int64_t parts) {
    int64_t levels = 1;
    while ((int64_t)1 << levels <= parts) levels++;
    int64_t sums = 2 * K * (int64_t)sizeof(NamedSlot) + (NAMED_PARTS + GATHERED) * D * 4;
    int64_t gradient = (levels + GATHERED) * D * 4;
    return sums > gradient ? sums : gradient;
}
