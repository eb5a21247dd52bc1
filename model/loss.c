#include "model/loss.h"

void loss_layout(Loss *loss, Work *work, Arena *activations) {
    loss->logits = arena_2d(activations, work->storage, work->shape.N, work->config->vocab_size);
    loss->losses = arena_1d(activations, F32, work->shape.N);
    if (!work->training) loss->host_losses = arena_mirror(work->host, loss->losses);
}

void loss_forward_backward(Loss *loss, Work *work, Statistics *stats, Tensor targets) {
    double step_tokens = (double)(micro_batch_tokens(work) * work->shape.micro_batches);
    cross_entropy(work->dev, loss->losses, loss->logits, targets, (float)(1.0 / step_tokens));
    segment_sum(work->dev, statistics_rows(stats, work), STATISTICS_LOSS, loss->losses,
                step_tokens);
}

const float *loss_of_tokens(Loss *loss, Work *work, Tensor targets) {
    cross_entropy(work->dev, loss->losses, loss->logits, targets, 0);
    device_download(work->dev, loss->host_losses, loss->losses);
    return tensor_f32(loss->host_losses);
}
