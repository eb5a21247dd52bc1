// A text as the tokens of a tokenizer, kept in as few bytes each as its vocabulary needs. Not
// collective.
#ifndef MOETRAIN_WORKER_DATA_TOKENIZED_TEXT_H
#define MOETRAIN_WORKER_DATA_TOKENIZED_TEXT_H

#include "worker/data/character_text.h"
#include "worker/data/documents.h"
#include "worker/tokenizer/tokenizer.h"

// All tokens of a text, in new memory. Its documents, in bytes, leave in tokens; NULL: none. False
// with exit 3 for what is wrong with it.
bool tokenized_text_read(CharacterText *text, const FileReader *file, DocumentStarts *documents,
                         const Tokenizer *tokenizer, Error *err);

#endif
