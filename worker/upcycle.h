// `moetrain upcycle`: a model with experts from the checkpoint of a dense one, whose logits it has.
//
// Copies (Komatsuzaki et al., arXiv:2212.05055): every expert is the layer's dense feed-forward,
// and the gate weights of a token sum to 1: whoever works on it, the sum is what the one was.
//
// Slices (He et al., arXiv:2410.07524): with G = model.d_ff / moe.d_ff above 1 expert e is slice
// e mod G of the dense one's inner width. Neighbours e, …, e + G - 1 that begin at a multiple of G
// are a virtual group: together one dense feed-forward, with one row of the router for all of them,
// so that a token chooses them together, top_k / G groups, lower numbers first where logits are
// equal. A gate weight is then 1/G of its group's, hence "down" is multiplied by G.
#ifndef MOETRAIN_WORKER_UPCYCLE_H
#define MOETRAIN_WORKER_UPCYCLE_H

#include "worker/train_config.h"

typedef struct Upcycling {
    const ModelConfig *dense;  // the model of the checkpoint `from`
    const TrainConfig *config; // that of the new one: differs in which layers have which experts
    const char *config_yaml;   // as --print-config
    const char *from, *to;     // paths of checkpoints; the second is to be made
} Upcycling;

// Whether the model with experts computes what the dense one does. False with exit 2, the layer and
// the fix. Not collective.
bool upcycle_check(const ModelConfig *dense, const ModelConfig *model, Error *err);

// Makes a checkpoint of step 0: routers as train.seed begins them, the optimizer's states zero,
// everything else from the dense one. A layer's feed-forward at a time is in memory. False with
// exit 4 or 5; nothing is left then. Not collective.
bool upcycle_write(const Upcycling *wanted, Error *err);

#endif
