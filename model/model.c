#include "model/model.h"

#include <stdlib.h>

// ---- layout --------------------------------------------------------------------------------------------

static void set_work(Model *model, ModelSplit split) {
    Work *work = &model->work;
    const ModelConfig *config = &model->config;
    CHECK(split.shards % split.ranks == 0 && split.sequences % split.shards == 0 &&
              split.ranks % split.expert_parallel == 0,
          "%lld sequences, %lld shards, %lld ranks, expert_parallel %lld do not divide",
          (long long)split.sequences, (long long)split.shards, (long long)split.ranks,
          (long long)split.expert_parallel);
    work->config = config;
    work->ep_size = split.expert_parallel;
    work->ep_rank = split.rank % split.expert_parallel;
    work->expert_replicas = split.ranks / split.expert_parallel;
    work->B = split.sequences / split.ranks;
    work->T = split.context;
    work->N = work->B * work->T;
    work->total_shards = split.shards;
    work->shards = split.shards / split.ranks;
    work->first_shard = work->shards * split.rank;
    work->micro_batches = split.micro_batches;
    work->training = split.training;
    work->even_routing = split.even_routing;
    work->params = &model->params;

    // The fixed groups of shards over which an expert's gradient is summed: this rank's expert_parallel group has
    // an equal share of them.
    int64_t replicas = work->expert_replicas, fixed_groups = config->moe.max_expert_replicas;
    CHECK(config->moe.experts == 0 || !split.fixed_tree || fixed_groups % replicas == 0,
          "%lld expert replicas do not divide max_expert_replicas %lld", (long long)replicas,
          (long long)fixed_groups);
    work->expert_parts = split.fixed_tree && fixed_groups >= replicas ? fixed_groups / replicas : 1;
    work->dense_parts = split.fixed_tree ? work->shards : 1;
    work->reduce_order = split.fixed_tree ? REDUCE_FIXED_TREE : REDUCE_ANY_ORDER;
    CHECK(work->dense_parts <= DENSE_PARTS_MAX, "more than %d shards on a rank", DENSE_PARTS_MAX);
    for (int64_t p = 0; p <= work->dense_parts; p++)
        work->dense_offsets[p] = work->N / work->dense_parts * p;

    model->params.count = 0;
    model->params.elements[PARAM_DENSE] = model->params.elements[PARAM_EXPERT] = 0;
    model->params.expert_count = config->moe.experts / work->ep_size;
    model->params.expert_first = model->params.expert_count * work->ep_rank;
}

static void declare_params(Model *model) {
    Work *work = &model->work;
    embedding_declare(&model->embedding, work);
    for (int64_t layer = 0, moe_layer = 0; layer < model->config.layers; layer++) {
        block_declare(&model->blocks[layer], work, layer, moe_layer);
        if (model_layer_is_moe(&model->config, layer)) moe_layer++;
    }
    norm_declare(&model->final_norm, work, "final_norm");
    head_declare(&model->embedding, work);
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// Places everything; run once to measure and once, with memory, to place.
static void layout(Model *model) {
    Work *work = &model->work;
    Arena *activations = &model->activation_arena, *scratch = &model->scratch_arena;
    model->values = work->values = param_set_layout(&model->params, &model->parameter_arena);
    rope_table_layout(&model->rope, &model->config, model->positions, &model->parameter_arena);
    if (work->training) {
        model->gradients = work->gradients =
            param_set_layout(&model->params, &model->gradient_arena);
        model->accumulated = work->micro_batches > 1
                                 ? param_set_layout(&model->params, &model->gradient_arena)
                                 : model->gradients;
    }
    model->dx = arena_2d(scratch, F32, work->N, model->config.d_model);
    embedding_layout(&model->embedding, work, activations, scratch, &model->gradient_arena);
    for (int64_t layer = 0; layer < model->config.layers; layer++) {
        model->blocks[layer].attention.rope = &model->rope;
        block_layout(&model->blocks[layer], work, activations, scratch);
    }
    norm_layout(&model->final_norm, work, activations, scratch);
    loss_layout(&model->loss, work, activations);
    statistics_layout(&model->stats, work, activations);
    // The gradient tree runs when no layer does.
    if (work->training) {
        size_t mark = arena_mark(scratch);
        int64_t longest =
            larger(model->params.elements[PARAM_DENSE], model->params.elements[PARAM_EXPERT]);
        if (model->embedding.tied)
            longest = larger(longest, tensor_elements(model->embedding.head_gradient));
        bool needed = work->reduce_order == REDUCE_FIXED_TREE && work->total_shards > work->shards;
        model->reduce_scratch = arena_1d(scratch, F32, needed ? (longest + 1) / 2 : 0);
        arena_release(scratch, mark);
    }
}

void model_measure(Model *model, const ModelConfig *config, ModelSplit split) {
    *model = (Model){.config = *config};
    model->blocks = calloc((size_t)config->layers, sizeof *model->blocks);
    CHECK(model->blocks, "no memory for %lld layers", (long long)config->layers);
    model->positions = split.positions > split.context ? split.positions : split.context;
    set_work(model, split);
    declare_params(model);
    arena_measure(&model->parameter_arena, "parameters");
    arena_measure(&model->gradient_arena, "gradients");
    arena_measure(&model->activation_arena, "activations");
    arena_measure(&model->scratch_arena, "scratch");
    layout(model);
}

void model_allocate(Model *model, Device *dev, ProcessGroups groups, uint64_t seed) {
    model->work.dev = dev;
    model->work.groups = groups;
    model->work.seed = seed;
    model->work.params = &model->params;
    model->work.config = &model->config;
    arena_allocate(&model->parameter_arena);
    arena_allocate(&model->gradient_arena);
    arena_allocate(&model->activation_arena);
    arena_allocate(&model->scratch_arena);
    layout(model);
    rope_table_fill(&model->rope, &model->config);
    param_init(&model->params, model->values, seed);
}

void model_free(Model *model) {
    arena_free(&model->parameter_arena);
    arena_free(&model->gradient_arena);
    arena_free(&model->activation_arena);
    arena_free(&model->scratch_arena);
    free(model->blocks);
    *model = (Model){0};
}

// ---- one micro-batch -----------------------------------------------------------------------------------

static void forward(Model *model, Tensor tokens) {
    Work *work = &model->work;
    Tensor x = embedding_layer_forward(&model->embedding, work, tokens);
    for (int64_t layer = 0; layer < model->config.layers; layer++)
        x = block_forward(&model->blocks[layer], work, &model->stats, x);
    norm_forward(&model->final_norm, work, x);
    head_forward(&model->embedding, work, model->loss.logits, model->final_norm.out);
}

// From dlogits, left by the loss, to the gradients of every parameter on this rank.
static void backward(Model *model) {
    Work *work = &model->work;
    Tensor dx = model->dx,
           dnorm = model->final_norm.out; // the norm's output is not needed after the head
    Tensor dlogits = model->loss.logits;
    head_backward(&model->embedding, work, dnorm, dlogits, model->final_norm.out);
    fill_zero(work->dev, dx);
    norm_backward(&model->final_norm, work, dx, dnorm);
    for (int64_t layer = model->config.layers - 1; layer >= 0; layer--)
        block_backward(&model->blocks[layer], work, dx);
    embedding_layer_backward(&model->embedding, work, dx);
}

// Dense gradients are summed over all ranks, expert gradients over the ranks that hold the same experts.
static void reduce_gradients(Model *model) {
    Work *work = &model->work;
    Tensor scratch = model->reduce_scratch;
    all_reduce_sum(work->groups.world, model->gradients.run[PARAM_DENSE], work->reduce_order,
                   scratch, TRAFFIC_GRADIENTS);
    if (model->embedding.tied)
        all_reduce_sum(work->groups.world, model->embedding.head_gradient, work->reduce_order,
                       scratch, TRAFFIC_GRADIENTS);
    head_gradient_join(&model->embedding, work);
    all_reduce_sum(work->groups.expert_replicas, model->gradients.run[PARAM_EXPERT],
                   work->reduce_order, scratch, TRAFFIC_GRADIENTS);
}

void model_train_micro_batch(Model *model, Tensor tokens, Tensor targets, bool first,
                             uint32_t micro_batch) {
    Work *work = &model->work;
    work->micro_batch = micro_batch;
    if (first) statistics_clear(&model->stats);
    forward(model, tokens);
    loss_forward_backward(&model->loss, work, &model->stats, targets);
    backward(model);
    reduce_gradients(model);
    if (work->micro_batches == 1) return;
    for (int kind = PARAM_DENSE; kind <= PARAM_EXPERT; kind++) {
        Tensor sum = model->accumulated.run[kind], gradients = model->gradients.run[kind];
        if (first)
            copy(work->dev, sum, gradients);
        else
            add(work->dev, sum, sum, gradients);
    }
}

double model_evaluate(Model *model, Tensor tokens, Tensor targets) {
    Work *work = &model->work;
    bool was_training = work->training;
    work->training = false;
    statistics_clear(&model->stats);
    forward(model, tokens);
    loss_forward_backward(&model->loss, work, &model->stats, targets);
    statistics_reduce(&model->stats, work);
    work->training = was_training;
    return *statistics_loss(&model->stats, 0) * (double)work->micro_batches;
}

Tensor model_logits(Model *model, Tensor tokens) {
    bool was_training = model->work.training;
    model->work.training = false;
    forward(model, tokens);
    model->work.training = was_training;
    return model->loss.logits;
}

// ---- generation ----------------------------------------------------------------------------------------

static void kv_cache_layout(KvCache *cache, const ModelConfig *config, int64_t positions) {
    for (int64_t layer = 0; layer < config->layers; layer++)
        cache->layers[layer] =
            arena_2d(&cache->arena, F32, positions, attention_kv_width(config->attention.shape));
}

void kv_cache_open(KvCache *cache, const ModelConfig *config, int64_t positions) {
    cache->layers = calloc((size_t)config->layers, sizeof *cache->layers);
    CHECK(cache->layers, "no memory for the cache of %lld layers", (long long)config->layers);
    arena_measure(&cache->arena, "key/value cache");
    kv_cache_layout(cache, config, positions);
    arena_allocate(&cache->arena);
    kv_cache_layout(cache, config, positions);
}

void kv_cache_close(KvCache *cache) {
    arena_free(&cache->arena);
    free(cache->layers);
    *cache = (KvCache){0};
}

Tensor model_decode(Model *model, KvCache *cache, Tensor token, int64_t position) {
    Work *work = &model->work;
    CHECK(work->N == 1, "decoding wants one token, not %lld", (long long)work->N);
    Tensor x = embedding_layer_forward(&model->embedding, work, token);
    for (int64_t layer = 0; layer < model->config.layers; layer++)
        x = block_decode(&model->blocks[layer], work, &model->stats, x, cache->layers[layer],
                         position);
    norm_forward(&model->final_norm, work, x);
    head_forward(&model->embedding, work, model->loss.logits, model->final_norm.out);
    return model->loss.logits;
}

// ---- counting ------------------------------------------------------------------------------------------

int64_t model_total_params(const Model *model) {
    int64_t total = 0;
    for (int i = 0; i < model->params.count; i++) total += param_elements(&model->params.rows[i]);
    return total;
}

int64_t model_active_params(const Model *model) {
    const MoeConfig *moe = &model->config.moe;
    int64_t active = 0;
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        int64_t elements = param_elements(row);
        active += row->kind == PARAM_EXPERT ? elements / moe->experts * moe->top_k : elements;
    }
    return active;
}

double model_forward_flops_per_token(const ModelConfig *config, int64_t T) {
    AttentionShape s = config->attention.shape;
    double D = (double)config->d_model, layers = (double)config->layers;
    double moe_layers = (double)model_moe_layers(config);
    double matrices =
        (config->activation == SWIGLU ? 3.0 : 2.0) * D; // parameters per unit of hidden width
    double weights = layers * D * (double)(attention_qkv_width(s) + s.heads * s.d_value) +
                     (layers - moe_layers) * matrices * (double)config->d_ff +
                     moe_layers * (matrices * (double)(config->moe.d_ff * config->moe.top_k) +
                                   D * (double)config->moe.experts) +
                     D * (double)config->vocab_size;
    double mean_keys = (double)(T + 1) / 2;
    double attention = layers * (double)s.heads * mean_keys * (double)(s.d_head + s.d_value);
    return 2 * (weights + attention);
}
