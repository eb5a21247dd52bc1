// What a run tells: RUN/metrics.jsonl, one object a line with units in the keys, and the line on
// the screen.
#ifndef MOETRAIN_WORKER_METRICS_H
#define MOETRAIN_WORKER_METRICS_H

#include "model/statistics.h"
#include "worker/run/row_file.h"
#include "worker/train_config.h"
#include "worker/watch/step_times.h"

typedef struct StepMetrics {
    int64_t step;         // finished steps, this one included
    double loss;          // cross-entropy, nats a token; NaN where `untargeted`
    double gradient_norm; // before clipping
    double lr;
    // Of this step; a row or line has the mean over the steps since the one before.
    double step_seconds;
    double tokens_per_second;
    double flops;      // of the model's arithmetic, all ranks
    double gflops;     // of it a second
    double gemm_share; // gflops over the GEMM rate of all ranks, measured at the start
    int64_t tokens;    // since the start of training
    int64_t skipped_steps;
    bool skipped;          // this one is
    bool untargeted;       // no token of it had anything to predict
    int64_t outlier_steps; // by train.skip_z; -1: there is no such rule
    bool outliers_applied; // those were, with train.spike_policy: log
    int64_t rollbacks;     // -1: there are none by train.spike_policy
    bool rolled_back;      // the state is that of an earlier step now
    double eta_seconds;
    int slowest_rank;         // of stragglers.h
    double slowest_score;     // 0: not known
    double parts[STEP_PARTS]; // seconds a step, of step_times.h; zeros: not known
    // Of a mix: its sources, their mean loss since the row before, and how they load the experts
    // (source_loads.h), NaN without a window. 0: one source.
    int sources;
    bool source_loads; // whether a layer has experts
    const char *source_names[DATA_SOURCES_MAX];
    double source_losses[DATA_SOURCES_MAX];
    double source_imbalances[DATA_SOURCES_MAX], source_distances[DATA_SOURCES_MAX];
    Figures figures; // what its layers tell
} StepMetrics;

// Opens RUN_DIR/metrics.jsonl for rows after step `resumed_step`; see row_file.h. Rank 0 only.
bool metrics_open(RowFile **rows, const char *run_dir, int64_t resumed_step, Error *err);

// One training row, with the time of writing. Not collective; does nothing on NULL (other ranks).
void metrics_write_step(RowFile *rows, const StepMetrics *row);
// One evaluation row; bits_per_byte < 0 means unknown and is written as null. `figures` are those
// of the evaluation, which took `seconds` for `tokens`. set: the name of the validation set; "": it
// has none.
void metrics_write_evaluation(RowFile *rows, int64_t step, const char *set, double val_loss,
                              double bits_per_byte, const Figures *figures, int64_t tokens,
                              double seconds);

// The run went back to `step` from a spike in step `spike` for the `times`-th time.
void metrics_write_rollback(RowFile *rows, int64_t step, int64_t spike, int64_t batches,
                            int64_t times);

// The line for people. `last` is the number of steps of the run.
void metrics_format_step(const StepMetrics *row, int64_t last, char *line, size_t bytes);

#endif
