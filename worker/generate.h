// Text from a checkpoint: autoregressive decoding with a KV cache.
#ifndef MOETRAIN_WORKER_GENERATE_H
#define MOETRAIN_WORKER_GENERATE_H

#include "worker/train_config.h"

typedef struct GenerateOptions {
    const char *prompt; // text; may be empty
    int64_t tokens;     // how many to generate
    double temperature; // 0: always the most likely token
    int64_t top_k;      // 0: off
    double top_p;       // 1: off
    uint64_t seed;
    bool recompute; // no KV cache: the whole context again for each token (slow; for checking)
} GenerateOptions;

// `moetrain generate CKPT …`: prints prompt and continuation to stdout. One rank works; more are an
// error (exit 2). Returns the exit code. Collective over all ranks.
int generate_run(const TrainConfig *config, const char *checkpoint_path,
                 const GenerateOptions *options, Error *err);

#endif
