// A Mixture-of-Experts language model, from tokens to loss and back.
//
//   embedding → layers × block (block.h) → norm → logits → loss
//                                      ↘ multi-token prediction, while training
//
// Letters and the life of a layer (declare, layout, forward, backward) are explained in work.h.
// Attention and dense parts are replicated on all ranks (data parallel), experts are sharded
// (expert parallel).
#ifndef MOETRAIN_MODEL_MODEL_H
#define MOETRAIN_MODEL_MODEL_H

#include "model/block.h"
#include "model/embedding.h"
#include "model/exchange_check.h"
#include "model/gradients.h"
#include "model/loss.h"
#include "model/multi_token_prediction.h"
#include "model/positions.h"
#include "model/rank_shape.h"

typedef struct Model {
    ModelConfig config;
    // The model whose parameters this one uses, in whose arenas it lies while that one rests; NULL:
    // it has its own.
    struct Model *owner;
    Work work;

    // What is trained.
    ParamTable params;
    Placement placement; // of its experts; empty with an owner, whose it is then
    ParamSet values;
    ParamSet matrices;    // bf16 copies of the values, or the values themselves
    NarrowWeights narrow; // or these, which have no values
    Gradients gradients;

    // What computes, bottom to top.
    Embedding embedding;
    Lookup input;
    Positions positions;
    Block *blocks;   // (layers)
    Norm final_norm; // where model.norm_place has one
    HeadUse head;
    // (N, D) stored: what the head reads; a copy of the stream where that is narrower, and no norm
    Tensor head_in, head_copy;
    Loss loss;
    Mtp mtp;
    Tensor dx; // (N, D) scratch: gradient of the residual stream

    // What is told of a step, and of a row of logits: (V) f32, see model_read_logits.
    Statistics stats;
    ExchangeCheck exchange_check;
    ExchangeChecks check_exchanges; // as the split wants it
    Tensor logits_row, host_logits_row;

    // The device's memory by lifetime, and the host's mirrors.
    Arena parameter_arena, gradient_arena, activation_arena, scratch_arena;
    Arena host_arena;
} Model;

// Lays the whole model out without memory: parameters are declared, arenas measured. Enough for
// `moetrain plan`, which has no device (dev NULL). Not collective.
void model_measure(Model *model, const ModelConfig *config, ModelSplit split, Device *dev);
// A second cut of a measured model that is only evaluated: other sequences, another capacity, but
// the owner's parameters, and its memory for activations and scratch, so that the two cannot be in
// use at the same time. Whether that memory suffices; model_make_room enlarges what is not
// allocated yet. Allocated after its owner. Not collective.
bool model_measure_beside(Model *model, Model *owner, const ModelConfig *config, ModelSplit split);
void model_make_room(Model *owner, const Model *model);
// Whether what was measured can be computed: rows can be numbered. False with exit 2 and the fix.
// Not collective.
bool model_check(const Model *model, Error *err);
// After model_measure and model_check: takes the memory; the parameters are zeros until they are
// loaded or initialised. groups as opened by process_groups_open(split.expert_parallel, dev). Not
// collective.
void model_allocate(Model *model, ProcessGroups groups, uint64_t seed);
// The first parameters, random by the seed of model_allocate. Not for a model beside its owner. A
// model that is loaded needs none: making them takes longer than loading. Not collective.
void model_init_parameters(Model *model);
// After the values were changed from outside (a checkpoint): brings their bf16 copies up to date.
// Not collective.
void model_refresh_matrices(Model *model);
void model_free(Model *model); // legal on a zeroed model

// One micro-batch of training, number `micro_batch` of the step from 0: takes its gradients into
// the step's and its shares into the statistics. The first one starts anew; after the last one
// model->gradients.sum holds the step's gradients, summed over ranks, with reproducible: ranks in
// the same bits for any number of ranks and micro-batches that divide the step's shards. `step`
// counts since the start of training.
// Where the split tells sources of the data apart, work.step.sources names those of this rank's
// sequences.
//   tokens, targets (N) i32 on the device, this rank's shards in order. Collective over all ranks.
void model_train_micro_batch(Model *model, Tensor tokens, Tensor targets, int64_t micro_batch,
                             uint32_t step);
// Of the passes from here on: the place of each row in its document, (N) i32 on the device, data
// NULL where a sequence is one, and how many targets of the step, over all ranks, are not NO_TARGET
// (0: all tokens; asked by training alone). Not collective.
void model_set_documents(Model *model, Tensor positions, int64_t step_targets);
// Of the passes of training from here on: tokens further on than the targets, as
// worker/data/tokens_ahead.h has them, (mtp.layers · N) i32 on the device. Not collective.
void model_set_ahead(Model *model, Tensor tokens, Tensor targets);
// The loss of every token of the micro-batch that was trained last, in nats: (N) f32 on the device,
// borrowed until the next call. Not collective.
Tensor model_trained_losses(const Model *model);
// After the step's update, with statistics reduced: what layers change by rules that are no
// gradient. Collective over all ranks.
void model_after_step(Model *model);
// Forward only: the loss of every token in nats, (N) on the host, borrowed until the next call.
// first_token: number of this rank's first token in the validation file. For a model that is not
// for training. Collective over all ranks.
const float *model_token_losses(Model *model, Tensor tokens, Tensor targets, int64_t first_token);
// Forward only: logits (N, V) stored of all rows, borrowed until the next call. Collective over all
// ranks.
Tensor model_logits(Model *model, Tensor tokens);
// The same in stages, for a model that stands for a part of another's layers
// (model_config_of_layer). From tokens (N) i32 or, where their data is NULL, from the residual
// stream (N, D) f32 to the stream after the blocks, in its place; and from there to logits.
// Collective over all ranks.
void model_stream_forward(Model *model, Tensor tokens, Tensor stream);
Tensor model_stream_logits(Model *model, Tensor stream);
// One row of logits as f32 on the host (V), borrowed until the next call. Not collective.
const float *model_read_logits(Model *model, Tensor logits, int64_t row);

// Keys and values of a sequence being generated, or what else its mixers remember.
typedef struct KvCache {
    Arena arena;
    Tensor *layers; // (layers), each (positions, width of the mixer's cache) stored
} KvCache;
void kv_cache_open(KvCache *cache, const Model *model, int64_t positions);
void kv_cache_close(KvCache *cache);
// Logits (N, V) after N more tokens from `position` on (all earlier positions are in the cache);
// borrowed until the next call. For a model with a split for decoding. Collective over all ranks,
// each with a sequence of its own.
Tensor model_decode(Model *model, KvCache *cache, Tensor tokens, int64_t position);
// The loss of each row of those logits, or of model_logits', in nats: (N) on the host, borrowed
// until the next call. targets (N) i32 on the device. The logits are used up. Not collective.
const float *model_logit_losses(Model *model, Tensor targets);

// Parameters over all ranks, and those that one token uses (top_k experts of each layer instead of
// all).
int64_t model_total_params(const Model *model);
int64_t model_active_params(const Model *model);
// What the model's layers and its head need beside parameters, once it is measured.
LayerCost model_cost(const Model *model);

#endif
