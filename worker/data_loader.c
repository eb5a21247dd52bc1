#include "worker/data_loader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "kernels/rng.h"
#include "worker/data_format.h"

struct DataFile {
    FileReader source;
    DataFormat format;
    int64_t vocab_size;
    bool fixed_vocabulary; // a checkpoint's
    int64_t tokens;
    const CharacterText *characters; // DATA_CHARACTERS: all tokens; otherwise NULL
    CharacterText own_characters;    // unless they are the vocabulary's
    double bytes_per_token;
};

enum {
    READ_BYTES = 1 << 14,              // a piece of a window, on the stack
    SCAN_BYTES = 1 << 17,              // a piece of the file while it is validated
    IDENTITY_BYTES = 64 * 1024 * 1024, // hashed of a large file
    FEISTEL_ROUNDS = 8,
};

static int64_t token_bytes(DataFormat format) {
    return data_format_facts(format)->token_bytes;
}

// ---- from bytes to tokens -----------------------------------------------------------------------

static int64_t raw_token(const void *raw, DataFormat format, int64_t i) {
    switch (format) {
    case DATA_UINT16:
        return ((const uint16_t *)raw)[i];
    case DATA_UINT32:
        return ((const uint32_t *)raw)[i];
    case DATA_AUTO:       // never
    case DATA_CHARACTERS: // read by character_text.c
    case DATA_BYTES:
        break;
    }
    return ((const uint8_t *)raw)[i];
}

static bool token_error(const DataFile *file, int64_t position, int64_t token, Error *err) {
    char advice[512];
    data_format_advise(&file->source, file->format, file->vocab_size, file->fixed_vocabulary, token,
                       advice);
    return error_set(
        err, EXIT_DATA, "%s: token %lld at byte %lld is outside the vocabulary of %lld; %s",
        file->source.path, (long long)token, (long long)(position * token_bytes(file->format)),
        (long long)file->vocab_size, advice);
}

// Tokens [first, first + count) of the file, checked against the vocabulary.
static bool read_tokens(const DataFile *file, int64_t first, int64_t count, int32_t *tokens,
                        Error *err) {
    if (first < 0 || count > file->tokens - first)
        return error_set(err, EXIT_DATA, "%s: tokens %lld to %lld needed but it has %lld",
                         file->source.path, (long long)first, (long long)(first + count),
                         (long long)file->tokens);
    if (file->characters) {
        for (int64_t i = 0; i < count; i++)
            tokens[i] = character_text_token(file->characters, first + i);
        return true;
    }
    uint32_t raw[READ_BYTES / sizeof(uint32_t)];
    int64_t width = token_bytes(file->format), room = READ_BYTES / width;
    for (int64_t done = 0; done < count;) {
        int64_t n = count - done < room ? count - done : room;
        if (!file_reader_read(&file->source, (first + done) * width, (size_t)(n * width), raw, err))
            return false;
        for (int64_t i = 0; i < n; i++, done++) {
            int64_t token = raw_token(raw, file->format, i);
            if (token >= file->vocab_size) return token_error(file, first + done, token, err);
            tokens[done] = (int32_t)token;
        }
    }
    return true;
}

// ---- validation ---------------------------------------------------------------------------------

static uint32_t largest_token(const void *raw, DataFormat format, int64_t n) {
    uint32_t largest = 0;
    if (format == DATA_UINT32) {
        const uint32_t *x = raw;
        for (int64_t i = 0; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    } else {
        const uint16_t *x = raw;
        uint16_t most = 0; // in its own width, for twice the vector lanes
        for (int64_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
        largest = most;
    }
    return largest;
}

// Checks tokens [first, end): one maximum a piece, and a search only in the piece that is wrong.
static bool scan_tokens(const DataFile *file, int64_t first, int64_t end, Error *err) {
    void *raw = malloc(SCAN_BYTES);
    CHECK_MEMORY(raw, "no memory for %d bytes", SCAN_BYTES);
    int64_t width = token_bytes(file->format), room = SCAN_BYTES / width;
    bool ok = true;
    for (int64_t at = first; ok && at < end; at += room) {
        int64_t n = end - at < room ? end - at : room;
        ok = file_reader_read(&file->source, at * width, (size_t)(n * width), raw, err);
        if (!ok || largest_token(raw, file->format, n) < file->vocab_size) continue;
        int64_t i = 0;
        while (raw_token(raw, file->format, i) < file->vocab_size) i++;
        ok = token_error(file, at + i, raw_token(raw, file->format, i), err);
    }
    free(raw);
    return ok;
}

static bool read_characters(DataFile *file, const Vocabulary *vocabulary, Error *err) {
    const CharacterText *known = &vocabulary->text;
    file->characters = known;
    if (strcmp(known->path, file->source.path) != 0 || known->bytes != file->source.bytes) {
        if (!character_text_read(&file->own_characters, &file->source, vocabulary->code_points,
                                 vocabulary->size, err))
            return false;
        file->characters = &file->own_characters;
    }
    file->tokens = file->characters->count;
    file->bytes_per_token = (double)file->source.bytes / (double)file->tokens;
    return true;
}

static bool check_tokens(DataFile *file, int reader, int readers, Error *err) {
    int64_t bytes = file->source.bytes, width = token_bytes(file->format);
    if (bytes % width != 0)
        return error_set(err, EXIT_DATA, "%s: %lld bytes are not whole %lld-byte tokens; %s",
                         file->source.path, (long long)bytes, (long long)width,
                         width == 4 && bytes % 2 == 0
                             ? "set data.format=uint16 if they have two bytes, or write the file "
                               "again: it is cut off"
                             : "write the file again, it is cut off, or check data.format");
    file->tokens = bytes / width;
    if (file->format == DATA_BYTES) return true; // every byte is a token
    int64_t first = file->tokens / readers * reader;
    int64_t end = reader == readers - 1 ? file->tokens : first + file->tokens / readers;
    return scan_tokens(file, first, end, err);
}

// ---- the file -----------------------------------------------------------------------------------

bool data_file_open(DataFile **file, const char *path, const Vocabulary *vocabulary, int reader,
                    int readers, Error *err) {
    DataFile *f = calloc(1, sizeof *f);
    CHECK_MEMORY(f, "no memory for a data file");
    f->format = vocabulary->format;
    f->vocab_size = vocabulary->size;
    f->fixed_vocabulary = vocabulary->fixed;
    f->bytes_per_token = vocabulary->bytes_per_token;
    bool ok = file_reader_open(&f->source, path, err) &&
              (!vocabulary->check_content || data_format_check(&f->source, f->format, err)) &&
              (f->format == DATA_CHARACTERS ? read_characters(f, vocabulary, err)
                                            : check_tokens(f, reader, readers, err));
    if (ok)
        *file = f;
    else
        data_file_close(f);
    return ok;
}

void data_file_close(DataFile *file) {
    if (!file) return;
    file_reader_close(&file->source);
    character_text_free(&file->own_characters);
    free(file);
}

int64_t data_file_tokens(const DataFile *file) {
    return file->tokens;
}
double data_file_bytes_per_token(const DataFile *file) {
    return file->bytes_per_token;
}

bool data_file_identity(const DataFile *file, char identity[40], Error *err) {
    XXH3_state_t *state = XXH3_createState();
    void *piece = malloc(SCAN_BYTES);
    CHECK_MEMORY(state && piece, "no memory for %d bytes", SCAN_BYTES);
    XXH3_128bits_reset(state);
    int64_t size = file->source.bytes;
    XXH3_128bits_update(state, &size, sizeof size);

    // Head, middle and tail; a file that fits is hashed whole, as one run.
    int64_t runs = size > IDENTITY_BYTES ? 3 : 1;
    int64_t run_bytes = runs == 3 ? IDENTITY_BYTES / 3 : size;
    bool ok = true;
    for (int64_t run = 0; ok && run < runs; run++) {
        int64_t start = (size - run_bytes) * run / 2;
        for (int64_t done = 0; ok && done < run_bytes; done += SCAN_BYTES) {
            size_t n = (size_t)(run_bytes - done < SCAN_BYTES ? run_bytes - done : SCAN_BYTES);
            ok = file_reader_read(&file->source, start + done, n, piece, err);
            if (ok) XXH3_128bits_update(state, piece, n);
        }
    }
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    if (ok)
        snprintf(identity, 40, "%016llx%016llx", (unsigned long long)hash.high64,
                 (unsigned long long)hash.low64);
    free(piece);
    XXH3_freeState(state);
    return ok;
}

// ---- windows ------------------------------------------------------------------------------------

// T tokens are set aside so that an epoch may start at any offset in [0, T) and the last target
// still exists.
int64_t data_file_windows(const DataFile *file, int64_t T) {
    return file->tokens < T ? 0 : (file->tokens - T) / T;
}

DataCursor data_cursor_advance(DataCursor cursor, int64_t n, int64_t windows) {
    int64_t index = cursor.index + n;
    return (DataCursor){cursor.epoch + index / windows, index % windows};
}

// The place of `index` in a random order of [0, n): a Feistel network over the smallest even number
// of bits that holds n, walked until it lands below n again. A bijection without state: nothing is
// shuffled or stored.
static int64_t permute(int64_t index, int64_t n, uint64_t seed, int64_t epoch) {
    int half = 0;
    while ((int64_t)1 << (2 * half) < n) half++;
    uint32_t mask = (uint32_t)(((uint64_t)1 << half) - 1);
    do {
        uint32_t left = (uint32_t)(index >> half), right = (uint32_t)index & mask;
        for (uint32_t round = 0; round < FEISTEL_ROUNDS; round++) {
            RngStream stream = {seed, RNG_DATA_ORDER, (uint32_t)epoch, round};
            uint32_t next = left ^ (rng_u32(stream, right) & mask);
            left = right;
            right = next;
        }
        index = (int64_t)left << half | right;
    } while (index >= n);
    return index;
}

// Where an epoch starts to cut windows. Round number FEISTEL_ROUNDS is one that no permutation
// uses.
static int64_t epoch_offset(int64_t T, uint64_t seed, int64_t epoch) {
    return rng_u32((RngStream){seed, RNG_DATA_ORDER, (uint32_t)epoch, FEISTEL_ROUNDS}, 0) % T;
}

static bool read_window(const DataFile *file, int64_t first, int64_t T, int32_t *inputs,
                        int32_t *targets, Error *err) {
    if (!read_tokens(file, first, T, inputs, err)) return false;
    for (int64_t i = 1; i < T; i++) targets[i - 1] = inputs[i];
    return read_tokens(file, first + T, 1, targets + T - 1, err);
}

bool data_file_training_window(DataFile *file, uint64_t seed, DataCursor cursor, int64_t n,
                               int64_t T, int32_t *inputs, int32_t *targets, Error *err) {
    int64_t windows = data_file_windows(file, T);
    if (windows == 0)
        return error_set(err, EXIT_DATA,
                         "%s: %lld tokens are too few for a context of %lld, which needs %lld; "
                         "lower train.context or use more text",
                         file->source.path, (long long)file->tokens, (long long)T,
                         (long long)(2 * T));
    // From a checkpoint, where it may be anything. An index past the epoch is legal: the context
    // may have become longer.
    if (cursor.epoch < 0 || cursor.index < 0 || cursor.epoch > INT64_MAX / 4 ||
        cursor.index > INT64_MAX / 4)
        return error_set(err, EXIT_CHECKPOINT,
                         "%s: window %lld of epoch %lld does not exist; the checkpoint's place in "
                         "the data is damaged, resume from another one",
                         file->source.path, (long long)cursor.index, (long long)cursor.epoch);
    DataCursor at = data_cursor_advance(cursor, n, windows);
    int64_t window = permute(at.index, windows, seed, at.epoch);
    return read_window(file, epoch_offset(T, seed, at.epoch) + window * T, T, inputs, targets, err);
}

int64_t data_file_evaluation_windows(const DataFile *file, int64_t T) {
    return (file->tokens - 1 + T - 1) / T;
}

bool data_file_evaluation_window(DataFile *file, int64_t index, int64_t T, int32_t *inputs,
                                 int32_t *targets, int64_t *count, Error *err) {
    int64_t first = index * T, left = file->tokens - 1 - first;
    *count = left < 0 ? 0 : left < T ? left : T;
    for (int64_t i = *count; i < T; i++) inputs[i] = targets[i] = 0;
    return *count == 0 || read_window(file, first, *count, inputs, targets, err);
}
