// Token numbers of llm.c: 256 int32, of which the first three say what it is, and the numbers.
// Source: karpathy/llm.c, dev/data/data_common.py.
#include <string.h>

#include "worker/data/data_content.h"

enum { HEADER_BYTES = 1024 };

typedef struct LlmcKind {
    uint32_t magic, version;
    int bytes;
    const char *tokenizer;
    int64_t first; // the token that every document begins with
} LlmcKind;

static const LlmcKind KINDS[] = {
    {20240520, 1, 2, "GPT-2", 50256},
    {20240801, 7, 4, "Llama 3", 128000},
};

static const LlmcKind *find_kind(const uint8_t *head) {
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (little_endian(head, 4) == KINDS[i].magic) return &KINDS[i];
    return NULL;
}

// The magic and a small number behind it.
static bool recognise(const DataPlace *place) {
    const uint8_t *head = place->sample->content;
    uint64_t version = place->sample->head_bytes >= 8 ? little_endian(head + 4, 4) : 0;
    return version > 0 && version < 100 && find_kind(head);
}

static bool open_tokens(DataContent *content, const DataPlace *place, Error *err) {
    uint8_t head[12] = {0};
    int64_t bytes = place->file->bytes;
    if (bytes < HEADER_BYTES)
        return error_set(err, EXIT_DATA,
                         "%s: %lld bytes, but the header of llm.c alone has %d; the file is cut "
                         "off: write it again",
                         place->path, (long long)bytes, HEADER_BYTES);
    if (!file_reader_read(place->file, 0, sizeof head, head, err)) return false;
    const LlmcKind *kind = find_kind(head);
    uint64_t version = little_endian(head + 4, 4);
    int64_t count = (int32_t)little_endian(head + 8, 4);
    if (version != kind->version)
        return error_set(err, EXIT_DATA,
                         "%s: a file of llm.c (%u) of version %llu, but version %u is known; write "
                         "it again with llm.c's dev/data",
                         place->path, kind->magic, (unsigned long long)version, kind->version);
    if (count < 1 || count * kind->bytes != bytes - HEADER_BYTES)
        return error_set(err, EXIT_DATA,
                         "%s: its header says %lld tokens of %d bytes, but %lld bytes follow it; "
                         "the file is cut off or was joined with another: write it again",
                         place->path, (long long)count, kind->bytes,
                         (long long)(bytes - HEADER_BYTES));
    content->type = (TokenType){.bytes = kind->bytes};
    content->begin = HEADER_BYTES;
    content->tokens = count;
    content->documents = (DocumentStarts){.marked = true, .mark_begins = true, .mark = kind->first};
    return true;
}

const FileFormat LLMC_TOKENS = {
    .name = "token numbers of llm.c with its header",
    .kind = CONTENT_NUMBERS,
    .recognise = recognise,
    .open = open_tokens,
};
