#include "worker/generation/input.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/data/file_reader.h"
#include "worker/run/signals.h"

enum { MOST_BYTES = 1 << 26, POLL_MS = 100 };

// One more piece of standard input, or its end. The signals are another thread's, so that none of
// them ends a read. False with exit 75 or 3.
static bool read_more(InputLines *lines, Error *err) {
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    while (poll(&in, 1, POLL_MS) <= 0) {
        int number = signals_received();
        if (number) return error_set(err, EXIT_REQUEUE, "stopped by %s", signal_name(number));
    }
    if (lines->count + 4096 > lines->room) {
        lines->room = 2 * lines->room + 8192;
        char *bytes = realloc(lines->bytes, lines->room);
        CHECK_MEMORY(bytes, "no memory for %zu bytes of input", lines->room);
        lines->bytes = bytes;
    }
    ssize_t got = read(STDIN_FILENO, lines->bytes + lines->count, lines->room - lines->count - 1);
    if (got < 0 && errno != EINTR)
        return error_set(err, EXIT_DATA, "standard input: %s", strerror(errno));
    if (got > 0) lines->count += (size_t)got;
    lines->ended = got == 0;
    lines->bytes[lines->count] = '\0';
    return lines->count <= MOST_BYTES ||
           error_set(err, EXIT_DATA, "standard input: more than %d MiB of text", MOST_BYTES >> 20);
}

static bool read_standard_input(char **text, size_t *bytes, Error *err) {
    InputLines lines = {0};
    while (!lines.ended)
        if (!read_more(&lines, err)) return input_lines_free(&lines), false;
    *text = lines.bytes;
    *bytes = lines.count;
    return true;
}

static bool read_file(const char *path, char **text, size_t *bytes, Error *err) {
    FileReader file;
    if (!file_reader_open(&file, path, err)) return false;
    *bytes = (size_t)file.bytes;
    bool ok = file.bytes <= MOST_BYTES ||
              error_set(err, EXIT_DATA, "%s: more than %d MiB of text", path, MOST_BYTES >> 20);
    if (ok) {
        *text = calloc(1, *bytes + 1);
        CHECK_MEMORY(*text, "no memory for %zu bytes of text", *bytes);
        ok = file_reader_read(&file, 0, *bytes, *text, err);
    }
    file_reader_close(&file);
    return ok;
}

bool input_read_all(const char *path, char **text, Error *err) {
    size_t bytes = 0;
    bool standard = strcmp(path, "-") == 0;
    *text = NULL;
    bool ok =
        standard ? read_standard_input(text, &bytes, err) : read_file(path, text, &bytes, err);
    if (ok && strlen(*text) != bytes)
        ok = error_set(err, EXIT_DATA, "%s: byte %zu is NUL, so that this is no text",
                       standard ? "standard input" : path, strlen(*text));
    if (!ok) free(*text), *text = NULL;
    return ok;
}

const char *input_next_line(InputLines *lines, Error *err) {
    lines->count -= lines->taken;
    if (lines->bytes) memmove(lines->bytes, lines->bytes + lines->taken, lines->count + 1);
    lines->taken = 0;
    char *end = NULL;
    while (!(end = lines->bytes ? memchr(lines->bytes, '\n', lines->count) : NULL) && !lines->ended)
        if (!read_more(lines, err)) return NULL;
    if (lines->count == 0) return NULL;
    lines->taken = end ? (size_t)(end - lines->bytes) + 1 : lines->count;
    if (end) *end = '\0';
    return lines->bytes;
}

void input_lines_free(InputLines *lines) {
    free(lines->bytes);
    *lines = (InputLines){0};
}
