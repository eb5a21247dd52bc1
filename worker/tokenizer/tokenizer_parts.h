// The parts of a tokenizer.json around its model. Each is false with exit 3 and the field that is
// not honoured. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_TOKENIZER_PARTS_H
#define MOETRAIN_WORKER_TOKENIZER_TOKENIZER_PARTS_H

#include <jansson.h>

#include "worker/tokenizer/tokenizer.h"

bool read_normalizer(Tokenizer *tokenizer, const json_t *normalizer, Error *err);
bool read_pre_tokenizer(Tokenizer *tokenizer, const json_t *pre_tokenizer, Error *err);
bool read_post_processor(Tokenizer *tokenizer, const json_t *post_processor, Error *err);
bool read_decoder(const json_t *decoder, Error *err);

#endif
