#include "worker/data/expanded_text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "checkpoint/file_io.h"

enum { PIECE_BYTES = 1 << 18 };

int64_t byte_stream_read(ByteStream *stream, void *buffer, size_t room, Error *err) {
    int64_t got = stream->read(stream, buffer, room, err);
    if (got > 0) stream->given += got;
    if (got <= 0 || stream->given <= stream->most) return got;
    error_set(err, EXIT_DATA,
              "%s: the first %lld of its %lld bytes expand to more than %lld MiB, and every rank "
              "holds the text in memory; raise data.expand_limit if this is right, or unpack "
              "it, or write its tokens to a file",
              stream->file->path, (long long)stream->taken, (long long)stream->file->bytes,
              (long long)(stream->most >> 20));
    return -1;
}

bool expanded_text_begin(ExpandedText *text, const FileReader *of, Error *err) {
    *text = (ExpandedText){.file = {.fd = memfd_create("text", MFD_CLOEXEC)}, .of = of};
    snprintf(text->file.path, sizeof text->file.path, "%s", of->path);
    return text->file.fd >= 0 ||
           error_set(err, EXIT_IO, "%s: no memory for its text: %s", of->path, strerror(errno));
}

bool expanded_text_write(ExpandedText *text, const void *data, size_t bytes, Error *err) {
    if (!file_write(text->file.fd, data, bytes, NULL, err))
        return error_prefix(err, "%s: no memory for its text", text->of->path);
    text->file.bytes += (int64_t)bytes;
    return true;
}

bool expanded_text_write_all(ExpandedText *text, ByteStream *stream, Error *err) {
    void *piece = malloc(PIECE_BYTES);
    CHECK_MEMORY(piece, "no memory for %d bytes", PIECE_BYTES);
    int64_t got;
    do {
        got = byte_stream_read(stream, piece, PIECE_BYTES, err);
        if (got > 0 && !expanded_text_write(text, piece, (size_t)got, err)) got = -1;
    } while (got > 0);
    free(piece);
    return got == 0;
}
