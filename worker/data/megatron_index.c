// Token numbers of Megatron: NAME.bin has the numbers, NAME.idx beside it how wide they are, the
// sequences and the documents. Either file may be named, or NAME alone, as Megatron has it.
//
//   "MMIDIDX\0\0"  u64 1  u8 type  u64 sequences  u64 documents + 1
//   i32 length[sequences]  i64 byte[sequences]  i64 first_sequence[documents + 1]
//   i8 mode[sequences], where there are any
//
// Source: NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py. What its builder writes
// lies without gaps in the order of the index, and nothing else is read.
#include "worker/data/megatron_index.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "worker/data/data_content.h"

enum { HEADER_BYTES = 34, MAGIC_BYTES = 9, PIECE = 1 << 14 };

// By their codes; what has no bytes is no integer.
static const struct {
    const char *name;
    TokenType type;
} TYPES[] = {
    [1] = {"uint8", {1, false}},   [2] = {"int8", {1, true}},    [3] = {"int16", {2, true}},
    [4] = {"int32", {4, true}},    [5] = {"int64", {8, true}},   [6] = {"float64", {0, false}},
    [7] = {"float32", {0, false}}, [8] = {"uint16", {2, false}},
};
enum { TYPE_COUNT = sizeof TYPES / sizeof *TYPES };

// NAME of NAME.bin, NAME.idx and NAME, with another ending.
static void name_beside(const char *path, const char *ending, char beside[CONFIG_PATH_BYTES]) {
    size_t length = strlen(path);
    if (length > 4 &&
        (strcmp(path + length - 4, ".bin") == 0 || strcmp(path + length - 4, ".idx") == 0))
        length -= 4;
    if (snprintf(beside, CONFIG_PATH_BYTES, "%.*s%s", (int)length, path, ending) >=
        CONFIG_PATH_BYTES)
        beside[0] = '\0';
}

static bool begins_as_index(const char *path) {
    struct stat status;
    Error ignored = {0};
    uint8_t magic[MAGIC_BYTES];
    if (!path[0] || stat(path, &status) != 0 || !S_ISREG(status.st_mode)) return false;
    FileReader file;
    bool is = file_reader_open(&file, path, &ignored) && file.bytes >= MAGIC_BYTES &&
              file_reader_read(&file, 0, sizeof magic, magic, &ignored) &&
              memcmp(magic, "MMIDIDX\0\0", sizeof magic) == 0;
    file_reader_close(&file);
    return is;
}

static bool recognise(const DataPlace *place) {
    char index[CONFIG_PATH_BYTES];
    name_beside(place->path, ".idx", index);
    return begins_as_index(index);
}

// ---- the index ----------------------------------------------------------------------------------

typedef struct Index {
    FileReader file;
    TokenType type;
    int64_t sequences, documents;
} Index;

static bool read_header(Index *index, Error *err) {
    uint8_t head[HEADER_BYTES];
    const char *path = index->file.path;
    if (index->file.bytes < HEADER_BYTES)
        return error_set(
            err, EXIT_DATA,
            "%s: %lld bytes, but the header of Megatron's index has %d; it is cut off: "
            "write it again",
            path, (long long)index->file.bytes, (int)HEADER_BYTES);
    if (!file_reader_read(&index->file, 0, sizeof head, head, err)) return false;
    uint64_t version = little_endian(head + 9, 8), sequences = little_endian(head + 18, 8),
             documents = little_endian(head + 26, 8);
    int code = head[17];
    if (version != 1)
        return error_set(err, EXIT_DATA,
                         "%s: Megatron's index of version %llu, but version 1 is known; write it "
                         "again with Megatron's tools/preprocess_data.py",
                         path, (unsigned long long)version);
    if (code >= TYPE_COUNT || TYPES[code].type.bytes == 0)
        return error_set(err, EXIT_DATA,
                         "%s: Megatron's index of numbers of type %d (%s), but token numbers are "
                         "integers; name the index of tokens",
                         path, code,
                         code < TYPE_COUNT && TYPES[code].name ? TYPES[code].name : "unknown");
    uint64_t bytes = (uint64_t)index->file.bytes, most = bytes / 8; // so that nothing overflows
    uint64_t wanted = HEADER_BYTES + 12 * sequences + 8 * documents;
    if (sequences > most || documents > most || documents < 1 ||
        (wanted != bytes && wanted + sequences != bytes))
        return error_set(
            err, EXIT_DATA,
            "%s: %llu sequences and %llu starts of documents need %llu bytes, but it has %llu; "
            "it is cut off or damaged: write it again",
            path, (unsigned long long)sequences, (unsigned long long)documents,
            (unsigned long long)wanted, (unsigned long long)bytes);
    index->type = TYPES[code].type;
    index->sequences = (int64_t)sequences;
    index->documents = (int64_t)documents - 1;
    return true;
}

// Sequences follow each other from the first byte to the last: *tokens. starts: the first token of
// each and, last, all tokens; may be NULL.
static bool check_sequences(const Index *index, const FileReader *numbers, int64_t *starts,
                            int64_t *tokens, Error *err) {
    int32_t *lengths = malloc(PIECE * sizeof *lengths);
    int64_t *pointers = malloc(PIECE * sizeof *pointers);
    CHECK_MEMORY(lengths && pointers, "no memory for a piece of an index");
    int64_t width = index->type.bytes, at = 0;
    bool ok = true;
    for (int64_t done = 0; ok && done < index->sequences; done += PIECE) {
        int64_t n = index->sequences - done < PIECE ? index->sequences - done : PIECE;
        ok = file_reader_read(&index->file, HEADER_BYTES + 4 * done, (size_t)n * 4, lengths, err) &&
             file_reader_read(&index->file, HEADER_BYTES + 4 * index->sequences + 8 * done,
                              (size_t)n * 8, pointers, err);
        for (int64_t i = 0; ok && i < n; i++) {
            if (lengths[i] < 0 || pointers[i] != at * width ||
                lengths[i] > numbers->bytes / width - at)
                ok = error_set(err, EXIT_DATA,
                               "%s: sequence %lld has %d tokens from byte %lld, but those before "
                               "it end at byte %lld of the %lld of %s; the two files do not belong "
                               "together: write them again",
                               index->file.path, (long long)(done + i), lengths[i],
                               (long long)pointers[i], (long long)(at * width),
                               (long long)numbers->bytes, numbers->path);
            at += lengths[i];
            if (starts) starts[done + i + 1] = at;
        }
    }
    free(lengths);
    free(pointers);
    if (ok && at * width != numbers->bytes)
        ok = error_set(err, EXIT_DATA,
                       "%s: %lld tokens of %lld bytes, but %s has %lld bytes; the two files do not "
                       "belong together: write them again",
                       index->file.path, (long long)at, (long long)width, numbers->path,
                       (long long)numbers->bytes);
    *tokens = at;
    return ok;
}

// The numbers of their first sequences ascend from 0 to all sequences. sequences: their first
// tokens and, last, all tokens; starts: of documents. Both may be NULL.
static bool check_documents(const Index *index, const int64_t *sequences, int64_t *starts,
                            Error *err) {
    int64_t *first = malloc(PIECE * sizeof *first), before = 0;
    CHECK_MEMORY(first, "no memory for a piece of an index");
    int64_t begin = HEADER_BYTES + 12 * index->sequences;
    bool ok = true;
    for (int64_t done = 0; ok && done <= index->documents; done += PIECE) {
        int64_t n = index->documents + 1 - done < PIECE ? index->documents + 1 - done : PIECE;
        ok = file_reader_read(&index->file, begin + 8 * done, (size_t)n * 8, first, err);
        for (int64_t i = 0; ok && i < n; i++) {
            bool last = done + i == index->documents;
            if (first[i] < before || first[i] > index->sequences || (done + i == 0 && first[i]) ||
                (last && first[i] != index->sequences))
                ok = error_set(err, EXIT_DATA,
                               "%s: document %lld begins with sequence %lld, the one before it "
                               "with %lld, and there are %lld; it is damaged: write it again",
                               index->file.path, (long long)(done + i), (long long)first[i],
                               (long long)before, (long long)index->sequences);
            else if (starts && !last)
                starts[done + i] = sequences[first[i]];
            before = first[i];
        }
    }
    free(first);
    return ok;
}

static int64_t *new_starts(int64_t count) {
    int64_t *starts = calloc((size_t)count + 1, sizeof *starts);
    CHECK_MEMORY(starts, "no memory for the starts of %lld documents", (long long)count);
    return starts;
}

static bool read_index(DataContent *content, Index *index, bool documents, Error *err) {
    if (!read_header(index, err)) return false;
    int64_t *sequences = documents ? new_starts(index->sequences) : NULL;
    int64_t *starts = documents ? new_starts(index->documents) : NULL;
    bool ok = check_sequences(index, &content->file, sequences, &content->tokens, err) &&
              check_documents(index, sequences, starts, err);
    free(sequences);
    content->type = index->type;
    content->documents = (DocumentStarts){.count = index->documents, .starts = starts};
    return ok;
}

static bool open_index(DataContent *content, const DataPlace *place, Error *err) {
    char numbers[CONFIG_PATH_BYTES], beside[CONFIG_PATH_BYTES];
    Index index = {.file = {.fd = -1}};
    name_beside(place->path, ".bin", numbers);
    name_beside(place->path, ".idx", beside);
    bool ok = file_reader_open(&content->file, numbers, err) &&
              file_reader_open(&index.file, beside, err) &&
              read_index(content, &index, place->rules->documents, err);
    file_reader_close(&index.file);
    return ok;
}

// ---- writing ------------------------------------------------------------------------------------

void megatron_index_path(const char *numbers, char index[CONFIG_PATH_BYTES]) {
    name_beside(numbers, ".idx", index);
}

// A document's length, byte of its first token, or its number.
static int64_t index_entry(const DocumentStarts *documents, int part, int width, int64_t tokens,
                           int64_t i) {
    int64_t next = i + 1 < documents->count ? documents->starts[i + 1] : tokens;
    return part == 0 ? next - documents->starts[i] : part == 1 ? documents->starts[i] * width : i;
}

static bool write_entries(int fd, const DocumentStarts *documents, int width, int64_t tokens,
                          Error *err) {
    uint8_t piece[PIECE];
    size_t used = 0;
    bool ok = true;
    for (int part = 0; ok && part < 3; part++)
        for (int64_t i = 0; ok && i < documents->count + (part == 2); i++) {
            int64_t entry = index_entry(documents, part, width, tokens, i);
            size_t bytes = part == 0 ? 4 : 8;
            if (part == 0 && entry > INT32_MAX)
                return error_set(err, EXIT_DATA,
                                 "a document of %lld tokens is longer than an index can count; "
                                 "set data.document_end to what parts documents",
                                 (long long)entry);
            memcpy(piece + used, &entry, bytes); // little-endian, as all that this runs on
            used += bytes;
            if (used + 8 <= sizeof piece) continue;
            ok = file_write(fd, piece, used, NULL, err);
            used = 0;
        }
    return ok && file_write(fd, piece, used, NULL, err);
}

bool megatron_index_write(const char *numbers, const DocumentStarts *documents, int width,
                          int64_t tokens, Error *err) {
    char path[CONFIG_PATH_BYTES], temporary[PATH_MAX];
    megatron_index_path(numbers, path);
    snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid());
    Error ignored;
    file_remove(temporary, &ignored);
    int fd = file_open(temporary, O_WRONLY | O_CREAT, err);
    if (fd < 0) return false;
    uint8_t head[HEADER_BYTES] = "MMIDIDX";
    int64_t version = 1, counts[2] = {documents->count, documents->count + 1};
    memcpy(head + MAGIC_BYTES, &version, 8);
    head[MAGIC_BYTES + 8] = width == 2 ? 8 : 4;
    memcpy(head + HEADER_BYTES - 16, counts, 16);
    bool ok = (file_write(fd, head, sizeof head, NULL, err) &&
               write_entries(fd, documents, width, tokens, err) && file_sync(fd, err)) ||
              error_prefix(err, "%s", temporary);
    if (close(fd) != 0 && ok)
        ok = error_set(err, EXIT_IO, "%s: cannot write: %s", temporary, strerror(errno));
    ok = ok && file_rename(temporary, path, err);
    if (!ok) file_remove(temporary, &ignored);
    return ok;
}

const FileFormat MEGATRON_INDEX = {
    .name = "token numbers of Megatron (.bin and .idx)",
    .kind = CONTENT_NUMBERS,
    .recognise = recognise,
    .open = open_index,
    .by_path = true,
};
