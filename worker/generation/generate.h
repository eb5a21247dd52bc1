// Text from a checkpoint: autoregressive decoding with a KV cache.
#ifndef MOETRAIN_WORKER_GENERATION_GENERATE_H
#define MOETRAIN_WORKER_GENERATION_GENERATE_H

#include "kernels/choice.h"
#include "kernels/quantize.h"
#include "worker/train_config.h"

enum { MOST_STOPS = 16 };

typedef enum ColorWish { COLOR_AUTO, COLOR_ALWAYS, COLOR_NEVER } ColorWish;
extern const ChoiceTable COLOR_CHOICES;

typedef struct GenerateOptions {
    const char *prompt;            // text; may be empty
    const char *prompt_file;       // that holds it; "-": standard input; NULL: it is `prompt`
    const char *prompts;           // a file of many (prompt_batch.h); NULL: none
    bool interactive;              // a prompt is each line of standard input
    int64_t samples;               // texts from a prompt
    int64_t tokens;                // of a text, at most
    const char *stops[MOST_STOPS]; // strings before which it ends
    int stop_count;
    double temperature;        // 0: always the most likely token
    int64_t top_k;             // 0: off
    double top_p;              // 1: off
    double repetition_penalty; // 1: off
    uint64_t seed;
    bool json, logprobs; // a line of JSON for each text (sample_json.h), with log-probabilities
    bool timings;        // how long its tokens took (token_times.h): in JSON, or on stderr
    WeightKind weights;  // how the model holds them
    int64_t experts;     // layer by whose experts tokens are coloured (expert_colours.h); -1: none
    ColorWish color;     // whether they are
    bool recompute;      // no KV cache: the whole context again for each token (slow; for checking)
} GenerateOptions;

// `moetrain generate CKPT …`: prints prompt and continuation to stdout. Several ranks share the
// prompts of a file; without one they are an error (exit 2). Returns the exit code. Collective over
// all ranks.
int generate_run(const TrainConfig *config, const char *checkpoint_path,
                 const GenerateOptions *options, Error *err);

#endif
