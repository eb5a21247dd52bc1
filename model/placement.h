// Where experts live. The experts of a layer have places, of which the ranks of an expert-parallel
// group have runs, as evenly as can be (kernels/deal.h): place p is a rank and a row of its expert
// parameters there. Tokens travel by place; everything else, in checkpoints, statistics and hashes,
// is by expert. An expert's rows come in the same order wherever it lives (dispatch.h), so that
// which place it has changes no bit. At first each expert's place is its own number.
#ifndef MOETRAIN_MODEL_PLACEMENT_H
#define MOETRAIN_MODEL_PLACEMENT_H

#include "kernels/arena.h"
#include "model/router_names.h"

// The experts that one router chooses among.
typedef struct ExpertPlaces {
    int64_t layer;
    RouterPlace router;
    int64_t E;
    int32_t *expert_at, *place_of; // (E) each: by place, and by expert
    Tensor experts, places;        // (E) i32: the same on the device
} ExpertPlaces;

// Those of all layers.
typedef struct Placement {
    ExpertPlaces **tables; // (count)
    int count;
} Placement;

// The table of a layer's router, made where it is not there yet. It stays where it is while the
// placement lives.
ExpertPlaces *placement_table(Placement *placement, int64_t layer, RouterPlace router, int64_t E);
void placement_free(Placement *placement); // legal on a zeroed one
void placement_layout(Placement *placement, Arena *arena);

// New places, before the parameters get their values: the expert at each place, each of [0, E)
// once. The device learns of them by placement_upload.
void placement_set(ExpertPlaces *places, const int32_t *expert_at);
void placement_upload(const Placement *placement, Device *dev);

#endif
