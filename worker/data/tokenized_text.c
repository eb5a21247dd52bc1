#include "worker/data/tokenized_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/tokenizer/token_file.h"

typedef struct Collection {
    CharacterText text;
    int64_t room;
} Collection;

static bool take_tokens(void *context, const int32_t *tokens, int64_t count, Error *err) {
    Collection *collection = context;
    CharacterText *text = &collection->text;
    (void)err;
    if (collection->room - text->count < count) {
        int64_t twice = 2 * collection->room, needed = text->count + count;
        collection->room = twice > needed ? twice : needed;
        text->tokens = realloc(text->tokens, (size_t)collection->room * (size_t)text->width);
        CHECK_MEMORY(text->tokens, "no memory for %lld tokens of %s", (long long)collection->room,
                     text->path);
    }
    if (text->width == 4)
        memcpy((int32_t *)text->tokens + text->count, tokens, (size_t)count * sizeof *tokens);
    for (int64_t i = 0; text->width == 2 && i < count; i++)
        ((uint16_t *)text->tokens)[text->count + i] = (uint16_t)tokens[i];
    text->count += count;
    return true;
}

bool tokenized_text_read(CharacterText *text, const FileReader *file, DocumentStarts *documents,
                         const Tokenizer *tokenizer, Error *err) {
    Collection collection = {.text = {.bytes = file->bytes, .width = token_file_width(tokenizer)}};
    snprintf(collection.text.path, sizeof collection.text.path, "%s", file->path);
    if (!tokens_of_text(tokenizer, file, documents, take_tokens, &collection, err)) {
        character_text_free(&collection.text);
        return false;
    }
    *text = collection.text;
    return true;
}
