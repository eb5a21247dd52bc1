// What a training step computes and sends, half block by half block, as the model says that
// `moetrain plan` measures. Without evaluation and saving. Nothing here is collective.
#ifndef MOETRAIN_WORKER_SIMULATION_STEP_GRAPH_H
#define MOETRAIN_WORKER_SIMULATION_STEP_GRAPH_H

#include "comm/shard_run.h"
#include "worker/train_config.h"

// Half a block. Backward costs twice what forward does, and sends as much.
typedef struct GraphHalf {
    int64_t layer;       // of the model
    double flops;        // of a token, forward, on the rank that has it
    double expert_flops; // of a token, forward, by its experts
    int64_t experts;     // that share the tokens; 0: nothing travels
    double token_bytes;  // of a token, there and back: to all its experts, its own rank's too
    bool counted;        // the ranks tell each other first how many rows will come
    bool routed;         // experts are chosen, so that some may be chosen more often
    double most_share;   // of all choices, that one expert takes: its capacity
    bool padded;         // each takes as much
    int64_t sums;        // small sums over ranks in a micro-batch: of balance losses
    double *load;        // (experts) shares of all choices, their sum is 1; NULL: even
} GraphHalf;

// Gradients that are summed over ranks as soon as the backward pass has them, in elements of f32.
typedef struct GraphSum {
    double dense, expert; // over all ranks, over those that hold the same experts
} GraphSum;

typedef struct StepGraph {
    int64_t ranks, expert_parallel;
    int64_t micro_batches;
    ShardDeal deal;      // of a micro-batch's shards to ranks
    double shard_tokens; // of a shard in a micro-batch
    int64_t chunks;      // of an exchange at most
    bool fixed_tree;

    int64_t half_count; // two of each layer, bottom to top
    GraphHalf *halves;
    GraphSum *sums;    // (half_count / 2 + 2): embedding, layers, output
    double head_flops; // of a token, forward: logits, and what multi-token prediction computes

    double flops;            // of the whole step, all ranks, as the plan has them
    double token_kept_bytes; // that stay of a token for the backward pass, all layers
    double matrix_bytes;     // of a rank's matrices as products read them
    double gradient_bytes;   // of its gradients
    double update_bytes;     // that an update reads and writes
    double statistics;       // numbers in f64 that a step sums over ranks
} StepGraph;

// config->model.vocab_size and expert_parallel are resolved. False with exit 2 when the model
// cannot be computed in this cut.
bool step_graph_make(StepGraph *graph, const TrainConfig *config, int64_t ranks, Error *err);
void step_graph_free(StepGraph *graph); // legal on a zeroed struct

// The loads that moe.force=skewed would draw.
void step_graph_skew(StepGraph *graph, const TrainConfig *config);
// The loads in the newest row of a recorded history. False with exit 4 where it has none of these
// layers.
bool step_graph_recorded(StepGraph *graph, const UtilizationHistory *history, Error *err);

#endif
