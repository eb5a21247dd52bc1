// Text to token numbers and back, by byte-level byte-pair encoding as tokenizer.json of Hugging
// Face describes it.
//
// The way of a text: bytes that are no UTF-8 are words of their own, one byte each; in what lies
// between them added tokens are found; the rest is brought into normal form where the file says so,
// cut into words (pre_split.h), and the bytes of each word are merged (bpe.h). So every string of
// bytes has tokens, and comes back from them exactly, unless a normal form or a prefixed space was
// asked for. What a post-processor would put around a text (<|begin_of_text|> and the like) is
// kept, but never applied: a trainer cuts its windows anywhere.
//
// Not collective. A Tokenizer is read by many threads at a time; an Encoder belongs to one.
#ifndef MOETRAIN_WORKER_TOKENIZER_TOKENIZER_H
#define MOETRAIN_WORKER_TOKENIZER_TOKENIZER_H

#include "checkpoint/hash.h"
#include "kernels/check.h"
#include "worker/tokenizer/added_tokens.h"
#include "worker/tokenizer/bpe.h"
#include "worker/tokenizer/pre_split.h"

typedef struct Tokenizer {
    int64_t size; // 1 + the largest token; some numbers below it may stand for nothing
    char *json;   // the tokenizer.json that it was read from, byte for byte, owned
    size_t json_bytes;
    Hash hash; // of json

    Bpe bpe;
    AddedTokens added;
    TokenSearch raw, normalized; // of the added tokens
    int32_t *added_of;           // (size) the row of an added token; -1: it is none; owned
    bool nfc;
    bool add_prefix_space; // before every text that does not begin with one
    PreSplit *split;
    int stages;              // of it
    bool known_pattern;      // one of split_pattern.h, and nothing but it
    char post_processor[64]; // its type, which is not applied; empty: none
} Tokenizer;

// From the text of a tokenizer.json. False with exit 3 and the field that this program does not
// honour, or that contradicts another.
bool tokenizer_from_json(Tokenizer **tokenizer, const char *json, size_t bytes, Error *err);
// From a file, tokenizer.json or ranks of tiktoken, which `pattern` (a word of SPLIT_CHOICES) then
// must name; NULL: none was named. False with exit 3 and the path.
bool tokenizer_read(Tokenizer **tokenizer, const char *path, const char *pattern, Error *err);
// The tokenizer.json that says the same as a file of tiktoken's ranks, to be freed by the caller;
// `special` as tiktoken_file.h has it. False as before.
bool tokenizer_convert(const char *path, const char *pattern, const char *special, char **json,
                       size_t *json_bytes, Error *err);
void tokenizer_free(Tokenizer *tokenizer); // legal on NULL

// The bytes of a token below size; none for a number that stands for nothing.
const uint8_t *tokenizer_decode(const Tokenizer *tokenizer, int32_t token, size_t *bytes);

typedef struct Encoder Encoder;
Encoder *encoder_open(const Tokenizer *tokenizer);
void encoder_close(Encoder *encoder); // legal on NULL; before its tokenizer is freed
// Appends the tokens of a text of any bytes. False with exit 3 where a pattern exceeds PCRE2's
// limits.
bool encoder_encode(Encoder *encoder, const void *text, size_t bytes, TokenList *tokens,
                    Error *err);

#endif
