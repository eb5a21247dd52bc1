// The terms of the load-balancing loss, as moe.balance has them.
#ifndef MOETRAIN_MODEL_BALANCE_TERMS_H
#define MOETRAIN_MODEL_BALANCE_TERMS_H

#include "model/work.h"

// The terms, of which there is one at least: without any the load is measured.
BalanceTerms balance_terms(const Work *work);
// Whether there is one of that kind and scope.
bool balance_has_term(const Work *work, BalanceKind kind, BalanceScope scope);
// Parts over which sums are taken: the smallest that a term asks for, this rank's sequences or its
// shards, of which sequences are parts.
int64_t balance_parts(const Work *work);

#endif
