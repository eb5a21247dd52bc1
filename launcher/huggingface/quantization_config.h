// quantization_config of a config.json: how weights are stored in few bits. Not collective.
#ifndef MOETRAIN_LAUNCHER_HUGGINGFACE_QUANTIZATION_CONFIG_H
#define MOETRAIN_LAUNCHER_HUGGINGFACE_QUANTIZATION_CONFIG_H

#include <jansson.h>

#include "worker/huggingface/family.h"
#include "worker/huggingface/quantized_weights.h"

// value: NULL where there is none. False with exit 2 for what cannot be read.
bool quantization_config_read(const json_t *value, const Family *family, Quantization *quantization,
                              Error *err);

#endif
