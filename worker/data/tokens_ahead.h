// Tokens further on than the next one, for multi-token prediction
// (model/multi_token_prediction.h): what its modules take and what they are to predict. They follow
// from a batch's targets: no more is read, and the order of the data stays as it is.
#ifndef MOETRAIN_WORKER_DATA_TOKENS_AHEAD_H
#define MOETRAIN_WORKER_DATA_TOKENS_AHEAD_H

#include <stdint.h>

// Of `windows` windows of T tokens with these targets (windows · T), NO_TARGET where there is none;
// positions as data_loader.h has them, or NULL. For each module k of `modules` and row i of a
// window:
//   tokens[k][i]   the token k + 1 places on, or 0 without one
//   targets_of[k][i]  the token k + 2 places on, or NO_TARGET: the window ends before it, or a
//                  document does
void tokens_ahead(int64_t modules, int64_t windows, int64_t T, const int32_t *targets,
                  const int32_t *positions, int32_t *tokens, int32_t *targets_of);

#endif
