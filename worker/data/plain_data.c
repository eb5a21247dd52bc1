// Data without a header: text, and token numbers of the width that data.format says.
#include "worker/data/data_content.h"
#include "worker/data/data_format.h"

// Text and numbers cannot be told apart for sure: what is asked for decides.
static bool are_numbers_wanted(const DataPlace *place) {
    DataFormat format = place->rules->format;
    return format == DATA_AUTO ? content_is_binary(place->sample)
                               : data_format_facts(format)->numbers;
}

static bool open_numbers(DataContent *content, const DataPlace *place, Error *err) {
    DataFormat format = place->rules->format;
    int64_t bytes = place->file->bytes, width = place->rules->bytes_without_header;
    if (format == DATA_AUTO) format = DATA_TOKENS;
    if (format == DATA_UINT16 || format == DATA_UINT32)
        width = data_format_facts(format)->token_bytes;
    else if (width == 2)
        format = DATA_UINT16;
    if (place->sample && !data_format_check(place->file, place->sample, format, err)) return false;
    if (width == 0)
        return error_set(err, EXIT_DATA,
                         "%s: has no header that says how wide its token numbers are, and nothing "
                         "is guessed; set data.format=uint16 or uint32",
                         place->path);
    if (bytes % width != 0)
        return error_set(err, EXIT_DATA, "%s: %lld bytes are not whole %lld-byte tokens; %s",
                         place->path, (long long)bytes, (long long)width,
                         width == 4 && bytes % 2 == 0
                             ? "set data.format=uint16 if they have two bytes, or write the file "
                               "again: it is cut off"
                             : "write the file again, it is cut off, or check data.format");
    content->type = (TokenType){.bytes = (int)width};
    content->tokens = bytes / width;
    return true;
}

const FileFormat NUMBERS_WITHOUT_HEADER = {
    .name = "token numbers without a header",
    .kind = CONTENT_NUMBERS,
    .recognise = are_numbers_wanted,
    .open = open_numbers,
};

static bool is_text_wanted(const DataPlace *place) {
    return !are_numbers_wanted(place);
}

static bool open_text(DataContent *content, const DataPlace *place, Error *err) {
    (void)content;
    return !place->sample || place->rules->any_text ||
           data_format_check(place->file, place->sample, place->rules->format, err);
}

const FileFormat PLAIN_TEXT = {
    .name = "text",
    .kind = CONTENT_TEXT,
    .recognise = is_text_wanted,
    .open = open_text,
};
