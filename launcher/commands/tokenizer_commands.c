// moetrain train-tokenizer, convert-tokenizer and tokenize.
#include <string.h>

#include "launcher/verbs.h"
#include "worker/tokenizer/tokenize.h"
#include "worker/tokenizer/train_tokenizer.h"

// clang-format off
static const char TRAIN_HELP[] =
    "\n  moetrain train-tokenizer TEXT ... --vocab N -o FILE [options]    a tokenizer.json of byte-level BPE\n"
    "      --pattern NAME     what cuts words: gpt2, llama3, qwen2 or o200k (gpt2)\n"
    "      --special A,B      special tokens (<|endoftext|>)\n"
    "      --threads N        that count words; the file is the same for any number\n";
// clang-format on

// clang-format off
static const char CONVERT_HELP[] =
    "  moetrain convert-tokenizer RANKS --pattern NAME -o FILE [--special A,B]   of tiktoken's ranks\n";
// clang-format on

// clang-format off
static const char TOKENIZE_HELP[] =
    "  moetrain tokenize TEXT --tokenizer FILE [-o FILE.bin]            prints the tokens of a text, or\n"
    "                                                                   writes them as uint16 or uint32;\n"
    "                                                                   - is standard input, or output\n"
    "      --pattern NAME     of a file of tiktoken's ranks, which names none\n"
    "      --decode           from a file of tokens back to text\n";
// clang-format on

#define PATTERN(type) CLI_TEXT("--pattern", "gpt2, llama3, qwen2 or o200k", type, pattern)
#define SPECIAL                                                                                    \
    CLI_TEXT("--special", "special tokens with commas between them", TrainTokenizerOptions, special)
#define OUTPUT CLI_TEXT("-o", "a new tokenizer.json", TrainTokenizerOptions, output)

static const CliOption TRAIN_OPTIONS[] = {
    CLI_WHOLE("--vocab", "a number of tokens from 256 to 16777216", TrainTokenizerOptions, vocab,
              256, 1 << 24),
    PATTERN(TrainTokenizerOptions),
    SPECIAL,
    CLI_WHOLE("--threads", "a number of threads from 1 to 4096", TrainTokenizerOptions, threads, 1,
              4096),
    OUTPUT,
    CLI_END};
static const CliOption CONVERT_OPTIONS[] = {PATTERN(TrainTokenizerOptions), SPECIAL, OUTPUT,
                                            CLI_END};
static const CliOption TOKENIZE_OPTIONS[] = {
    CLI_TEXT("--tokenizer", "a tokenizer.json or the ranks of tiktoken", TokenizeOptions,
             tokenizer),
    PATTERN(TokenizeOptions), CLI_FLAG("--decode", TokenizeOptions, decode),
    CLI_TEXT("-o", "a new file, or -", TokenizeOptions, output), CLI_END};

static bool check_training(CommandLine *line, Error *err) {
    return train_tokenizer_check(line->options, err);
}

static int train(const CommandLine *line, Error *err) {
    const char *texts[1 + MOST_WORDS] = {line->path};
    memcpy(texts + 1, line->words, (size_t)line->word_count * sizeof *texts);
    return train_tokenizer_run(texts, 1 + line->word_count, line->options, err);
}

const Verb TRAIN_TOKENIZER_VERB = {
    .name = "train-tokenizer",
    .help = TRAIN_HELP,
    .path = "a text",
    .words = MOST_WORDS,
    .options = TRAIN_OPTIONS,
    .options_bytes = sizeof(TrainTokenizerOptions),
    .check = check_training,
    .run = train,
};

static bool check_conversion(CommandLine *line, Error *err) {
    return convert_tokenizer_check(line->options, err);
}

static int convert(const CommandLine *line, Error *err) {
    return convert_tokenizer_run(line->path, line->options, err);
}

const Verb CONVERT_TOKENIZER_VERB = {
    .name = "convert-tokenizer",
    .help = CONVERT_HELP,
    .path = "a file of ranks",
    .options = CONVERT_OPTIONS,
    .options_bytes = sizeof(TrainTokenizerOptions),
    .check = check_conversion,
    .run = convert,
};

static bool check_text(CommandLine *line, Error *err) {
    return tokenize_check(line->options, err);
}

static int tokenize(const CommandLine *line, Error *err) {
    return tokenize_run(line->path, line->options, err);
}

const Verb TOKENIZE_VERB = {
    .name = "tokenize",
    .help = TOKENIZE_HELP,
    .path = "a text, or -",
    .options = TOKENIZE_OPTIONS,
    .options_bytes = sizeof(TokenizeOptions),
    .check = check_text,
    .run = tokenize,
};
