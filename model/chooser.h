// Who chooses a layer's experts where its scores do not. The gate weights are still the scores', so
// that the router gets its gradient and only the choice is another's.
//
// A new chooser is one file that exports a Chooser, and its row in chooser.c.
#ifndef MOETRAIN_MODEL_CHOOSER_H
#define MOETRAIN_MODEL_CHOOSER_H

#include "model/router.h"

typedef struct Chooser {
    // Whether it chooses for this layer: the same in all passes of a model.
    bool (*chooses)(const Work *work, int64_t layer);
    // Places what it needs. NULL: nothing.
    void (*layout)(Router *router, Work *work, Arena *activations);
    // Fills router->ids (N, K): different experts of a token.
    void (*choose)(Router *router, Work *work);
} Chooser;

extern const Chooser ROUTING_TAPE; // routing_tape.c: a file of choices
extern const Chooser FORCED;       // forced_routing.c: measurement and stress
extern const Chooser HASHED;       // hash_routing.c: the token's id
extern const Chooser EVERY_EXPERT; // expert_choice.c: experts that then choose among tokens

// moe.force=skewed: running sums (experts) of weights exp(b) with b normal, fixed by the seed and
// the layer, as whole numbers of which about 2^24 are all, at least 1 each. Not collective.
void forced_skew(int32_t *ends, int64_t experts, double sigma, uint64_t seed, int64_t layer);

// NULL: the scores choose. Not collective.
const Chooser *chooser_of(const Work *work, int64_t layer);

#endif
