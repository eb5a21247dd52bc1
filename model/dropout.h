// Dropout while training (Srivastava et al. 2014; GPT-2): every element of a row is zero with the
// configured share, or grows by 1 / (1 - share). The numbers that decide are counted by token, so
// that they are the same on any ranks, and drawn anew in the backward pass: nothing is kept.
#ifndef MOETRAIN_MODEL_DROPOUT_H
#define MOETRAIN_MODEL_DROPOUT_H

#include "model/work.h"

// Whether rows are dropped: never in evaluation and generation.
static inline bool dropout_is_due(const Work *work, double rate) {
    return work->training && rate > 0;
}

// out = x dropped by rate, or the gradient of x from that of out; rows are this rank's
// tokens. Asked when dropout is due.
//   out, x (N, D), each f32 or stored; out may be x
void drop_tokens(const Work *work, Tensor out, Tensor x, double rate, RngPurpose purpose,
                 int64_t number);

#endif
