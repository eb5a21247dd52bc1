// The bridge between a model in memory and a checkpoint: the list of tensors that are saved, and a model made ready
// from a file for evaluation and generation.
#ifndef MOETRAIN_WORKER_RESTORE_H
#define MOETRAIN_WORKER_RESTORE_H

#include "checkpoint/checkpoint.h"
#include "model/model.h"
#include "worker/optimizer.h"
#include "worker/session.h"
#include "worker/vocabulary.h"

// The saved tensors of a run: parameters, moments (optimizer NULL: none) and a character vocabulary's code points. They
// borrow the model's memory. The list is to be freed by the caller. Not collective.
SavedTensor *saved_tensors(Model *model, Optimizer *optimizer, const Vocabulary *vocabulary,
                           int *count);

typedef struct Restored {
    Model model;
    Vocabulary vocabulary;
    TrainState state;
} Restored;

// Verifies the file, lays out a model for `split` and loads its parameters. Collective over all ranks.
bool restore_model(Restored *restored, const TrainConfig *config, ModelSplit split,
                   Session *session, const char *checkpoint_path, Error *err);
void restore_free(Restored *restored); // legal on a zeroed struct

#endif
