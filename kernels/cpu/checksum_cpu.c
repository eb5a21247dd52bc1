#include <string.h>

#include "kernels/cpu/cpu_ops.h"

enum { BLOCK = 4096 }; // words: sums of one block need no more than 56 bits

// Both sums over n words of memory, counted from 0.
typedef struct Sums {
    uint64_t plain, weighted;
} Sums;

static Sums sums_of_words(const char *words, uint32_t n) {
    uint64_t plain = 0, weighted = 0;
#pragma omp simd reduction(+ : plain, weighted)
    for (uint32_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, words + (size_t)4 * i, 4);
        plain += word;
        weighted += (uint64_t)word * i;
    }
    return (Sums){plain, weighted};
}

// Of a run of bytes. Blocks are cut from its start; whole numbers, so that no order matters.
static Sums sums_of_bytes(const char *bytes, int64_t count) {
    int64_t words = count / 4, blocks = (words + BLOCK - 1) / BLOCK;
    uint64_t plain = 0, weighted = 0;
#pragma omp parallel for schedule(static) reduction(+ : plain, weighted) if (blocks > 8)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t first = b * BLOCK, left = words - first;
        Sums sums = sums_of_words(bytes + 4 * first, (uint32_t)(left < BLOCK ? left : BLOCK));
        plain += sums.plain;
        weighted += sums.weighted + (uint64_t)first * sums.plain;
    }
    if (count % 4 > 0) {
        uint32_t last = 0;
        memcpy(&last, bytes + 4 * words, (size_t)(count % 4));
        plain += last;
        weighted += (uint64_t)last * (uint64_t)words;
    }
    return (Sums){plain, weighted};
}

void checksums_cpu(Device *dev, Tensor sums, Tensor x, CheckedRuns runs) {
    int64_t *to = tensor_i64(sums), next = 0;
    int64_t row_bytes = x.shape[0] > 0 ? (int64_t)tensor_bytes(x) / x.shape[0] : 0;
    for (int64_t s = 0; s < runs.count; s++) {
        int64_t first = runs.first ? runs.first[s] : next;
        next = first + runs.rows[s];
        if (s == runs.except || runs.rows[s] == 0) continue;
        Sums found =
            sums_of_bytes((const char *)x.data + first * row_bytes, runs.rows[s] * row_bytes);
        to[2 * s] = (int64_t)((uint64_t)to[2 * s] + found.plain);
        to[2 * s + 1] = (int64_t)((uint64_t)to[2 * s + 1] + found.weighted);
    }
}
