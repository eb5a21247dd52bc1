#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"

static float logit(Tensor logits, int64_t i) {
    return logits.dtype == F32 ? tensor_f32(logits)[i] : f32_from_bf16(tensor_bf16(logits)[i]);
}

static bool is_right(Tensor logits, int64_t n, int32_t target) {
    int64_t V = logits.shape[1];
    float wanted = logit(logits, n * V + target);
    bool right = wanted == wanted;
    for (int64_t v = 0; right && v < V; v++) {
        float other = logit(logits, n * V + v);
        right = v < target ? other < wanted : other <= wanted;
    }
    return right;
}

void count_right_guesses_cpu(Device *dev, Tensor counts, Tensor logits, Tensor targets) {
    const int32_t *target = tensor_i32(targets);
    int64_t asked = 0, right = 0;
#pragma omp parallel for schedule(static) reduction(+ : asked, right)
    for (int64_t n = 0; n < logits.shape[0]; n++) {
        if (target[n] == NO_TARGET) continue;
        asked++;
        right += is_right(logits, n, target[n]);
    }
    tensor_i64(counts)[0] += asked;
    tensor_i64(counts)[1] += right;
}
