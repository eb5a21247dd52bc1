// How long the tokens of a text took. Not collective.
#ifndef MOETRAIN_WORKER_GENERATION_TOKEN_TIMES_H
#define MOETRAIN_WORKER_GENERATION_TOKEN_TIMES_H

#include <stdint.h>

typedef struct TokenTimes {
    double last;     // when it had its last token, or was begun: seconds of kernels/clock.h
    double *seconds; // of each token; the first one's are those of reading the prompt, too
    int64_t count, room;
} TokenTimes;

void token_times_begin(TokenTimes *times); // a text begins now; legal on a zeroed one
void token_times_add(TokenTimes *times);   // it has one token more
void token_times_free(TokenTimes *times);
// Milliseconds until the first token, and the median of the later ones; NaN without any.
double token_times_first_ms(const TokenTimes *times);
double token_times_later_ms(const TokenTimes *times);

#endif
