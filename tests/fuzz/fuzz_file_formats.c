// Any bytes as a file of another program: refused with a message, or what the format says of it
// holds: numbers and documents lie inside the file, every window can be read. The first byte
// chooses whether it stands alone or is the index beside numbers, and what a token is; the second
// how many numbers there are; the rest is the file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "seeds.h"
#include "worker/data/data_loader.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { MOST_BYTES = 1 << 20, T = 4 };

static void require(bool condition) {
    if (!condition) abort();
}

static void check_documents(const DataContent *content) {
    const DocumentStarts *documents = &content->documents;
    int64_t end = content->type.bytes > 0 ? content->tokens : content->file.bytes;
    if (documents->length > 0) require(documents->count * documents->length == end);
    for (int64_t i = 0; documents->starts && i < documents->count; i++)
        require(documents->starts[i] >= (i > 0 ? documents->starts[i - 1] : 0) &&
                documents->starts[i] <= end);
}

static void read_all(const char *path, DataFormat format, const ContentRules *rules) {
    Vocabulary vocabulary = {.format = format, .content = *rules};
    vocabulary.size = format == DATA_BYTES ? 256 : 1 << 17;
    DataFile *file = NULL;
    Error err = {0};
    if (!data_file_open(&file, path, PART_TRAINING, &vocabulary, 0, 1, &err)) {
        require(err.exit_code == EXIT_DATA && err.message[0]);
        return;
    }
    int32_t inputs[T], targets[T], positions[T];
    int64_t first, count, all = 0;
    for (int64_t i = 0; i < data_file_evaluation_windows(file, T, T); i++, all += count)
        require(data_file_evaluation_window(file, i, T, T, inputs, targets,
                                            rules->documents ? positions : NULL, &first, &count,
                                            &err));
    require(all == data_file_tokens(file) - 1 || data_file_tokens(file) == 0);
    if (all > T) reached("windows");
    data_file_close(file);
}

// All but nanoGPT's folder, which is a folder.
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    return seeds_must_reach(
        (const char *const[]){"JSON lines", "token numbers of llm.c with its header",
                              "token numbers of Megatron (.bin and .idx)", "a NumPy array (.npy)",
                              "token numbers without a header", "text", "windows", NULL});
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    static const DataFormat formats[] = {DATA_TOKENS, DATA_BYTES, DATA_AUTO, DATA_UINT16};
    if (size < 2) return 0;
    char alone[64], index[64], numbers[64];
    snprintf(alone, sizeof alone, "/dev/shm/fuzz-formats-%d", (int)getpid());
    snprintf(index, sizeof index, "%s.idx", alone);
    snprintf(numbers, sizeof numbers, "%s.bin", alone);
    bool beside = input[0] & 4;
    const char *path = beside ? index : alone;
    if (beside) {
        uint8_t zeros[256] = {0};
        write_input(numbers, zeros, input[1]);
    }
    write_input(path, input + 2, size - 2);
    ContentRules rules = {.format = formats[input[0] & 3],
                          .recognise = true,
                          .documents = input[0] & 8,
                          .most_bytes = MOST_BYTES,
                          .jsonl_field = "text"};
    if (rules.documents) rules.document_end[0] = '7'; // a text and a token's number
    DataContent content = {0};
    Error err = {0};
    if (data_content_open(&content, path, &rules, &err)) {
        require(content.file.bytes > 0 && content.file.bytes <= MOST_BYTES * 2);
        require(content.begin >= 0 &&
                content.begin + content.tokens * content.type.bytes <= content.file.bytes);
        check_documents(&content);
        reached(content.format->name);
        if (rules.format != DATA_AUTO) read_all(path, rules.format, &rules);
    } else {
        require(err.exit_code == EXIT_DATA && err.message[0]);
    }
    data_content_close(&content);
    unlink(path);
    if (beside) unlink(numbers);
    return 0;
}
