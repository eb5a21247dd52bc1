#include "model/head_balance.h"

#include "model/balance_terms.h"

#define IMPORTANCE(name)                                                                           \
    { .field = name, .digits = 17, .value = statistics_mean_over_layers, .column = name }
static const Summary SUMMARIES[ROUTER_PLACES][HEAD_BALANCE_SCOPES] = {
    [ROUTER_OF_VALUES] = {[BALANCE_SHARD] = IMPORTANCE("value_importance_shard"),
                          [BALANCE_SEQUENCE] = IMPORTANCE("value_importance_sequence"),
                          [BALANCE_BATCH] = IMPORTANCE("value_importance_batch")},
    [ROUTER_OF_OUTPUTS] = {[BALANCE_SHARD] = IMPORTANCE("output_importance_shard"),
                           [BALANCE_SEQUENCE] = IMPORTANCE("output_importance_sequence"),
                           [BALANCE_BATCH] = IMPORTANCE("output_importance_batch")},
};

const char *head_balance_column(RouterPlace place, BalanceTerm term) {
    bool is_told = term.kind == BALANCE_IMPORTANCE && term.scope < HEAD_BALANCE_SCOPES;
    return is_told ? SUMMARIES[place][term.scope].column : NULL;
}

static bool has_term(const Work *work, int scope) {
    return balance_has_term(work, BALANCE_IMPORTANCE, (BalanceScope)scope);
}

// Scopes of this rank's tokens, or parts of one.
static int64_t parts_of(const Work *work, int scope) {
    return scope == BALANCE_SEQUENCE ? work->shape.B
           : scope == BALANCE_SHARD  ? work->shape.shards
                                     : 1;
}

void head_balance_layout(HeadBalance *balance, RouterPlace place, Work *work, Statistics *stats,
                         int64_t layer, Arena *activations) {
    balance->H = work->config->attention.shape.heads;
    balance->E = work->config->attention.experts;
    for (int scope = 0; scope < HEAD_BALANCE_SCOPES; scope++) {
        if (!has_term(work, scope)) continue;
        const Summary *told = &SUMMARIES[place][scope];
        balance->columns[scope] = statistics_scalar(stats, told->column, layer);
        statistics_summarize(stats, told);
        if (work->training)
            balance->slopes[scope] =
                arena_2d(activations, F32, parts_of(work, scope), balance->H * balance->E);
    }
}

void head_balance_layout_scratch(HeadBalance *balance, const Work *work, Arena *scratch) {
    bool any = false;
    for (int scope = 0; scope < HEAD_BALANCE_SCOPES; scope++) any = any || has_term(work, scope);
    if (any) balance->sums = arena_2d(scratch, I64, work->shape.B, balance->H * balance->E);
}

static double factor_of(const Work *work, int scope) {
    const BalanceTerms *terms = &work->config->moe.balance;
    for (int64_t i = 0; i < terms->count; i++)
        if (terms->maps[i].kind == BALANCE_IMPORTANCE && terms->maps[i].scope == scope)
            return terms->maps[i].factor;
    CHECK(false, "no term of scope %d", scope);
}

// Rows of parts (parts, H·E) as rows of their heads (parts·H, E).
static Tensor by_head(const HeadBalance *balance, Tensor parts) {
    return tensor_reshape_2d(parts, parts.shape[0] * balance->H, balance->E);
}

// Of one scope. What is the same for all shards is told by each, its share of it.
static void add_scope(const HeadBalance *balance, Work *work, Statistics *stats, int scope,
                      Tensor ids, Tensor weights) {
    bool of_batch = scope == BALANCE_BATCH;
    int64_t parts = parts_of(work, scope), tellers = of_batch ? work->shape.shards : 1;
    int64_t tokens = work->shape.N / parts, shards = work->shape.shards / tellers;
    double of_head = per_step_token(work) / (double)balance->H;
    Tensor sums = tensor_rows(balance->sums, 0, parts);
    VariationTerm term = {
        .coefficient = factor_of(work, scope),
        .run = 1,
        .scope_share = of_head * (double)(of_batch ? micro_batch_tokens(work) : tokens),
        .part_share = of_head * (double)(tokens / tellers),
        .column = balance->columns[scope],
    };
    importance_sums(work->dev, sums, ids, weights);
    if (of_batch)
        all_reduce_sum(work->groups.world, tensor_range(sums, 0, balance->H * balance->E),
                       REDUCE_ANY_ORDER, (Tensor){0}, TRAFFIC_STATISTICS);
    for (int64_t i = 0; i < tellers; i++)
        variation_totals(work->dev, tensor_rows(statistics_rows(stats, work), i * shards, shards),
                         by_head(balance, balance->slopes[scope]), by_head(balance, sums), term,
                         false);
}

void head_balance_add(const HeadBalance *balance, Work *work, Statistics *stats, Tensor ids,
                      Tensor weights) {
    for (int scope = 0; scope < HEAD_BALANCE_SCOPES; scope++)
        if (has_term(work, scope)) add_scope(balance, work, stats, scope, ids, weights);
}

void head_balance_backward(const HeadBalance *balance, Work *work, Tensor dweights, Tensor ids) {
    for (int scope = 0; scope < HEAD_BALANCE_SCOPES; scope++)
        if (has_term(work, scope))
            importance_backward(work->dev, dweights, ids, balance->slopes[scope]);
}

double head_balance_sent_bytes(const HeadBalance *balance, const Work *work) {
    if (!has_term(work, BALANCE_BATCH)) return 0;
    return (double)all_reduce_sum_sent_bytes((int)work->shape.ranks, balance->H * balance->E, I64,
                                             REDUCE_ANY_ORDER);
}
