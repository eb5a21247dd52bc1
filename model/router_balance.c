#include "model/router_balance.h"

#include <string.h>

#include "model/balance_terms.h"
#include "model/router_bias.h"
#include "model/router_health.h"
#include "model/router_variation.h"
#include "model/source_load.h"
#include "model/zero_experts.h"

enum { COUNTS_BATCH, COUNTS_STEP }; // rows of `counts`

void router_layout_sums(Router *router, Work *work, Arena *activations, Arena *scratch) {
    int64_t E = router->shape.scored, parts = balance_parts(work);
    router->balance = arena_2d(activations, F32, parts, E);
    if (balance_has_term(work, BALANCE_LOAD, BALANCE_DOCUMENT))
        router->document_balance = arena_2d(activations, F32, work->shape.N, E);
    if (balance_has_term(work, BALANCE_LOAD, BALANCE_BATCH) ||
        balance_has_term(work, BALANCE_LOAD, BALANCE_STEP))
        router->counts = arena_2d(activations, I64, 2, E);
    router->scratch.sums = (RouterSums){
        .prob_sum = arena_2d(scratch, F64, parts, E),
        .entropy_sum = arena_1d(scratch, F64, parts),
        .lse2_sum = arena_1d(scratch, F64, parts),
        .weight_mass = arena_2d(scratch, F64, parts, E),
        .tokens_per_expert = arena_2d(scratch, I32, parts, E),
        .dropped = arena_2d(scratch, I32, parts, E),
    };
    if (work->config->moe.balance_choices == BALANCE_FIRST_CHOICES)
        router->scratch.sums.first_choices = arena_2d(scratch, I32, parts, E);
    router_layout_variations(router, work, activations, scratch);
}

// ---- statistics ---------------------------------------------------------------------------------

// Choices that were dropped, over all of them.
static double drop_rate(const Statistics *stats, const char *column) {
    int64_t choices = 0, dropped = 0;
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *routed = &stats->columns[i];
        if (strcmp(routed->name, column) != 0) continue;
        const int64_t *kept = statistics_counts_of(stats, routed);
        const int64_t *lost = statistics_count_values(stats, "dropped", routed->layer);
        choices += zero_choices(stats, routed->layer);
        for (int64_t e = 0; e < routed->count; e++) {
            choices += kept[e] + lost[e];
            dropped += lost[e];
        }
    }
    return (double)dropped / (double)choices;
}

// What was asked of the busiest expert over what was asked of the mean one, in the worst layer.
static double load_imbalance(const Statistics *stats, const char *column) {
    double worst = 0;
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *routed = &stats->columns[i];
        if (strcmp(routed->name, column) != 0) continue;
        const int64_t *kept = statistics_counts_of(stats, routed);
        const int64_t *lost = router_dropped(stats, routed);
        int64_t sum = 0, busiest = 0;
        for (int64_t e = 0; e < routed->count; e++) {
            int64_t load = kept[e] + lost[e];
            sum += load;
            busiest = load > busiest ? load : busiest;
        }
        if (sum == 0) continue; // every choice is a zero-computation expert's
        double imbalance = (double)busiest * (double)routed->count / (double)sum;
        if (imbalance > worst) worst = imbalance;
    }
    return worst;
}

static const Summary SUMMARIES[] = {
    {.field = "balance_loss",
     .digits = 17,
     .value = statistics_mean_over_layers,
     .column = "balance",
     .line = {" | balance ", .decimals = 3}},
    {.field = "z_loss",
     .digits = 17,
     .value = statistics_mean_over_layers,
     .column = "z",
     .line = {" z ", .decimals = 2}},
    {.field = "drop_rate",
     .digits = 9,
     .value = drop_rate,
     .column = "routed",
     .line = {" | drop ", .decimals = 1, .percent = true}},
    {.field = "load_imbalance",
     .digits = 9,
     .value = load_imbalance,
     .column = "routed",
     .line = {" load max/mean ", .decimals = 2}},
    {.field = "router_entropy_nats",
     .digits = 9,
     .value = statistics_mean_over_layers,
     .column = "entropy"},
};

static const Summary OF_MIXERS[] = {
    {.field = "attention_balance_loss",
     .digits = 17,
     .value = statistics_mean_over_layers,
     .column = "attention_balance"},
    {.field = "attention_z_loss",
     .digits = 17,
     .value = statistics_mean_over_layers,
     .column = "attention_z"},
    {.field = "attention_load_imbalance",
     .digits = 9,
     .value = load_imbalance,
     .column = "attention_routed"},
    {.field = "attention_router_entropy_nats",
     .digits = 9,
     .value = statistics_mean_over_layers,
     .column = "attention_entropy"},
};

// The same of terms after the first.
#define OTHER_TERM(words)                                                                          \
    {                                                                                              \
        .field = "balance_loss_" words, .digits = 17, .value = statistics_mean_over_layers,        \
        .column = "balance_" words                                                                 \
    }
#define OTHER_TERMS_OF(kind)                                                                       \
    {                                                                                              \
        [BALANCE_SHARD] = OTHER_TERM(kind "shard"),                                                \
        [BALANCE_SEQUENCE] = OTHER_TERM(kind "sequence"),                                          \
        [BALANCE_BATCH] = OTHER_TERM(kind "batch"), [BALANCE_STEP] = OTHER_TERM(kind "step"),      \
        [BALANCE_DOCUMENT] = OTHER_TERM(kind "document"),                                          \
    }
static const Summary OTHER_TERMS[BALANCE_KIND_COUNT][BALANCE_DOCUMENT + 1] = {
    [BALANCE_LOAD] = OTHER_TERMS_OF(""),
    [BALANCE_IMPORTANCE] = OTHER_TERMS_OF("importance_"),
    [BALANCE_NOISY_LOAD] = OTHER_TERMS_OF("noisy_load_"),
};
static const Summary *summary_of(BalanceTerm term) {
    return &OTHER_TERMS[term.kind][term.scope];
}

const char *router_balance_column(RouterPlace place, const BalanceTerms *terms, int64_t i) {
    static const char *const of_mixers[BALANCE_TERMS_MAX] = {
        "attention_balance",   "attention_balance_2", "attention_balance_3", "attention_balance_4",
        "attention_balance_5", "attention_balance_6", "attention_balance_7", "attention_balance_8"};
    if (place == ROUTER_OF_MIXER) return of_mixers[i];
    return i == 0 ? "balance" : summary_of(terms->maps[i])->column;
}

// A number for each expert and, right behind them as ops write them, for each zero-computation
// expert: two columns, so that what is told of experts is told of those that compute.
static int columns_by_expert(Statistics *stats, const Router *router, const char *name,
                             const char *zero_name,
                             int (*ask)(Statistics *, const char *, int64_t, int64_t)) {
    int first = ask(stats, name, router->layer, router->shape.experts);
    if (router->shape.zero == 0) return first;
    int zero = ask(stats, zero_name, router->layer, router->shape.zero);
    CHECK(zero == first + router->shape.experts, "%s is not behind %s", zero_name, name);
    return first;
}

void router_report(Router *router, const Work *work, Statistics *stats) {
    int64_t layer = router->layer;
    const RouterNames *names = &ROUTER_NAMES[router->place];
    bool of_mixer = router->place == ROUTER_OF_MIXER;
    BalanceTerms terms = balance_terms(work);
    router->columns = (RouterColumns){
        .balance = {statistics_scalar(stats, router_balance_column(router->place, &terms, 0),
                                      layer)},
        .z = statistics_scalar(stats, names->z, layer),
        .entropy = statistics_scalar(stats, names->entropy, layer),
        .weight_mass = columns_by_expert(stats, router, names->weight_mass, "zero_weight_mass",
                                         statistics_vector),
        .routed = columns_by_expert(stats, router, names->routed, ZERO_COLUMN, statistics_counts),
        .dropped = statistics_counts(stats, names->dropped, layer, router->shape.experts),
        .squares = names->squares ? statistics_counts(stats, names->squares, layer, 3) : -1,
        .source_load =
            of_mixer ? -1 : source_load_column(stats, work, layer, router->shape.experts),
    };
    for (int64_t i = 1; i < terms.count; i++)
        router->columns.balance[i] =
            statistics_scalar(stats, router_balance_column(router->place, &terms, i), layer);
    if (router->bias >= 0) statistics_state(stats, names->bias, layer, router_bias(router, work));
    if (of_mixer) {
        for (size_t i = 0; i < sizeof OF_MIXERS / sizeof *OF_MIXERS; i++)
            statistics_summarize(stats, &OF_MIXERS[i]);
    } else {
        for (size_t i = 0; i < sizeof SUMMARIES / sizeof *SUMMARIES; i++)
            statistics_summarize(stats, &SUMMARIES[i]);
        for (int64_t i = 1; i < terms.count; i++)
            statistics_summarize(stats, summary_of(terms.maps[i]));
    }
    router_health_summarize(stats, router->place, router->bias >= 0);
    if (router->shape.zero > 0) zero_experts_summarize(stats);
}

static void count_logit_squares(const Router *router, Work *work, Statistics *stats,
                                int64_t tokens) {
    if (router->columns.squares < 0) return;
    count_squares(work->dev, statistics_count_range(stats, router->columns.squares, 3),
                  tensor_range(router->scratch.squares, 0, tokens), router->shape.scored);
}

void router_count_evaluation(const Router *router, Work *work, Statistics *stats) {
    int64_t tokens = work->step.counted_tokens;
    if (tokens == 0) return;
    count_logit_squares(router, work, stats, tokens);
    bool takes = work->config->moe.router.kind == EXPERT_CHOICE; // what was not kept was no choice
    count_ids(work->dev,
              statistics_count_range(stats, router->columns.routed, router->shape.scored),
              tensor_rows(router->ids, 0, tokens),
              takes ? tensor_rows(router->kept, 0, tokens) : (Tensor){0});
}

// Where an op adds them up.
static RouterTotals columns_in(const Statistics *stats, const Work *work, const Router *router) {
    RouterColumns columns = router->columns;
    int64_t E = router->shape.scored;
    return (RouterTotals){
        .totals = statistics_rows(stats, work),
        .z = columns.z,
        .entropy = columns.entropy,
        .weight_mass = columns.weight_mass,
        .routed = statistics_count_range(stats, columns.routed, E),
        .dropped = statistics_count_range(stats, columns.dropped, router->shape.experts),
    };
}

// The choices of the micro-batch on all ranks, and of the step's micro-batches up to it.
static void sum_counts(Router *router, Work *work) {
    if (router->counts.rank == 0) return;
    int64_t E = router->shape.scored;
    Tensor batch = tensor_range(router->counts, 0, E), first = router->scratch.sums.first_choices;
    sum_columns(work->dev, batch, first.rank > 0 ? first : router->scratch.sums.tokens_per_expert,
                false);
    all_reduce_sum(work->groups.world, batch, REDUCE_ANY_ORDER, (Tensor){0}, TRAFFIC_STATISTICS);
    sum_columns(work->dev, tensor_range(router->counts, E, E),
                tensor_rows(router->counts, COUNTS_BATCH, 1), work->step.micro_batch > 0);
}

// What f_i, the share of choices that went to expert i before dropping, is taken of; times E over
// the tokens of the step, so that its product with Σ P over the part's tokens is the part's share
// of E·Σ f_i·P_i. The gradient's coefficient is α times that; there is none through f (semantics:
// Switch, arXiv:2101.03961, eq. 4).
static LoadTerm load_term(const Router *router, const Work *work, BalanceTerm term) {
    int64_t N = work->shape.N, parts = balance_parts(work);
    int64_t of_shard = parts / work->shape.shards;
    LoadTerm load = {.coefficient = term.factor, .parts = 1, .counts_row = -1};
    int64_t tokens = 0;
    switch ((BalanceScope)term.scope) {
    case BALANCE_SHARD:
        load.parts = of_shard;
        tokens = N / parts * of_shard;
        break;
    case BALANCE_SEQUENCE:
        tokens = N / parts;
        break;
    case BALANCE_BATCH:
        load.counts_row = COUNTS_BATCH;
        tokens = micro_batch_tokens(work);
        break;
    case BALANCE_STEP:
        load.counts_row = COUNTS_STEP;
        tokens = micro_batch_tokens(work) * (work->step.micro_batch + 1);
        break;
    case BALANCE_DOCUMENT: // balance_documents
        CHECK(false, "documents are no parts");
    }
    load.choices = (double)balance_denominator(&work->config->moe, router->shape, tokens);
    return load;
}

// The term of documents, whose coefficients are added to those of the others.
static void balance_documents(Router *router, Work *work, Statistics *stats, BalanceTerm term,
                              int64_t column) {
    const MoeConfig *moe = &work->config->moe;
    DocumentTerm of_documents = {
        .T = work->shape.T,
        .coefficient = term.factor,
        .per_step_token = per_step_token(work),
        .choices_a_token = (double)balance_denominator(moe, router->shape, 1),
        .first_choices = moe->balance_choices == BALANCE_FIRST_CHOICES,
        .score = router_score(moe->router, router->shape.top_k),
        .column = column,
    };
    document_balance(work->dev, router->document_balance, statistics_rows(stats, work),
                     router->balance, router->logits, router->ids, work->step.positions,
                     of_documents);
}

Tensor router_balance_coefficients(const Router *router, const Work *work) {
    bool documents = balance_has_term(work, BALANCE_LOAD, BALANCE_DOCUMENT);
    return documents ? router->document_balance : router->balance;
}

void router_add_statistics(Router *router, Work *work, Statistics *stats) {
    BalanceTerms terms = balance_terms(work);
    BalanceRule rule = {.per_step_token = per_step_token(work)};
    for (int64_t i = 0; i < terms.count; i++) {
        if (terms.maps[i].kind != BALANCE_LOAD || terms.maps[i].scope == BALANCE_DOCUMENT) continue;
        LoadTerm load = load_term(router, work, terms.maps[i]);
        load.column = router->columns.balance[i];
        rule.terms[rule.count++] = load;
    }
    if (router->scratch.sums.first_choices.rank > 0)
        count_first_choices(work->dev, router->scratch.sums.first_choices, router->ids);
    sum_counts(router, work);
    router_totals(work->dev, columns_in(stats, work, router), router->balance, router->scratch.sums,
                  router->counts, rule);
    count_logit_squares(router, work, stats, work->shape.N);
    source_load_count(router, work, stats);
    router_add_variations(router, work, stats);
    for (int64_t i = 0; i < terms.count; i++)
        if (terms.maps[i].scope == BALANCE_DOCUMENT)
            balance_documents(router, work, stats, terms.maps[i], router->columns.balance[i]);
}

double router_balance_sent_bytes(const Router *router, const Work *work) {
    int64_t sums = router->counts.rank > 0; // of so many numbers an expert
    for (int kind = 0; kind < BALANCE_KIND_COUNT; kind++)
        sums += kind != BALANCE_LOAD && balance_has_term(work, (BalanceKind)kind, BALANCE_BATCH);
    return (double)sums * (double)all_reduce_sum_sent_bytes(
                              (int)work->shape.ranks, router->shape.scored, I64, REDUCE_ANY_ORDER);
}
