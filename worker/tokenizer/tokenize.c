#include "worker/tokenizer/tokenize.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/data/text_file.h"
#include "worker/tokenizer/split_pattern.h"
#include "worker/tokenizer/token_file.h"

bool tokenize_check(const TokenizeOptions *options, Error *err) {
    if (!options->tokenizer)
        return error_set(err, EXIT_CONFIG,
                         "command line: tokenize needs --tokenizer FILE, a tokenizer.json or the "
                         "ranks of tiktoken");
    return !options->pattern || split_check(options->pattern, err);
}

static bool is_standard(const char *path) {
    return strcmp(path, "-") == 0;
}

static bool flush_output(const char *what, Error *err) {
    return fflush(stdout) == 0 ||
           error_set(err, EXIT_IO, "cannot write the %s to stdout: %s", what, strerror(errno));
}

static bool print_some(void *context, const int32_t *tokens, int64_t count, Error *err) {
    bool *first = context;
    for (int64_t i = 0; i < count; i++, *first = false)
        printf("%s%d", *first ? "" : " ", (int)tokens[i]);
    return !ferror(stdout) ||
           error_set(err, EXIT_IO, "cannot write the tokens to stdout: %s", strerror(errno));
}

static bool print_tokens(const Tokenizer *tokenizer, DataContent *text, Error *err) {
    bool first = true;
    if (!tokens_of_text(tokenizer, &text->file, &text->documents, print_some, &first, err))
        return false;
    putchar('\n');
    return flush_output("tokens", err);
}

static bool write_tokens(const Tokenizer *tokenizer, DataContent *content,
                         const TokenizeOptions *options, Error *err) {
    const FileReader *text = &content->file;
    DocumentStarts *documents = &content->documents;
    int64_t tokens = 0;
    if (is_standard(options->output))
        return token_file_give(tokenizer, text, documents, STDOUT_FILENO, &tokens, err);
    double begin = clock_seconds();
    if (tokenizer->post_processor[0])
        log_info("the tokenizer's %s is not applied: tokens around a text are a matter of who "
                 "uses the model",
                 tokenizer->post_processor);
    if (!token_file_write(tokenizer, text, documents, options->output, NULL, &tokens, err))
        return false;
    double seconds = clock_seconds() - begin;
    int64_t bytes = text->taken ? *text->taken : text->bytes;
    log_info("wrote %lld tokens of %lld bytes to %s: %.2f s, %.1f MB/s", (long long)tokens,
             (long long)bytes, options->output, seconds, (double)bytes * 1e-6 / seconds);
    log_info("train on them with data.format=uint%d data.vocab_size=%lld data.bytes_per_token=%.6g",
             8 * token_file_width(tokenizer), (long long)tokenizer->size,
             (double)bytes / (double)tokens);
    return true;
}

static bool write_text(const Tokenizer *tokenizer, const FileReader *tokens,
                       const TokenizeOptions *options, Error *err) {
    if (!options->output || is_standard(options->output))
        return token_file_decode(tokenizer, tokens, stdout, err) && flush_output("text", err);
    FILE *out = fopen(options->output, "wbx");
    if (!out)
        return error_set(err, EXIT_IO, "%s: cannot be made: %s; name a new file", options->output,
                         strerror(errno));
    bool ok = token_file_decode(tokenizer, tokens, out, err);
    if (fclose(out) != 0 && ok)
        ok = error_set(err, EXIT_IO, "cannot write the text: %s", strerror(errno));
    if (!ok && err->exit_code == EXIT_IO) error_prefix(err, "%s", options->output);
    Error ignored;
    if (!ok) file_remove(options->output, &ignored);
    return ok;
}

static bool encode(const Tokenizer *tokenizer, const char *path, const TokenizeOptions *options,
                   Error *err) {
    DataContent text = {.file = {.fd = -1}};
    int64_t taken;
    bool ok = true;
    if (is_standard(path))
        text_file_open_input(&text, &taken);
    else
        ok = text_file_open(&text, path, err);
    if (!ok) return false;
    ok = options->output ? write_tokens(tokenizer, &text, options, err)
                         : print_tokens(tokenizer, &text, err);
    data_content_close(&text);
    return ok;
}

static bool decode(const Tokenizer *tokenizer, const char *path, const TokenizeOptions *options,
                   Error *err) {
    FileReader tokens = {.fd = -1};
    int64_t taken;
    if (is_standard(path))
        file_reader_open_input(&tokens, &taken);
    else if (!file_reader_open(&tokens, path, err))
        return false;
    bool ok = write_text(tokenizer, &tokens, options, err);
    file_reader_close(&tokens);
    return ok;
}

int tokenize_run(const char *path, const TokenizeOptions *options, Error *err) {
    Tokenizer *tokenizer = NULL;
    bool ok = tokenizer_read(&tokenizer, options->tokenizer, options->pattern, err) &&
              (options->decode ? decode : encode)(tokenizer, path, options, err);
    tokenizer_free(tokenizer);
    return ok ? EXIT_DONE : err->exit_code;
}
