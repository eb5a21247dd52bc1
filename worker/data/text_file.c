#include "worker/data/text_file.h"

#include <string.h>

bool text_file_open(DataContent *text, const char *path, Error *err) {
    const DataConfig defaults = {.format = DATA_BYTES, .jsonl_field = "text", .expand_limit = 4096};
    ContentRules rules = content_rules(&defaults);
    rules.recognise = rules.any_text = rules.documents = true;
    return data_content_open(text, path, &rules, err);
}

void text_file_open_input(DataContent *text, int64_t *taken) {
    *text = (DataContent){.format = &PLAIN_TEXT};
    file_reader_open_input(&text->file, taken);
}
