#include "worker/data/token_type.h"

#include <stdio.h>

#include "kernels/check.h"

const char *token_type_name(TokenType type) {
    switch (type.bytes) {
    case 1:
        return type.is_signed ? "int8" : "uint8";
    case 2:
        return type.is_signed ? "int16" : "uint16";
    case 4:
        return type.is_signed ? "int32" : "uint32";
    default:
        return type.is_signed ? "int64" : "uint64";
    }
}

int64_t token_type_read(TokenType type, const void *raw, int64_t i) {
    switch (type.bytes) {
    case 1:
        return type.is_signed ? ((const int8_t *)raw)[i] : ((const uint8_t *)raw)[i];
    case 2:
        return type.is_signed ? ((const int16_t *)raw)[i] : ((const uint16_t *)raw)[i];
    case 4:
        return type.is_signed ? (int64_t)((const int32_t *)raw)[i] : ((const uint32_t *)raw)[i];
    default: {
        int64_t number = ((const int64_t *)raw)[i];
        return number < 0 && !type.is_signed ? INT64_MAX : number;
    }
    }
}

// The largest as an unsigned number, in its own width for as many vector lanes as there are.
static uint64_t largest_unsigned(int bytes, const void *raw, int64_t n) {
    if (bytes == 1) {
        const uint8_t *x = raw;
        uint8_t most = 0;
        for (int64_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
        return most;
    }
    if (bytes == 2) {
        const uint16_t *x = raw;
        uint16_t most = 0;
        for (int64_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
        return most;
    }
    if (bytes == 4) {
        const uint32_t *x = raw;
        uint32_t most = 0;
        for (int64_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
        return most;
    }
    const uint64_t *x = raw;
    uint64_t most = 0;
    for (int64_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    return most;
}

bool token_type_all_inside(TokenType type, const void *raw, int64_t n, int64_t vocab_size) {
    uint64_t end = (uint64_t)vocab_size; // with a sign, what is negative is beyond it
    uint64_t half = (uint64_t)1 << (8 * type.bytes - 1);
    if (type.is_signed && half < end) end = half;
    return largest_unsigned(type.bytes, raw, n) < end;
}
