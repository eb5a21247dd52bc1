// The loss of each source of a mix, over the steps since it was last told. Each window's sum is
// taken where the window was computed, and all are added in the order of the batch: the same bits
// on any number of ranks.
#ifndef MOETRAIN_WORKER_DATA_SOURCE_LOSSES_H
#define MOETRAIN_WORKER_DATA_SOURCE_LOSSES_H

#include "worker/data/batch.h"

typedef struct SourceLosses {
    int sources;     // 0: one source, and nothing is kept
    Tensor losses;   // (N) f32 on the host, of a micro-batch
    double *windows; // (batch, 2) nats and targets of the step's windows
    double *targets; // (sources) since the last report
    double *sums;    // (sources) nats of them
    int64_t batch, T;
} SourceLosses;

// batch: sequences of a step.
void source_losses_open(SourceLosses *losses, const DataMix *mix, const BatchBuffer *buffer,
                        int64_t batch);
void source_losses_close(SourceLosses *losses); // legal on a zeroed struct

// After a micro-batch, number m of the step: token_losses (N) f32 on the device.
void source_losses_take(SourceLosses *losses, const BatchBuffer *buffer, int64_t m,
                        Tensor token_losses);
// After a step that began at the cursor. Collective over all ranks.
void source_losses_add_step(SourceLosses *losses, const DataMix *mix, DataCursor cursor);
// Nats a token of a source since the last report, NaN without a window of it.
double source_losses_mean(const SourceLosses *losses, int source);
void source_losses_clear(SourceLosses *losses);

#endif
