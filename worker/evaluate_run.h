// The evaluation of a checkpoint, as a command.
#ifndef MOETRAIN_WORKER_EVALUATE_RUN_H
#define MOETRAIN_WORKER_EVALUATE_RUN_H

#include "worker/train_config.h"

typedef struct EvaluateOptions {
    const char *choices; // a file of questions (choices.h), instead of the loss; NULL: none
    bool json;           // a line of JSON for each of them
    bool per_document;   // a line of JSON for each document (document_losses.h)
    WeightKind weights;  // how the model holds them
    bool every_weights;  // all ways beside each other (weight_table.h)
} EvaluateOptions;

// `moetrain evaluate CKPT [options] [key=value …]`: prints loss, perplexity and bits per byte over
// data.validation, of a masked model also its pseudo-perplexity, or how many questions the model
// answers. config: the checkpoint's own, with overrides. Returns the exit code. Collective
// over all ranks.
int evaluate_run(const TrainConfig *config, const char *checkpoint_path,
                 const EvaluateOptions *options, Error *err);

#endif
