// moe.record and moe.replay: what a run routes goes to a file step by step, or comes from one
// (checkpoint/routing_file.h). Rank 0 has the file.
#ifndef MOETRAIN_WORKER_ROUTING_RECORD_H
#define MOETRAIN_WORKER_ROUTING_RECORD_H

#include "checkpoint/routing_file.h"
#include "model/model.h"
#include "model/routing_tape.h"
#include "worker/train_config.h"

typedef struct RoutingRecord {
    RoutingFile *file; // rank 0
    RoutingShape shape;
    RoutingLayer *of; // (layers) of the shape
    RoutingTape tape; // the model's
    Tensor *step;     // of each layer: (tokens of the step, top_k) i32, of all ranks
    Tensor gathered;  // of one layer, rank by rank
    Arena arena;      // of all tensors, on the host
} RoutingRecord;

// Bytes of host memory that it takes of a model that has been measured; 0 where neither key is
// given. Not collective.
size_t routing_record_bytes(const TrainConfig *config, const Model *model);
// Opens the file that config names, if any, for what follows step `after`, and gives the model its
// tape. Collective over all ranks.
bool routing_record_open(RoutingRecord *record, const TrainConfig *config, Model *model,
                         int64_t after, Error *err);
// Around a training step, by its number as in metrics.jsonl: reads what it shall route, and writes
// what it has routed. Collective over all ranks.
bool routing_record_before_step(RoutingRecord *record, Model *model, int64_t step, Error *err);
bool routing_record_after_step(RoutingRecord *record, Model *model, int64_t step, Error *err);
void routing_record_close(RoutingRecord *record); // legal on a zeroed struct. Not collective.

#endif
