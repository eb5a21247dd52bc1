// A text that was generated, as a line of JSON.
#ifndef MOETRAIN_WORKER_GENERATION_SAMPLE_JSON_H
#define MOETRAIN_WORKER_GENERATION_SAMPLE_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "worker/generation/token_times.h"

typedef struct Sample {
    const char *prompt;
    const char *text; // without the stop string
    size_t text_bytes;
    const int32_t *tokens; // (count), with those of the stop string
    // (count): the model's own log-probability of each token in nats, before temperature, penalty
    // and the like; NULL: not wanted
    const double *logprobs;
    int64_t count;
    const TokenTimes *times;   // NULL: not wanted
    const char *finish_reason; // "stop": a stop string; "length": all tokens that were wanted
} Sample;

// Keys: prompt, text, tokens, logprobs where there are any, finish_reason, and with times
// first_token_ms and token_ms, null where there are none. Bytes that are no UTF-8
// become U+FFFD. To be freed. Not collective.
char *sample_json(Sample sample);

#endif
