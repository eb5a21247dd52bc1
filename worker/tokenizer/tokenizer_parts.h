// The parts of a tokenizer.json around its model, and what reading them has in common with reading
// the model. Each is false with exit 3 and the field that is not honoured. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_TOKENIZER_PARTS_H
#define MOETRAIN_WORKER_TOKENIZER_TOKENIZER_PARTS_H

#include <jansson.h>

#include "worker/tokenizer/tokenizer.h"

bool read_normalizer(Tokenizer *tokenizer, const json_t *normalizer, Error *err);
bool read_pre_tokenizer(Tokenizer *tokenizer, const json_t *pre_tokenizer, Error *err);
bool read_post_processor(Tokenizer *tokenizer, const json_t *post_processor, Error *err);
bool read_decoder(const json_t *decoder, Error *err);

// "FIELD is VALUE, which this program does not honour; FIX". fix NULL: there is none. False.
bool json_refuse(const char *field, const json_t *value, const char *fix, Error *err);
// Whether it is an object of these keys alone; `known` ends with NULL.
bool json_keys_known(const json_t *object, const char *field, const char *const *known, Error *err);
// Whether an optional flag is true; *ok becomes false, with a message, where it is no flag.
bool json_flag(const json_t *object, const char *field, const char *key, bool otherwise, bool *ok,
               Error *err);
const char *part_type(const json_t *object); // empty where it says none

#endif
