// How wide the token numbers of a file without a header look, and in which order their bytes stand:
// enough to suspect a file that is read otherwise, never to decide. Not collective.
#ifndef MOETRAIN_WORKER_DATA_NUMBER_WIDTH_H
#define MOETRAIN_WORKER_DATA_NUMBER_WIDTH_H

#include "worker/data/content_sample.h"

// How often each byte of 8 in a row is not zero, and the largest it is.
typedef struct Lanes {
    int64_t used[8];
    uint8_t largest[8];
} Lanes;
Lanes lanes_measure(const ContentSample *sample);

// Numbers below 2^18 in more bytes than they need. Bit i of a mask is lane i.
typedef struct WideNumbers {
    const char *name, *numpy;
    int bytes;
    bool big_endian;
    uint8_t zero;    // lanes that hold nothing
    uint8_t small;   // lanes that hold at most 3
    uint8_t used[2]; // of each of these, some lane is used often
} WideNumbers;
// What numbers read as `width` bytes really are, or NULL; *large: some need more than 16 bits.
const WideNumbers *wide_numbers_find(const ContentSample *sample, int width, bool *large);
// Numbers of two bytes whose low bytes are often zero and whose high bytes hardly ever are.
bool is_big_endian_16(const ContentSample *sample);

// The share of the sample's numbers of `width` bytes, read in one byte order, that are in the
// vocabulary.
double share_inside(const ContentSample *sample, int width, bool big_endian, int64_t vocab_size);

#endif
