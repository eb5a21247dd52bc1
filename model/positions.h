// How attention learns where tokens stand: by rotary positions (arXiv:2104.09864).
#ifndef MOETRAIN_MODEL_POSITIONS_H
#define MOETRAIN_MODEL_POSITIONS_H

#include "kernels/arena.h"
#include "model/model_config.h"

// cos and sin of every position and frequency; one for all layers.
typedef struct RopeTable {
    Tensor cosines, sines;           // (positions, d_head / 2)
    Tensor host_cosines, host_sines; // the host's mirrors
} RopeTable;

void rope_table_layout(RopeTable *table, const ModelConfig *config, int64_t positions, Arena *arena,
                       Arena *host);
void rope_table_fill(RopeTable *table, Device *dev, const ModelConfig *config);

#endif
