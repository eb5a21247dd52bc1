#include "worker/tokenizer/word_counts.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/utf8.h"
#include "worker/data/text_file.h"
#include "worker/tokenizer/normal_form.h"
#include "worker/tokenizer/pre_split.h"

enum { CHUNK_BYTES = 1 << 22 };

void word_counts_free(WordCounts *counts) {
    byte_strings_free(&counts->words);
    free(counts->counts);
    *counts = (WordCounts){0};
}

static void count_words(WordCounts *counts, const uint8_t *word, size_t bytes, int64_t times) {
    bool is_new;
    int32_t number = byte_strings_add(&counts->words, word, bytes, &is_new);
    if (is_new && number == counts->room) {
        counts->room = counts->room ? counts->room * 2 : 1 << 12;
        counts->counts = realloc(counts->counts, (size_t)counts->room * sizeof *counts->counts);
        CHECK_MEMORY(counts->counts, "no memory for %lld words", (long long)counts->room);
    }
    counts->counts[number] = is_new ? times : counts->counts[number] + times;
}

// ---- one thread ---------------------------------------------------------------------------------

typedef struct Counter {
    WordCounts own;
    PreSplitRunner *split;
    bool nfc;
    uint8_t *text; // a chunk, and how a line of it goes on
    size_t room;
} Counter;

static void take_word(void *context, const uint8_t *word, size_t bytes) {
    count_words(&((Counter *)context)->own, word, bytes, 1);
}

static bool count_valid(Counter *counter, const uint8_t *text, size_t bytes, Error *err) {
    uint8_t *composed = NULL;
    if (counter->nfc && normal_form_may_change(text, bytes))
        text = composed = normal_form_compose(text, bytes, &bytes);
    bool ok = pre_split_run(counter->split, text, bytes, take_word, counter, err);
    free(composed);
    return ok;
}

static bool count_line(Counter *counter, const uint8_t *text, size_t bytes, Error *err) {
    while (bytes > 0) {
        size_t valid = utf8_valid_bytes(text, bytes);
        if (valid > 0 && !count_valid(counter, text, valid, err)) return false;
        if (valid < bytes) take_word(counter, text + valid++, 1);
        text += valid;
        bytes -= valid;
    }
    return true;
}

// Adds up to `wanted` bytes from offset *at to the `used` ones.
static bool read_more(Counter *counter, const FileReader *file, int64_t *at, size_t *used,
                      size_t wanted, Error *err) {
    int64_t rest = file->bytes - *at;
    size_t bytes = rest < (int64_t)wanted ? (size_t)rest : wanted;
    if (counter->room - *used < bytes) {
        counter->room = *used + bytes > 2 * counter->room ? *used + bytes : 2 * counter->room;
        counter->text = realloc(counter->text, counter->room);
        CHECK_MEMORY(counter->text, "no memory for a line of %zu bytes", counter->room);
    }
    if (!file_reader_read(file, *at, bytes, counter->text + *used, err)) return false;
    *used += bytes;
    *at += (int64_t)bytes;
    return true;
}

// The lines that begin in a chunk of a file, the last one to its end.
static bool count_chunk(Counter *counter, const FileReader *file, int64_t start, Error *err) {
    int64_t at = start > 0 ? start - 1 : 0; // whether a line begins here says the byte before
    size_t used = 0, chunk = CHUNK_BYTES + (start > 0);
    if (!read_more(counter, file, &at, &used, chunk, err)) return false;
    size_t end = used, line = 0;
    if (start > 0) {
        const uint8_t *stop = memchr(counter->text, '\n', used);
        line = stop ? (size_t)(stop - counter->text) + 1 : used;
    }
    for (size_t looked = line; line < end;) {
        const uint8_t *stop = memchr(counter->text + looked, '\n', used - looked);
        if (!stop && at < file->bytes) { // it goes on behind what was read: twice as far each time
            looked = used;
            if (!read_more(counter, file, &at, &used, used, err)) return false;
            continue;
        }
        size_t next = stop ? (size_t)(stop - counter->text) + 1 : used;
        if (!count_line(counter, counter->text + line, next - line, err)) return false;
        line = looked = next;
    }
    return true;
}

// ---- all files ----------------------------------------------------------------------------------

typedef struct Chunk {
    const FileReader *file;
    int64_t start;
} Chunk;

static bool count_chunks(WordCounts *counts, const Chunk *chunks, int64_t chunk_count,
                         const PreSplit *split, bool nfc, int threads, Error *err) {
    bool all_ok = true;
    (void)threads; // a compiler without OpenMP
#pragma omp parallel num_threads(threads)
    {
        Counter counter = {.split = pre_split_runner(split), .nfc = nfc};
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < chunk_count; i++) {
            Error problem = {0};
            bool ok = count_chunk(&counter, chunks[i].file, chunks[i].start, &problem);
#pragma omp critical
            if (!ok && all_ok) {
                all_ok = false;
                *err = problem;
                error_prefix(err, "%s", chunks[i].file->path);
            }
        }
#pragma omp critical
        for (int32_t i = 0; i < counter.own.words.count; i++) {
            size_t bytes;
            const uint8_t *word = byte_strings_get(&counter.own.words, i, &bytes);
            count_words(counts, word, bytes, counter.own.counts[i]);
        }
        pre_split_runner_free(counter.split);
        word_counts_free(&counter.own);
        free(counter.text);
    }
    return all_ok;
}

bool word_counts_read(WordCounts *counts, const char *const *paths, int path_count, SplitKind kind,
                      int threads, Error *err) {
    const SplitFacts *facts = split_facts(kind);
    PreSplit *split = pre_split_new();
    char *pattern = NULL;
    DataContent *texts = calloc((size_t)path_count, sizeof *texts);
    CHECK_MEMORY(texts, "no memory for %d files", path_count);
    int open = 0;
    int64_t chunk_count = 0;
    bool ok = split_pattern_translate(facts->pattern, &pattern, err) &&
              pre_split_add(split, pattern, err);
    for (; ok && open < path_count; open++) {
        ok = text_file_open(&texts[open], paths[open], err);
        if (!ok) break;
        counts->text_bytes += texts[open].file.bytes;
        chunk_count += (texts[open].file.bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
    }
    Chunk *chunks = calloc((size_t)chunk_count + 1, sizeof *chunks);
    CHECK_MEMORY(chunks, "no memory for %lld pieces of text", (long long)chunk_count);
    int64_t next = 0;
    for (int i = 0; ok && i < open; i++)
        for (int64_t start = 0; start < texts[i].file.bytes; start += CHUNK_BYTES)
            chunks[next++] = (Chunk){&texts[i].file, start};
    ok = ok && count_chunks(counts, chunks, chunk_count, split, facts->nfc, threads, err);
    for (int i = 0; i < open; i++) data_content_close(&texts[i]);
    free(chunks);
    free(texts);
    free(pattern);
    pre_split_free(split);
    return ok;
}
