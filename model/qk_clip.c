#include "model/qk_clip.h"

#include <math.h>

static const double ALPHA = 0.5;

void qk_clip_layout(QueryKeyClip *clip, Work *work, Arena *activations) {
    AttentionShape s = work->config->attention.shape;
    if (work->config->attention.qk_clip == 0 || !work->training) return;
    clip->factors = arena_1d(activations, F32, (s.heads + s.kv_heads) * s.d_head);
    clip->host_factors = arena_mirror(work->host, clip->factors);
}

double qk_clip_gamma(const double *largest, int64_t heads, double threshold) {
    double most = 0;
    for (int64_t h = 0; h < heads; h++) most = fmax(most, largest[h]);
    return most > threshold ? threshold / most : 1;
}

static void scale(Work *work, Tensor w, int64_t rows, Tensor factors) {
    Tensor matrix = w.rank == 1 ? tensor_reshape_2d(w, w.shape[0], 1) : w;
    scale_rows(work->dev, tensor_rows(matrix, 0, rows), factors);
}

void qk_clip_after_step(const QueryKeyClip *clip, Work *work, const Statistics *stats,
                        int64_t layer, Linear qkv) {
    if (!clip->factors.data) return;
    const AttentionConfig *config = &work->config->attention;
    AttentionShape s = config->shape;
    const double *largest =
        statistics_sums_of(stats, statistics_find(stats, MAX_LOGIT_COLUMN, layer));
    float *query = tensor_f32(clip->host_factors), *key = query + s.heads * s.d_head;
    int64_t group = s.heads / s.kv_heads, rows = (s.heads + s.kv_heads) * s.d_head;
    bool any = false;
    for (int64_t k = 0; k < s.kv_heads; k++) {
        double gamma = qk_clip_gamma(largest + k * group, group, config->qk_clip);
        any = any || gamma < 1;
        for (int64_t i = 0; i < group * s.d_head; i++) *query++ = (float)pow(gamma, ALPHA);
        for (int64_t i = 0; i < s.d_head; i++) *key++ = (float)pow(gamma, 1 - ALPHA);
    }
    if (!any) return;
    device_upload(work->dev, clip->factors, clip->host_factors);
    Tensor weight = work_value(work, qkv.weight);
    scale(work, weight, rows, clip->factors);
    if (qkv.bias >= 0) scale(work, work_value(work, qkv.bias), rows, clip->factors);
    if (work->storage != F32) convert(work->dev, work_matrix(work, qkv.weight), weight);
}
