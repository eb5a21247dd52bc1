// Where the documents of a data file begin: its format says it, or a text or token that ends each
// (data.document_end). Not collective.
#ifndef MOETRAIN_WORKER_DATA_DOCUMENTS_H
#define MOETRAIN_WORKER_DATA_DOCUMENTS_H

#include "worker/data/file_reader.h"

// In tokens, or in bytes of text.
typedef struct DocumentStarts {
    int64_t count;  // 0: nothing says, or a mark does
    int64_t length; // of each, where all are alike; otherwise 0
    int64_t
        *starts; // (count) ascending from 0, owned; NULL where `length` says it, or not asked for
    // Of token numbers: each document ends with this token, or begins with it.
    bool marked, mark_begins;
    int64_t mark;
    bool searched; // in a text, for what data.document_end says
} DocumentStarts;

static inline bool documents_known(const DocumentStarts *documents) {
    return documents->count > 0 || documents->marked;
}
void documents_free(DocumentStarts *documents); // legal on a zeroed struct
// One more document. room: of `starts`, from 0.
void documents_add(DocumentStarts *documents, int64_t start, int64_t *room);

// data.document_end as it stands in a text, \n, \t, \r and \\ being characters: its bytes, or -1
// for another escape.
int document_end_text(const char *key, char text[CONFIG_LABEL_BYTES]);
// As the number of a token. False where it is none.
bool document_end_number(const char *key, int64_t *token);

// Those of a text that `end` parts. A text that ends with it has no empty document behind. False
// with exit 3 on a read error.
bool documents_find_in_text(DocumentStarts *documents, const FileReader *text, const char *end,
                            int bytes, Error *err);

// From bytes of a UTF-8 text to its characters. False with exit 3 on a read error.
bool documents_count_characters(DocumentStarts *documents, const FileReader *text, Error *err);

// The document of a token, or of a byte of text, where their starts or one length are known: of
// several that begin with it the last.
int64_t documents_find(const DocumentStarts *documents, int64_t token);

// The place of each of `count` tokens from `first` on in its document, or in this row of tokens
// where it began before; whether `next`, behind them, begins another one. `tokens` are those
// tokens.
bool documents_place(const DocumentStarts *documents, int64_t first, int64_t count,
                     const int32_t *tokens, int32_t next, int32_t *positions);

#endif
