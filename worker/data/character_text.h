// A text of characters as token numbers: read once, in pieces, and kept in as few bytes a token as
// its vocabulary needs. Not collective.
#ifndef MOETRAIN_WORKER_DATA_CHARACTER_TEXT_H
#define MOETRAIN_WORKER_DATA_CHARACTER_TEXT_H

#include "worker/data/file_reader.h"

typedef struct CharacterText {
    char path[CONFIG_PATH_BYTES];
    int64_t bytes; // of the file
    void *tokens;  // (count), owned
    int64_t count;
    int width; // bytes of a token: 1, 2 or 4
} CharacterText;

// Decodes a UTF-8 file and collects its distinct code points, ascending, in new memory for the
// caller to free: token i is (*code_points)[i]. False with exit 3 and the offset of what is not
// UTF-8, or exit 5 without memory.
bool character_text_collect(CharacterText *text, const FileReader *file, int32_t **code_points,
                            int64_t *size, Error *err);
// Decodes a UTF-8 file with known code points. False with exit 3, character and offset, when it has
// another one.
bool character_text_read(CharacterText *text, const FileReader *file, const int32_t *code_points,
                         int64_t size, Error *err);
void character_text_free(CharacterText *text); // legal on a zeroed struct

int32_t character_text_token(const CharacterText *text, int64_t position);

// The place of a code point among ascending ones, or -1.
int32_t code_point_find(const int32_t *code_points, int64_t size, int32_t code_point);

#endif
