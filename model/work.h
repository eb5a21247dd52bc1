// What one rank does in one micro-batch: the numbers and handles that every layer needs.
//
// Letters, here and in all of model/ (N is always this rank's share):
//   B sequences   T tokens a sequence   N = B·T tokens   D d_model   H query heads   F hidden width
//   V vocabulary
//   E experts of a layer, all ranks together   K choices a token   S shards of this rank
//   R rows an expert rank receives
// "stored" marks tensors of work->storage, f32 or bf16. The residual stream, its gradient, norms,
// router, losses, parameters' masters and gradients are f32 always.
//
// A layer is four functions. _declare adds its rows to the parameter table. _layout places
// everything it will ever touch: what the backward pass needs in `activations`, the rest in
// `scratch` between a mark and a release, and what the host reads or writes of device tensors in
// work->host; it runs once to measure and once to place. _forward and _backward then neither
// allocate nor fail.
#ifndef MOETRAIN_MODEL_WORK_H
#define MOETRAIN_MODEL_WORK_H

#include "comm/collectives.h"
#include "kernels/deal.h"
#include "model/model_config.h"
#include "kernels/rng.h"
#include "model/narrow_weights.h"
#include "model/placement.h"

typedef struct Positions Positions; // positions.h

// This rank's share, which never changes while a model lives.
typedef struct RankShape {
    int64_t B, T, N;
    int64_t micro_batches; // of a step
    int64_t shards;        // of a micro-batch that are this rank's (comm/shard_run.h)
    int64_t first_shard;   // of those
    int64_t all_shards;    // of a micro-batch, over all ranks
    int64_t most_shards;   // of a rank
    int64_t ranks, rank;
    ShardDeal deal; // of a micro-batch's shards to ranks
    int64_t ep_size, ep_rank;
    Deal group_shards; // those of this rank's expert_parallel group, to its ranks
    int64_t group_first_shard;
    int64_t sources;         // of the data, told apart; below 2: none
    int64_t expert_replicas; // ranks that hold the same experts
    // Pieces at most in which tokens travel to their experts, so that one is on its way while
    // another is computed.
    int64_t chunks;
    // Parts of the fixed tree (kernels.h, Segments) in a micro-batch. With reproducible: ranks,
    // dense gradients are summed shard by shard and expert gradients in fixed groups of shards,
    // max_expert_replicas of them in a step; otherwise in one part.
    int64_t dense_parts, expert_parts;
    int64_t *dense_offsets; // (dense_parts + 1) rows of each part; the model's
    // The nodes of the fixed tree that this rank's dense parts make up: one, unless ranks share
    // shards unevenly. A dense gradient is summed over each (dense_gradient.h).
    int node_count, most_nodes; // here, and of a rank
    ShardRun nodes[SHARD_NODES_MAX];
    ReduceOrder reduce_order;
} RankShape;

// The micro-batch at work.
typedef struct Step {
    uint64_t seed;
    uint32_t number;     // since the start of training
    int64_t micro_batch; // of the step, from 0
    // Number of this rank's first token, counted through all ranks and micro-batches of the step,
    // or from the beginning of a validation file.
    int64_t first_token;
    // Evaluation: this rank's first tokens that are the file's, and not what fills its last window
    // up; their choices are counted. 0: nothing is.
    int64_t counted_tokens;
    // (N) i32 on the device: the place of each row in its document, which attention does not leave;
    // data NULL: a sequence is one document.
    Tensor positions;
    int64_t targets; // of the step that are not NO_TARGET, over all ranks; 0: all tokens
    // (mtp.layers · N) i32 on the device: what each module of multi-token prediction takes, and is
    // to predict (multi_token_prediction.h).
    Tensor ahead_tokens, ahead_targets;
    const int32_t *sources; // (B) of the data, of this rank's windows, on the host; NULL: not known
} Step;

// Of gradients that parameters have beside their own, at most (gradients.h): a tied table's, and of
// each module of multi-token prediction those of embedding, head and its bias.
enum { GRADIENT_SHARES_MAX = 1 + 3 * MTP_LAYERS_MAX };

// Updates of a parameter's rows that wait until somebody names the row. `listed` (rows + 1) i32 as
// list_names has it. Not collective.
typedef struct RowKeeper {
    void (*catch_up)(struct RowKeeper *keeper, int param, Tensor listed);
} RowKeeper;

typedef struct Work {
    Device *dev;
    const ModelConfig *config;
    ProcessGroups groups; // NULL members while planning
    Arena *host;          // the host's mirrors of device tensors
    DType storage;        // of activations that matrices multiply, and of the matrices' copies
    bool training;        // false: forward passes count choices alone
    bool decoding;        // new tokens of one sequence, after those in a cache
    bool even_routing;    // planning only: see ModelSplit
    RankShape shape;

    ParamTable *params;
    Placement *placement; // of the model that has the parameters
    ParamSet values;
    ParamSet gradients;                 // of the micro-batch at work (gradients.h)
    Tensor shares[GRADIENT_SHARES_MAX]; // f32, each of its parameter's shape (work_use_gradient)
    // The same of the other nodes, (most_nodes - 1, ·) f32: of some layers at a time, at
    // node_offset of the parameter, or of the share (gradients.h).
    Tensor node_gradients;
    int64_t node_share_offset[GRADIENT_SHARES_MAX];
    ParamSet matrices; // the values for matrix products: a bf16 copy, or the values themselves
    const NarrowWeights *narrow; // instead of them; NULL: none
    const Positions *positions;

    Step step;
    // Brings rows of parameters up to date before they are read (params.h, few_rows); NULL: they
    // are.
    RowKeeper *keeper;
    const struct RoutingTape *tape;       // routing_tape.h; NULL: none
    struct ExchangeCheck *exchange_check; // exchange_check.h; NULL: none
    struct StreamDigests *digests;        // stream_digests.h, of this step; NULL: none
    Tensor tokens; // (N) i32: ids of the tokens at work, on the device; set by the model's passes
    // times that another model has used this one's activations, so that nothing in them has stayed
    int64_t memory_uses;
} Work;

// The rows of a dense matrix product of this rank.
static inline Segments work_dense_rows(const Work *work) {
    return (Segments){
        .groups = 1, .parts = work->shape.dense_parts, .offsets = work->shape.dense_offsets};
}
static inline Tensor work_value(const Work *work, int param) {
    return param_tensor(work->params, work->values, param);
}
static inline Tensor work_matrix(const Work *work, int param) {
    return param_tensor(work->params, work->matrices, param);
}
static inline Tensor work_gradient(const Work *work, int param) {
    return param_tensor(work->params, work->gradients, param);
}

// A parameter that is used several times: each further use has a share of the gradient, so that the
// tree over shards sums the uses apart.
enum { OWN_GRADIENT = -1 }; // of the first use, in place of a share
static inline Tensor work_use_gradient(const Work *work, int param, int share) {
    return share == OWN_GRADIENT ? work_gradient(work, param) : work->shares[share];
}

// Random numbers of a layer in this step. Their index begins with the token's number,
// work->step.first_token + n, so that they are the same on any number of ranks.
static inline RngStream work_stream(const Work *work, RngPurpose purpose, int64_t layer) {
    return (RngStream){work->step.seed, purpose, work->step.number, (uint32_t)layer};
}

// Sets of tokens that compete for an expert's capacity.
static inline int64_t routing_groups(const Work *work) {
    int64_t groups = 0;
    switch (work->config->moe.routing_group) {
    case GROUP_SHARD:
        groups = work->shape.shards;
        break;
    case GROUP_SEQUENCE:
    case GROUP_DOCUMENT: // of a sequence: router_route
        groups = work->shape.B;
        break;
    }
    return groups;
}

// Tokens of a micro-batch over all ranks.
static inline int64_t micro_batch_tokens(const Work *work) {
    return work->shape.N / work->shape.shards * work->shape.all_shards;
}
// And the number of this rank's first one among them.
static inline int64_t first_token_of_rank(const Work *work) {
    return work->shape.N / work->shape.shards * work->shape.first_shard;
}
// What turns a sum over the tokens of a step into the mean that enters the loss.
static inline double per_step_token(const Work *work) {
    return 1.0 / (double)(micro_batch_tokens(work) * work->shape.micro_batches);
}

// Targets of a step over all ranks and micro-batches.
static inline int64_t step_targets(const Work *work) {
    if (work->step.targets > 0) return work->step.targets;
    return micro_batch_tokens(work) * work->shape.micro_batches;
}

// A dense weight seen as the single matrix of a matmul: (N, K) to (1, N, K).
static inline Tensor as_matrix(Tensor w) {
    return tensor_reshape_3d(w, 1, w.shape[0], w.shape[1]);
}
// A dense bias seen as that of the single group: (out) to (1, out).
static inline Tensor as_row(Tensor bias) {
    return tensor_reshape_2d(bias, 1, bias.shape[0]);
}
// A stored copy of an f32 tensor for a matrix product: x itself when activations are f32, otherwise
// `copy`.
static inline Tensor work_stored(const Work *work, Tensor copy, Tensor x) {
    if (work->storage == F32) return x;
    convert(work->dev, copy, x);
    return copy;
}

#endif
