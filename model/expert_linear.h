// A linear layer of each expert of this rank, over the rows that were routed to it: one grouped
// matrix product over all of them (MegaBlocks, arXiv:2211.15841, without padding). Buffers are laid
// out for the worst case; of a chunk its rows are read and written.
#ifndef MOETRAIN_MODEL_EXPERT_LINEAR_H
#define MOETRAIN_MODEL_EXPERT_LINEAR_H

#include "model/expert_exchange.h"
#include "model/linear.h"

// The rows of a chunk alone, of a buffer (R, ·).
Tensor expert_rows_of(Tensor buffer, ExpertChunk chunk);

//   y (R, out), x (R, in) stored
void expert_linear_forward(Work *work, Linear linear, Tensor y, Tensor x, ExpertChunk chunk);
// dx may be x: it is written last.
void expert_linear_backward(Work *work, Linear linear, Tensor dx, Tensor dy, Tensor x,
                            ExpertChunk chunk);

// Of an exchange whose `experts` is a Linear.
extern const ExpertRule LINEAR_EXPERTS;

#endif
