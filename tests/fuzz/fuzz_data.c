// Any bytes as a data file, in every format: refused with a message, or every window is readable
// and inside the vocabulary. The same bytes as a prompt, and as part of a message. The first byte
// chooses format, context, vocabulary size and whether the content is looked at; the rest is the
// file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/utf8.h"
#include "seeds.h"
#include "worker/data/data_loader.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static void require(bool condition) {
    if (!condition) abort();
}

static void read_every_window(DataFile *file, const Vocabulary *vocabulary, int64_t T) {
    int32_t inputs[16], targets[16];
    int64_t windows = data_file_windows(file, T);
    Error err = {0};
    for (int64_t i = 0; i < windows; i++) {
        DataCursor cursor = {i % 3, i};
        require(data_file_training_window(file, 1, cursor, 0, T, inputs, targets, NULL, &err));
        for (int64_t t = 0; t < T; t++) {
            require(inputs[t] >= 0 && inputs[t] < vocabulary->size);
            require(targets[t] >= 0 && targets[t] < vocabulary->size);
        }
    }
    for (int64_t stride = T; stride > 0; stride -= T / 2 + 1) {
        int64_t first, count, all = 0;
        for (int64_t i = 0; i < data_file_evaluation_windows(file, T, stride); i++) {
            require(data_file_evaluation_window(file, i, T, stride, inputs, targets, NULL, &first,
                                                &count, &err));
            all += count - first;
        }
        require(all == data_file_tokens(file) - 1);
    }
    if (windows > 0) reached("a window");
}

static void write_and_reread(const Vocabulary *vocabulary) {
    for (int32_t token = 0; token < vocabulary->size && token < 300; token++) {
        char text[33];
        size_t bytes;
        int32_t again[1];
        int64_t count = 0;
        Error err = {0};
        require(vocabulary_decode(vocabulary, token, text, &bytes) == text && bytes > 0);
        text[bytes] = '\0';
        if (text[0] == '\0') continue; // a NUL ends C text
        require(vocabulary_encode(vocabulary, text, again, 1, &count, &err));
        require(count == 1 && again[0] == token);
        reached("a token comes back");
    }
}

// Any text: tokens inside the vocabulary, or a message.
static void encode_any(const Vocabulary *vocabulary, const char *text) {
    int32_t tokens[64];
    int64_t count = 0;
    Error err = {0};
    if (vocabulary_encode(vocabulary, text, tokens, 64, &count, &err)) {
        require(count >= 0 && count <= 64);
        if (count > 0) reached("tokens of a text");
        for (int64_t i = 0; i < count; i++) require(tokens[i] >= 0 && tokens[i] < vocabulary->size);
    } else {
        require(err.exit_code == EXIT_CONFIG && err.message[0]);
    }
}

// Any text is shown in one line of UTF-8, which stays as it is when it is shown again.
static void show_any(const char *text) {
    char shown[300], again[sizeof shown];
    size_t room = 1 + strlen(text) % sizeof shown;
    utf8_make_printable(text, shown, room);
    require(strlen(shown) < room);
    for (const char *c = shown; *c; c++) require((uint8_t)*c >= 0x20 && *c != 0x7F);
    utf8_make_printable(shown, again, sizeof again);
    require(strcmp(shown, again) == 0);
}

static const char *const names[] = {"bytes", "characters", "uint16", "uint32"};

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    return seeds_must_reach((const char *const[]){
        names[0], names[1], names[2], names[3], "a window", "a token comes back",
        "tokens of a text", "content that is looked at", NULL});
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    static const DataFormat formats[] = {DATA_BYTES, DATA_CHARACTERS, DATA_UINT16, DATA_UINT32};
    if (size == 0) return 0;
    int memory = memfd_create("data", 0);
    require(memory >= 0 && write(memory, input + 1, size - 1) == (ssize_t)(size - 1));

    DataConfig config = {.format = formats[input[0] & 3]};
    snprintf(config.train.maps[0].path, CONFIG_PATH_BYTES, "/proc/self/fd/%d", memory);
    bool has_text = config.format == DATA_BYTES || config.format == DATA_CHARACTERS;
    config.vocab_size = has_text ? 0 : 1 + (input[0] >> 4) * 4096;
    config.check = input[0] & 0x10;
    if (config.check && config.format == DATA_BYTES)
        config.format = DATA_AUTO; // named, any bytes pass
    char *text = calloc(size, 1);
    require(text != NULL);
    memcpy(text, input + 1, size - 1);
    show_any(text);
    int64_t T = 1 + (input[0] >> 2 & 3) * 5;

    Vocabulary vocabulary = {0};
    DataFile *file = NULL;
    Error err = {0};
    bool open = vocabulary_open(&vocabulary, &config, &err);
    if (open) encode_any(&vocabulary, text);
    if (open &&
        data_file_open(&file, config.train.maps[0].path, PART_TRAINING, &vocabulary, 0, 1, &err)) {
        char identity[40];
        require(data_file_identity(file, identity, &err));
        read_every_window(file, &vocabulary, T);
        reached(names[input[0] & 3]);
        if (config.check) reached("content that is looked at");
        write_and_reread(&vocabulary);
    } else {
        require((err.exit_code == EXIT_DATA || err.exit_code == EXIT_CONFIG) && err.message[0]);
    }
    data_file_close(file);
    vocabulary_free(&vocabulary);
    free(text);
    close(memory);
    return 0;
}
