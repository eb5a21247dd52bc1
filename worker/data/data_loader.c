#include "worker/data/data_loader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "kernels/log.h"
#include "kernels/rng.h"
#include "worker/data/data_format.h"
#include "worker/data/token_cache.h"
#include "worker/data/tokenized_text.h"

struct DataFile {
    DataContent content;
    DataFormat format;
    int64_t vocab_size;
    bool fixed_vocabulary; // a checkpoint's
    int64_t tokens;
    // of a text that is no bytes and has no file of its tokens: all tokens; otherwise NULL
    const CharacterText *characters;
    CharacterText own_characters; // unless they are the vocabulary's
    double bytes_per_token;
    Packing packing; // no windows: documents are not packed
};

enum {
    READ_BYTES = 1 << 14,              // a piece of a window, on the stack
    SCAN_BYTES = 1 << 17,              // a piece of the file while it is validated
    IDENTITY_BYTES = 64 * 1024 * 1024, // hashed of a large file
    FEISTEL_ROUNDS = 8,
};

// ---- from bytes to tokens -----------------------------------------------------------------------

static bool token_error(const DataFile *file, int64_t position, int64_t token, Error *err) {
    char advice[512];
    bool header = file->content.format != &NUMBERS_WITHOUT_HEADER;
    data_format_advise(&file->content.file, header ? DATA_TOKENS : file->format, file->vocab_size,
                       file->fixed_vocabulary, token, advice);
    return error_set(err, EXIT_DATA,
                     "%s: token %lld at byte %lld is outside the vocabulary of %lld; %s",
                     file->content.file.path, (long long)token,
                     (long long)(file->content.begin + position * file->content.type.bytes),
                     (long long)file->vocab_size, advice);
}

// Tokens [first, first + count) of the file, checked against the vocabulary.
static bool read_tokens(const DataFile *file, int64_t first, int64_t count, int32_t *tokens,
                        Error *err) {
    if (first < 0 || count > file->tokens - first)
        return error_set(err, EXIT_DATA, "%s: tokens %lld to %lld needed but it has %lld",
                         file->content.file.path, (long long)first, (long long)(first + count),
                         (long long)file->tokens);
    if (file->characters) {
        for (int64_t i = 0; i < count; i++)
            tokens[i] = character_text_token(file->characters, first + i);
        return true;
    }
    uint64_t raw[READ_BYTES / sizeof(uint64_t)];
    TokenType type = file->content.type;
    int64_t width = type.bytes, room = READ_BYTES / width;
    for (int64_t done = 0; done < count;) {
        int64_t n = count - done < room ? count - done : room;
        if (!file_reader_read(&file->content.file, file->content.begin + (first + done) * width,
                              (size_t)(n * width), raw, err))
            return false;
        for (int64_t i = 0; i < n; i++, done++) {
            int64_t token = token_type_read(type, raw, i);
            if (token < 0 || token >= file->vocab_size)
                return token_error(file, first + done, token, err);
            tokens[done] = (int32_t)token;
        }
    }
    return true;
}

// ---- validation ---------------------------------------------------------------------------------

// Checks tokens [first, end): one maximum a piece, and a search only in the piece that is wrong.
static bool scan_tokens(const DataFile *file, int64_t first, int64_t end, Error *err) {
    void *raw = malloc(SCAN_BYTES);
    CHECK_MEMORY(raw, "no memory for %d bytes", SCAN_BYTES);
    TokenType type = file->content.type;
    int64_t width = type.bytes, room = SCAN_BYTES / width;
    bool ok = true;
    for (int64_t at = first; ok && at < end; at += room) {
        int64_t n = end - at < room ? end - at : room;
        ok = file_reader_read(&file->content.file, file->content.begin + at * width,
                              (size_t)(n * width), raw, err);
        if (!ok || token_type_all_inside(type, raw, n, file->vocab_size)) continue;
        int64_t i = 0;
        while (token_type_all_inside(type, (char *)raw + i * width, 1, file->vocab_size)) i++;
        ok = token_error(file, at + i, token_type_read(type, raw, i), err);
    }
    free(raw);
    return ok;
}

static bool read_characters(DataFile *file, const Vocabulary *vocabulary, Error *err) {
    const CharacterText *known = &vocabulary->text;
    file->characters = known;
    if (strcmp(known->path, file->content.file.path) != 0 ||
        known->bytes != file->content.file.bytes) {
        if (!character_text_read(&file->own_characters, &file->content.file,
                                 vocabulary->code_points, vocabulary->size, err))
            return false;
        file->characters = &file->own_characters;
    }
    file->tokens = file->characters->count;
    if (!documents_count_characters(&file->content.documents, &file->content.file, err))
        return false;
    file->bytes_per_token = (double)file->content.file.bytes / (double)file->tokens;
    return true;
}

// Shares the scan of the numbers among the readers.
static bool check_tokens(DataFile *file, int reader, int readers, Error *err) {
    file->tokens = file->content.tokens;
    int64_t first = file->tokens / readers * reader;
    int64_t end = reader == readers - 1 ? file->tokens : first + file->tokens / readers;
    return scan_tokens(file, first, end, err);
}

// The file of a text's tokens takes its place. False where there is none.
static bool take_token_file(DataFile *file, const Vocabulary *vocabulary, const char *path) {
    bool documents = file->content.documents.starts;
    ContentRules rules = {.format = token_file_width(vocabulary->tokenizer) == 2 ? DATA_UINT16
                                                                                 : DATA_UINT32,
                          .recognise = documents, // by its index
                          .documents = documents};
    DataContent numbers = {0};
    Error ignored = {0};
    if (!data_content_open(&numbers, path, &rules, &ignored)) return false;
    if (documents && !numbers.documents.starts) {
        data_content_close(&numbers);
        return false;
    }
    file->bytes_per_token = (double)file->content.file.bytes / (double)numbers.tokens;
    data_content_close(&file->content);
    file->content = numbers;
    file->format = rules.format;
    return true;
}

static bool read_tokenized(DataFile *file, const Vocabulary *vocabulary, Error *err) {
    char path[CONFIG_PATH_BYTES];
    const FileReader *text = &file->content.file;
    if (vocabulary->token_folder[0]) {
        if (!token_cache_path(vocabulary->tokenizer, text, &file->content.documents,
                              vocabulary->token_folder, path, err))
            return false;
        if (take_token_file(file, vocabulary, path)) return true;
    }
    if (!tokenized_text_read(&file->own_characters, text, &file->content.documents,
                             vocabulary->tokenizer, err))
        return false;
    file->characters = &file->own_characters;
    file->tokens = file->own_characters.count;
    file->bytes_per_token = (double)text->bytes / (double)file->tokens;
    return true;
}

static bool read_tokens_of_text(DataFile *file, const Vocabulary *vocabulary, Error *err) {
    if (file->format == DATA_CHARACTERS) return read_characters(file, vocabulary, err);
    if (file->format == DATA_TOKENIZER) return read_tokenized(file, vocabulary, err);
    file->content.type = (TokenType){.bytes = 1}; // every byte is a token
    file->tokens = file->content.file.bytes;
    return true;
}

// Whether it is known where documents begin, if that is asked for.
static bool check_documents(const DataFile *file, const ContentRules *rules, Error *err) {
    return !rules->documents || documents_known(&file->content.documents) ||
           error_set(err, EXIT_CONFIG,
                     "%s: nothing says where its documents begin; set data.document_end to the %s, "
                     "or do without data.documents=mask and --per-document",
                     file->content.file.path,
                     data_format_facts(file->format)->numbers
                         ? "number of the token that ends each (50256 for GPT-2's)"
                         : "text that ends each (\\n\\n for blank lines)");
}

// A text may be one document, but more likely its documents end otherwise.
static void warn_of_one_document(const DataFile *file, const ContentRules *rules) {
    const DocumentStarts *documents = &file->content.documents;
    if (documents->searched && documents->count == 1)
        log_warn("%s: data.document_end (%s) does not part it, so that all of it is one document; "
                 "is that how its documents end? Here \\n is a line's end, \\n\\n a blank line",
                 file->content.file.path, rules->document_end);
}

// ---- the file -----------------------------------------------------------------------------------

bool data_file_open(DataFile **file, const char *path, DataPart part, const Vocabulary *vocabulary,
                    int reader, int readers, Error *err) {
    DataFile *f = calloc(1, sizeof *f);
    CHECK_MEMORY(f, "no memory for a data file");
    f->format = vocabulary->format;
    f->vocab_size = vocabulary->size;
    f->fixed_vocabulary = vocabulary->fixed;
    f->bytes_per_token = vocabulary->bytes_per_token;
    ContentRules rules = vocabulary->content;
    rules.format = vocabulary->format;
    rules.part = part;
    bool ok = data_content_open(&f->content, path, &rules, err);
    if (ok) warn_of_one_document(f, &rules);
    ok = ok && (f->content.type.bytes > 0 || read_tokens_of_text(f, vocabulary, err)) &&
         (f->tokens > 0 || check_tokens(f, reader, readers, err)) &&
         check_documents(f, &rules, err);
    if (ok)
        *file = f;
    else
        data_file_close(f);
    return ok;
}

void data_file_close(DataFile *file) {
    if (!file) return;
    data_content_close(&file->content);
    character_text_free(&file->own_characters);
    packing_free(&file->packing);
    free(file);
}

int64_t data_file_tokens(const DataFile *file) {
    return file->tokens;
}
const DataContent *data_file_content(const DataFile *file) {
    return &file->content;
}
bool data_file_find_documents(DataFile *file, Error *err) {
    return data_content_find_marks(&file->content, err);
}
double data_file_bytes_per_token(const DataFile *file) {
    return file->bytes_per_token;
}

bool data_file_identity(const DataFile *file, char identity[40], Error *err) {
    XXH3_state_t *state = XXH3_createState();
    void *piece = malloc(SCAN_BYTES);
    CHECK_MEMORY(state && piece, "no memory for %d bytes", SCAN_BYTES);
    XXH3_128bits_reset(state);
    int64_t size = file->content.file.bytes;
    XXH3_128bits_update(state, &size, sizeof size);

    // Head, middle and tail; a file that fits is hashed whole, as one run.
    int64_t runs = size > IDENTITY_BYTES ? 3 : 1;
    int64_t run_bytes = runs == 3 ? IDENTITY_BYTES / 3 : size;
    bool ok = true;
    for (int64_t run = 0; ok && run < runs; run++) {
        int64_t start = (size - run_bytes) * run / 2;
        for (int64_t done = 0; ok && done < run_bytes; done += SCAN_BYTES) {
            size_t n = (size_t)(run_bytes - done < SCAN_BYTES ? run_bytes - done : SCAN_BYTES);
            ok = file_reader_read(&file->content.file, start + done, n, piece, err);
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
    if (file->packing.windows > 0) return file->packing.windows;
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
                        int32_t *targets, int32_t *positions, Error *err) {
    if (!read_tokens(file, first, T, inputs, err)) return false;
    for (int64_t i = 1; i < T; i++) targets[i - 1] = inputs[i];
    if (!read_tokens(file, first + T, 1, targets + T - 1, err)) return false;
    if (!positions) return true;
    bool ends =
        documents_place(&file->content.documents, first, T, inputs, targets[T - 1], positions);
    for (int64_t i = 1; i < T; i++)
        if (positions[i] == 0) targets[i - 1] = NO_TARGET;
    if (ends) targets[T - 1] = NO_TARGET;
    return true;
}

bool data_file_pack(DataFile *file, int64_t T, Error *err) {
    if (!data_file_find_documents(file, err)) return false;
    packing_make(&file->packing, &file->content.documents, file->tokens, T);
    return file->packing.windows > 0 ||
           error_set(
               err, EXIT_DATA,
               "%s: none of its %lld documents has two tokens, of which one could predict the "
               "other; check data.document_end",
               file->content.file.path, (long long)file->content.documents.count);
}

const Packing *data_file_packing(const DataFile *file) {
    return file->packing.windows > 0 ? &file->packing : NULL;
}

static bool read_packed(const DataFile *file, int64_t window, int32_t *inputs, int32_t *targets,
                        int32_t *positions, Error *err) {
    const Packing *packing = &file->packing;
    int64_t used = 0;
    for (int64_t i = packing->of_window[window]; i < packing->of_window[window + 1]; i++) {
        Piece piece = packing->pieces[i];
        if (!read_window(file, piece.first, piece.length, inputs + used, targets + used, NULL, err))
            return false;
        for (int64_t t = 0; positions && t < piece.length; t++) positions[used + t] = (int32_t)t;
        used += piece.length;
    }
    for (int64_t t = used; t < packing->T; t++) {
        inputs[t] = 0;
        targets[t] = NO_TARGET;
        if (positions) positions[t] = (int32_t)(t - used);
    }
    return true;
}

bool data_file_training_window(DataFile *file, uint64_t seed, DataCursor cursor, int64_t n,
                               int64_t T, int32_t *inputs, int32_t *targets, int32_t *positions,
                               Error *err) {
    int64_t windows = data_file_windows(file, T);
    if (windows == 0)
        return error_set(err, EXIT_DATA,
                         "%s: %lld tokens are too few for a context of %lld, which needs %lld; "
                         "lower train.context or use more text",
                         file->content.file.path, (long long)file->tokens, (long long)T,
                         (long long)(2 * T));
    // From a checkpoint, where it may be anything. An index past the epoch is legal: the context
    // may have become longer.
    if (cursor.epoch < 0 || cursor.index < 0 || cursor.epoch > INT64_MAX / 4 ||
        cursor.index > INT64_MAX / 4)
        return error_set(err, EXIT_CHECKPOINT,
                         "%s: window %lld of epoch %lld does not exist; the checkpoint's place in "
                         "the data is damaged, resume from another one",
                         file->content.file.path, (long long)cursor.index, (long long)cursor.epoch);
    DataCursor at = data_cursor_advance(cursor, n, windows);
    int64_t window = permute(at.index, windows, seed, at.epoch);
    if (file->packing.windows > 0)
        return read_packed(file, window, inputs, targets, positions, err);
    return read_window(file, epoch_offset(T, seed, at.epoch) + window * T, T, inputs, targets,
                       positions, err);
}

int64_t data_file_evaluation_windows(const DataFile *file, int64_t T, int64_t stride) {
    int64_t targets = file->tokens - 1;
    if (targets <= T) return targets > 0;
    return 1 + (targets - T + stride - 1) / stride;
}

bool data_file_evaluation_window(DataFile *file, int64_t index, int64_t T, int64_t stride,
                                 int32_t *inputs, int32_t *targets, int32_t *positions,
                                 int64_t *first, int64_t *count, Error *err) {
    bool any = index < data_file_evaluation_windows(file, T, stride);
    int64_t begin = index * stride, left = any ? file->tokens - 1 - begin : 0;
    *count = left < T ? left : T;
    *first = any && index > 0 ? T - stride : 0;
    for (int64_t i = *count; i < T; i++) inputs[i] = targets[i] = 0;
    for (int64_t i = *count; positions && i < T; i++) positions[i] = (int32_t)(i - *count);
    return !any || read_window(file, begin, *count, inputs, targets, positions, err);
}
