// A text that is shown while it is written: whole characters only, and nothing that may turn out to
// be the beginning of a stop string.
#ifndef MOETRAIN_WORKER_GENERATION_TEXT_STREAM_H
#define MOETRAIN_WORKER_GENERATION_TEXT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "worker/tokenizer/character_stream.h"

typedef struct TextStream {
    FILE *out;                // where it is shown; NULL: nowhere
    const char *const *stops; // strings before which the text ends, none of them empty
    int stop_count;
    char *text; // so far, without a NUL
    size_t bytes, room;
    size_t shown;               // bytes of it
    CharacterStream characters; // of what is shown: tokens may end within one
    bool stopped;               // at a stop string, before which the text now ends
} TextStream;

// One more token's bytes. False when the text has come to a stop string; no more is added then.
bool text_stream_add(TextStream *stream, const char *bytes, size_t count);
// Shows what was held back, and empties the text for another one.
void text_stream_show_rest(TextStream *stream);
void text_stream_clear(TextStream *stream);
void text_stream_free(TextStream *stream); // legal on a zeroed one

#endif
