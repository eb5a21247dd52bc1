#include "kernels/cpu/cpu_ops.h"

void choose_in_turn_cpu(Device *dev, Tensor ids, int64_t E, int64_t first_token) {
    int64_t choices = tensor_elements(ids), first = first_token * ids.shape[1];
    int32_t *id = tensor_i32(ids);
    for (int64_t i = 0; i < choices; i++) id[i] = (int32_t)((first + i) % E);
}

void choices_of_heads_cpu(Device *dev, Tensor out, Tensor ids, int64_t E) {
    int64_t choices = tensor_elements(ids), K = ids.shape[1], heads = ids.shape[0] / out.shape[0];
    const int32_t *id = tensor_i32(ids);
    int32_t *to = tensor_i32(out);
    for (int64_t i = 0; i < choices; i++) to[i] = (int32_t)(i / K % heads * E) + id[i];
}

// The expert among whose units of weight unit r lies: the first whose running sum is more.
static int32_t expert_of(const int32_t *end, int64_t E, int64_t r) {
    int64_t low = 0, high = E - 1;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (end[middle] > r)
            high = middle;
        else
            low = middle + 1;
    }
    return (int32_t)low;
}

// The units of all experts lie in a row. One that is left is drawn by its number among those left,
// and found by stepping over the units of each chosen expert that begin at or before it.
static void draw_token(int32_t *ids, int64_t K, const int32_t *end, ExpertDraw draw,
                       uint64_t index) {
    int32_t chosen[MOST_DRAWN]; // ascending
    int64_t left = end ? end[draw.experts - 1] : draw.experts;
    for (int64_t k = 0; k < K; k++) {
        uint64_t word = rng_u32(draw.stream, index + (uint64_t)k);
        int64_t r = (int64_t)(word * (uint64_t)left >> 32);
        for (int64_t i = 0; i < k; i++) {
            int32_t e = chosen[i];
            int64_t begin = !end ? e : e > 0 ? end[e - 1] : 0;
            if (r < begin) break;
            r += end ? end[e] - begin : 1;
        }
        int32_t e = end ? expert_of(end, draw.experts, r) : (int32_t)r;
        left -= !end ? 1 : e > 0 ? end[e] - end[e - 1] : end[e];
        int64_t at = k;
        for (; at > 0 && chosen[at - 1] > e; at--) chosen[at] = chosen[at - 1];
        chosen[at] = ids[k] = e;
    }
}

void choose_by_draw_cpu(Device *dev, Tensor ids, Tensor tokens, Tensor ends, ExpertDraw draw) {
    int64_t N = ids.shape[0], K = ids.shape[1];
    int32_t *id = tensor_i32(ids);
    const int32_t *token = tokens.data ? tensor_i32(tokens) : NULL;
    const int32_t *end = ends.data ? tensor_i32(ends) : NULL;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        uint64_t number = token ? (uint64_t)token[n] : (uint64_t)(draw.first_token + n);
        draw_token(id + n * K, K, end, draw, number * (uint64_t)K);
    }
}
