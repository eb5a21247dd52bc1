// Fields of a tokenizer.json: what is not honoured is refused by its name, with exit 3. Not
// collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_JSON_FIELDS_H
#define MOETRAIN_WORKER_TOKENIZER_JSON_FIELDS_H

#include <jansson.h>
#include <stdbool.h>

#include "kernels/check.h"

// "FIELD is VALUE, which this program does not honour; FIX". fix NULL: there is none. False.
bool json_refuse(const char *field, const json_t *value, const char *fix, Error *err);
// Whether it is an object of these keys alone; `known` ends with NULL.
bool json_keys_known(const json_t *object, const char *field, const char *const *known, Error *err);
// Whether an optional flag is true; *ok becomes false, with a message, where it is no flag.
bool json_flag(const json_t *object, const char *field, const char *key, bool otherwise, bool *ok,
               Error *err);
const char *part_type(const json_t *object); // empty where it says none

#endif
