#include "worker/generation/text_stream.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check.h"

static void show(TextStream *stream, size_t end) {
    size_t bytes = end > stream->shown ? end - stream->shown : 0;
    if (stream->out && bytes > 0) {
        char *whole = malloc(bytes + STREAM_ROOM);
        CHECK_MEMORY(whole, "no memory for a text of %zu bytes", bytes);
        bytes =
            character_stream_add(&stream->characters, stream->text + stream->shown, bytes, whole);
        fwrite(whole, 1, bytes, stream->out);
        fflush(stream->out);
        free(whole);
    }
    if (end > stream->shown) stream->shown = end;
}

// Where the first stop string begins that the text has come to with its bytes from `first` on, or
// SIZE_MAX.
static size_t find_stop(const TextStream *stream, size_t first) {
    size_t found = SIZE_MAX;
    for (int i = 0; i < stream->stop_count; i++) {
        size_t length = strlen(stream->stops[i]);
        size_t from = first >= length ? first - length + 1 : 0;
        const char *at =
            memmem(stream->text + from, stream->bytes - from, stream->stops[i], length);
        if (at && (size_t)(at - stream->text) < found) found = (size_t)(at - stream->text);
    }
    return found;
}

// Bytes at the end of the text that begin a stop string.
static size_t begun_stop(const TextStream *stream) {
    size_t longest = 0;
    for (int i = 0; i < stream->stop_count; i++) {
        size_t length = strlen(stream->stops[i]) - 1;
        if (length > stream->bytes) length = stream->bytes;
        for (; length > longest; length--)
            if (memcmp(stream->text + stream->bytes - length, stream->stops[i], length) == 0)
                longest = length;
    }
    return longest;
}

bool text_stream_add(TextStream *stream, const char *bytes, size_t count) {
    size_t before = stream->bytes;
    if (stream->stopped) return false;
    if (before + count > stream->room) {
        stream->room = 2 * (before + count);
        char *text = realloc(stream->text, stream->room);
        CHECK_MEMORY(text, "no memory for a text of %zu bytes", stream->room);
        stream->text = text;
    }
    memcpy(stream->text + before, bytes, count);
    stream->bytes += count;
    size_t stop = find_stop(stream, before);
    if (stop != SIZE_MAX) {
        stream->bytes = stop;
        stream->stopped = true;
        show(stream, stop);
        return false;
    }
    show(stream, stream->bytes - begun_stop(stream));
    return true;
}

void text_stream_show_rest(TextStream *stream) {
    char rest[STREAM_ROOM];
    show(stream, stream->bytes);
    size_t bytes = character_stream_end(&stream->characters, rest);
    if (stream->out) fwrite(rest, 1, bytes, stream->out);
}

void text_stream_clear(TextStream *stream) {
    stream->bytes = stream->shown = 0;
    stream->stopped = false;
}

void text_stream_free(TextStream *stream) {
    free(stream->text);
    *stream = (TextStream){0};
}
