#include "worker/data/source_losses.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "comm/collectives.h"
#include "comm/comm.h"

void source_losses_open(SourceLosses *losses, const DataMix *mix, const BatchBuffer *buffer,
                        int64_t batch) {
    *losses = (SourceLosses){.batch = batch, .T = buffer->T};
    if (mix->count < 2) return;
    losses->sources = mix->count;
    size_t rows = (size_t)(buffer->B * buffer->T), sources = (size_t)mix->count;
    float *tokens = calloc(rows, sizeof *tokens);
    losses->windows = calloc(2 * (size_t)batch, sizeof *losses->windows);
    losses->targets = calloc(sources, sizeof *losses->targets);
    losses->sums = calloc(sources, sizeof *losses->sums);
    CHECK_MEMORY(tokens && losses->windows && losses->targets && losses->sums,
                 "no memory for the losses of %zu tokens", rows);
    losses->losses = tensor_1d(tokens, F32, (int64_t)rows);
}

void source_losses_close(SourceLosses *losses) {
    free(losses->losses.data);
    free(losses->windows);
    free(losses->targets);
    free(losses->sums);
    *losses = (SourceLosses){0};
}

void source_losses_take(SourceLosses *losses, const BatchBuffer *buffer, int64_t m,
                        Tensor token_losses) {
    if (losses->sources == 0) return;
    if (m == 0) memset(losses->windows, 0, 2 * (size_t)losses->batch * sizeof *losses->windows);
    device_download(buffer->dev, losses->losses, token_losses);
    const float *nats = tensor_f32(losses->losses);
    const int32_t *targets = tensor_i32(buffer->host_targets);
    double *windows = losses->windows + 2 * (m * buffer->total + buffer->first);
    for (int64_t i = 0; i < buffer->B * losses->T; i++) {
        if (targets[i] == NO_TARGET) continue;
        windows[i / losses->T * 2] += (double)nats[i];
        windows[i / losses->T * 2 + 1]++;
    }
}

void source_losses_add_step(SourceLosses *losses, const DataMix *mix, DataCursor cursor) {
    if (losses->sources == 0) return;
    // Each window has one rank that is not zero, so that no order of summing changes a bit.
    all_reduce_sum(comm_world(), tensor_1d(losses->windows, F64, 2 * losses->batch),
                   REDUCE_ANY_ORDER, (Tensor){0}, TRAFFIC_OTHER);
    for (int64_t i = 0; i < losses->batch; i++) {
        int64_t number;
        int s = data_mix_source(mix, cursor, i, &number);
        losses->sums[s] += losses->windows[2 * i];
        losses->targets[s] += losses->windows[2 * i + 1];
    }
}

double source_losses_mean(const SourceLosses *losses, int source) {
    double targets = losses->targets[source];
    return targets == 0 ? NAN : losses->sums[source] / targets;
}

void source_losses_clear(SourceLosses *losses) {
    for (int s = 0; s < losses->sources; s++) {
        losses->targets[s] = 0;
        losses->sums[s] = 0;
    }
}
