// The bridge between a model in memory and a checkpoint: the list of tensors that are saved, and a
// model made ready from a file for evaluation and generation.
#ifndef MOETRAIN_WORKER_RESTORE_H
#define MOETRAIN_WORKER_RESTORE_H

#include "checkpoint/checkpoint.h"
#include "model/model.h"
#include "worker/data/vocabulary.h"
#include "worker/optimizer/optimizer.h"
#include "worker/session.h"

// Parameters and the optimizer's states as the host sees them: the model's own memory on the CPU, a
// copy of a GPU's. Files are written from and read into it.
typedef struct HostState {
    Model *model;
    Optimizer *optimizer;                          // NULL: parameters only
    ParamSet values, states[OPTIMIZER_STATES_MAX]; // as the optimizer's
    Arena arena;
} HostState;
void host_state_open(HostState *state, Model *model, Optimizer *optimizer);
void host_state_close(HostState *state);    // legal on a zeroed struct
void host_state_download(HostState *state); // before saving
void host_state_upload(HostState *state);   // after loading; the matrices' copies follow

// The saved tensors of a run: parameters, an optimizer's states where there is one, and a character
// vocabulary's code points. They borrow the state's memory. The list is to be freed by the caller.
// Not collective.
SavedTensor *saved_tensors(const HostState *state, const Vocabulary *vocabulary, int *count);

// Whether a checkpoint's parameters, and an optimizer's states unless that is NULL, have the names
// and shapes of these; also true where it cannot be read, which loading will tell. Not collective.
bool restore_fits(const char *checkpoint_path, const ParamTable *params,
                  const Optimizer *optimizer);

typedef struct Restored {
    Model model;
    Vocabulary vocabulary;
    TrainState state;
} Restored;

// Lays out a model for `split` and loads its parameters, each compared with its hash; what a model
// does not use, as an optimizer's states, is not looked at. Collective over all ranks.
bool restore_model(Restored *restored, const TrainConfig *config, ModelSplit split,
                   Session *session, const char *checkpoint_path, Error *err);
void restore_free(Restored *restored); // legal on a zeroed struct

#endif
