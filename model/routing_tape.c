#include "model/routing_tape.h"

#include <stdlib.h>

#include "model/chooser.h"

void routing_tape_open(RoutingTape *tape, const ModelConfig *config, int64_t rows) {
    *tape = (RoutingTape){.layers = calloc((size_t)config->layers, sizeof *tape->layers)};
    CHECK_MEMORY(tape->layers, "no memory for %lld layers", (long long)config->layers);
    for (int64_t layer = 0; layer < config->layers; layer++) {
        int64_t K = moe_shape(config, layer).slots;
        if (!model_is_routed(config, layer)) continue;
        int32_t *ids = calloc((size_t)(rows * K), sizeof *ids);
        CHECK_MEMORY(ids, "no memory for choices");
        tape->layers[layer] = tensor_2d(ids, I32, rows, K);
    }
}

void routing_tape_close(RoutingTape *tape, const ModelConfig *config) {
    for (int64_t layer = 0; tape->layers && layer < config->layers; layer++)
        free(tape->layers[layer].data);
    free(tape->layers);
    *tape = (RoutingTape){0};
}

// The rows of the micro-batch at work.
static Tensor rows_of(const Work *work, int64_t layer) {
    int64_t N = work->shape.N;
    return tensor_rows(work->tape->layers[layer], work->step.micro_batch * N, N);
}

void routing_tape_take(Work *work, int64_t layer, Tensor ids) {
    if (!work->tape || work->tape->gives) return;
    device_download(work->dev, rows_of(work, layer), ids);
}

static bool chooses(const Work *work, int64_t layer) {
    (void)layer;
    return work->training && work->tape && work->tape->gives;
}

static void choose(Router *router, Work *work) {
    device_upload(work->dev, router->ids, rows_of(work, router->layer));
}

const Chooser ROUTING_TAPE = {.chooses = chooses, .choose = choose};
