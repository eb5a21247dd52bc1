#include "model/block.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/heartbeat.h"
#include "model/dropout.h"
#include "model/stream_digests.h"

static void declare_layer(Layer *layer, const LayerKind *kind, Work *work, int64_t number) {
    *layer = (Layer){kind, calloc(1, kind->state_bytes)};
    CHECK_MEMORY(layer->state, "no memory for layer %lld", (long long)number);
    kind->declare(layer->state, work, number);
}

static const NormPlaceRule *place_of(const Work *work) {
    return &NORM_PLACES[work->config->norm_place];
}

static void declare_norms(Block *block, Work *work, Half half) {
    static const char *const names[] = {[MIXER_HALF] = "attention", [FEED_FORWARD_HALF] = "ffn"};
    BlockHalf *h = &block->halves[half];
    char name[PARAM_NAME_BYTES];
    snprintf(name, sizeof name, "%s_norm", names[half]);
    norm_declare(&h->norm, work, name);
    if (!place_of(work)->second) return;
    snprintf(name, sizeof name, "%s_post_norm", names[half]);
    norm_declare(&h->second, work, name);
}

void block_declare(Block *block, Work *work, int64_t layer) {
    block->layer = layer;
    declare_norms(block, work, MIXER_HALF);
    declare_layer(&block->mixer, MIXERS[model_mixer(work->config, layer)].kind, work, layer);
    declare_norms(block, work, FEED_FORWARD_HALF);
    declare_layer(&block->feed_forward, FEED_FORWARDS[model_feed_forward(work->config, layer)].kind,
                  work, layer);
}

void block_free(Block *block) {
    free(block->mixer.state);
    free(block->feed_forward.state);
}

static void layout_layer(Layer *layer, Work *work, Statistics *stats, Arena *activations,
                         Arena *scratch) {
    layer->kind->layout(layer->state, work, stats, activations, scratch);
}

void block_layout(Block *block, Work *work, bool first, Statistics *stats, Arena *activations,
                  Arena *scratch) {
    int64_t N = work->shape.N, D = work->config->d_model;
    size_t mark = arena_mark(scratch);
    block->branch = arena_2d(scratch, work->storage, N, D);
    if (work->storage != F32 || dropout_is_due(work, work->config->dropout))
        block->dout = arena_2d(scratch, work->storage, N, D);
    if (place_of(work)->norms_after) block->dsum = arena_2d(scratch, F32, N, D);
    place_of(work)->layout(block, work, MIXER_HALF, first, activations, scratch);
    layout_layer(&block->mixer, work, stats, activations, scratch);
    place_of(work)->layout(block, work, FEED_FORWARD_HALF, false, activations, scratch);
    layout_layer(&block->feed_forward, work, stats, activations, scratch);
    arena_release(scratch, mark);
}

static bool check_layer(const Layer *layer, const Work *work, Error *err) {
    return !layer->kind->check || layer->kind->check(layer->state, work, err);
}

bool block_check(const Block *block, const Work *work, Error *err) {
    return check_layer(&block->mixer, work, err) && check_layer(&block->feed_forward, work, err);
}

void block_cost(const Block *block, const Work *work, LayerCost *cost) {
    block->mixer.kind->cost(block->mixer.state, work, cost);
    block->feed_forward.kind->cost(block->feed_forward.state, work, cost);
}

size_t block_bytes(const Block *block) {
    return sizeof *block + block->mixer.kind->state_bytes + block->feed_forward.kind->state_bytes;
}

int64_t block_cache_width(const Block *block, const Work *work) {
    const Layer *mixer = &block->mixer;
    return mixer->kind->cache_width ? mixer->kind->cache_width(mixer->state, work) : 0;
}

// ---- a half -------------------------------------------------------------------------------------

static Layer *layer_of(Block *block, Half half) {
    return half == MIXER_HALF ? &block->mixer : &block->feed_forward;
}

// What generation gives a mixer.
typedef struct Decoding {
    Tensor cache;
    int64_t position;
} Decoding;

// The layer of a half over whole sequences or, while decoding, over new tokens of one.
static void layer_forward(Block *block, Work *work, Half half, Statistics *stats, Tensor out,
                          Tensor x, const void *decoding) {
    Layer *layer = layer_of(block, half);
    const Decoding *at = decoding;
    digest_part(work, "in", x);
    if (at && half == MIXER_HALF && layer->kind->decode)
        layer->kind->decode(layer->state, work, out, x, at->cache, at->position);
    else
        layer->kind->forward(layer->state, work, stats, out, x);
    digest_part(work, "out", out);
}

// dstream: dout's source, of which there is a digest; where it is dout itself, that is enough.
static void layer_backward(Block *block, Work *work, Half half, Tensor dx, Tensor dout,
                           Tensor dstream) {
    Layer *layer = layer_of(block, half);
    if (dout.data != dstream.data) digest_part(work, "out", dout);
    layer->kind->backward(layer->state, work, dx, dout);
    digest_part(work, "in", dx);
}

// The branch that a half has made, as it is added to the stream.
static void drop_branch(Block *block, Work *work, Half half) {
    if (!dropout_is_due(work, work->config->dropout)) return;
    drop_tokens(work, block->branch, block->branch, work->config->dropout, RNG_DROPOUT_RESIDUAL,
                2 * block->layer + half);
    digest_part(work, "dropped", block->branch);
}
// The gradient of that branch, stored, from the stream's.
static Tensor branch_gradient(Block *block, Work *work, Tensor dx, Half half) {
    if (!dropout_is_due(work, work->config->dropout)) return work_stored(work, block->dout, dx);
    drop_tokens(work, block->dout, dx, work->config->dropout, RNG_DROPOUT_RESIDUAL,
                2 * block->layer + half);
    return block->dout;
}

// Through a norm whose input is no residual stream: its gradient alone.
static Tensor norm_only_backward(Norm *norm, Work *work, Tensor dx, Tensor dout) {
    fill_zero(work->dev, dx);
    norm_backward(norm, work, dx, dout);
    return dx;
}

// ---- pre: x + f(norm(x)) ------------------------------------------------------------------------

// The first block's stream has no branch.
static void pre_layout(Block *block, Work *work, Half half, bool first, Arena *activations,
                       Arena *scratch) {
    norm_layout(&block->halves[half].norm, work, !first, activations, scratch);
}

static Residual pre_forward(Block *block, Work *work, Half half, Statistics *stats, Residual in,
                            const void *decoding) {
    Norm *norm = &block->halves[half].norm;
    Tensor x = norm_forward(norm, work, in);
    digest_part(work, NULL, x);
    layer_forward(block, work, half, stats, block->branch, norm->out, decoding);
    drop_branch(block, work, half);
    return (Residual){x, block->branch};
}

static void pre_backward(Block *block, Work *work, Half half, Tensor dx) {
    layer_backward(block, work, half, block->branch, branch_gradient(block, work, dx, half), dx);
    norm_backward(&block->halves[half].norm, work, dx, block->branch);
}

// ---- post: norm(x + f(x)) -----------------------------------------------------------------------

// The norm's output is the stream, in f32.
static void post_layout(Block *block, Work *work, Half half, bool first, Arena *activations,
                        Arena *scratch) {
    (void)first;
    BlockHalf *h = &block->halves[half];
    int64_t N = work->shape.N, D = work->config->d_model;
    if (work->storage != F32) h->x = arena_2d(activations, work->storage, N, D);
    Tensor out = arena_2d(activations, F32, N, D);
    norm_layout_into(&h->norm, work, out, true, activations, scratch);
}

static Residual post_forward(Block *block, Work *work, Half half, Statistics *stats, Residual in,
                             const void *decoding) {
    BlockHalf *h = &block->halves[half];
    Tensor x = work_stored(work, h->x, in.x);
    digest_part(work, NULL, in.x);
    layer_forward(block, work, half, stats, block->branch, x, decoding);
    drop_branch(block, work, half);
    norm_forward(&h->norm, work, (Residual){in.x, block->branch});
    return (Residual){.x = h->norm.out};
}

static void post_backward(Block *block, Work *work, Half half, Tensor dx) {
    Tensor dsum = norm_only_backward(&block->halves[half].norm, work, block->dsum, dx);
    layer_backward(block, work, half, block->branch, branch_gradient(block, work, dsum, half), dx);
    add(work->dev, dx, dsum, block->branch);
}

// ---- sandwich: x + norm(f(norm(x))) -------------------------------------------------------------

static void sandwich_layout(Block *block, Work *work, Half half, bool first, Arena *activations,
                            Arena *scratch) {
    BlockHalf *h = &block->halves[half];
    h->made = arena_2d(activations, F32, work->shape.N, work->config->d_model);
    norm_layout(&h->norm, work, !first, activations, scratch);
    norm_layout_into(&h->second, work, block->branch, false, activations, scratch);
}

static Residual sandwich_forward(Block *block, Work *work, Half half, Statistics *stats,
                                 Residual in, const void *decoding) {
    BlockHalf *h = &block->halves[half];
    Tensor x = norm_forward(&h->norm, work, in);
    digest_part(work, NULL, x);
    Tensor made = work->storage == F32 ? h->made : block->branch;
    layer_forward(block, work, half, stats, made, h->norm.out, decoding);
    if (work->storage != F32) convert(work->dev, h->made, made);
    norm_forward(&h->second, work, (Residual){.x = h->made});
    digest_part(work, "normed", block->branch);
    drop_branch(block, work, half);
    return (Residual){x, block->branch};
}

static void sandwich_backward(Block *block, Work *work, Half half, Tensor dx) {
    BlockHalf *h = &block->halves[half];
    Tensor dmade =
        norm_only_backward(&h->second, work, block->dsum, branch_gradient(block, work, dx, half));
    layer_backward(block, work, half, block->branch, work_stored(work, block->dout, dmade), dx);
    norm_backward(&h->norm, work, dx, block->branch);
}

const NormPlaceRule NORM_PLACES[] = {
    [NORM_PRE] = {{"pre", "x + f(norm(x)), and one before the output (GPT-2, Llama)"},
                  .final = true,
                  .layout = pre_layout,
                  .forward = pre_forward,
                  .backward = pre_backward},
    [NORM_POST] = {{"post", "norm(x + f(x)) (arXiv:1706.03762, BERT)"},
                   .norms_after = true,
                   .layout = post_layout,
                   .forward = post_forward,
                   .backward = post_backward},
    [NORM_SANDWICH] = {{"sandwich", "x + norm(f(norm(x))), and one before the output (CogView, "
                                    "arXiv:2105.13290; Gemma 2)"},
                       .second = true,
                       .final = true,
                       .norms_after = true,
                       .layout = sandwich_layout,
                       .forward = sandwich_forward,
                       .backward = sandwich_backward},
};
const ChoiceTable NORM_PLACE_CHOICES = CHOICE_TABLE(NORM_PLACES);

// ---- both halves --------------------------------------------------------------------------------

static const char *const HALF_NAMES[] = {
    [MIXER_HALF] = "mixer", [FEED_FORWARD_HALF] = "feed_forward"};

Residual block_forward(Block *block, Work *work, Statistics *stats, Residual in) {
    watchdog_beat(NULL);
    for (int half = 0; half < HALVES; half++) {
        digest_scope(work, DIGEST_FORWARD, block->layer, HALF_NAMES[half]);
        in = place_of(work)->forward(block, work, (Half)half, stats, in, NULL);
    }
    return in;
}

void block_backward(Block *block, Work *work, Tensor dx) {
    watchdog_beat(NULL);
    for (int half = HALVES - 1; half >= 0; half--) {
        digest_scope(work, DIGEST_BACKWARD, block->layer, HALF_NAMES[half]);
        place_of(work)->backward(block, work, (Half)half, dx);
        digest_part(work, NULL, dx);
    }
}

Residual block_decode(Block *block, Work *work, Statistics *stats, Residual in, Tensor cache,
                      int64_t position) {
    Decoding decoding = {cache, position};
    watchdog_beat(NULL); // a prompt may be long
    for (int half = 0; half < HALVES; half++)
        in = place_of(work)->forward(block, work, (Half)half, stats, in, &decoding);
    return in;
}

void block_after_step(Block *block, Work *work, const Statistics *stats) {
    Layer *layers[] = {&block->mixer, &block->feed_forward};
    for (int i = 0; i < 2; i++)
        if (layers[i]->kind->after_step) layers[i]->kind->after_step(layers[i]->state, work, stats);
}
