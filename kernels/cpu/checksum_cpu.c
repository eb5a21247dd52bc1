#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/integers.h"

enum {
    BLOCK = 4096, // words that a thread takes at a time
    LANES = 8,
    PAIR = 2, // of a row of words: numbers of 64 bits are pairs of words
    ROW = LANES * PAIR,
    AHEAD = 2048, // bytes from a row to one that is fetched: of itself no processor leaves its page
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
    for (int64_t r = 0; r < rows; r++) {
        __builtin_prefetch(words + 8 * r * LANES + AHEAD);
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++) {
            uint64_t pair;
            memcpy(&pair, words + 8 * (r * LANES + lane), 8);
            pairs[lane] += pair;
            upper[lane] += pair >> 32;
            pair_sums[lane] += pairs[lane];
            upper_sums[lane] += upper[lane];
        }
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

// Of a block, counted from 0, whose last word may lack bytes.
static Sums sums_of_block(const char *block, int64_t bytes) {
    int64_t words = bytes / 4, rest = bytes % 4;
    Sums sums = sums_of_words(block, words);
    if (rest > 0) {
        uint32_t last = 0;
        memcpy(&last, block + 4 * words, (size_t)rest);
        add_sums(&sums, sums_of_word(last, (uint64_t)words));
    }
    return sums;
}

// Bytes first … first + count - 1 of x's rows index[0], index[1], …; zeros where one is negative.
static void gather_bytes(char *to, const char *x, int64_t row_bytes, const int32_t *index,
                         int64_t first, int64_t count) {
    for (int64_t bytes; count > 0; first += bytes, to += bytes, count -= bytes) {
        int64_t row = index[first / row_bytes], at = first % row_bytes;
        bytes = smaller(row_bytes - at, count);
        if (row < 0)
            memset(to, 0, (size_t)bytes);
        else
            memcpy(to, x + row * row_bytes + at, (size_t)bytes);
    }
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
            int64_t run = runs.first ? runs.first[s] : rows, first = 4 * BLOCK * (block - before);
            int64_t bytes = smaller(runs.rows[s] * row_bytes - first, 4 * BLOCK);
            char gathered[4 * BLOCK];
            if (runs.index.data)
                gather_bytes(gathered, x.data, row_bytes, tensor_i32(runs.index) + run, first,
                             bytes);
            const char *x_bytes = (const char *)x.data + run * row_bytes + first;
            Sums found = sums_of_block(runs.index.data ? gathered : x_bytes, bytes);
            found.weighted += (uint64_t)(first / 4) * found.plain;
#pragma omp atomic
            to[2 * s] += (int64_t)found.plain;
#pragma omp atomic
            to[2 * s + 1] += (int64_t)found.weighted;
        }
    }
}
