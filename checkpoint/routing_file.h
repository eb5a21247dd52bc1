// A file of routing: which experts every token of every step has chosen (moe.record), for another
// run to choose the same (moe.replay), or to look at. HDF5, of datasets:
//   step        (steps) i64: their numbers as in metrics.jsonl, one after another
//   layers/L    (steps, micro-batches, tokens of a micro-batch, top_k) u16, for each layer L of the
//               model that has experts; a chunk a step, compressed. Its attribute `experts` says
//               how many there are to choose from. The tokens of all ranks stand in their order in
//               the step, which depends on no number of ranks or micro-batches.
// and an attribute `run` of the file: the folder of the run that wrote it.
//
// Ids are those before capacity drops any. Nothing here is collective: rank 0 has the file.
//
// The file itself is in the hands of a process of its own (routing_process.h), for HDF5 crashes at
// files that are damaged, and at ones made for that: this is an error like others then. A program
// that uses this asks routing_process_asked before all else.
#ifndef MOETRAIN_CHECKPOINT_ROUTING_FILE_H
#define MOETRAIN_CHECKPOINT_ROUTING_FILE_H

#include "kernels/check.h"
#include "kernels/tensor.h"

typedef struct RoutingLayer {
    int64_t experts, top_k; // to choose from, zero-computation ones too; 0: a layer without any
} RoutingLayer;

// What one step of a run routes.
typedef struct RoutingShape {
    int64_t layers;                // of the model
    const RoutingLayer *of;        // (layers), borrowed
    int64_t micro_batches, tokens; // of a step, and of a micro-batch over all ranks
} RoutingShape;

typedef struct RoutingFile RoutingFile;

// Opens the file to write what follows step `after`: a new one, or that of the same run, from which
// later steps are removed. EXIT_CHECKPOINT when it is another run's, ends before that step, or is
// damaged.
bool routing_file_record(RoutingFile **file, const char *path, const char *run, RoutingShape shape,
                         int64_t after, Error *err);
// Opens the file to read steps after + 1 … last. EXIT_CHECKPOINT when it has not all of them, or is
// of another shape; the number of micro-batches alone may differ.
bool routing_file_replay(RoutingFile **file, const char *path, RoutingShape shape, int64_t after,
                         int64_t last, Error *err);
// One step, the next one or any that the file was opened to read; layers[l] (tokens of the step,
// top_k) i32, without data for layers without experts. What is written is on its way to the disk
// when it returns.
bool routing_file_write(RoutingFile *file, int64_t step, const Tensor *layers, Error *err);
// EXIT_CHECKPOINT also when an id is that of no expert. After an error no more can be read.
bool routing_file_read(RoutingFile *file, int64_t step, const Tensor *layers, Error *err);
void routing_file_close(RoutingFile *file); // legal on NULL

#endif
