// Which learning rate and weight decay each parameter has: what of it the layer that declares the
// parameter says (params.h: its group and its lr_scale), and what train.groups does, whose lr_scale
// multiplies the layer's. Parameters with the same two share a row of the table, whose number the
// updating ops read.
#ifndef MOETRAIN_WORKER_OPTIMIZER_UPDATE_GROUPS_H
#define MOETRAIN_WORKER_OPTIMIZER_UPDATE_GROUPS_H

#include "kernels/optimizer_ops.h"
#include "model/params.h"
#include "worker/train_config.h"

typedef struct UpdateGroup {
    double lr_scale; // multiplies the learning rate
    double weight_decay;
} UpdateGroup;

typedef struct UpdateGroups {
    UpdateGroup groups[UPDATE_GROUPS];
    int count;
    uint8_t *row; // of each parameter
} UpdateGroups;

// False with exit 2 when a pattern of train.groups is the first to match no parameter that
// gradients change. Not collective: the same on every rank.
bool update_groups_check(const ParamTable *params, const OptimizerConfig *config, Error *err);
// Fatal when there are more than UPDATE_GROUPS different ones. Not collective.
void update_groups_init(UpdateGroups *table, const ParamTable *params,
                        const OptimizerConfig *config);
void update_groups_free(UpdateGroups *table); // legal on a zeroed struct

#endif
