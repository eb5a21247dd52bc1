#include "model/router_variation.h"

#include "model/balance_terms.h"

static bool has_kind(const Work *work, BalanceKind kind) {
    for (int scope = 0; scope <= BALANCE_STEP; scope++)
        if (balance_has_term(work, kind, (BalanceScope)scope)) return true;
    return false;
}

void router_layout_variations(Router *router, const Work *work, Arena *activations,
                              Arena *scratch) {
    int64_t E = router->shape.scored, parts = balance_parts(work);
    bool any = false;
    for (int kind = BALANCE_LOAD + 1; kind < BALANCE_KIND_COUNT; kind++) {
        if (!work->training || !has_kind(work, (BalanceKind)kind)) continue;
        router->slopes[kind] = arena_2d(activations, F32, parts, E);
        any = true;
    }
    if (!any) return;
    router->scratch.variation_sums = arena_2d(scratch, I64, parts, E);
    router->scratch.batch_sums = arena_2d(scratch, I64, 1, E);
}

static NoisyLogits noisy_logits(const Router *router) {
    return (NoisyLogits){router->raw_logits, router->logits, router->noise_scale};
}

// What a kind sums, of each balance part.
static void sum_addends(const Router *router, Work *work, BalanceKind kind, Tensor sums) {
    switch (kind) {
    case BALANCE_LOAD:
        break;
    case BALANCE_IMPORTANCE:
        importance_sums(work->dev, sums, router->ids, router->weights);
        return;
    case BALANCE_NOISY_LOAD:
        noisy_load_sums(work->dev, sums, noisy_logits(router), router->shape.top_k);
        return;
    }
    CHECK(false, "kind %d is no variation", (int)kind);
}

static VariationTerm variation_term(const Work *work, BalanceTerm term, int64_t column) {
    int64_t parts = balance_parts(work), tokens = 0, run = 1;
    double of_step = per_step_token(work);
    switch ((BalanceScope)term.scope) {
    case BALANCE_SHARD:
        run = parts / work->shape.shards;
        tokens = work->shape.N / work->shape.shards;
        break;
    case BALANCE_SEQUENCE:
        tokens = work->shape.N / parts;
        break;
    case BALANCE_BATCH:
    case BALANCE_STEP: // refused: balance_options.c
    case BALANCE_DOCUMENT:
        tokens = micro_batch_tokens(work);
        break;
    }
    return (VariationTerm){
        .coefficient = term.factor,
        .run = run,
        .scope_share = of_step * (double)tokens,
        .part_share = of_step * (double)(work->shape.N / parts),
        .column = column,
    };
}

static void add_kind(Router *router, Work *work, Statistics *stats, BalanceKind kind) {
    BalanceTerms terms = balance_terms(work);
    Tensor sums = router->scratch.variation_sums, of_batch = router->scratch.batch_sums;
    bool add = false;
    sum_addends(router, work, kind, sums);
    if (balance_has_term(work, kind, BALANCE_BATCH)) {
        Tensor columns = tensor_range(of_batch, 0, router->shape.scored);
        sum_columns(work->dev, columns, sums, false);
        all_reduce_sum(work->groups.world, columns, REDUCE_ANY_ORDER, (Tensor){0},
                       TRAFFIC_STATISTICS);
    }
    for (int64_t i = 0; i < terms.count; i++) {
        if (terms.maps[i].kind != (int)kind) continue;
        variation_totals(work->dev, statistics_rows(stats, work), router->slopes[kind],
                         terms.maps[i].scope == BALANCE_BATCH ? of_batch : sums,
                         variation_term(work, terms.maps[i], router->columns.balance[i]), add);
        add = true;
    }
}

void router_add_variations(Router *router, Work *work, Statistics *stats) {
    for (int kind = BALANCE_LOAD + 1; kind < BALANCE_KIND_COUNT; kind++)
        if (has_kind(work, (BalanceKind)kind)) add_kind(router, work, stats, (BalanceKind)kind);
}

void router_importance_backward(const Router *router, Work *work, Tensor dweights) {
    if (has_kind(work, BALANCE_IMPORTANCE))
        importance_backward(work->dev, dweights, router->ids, router->slopes[BALANCE_IMPORTANCE]);
}

void router_noisy_load_backward(const Router *router, Work *work, Tensor dlogits, Tensor dscale) {
    if (has_kind(work, BALANCE_NOISY_LOAD))
        noisy_load_backward(work->dev, dlogits, dscale, router->slopes[BALANCE_NOISY_LOAD],
                            noisy_logits(router), router->shape.top_k);
}
