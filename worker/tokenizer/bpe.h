// Byte-pair encoding: tokens are byte strings, a word begins as its bytes, and of all neighbours
// that a merge names those of the lowest rank become one token, the leftmost first, until none is
// left (Sennrich et al. 1508.07909 on the bytes of GPT-2). Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_BPE_H
#define MOETRAIN_WORKER_TOKENIZER_BPE_H

#include "worker/tokenizer/byte_strings.h"

enum { MOST_TOKEN_IDS = 1 << 24 }; // more are no vocabulary but a damaged file

typedef struct TokenList {
    int32_t *ids; // owned
    int64_t count, room;
} TokenList;

void token_list_add(TokenList *list, int32_t id);
void token_list_free(TokenList *list); // legal on a zeroed struct

// A merge: what two tokens become. Slots of a table that is open to both.
typedef struct Merge {
    uint64_t pair; // left + 1 in the upper half, right in the lower; 0: a free slot
    uint32_t rank; // lower ones first
    int32_t id;
} Merge;

// Zero-initialise before use. Read by many threads at a time.
typedef struct Bpe {
    ByteStrings tokens; // numbered as they came
    int32_t *id_of;     // (tokens.count) id of a number, owned
    int32_t *number_of; // (size) number of an id; -1: none has it; owned
    int64_t size;       // 1 + the largest id
    int64_t id_room, number_room;
    int32_t byte_ids[256];
    Merge *merges; // (merge_slots), owned
    uint64_t merge_slots;
    int64_t merge_count;
    bool whole_words; // a word that is a token is that token, whatever the merges make of it
} Bpe;

// Gives an id to a token. False when the token or the id has been given before.
bool bpe_add_token(Bpe *bpe, const void *bytes, size_t count, int32_t id);
// The id of a token, or -1.
int32_t bpe_find(const Bpe *bpe, const void *bytes, size_t count);
// The bytes of an id below size; NULL where none has it.
const uint8_t *bpe_token(const Bpe *bpe, int32_t id, size_t *count);
// Finds the ids of the 256 bytes. False and the byte that has none.
bool bpe_find_bytes(Bpe *bpe, int *missing);
// A merge of the next rank; of a pair that comes again the last counts.
void bpe_add_merge(Bpe *bpe, int32_t left, int32_t right, int32_t id);
void bpe_free(Bpe *bpe); // legal on a zeroed struct

// What a thread merges with: zero-initialise before use.
typedef struct BpeScratch {
    void *memory;
    size_t bytes;
} BpeScratch;

// Appends the tokens of a word of at least one byte. Time n log n in its length.
void bpe_encode(const Bpe *bpe, BpeScratch *scratch, const uint8_t *word, size_t count,
                TokenList *out);
void bpe_scratch_free(BpeScratch *scratch);

#endif
