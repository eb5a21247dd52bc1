// The first look at a data file: its head, and pieces of its middle and tail where it is large.
// Who recognises files by their content asks this and reads nothing else. Not collective.
#ifndef MOETRAIN_WORKER_DATA_CONTENT_SAMPLE_H
#define MOETRAIN_WORKER_DATA_CONTENT_SAMPLE_H

#include "worker/data/file_reader.h"

enum {
    SAMPLE_PIECES = 3, // head, middle and tail
    SAMPLE_PIECE_BYTES = 1 << 15,
    SAMPLE_LEAST_BYTES = 24, // fewer say nothing about what they are
};

// The whole file when it is small.
typedef struct ContentSample {
    int64_t file_bytes;
    size_t head_bytes; // in one piece from the beginning
    size_t bytes;      // pieces begin at multiples of 8
    uint8_t content[SAMPLE_PIECES * SAMPLE_PIECE_BYTES];
    uint8_t last[4]; // of the file; zero when it has fewer bytes
} ContentSample;

// A new sample, for free(). NULL with exit 3 on a read error.
ContentSample *content_sample_read(const FileReader *file, Error *err);

uint64_t little_endian(const uint8_t *bytes, int count); // of up to 8

// Whether a file taken for token numbers is text. Numbers have small high bytes, which are control
// characters.
bool content_is_text(const ContentSample *sample);
// Whether a file taken for text is none. Some NUL or separator characters among the letters are
// tolerated.
bool content_is_binary(const ContentSample *sample);

#endif
