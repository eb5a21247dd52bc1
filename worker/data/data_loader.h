// Training text to batches of token numbers.
//
// A file is a row of tokens. An epoch cuts it into windows of T tokens at an offset drawn for the
// epoch, unless its documents are packed, and visits every window once in an order drawn for the
// epoch: both are functions of (seed, epoch, index), so the cursor is two integers, saved in the
// checkpoint, and a batch does not depend on the number of ranks. Files are read with pread, never
// mapped: a file that shrinks while training is an error message, not a SIGBUS.
#ifndef MOETRAIN_WORKER_DATA_DATA_LOADER_H
#define MOETRAIN_WORKER_DATA_DATA_LOADER_H

#include "worker/data/best_fit.h"
#include "worker/data/vocabulary.h"

typedef struct DataFile DataFile;

// Opens and validates a whole file: exists, not empty, what the vocabulary takes it for, whole
// tokens, every token inside the vocabulary. The scan is shared among `readers` callers, this one
// being number `reader` (the ranks; 0 and 1 when alone): each checks its part, and the caller makes
// the ranks agree. part: what the file is for. False with exit 3 and file, offset, value and fix.
// Not collective.
bool data_file_open(DataFile **file, const char *path, DataPart part, const Vocabulary *vocabulary,
                    int reader, int readers, Error *err);
void data_file_close(DataFile *file); // legal on NULL

int64_t data_file_tokens(const DataFile *file);
// What it is, and the reader of its bytes.
const DataContent *data_file_content(const DataFile *file);
// Says where all documents begin, also those that a token parts. False with exit 3 on a read error.
bool data_file_find_documents(DataFile *file, Error *err);
// Bytes of text that a token stands for on average; 0 when unknown.
double data_file_bytes_per_token(const DataFile *file);
// Size and XXH3-128 of up to 64 MiB (head, middle, tail) of the file: identity for the checkpoint.
// False with exit 3 on a read error.
bool data_file_identity(const DataFile *file, char identity[40], Error *err);

// Training windows of T tokens are from here on documents that are packed (best_fit.h). Of a file
// that was opened with its documents. False with exit 3. Not collective.
bool data_file_pack(DataFile *file, int64_t T, Error *err);
// NULL: it is not packed.
const Packing *data_file_packing(const DataFile *file);
// Windows of T tokens (plus one target) in an epoch; 0 when the file is too short.
int64_t data_file_windows(const DataFile *file, int64_t T);

typedef struct DataCursor {
    int64_t epoch, index; // index of the next window in the epoch's order
} DataCursor;
// Moves the cursor by n windows. Not collective.
DataCursor data_cursor_advance(DataCursor cursor, int64_t n, int64_t windows);

// The `n`-th window after the cursor, in the training order: inputs and targets are T tokens each,
// targets one ahead. positions (T), unless it is NULL: the place of each token in its document, or
// in the window where the document began before; the target of a document's last token is then
// NO_TARGET. Of packed documents padding is token 0 without a target, at positions that count from
// there. False with exit 3 and the offset when the file has become shorter or a token
// is outside the vocabulary, with exit 4 for a cursor that no run has.
bool data_file_training_window(DataFile *file, uint64_t seed, DataCursor cursor, int64_t n,
                               int64_t T, int32_t *inputs, int32_t *targets, int32_t *positions,
                               Error *err);
// Evaluation takes the file in order, window after window of T tokens, each `stride` tokens after
// the one before it, so that every token but the first is a target once: in the first window that
// has it. With a stride below T every target but those of the first window has at least T - stride
// tokens before it in its window. The last window may be shorter. 0 for a file of one token.
int64_t data_file_evaluation_windows(const DataFile *file, int64_t T, int64_t stride);
// Window `index` of them: the targets [*first, *count) of its T are its own, behind them all holds
// token 0, at positions that count from there. None beyond the last window.
bool data_file_evaluation_window(DataFile *file, int64_t index, int64_t T, int64_t stride,
                                 int32_t *inputs, int32_t *targets, int32_t *positions,
                                 int64_t *first, int64_t *count, Error *err);

#endif
