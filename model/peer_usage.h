// How the experts of PEER layers are used (arXiv:2407.04153, section 3.4): the choices of each
// expert, which a layer counts where it has at most COUNTED_EXPERTS, and of them two figures of
// each step and evaluation, means over the layers:
//   peer_used        the share of experts that some token has chosen
//   peer_unevenness  the Kullback-Leibler divergence of the choices from an even spread,
//                    ln n² - H, in nats: 0 when even
// beside those of router_health.h, "peer_max_vio" and its like.
#ifndef MOETRAIN_MODEL_PEER_USAGE_H
#define MOETRAIN_MODEL_PEER_USAGE_H

#include "model/statistics.h"

// With more experts than this nobody counts the choices of each: the counts alone would be as much
// work as the layer.
enum { COUNTED_EXPERTS = 1 << 16 };

// Asks for the counts "expert_choices" and has the figures told. Returns the first place, or -1
// where there are too many experts.
int peer_usage_report(Statistics *stats, int64_t layer, int64_t experts);
// Counts the choices ids (N, K) i32 of the micro-batch; in an evaluation those of its own tokens.
void peer_usage_count(const Statistics *stats, Work *work, int first, int64_t experts, Tensor ids);

#endif
