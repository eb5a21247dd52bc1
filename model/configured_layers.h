// What the layers of a configuration say together, before there is a model of it. Nothing here is
// collective.
#ifndef MOETRAIN_MODEL_CONFIGURED_LAYERS_H
#define MOETRAIN_MODEL_CONFIGURED_LAYERS_H

#include "model/layer_kind.h"

// What all layers are at most, without embedding and output.
LayerBound model_bound(const ModelConfig *config);

// The largest number that divides the experts of every layer that has any; 0 where none has.
int64_t model_experts_divisor(const ModelConfig *config);
// What the experts that so many ranks cannot share are called in messages, of the first layer that
// has such; NULL: they can share all.
const char *model_unshared_experts(const ModelConfig *config, int64_t ranks);
// The first layer's experts of which so many ranks have not equally many; 0: there is none.
int64_t model_uneven_experts(const ModelConfig *config, int64_t ranks);
// Whether the device's kernels take such a model. False with exit 2 and the fix, the same on every
// rank with such a device.
bool model_check_device(const ModelConfig *config, const Device *dev, Error *err);
// Changes the configuration to one in which a token depends on no later one, nor on other
// sequences, as generation needs it. False with exit 2 when there is none.
bool model_for_generation(ModelConfig *config, Error *err);

// Whether a layer of the configuration reads the key of that name (LayerChoice.keys), or all models
// do.
bool model_reads_key(const ModelConfig *config, const char *key);

#endif
