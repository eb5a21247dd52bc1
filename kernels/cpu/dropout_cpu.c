#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/philox.h"

enum { TILE = 1024 }; // elements at a time

// What an element is multiplied by, and where that is 0.
typedef struct Keep {
    uint32_t least; // words below it drop
    float scale;
} Keep;

static Keep keep_of(double rate) {
    return (Keep){(uint32_t)(rate * 0x1p32 + 0.5), (float)(1.0 / (1.0 - rate))};
}

// Elements of which the first is number `number` of the stream.
static void drop_tile(Tensor out, Tensor x, int64_t at, int64_t count, RngStream stream,
                      uint64_t number, Keep keep) {
    uint32_t words[TILE + 4 * (PHILOX_LANES + 2)];
    float room[TILE];
    int64_t before = (int64_t)(number % 4); // words of the first four that belong to others
    philox_words(words, stream, number / 4, (before + count + 3) / 4);
    const uint32_t *word = words + before;
    const float *from = x.dtype == F32 ? tensor_f32(x) + at : room;
    float *to = out.dtype == F32 ? tensor_f32(out) + at : room;
    if (x.dtype == BF16) widen_bf16(room, tensor_bf16(x) + at, count);
#pragma omp simd
    for (int64_t i = 0; i < count; i++) to[i] = from[i] * (word[i] >= keep.least ? keep.scale : 0);
    if (out.dtype == BF16) round_to_bf16(tensor_bf16(out) + at, room, count);
}

void dropout_cpu(Device *dev, Tensor out, Tensor x, Dropout rule) {
    int64_t N = x.shape[0], D = x.shape[1];
    const int64_t *rows = rule.rows.data ? tensor_i64(rule.rows) : NULL;
    Keep keep = keep_of(rule.rate);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        uint64_t number = (uint64_t)(rows ? rows[n] : rule.first_row + n) * (uint64_t)D;
        for (int64_t d = 0; d < D; d += TILE)
            drop_tile(out, x, n * D + d, D - d < TILE ? D - d : TILE, rule.stream,
                      number + (uint64_t)d, keep);
    }
}
