// Text compressed with gzip, of one member or several (RFC 1952), by zlib.
#include <stdlib.h>

#include <zlib.h>

#include "worker/data/compressed_text.h"

enum { INPUT_BYTES = 1 << 16, GZIP_ONLY = 16 };

typedef struct Inflation {
    z_stream zlib;
    bool between; // two members, where the file may end
    uint8_t input[INPUT_BYTES];
} Inflation;

// Method deflate, no reserved flag, a level and a system that there are.
static bool recognise(const DataPlace *place) {
    const uint8_t *x = place->sample->content;
    return place->sample->head_bytes >= 10 && x[0] == 0x1F && x[1] == 0x8B && x[2] == 8 &&
           (x[3] & 0xE0) == 0 && (x[8] == 0 || x[8] == 2 || x[8] == 4) &&
           (x[9] <= 13 || x[9] == 255);
}

static bool refill(ByteStream *stream, Inflation *inflation, Error *err) {
    int64_t left = stream->file->bytes - stream->taken;
    size_t bytes = left < INPUT_BYTES ? (size_t)left : INPUT_BYTES;
    if (!file_reader_read(stream->file, stream->taken, bytes, inflation->input, err)) return false;
    stream->taken += (int64_t)bytes;
    inflation->zlib.next_in = inflation->input;
    inflation->zlib.avail_in = (uInt)bytes;
    return true;
}

static int64_t read_inflated(ByteStream *stream, void *buffer, size_t room, Error *err) {
    Inflation *inflation = stream->state;
    z_stream *zlib = &inflation->zlib;
    zlib->next_out = buffer;
    zlib->avail_out = (uInt)room;
    while (zlib->avail_out == room) {
        if (zlib->avail_in == 0 && stream->taken < stream->file->bytes &&
            !refill(stream, inflation, err))
            return -1;
        int64_t at = stream->taken - zlib->avail_in;
        if (zlib->avail_in == 0 && inflation->between) return 0;
        if (zlib->avail_in == 0) {
            error_set(err, EXIT_DATA,
                      "%s: compressed with gzip, it ends at byte %lld in the middle of its "
                      "content; it is cut off: copy it again",
                      stream->file->path, (long long)at);
            return -1;
        }
        if (inflation->between) CHECK(inflateReset(zlib) == Z_OK, "zlib: %s", zlib->msg);
        inflation->between = false;
        int code = inflate(zlib, Z_NO_FLUSH);
        inflation->between = code == Z_STREAM_END;
        if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR) {
            error_set(err, EXIT_DATA,
                      "%s: compressed with gzip, and damaged near byte %lld: %s; copy it again",
                      stream->file->path, (long long)at, zlib->msg ? zlib->msg : zError(code));
            return -1;
        }
    }
    return (int64_t)(room - zlib->avail_out);
}

static bool open_gzip(DataContent *content, const DataPlace *place, Error *err) {
    Inflation *inflation = calloc(1, sizeof *inflation);
    CHECK_MEMORY(inflation, "no memory for zlib");
    CHECK_MEMORY(inflateInit2(&inflation->zlib, MAX_WBITS + GZIP_ONLY) == Z_OK,
                 "no memory for zlib");
    ByteStream stream = {.file = place->file, .state = inflation, .read = read_inflated};
    bool ok = compressed_text_open(content, place, &stream, "gunzip", err);
    inflateEnd(&inflation->zlib);
    free(inflation);
    return ok;
}

const FileFormat GZIP_TEXT = {
    .name = "text compressed with gzip",
    .kind = CONTENT_TEXT,
    .recognise = recognise,
    .open = open_gzip,
    .fix = "token numbers are not read compressed, unpack them first: gunzip FILE",
};
