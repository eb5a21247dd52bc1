#include "worker/data/number_width.h"

#include <stdlib.h>

enum {
    // All where wider numbers have their low halves, and none elsewhere: by chance once in 2^24
    // files.
    LEAST_NUMBERS = 24,
    LEAST_DISTINCT = 8,  // a toy of a few tokens may well have one of them in every second place
    MANY_DISTINCT = 128, // the same where the other places are small instead of zero
};

Lanes lanes_measure(const ContentSample *sample) {
    Lanes lanes = {0};
    for (size_t i = 0; i < sample->bytes / 8 * 8; i++) {
        uint8_t byte = sample->content[i];
        lanes.used[i % 8] += byte != 0;
        if (byte > lanes.largest[i % 8]) lanes.largest[i % 8] = byte;
    }
    return lanes;
}

static int count_distinct_halves(const ContentSample *sample) {
    uint8_t *seen = calloc(1 << 16, 1);
    CHECK_MEMORY(seen, "no memory for %d bytes", 1 << 16);
    int count = 0;
    for (size_t i = 0; i + 2 <= sample->bytes; i += 2) {
        uint64_t half = little_endian(sample->content + i, 2);
        count += half != 0 && !seen[half];
        seen[half] = 1;
    }
    free(seen);
    return count;
}

static const WideNumbers WIDE_NUMBERS[] = {
    {"int64", "<i8", 8, false, 0xF8, 0x04, {0x03, 0x03}},
    {"big-endian int64", ">i8", 8, true, 0x1F, 0x20, {0xC0, 0xC0}},
    {"int32", "<i4", 4, false, 0x88, 0x44, {0x03, 0x30}},
    {"big-endian int32", ">i4", 4, true, 0x11, 0x22, {0x0C, 0xC0}},
};
enum { WIDE_COUNT = sizeof WIDE_NUMBERS / sizeof *WIDE_NUMBERS };

static bool fits_lanes(const WideNumbers *wide, const Lanes *lanes, int distinct, bool *large) {
    *large = false;
    int64_t used[2] = {0};
    for (int i = 0; i < 8; i++) {
        if (wide->zero >> i & 1 && lanes->used[i] > 0) return false;
        if (wide->small >> i & 1 && lanes->largest[i] > 3) return false;
        if (wide->small >> i & 1 && lanes->used[i] > 0) *large = true;
        for (int group = 0; group < 2; group++)
            if (wide->used[group] >> i & 1 && lanes->used[i] > used[group])
                used[group] = lanes->used[i];
    }
    int64_t numbers = wide->used[0] == wide->used[1] ? used[0] : used[0] + used[1];
    return used[0] > 0 && used[1] > 0 && numbers >= LEAST_NUMBERS &&
           distinct >= (*large ? MANY_DISTINCT : LEAST_DISTINCT);
}

const WideNumbers *wide_numbers_find(const ContentSample *sample, int width, bool *large) {
    if (sample->bytes < SAMPLE_LEAST_BYTES) return NULL;
    Lanes lanes = lanes_measure(sample);
    int distinct = count_distinct_halves(sample);
    for (int row = 0; row < WIDE_COUNT; row++)
        if (WIDE_NUMBERS[row].bytes > width &&
            fits_lanes(&WIDE_NUMBERS[row], &lanes, distinct, large))
            return &WIDE_NUMBERS[row];
    return NULL;
}

bool is_big_endian_16(const ContentSample *sample) {
    int64_t numbers = 0, low_zero = 0, high_zero = 0;
    for (size_t i = 0; i + 2 <= sample->bytes; i += 2) {
        uint8_t low = sample->content[i], high = sample->content[i + 1];
        if (low == 0 && high == 0) continue;
        numbers++;
        low_zero += low == 0;
        high_zero += high == 0;
    }
    return numbers >= LEAST_NUMBERS && low_zero * 5 >= numbers && high_zero * 50 <= numbers &&
           count_distinct_halves(sample) >= LEAST_DISTINCT;
}

double share_inside(const ContentSample *sample, int width, bool big_endian, int64_t vocab_size) {
    int64_t inside = 0, count = 0;
    for (size_t i = 0; i + (size_t)width <= sample->bytes; i += (size_t)width, count++) {
        uint8_t bytes[4];
        for (int j = 0; j < width; j++)
            bytes[j] = sample->content[i + (size_t)(big_endian ? width - 1 - j : j)];
        inside += little_endian(bytes, width) < (uint64_t)vocab_size;
    }
    return count > 0 ? (double)inside / (double)count : 0;
}
