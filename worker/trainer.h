// What one rank's training run is made of. train.c has the step and the loop, prepare.c what comes
// before the first step, resume.c where the run goes on from, save.c how it is saved, report.c what
// it says.
#ifndef MOETRAIN_WORKER_TRAINER_H
#define MOETRAIN_WORKER_TRAINER_H

#include "checkpoint/checkpoint.h"
#include "checkpoint/config_difference.h"
#include "worker/batch.h"
#include "worker/metrics.h"
#include "worker/optimizer.h"
#include "worker/plan.h"
#include "worker/run_watch.h"
#include "worker/session.h"
#include "worker/vocabulary.h"

// A save that failed and is tried again while training goes on; see save.c. The same on every rank.
typedef struct SaveRetry {
    bool pending;
    double since, next; // rank 0's seconds: of the first attempt, before which there is no other
    int64_t last_step;  // from this step on patience may end
} SaveRetry;

typedef struct Trainer {
    TrainConfig config; // model.vocab_size filled in
    const char *config_yaml;
    const KeyRule *key_rules; // of the configuration's keys
    Session session;
    Vocabulary vocabulary;
    DataFile *train_file, *validation_file;
    int64_t windows; // of an epoch of the training file
    BatchBuffer batch;
    Model model;
    Model evaluation; // the same parameters, cut for the validation file where there is one
    BatchBuffer evaluation_batch;
    Optimizer optimizer;
    TrainState state;
    UtilizationHistory utilization; // rank 0
    RowFile *metrics;               // rank 0
    Plan plan;
    double gemm_gflops;     // limit of all ranks together
    double flops_a_step;    // over all ranks
    size_t resident_before; // of this process, before the arenas
    size_t free_before;     // of the device, before the arenas
    int64_t steps_done;     // by this process
    double seconds_a_step;  // running mean, for the ETA
    double row_seconds;     // sum over the steps since the last row of metrics
    int64_t row_steps;      // how many
    int64_t saved_step;     // of the newest checkpoint; -1: none
    double last_loss;       // of the step done last
    SaveRetry retry;
    RunWatch run_watch; // rank 0
    // Bytes that this rank sent while training, not evaluating.
    int64_t sent_in_steps[TRAFFIC_KINDS];
} Trainer;

#endif
