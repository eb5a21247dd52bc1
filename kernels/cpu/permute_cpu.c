#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/stored_rows.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/integers.h"

// A counting sort by (place, part): count, turn counts into first rows, deal the rows out in
// (token, slot) order. Each part counts and deals alone.
void permutation_plan_cpu(Device *dev, Tensor slot_row, Tensor row_choice, Tensor counts,
                          Tensor ids, Tensor kept, Tensor places, int64_t parts,
                          int64_t padded_rows) {
    int64_t choices = tensor_elements(ids), E = counts.shape[0], per_part = choices / parts;
    int64_t runs = E * parts, end = row_choice.shape[0];
    const int32_t *id = tensor_i32(ids), *place = tensor_i32(places);
    const uint8_t *keep = tensor_u8(kept);
    int32_t *row_of = tensor_i32(slot_row), *choice_of = tensor_i32(row_choice);
    int32_t *count = tensor_i32(counts);
    int32_t *next = thread_scratch((size_t)runs * sizeof *next); // first free row of a run
    CHECK(end <= INT32_MAX, "%lld rows to number, at most %d can be", (long long)end, INT32_MAX);
    memset(count, 0, (size_t)runs * sizeof *count);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++)
        for (int64_t c = p * per_part; c < (p + 1) * per_part; c++)
            if (keep[c]) count[place[id[c]] * parts + p]++;
    int64_t rows = 0;
    for (int64_t run = 0; run < runs; run++) {
        CHECK(padded_rows < 0 || count[run] <= padded_rows,
              "the expert at place %lld keeps %d choices of part %lld, room for %lld",
              (long long)(run / parts), count[run], (long long)(run % parts),
              (long long)padded_rows);
        next[run] = (int32_t)rows;
        rows += padded_rows < 0 ? count[run] : padded_rows;
    }
    CHECK(rows <= end, "%lld choices are kept, room for %lld", (long long)rows, (long long)end);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++)
        for (int64_t c = p * per_part; c < (p + 1) * per_part; c++) {
            int32_t row = keep[c] ? next[place[id[c]] * parts + p]++ : -1;
            row_of[c] = row;
            if (row >= 0) choice_of[row] = (int32_t)c;
        }
    // What the choices left of the rows: of each run's own ones, or of all behind the last run.
    for (int64_t run = 0; run < runs && padded_rows >= 0; run++)
        for (int64_t r = next[run]; r < (run + 1) * padded_rows; r++) choice_of[r] = -1;
    for (int64_t r = rows; r < end; r++) choice_of[r] = -1;
}

// What a source rank sends to one of this rank's experts: counts of each of its S shards.
static const int32_t *counts_from(const int32_t *all_counts, ExchangeCut cut, int64_t source,
                                  int64_t e) {
    int64_t local = deal_count(cut.experts, cut.rank);
    return all_counts + local * deal_first(cut.shards, source) + e * deal_count(cut.shards, source);
}

// Rows that an expert of this rank gets from the ranks before `source`.
static int64_t rows_from_before(const int32_t *all_counts, ExchangeCut cut, int64_t source,
                                int64_t e) {
    int64_t rows = 0;
    for (int64_t from = 0; from < source; from++)
        for (int64_t s = 0; s < deal_count(cut.shards, from); s++)
            rows += counts_from(all_counts, cut, from, e)[s];
    return rows;
}

// Returns how many rows there are.
static int64_t place_parts(int64_t *offsets, const int32_t *all_counts, ExchangeCut cut,
                           int64_t parts) {
    int64_t of_part = deal_first(cut.shards, cut.ranks) / parts, row = 0, part = 0;
    for (int64_t e = 0; e < deal_count(cut.experts, cut.rank); e++)
        for (int64_t source = 0; source < cut.ranks; source++)
            for (int64_t s = 0; s < deal_count(cut.shards, source); s++) {
                if ((deal_first(cut.shards, source) + s) % of_part == 0) offsets[part++] = row;
                row += counts_from(all_counts, cut, source, e)[s];
            }
    return offsets[part] = row;
}

// Rows that this rank sends to a chunk of the experts of rank `to`.
static int64_t rows_sent(const int32_t *counts, ExchangeCut cut, int64_t to, int64_t chunk,
                         int64_t chunks) {
    int64_t S = deal_count(cut.shards, cut.rank), experts = deal_count(cut.experts, to) / chunks;
    int64_t first = (deal_first(cut.experts, to) + chunk * experts) * S, rows = 0;
    for (int64_t i = 0; i < experts * S; i++) rows += counts[first + i];
    return rows;
}

// Expert rows are dealt out by (expert, source rank, shard), received rows by (chunk, source rank,
// expert, shard): both walks go through the same runs of rows.
void exchange_plan_cpu(Device *dev, ExchangePlan plan, Tensor counts, Tensor all_counts,
                       ExchangeCut cut, int64_t parts) {
    int64_t chunks = plan.send_rows.shape[0], max_rows = plan.to_expert.shape[0];
    int64_t chunk_experts = deal_count(cut.experts, cut.rank) / chunks;
    const int32_t *count = tensor_i32(all_counts);
    int64_t *offsets = tensor_i64(plan.offsets);
    int32_t *to_expert = tensor_i32(plan.to_expert), *to_received = tensor_i32(plan.to_received);

    int64_t rows = place_parts(offsets, count, cut, parts);
    // When all rows have room the walk below enters each row before the last.
    for (int64_t r = rows <= max_rows ? rows : 0; r < max_rows; r++)
        to_expert[r] = to_received[r] = -1;

    int64_t received = 0;
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        for (int64_t peer = 0; peer < cut.ranks; peer++) {
            int64_t before = received, transfer = chunk * cut.ranks + peer;
            for (int64_t i = 0; i < chunk_experts; i++) {
                int64_t e = chunk * chunk_experts + i;
                int64_t target = offsets[e * parts] + rows_from_before(count, cut, peer, e);
                for (int64_t s = 0; s < deal_count(cut.shards, peer); s++)
                    for (int32_t j = 0; j < counts_from(count, cut, peer, e)[s]; j++) {
                        if (target < max_rows && received < max_rows) {
                            to_expert[target] = (int32_t)received;
                            to_received[received] = (int32_t)target;
                        }
                        received++, target++;
                    }
            }
            tensor_i64(plan.send_rows)[transfer] =
                rows_sent(tensor_i32(counts), cut, peer, chunk, chunks);
            tensor_i64(plan.receive_rows)[transfer] = received - before;
        }
}

void expert_row_numbers_cpu(Device *dev, Tensor numbers, Tensor offsets, Tensor all_counts,
                            Tensor experts, ExchangeCut cut, RowNumbering rule) {
    int64_t local = deal_count(cut.experts, cut.rank);
    const int32_t *expert = tensor_i32(experts) + deal_first(cut.experts, cut.rank);
    int64_t parts = (offsets.shape[0] - 1) / local, room = numbers.shape[0];
    int64_t *number = tensor_i64(numbers);
#pragma omp parallel for schedule(static)
    for (int64_t e = 0; e < local; e++) {
        int64_t row = tensor_i64(offsets)[e * parts];
        for (int64_t source = 0; source < cut.ranks; source++)
            for (int64_t s = 0; s < deal_count(cut.shards, source); s++) {
                int64_t shard = rule.first_shard + deal_first(cut.shards, source) + s;
                int64_t rows = counts_from(tensor_i32(all_counts), cut, source, e)[s];
                for (int64_t i = 0; i < rows && row < room; i++)
                    number[row++] = (expert[e] * rule.shards + shard) * rule.most + i;
            }
    }
}

void gather_rows_cpu(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows,
                     int64_t divisor) {
    size_t row_bytes = (size_t)x.shape[1] * dtype_bytes(x.dtype);
    char *to = out.data;
    const char *from = x.data;
    const int32_t *at = tensor_i32(index);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        if (at[r] < 0) {
            memset(to + (size_t)r * row_bytes, 0, row_bytes);
        } else {
            memcpy(to + (size_t)r * row_bytes, from + (size_t)(at[r] / divisor) * row_bytes,
                   row_bytes);
        }
    }
}

// A token's rows lie anywhere: they are asked for while tokens before it are at work. The processor
// itself follows a row once it is begun.
enum { AHEAD = 4 }; // tokens
static inline void ask_for_rows(Tensor y, const int32_t *rows, int64_t K) {
    enum { LINE = 64, FIRST_LINES = 4 };
    int64_t bytes = y.shape[1] * (int64_t)dtype_bytes(y.dtype);
    for (int64_t c = 0; c < K; c++) {
        const char *row = (const char *)y.data + rows[c] * bytes;
        for (int64_t at = 0; at < smaller(bytes, FIRST_LINES * LINE) && rows[c] >= 0; at += LINE)
            __builtin_prefetch(row + at);
    }
}

enum { HELD = 4 }; // registers of sums

// sum (D) = Σ weight · row of y over a token's kept choices, in their order. wide: D floats.
static void combine_rows(float *sum, Tensor y, const int32_t *rows, const float *weight, int64_t K,
                         float *wide) {
    int64_t D = y.shape[1], d = 0;
    for (; d + HELD * LANES <= D && y.dtype == F32; d += HELD * LANES) {
        Lanes held[HELD] = {{0}};
        for (int64_t c = 0; c < K; c++) {
            if (rows[c] < 0) continue;
            const float *part = tensor_f32(y) + rows[c] * D + d;
            Lanes w = lanes_set(weight ? weight[c] : 1.0f);
            for (int v = 0; v < HELD; v++) held[v] += w * lanes_load(part + v * LANES);
        }
        for (int v = 0; v < HELD; v++) lanes_store(sum + d + v * LANES, held[v]);
    }
    if (d == D) return;
    memset(sum + d, 0, (size_t)(D - d) * sizeof *sum);
    for (int64_t c = 0; c < K; c++) {
        if (rows[c] < 0) continue;
        const float *part = row_as_f32(y, rows[c], wide);
        float w = weight ? weight[c] : 1.0f;
        for (int64_t i = d; i < D; i++) sum[i] += w * part[i];
    }
}

void combine_forward_cpu(Device *dev, Tensor out, Tensor y, Tensor slot_row, Tensor weights) {
    int64_t N = out.shape[0], D = out.shape[1], K = slot_row.shape[1];
    const float *weight = weights.data ? tensor_f32(weights) : NULL;
    const int32_t *row = tensor_i32(slot_row);
    bool wide = out.dtype == F32;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        float *spare = wide ? NULL : thread_scratch((size_t)(2 * D) * sizeof *spare);
        float *sum = wide ? tensor_f32(out) + n * D : spare + D;
        if (n + AHEAD < N) ask_for_rows(y, row + (n + AHEAD) * K, K);
        combine_rows(sum, y, row + n * K, weight ? weight + n * K : NULL, K, spare);
        if (!wide) round_to_bf16(tensor_bf16(out) + n * D, sum, D);
    }
}

static void clear_padding(Tensor x, Tensor row_choice) {
    size_t row_bytes = (size_t)x.shape[1] * dtype_bytes(x.dtype);
    const int32_t *choice = tensor_i32(row_choice);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < row_choice.shape[0]; r++)
        if (choice[r] < 0) memset((char *)x.data + (size_t)r * row_bytes, 0, row_bytes);
}

void combine_backward_cpu(Device *dev, Tensor dy, Tensor dweights, Tensor dout, Tensor y,
                          Tensor slot_row, Tensor row_choice, Tensor weights) {
    int64_t N = dout.shape[0], D = dout.shape[1], K = slot_row.shape[1];
    float *dweight = tensor_f32(dweights);
    const float *weight = tensor_f32(weights);
    const int32_t *row = tensor_i32(slot_row);
    bool wide = dout.dtype == F32;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        float *spare = wide ? NULL : thread_scratch((size_t)(2 * D) * sizeof *spare);
        const float *dsum = row_as_f32(dout, n, spare);
        float *narrow = wide ? NULL : spare + D; // a row of y, then of dy
        if (n + AHEAD < N) ask_for_rows(y, row + (n + AHEAD) * K, K);
        for (int64_t c = n * K; c < (n + 1) * K; c++) {
            dweight[c] = 0.0f;
            if (row[c] < 0) continue;
            // Read y before dy overwrites it: they may be one.
            dweight[c] = dot_product(dsum, row_as_f32(y, row[c], narrow), D);
            float *to = wide ? tensor_f32(dy) + row[c] * D : narrow;
            for (int64_t d = 0; d < D; d++) to[d] = weight[c] * dsum[d];
            if (!wide) round_to_bf16(tensor_bf16(dy) + row[c] * D, narrow, D);
        }
    }
    if (row_choice.data) clear_padding(dy, row_choice);
}

void renormalize_forward_cpu(Device *dev, Tensor scaled, Tensor weights, Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    float *to = tensor_f32(scaled);
    const float *weight = tensor_f32(weights);
    const uint8_t *keep = tensor_u8(kept);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        float sum = 0.0f;
        for (int64_t c = n * K; c < (n + 1) * K; c++) sum += keep[c] ? weight[c] : 0.0f;
        for (int64_t c = n * K; c < (n + 1) * K; c++)
            to[c] = keep[c] && sum > 0.0f ? weight[c] / sum : 0.0f;
    }
}

// s_k = w_k / Σ w over the kept: dw_k = (ds_k - Σ_j ds_j s_j) / Σ w
void renormalize_backward_cpu(Device *dev, Tensor dscaled, Tensor scaled, Tensor weights,
                              Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    float *gradient = tensor_f32(dscaled);
    const float *weight = tensor_f32(weights), *share = tensor_f32(scaled);
    const uint8_t *keep = tensor_u8(kept);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        float sum = 0.0f, mean = 0.0f;
        for (int64_t c = n * K; c < (n + 1) * K; c++) {
            sum += keep[c] ? weight[c] : 0.0f;
            mean += keep[c] ? gradient[c] * share[c] : 0.0f;
        }
        for (int64_t c = n * K; c < (n + 1) * K; c++)
            gradient[c] = keep[c] && sum > 0.0f ? (gradient[c] - mean) / sum : 0.0f;
    }
}
