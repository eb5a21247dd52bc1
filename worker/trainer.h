// What one rank's training run is made of. train.c has the step and the loop, prepare.c what comes
// before the first step, resume.c where the run goes on from, save.c how it is saved, report.c what
// it says.
#ifndef MOETRAIN_WORKER_TRAINER_H
#define MOETRAIN_WORKER_TRAINER_H

#include "checkpoint/checkpoint.h"
#include "checkpoint/config_difference.h"
#include "worker/data/batch.h"
#include "worker/data/source_loads.h"
#include "worker/data/source_losses.h"
#include "worker/data/vocabulary.h"
#include "worker/optimizer/optimizer.h"
#include "worker/plan.h"
#include "worker/report.h"
#include "worker/restore.h"
#include "worker/routing_record.h"
#include "worker/run/run_watch.h"
#include "worker/save_behind.h"
#include "worker/session.h"
#include "worker/watch/dead_experts.h"
#include "worker/watch/recheck.h"
#include "worker/watch/replica_check.h"
#include "worker/watch/step_digests.h"
#include "worker/watch/step_outliers.h"
#include "worker/watch/stragglers.h"

// A save that failed and is tried again while training goes on; see save.c. The same on every rank.
typedef struct SaveRetry {
    bool pending;
    double since, next; // rank 0's seconds: of the first attempt, before which there is no other
    int64_t last_step;  // from this step on patience may end
} SaveRetry;

// Where the tokens come from.
typedef struct RunData {
    Vocabulary vocabulary;
    DataMix training;
    SourceLosses losses;
    SourceLoads loads;
    int validation_count; // 0: none
    DataFile *validation[VALIDATION_SETS_MAX];
} RunData;

struct Trainer {
    // What the run is: the same from its first step to its last.
    TrainConfig config; // model.vocab_size filled in
    const char *config_yaml;
    const KeyRule *key_rules; // of the configuration's keys
    Session session;
    RunData data;
    Plan plan;

    // What computes.
    Model model;
    Optimizer optimizer;
    BatchBuffer batch;
    Model evaluation; // the same parameters, cut for the validation file where there is one
    BatchBuffer evaluation_batch;

    RoutingRecord routing; // moe.record, moe.replay

    // How far it is: what a checkpoint takes, beside parameters and moments, and when.
    TrainState state;
    UtilizationHistory utilization; // rank 0
    DeadExperts dead_experts;
    StepOutliers outliers;
    ReplicaCheck replicas;
    Recheck recheck;
    StepTimes times;
    Stragglers stragglers;
    StepDigests digests;
    double last_loss;   // of the step done last
    int64_t saved_step; // of the newest checkpoint; -1: none
    HostState host;     // what saves see; a GPU's copy is kept from one to the next
    SaveRetry retry;
    SaveBehind behind;
    RunWatch run_watch; // rank 0
    int stopped_by;     // the request (signals.h) that this start has ended with; 0: none

    Report report;
};

#endif
