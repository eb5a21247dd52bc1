#include "model/soft_moe.h"

#include <string.h>

#include "kernels/integers.h"
#include "model/router_health.h"
#include "model/stream_digests.h"

#define CONCENTRATION "slot_concentration"
static const Summary CONCENTRATION_SUMMARY = {.field = CONCENTRATION,
                                              .digits = 9,
                                              .value = statistics_mean_over_layers,
                                              .column = CONCENTRATION};

static int64_t experts(const ModelConfig *config, int64_t layer) {
    return moe_shape(config, layer).experts;
}

static bool check_device(const ModelConfig *config, int64_t layer, const Device *dev, Error *err) {
    return device_check_limit(dev, "moe.experts", experts(config, layer), dev->limits.experts, err);
}

static int64_t slots_of(const ModelConfig *config, MoeShape shape) {
    return shape.experts * config->moe.expert_slots;
}

// ---- layout -------------------------------------------------------------------------------------

static void declare(void *self, Work *work, int64_t layer) {
    SoftMoeLayer *soft = self;
    const ModelConfig *config = work->config;
    soft->layer = layer;
    soft->shape = moe_shape(config, layer);
    soft->shape.top_k = soft->shape.scored = soft->shape.experts; // all work for every sequence
    soft->slots = slots_of(config, soft->shape);
    Param phi = {.rank = 2,
                 .shape = {soft->slots, config->d_model},
                 .readout = true,
                 .init_std = config->init_std};
    soft->phi = linear_declare(work, phi, false, "moe.slots");
    soft->places =
        placement_table(work->placement, layer, ROUTER_OF_FEED_FORWARD, soft->shape.experts);
    experts_declare(&soft->experts, soft->shape, soft->places, work, layer);
}

// Slot s of a sequence is expert s mod E's, so that each has P of them there.
static DispatchShape dispatch_shape(const SoftMoeLayer *soft, const Work *work) {
    return (DispatchShape){
        .layer = soft->layer,
        .tokens = work->shape.B * soft->slots,
        .places = soft->places,
        .K = 1,
        .choosable = soft->shape.experts,
        .groups = work->shape.B,
        .capacity = work->config->moe.expert_slots,
        .padded = true,
    };
}

static void layout_scratch(SoftMoeLayer *soft, Work *work, Arena *scratch) {
    int64_t N = work->shape.N, B = work->shape.B, S = soft->slots, D = work->config->d_model;
    soft->scratch.logits = arena_2d(scratch, F32, N, S);
    soft->scratch.logits_stored = soft->scratch.logits;
    if (work->storage != F32) soft->scratch.logits_stored = arena_2d(scratch, work->storage, N, S);
    soft->scratch.wide = arena_3d(scratch, F32, B, S, D);
    soft->scratch.ddispatch = arena_2d(scratch, F32, N, S);
    soft->scratch.dcombine = arena_2d(scratch, F32, N, S);
    soft->scratch.slots = arena_2d(scratch, work->storage, B * S, D);
    soft->scratch.dx = arena_2d(scratch, work->storage, N, D);
}

static void layout(void *self, Work *work, Statistics *stats, Arena *activations, Arena *scratch) {
    SoftMoeLayer *soft = self;
    int64_t N = work->shape.N, B = work->shape.B, S = soft->slots, D = work->config->d_model;
    soft->mass = statistics_counts(stats, ROUTER_NAMES[ROUTER_OF_SLOTS].routed, soft->layer,
                                   soft->shape.experts);
    router_health_summarize(stats, ROUTER_OF_SLOTS, false);
    soft->concentration = statistics_scalar(stats, CONCENTRATION, soft->layer);
    statistics_summarize(stats, &CONCENTRATION_SUMMARY);
    bool wide = work->storage == F32;
    dispatch_layout(&soft->plan, dispatch_shape(soft, work), work, activations);
    expert_exchange_layout(&soft->routed,
                           (ExpertTraffic){&soft->plan, &FEED_FORWARD_EXPERTS, &soft->experts, D, D,
                                           "dispatched", "returned"},
                           work, activations);
    soft->dispatch = arena_2d(activations, F32, N, S);
    soft->combine = arena_2d(activations, F32, N, S);
    soft->dispatch_stored = wide ? soft->dispatch : arena_2d(activations, work->storage, N, S);
    soft->combine_stored = wide ? soft->combine : arena_2d(activations, work->storage, N, S);
    soft->slots_out = arena_2d(activations, work->storage, B * S, D);
    soft->ids = arena_2d(activations, I32, B * S, 1);
    soft->kept = arena_2d(activations, U8, B * S, 1);
    soft->host_kept = arena_mirror(work->host, soft->kept);
    soft->offsets = arena_1d(activations, I64, B + 1);
    soft->host_offsets = arena_mirror(work->host, soft->offsets);
    soft->prepared_for = -1;

    size_t mark = arena_mark(scratch);
    expert_exchange_layout_scratch(&soft->routed, work, scratch);
    layout_scratch(soft, work, scratch);
    experts_layout(&soft->experts, work, soft->plan.max_rows, activations, scratch);
    arena_release(scratch, mark);
}

static bool check(const void *self, const Work *work, Error *err) {
    (void)work;
    const SoftMoeLayer *soft = self;
    return dispatch_check(&soft->plan, err);
}

static void cost(const void *self, const Work *work, LayerCost *cost) {
    const SoftMoeLayer *soft = self;
    const ModelConfig *config = work->config;
    double D = (double)config->d_model, S = (double)soft->slots, T = (double)work->shape.T;
    // Logits and both mixtures, and a slot's share of an expert.
    double by_experts = S / T * experts_flops(config, soft->shape);
    cost->flops_per_token += 3 * 2 * D * S + by_experts;
    cost->expert_flops += by_experts;
    expert_exchange_cost(&soft->routed, work, cost->sent_bytes);
    ScratchShape *scratch = &cost->scratch;
    scratch->E = larger(scratch->E, soft->shape.experts);
    scratch->K = larger(scratch->K, 1);
    scratch->F = larger(scratch->F, soft->shape.d_ff);
    scratch->parts = larger(scratch->parts, work->shape.expert_parts);
}

// As if a sequence were one token long, the most that slots are of a token.
static void bound(const ModelConfig *config, int64_t layer, LayerBound *bound) {
    MoeShape shape = moe_shape(config, layer);
    double D = (double)config->d_model, E = (double)shape.experts, F = (double)shape.d_ff;
    double S = (double)slots_of(config, shape);
    bound->parameters += E * D * 3 * F + S * D;
    bound->kept += 4 * S + S * (3 * F + 4 * D);
    if (bound->choices < 1) bound->choices = 1;
}

// ---- both passes --------------------------------------------------------------------------------

// What no step changes.
static void prepare(SoftMoeLayer *soft, Work *work) {
    if (soft->prepared_for == work->memory_uses) return;
    choose_in_turn(work->dev, soft->ids, soft->shape.experts, 0);
    memset(soft->host_kept.data, 1, tensor_bytes(soft->host_kept));
    device_upload(work->dev, soft->kept, soft->host_kept);
    for (int64_t b = 0; b <= work->shape.B; b++)
        tensor_i64(soft->host_offsets)[b] = b * work->shape.T;
    device_upload(work->dev, soft->offsets, soft->host_offsets);
    soft->prepared_for = work->memory_uses;
}

// The tokens of each sequence, whose slots are the rows of a matrix.
static Segments sequences(const SoftMoeLayer *soft, const Work *work) {
    return (Segments){.groups = work->shape.B,
                      .parts = 1,
                      .offsets = tensor_i64(soft->host_offsets),
                      .device_offsets = soft->offsets};
}

// Slots (B·S, D) as the matrices of sequences.
static Tensor by_sequence(const SoftMoeLayer *soft, Tensor slots) {
    return tensor_reshape_3d(slots, slots.shape[0] / soft->slots, soft->slots, slots.shape[1]);
}

// slots (B·S, D) stored = weightsᵀ · tokens, in each sequence.
static void mix_tokens(SoftMoeLayer *soft, Work *work, Tensor slots, Tensor weights,
                       Tensor tokens) {
    Tensor wide = work->storage == F32 ? by_sequence(soft, slots) : soft->scratch.wide;
    matmul_backward_weight(work->dev, wide, weights, tokens, sequences(soft, work));
    if (work->storage != F32)
        convert(work->dev, slots, tensor_reshape_2d(wide, slots.shape[0], slots.shape[1]));
}

// tokens (N, D) stored = weights · slots.
static void mix_slots(SoftMoeLayer *soft, Work *work, Tensor tokens, Tensor weights, Tensor slots) {
    matmul_backward_input(work->dev, tokens, weights, by_sequence(soft, slots),
                          sequences(soft, work));
}

// The gradient (N, S) f32 of such weights: products of a token with each slot.
static void products(SoftMoeLayer *soft, Work *work, Tensor dweights, Tensor tokens, Tensor slots) {
    matmul_forward(work->dev, dweights, tokens, by_sequence(soft, slots), sequences(soft, work));
}

// What the tokens take of each expert's slots.
static void count_mass(const SoftMoeLayer *soft, Work *work, const Statistics *stats) {
    int64_t tokens = work->training ? work->shape.N : work->step.counted_tokens;
    if (tokens > 0)
        count_slot_weights(work->dev,
                           statistics_count_range(stats, soft->mass, soft->shape.experts),
                           tensor_rows(soft->combine, 0, tokens));
}

static void add_concentration(const SoftMoeLayer *soft, Work *work, const Statistics *stats) {
    Tensor squares = soft->scratch.ddispatch; // of the backward pass, until then
    double sequences = 1 / per_step_token(work) / (double)work->shape.T;
    multiply_pairs(work->dev, squares, soft->dispatch, soft->dispatch);
    segment_sum(work->dev, statistics_rows(stats, work), soft->concentration,
                tensor_reshape_1d(squares, tensor_elements(squares)),
                sequences * (double)soft->slots);
}

static void forward(void *self, Work *work, Statistics *stats, Tensor out, Tensor x) {
    SoftMoeLayer *soft = self;
    Dispatch *d = &soft->plan;
    soft->x = x;
    prepare(soft, work);
    linear_forward(work, soft->phi, soft->scratch.logits, x);
    slot_weights_forward(work->dev, soft->dispatch, soft->combine, soft->scratch.logits,
                         work->shape.T);
    digest_part(work, "slot_weights", soft->dispatch);
    digest_part(work, "slot_weights", soft->combine);
    count_mass(soft, work, stats);
    if (work->training) add_concentration(soft, work, stats);
    work_stored(work, soft->dispatch_stored, soft->dispatch);
    work_stored(work, soft->combine_stored, soft->combine);
    mix_tokens(soft, work, soft->scratch.slots, soft->dispatch_stored, x);
    digest_part(work, "slots", soft->scratch.slots);
    dispatch_plan(d, work, soft->ids, soft->kept);
    experts_number_rows(&soft->experts, work, d);
    expert_exchange_forward(&soft->routed, work, soft->scratch.slots, (Beside){0});
    combine_forward(work->dev, soft->slots_out, soft->routed.sent_out, d->slot_row, (Tensor){0});
    digest_part(work, "combined", soft->slots_out);
    mix_slots(soft, work, out, soft->combine_stored, soft->slots_out);
}

static void backward(void *self, Work *work, Tensor dx, Tensor dout) {
    SoftMoeLayer *soft = self;
    Dispatch *d = &soft->plan;
    Tensor dslots = soft->scratch.slots;
    products(soft, work, soft->scratch.dcombine, dout, soft->slots_out);
    mix_tokens(soft, work, dslots, soft->combine_stored, dout);
    dispatch_gather(d, work, soft->routed.sent_out, dslots);
    Tensor dsent = expert_exchange_backward(&soft->routed, work, (Beside){0});
    combine_forward(work->dev, dslots, dsent, d->slot_row, (Tensor){0});
    digest_part(work, "slots", dslots);
    products(soft, work, soft->scratch.ddispatch, soft->x, dslots);
    mix_slots(soft, work, dx, soft->dispatch_stored, dslots);
    slot_weights_backward(work->dev, soft->scratch.logits, soft->scratch.ddispatch,
                          soft->scratch.dcombine, soft->dispatch, soft->combine, work->shape.T);
    digest_part(work, "slot_weights", soft->scratch.logits);
    Tensor dlogits = work_stored(work, soft->scratch.logits_stored, soft->scratch.logits);
    linear_backward(work, soft->phi, soft->scratch.dx, dlogits, soft->x);
    add(work->dev, dx, dx, soft->scratch.dx);
}

static bool for_generation(ModelConfig *config, Error *err) {
    (void)config;
    return error_set(err, EXIT_CONFIG,
                     "in a soft_moe layer a token's output depends on the tokens after it, so that "
                     "nothing can be generated; train with another model.feed_forward");
}

const LayerKind SOFT_MOE_FEED_FORWARD = {
    .state_bytes = sizeof(SoftMoeLayer),
    .bound = bound,
    .experts = experts,
    .experts_name = "moe.experts",
    .check_device = check_device,
    .declare = declare,
    .layout = layout,
    .check = check,
    .cost = cost,
    .forward = forward,
    .backward = backward,
    .for_generation = for_generation,
};
