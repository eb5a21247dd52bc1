#include "worker/data/token_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/file_io.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/data/megatron_index.h"
#include "worker/run/program_hash.h"

enum { HASHED_BYTES = 1 << 20 };
// Goes up when the same text and tokenizer give other tokens, or other bytes of them.
static const char FORM[] = "tokens 1";

static bool hash_text(const Tokenizer *tokenizer, const FileReader *text,
                      const DocumentStarts *documents, char name[HASH_TEXT_BYTES], Error *err) {
    Hasher *hasher = hasher_open();
    void *piece = malloc(HASHED_BYTES);
    CHECK_MEMORY(piece, "no memory for %d bytes", HASHED_BYTES);
    bool ok = true;
    hasher_add(hasher, FORM, sizeof FORM);
    hasher_add(hasher, &tokenizer->hash, sizeof tokenizer->hash);
    for (int64_t at = 0; ok && at < text->bytes; at += HASHED_BYTES) {
        int64_t rest = text->bytes - at;
        size_t bytes = rest < HASHED_BYTES ? (size_t)rest : HASHED_BYTES;
        ok = file_reader_read(text, at, bytes, piece, err);
        if (ok) hasher_add(hasher, piece, bytes);
    }
    if (documents->starts)
        hasher_add(hasher, documents->starts, (size_t)documents->count * sizeof(int64_t));
    hash_to_text(hasher_close(hasher), name);
    free(piece);
    return ok;
}

bool token_cache_path(const Tokenizer *tokenizer, const FileReader *text,
                      const DocumentStarts *documents, const char *folder,
                      char path[CONFIG_PATH_BYTES], Error *err) {
    char name[HASH_TEXT_BYTES];
    if (!hash_text(tokenizer, text, documents, name, err)) return false;
    if (snprintf(path, CONFIG_PATH_BYTES, "%s/%s.bin", folder, name) >= CONFIG_PATH_BYTES)
        return error_set(err, EXIT_IO, "path too long: %.60s...", folder);
    return true;
}

static bool is_there(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0;
}

// Either file got its name when it was whole.
static bool is_made(const char *path, const DocumentStarts *documents) {
    char index[CONFIG_PATH_BYTES];
    megatron_index_path(path, index);
    return is_there(path) && (!documents->starts || is_there(index));
}

static bool write_files(const Tokenizer *tokenizer, const FileReader *text,
                        const DocumentStarts *documents, const char *path, void (*progress)(void),
                        int64_t *tokens, Error *err) {
    DocumentStarts starts = *documents; // in tokens, in the end
    if (!documents->starts)
        return token_file_write(tokenizer, text, NULL, path, progress, tokens, err);
    size_t bytes = (size_t)documents->count * sizeof *starts.starts;
    starts.starts = malloc(bytes);
    CHECK_MEMORY(starts.starts, "no memory for %lld documents", (long long)documents->count);
    memcpy(starts.starts, documents->starts, bytes);
    bool ok = token_file_write(tokenizer, text, &starts, path, progress, tokens, err) &&
              megatron_index_write(path, &starts, token_file_width(tokenizer), *tokens, err);
    documents_free(&starts);
    return ok;
}

bool token_cache_make(const Tokenizer *tokenizer, const FileReader *text,
                      const DocumentStarts *documents, const char *folder, void (*progress)(void),
                      Error *err) {
    char path[CONFIG_PATH_BYTES];
    int64_t tokens = 0;
    if (!token_cache_path(tokenizer, text, documents, folder, path, err)) return false;
    if (is_made(path, documents)) return true;
    double begin = clock_seconds();
    if (!directory_make(folder, err) ||
        !write_files(tokenizer, text, documents, path, progress, &tokens, err))
        return false;
    double seconds = clock_seconds() - begin;
    log_info("%s: %lld bytes are %lld tokens, kept in %s (%.1f s, %.1f MB/s)", text->path,
             (long long)text->bytes, (long long)tokens, path, seconds,
             (double)text->bytes * 1e-6 / seconds);
    return true;
}
