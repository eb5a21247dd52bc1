// Validation loss: during training and of a checkpoint.
#ifndef MOETRAIN_WORKER_EVALUATE_H
#define MOETRAIN_WORKER_EVALUATE_H

#include "model/model.h"
#include "worker/data/batch.h"
#include "worker/document_losses.h"
#include "worker/restore.h"
#include "worker/train_config.h"

typedef struct Evaluation {
    double loss; // nats a token
    // -1 when the vocabulary does not say how many bytes a token is, and of a masked model
    double bits_per_byte;
    int64_t tokens; // targets: each token of the file but the first one, of each document where
                    // they are masked, once; of a masked model those that are masked
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

// Whether its batches have the places of tokens in documents: those of a masked model always, so
// that what fills the last window up is a document of its own, which no token of the file sees.
bool evaluation_reads_documents(const TrainConfig *config);

// Mean loss over the file's windows in order, the last one being shorter: eval.batches ·
// train.batch of them, or all. The model is one for evaluation. A signal is obeyed between batches.
// documents: takes what it says of each; NULL: none. Exit 3 when the file is too short or cannot be
// read. Collective over all ranks.
bool evaluate_model(Model *model, DataFile *file, BatchBuffer *batch, const TrainConfig *config,
                    DocumentLosses *documents, Evaluation *result, Error *err);
// What a window's own targets add up to.
typedef struct WindowLoss {
    double nats, targets;
} WindowLoss;
// Those of a batch's windows of all ranks (batch->total). Collective over all ranks.
void evaluation_window_losses(Model *model, BatchBuffer *batch, int64_t first_window,
                              WindowLoss *windows);
// The checkpoint's model with its weights held so, to be evaluated in windows of `context` tokens,
// and their batch. Needs restore_free and batch_close. Collective over all ranks.
bool evaluation_restore(Restored *restored, BatchBuffer *batch, const TrainConfig *config,
                        Session *session, const char *checkpoint_path, int64_t context,
                        WeightKind weights, Error *err);
// "dropless", or "capacity factor 5/4": how the figures were taken, for people.
void evaluation_describe_capacity(const TrainConfig *config, char text[64]);
// " | max_vio 0.123, …", likewise; "" of a model without experts.
enum { HEALTH_BYTES = 512 };
void evaluation_describe_health(const Evaluation *result, char text[HEALTH_BYTES]);

#endif
