#include "model/positions.h"

#include <math.h>

void rope_table_layout(RopeTable *table, const ModelConfig *config, int64_t positions, Arena *arena,
                       Arena *host) {
    int64_t half = config->attention.shape.d_head / 2;
    table->cosines = arena_2d(arena, F32, positions, half);
    table->sines = arena_2d(arena, F32, positions, half);
    table->host_cosines = arena_mirror(host, table->cosines);
    table->host_sines = arena_mirror(host, table->sines);
}

void rope_table_fill(RopeTable *table, Device *dev, const ModelConfig *config) {
    int64_t positions = table->cosines.shape[0], half = table->cosines.shape[1];
    float *cosines = tensor_f32(table->host_cosines), *sines = tensor_f32(table->host_sines);
    for (int64_t t = 0; t < positions; t++)
        for (int64_t i = 0; i < half; i++) {
            double frequency = pow(config->attention.rope_theta, -(double)i / (double)half);
            cosines[t * half + i] = (float)cos((double)t * frequency);
            sines[t * half + i] = (float)sin((double)t * frequency);
        }
    device_upload(dev, table->cosines, table->host_cosines);
    device_upload(dev, table->sines, table->host_sines);
}
