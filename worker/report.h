// What a training run tells: the line and row of each step, and plan against fact at the end. Not
// collective.
#ifndef MOETRAIN_WORKER_REPORT_H
#define MOETRAIN_WORKER_REPORT_H

#include "worker/trainer.h"

// Says what is trained, on what, before the first step.
void report_run(const Trainer *trainer);
// What the step's statistics say, once they are summed over shards and ranks.
void report_read_statistics(Trainer *trainer, StepMetrics *row);
// Adds the finished step to the utilization history.
void report_utilization(Trainer *trainer);
// The row of a finished step, and its line when one is due; keeps the running mean for the ETA.
void report_step(Trainer *trainer, StepMetrics *row);
// Plan against fact: the memory of rank 0 and the bytes it sent a step.
void report_plan(Trainer *trainer);

#endif
