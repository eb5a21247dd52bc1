// Dense feed-forward: y = act(x W₁ᵀ) W₂ᵀ with SwiGLU (arXiv:2002.05202; W₁ holds gate and up) or
// ReLU.
#ifndef MOETRAIN_MODEL_FEED_FORWARD_H
#define MOETRAIN_MODEL_FEED_FORWARD_H

#include "model/layer_kind.h"

extern const LayerKind DENSE_FEED_FORWARD;

#endif
