// The tokens of a text as a file of numbers, little-endian and without a header, as data.format:
// uint16 and uint32 have them. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_TOKEN_FILE_H
#define MOETRAIN_WORKER_TOKENIZER_TOKEN_FILE_H

#include <stdio.h>

#include "worker/data/documents.h"
#include "worker/tokenizer/tokenizer.h"

// Bytes of a number: 2 where the vocabulary has no more than 65536 tokens, otherwise 4.
int token_file_width(const Tokenizer *tokenizer);

// Takes tokens as they come; false ends the text.
typedef bool TokensFunction(void *context, const int32_t *tokens, int64_t count, Error *err);

// Encodes a text from the beginning to the end and gives its tokens to `take`, those of about a
// million bytes at a time: where the pattern and the added tokens allow it the text is read in
// pieces, so that memory does not grow with it, otherwise at once. The tokens are those of the
// whole text either way. With documents, in bytes of the text, each one's are those of a text of
// its own, and they leave in tokens; NULL: none.
bool tokens_of_text(const Tokenizer *tokenizer, const FileReader *text, DocumentStarts *documents,
                    TokensFunction *take, void *context, Error *err);

// Writes the tokens of a text to a file at `path`, by way of a new one beside it: whole, on the
// disk, or not there. Calls `progress` after each piece, unless it is NULL. False with exit 3 for
// what is wrong with the text, 5 for the disk. documents: as above.
bool token_file_write(const Tokenizer *tokenizer, const FileReader *text, DocumentStarts *documents,
                      const char *path, void (*progress)(void), int64_t *tokens, Error *err);
// The same to an open file: what was written before an error stays.
bool token_file_give(const Tokenizer *tokenizer, const FileReader *text, DocumentStarts *documents,
                     int fd, int64_t *tokens, Error *err);
// The bytes that a file of tokens stands for, in order, to `out`. False with exit 3 for a token
// outside the vocabulary, 5 where they cannot be written.
bool token_file_decode(const Tokenizer *tokenizer, const FileReader *tokens, FILE *out, Error *err);

#endif
