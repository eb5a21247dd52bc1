// What is said of a word that stands where a key is meant and is none. Not collective.
#ifndef MOETRAIN_LAUNCHER_UNKNOWN_KEY_H
#define MOETRAIN_LAUNCHER_UNKNOWN_KEY_H

#include "kernels/check.h"

// The name of the key that the word is near to or, in another program, means; NULL: none.
const char *suggest_key(const char *word);

// The error (exit 2) of a word that is no key. Returns false.
bool unknown_key(const char *word, Error *err);

#endif
