// The integers that files of token numbers are made of: little-endian, of 1, 2, 4 or 8 bytes, with
// a sign or without. Not collective.
#ifndef MOETRAIN_WORKER_DATA_TOKEN_TYPE_H
#define MOETRAIN_WORKER_DATA_TOKEN_TYPE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct TokenType {
    int bytes; // 0: of no file of numbers
    bool is_signed;
} TokenType;

const char *token_type_name(TokenType type); // "uint16"

// Number i of raw ones; what is beyond int64 is INT64_MAX.
int64_t token_type_read(TokenType type, const void *raw, int64_t i);
// Whether all n numbers, n >= 1, are in [0, vocab_size): one maximum, without a branch a number.
bool token_type_all_inside(TokenType type, const void *raw, int64_t n, int64_t vocab_size);

#endif
