#include "model/loss.h"

// ---- cross-entropy of the targets ---------------------------------------------------------------

static void layout(Loss *loss, Work *work, Arena *activations) {
    loss->logits = arena_2d(activations, work->storage, work->shape.N, work->config->vocab_size);
    loss->losses = arena_1d(activations, F32, work->shape.N);
    if (!work->training) loss->host_losses = arena_mirror(work->host, loss->losses);
}

static void train(Loss *loss, Work *work, Statistics *stats, Tensor targets) {
    double step_tokens = (double)step_targets(work);
    cross_entropy(work->dev, loss->losses, loss->logits, targets, (float)(1.0 / step_tokens));
    segment_sum(work->dev, statistics_rows(stats, work), STATISTICS_LOSS, loss->losses,
                step_tokens);
}

static const float *evaluate(Loss *loss, Work *work, Tensor targets) {
    cross_entropy(work->dev, loss->losses, loss->logits, targets, 0);
    device_download(work->dev, loss->host_losses, loss->losses);
    return tensor_f32(loss->host_losses);
}

// ---- the objectives -----------------------------------------------------------------------------

const Objective OBJECTIVES[] = {
    [OBJECTIVE_CAUSAL] = {{"causal", "the next token, from those before it"},
                          .layout = layout,
                          .train = train,
                          .evaluate = evaluate},
    [OBJECTIVE_MASKED] = {{"masked", "tokens that were replaced, from those on both sides (BERT, "
                                     "arXiv:1810.04805)"},
                          .layout = layout,
                          .train = train,
                          .evaluate = evaluate},
};
const ChoiceTable OBJECTIVE_CHOICES = CHOICE_TABLE(OBJECTIVES);
