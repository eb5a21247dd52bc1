// What the passes of attention share: where heads lie in memory, tiles padded with zeros, their
// small matrix products, what a query sees and where its softmax begins.
//
// Scores are kept transposed, a row for each key and a column for each query: the softmax then runs
// down columns, 16 queries at a time, and needs no sums across lanes. Tiles are f32: what is stored
// as bf16 is widened when it is copied in, and results are rounded when they are copied out.
#ifndef MOETRAIN_KERNELS_CPU_ATTENTION_TILE_H
#define MOETRAIN_KERNELS_CPU_ATTENTION_TILE_H

#include <math.h>
#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/register_tile.h"
#include "kernels/integers.h"
#include "kernels/kernels.h"

enum { BLOCK = 64 }; // queries and keys of a block of scores

static inline int64_t round_up(int64_t n, int64_t step) {
    return (n + step - 1) / step * step;
}

// ---- storage ------------------------------------------------------------------------------------

// Elements of a tensor, f32 or bf16.
typedef struct Stored {
    void *data;
    DType type;
} Stored;

static inline Stored stored(Tensor x) {
    return (Stored){x.dtype == BF16 ? (void *)tensor_bf16(x) : (void *)tensor_f32(x), x.dtype};
}
static inline Stored stored_at(Stored x, int64_t element) {
    return (Stored){(char *)x.data + element * (x.type == BF16 ? 2 : 4), x.type};
}

// n elements as f32: where they are, or widened into `room`.
static inline const float *as_f32(Stored x, int64_t n, float *room) {
    if (x.type == F32) return x.data;
    widen_bf16(room, x.data, n);
    return room;
}

// ---- a small matrix product ---------------------------------------------------------------------

// A row-major matrix of lanes-padded rows.
typedef struct Rows {
    float *data;
    int64_t width; // floats from row to row, a multiple of LANES
} Rows;

static inline __attribute__((always_inline)) void multiply_with(Rows c, Factor a, Rows b,
                                                                int64_t rows, int64_t columns,
                                                                int64_t depth, const bool add) {
    for (int64_t i = 0, height; i < rows; i += height) {
        Factor part = {a.data + i * a.row, a.row, a.column};
        float *to = c.data + i * c.width;
        int64_t j = 0;
        height = tile_height(rows - i);
        for (; j + REGISTER_COLUMNS <= columns; j += REGISTER_COLUMNS)
            multiply_tile(to + j, c.width, part, b.data + j, b.width, depth, height, 2, add);
        if (j < columns)
            multiply_tile(to + j, c.width, part, b.data + j, b.width, depth, height, 1, add);
    }
}

// c (rows, columns) = a (rows, depth) b (depth, columns); rows a multiple of ROW_STEP, columns of
// LANES.
static inline void multiply(Rows c, Factor a, Rows b, int64_t rows, int64_t columns,
                            int64_t depth) {
    multiply_with(c, a, b, rows, columns, depth, false);
}

// c += a b
static inline void multiply_add(Rows c, Factor a, Rows b, int64_t rows, int64_t columns,
                                int64_t depth) {
    multiply_with(c, a, b, rows, columns, depth, true);
}

// ---- tiles --------------------------------------------------------------------------------------

static inline Rows row_at(Rows r, int64_t row) {
    return (Rows){r.data + row * r.width, r.width};
}
static inline Rows column_at(Rows r, int64_t column) {
    return (Rows){r.data + column, r.width};
}
static inline Factor plain(Rows r) {
    return (Factor){r.data, r.width, 1};
}
static inline Factor transposed(Rows r) {
    return (Factor){r.data, 1, r.width};
}

static inline Rows take(float **memory, int64_t rows, int64_t width) {
    Rows r = {*memory, width};
    *memory += rows * width;
    return r;
}

static inline void clear(Rows r, int64_t rows) {
    memset(r.data, 0, (size_t)(rows * r.width) * sizeof(float));
}

static inline void copy_row(float *to, const float *from, int64_t columns) {
    int64_t j = 0;
    for (; j + LANES <= columns; j += LANES) lanes_store(to + j, lanes_load(from + j));
    for (; j < columns; j++) to[j] = from[j];
}

static inline void load_row(float *to, Stored from, int64_t columns) {
    if (from.type == F32) {
        copy_row(to, from.data, columns);
    } else {
        widen_bf16(to, from.data, columns);
    }
}

static inline void store_row(Stored to, const float *from, int64_t columns) {
    if (to.type == F32) {
        copy_row(to.data, from, columns);
    } else {
        round_to_bf16(to.data, from, columns);
    }
}

// to (padded_rows, to.width) = from (rows, columns) with zeros around it. The rows of a head lie
// far apart, where the processor's own prefetching does not follow.
static inline __attribute__((always_inline)) void pack_with(Rows to, int64_t padded_rows,
                                                            Stored from, int64_t from_width,
                                                            int64_t rows, int64_t columns) {
    enum { LINE = 16 };
    for (int64_t i = 0; i < rows; i++) {
        Stored row = stored_at(from, i * from_width);
        for (int64_t j = 0; j < columns; j += LINE)
            __builtin_prefetch(stored_at(row, columns + j).data);
        load_row(to.data + i * to.width, row, columns);
        for (int64_t j = columns; j < to.width; j++) to.data[i * to.width + j] = 0.0f;
    }
    clear(row_at(to, rows), padded_rows - rows);
}

static inline void pack(Rows to, int64_t padded_rows, Stored from, int64_t from_width, int64_t rows,
                        int64_t columns) {
    if (from.type == F32) { // the type known to the loops
        pack_with(to, padded_rows, (Stored){from.data, F32}, from_width, rows, columns);
    } else {
        pack_with(to, padded_rows, (Stored){from.data, BF16}, from_width, rows, columns);
    }
}

// to (columns, rows) = from (rows, columns)ᵀ · scale
static inline void transpose_scaled(Rows to, Rows from, int64_t rows, int64_t columns,
                                    float scale) {
    transpose(to.data, to.width, from.data, from.width, rows, columns);
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rows; i++) to.data[j * to.width + i] *= scale;
}

static inline __attribute__((always_inline)) void
unpack_with(Stored to, int64_t to_width, Rows from, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i++)
        store_row(stored_at(to, i * to_width), from.data + i * from.width, columns);
}
static inline void unpack(Stored to, int64_t to_width, Rows from, int64_t rows, int64_t columns) {
    if (to.type == F32) {
        unpack_with((Stored){to.data, F32}, to_width, from, rows, columns);
    } else {
        unpack_with((Stored){to.data, BF16}, to_width, from, rows, columns);
    }
}

// The rule of the sequence whose first row is `row`.
static inline AttentionRule rule_of_sequence(AttentionRule rule, int64_t row) {
    if (rule.positions.data) rule.positions = tensor_range(rule.positions, row, rule.T);
    return rule;
}

// The keys that the query at `query` sees begin here: 0, `window` - 1 tokens before it, or where
// its document does. Queries behind the sequence see what the last one sees. It never falls.
static inline int64_t first_key_seen(AttentionRule rule, int64_t query) {
    int64_t first = rule.window > 0 && query >= rule.window ? query - rule.window + 1 : 0;
    if (!rule.positions.data) return first;
    int64_t row = smaller(query, rule.T - 1), document = row - tensor_i32(rule.positions)[row];
    return document > first ? document : first;
}

// The last of them: its own, or of a bidirectional rule the last one whose query sees its. It never
// falls, either.
static inline int64_t last_key_seen(AttentionRule rule, int64_t query) {
    int64_t first = query, last = rule.bidirectional ? rule.T - 1 : query; // it is one of these
    while (first < last) {
        int64_t middle = (first + last + 1) / 2;
        if (first_key_seen(rule, middle) <= query)
            first = middle;
        else
            last = middle - 1;
    }
    return first;
}

// Of the keys of a block, how many some query of [query, query + LANES) may see. A diagonal block
// is one whose keys and queries are the same tokens and where no query sees a later key.
static inline int64_t keys_seen(int64_t keys, int64_t query, bool diagonal) {
    return diagonal ? smaller(keys, query + LANES) : keys;
}

// Hides the later keys in the only squares of a diagonal block that are partly seen.
static inline void mask(Rows scores, int64_t keys) {
    for (int64_t key = 0; key < keys; key++)
        for (int64_t query = key / LANES * LANES; query < key; query++)
            scores.data[key * scores.width + query] = -INFINITY;
}

// Hides the keys that lie before the window or the document of a query: in a block of keys [key, …)
// and queries [query, query + queries).
static inline void mask_early(Rows scores, AttentionRule rule, int64_t key, int64_t keys,
                              int64_t query, int64_t queries) {
    if (first_key_seen(rule, query + queries - 1) <= key) return;
    for (int64_t i = 0; i < queries && rule.positions.data; i++) {
        int64_t hidden = smaller(first_key_seen(rule, query + i) - key, keys);
        for (int64_t j = 0; j < hidden; j++) scores.data[j * scores.width + i] = -INFINITY;
    }
    for (int64_t j = 0; j < keys && !rule.positions.data; j++) {
        int64_t first = key + j + rule.window - query; // of the queries that are too late for it
        for (int64_t i = first > 0 ? first : 0; i < queries; i++)
            scores.data[j * scores.width + i] = -INFINITY;
    }
}

// Hides the keys that lie behind the last one that a query sees, of a bidirectional rule, and those
// behind the sequence.
static inline void mask_late(Rows scores, AttentionRule rule, int64_t key, int64_t keys,
                             int64_t query, int64_t queries) {
    for (int64_t j = 0; j < keys; j++) {
        int64_t first = key + j < rule.T ? first_key_seen(rule, key + j) - query : queries;
        for (int64_t i = 0; i < smaller(first, queries); i++)
            scores.data[j * scores.width + i] = -INFINITY;
    }
}

// Where head h and its key/value head lie in a row of the fused projection.
static inline int64_t query_column(AttentionShape s, int64_t h) {
    return h * s.d_head;
}
static inline int64_t key_column(AttentionShape s, int64_t kv) {
    return (s.heads + kv) * s.d_head;
}
static inline int64_t value_column(AttentionShape s, int64_t kv) {
    return (s.heads + s.kv_heads) * s.d_head + kv * s.d_value;
}

// Less than any score, and finite: the difference of two of them is no NaN, which counts where a
// window hides the first block of keys from a query.
#define NOTHING_SEEN (-0x1p100f)

// Where the running softmax of a head begins: as if it had seen one score, `largest`, whose
// exponential adds to the normaliser and to no output.
typedef struct SoftmaxStart {
    float largest, normaliser;
} SoftmaxStart;

static inline SoftmaxStart softmax_start(AttentionRule rule, int64_t h) {
    switch (rule.softmax) {
    case SOFTMAX_PLAIN:
        break;
    case SOFTMAX_OFF_BY_ONE:
        return (SoftmaxStart){0.0f, 1.0f};
    case SOFTMAX_SINK:
        return (SoftmaxStart){tensor_f32(rule.sinks)[h], 1.0f};
    }
    return (SoftmaxStart){NOTHING_SEEN, 0.0f};
}

#endif
