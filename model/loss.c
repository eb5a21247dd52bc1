#include "model/loss.h"

void loss_layout(Loss *loss, Work *work, Arena *activations) {
    loss->logits = arena_2d(activations, work->storage, work->N, work->config->vocab_size);
    loss->losses = arena_1d(activations, F32, work->N);
}

void loss_forward_backward(Loss *loss, Work *work, Statistics *stats, Tensor targets) {
    double step_tokens =
        (double)(work->N / work->shards * work->total_shards * work->micro_batches);
    float scale = work->training ? (float)(1.0 / step_tokens) : 0;
    cross_entropy(work->dev, loss->losses, loss->logits, targets, scale);
    segment_sum(work->dev, stats->sums, STATISTICS_LOSS, loss->losses, step_tokens);
}
