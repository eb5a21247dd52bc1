// What a training run tells: the line and row of each step, and plan against fact at the end. Not
// collective, but for report_step.
#ifndef MOETRAIN_WORKER_REPORT_H
#define MOETRAIN_WORKER_REPORT_H

#include "comm/collectives.h"
#include "worker/evaluate.h"
#include "worker/metrics.h"

typedef struct Trainer Trainer;

// What is measured and kept to be told; nothing that is computed depends on it.
typedef struct Report {
    RowFile *metrics;         // rank 0
    double gemm_gflops;       // of all ranks together, at the start
    double most_flops_a_step; // over all ranks
    size_t resident_before;   // of this process, before the arenas
    size_t free_before;       // of the device, before the arenas

    // Of the present step.
    double begin;                       // seconds
    int64_t sent_before[TRAFFIC_KINDS]; // bytes that this rank had sent at its begin

    // Over the steps done by this process.
    int64_t steps_done;
    double seconds_a_step;                // running mean, for the ETA
    double row_seconds, row_flops;        // sums over the steps since the last row of metrics
    int64_t row_steps;                    // how many
    int64_t sent_in_steps[TRAFFIC_KINDS]; // bytes, without those of evaluations
} Report;

// Says what is trained, on what, before the first step.
void report_run(const Trainer *trainer);
// A step begins: its row, with nothing in it yet.
StepMetrics report_begin_step(Trainer *trainer);
// What the step's statistics say, once they are summed over shards and ranks.
void report_read_statistics(const Trainer *trainer, StepMetrics *row);
// The step is done: what it took, and its share of the utilization history.
void report_end_step(Trainer *trainer, StepMetrics *row);
// The row of a finished step, and its line when one is due, with which ranks compare how fast they
// are; keeps the running mean for the ETA. Collective over all ranks.
void report_step(Trainer *trainer, StepMetrics *row);
// At the end, of several ranks: where the time of a step went, and what it would have been without
// imbalance and traffic.
void report_times(const Trainer *trainer);
// The row and line of an evaluation on a validation set that was not interrupted.
void report_evaluation(const Trainer *trainer, int set, const Evaluation *result);
// Plan against fact: the memory of rank 0 and the bytes it sent a step.
void report_plan(Trainer *trainer);

#endif
