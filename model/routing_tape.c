#include "model/routing_tape.h"

#include "model/chooser.h"

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
