// What an evaluation says of each document of a validation file.
//
// The loss of a token is rounded to 2^-30 nats, which whole numbers of 64 bits add up without an
// error, up to 2^33 nats in all: what a document has, and all of them together, does not depend on
// windows, batches, ranks or the order of anything. A token whose loss is above 2^16 nats, or no
// number, makes those of its document unknown.
#ifndef MOETRAIN_WORKER_DOCUMENT_LOSSES_H
#define MOETRAIN_WORKER_DOCUMENT_LOSSES_H

#include "worker/data/batch.h"

typedef struct DocumentLosses {
    const DocumentStarts *starts; // of the file
    const Vocabulary *vocabulary;
    int64_t count; // of documents
    // (count, 4): units of 2^-30 nats, targets, bytes of text that they stand for, and targets
    // whose loss is in no units
    int64_t *sums;
    double bytes_per_token; // of token numbers without a text; 0: unknown
} DocumentLosses;

// Of a file that was opened with its documents. False with exit 3. Not collective.
bool document_losses_open(DocumentLosses *losses, DataFile *file, const Vocabulary *vocabulary,
                          Error *err);
void document_losses_close(DocumentLosses *losses); // legal on a zeroed struct

// A batch's own targets: token_losses (B·T) nats, windows from number first_window on, each
// `stride` tokens after the one before. Not collective.
void document_losses_take(DocumentLosses *losses, const BatchBuffer *batch,
                          const float *token_losses, int64_t first_window, int64_t stride);

// A line of JSON a document to standard output, on rank 0: document, tokens (targets), nats, loss
// (nats a token; null without one), bits_per_byte (where bytes are known), and `validation`, the
// set's name, unless it is empty; then one of all of them, with `documents` in the place of
// `document`. The nats of the rows add up to its without an error. Unknown ones are null, and there
// is no bits_per_byte. Collective over all ranks.
void document_losses_print(DocumentLosses *losses, const char *name);

#endif
