// config.json, as Hugging Face's transformers has it, of a model, and back. Not collective.
#ifndef MOETRAIN_LAUNCHER_HUGGINGFACE_CONFIG_JSON_H
#define MOETRAIN_LAUNCHER_HUGGINGFACE_CONFIG_JSON_H

#include "launcher/config.h"
#include "worker/huggingface/family.h"
#include "worker/huggingface/quantized_weights.h"

// The text of config.json for a model that the family holds, its weights stored as `type`; to be
// freed by the caller. Turned channels of latent attention are pairs of neighbours there
// (rope_interleave), as in the models that are published.
char *config_json_write(const Config *config, const Family *family, int64_t vocab_size,
                        StoredType type);

// What config.json says of a model.
typedef struct ConfigJson {
    const Family *family;
    int64_t vocab_size;
    bool alternate; // rope_interleave
    Quantization quantization;
    char *yaml;   // keys of ours, one a line; to be freed by the caller
    char *unread; // keys that nothing here reads, joined by commas; likewise
} ConfigJson;

// Reads FOLDER/config.json. False with exit 2, which names the key, its value and what would do;
// exit 5 when it cannot be read.
bool config_json_read(ConfigJson *read, const char *folder, Error *err);

#endif
