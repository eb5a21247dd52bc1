#include <math.h>
#include <string.h>

#include "kernels/cpu/balance_sums.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/router_choose.h"
#include "kernels/cpu/scratch.h"

// Of a token: the last expert that it chooses, and the first that it does not.
typedef struct Border {
    int32_t last, next;
} Border;

static Border border_of(const float *noisy, int64_t E, int64_t K) {
    int32_t ids[MOST_DRAWN + 1];
    Keys keys = {.kind = KEY_LOGIT, .z = noisy};
    choose(ids, &keys, (RouterRule){0}, E, K + 1);
    return (Border){ids[K - 1], ids[K]};
}

static inline bool is_chosen(const float *noisy, Border at, int64_t e) {
    return noisy[e] > noisy[at.last] || (noisy[e] == noisy[at.last] && e <= at.last);
}

static inline float deviation_of(float scale) {
    float deviation = softplus_f32(scale);
    return deviation > (float)NOISE_LEAST ? deviation : (float)NOISE_LEAST;
}

enum { COLUMNS = 64 }; // experts whose addends one task sums down a part's tokens

void noisy_load_sums_cpu(Device *dev, Tensor sums, NoisyLogits logits, int64_t K) {
    int64_t N = logits.raw.shape[0], E = logits.raw.shape[1], parts = sums.shape[0];
    int64_t rows = N / parts;
    const float *raw = tensor_f32(logits.raw), *noisy = tensor_f32(logits.noisy),
                *scale = tensor_f32(logits.scale);
    int64_t *sum = tensor_i64(sums);
    Border *borders = thread_scratch((size_t)N * sizeof *borders);
    memset(sum, 0, tensor_bytes(sums));
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) borders[n] = border_of(noisy + n * E, E, K);
#pragma omp for schedule(static) collapse(2)
        for (int64_t p = 0; p < parts; p++)
            for (int64_t first = 0; first < E; first += COLUMNS)
                for (int64_t n = p * rows; n < (p + 1) * rows; n++) {
                    const float *h = noisy + n * E;
                    for (int64_t e = first; e < E && e < first + COLUMNS; e++) {
                        float other =
                            h[is_chosen(h, borders[n], e) ? borders[n].next : borders[n].last];
                        float u = (raw[n * E + e] - other) / deviation_of(scale[n * E + e]);
                        sum[p * E + e] += balance_units(normal_share_f32(u));
                    }
                }
    }
}

void noisy_load_backward_cpu(Device *dev, Tensor dlogits, Tensor dscale, Tensor slopes,
                             NoisyLogits logits, int64_t K) {
    int64_t N = dlogits.shape[0], E = dlogits.shape[1], rows = N / slopes.shape[0];
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const float *z = tensor_f32(logits.raw) + n * E, *h = tensor_f32(logits.noisy) + n * E;
        const float *s = tensor_f32(logits.scale) + n * E;
        const float *slope = tensor_f32(slopes) + n / rows * E;
        float *dz = tensor_f32(dlogits) + n * E, *ds = tensor_f32(dscale) + n * E;
        Border at = border_of(h, E, K);
        float of_last = 0.0f, of_next = 0.0f;
        for (int64_t e = 0; e < E; e++) {
            bool chosen = is_chosen(h, at, e);
            float deviation = deviation_of(s[e]);
            float u = (z[e] - h[chosen ? at.next : at.last]) / deviation;
            float d = slope[e] * normal_density_f32(u) / deviation;
            dz[e] += d;
            if (deviation > (float)NOISE_LEAST) ds[e] -= d * u * sigmoid_f32(s[e]);
            *(chosen ? &of_next : &of_last) -= d;
        }
        // A noisy logit is the raw one and a normal number times the deviation.
        const struct {
            int32_t expert;
            float d;
        } others[] = {{at.last, of_last}, {at.next, of_next}};
        for (int i = 0; i < 2; i++) {
            int32_t e = others[i].expert;
            float normal = (h[e] - z[e]) / deviation_of(s[e]);
            dz[e] += others[i].d;
            ds[e] += others[i].d * normal * sigmoid_f32(s[e]);
        }
    }
}
