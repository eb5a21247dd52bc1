#include "worker/json_rows.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "worker/data/file_reader.h"

enum { MOST_BYTES = 1 << 30 };

static bool read_bytes(const char *path, char **text, int64_t *bytes, Error *err) {
    FileReader file;
    if (!file_reader_open(&file, path, err)) return false;
    bool ok = file.bytes <= MOST_BYTES ||
              error_set(err, EXIT_DATA, "%s: more than %d MiB", path, MOST_BYTES >> 20);
    if (ok) {
        *bytes = file.bytes;
        *text = malloc((size_t)file.bytes);
        CHECK_MEMORY(*text, "no memory for %lld bytes", (long long)file.bytes);
        ok = file_reader_read(&file, 0, (size_t)file.bytes, *text, err);
    }
    file_reader_close(&file);
    return ok;
}

// The bytes of rank 0's file on every rank. Collective over all ranks.
static bool share_bytes(const char *path, char **text, int64_t *bytes, Error *err) {
    bool ok = comm_rank() != 0 || read_bytes(path, text, bytes, err);
    if (!comm_follow(ok, err)) return false;
    broadcast(comm_world(), bytes, sizeof *bytes, 0);
    if (comm_rank() != 0) *text = malloc((size_t)*bytes);
    CHECK_MEMORY(*text, "no memory for %lld bytes", (long long)*bytes);
    broadcast(comm_world(), *text, (size_t)*bytes, 0);
    return true;
}

static bool is_blank(const char *line, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (!isspace((unsigned char)line[i])) return false;
    return true;
}

static bool add_row(JsonRows *rows, const char *text, size_t bytes, int64_t line, Error *err) {
    json_error_t wrong;
    json_t *object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &wrong);
    if (!json_is_object(object)) {
        if (object) json_decref(object), snprintf(wrong.text, sizeof wrong.text, "no object");
        return error_set(err, EXIT_DATA, "line %lld is no JSON object: %.160s", (long long)line,
                         wrong.text);
    }
    if ((rows->count & (rows->count - 1)) == 0) { // a power of two, or 0: full
        size_t room = rows->count > 0 ? 2 * (size_t)rows->count : 1;
        rows->rows = realloc(rows->rows, room * sizeof *rows->rows);
        rows->lines = realloc(rows->lines, room * sizeof *rows->lines);
        CHECK_MEMORY(rows->rows && rows->lines, "no memory for %zu lines", room);
    }
    rows->rows[rows->count] = object;
    rows->lines[rows->count++] = line;
    return true;
}

bool json_rows_read(JsonRows *rows, const char *path, Error *err) {
    char *text = NULL;
    int64_t bytes = 0, line = 1;
    *rows = (JsonRows){0};
    bool ok = share_bytes(path, &text, &bytes, err);
    for (const char *at = text, *end = text + bytes; ok && at < end; line++) {
        const char *next = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((next ? next : end) - at);
        if (!is_blank(at, length))
            ok = add_row(rows, at, length, line, err) || error_prefix(err, "%s", path);
        at += length + 1;
    }
    free(text);
    if (ok && rows->count == 0) ok = error_set(err, EXIT_DATA, "%s: holds no line", path);
    return ok;
}

void json_rows_free(JsonRows *rows) {
    for (int64_t i = 0; i < rows->count; i++) json_decref(rows->rows[i]);
    free(rows->rows);
    free(rows->lines);
    *rows = (JsonRows){0};
}
