// What weights of fewer bits cost and save: `moetrain evaluate CKPT --weights all`.
#ifndef MOETRAIN_WORKER_WEIGHT_TABLE_H
#define MOETRAIN_WORKER_WEIGHT_TABLE_H

#include "worker/train_config.h"

// Evaluates the checkpoint on the first set of data.validation with each kind of weights and
// prints, a row each: the loss in nats a token and its difference from that of f32, the bytes of
// rank 0's parameters, tokens a second of a text that each rank writes token by token, and the
// share of choices (of a token in a layer) that fall on an expert that f32 weights do not choose.
// Loss and choices do not depend on ranks or batch. False as evaluate_model. Collective over all
// ranks.
bool weight_table_print(const TrainConfig *config, const char *checkpoint_path, Error *err);

#endif
