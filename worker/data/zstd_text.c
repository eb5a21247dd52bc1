// Text compressed with zstd, of one frame or several (RFC 8878), by libzstd.
#include <stdlib.h>
#include <string.h>

#include <zstd.h>
#include <zstd_errors.h>

#include "worker/data/compressed_text.h"

enum { INPUT_BYTES = 1 << 17 };

typedef struct Decompression {
    ZSTD_DStream *zstd;
    ZSTD_inBuffer in;
    bool between; // two frames, where the file may end
    uint8_t input[INPUT_BYTES];
} Decompression;

static bool recognise(const DataPlace *place) {
    return place->sample->head_bytes >= 4 &&
           memcmp(place->sample->content, "\x28\xB5\x2F\xFD", 4) == 0;
}

static bool refill(ByteStream *stream, Decompression *decompression, Error *err) {
    int64_t left = stream->file->bytes - stream->taken;
    size_t bytes = left < INPUT_BYTES ? (size_t)left : INPUT_BYTES;
    if (!file_reader_read(stream->file, stream->taken, bytes, decompression->input, err))
        return false;
    stream->taken += (int64_t)bytes;
    decompression->in = (ZSTD_inBuffer){decompression->input, bytes, 0};
    return true;
}

static int64_t read_decompressed(ByteStream *stream, void *buffer, size_t room, Error *err) {
    Decompression *decompression = stream->state;
    ZSTD_inBuffer *in = &decompression->in;
    ZSTD_outBuffer out = {buffer, room, 0};
    while (out.pos == 0) {
        if (in->pos == in->size && stream->taken < stream->file->bytes &&
            !refill(stream, decompression, err))
            return -1;
        int64_t at = stream->taken - (int64_t)(in->size - in->pos);
        if (in->pos == in->size && decompression->between) return 0;
        bool ended = in->pos == in->size; // there may still be something inside
        size_t left = ZSTD_decompressStream(decompression->zstd, &out, in);
        if (ZSTD_getErrorCode(left) == ZSTD_error_frameParameter_windowTooLarge) {
            error_set(err, EXIT_DATA,
                      "%s: compressed with zstd --long, it wants more than 128 MiB to be read; "
                      "pack it again without: zstd -d --long=31 < FILE | zstd > NEW",
                      stream->file->path);
            return -1;
        }
        if (ZSTD_isError(left)) {
            error_set(err, EXIT_DATA,
                      "%s: compressed with zstd, and damaged near byte %lld: %s; copy it again",
                      stream->file->path, (long long)at, ZSTD_getErrorName(left));
            return -1;
        }
        decompression->between = left == 0;
        if (ended && out.pos == 0 && !decompression->between) {
            error_set(err, EXIT_DATA,
                      "%s: compressed with zstd, it ends at byte %lld in the middle of its "
                      "content; it is cut off: copy it again",
                      stream->file->path, (long long)at);
            return -1;
        }
    }
    return (int64_t)out.pos;
}

static bool open_zstd(DataContent *content, const DataPlace *place, Error *err) {
    Decompression *decompression = calloc(1, sizeof *decompression);
    CHECK_MEMORY(decompression, "no memory for zstd");
    decompression->zstd = ZSTD_createDStream();
    CHECK_MEMORY(decompression->zstd, "no memory for zstd");
    ByteStream stream = {.file = place->file, .state = decompression, .read = read_decompressed};
    bool ok = compressed_text_open(content, place, &stream, "zstd -d", err);
    ZSTD_freeDStream(decompression->zstd);
    free(decompression);
    return ok;
}

const FileFormat ZSTD_TEXT = {
    .name = "text compressed with zstd",
    .kind = CONTENT_TEXT,
    .recognise = recognise,
    .open = open_zstd,
    .fix = "token numbers are not read compressed, unpack them first: zstd -d FILE",
};
