// Documents packed whole into windows of T tokens: best-fit packing (Ding, Wang, Paolini et al.
// 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830).
//
// A document of n tokens has n - 1 pairs of an input and its target. Longer ones than T pairs are
// cut into pieces of T and a rest. The pieces go, the longest first, each into the window in which
// the least room is left that is enough (Johnson 1974); what stays free at a window's end is
// padding. So every pair is in one window, and a document is cut only where it does not fit into
// any. A function of the documents and T. Not collective.
#ifndef MOETRAIN_WORKER_DATA_BEST_FIT_H
#define MOETRAIN_WORKER_DATA_BEST_FIT_H

#include "worker/data/documents.h"

// Pairs [first, first + length) of the file's tokens: of tokens first … first + length.
typedef struct Piece {
    int64_t first;
    int64_t length;
} Piece;

typedef struct Packing {
    int64_t T, windows;
    int64_t pairs;      // in all windows
    Piece *pieces;      // window by window
    int64_t *of_window; // (windows + 1) the first piece of each
} Packing;

// Of a file of so many tokens, whose documents' starts or length are known.
void packing_make(Packing *packing, const DocumentStarts *documents, int64_t tokens, int64_t T);
void packing_free(Packing *packing); // legal on a zeroed struct
// The share of all windows' places that is padding.
double packing_padding(const Packing *packing);

#endif
