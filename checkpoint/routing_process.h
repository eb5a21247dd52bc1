// The process that has a file of routing open in HDF5's hands, for the training process that asks
// it (routing_file.c): what a damaged file does to HDF5 ends this process, and the other one says
// so. It is this program, started with one hidden argument. Not collective.
#ifndef MOETRAIN_CHECKPOINT_ROUTING_PROCESS_H
#define MOETRAIN_CHECKPOINT_ROUTING_PROCESS_H

#include <stdint.h>

#include "kernels/check.h"

#define ROUTING_PROCESS_ARGUMENT "--routing-file-process"

// Every program that uses routing_file.h asks this first of all, and ends with routing_process_run
// where it is so.
bool routing_process_asked(int argc, char **argv);
// Answers what comes on standard input until that ends. Returns an exit code.
int routing_process_run(void);

// ---- what the two say to each other -------------------------------------------------------------

// First of all, followed by the layers of the RoutingShape, and both texts. The answer is an Error,
// with exit code 0 when there is none, or EXIT_CHECKPOINT or EXIT_IO.
//
// Then the number of a step, i64. Where it records, each layer with experts follows, (tokens of the
// step, top_k) i32, and there is one answer. Otherwise each layer comes, behind an answer of its
// own, until one is an error.
typedef struct RoutingOpening {
    bool records; // or replays
    int64_t after, last, layers, micro_batches, tokens;
    int64_t path_bytes, run_bytes; // without a NUL
} RoutingOpening;

#endif
