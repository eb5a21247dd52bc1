#include "worker/data/compressed_text.h"

#include <stdlib.h>
#include <string.h>

#include "worker/data/json_lines.h"

enum { HEAD_BYTES = SAMPLE_PIECE_BYTES };

// A stream whose first bytes were looked at.
typedef struct Beheaded {
    ByteStream *rest;
    size_t at, bytes;
    uint8_t head[HEAD_BYTES];
} Beheaded;

static int64_t read_behind_head(ByteStream *stream, void *buffer, size_t room, Error *err) {
    Beheaded *beheaded = stream->state;
    size_t left = beheaded->bytes - beheaded->at, some = left < room ? left : room;
    stream->taken = beheaded->rest->taken;
    if (some == 0) return byte_stream_read(beheaded->rest, buffer, room, err);
    memcpy(buffer, beheaded->head + beheaded->at, some);
    beheaded->at += some;
    return (int64_t)some;
}

static bool look_at_head(Beheaded *beheaded, Error *err) {
    int64_t got = 1;
    while (got > 0 && beheaded->bytes < HEAD_BYTES) {
        got = byte_stream_read(beheaded->rest, beheaded->head + beheaded->bytes,
                               HEAD_BYTES - beheaded->bytes, err);
        if (got > 0) beheaded->bytes += (size_t)got;
    }
    return got >= 0;
}

// What is not text is not read compressed.
static bool check_text(const FileReader *text, const DataPlace *place, const char *unpack,
                       Error *err) {
    if (text->bytes == 0)
        return error_set(err, EXIT_DATA, "%s: its content is empty; prepare the data again",
                         place->path);
    ContentSample *sample = content_sample_read(text, err);
    if (!sample) return false;
    bool binary = content_is_binary(sample);
    free(sample);
    return !binary || error_set(err, EXIT_DATA,
                                "%s: binary data, compressed; only text and JSON lines are read "
                                "compressed, so unpack it first: %s FILE",
                                place->path, unpack);
}

bool compressed_text_open(DataContent *content, const DataPlace *place, ByteStream *stream,
                          const char *unpack, Error *err) {
    stream->most = place->rules->most_bytes;
    Beheaded *beheaded = calloc(1, sizeof *beheaded);
    CHECK_MEMORY(beheaded, "no memory for a look at %s", place->path);
    beheaded->rest = stream;
    ExpandedText text = {.file = {.fd = -1}};
    bool ok = look_at_head(beheaded, err) && expanded_text_begin(&text, place->file, err);
    bool ends = beheaded->bytes < HEAD_BYTES;
    ByteStream whole = {
        .file = place->file, .most = stream->most, .state = beheaded, .read = read_behind_head};
    if (ok && json_lines_begin(beheaded->head, beheaded->bytes, ends))
        ok = json_lines_write(&text, &whole, place->rules, &content->documents, err);
    else if (ok)
        ok = expanded_text_write_all(&text, &whole, err) &&
             check_text(&text.file, place, unpack, err);
    free(beheaded);
    if (!ok) {
        file_reader_close(&text.file);
        return false;
    }
    file_reader_close(&content->file);
    content->file = text.file;
    return true;
}
