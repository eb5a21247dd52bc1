#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/integers.h"

enum {
    BLOCK = 4096, // words that a thread takes at a time
    LANES = 8,
    PAIR = 2, // of a row of words: numbers of 64 bits are pairs of words
    ROW = LANES * PAIR,
};

// Both sums over some words of memory.
typedef struct Sums {
    uint64_t plain, weighted;
} Sums;

static Sums sums_of_word(uint32_t word, uint64_t place) {
    return (Sums){word, word * place};
}
static void add_sums(Sums *to, Sums sums) {
    to->plain += sums.plain;
    to->weighted += sums.weighted;
}

// Of n words, counted from 0. No word is multiplied by its place: the sums so far, added up row by
// row, are Σ (rows - r) · w, of which the words' own sum makes Σ r · w. Nor are words taken out of
// their pairs: of Σ pair modulo 2^64 and Σ upper words, the lower ones' is the rest.
static Sums sums_of_words(const char *words, int64_t n) {
    int64_t rows = n / ROW;
    uint64_t pairs[LANES] = {0}, pair_sums[LANES] = {0}, upper[LANES] = {0},
             upper_sums[LANES] = {0};
    for (int64_t r = 0; r < rows; r++)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++) {
            uint64_t pair;
            memcpy(&pair, words + 8 * (r * LANES + lane), 8);
            pairs[lane] += pair;
            upper[lane] += pair >> 32;
            pair_sums[lane] += pairs[lane];
            upper_sums[lane] += upper[lane];
        }
    Sums sums = {0};
    for (uint64_t lane = 0; lane < LANES; lane++) {
        uint64_t lower = pairs[lane] - (upper[lane] << 32);
        uint64_t lower_sums = pair_sums[lane] - (upper_sums[lane] << 32);
        uint64_t both = lower + upper[lane], both_sums = lower_sums + upper_sums[lane];
        sums.plain += both;
        sums.weighted +=
            ROW * ((uint64_t)rows * both - both_sums) + PAIR * lane * both + upper[lane];
    }
    for (int64_t i = rows * ROW; i < n; i++) {
        uint32_t word;
        memcpy(&word, words + 4 * i, 4);
        add_sums(&sums, sums_of_word(word, (uint64_t)i));
    }
    return sums;
}

// Of the words from `first` on of a run of bytes, BLOCK or as many as are left.
static Sums sums_of_block(const char *run, int64_t bytes, int64_t first) {
    int64_t left = bytes / 4 - first, rest = bytes % 4;
    Sums sums = sums_of_words(run + 4 * first, smaller(left, BLOCK));
    sums.weighted += (uint64_t)first * sums.plain;
    if (left < BLOCK && rest > 0) {
        uint32_t last = 0;
        memcpy(&last, run + bytes - rest, (size_t)rest);
        add_sums(&sums, sums_of_word(last, (uint64_t)(bytes / 4)));
    }
    return sums;
}

// Of run s, left out or not.
static int64_t blocks_of(CheckedRuns runs, int64_t s, int64_t row_bytes) {
    int64_t words = (runs.rows[s] * row_bytes + 3) / 4;
    return s == runs.except ? 0 : (words + BLOCK - 1) / BLOCK;
}

// Whole numbers: no order of blocks changes a bit.
void checksums_cpu(Device *dev, Tensor sums, Tensor x, CheckedRuns runs) {
    int64_t *to = tensor_i64(sums);
    int64_t row_bytes = x.shape[0] > 0 ? (int64_t)tensor_bytes(x) / x.shape[0] : 0, blocks = 0;
    for (int64_t s = 0; s < runs.count; s++) blocks += blocks_of(runs, s, row_bytes);
#pragma omp parallel if (blocks > 8)
    {
        // The run at hand; the blocks and rows of all in front of it.
        int64_t s = 0, before = 0, rows = 0;
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) {
            for (; block - before >= blocks_of(runs, s, row_bytes); rows += runs.rows[s++])
                before += blocks_of(runs, s, row_bytes);
            int64_t first = runs.first ? runs.first[s] : rows;
            Sums found = sums_of_block((const char *)x.data + first * row_bytes,
                                       runs.rows[s] * row_bytes, (block - before) * BLOCK);
#pragma omp atomic
            to[2 * s] += (int64_t)found.plain;
#pragma omp atomic
            to[2 * s + 1] += (int64_t)found.weighted;
        }
    }
}
