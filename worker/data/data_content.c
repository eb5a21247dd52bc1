#include "worker/data/data_content.h"

#include <stdlib.h>
#include <string.h>

#include "worker/data/data_format.h"

// In this order; the last takes what no other does.
static const FileFormat *const FILE_FORMATS[] = {
    &MEGATRON_INDEX, &NANOGPT_FOLDER,         &NUMPY_ARRAY, &LLMC_TOKENS, &GZIP_TEXT, &ZSTD_TEXT,
    &JSON_LINES,     &NUMBERS_WITHOUT_HEADER, &PLAIN_TEXT,
};
enum { FORMAT_COUNT = sizeof FILE_FORMATS / sizeof *FILE_FORMATS };

ContentRules content_rules(const DataConfig *config) {
    ContentRules rules = {
        .format = data_format_resolve(config),
        .recognise = config->check && config->format != DATA_BYTES,
        .documents = config->documents != DOCUMENTS_IGNORE,
        .most_bytes = config->expand_limit << 20,
    };
    memcpy(rules.jsonl_field, config->jsonl_field, sizeof rules.jsonl_field);
    memcpy(rules.document_end, config->document_end, sizeof rules.document_end);
    return rules;
}

// The format of a file, or among those that go by the path, or NULL. Where nothing is to be
// recognised there are only those without a header.
static const FileFormat *find_format(const DataPlace *place, bool by_path) {
    for (int row = 0; row < FORMAT_COUNT; row++) {
        const FileFormat *format = FILE_FORMATS[row];
        bool plain = format == &NUMBERS_WITHOUT_HEADER || format == &PLAIN_TEXT;
        if (format->by_path != by_path || (!place->rules->recognise && !plain)) continue;
        if (format->recognise(place)) return format;
    }
    return NULL;
}

// Whether the file has what is asked for.
static bool check_kind(const FileFormat *format, const DataPlace *place, Error *err) {
    DataFormat wanted = place->rules->format;
    bool numbers = format->kind == CONTENT_NUMBERS;
    if (place->rules->any_text && numbers)
        return error_set(err, EXIT_DATA,
                         "%s: is %s, and a text is read here; name a text, or JSON lines, either "
                         "also with gzip or zstd",
                         place->path, format->name);
    if (wanted == DATA_AUTO || numbers == data_format_facts(wanted)->numbers) return true;
    const char *fix = numbers ? "set data.vocab_size to the size of its vocabulary (50257 for "
                                "GPT-2's tokens)"
                              : "leave data.format and data.vocab_size out";
    bool one_file = wanted == DATA_BYTES && !format->by_path;
    return error_set(err, EXIT_DATA, "%s: is %s, but is read as %s (%s); %s%s", place->path,
                     format->name, numbers ? "text" : "token numbers", data_format_name(wanted),
                     format->fix ? format->fix : fix,
                     one_file ? "; data.format=bytes would train on it as it is" : "");
}

static bool open_file(DataContent *content, DataPlace *place, Error *err) {
    if (!file_reader_open(&content->file, place->path, err)) return false;
    place->file = &content->file;
    ContentSample *sample = NULL;
    if (place->rules->recognise) {
        sample = content_sample_read(place->file, err);
        if (!sample) return false;
    }
    place->sample = sample;
    content->format = find_format(place, false);
    bool ok = check_kind(content->format, place, err) && content->format->open(content, place, err);
    free(sample);
    return ok;
}

// What data.document_end says, where the format says nothing, or a token's number alone.
static bool find_documents(DataContent *content, const DataPlace *place, Error *err) {
    DocumentStarts *documents = &content->documents;
    const char *end = place->rules->document_end;
    if (!end[0] || documents->count > 0) return true;
    if (content->type.bytes == 0) {
        char text[CONFIG_LABEL_BYTES];
        int bytes = document_end_text(end, text);
        return !place->rules->documents || bytes <= 0 ||
               documents_find_in_text(documents, &content->file, text, bytes, err);
    }
    documents->marked = document_end_number(end, &documents->mark);
    documents->mark_begins = false;
    return documents->marked ||
           error_set(err, EXIT_CONFIG,
                     "data.document_end is %s, but %s has token numbers: name the number of the "
                     "token that ends a document (50256 is GPT-2's)",
                     end, place->path);
}

bool data_content_find_marks(DataContent *content, Error *err) {
    enum { PIECE_BYTES = 1 << 17 };
    DocumentStarts *documents = &content->documents;
    int64_t width = content->type.bytes, room = 0, begins_behind = documents->mark_begins ? 0 : 1;
    if (!documents->marked || documents->count > 0) return true;
    void *raw = malloc(PIECE_BYTES);
    CHECK_MEMORY(raw, "no memory for %d bytes", PIECE_BYTES);
    bool ok = true;
    documents_add(documents, 0, &room);
    for (int64_t at = 0; ok && at < content->tokens; at += PIECE_BYTES / width) {
        int64_t left = content->tokens - at;
        int64_t n = left < PIECE_BYTES / width ? left : PIECE_BYTES / width;
        ok = file_reader_read(&content->file, content->begin + at * width, (size_t)(n * width), raw,
                              err);
        for (int64_t i = 0; ok && i < n; i++) {
            int64_t start = at + i + begins_behind;
            if (token_type_read(content->type, raw, i) == documents->mark && start > 0 &&
                start < content->tokens)
                documents_add(documents, start, &room);
        }
    }
    free(raw);
    return ok;
}

bool data_content_open(DataContent *content, const char *path, const ContentRules *rules,
                       Error *err) {
    DataContent c = {.file = {.fd = -1}};
    DataPlace place = {.path = path, .rules = rules};
    c.format = find_format(&place, true);
    bool ok = c.format ? check_kind(c.format, &place, err) && c.format->open(&c, &place, err)
                       : open_file(&c, &place, err);
    ok = ok && find_documents(&c, &place, err);
    if (ok)
        *content = c;
    else
        data_content_close(&c);
    return ok;
}

void data_content_close(DataContent *content) {
    if (content->file.fd > 0) file_reader_close(&content->file);
    documents_free(&content->documents);
    *content = (DataContent){.file = {.fd = -1}};
}
