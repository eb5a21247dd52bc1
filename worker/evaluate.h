// Validation loss: during training and of a checkpoint.
#ifndef MOETRAIN_WORKER_EVALUATE_H
#define MOETRAIN_WORKER_EVALUATE_H

#include "model/model.h"
#include "worker/batch.h"
#include "worker/train_config.h"

typedef struct Evaluation {
    double loss;          // nats a token
    double bits_per_byte; // -1 when the vocabulary does not say how many bytes a token is
    int64_t tokens;
    double seconds;
} Evaluation;

// Mean loss over the file's windows in order: config->eval_batches micro-batches, or as many as fit. Routing, capacity
// and dropping as in training. The same bits on any number of ranks. Exit 3 when the file is too short or cannot be read.
// Collective over all ranks.
bool evaluate_model(Model *model, DataFile *file, BatchBuffer *batch, const TrainConfig *config,
                    Evaluation *result, Error *err);

// `moetrain evaluate CKPT [key=value …]`: prints loss, perplexity and bits per byte over data.validation.
// config: the checkpoint's own, with overrides. Returns the exit code. Collective over all ranks.
int evaluate_run(const TrainConfig *config, const char *checkpoint_path, Error *err);

#endif
