#include "worker/tokenizer/train_tokenizer.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "kernels/threads.h"
#include "worker/tokenizer/bpe_train.h"
#include "worker/tokenizer/tokenizer.h"

bool train_tokenizer_check(const TrainTokenizerOptions *options, Error *err) {
    if (options->vocab == 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: train-tokenizer needs --vocab N, the number of tokens");
    if (!options->output)
        return error_set(err, EXIT_CONFIG,
                         "command line: train-tokenizer needs -o FILE, the new tokenizer.json");
    return !options->pattern || split_check(options->pattern, err);
}

// The tokenizer reads what it has written before anybody else does.
static bool write_file(const char *json, size_t bytes, const char *path, Error *err) {
    Tokenizer *again = NULL;
    CHECK(tokenizer_from_json(&again, json, bytes, err), "the tokenizer cannot be read again: %s",
          err->message);
    tokenizer_free(again);
    return file_replace_shared(path, json, bytes, err);
}

static bool write_spec(const TokenizerSpec *spec, const char *path, Error *err) {
    size_t bytes;
    char *json = tokenizer_write(spec, &bytes);
    bool ok = write_file(json, bytes, path, err);
    free(json);
    return ok;
}

static bool train(const char *const *texts, int count, const TrainTokenizerOptions *options,
                  WordCounts *counts, TokenizerSpec *spec, Error *err) {
    const char *pattern = options->pattern ? options->pattern : "gpt2";
    const char *special = options->special ? options->special : "<|endoftext|>";
    SplitKind split = (SplitKind)choice_find(SPLIT_CHOICES, pattern);
    int threads = threads_choose((int)options->threads, 1, 1).threads;
    double begin = clock_seconds();
    if (!word_counts_read(counts, texts, count, split, threads, err)) return false;
    double counted = clock_seconds();
    log_info("counted %d different words in %.2f MB: %.2f s, %.1f MB/s on %d thread%s",
             (int)counts->words.count, (double)counts->text_bytes * 1e-6, counted - begin,
             (double)counts->text_bytes * 1e-6 / (counted - begin), threads,
             threads > 1 ? "s" : "");
    if (!bpe_train(counts, options->vocab, split, special, spec, err) ||
        !write_spec(spec, options->output, err))
        return false;
    log_info("%d tokens, %lld merges: %.2f s; wrote %s", (int)spec->tokens.count,
             (long long)spec->merge_count, clock_seconds() - counted, options->output);
    if (spec->tokens.count < options->vocab)
        log_warn("the text has pairs for %d tokens only, not %lld; give more text",
                 (int)spec->tokens.count, (long long)options->vocab);
    return true;
}

int train_tokenizer_run(const char *const *texts, int count, const TrainTokenizerOptions *options,
                        Error *err) {
    WordCounts counts = {0};
    TokenizerSpec spec = {0};
    bool ok =
        file_check_place(options->output, err) && train(texts, count, options, &counts, &spec, err);
    word_counts_free(&counts);
    tokenizer_spec_free(&spec);
    return ok ? EXIT_DONE : err->exit_code;
}

bool convert_tokenizer_check(const TrainTokenizerOptions *options, Error *err) {
    if (!options->output)
        return error_set(err, EXIT_CONFIG,
                         "command line: convert-tokenizer needs -o FILE, the new tokenizer.json");
    if (!options->pattern)
        return error_set(err, EXIT_CONFIG,
                         "command line: convert-tokenizer needs --pattern NAME, since ranks do not "
                         "say what cuts words: gpt2, llama3 (also cl100k), qwen2 or o200k");
    return split_check(options->pattern, err);
}

int convert_tokenizer_run(const char *path, const TrainTokenizerOptions *options, Error *err) {
    char *json = NULL;
    size_t bytes = 0;
    bool ok = tokenizer_convert(path, options->pattern, options->special ? options->special : "",
                                &json, &bytes, err) &&
              write_file(json, bytes, options->output, err);
    if (ok) log_info("wrote %s", options->output);
    free(json);
    return ok ? EXIT_DONE : err->exit_code;
}
