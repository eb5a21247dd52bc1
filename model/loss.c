#include "model/loss.h"

void loss_layout(Loss *loss, Work *work, Arena *activations) {
    loss->logits = arena_2d(activations, F32, work->N, work->config->vocab_size);
    loss->losses = arena_1d(activations, F32, work->N);
    loss->shard_sums = arena_1d(activations, F64, work->shards);
}

void loss_forward_backward(Loss *loss, Work *work, Statistics *stats, Tensor targets) {
    double step_tokens =
        (double)(work->N / work->shards * work->total_shards * work->micro_batches);
    float scale = work->training ? (float)(1.0 / step_tokens) : 0;
    cross_entropy(work->dev, loss->losses, loss->logits, targets, scale);
    segment_sum(work->dev, loss->shard_sums, loss->losses, work->shards);
    for (int64_t s = 0; s < work->shards; s++)
        *statistics_loss(stats, s) += tensor_f64(loss->shard_sums)[s] / step_tokens;
}
