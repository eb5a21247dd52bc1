// A model of a few hundred parameters over the ranks, on the CPU: what tests of dispatch and of
// replicas train on.
#ifndef MOETRAIN_TESTS_PARALLEL_TINY_MODEL_H
#define MOETRAIN_TESTS_PARALLEL_TINY_MODEL_H

#include "model/model.h"

enum { TINY_EXPERTS = 8, TINY_WIDTH = 6, TINY_VOCABULARY = 11, TINY_SHARDS = 8 };

// Two layers of TINY_EXPERTS SwiGLU experts, top-2, dropless, without losses of the router.
ModelConfig tiny_model_config(void);

// How a step is split: groups of `expert_parallel` ranks, `sequences` of `context` tokens in one
// micro-batch, experts' rows exchanged in `chunks`.
typedef struct TinySplit {
    int expert_parallel;
    int64_t sequences, context, chunks;
} TinySplit;

// Opens device and groups and measures the model for training. Collective over all ranks.
void tiny_model_measure(Model *model, Device *dev, ProcessGroups *groups, const ModelConfig *config,
                        TinySplit split);
// Allocates it, after whatever else was measured into its arenas, and draws its parameters.
// Collective over all ranks.
void tiny_model_begin(Model *model, ProcessGroups groups);
// Frees all three. Collective over all ranks.
void tiny_model_close(Model *model, Device *dev, ProcessGroups *groups);

#endif
