// The weights of a model that only computes forward, in fewer bits than f32: those that matrix
// products read, in attention, feed-forwards, experts and the head. They are quantised once, when
// they are loaded, and no f32 of them stays.
//
// In f32 stay the router, whose choices must not move more than they have to, and norms, biases and
// sinks, which are few; and tables of embeddings, of which a token reads one row: they cost memory
// but no time. A head that is tied to one has its own quantised copy.
#ifndef MOETRAIN_MODEL_NARROW_WEIGHTS_H
#define MOETRAIN_MODEL_NARROW_WEIGHTS_H

#include "kernels/kernels.h"
#include "model/params.h"

typedef struct NarrowWeights {
    DType type;                // F32: there are none
    bool *is_narrow;           // (rows of the table)
    QuantizedMatrix *matrices; // (rows), of those that are
} NarrowWeights;

// Chooses the rows of a complete table; those of which no f32 stays lose their place in its sets.
void narrow_weights_begin(NarrowWeights *narrow, DType type, ParamTable *table);
void narrow_weights_layout(NarrowWeights *narrow, const ParamTable *table, Arena *arena);
void narrow_weights_free(NarrowWeights *narrow); // legal on a zeroed one

// Quantises what this rank holds of row `index`, from host memory. False as quantize_rows, with the
// row's name. Not collective.
bool narrow_weights_set(const NarrowWeights *narrow, const ParamTable *table, Device *dev,
                        int index, const float *values, Error *err);
// Of all rows, from the numbers that param_init would give them. Not collective.
void narrow_weights_init(const NarrowWeights *narrow, const ParamTable *table, Device *dev,
                         uint64_t seed);

#endif
