#include "model/balance_terms.h"

BalanceTerms balance_terms(const Work *work) {
    BalanceTerms terms = work->config->moe.balance;
    if (terms.count == 0) terms = (BalanceTerms){1, {{BALANCE_LOAD, BALANCE_SHARD, 0}}};
    return terms;
}

bool balance_has_term(const Work *work, BalanceKind kind, BalanceScope scope) {
    BalanceTerms terms = balance_terms(work);
    for (int64_t i = 0; i < terms.count; i++)
        if (terms.maps[i].kind == (int)kind && terms.maps[i].scope == (int)scope) return true;
    return false;
}

int64_t balance_parts(const Work *work) {
    for (int kind = 0; kind < BALANCE_KIND_COUNT; kind++)
        if (balance_has_term(work, (BalanceKind)kind, BALANCE_SEQUENCE)) return work->shape.B;
    return work->shape.shards;
}
