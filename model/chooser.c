#include "model/chooser.h"

// The first that chooses for a layer does.
static const Chooser *const CHOOSERS[] = {&ROUTING_TAPE, &FORCED, &HASHED, &EVERY_EXPERT};

const Chooser *chooser_of(const Work *work, int64_t layer) {
    for (size_t i = 0; i < sizeof CHOOSERS / sizeof *CHOOSERS; i++)
        if (CHOOSERS[i]->chooses(work, layer)) return CHOOSERS[i];
    return NULL;
}
