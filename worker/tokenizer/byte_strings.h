// A set of byte strings, numbered in the order in which they came: the words of a text, the tokens
// of a vocabulary. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_BYTE_STRINGS_H
#define MOETRAIN_WORKER_TOKENIZER_BYTE_STRINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Zero-initialise before use.
typedef struct ByteStrings {
    int32_t count;
    uint8_t *bytes; // of all strings, one behind the other, owned
    size_t *begin;  // (count + 1) where each begins, owned
    size_t byte_room;
    int64_t room;
    uint64_t *slots; // (slot_count) a hash's upper half and a number + 1; 0: free; owned
    uint64_t slot_count;
} ByteStrings;

// The number of a string, which is added when it is new; *added may be NULL.
int32_t byte_strings_add(ByteStrings *strings, const void *bytes, size_t count, bool *added);
// The number of a string, or -1.
int32_t byte_strings_find(const ByteStrings *strings, const void *bytes, size_t count);
// The string of a number; valid until the next one is added.
const uint8_t *byte_strings_get(const ByteStrings *strings, int32_t number, size_t *count);
void byte_strings_clear(ByteStrings *strings); // empty, with its memory kept
void byte_strings_free(ByteStrings *strings);  // legal on a zeroed struct

#endif
