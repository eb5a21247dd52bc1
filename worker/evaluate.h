// Validation loss: during training and of a checkpoint.
#ifndef MOETRAIN_WORKER_EVALUATE_H
#define MOETRAIN_WORKER_EVALUATE_H

#include "model/model.h"
#include "worker/batch.h"
#include "worker/train_config.h"

typedef struct Evaluation {
    double loss;          // nats a token
    double bits_per_byte; // -1 when the vocabulary does not say how many bytes a token is
    int64_t tokens;       // targets, each token of the file but the first one once
    double seconds;
    Figures figures; // how experts were used, over all its tokens
    int signal;      // that interrupted it, and the figures above mean nothing; 0: it is complete
} Evaluation;

// How a model is evaluated, whatever it was trained with: every window of train.context tokens is a
// shard and a routing group of its own, and nothing is dropped unless eval.capacity_factor says so.
// So a window's loss is a function of the window, and the sum over windows in file order the same
// bits for any batch, micro-batches, shards, ranks and threads. (The last window is filled up with
// token 0, which attention does not see; with a capacity those places compete for experts like any
// others.)
//
// Measures a model for evaluation beside a measured one that trains, with as many windows at a time
// as fit into the memory of that one, at least one. False with exit 2 where one has too many rows
// to number. Not collective.
bool evaluation_measure_beside(Model *model, Model *trained, const TrainConfig *config,
                               int64_t ranks, int64_t rank, Error *err);

// Mean loss over the file's windows in order, the last one being shorter: eval.batches ·
// train.batch of them, or all. The model is one for evaluation. A signal is obeyed between batches.
// Exit 3 when the file is too short or cannot be read. Collective over all ranks.
bool evaluate_model(Model *model, DataFile *file, BatchBuffer *batch, const TrainConfig *config,
                    Evaluation *result, Error *err);
// "dropless", or "capacity factor 5/4": how the figures were taken, for people.
void evaluation_describe_capacity(const TrainConfig *config, char text[64]);
// " | max_vio 0.123, …", likewise; "" of a model without experts.
void evaluation_describe_health(const Evaluation *result, char text[160]);

// `moetrain evaluate CKPT [key=value …]`: prints loss, perplexity and bits per byte over
// data.validation. config: the checkpoint's own, with overrides. Returns the exit code. Collective
// over all ranks.
int evaluate_run(const TrainConfig *config, const char *checkpoint_path, Error *err);

#endif
