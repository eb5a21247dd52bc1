// Which build of the program this is, without asking how it was built.
#ifndef MOETRAIN_WORKER_RUN_PROGRAM_HASH_H
#define MOETRAIN_WORKER_RUN_PROGRAM_HASH_H

#include <stdbool.h>

#include "checkpoint/hash.h"

// XXH3-128 of the program file that runs, as hexadecimal text. False, and an empty text, when it
// cannot be read. Not collective.
enum { HASH_TEXT_BYTES = 2 * sizeof(Hash) + 1 };
bool program_hash(char text[HASH_TEXT_BYTES]);

// A hash as hexadecimal text.
void hash_to_text(Hash hash, char text[HASH_TEXT_BYTES]);

#endif
