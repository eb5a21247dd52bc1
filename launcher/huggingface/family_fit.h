// Whether a family of Hugging Face's models (worker/huggingface/family.h) computes what a
// configuration says: of every key that is part of what weights compute, the family has a key of
// its own, or a value of its own, or the key is what it is when nobody gives it. So a key that
// comes to be later is refused until a family says that it has it. Not collective.
#ifndef MOETRAIN_LAUNCHER_HUGGINGFACE_FAMILY_FIT_H
#define MOETRAIN_LAUNCHER_HUGGINGFACE_FAMILY_FIT_H

#include "launcher/config.h"
#include "worker/huggingface/family.h"

// The first family that holds the model. False with exit 2, the keys that the nearest one cannot
// hold, and what it has instead.
bool family_choose(const Config *config, const Family **family, Error *err);
// Whether this one does.
bool family_holds(const Family *family, const Config *config, Error *err);

// A key's value as text; to be freed by the caller.
char *key_text(const Config *config, const char *key);
// Of a list for each layer, what all layers with experts have; false where they differ.
bool moe_value(const ModelConfig *model, const PerLayer *list, int64_t *value);

#endif
