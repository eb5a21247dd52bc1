#include "worker/data/content_sample.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/utf8.h"

enum {
    LEAST_CONTROLS = 4,
    LEAST_TEXT_DISTINCT = 4, // the four bases; fewer are a pattern of numbers
};

static bool read_pieces(const FileReader *file, ContentSample *sample, Error *err) {
    int64_t size = file->bytes;
    sample->file_bytes = size;
    sample->bytes = sample->head_bytes = (size_t)size;
    if (size <= (int64_t)sizeof sample->content) {
        if (!file_reader_read(file, 0, (size_t)size, sample->content, err)) return false;
    } else {
        sample->bytes = sizeof sample->content;
        sample->head_bytes = SAMPLE_PIECE_BYTES;
        for (int64_t i = 0; i < SAMPLE_PIECES; i++) {
            int64_t start = (size - SAMPLE_PIECE_BYTES) / (SAMPLE_PIECES - 1) * i / 8 * 8;
            if (!file_reader_read(file, start, SAMPLE_PIECE_BYTES,
                                  sample->content + i * SAMPLE_PIECE_BYTES, err))
                return false;
        }
    }
    memset(sample->last, 0, sizeof sample->last);
    return size < (int64_t)sizeof sample->last ||
           file_reader_read(file, size - (int64_t)sizeof sample->last, sizeof sample->last,
                            sample->last, err);
}

ContentSample *content_sample_read(const FileReader *file, Error *err) {
    ContentSample *sample = malloc(sizeof *sample);
    CHECK_MEMORY(sample, "no memory for a sample of %s", file->path);
    if (read_pieces(file, sample, err)) return sample;
    free(sample);
    return NULL;
}

uint64_t little_endian(const uint8_t *bytes, int count) {
    uint64_t value = 0;
    for (int i = count - 1; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

// ---- text or numbers ----------------------------------------------------------------------------

// Bytes that no text has, in UTF-8 or any encoding that holds ASCII: control characters but BEL …
// CR and ESC.
static size_t count_controls(const ContentSample *sample) {
    size_t count = 0;
    for (size_t i = 0; i < sample->bytes; i++) {
        uint8_t byte = sample->content[i];
        count += byte < 0x07 || (byte > 0x0D && byte < 0x20 && byte != 0x1B) || byte == 0x7F;
    }
    return count;
}

static size_t count_not_utf8(const ContentSample *sample) {
    size_t count = 0;
    int32_t ignored;
    for (size_t i = 0; i < sample->bytes;) {
        int length = utf8_decode(sample->content + i, sample->bytes - i, &ignored);
        count += length == 0;
        i += length > 0 ? (size_t)length : 1;
    }
    return count;
}

static int count_distinct_bytes(const ContentSample *sample) {
    bool seen[256] = {false};
    int count = 0;
    for (size_t i = 0; i < sample->bytes; i++) {
        count += !seen[sample->content[i]];
        seen[sample->content[i]] = true;
    }
    return count;
}

bool content_is_text(const ContentSample *sample) {
    size_t ascii = 0;
    for (size_t i = 0; i < sample->bytes; i++) ascii += sample->content[i] < 0x80;
    return sample->bytes >= SAMPLE_LEAST_BYTES && count_controls(sample) * 1000 <= sample->bytes &&
           (ascii * 4 >= sample->bytes * 3 || count_not_utf8(sample) <= 4 * SAMPLE_PIECES) &&
           count_distinct_bytes(sample) >= LEAST_TEXT_DISTINCT;
}

bool content_is_binary(const ContentSample *sample) {
    size_t controls = count_controls(sample);
    return sample->bytes >= SAMPLE_LEAST_BYTES && controls >= LEAST_CONTROLS &&
           controls * 20 > sample->bytes;
}
