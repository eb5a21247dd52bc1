// What a run has come to, read from its folder: metrics.jsonl, outcome.json, status.json,
// inference.json. Not collective.
#ifndef MOETRAIN_LAUNCHER_COMPARE_RUN_RESULT_H
#define MOETRAIN_LAUNCHER_COMPARE_RUN_RESULT_H

#include <stdbool.h>
#include <stdint.h>

#define INFERENCE_NAME "inference.json"

typedef struct ValidationPoint {
    int64_t step;
    double loss; // nats a token
} ValidationPoint;

// A number that nobody told is NaN.
typedef struct RunResult {
    bool done;     // trained and evaluated up to the step that was asked for, and saved
    bool failed;   // its last start ended with an error
    int exit_code; // of that
    int64_t step;  // the last one with a row of metrics
    double steps;  // the same
    double val_loss, val_bits_per_byte;
    double seconds; // of all steps, evaluations and saves not counted
    double tokens_per_second;
    double peak_memory_mib; // of rank 0's process, in its last start
    double max_vio;         // of the last evaluation (1: the busiest expert has twice its share)
    double drop_rate;       // mean over the steps
    double val_tokens_per_second; // of the last evaluation, which is a forward pass
    double token_ms;              // of a text that the model writes alone, the first token apart
    ValidationPoint *points;
    int point_count;
    char message[256]; // how it failed
} RunResult;

// `step`: up to where it is to have trained. Needs run_result_free.
void run_result_read(RunResult *result, const char *run_dir, int64_t step);
void run_result_free(RunResult *result);

#endif
