// What must be the same on all ranks and is found by each for itself: compared at start, because
// later a difference hangs a run, or makes it wrong without a word.
#ifndef MOETRAIN_COMM_RANK_FACTS_H
#define MOETRAIN_COMM_RANK_FACTS_H

#include "kernels/check.h"

enum { FACT_BYTES = 320 };

typedef struct RankFact {
    const char *what;       // "data.train"
    char value[FACT_BYTES]; // of this rank: compared, and shown
    char note[FACT_BYTES];  // of this rank: only shown, such as a path; may be empty
    ExitCode exit_code;     // of a difference; EXIT_DONE: a warning is enough
    const char *fix;        // what to do about a difference
} RankFact;

// Compares facts [0, count), listed alike on every rank, with rank 0's. False everywhere with the
// first difference that is an error: what, both ranks, their hosts and values, and the fix. Others
// are warnings of rank 0. Collective over all ranks.
bool rank_facts_compare(const RankFact *facts, int count, Error *err);

#endif
