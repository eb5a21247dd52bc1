// Initial values of linear weights, and what of them and of learning rates follows from the width
// (muP, arXiv:2203.03466).
//
//   normal   std = model.init_std
//   kaiming  std = sqrt(2 / fan_in)              (arXiv:1502.01852, nn.init.kaiming_normal_)
//   xavier   std = sqrt(2 / (fan_in + fan_out))  (Glorot and Bengio 2010, xavier_normal_)
//
// With model.mup_base_width w and m = model.d_model / w, where widths grow together: weights
// between hidden layers have a std that falls as sqrt(1 / m) (the last two do by themselves) and
// learning rates of 1 / m; those from the stream to a few numbers, as the router, a std and rates
// of 1 / m; logits are multiplied by 1 / m. Embeddings, norms and biases stay as they are: with
// Adam, what a step changes in an activation then does not grow with the width.
#ifndef MOETRAIN_MODEL_INITIALIZATION_H
#define MOETRAIN_MODEL_INITIALIZATION_H

#include "model/model_config.h"
#include "model/params.h"

// Sets init_std and lr_scale of a weight (…, out, in). Its init_std comes as `normal` would have
// it: model.init_std, or less of it where a layer begins small. fan_out is that of each fused
// matrix.
void init_linear(const ModelConfig *config, Param *weight);
// Standard deviation of embeddings.
double init_embedding_std(const ModelConfig *config);
// What the head's product is multiplied by: model.logit_scale and muP's 1 / m.
double logit_factor(const ModelConfig *config);
// What muP multiplies attention's scores by: 1 / d_head, as large as usual in the base model.
double mup_attention_scale(const ModelConfig *config);

#endif
