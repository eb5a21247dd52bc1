#include "model/stream_digests.h"

#include <stdio.h>

#include "kernels/kernels.h"

// embedding | two halves of every layer | loss || output | two halves of every layer, from the last
static int64_t half_place(int64_t layer, int half) {
    return 1 + 2 * layer + half;
}
static int64_t loss_place(const ModelConfig *config) {
    return 1 + 2 * model_blocks(config);
}
static int64_t output_place(const ModelConfig *config) {
    return loss_place(config) + 1;
}
static int64_t half_gradient_place(const ModelConfig *config, int64_t layer, int half) {
    return output_place(config) + half_place(model_blocks(config) - 1 - layer, 1 - half);
}

int64_t stream_places(const ModelConfig *config) {
    return half_gradient_place(config, 0, 0) + 1;
}

int64_t stream_forward_places(const ModelConfig *config) {
    return output_place(config);
}

void stream_place_name(const ModelConfig *config, int64_t place, char name[STREAM_PLACE_BYTES]) {
    static const char *const halves[] = {"mixer", "feed_forward"};
    int64_t output = output_place(config), half = place - 1;
    if (place == 0 || place == loss_place(config) || place == output) {
        snprintf(name, STREAM_PLACE_BYTES, "%s",
                 place == 0        ? "embedding"
                 : place == output ? "output"
                                   : "loss");
        return;
    }
    if (place > output) half = 2 * model_blocks(config) - (place - output);
    int64_t block = half / 2, layers = config->layers;
    bool layer = block < layers;
    snprintf(name, STREAM_PLACE_BYTES, "%s.%lld.%s", layer ? "layers" : "mtp",
             (long long)(layer ? block : block - layers), halves[half % 2]);
}

int64_t stream_windows(const RankShape *shape) {
    return shape->B / shape->shards * shape->most_shards;
}

void stream_digests_layout(StreamDigests *digests, const Work *work, Arena *arena,
                           Arena *host_arena) {
    int64_t B = work->shape.B, windows = work->shape.micro_batches * stream_windows(&work->shape);
    digests->sums = arena_2d(arena, I64, stream_places(work->config) * windows, 2);
    digests->host_sums = arena_mirror(host_arena, digests->sums);
    digests->window_rows = (int64_t *)arena_1d(host_arena, I64, B).data;
    for (int64_t b = 0; digests->window_rows && b < B; b++) digests->window_rows[b] = work->shape.T;
}

void stream_digests_clear(const StreamDigests *digests, const Work *work) {
    fill_zero(work->dev, digests->sums);
}

static void add_windows(const Work *work, int64_t place, Tensor x) {
    const StreamDigests *digests = work->digests;
    int64_t B = work->shape.B;
    if (!digests || !x.data) return;
    int64_t first =
        (place * work->shape.micro_batches + work->step.micro_batch) * stream_windows(&work->shape);
    checksums(work->dev, tensor_rows(digests->sums, first, B), x,
              (CheckedRuns){B, NULL, digests->window_rows, -1});
}

void stream_digests_embedding(const Work *work, Tensor x) {
    add_windows(work, 0, x);
}
void stream_digests_half(const Work *work, int64_t layer, int half, Tensor x) {
    add_windows(work, half_place(layer, half), x);
}
void stream_digests_losses(const Work *work, Tensor losses) {
    add_windows(work, loss_place(work->config), losses);
}
void stream_digests_output_gradient(const Work *work, Tensor dx) {
    add_windows(work, output_place(work->config), dx);
}
void stream_digests_half_gradient(const Work *work, int64_t layer, int half, Tensor dx) {
    add_windows(work, half_gradient_place(work->config, layer, half), dx);
}
