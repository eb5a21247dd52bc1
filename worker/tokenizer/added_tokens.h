// Tokens that are found in a text as they are, before anything else is done with it: <|endoftext|>
// and its like. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_ADDED_TOKENS_H
#define MOETRAIN_WORKER_TOKENIZER_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct AddedToken {
    int32_t id;
    uint8_t *content; // and a NUL behind it, for messages; owned
    size_t bytes;
    bool strips_left, strips_right; // takes the white space beside it
    bool normalized;                // looked for in the normalized text, otherwise in the raw one
    bool special;                   // no text: of the model's own
    bool hidden; // never found in text: a token of the vocabulary that no word can become
} AddedToken;

// Zero-initialise before use. Read by many threads at a time.
typedef struct AddedTokens {
    AddedToken *rows; // (count), owned
    int32_t count, room;
} AddedTokens;

// Copies the content.
void added_tokens_add(AddedTokens *tokens, const AddedToken *token);
void added_tokens_free(AddedTokens *tokens); // legal on a zeroed struct

// Some of the tokens, to be searched for. Zero-initialise before use.
typedef struct TokenSearch {
    const AddedToken **rows; // (count) in the order of their contents, owned
    int32_t count;
    bool begins[256]; // whether some token begins with the byte
} TokenSearch;

// Those that are looked for in the normalized text, or those in the raw one; after the last one is
// added, which they belong to.
void token_search_open(TokenSearch *search, const AddedTokens *tokens, bool normalized);
void token_search_close(TokenSearch *search);
// The first token at or behind *at, the longest where several begin; *at becomes its place. NULL:
// none is left.
const AddedToken *token_search_next(const TokenSearch *search, const uint8_t *text, size_t bytes,
                                    size_t *at);

// Bytes of white space that end before `end`, but not those before `begin`; that begin at `begin`.
size_t white_space_before(const uint8_t *text, size_t begin, size_t end);
size_t white_space_after(const uint8_t *text, size_t begin, size_t end);

#endif
