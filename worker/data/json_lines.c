#include "worker/data/json_lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

enum { FIRST_ROOM = 1 << 16 };

// ---- recognition --------------------------------------------------------------------------------

static size_t skip_space(const uint8_t *text, size_t at, size_t bytes) {
    while (at < bytes && text[at] && strchr(" \t\r", text[at])) at++;
    return at;
}

bool json_lines_begin(const uint8_t *head, size_t bytes, bool ends) {
    size_t at = skip_space(head, 0, bytes);
    if (at == bytes || head[at] != '{') return false;
    at = skip_space(head, at + 1, bytes);
    if (at == bytes || head[at] != '"') return false;
    for (at++; at < bytes && head[at] != '"' && head[at] != '\n'; at++) at += head[at] == '\\';
    if (at >= bytes || head[at] != '"') return false;
    at = skip_space(head, at + 1, bytes);
    if (at == bytes || head[at] != ':') return false;
    const uint8_t *feed = memchr(head, '\n', bytes);
    if (!feed && !ends) return true; // a long line
    size_t end = feed ? (size_t)(feed - head) : bytes;
    while (end > at && head[end - 1] && strchr(" \t\r", head[end - 1])) end--;
    return head[end - 1] == '}'; // otherwise one object over several lines
}

static bool recognise(const DataPlace *place) {
    const ContentSample *sample = place->sample;
    return json_lines_begin(sample->content, sample->head_bytes,
                            (int64_t)sample->head_bytes == sample->file_bytes);
}

// ---- one line -----------------------------------------------------------------------------------

typedef struct Lines {
    ExpandedText *text;
    ByteStream *stream;
    const ContentRules *rules;
    DocumentStarts *documents;
    int64_t number;               // of the line, from 1
    int64_t room;                 // of the starts
    char end[CONFIG_LABEL_BYTES]; // what stands behind each text; of 0 bytes: a line break
    int end_bytes;
} Lines;

static bool refuse_line(const Lines *lines, const char *what, Error *err) {
    return error_set(err, EXIT_DATA,
                     "%s: JSON lines, but line %lld %s; data.format=bytes would train on the file "
                     "as it is",
                     lines->stream->file->path, (long long)lines->number, what);
}

static bool refuse_field(const Lines *lines, json_t *object, const json_t *value, Error *err) {
    char what[400];
    const char *field = lines->rules->jsonl_field;
    size_t used = (size_t)snprintf(
        what, sizeof what, value ? "has no text in its field '%.60s'" : "has no field '%.60s'",
        field);
    const char *key, *before = "; its texts are ";
    json_t *other;
    json_object_foreach(object, key, other) {
        if (!json_is_string(other) || used + strlen(key) + 40 > sizeof what) continue;
        used += (size_t)snprintf(what + used, sizeof what - used, "%s'%s'", before, key);
        before = ", ";
    }
    snprintf(what + used, sizeof what - used, "; set data.jsonl_field");
    return refuse_line(lines, what, err);
}

static void add_start(Lines *lines) {
    if (lines->rules->documents)
        documents_add(lines->documents, lines->text->file.bytes, &lines->room);
    else
        lines->documents->count++;
}

static bool end_document(const Lines *lines, char last, Error *err) {
    if (lines->end_bytes > 0)
        return expanded_text_write(lines->text, lines->end, (size_t)lines->end_bytes, err);
    return last == '\n' || expanded_text_write(lines->text, "\n", 1, err);
}

static bool take_line(Lines *lines, const char *line, size_t bytes, Error *err) {
    lines->number++;
    if (skip_space((const uint8_t *)line, 0, bytes) == bytes) return true;
    json_error_t at;
    char what[300];
    json_t *object = json_loadb(line, bytes, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &at);
    if (!object) {
        snprintf(what, sizeof what, "is no JSON object: %.160s at its byte %d", at.text,
                 at.position);
        return refuse_line(lines, what, err);
    }
    const json_t *value = json_object_get(object, lines->rules->jsonl_field);
    bool ok = json_is_object(object) || refuse_line(lines, "is no object", err);
    ok = ok && (json_is_string(value) || refuse_field(lines, object, value, err));
    size_t length = ok ? json_string_length(value) : 0;
    if (length > 0) {
        add_start(lines);
        const char *text = json_string_value(value);
        ok = expanded_text_write(lines->text, text, length, err) &&
             end_document(lines, text[length - 1], err);
    }
    json_decref(object);
    return ok;
}

// ---- all lines ----------------------------------------------------------------------------------

bool json_lines_write(ExpandedText *text, ByteStream *stream, const ContentRules *rules,
                      DocumentStarts *documents, Error *err) {
    Lines lines = {.text = text, .stream = stream, .rules = rules, .documents = documents};
    lines.end_bytes = document_end_text(rules->document_end, lines.end);
    size_t room = FIRST_ROOM, held = 0; // of the line that has begun
    char *buffer = malloc(room);
    CHECK_MEMORY(buffer, "no memory for a line of %zu bytes", room);
    bool ok = true, ended = false;
    while (ok && !ended) {
        if (held == room) {
            room *= 2;
            buffer = realloc(buffer, room);
            CHECK_MEMORY(buffer, "no memory for a line of %zu bytes", room);
        }
        int64_t got = byte_stream_read(stream, buffer + held, room - held, err);
        ok = got >= 0;
        ended = got == 0;
        if (!ok) break;
        size_t begin = 0, all = held + (size_t)got, seen = held;
        char *feed;
        while (ok && (feed = memchr(buffer + seen, '\n', all - seen))) {
            size_t end = (size_t)(feed - buffer);
            ok = take_line(&lines, buffer + begin, end - begin, err);
            begin = seen = end + 1;
        }
        held = all - begin;
        memmove(buffer, buffer + begin, held);
        if (ok && ended && held > 0) ok = take_line(&lines, buffer, held, err);
    }
    free(buffer);
    if (ok && documents->count == 0)
        ok = error_set(err, EXIT_DATA, "%s: JSON lines without a text; prepare the data again",
                       stream->file->path);
    return ok;
}

static int64_t read_file(ByteStream *stream, void *buffer, size_t room, Error *err) {
    int64_t left = stream->file->bytes - stream->taken;
    size_t bytes = left < (int64_t)room ? (size_t)left : room;
    if (bytes == 0) return 0;
    if (!file_reader_read(stream->file, stream->taken, bytes, buffer, err)) return -1;
    stream->taken += (int64_t)bytes;
    return (int64_t)bytes;
}

static bool open_lines(DataContent *content, const DataPlace *place, Error *err) {
    ByteStream stream = {.file = place->file, .most = place->rules->most_bytes, .read = read_file};
    ExpandedText text;
    if (!expanded_text_begin(&text, place->file, err)) return false;
    if (!json_lines_write(&text, &stream, place->rules, &content->documents, err)) {
        file_reader_close(&text.file);
        return false;
    }
    file_reader_close(&content->file);
    content->file = text.file;
    return true;
}

const FileFormat JSON_LINES = {
    .name = "JSON lines",
    .kind = CONTENT_TEXT,
    .recognise = recognise,
    .open = open_lines,
};
