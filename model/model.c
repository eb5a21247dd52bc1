#include "model/model.h"

#include "kernels/integers.h"
#include "model/dropout.h"
#include "model/rank_shape.h"
#include "model/routing_tape.h"
#include "model/stream_digests.h"

#include <stdlib.h>

// ---- layout -------------------------------------------------------------------------------------

static void set_work(Model *model, ModelSplit split, Device *dev) {
    model->work = (Work){
        .dev = dev,
        .config = &model->config,
        .host = &model->host_arena,
        .storage = split.storage,
        .training = split.training,
        .decoding = split.decoding,
        .even_routing = split.even_routing,
        .shape = rank_shape(&model->config, split),
        .params = &model->params,
        .placement = model->owner ? &model->owner->placement : &model->placement,
        .positions = &model->positions,
    };
    model->params.ep_size = model->work.shape.ep_size;
    model->params.ep_rank = model->work.shape.ep_rank;
}

static bool has_final_norm(const Model *model) {
    return NORM_PLACES[model->config.norm_place].final;
}

static void declare_params(Model *model) {
    Work *work = &model->work;
    gradients_init(&model->gradients);
    embedding_declare(&model->embedding, work);
    positions_declare(&model->positions, work);
    gradients_add_bucket(&model->gradients, &model->params);
    for (int64_t layer = 0; layer < model->config.layers; layer++) {
        param_scope(&model->params, "layers", layer);
        block_declare(&model->blocks[layer], work, layer);
        gradients_add_bucket(&model->gradients, &model->params);
    }
    param_scope(&model->params, NULL, 0);
    if (has_final_norm(model)) norm_declare(&model->final_norm, work, "final_norm");
    head_declare(&model->embedding, work);
    gradients_add_bucket(&model->gradients, &model->params);
    model->input.share = OWN_GRADIENT;
    model->head = (HeadUse){OWN_GRADIENT, OWN_GRADIENT};
    if (model->embedding.tied)
        model->head.weight = gradients_add_share(&model->gradients, model->embedding.table);
    mtp_declare(&model->mtp, work, &model->embedding, &model->gradients);
}

static void layout_parameters(Model *model) {
    Work *work = &model->work;
    Arena *arena = &model->parameter_arena;
    if (model->owner) {
        model->values = work->values = model->owner->values;
        model->matrices = work->matrices = model->owner->matrices;
        work->narrow = model->owner->work.narrow;
        return;
    }
    placement_layout(&model->placement, arena);
    narrow_weights_layout(&model->narrow, &model->params, arena);
    work->narrow = model->narrow.type == F32 ? NULL : &model->narrow;
    model->values = work->values = param_values_layout(&model->params, arena);
    model->matrices = work->matrices = work->storage == F32
                                           ? model->values
                                           : param_set_layout(&model->params, arena, work->storage);
}

// Places everything; run once to measure and once, with memory, to place.
static void layout(Model *model) {
    Work *work = &model->work;
    Arena *activations = &model->activation_arena, *scratch = &model->scratch_arena;
    layout_parameters(model);
    statistics_begin(&model->stats);
    exchange_check_layout(&model->exchange_check, work, &model->stats, activations,
                          model->check_exchanges);
    if (work->training) gradients_layout(&model->gradients, work, &model->gradient_arena, scratch);
    model->dx = arena_2d(scratch, F32, work->shape.N, model->config.d_model);
    if (work->training) mtp_layout_scratch(&model->mtp, work, scratch);
    embedding_layout(&model->embedding, work, activations, scratch);
    lookup_layout(&model->input, work, activations);
    positions_layout(&model->positions, model->owner ? &model->owner->positions : NULL, work,
                     &model->parameter_arena, scratch);
    for (int64_t layer = 0; layer < model->config.layers; layer++)
        block_layout(&model->blocks[layer], work, layer == 0, &model->stats, activations, scratch);
    if (has_final_norm(model))
        norm_layout(&model->final_norm, work, true, activations, scratch);
    else if (work->storage != F32)
        model->head_copy =
            arena_2d(activations, work->storage, work->shape.N, model->config.d_model);
    objective_of(work)->layout(&model->loss, work, activations);
    if (work->training) mtp_layout(&model->mtp, work, &model->stats, activations, scratch);
    statistics_layout(&model->stats, work, activations);
    if (!work->training) {
        model->logits_row = arena_1d(activations, F32, model->config.vocab_size);
        model->host_logits_row = arena_mirror(work->host, model->logits_row);
    }
}

static void measure(Model *model, const ModelConfig *config, ModelSplit split, Device *dev,
                    Model *owner) {
    *model = (Model){.config = *config, .owner = owner, .check_exchanges = split.check_exchanges};
    model->blocks = calloc((size_t)config->layers, sizeof *model->blocks);
    CHECK_MEMORY(model->blocks, "no memory for %lld layers", (long long)config->layers);
    model->positions.count = split.positions > split.context ? split.positions : split.context;
    set_work(model, split, dev);
    declare_params(model);
    CHECK(split.weights == F32 || (split.storage == F32 && !split.training),
          "weights of %s where activations are %s", dtype_name(split.weights),
          dtype_name(split.storage));
    narrow_weights_begin(&model->narrow, split.weights, &model->params);
    arena_measure(&model->parameter_arena, "parameters", dev);
    arena_measure(&model->gradient_arena, "gradients", dev);
    arena_measure(&model->activation_arena, "activations", dev);
    arena_measure(&model->scratch_arena, "scratch", dev);
    arena_measure(&model->host_arena, "the host's mirrors", NULL);
    layout(model);
}

void model_measure(Model *model, const ModelConfig *config, ModelSplit split, Device *dev) {
    measure(model, config, split, dev, NULL);
}

bool model_measure_beside(Model *model, Model *owner, const ModelConfig *config, ModelSplit split) {
    measure(model, config, split, owner->work.dev, owner);
    return model->activation_arena.peak_bytes <= owner->activation_arena.peak_bytes &&
           model->scratch_arena.peak_bytes <= owner->scratch_arena.peak_bytes;
}

static void enlarge(Arena *arena, const Arena *other) {
    if (other->peak_bytes > arena->peak_bytes) arena->peak_bytes = other->peak_bytes;
}

void model_make_room(Model *owner, const Model *model) {
    enlarge(&owner->activation_arena, &model->activation_arena);
    enlarge(&owner->scratch_arena, &model->scratch_arena);
}

bool model_check(const Model *model, Error *err) {
    for (int64_t layer = 0; layer < model->config.layers; layer++)
        if (!block_check(&model->blocks[layer], &model->work, err)) return false;
    return !model->work.training || mtp_check(&model->mtp, &model->work, err);
}

void model_allocate(Model *model, ProcessGroups groups, uint64_t seed) {
    model->work.groups = groups;
    model->work.step.seed = seed;
    model->work.params = &model->params;
    model->work.placement = model->owner ? &model->owner->placement : &model->placement;
    model->work.config = &model->config;
    model->work.host = &model->host_arena;
    model->work.positions = &model->positions;
    arena_allocate(&model->host_arena);
    if (model->owner) {
        arena_share(&model->activation_arena, &model->owner->activation_arena);
        arena_share(&model->scratch_arena, &model->owner->scratch_arena);
        layout(model);
        return;
    }
    arena_allocate(&model->parameter_arena);
    arena_allocate(&model->gradient_arena);
    arena_allocate(&model->activation_arena);
    arena_allocate(&model->scratch_arena);
    layout(model);
    placement_upload(&model->placement, model->work.dev);
    positions_fill(&model->positions, &model->work);
}

void model_init_parameters(Model *model) {
    const Work *work = &model->work;
    param_init(&model->params, work->dev, model->values, work->step.seed);
    if (work->narrow) narrow_weights_init(work->narrow, &model->params, work->dev, work->step.seed);
    model_refresh_matrices(model);
}

void model_refresh_matrices(Model *model) {
    if (model->work.storage == F32) return;
    for (int run = 0; run < GRADIENT_RUNS; run++)
        convert(model->work.dev, model->matrices.run[run], model->values.run[run]);
}

void model_free(Model *model) {
    arena_free(&model->parameter_arena);
    arena_free(&model->gradient_arena);
    arena_free(&model->activation_arena);
    arena_free(&model->scratch_arena);
    arena_free(&model->host_arena);
    for (int64_t layer = 0; model->blocks && layer < model->config.layers; layer++)
        block_free(&model->blocks[layer]);
    free(model->blocks);
    mtp_free(&model->mtp);
    gradients_free(&model->gradients);
    free(model->work.shape.dense_offsets);
    statistics_free(&model->stats);
    param_table_free(&model->params);
    placement_free(&model->placement);
    narrow_weights_free(&model->narrow);
    *model = (Model){0};
}

// ---- one micro-batch ----------------------------------------------------------------------------

// From the last block's residual stream to logits.
static void output_forward(Model *model, Residual x) {
    Work *work = &model->work;
    if (has_final_norm(model)) {
        norm_forward(&model->final_norm, work, x);
        model->head_in = model->final_norm.out;
    } else {
        model->head_in = work_stored(work, model->head_copy, x.x);
    }
    digest_scope(work, DIGEST_FORWARD, DIGEST_MODEL, NULL);
    digest_part(work, "output", model->head_in);
    head_forward(&model->embedding, work, model->loss.logits, model->head_in);
}

// From dlogits, left by the loss, to dx.
static void output_backward(Model *model, Tensor dx) {
    Work *work = &model->work;
    // the norm's output is not needed after the head
    Tensor dhead_in = has_final_norm(model) ? model->final_norm.out : dx;
    head_backward(&model->embedding, work, model->head, dhead_in, model->loss.logits,
                  model->head_in);
    gradients_share_ready(&model->gradients, work, model->head.weight);
    if (!has_final_norm(model)) return;
    fill_zero(work->dev, dx);
    norm_backward(&model->final_norm, work, dx, dhead_in);
}

// The stream that the first block takes in.
static Residual input_forward(Model *model, Tensor tokens) {
    Work *work = &model->work;
    work->tokens = tokens;
    Residual x = {.x = lookup_forward(&model->input, &model->embedding, work, tokens)};
    positions_embed(&model->positions, work, x.x, 0);
    double dropout = model->config.embedding_dropout;
    if (dropout_is_due(work, dropout))
        drop_tokens(work, x.x, x.x, dropout, RNG_DROPOUT_EMBEDDING, 0);
    digest_scope(work, DIGEST_FORWARD, DIGEST_MODEL, NULL);
    digest_part(work, "embedding", x.x);
    return x;
}

static Residual blocks_forward(Model *model, Residual x) {
    for (int64_t layer = 0; layer < model->config.layers; layer++)
        x = block_forward(&model->blocks[layer], &model->work, &model->stats, x);
    return x;
}

// Returns the stream behind the last block.
static Residual forward(Model *model, Tensor tokens) {
    Residual x = blocks_forward(model, input_forward(model, tokens));
    output_forward(model, x);
    return has_final_norm(model) ? (Residual){.x = model->final_norm.x} : x;
}

// From dlogits, left by the loss, to the gradients of every parameter. A layer's gradients are
// summed over ranks while the layers below it compute.
static void backward(Model *model, Tensor stream) {
    Work *work = &model->work;
    Gradients *gradients = &model->gradients;
    Tensor dx = model->dx;
    int bucket = (int)model->config.layers + 2;
    output_backward(model, dx);
    digest_scope(work, DIGEST_BACKWARD, DIGEST_MODEL, NULL);
    digest_part(work, "output", dx);
    mtp_train(&model->mtp, work,
              (MtpShared){&model->embedding, gradients, &model->stats, model->loss.logits}, stream,
              dx);
    gradients_ready(gradients, work, --bucket);
    for (int64_t layer = model->config.layers - 1; layer >= 0; layer--) {
        block_backward(&model->blocks[layer], work, dx);
        gradients_ready(gradients, work, --bucket);
    }
    double dropout = model->config.embedding_dropout;
    if (dropout_is_due(work, dropout)) drop_tokens(work, dx, dx, dropout, RNG_DROPOUT_EMBEDDING, 0);
    positions_embed_backward(&model->positions, work, dx);
    lookup_backward(&model->input, &model->embedding, work, dx);
    gradients_ready(gradients, work, --bucket);
    gradients_finish(gradients, work);
}

void model_train_micro_batch(Model *model, Tensor tokens, Tensor targets, int64_t micro_batch,
                             uint32_t step) {
    Work *work = &model->work;
    work->step.micro_batch = micro_batch;
    work->step.number = step;
    work->step.first_token = micro_batch * micro_batch_tokens(work) + first_token_of_rank(work);
    if (micro_batch == 0) {
        statistics_clear(&model->stats, work->dev);
        exchange_check_clear(&model->exchange_check, work);
    }
    digest_micro_batch(work);
    Tensor stream = forward(model, tokens).x;
    objective_of(work)->train(&model->loss, work, &model->stats, targets);
    digest_part(work, "loss", model->loss.losses);
    backward(model, stream);
    if (micro_batch == work->shape.micro_batches - 1)
        exchange_check_add_up(&model->exchange_check, work, &model->stats);
}

void model_set_documents(Model *model, Tensor positions, int64_t step_targets) {
    model->work.step.positions = positions;
    model->work.step.targets = step_targets;
}

void model_set_ahead(Model *model, Tensor tokens, Tensor targets) {
    model->work.step.ahead_tokens = tokens;
    model->work.step.ahead_targets = targets;
}

void model_after_step(Model *model) {
    for (int64_t layer = 0; layer < model->config.layers; layer++)
        block_after_step(&model->blocks[layer], &model->work, &model->stats);
    mtp_after_step(&model->mtp, &model->work, &model->stats);
}

Tensor model_trained_losses(const Model *model) {
    return model->loss.losses;
}

// A model that shares another's memory takes it over from that, which may have worked since: in
// neither has anything stayed.
static void take_memory(Model *model) {
    if (!model->owner) return;
    model->owner->work.memory_uses++;
    model->work.memory_uses++;
}

const float *model_token_losses(Model *model, Tensor tokens, Tensor targets, int64_t first_token) {
    Work *work = &model->work;
    CHECK(!work->training, "a model that trains is not evaluated");
    work->step.first_token = first_token;
    take_memory(model);
    forward(model, tokens);
    if (work->tape && work->tape->passed)
        work->tape->passed(work->tape->context, work->step.counted_tokens);
    return objective_of(work)->evaluate(&model->loss, work, targets);
}

Tensor model_logits(Model *model, Tensor tokens) {
    forward(model, tokens);
    return model->loss.logits;
}

const float *model_logit_losses(Model *model, Tensor targets) {
    return objective_of(&model->work)->evaluate(&model->loss, &model->work, targets);
}

void model_stream_forward(Model *model, Tensor tokens, Tensor stream) {
    Device *dev = model->work.dev;
    CHECK(model->work.storage == F32, "a stream in stages is of f32 alone");
    Residual x = {.x = stream};
    if (tokens.data) x = input_forward(model, tokens);
    x = blocks_forward(model, x);
    if (x.branch.data)
        add(dev, stream, x.x, x.branch);
    else
        copy(dev, stream, x.x);
}

Tensor model_stream_logits(Model *model, Tensor stream) {
    output_forward(model, (Residual){.x = stream});
    return model->loss.logits;
}

const float *model_read_logits(Model *model, Tensor logits, int64_t row) {
    Tensor there = tensor_rows(logits, row, 1);
    if (logits.dtype == F32) {
        copy(model->work.dev, model->logits_row, there);
    } else {
        convert(model->work.dev, model->logits_row, there);
    }
    device_download(model->work.dev, model->host_logits_row, model->logits_row);
    return tensor_f32(model->host_logits_row);
}

// ---- generation ---------------------------------------------------------------------------------

static void kv_cache_layout(KvCache *cache, const Model *model, int64_t positions) {
    for (int64_t layer = 0; layer < model->config.layers; layer++)
        cache->layers[layer] = arena_2d(&cache->arena, model->work.storage, positions,
                                        block_cache_width(&model->blocks[layer], &model->work));
}

void kv_cache_open(KvCache *cache, const Model *model, int64_t positions) {
    int64_t layers = model->config.layers;
    cache->layers = calloc((size_t)layers, sizeof *cache->layers);
    CHECK_MEMORY(cache->layers, "no memory for the cache of %lld layers", (long long)layers);
    arena_measure(&cache->arena, "key/value cache", model->work.dev);
    kv_cache_layout(cache, model, positions);
    arena_allocate(&cache->arena);
    kv_cache_layout(cache, model, positions);
}

void kv_cache_close(KvCache *cache) {
    arena_free(&cache->arena);
    free(cache->layers);
    *cache = (KvCache){0};
}

Tensor model_decode(Model *model, KvCache *cache, Tensor tokens, int64_t position) {
    Work *work = &model->work;
    CHECK(work->decoding && work->shape.B == 1, "a model of %lld sequences does not decode",
          (long long)work->shape.B);
    take_memory(model);
    work->tokens = tokens;
    work->step.first_token = position; // whatever is drawn for it, as in a pass over all positions
    Residual x = {.x = lookup_forward(&model->input, &model->embedding, work, tokens)};
    positions_embed(&model->positions, work, x.x, position);
    for (int64_t layer = 0; layer < model->config.layers; layer++)
        x = block_decode(&model->blocks[layer], work, &model->stats, x, cache->layers[layer],
                         position);
    output_forward(model, x);
    return model->loss.logits;
}

// ---- counting -----------------------------------------------------------------------------------

int64_t model_total_params(const Model *model) {
    int64_t total = 0;
    for (int i = 0; i < model->params.count; i++) total += param_elements(&model->params.rows[i]);
    return total;
}

int64_t model_active_params(const Model *model) {
    int64_t active = 0;
    for (int i = 0; i < model->params.count; i++)
        active += param_active_elements(&model->params.rows[i]);
    return active;
}

LayerCost model_cost(const Model *model) {
    const Work *work = &model->work;
    double head = (double)model->config.d_model * (double)model->config.vocab_size;
    LayerCost cost = {
        .flops_per_token = 2 * head,
        .scratch = {.N = work->shape.N,
                    .T = work->shape.T,
                    .D = model->config.d_model,
                    .V = model->config.vocab_size,
                    .parts = larger(work->shape.shards, work->shape.dense_parts),
                    .group = work->shape.N / work->shape.shards,
                    .storage = work->storage},
    };
    for (int64_t layer = 0; layer < model->config.layers; layer++)
        block_cost(&model->blocks[layer], work, &cost);
    if (work->training) mtp_cost(&model->mtp, work, &cost);
    for (int i = 0; i < model->params.count; i++) {
        cost.scratch.rows += 1 + param_local_segments(&model->params.rows[i]);
    }
    cost.scratch.elements = larger(model->params.elements[0], model->params.elements[1]);
    return cost;
}
