// Which experts the tokens of several data sets choose, layer by layer: what the specialization of
// experts is read from (OLMoE, arXiv:2409.02060, section 5). Counts, so that they are the same on
// any number of ranks.
#ifndef MOETRAIN_WORKER_ANALYSIS_EXPERT_ACCOUNT_H
#define MOETRAIN_WORKER_ANALYSIS_EXPERT_ACCOUNT_H

#include "model/model.h"
#include "model/routing_tape.h"
#include "worker/data/batch.h"

// Of a layer with E experts, zero-computation ones among them, of which a token chooses K.
typedef struct LayerAccount {
    int64_t layer, experts, top_k;
    // (E, E): tokens that chose both; on the diagonal, tokens that chose the expert.
    int64_t *together;
    int64_t *of_set, *first_of_set; // (sets, E): choices of each set's tokens, and first ones alone
    int32_t *of_token;              // (V, E): how often a token of this id chose the expert
} LayerAccount;

typedef struct ExpertAccount {
    const Model *model;
    const BatchBuffer *batch;
    RoutingTape tape;
    LayerAccount *layers;
    int64_t count; // of layers
    int64_t sets, vocab_size;
    int64_t *set_tokens; // (sets)
    int64_t *tokens;     // (V): how often each id was read
    int64_t set;         // that is read now
} ExpertAccount;

// Opens the account of a model without training, whose passes over `batch` it takes from here on.
// False with exit 2 where tokens choose no experts. Not collective.
bool expert_account_open(ExpertAccount *account, Model *model, const BatchBuffer *batch,
                         int64_t sets, Error *err);
void expert_account_close(ExpertAccount *account); // legal on a zeroed one
// What follows is of that set.
void expert_account_begin_set(ExpertAccount *account, int64_t set);
// Sums over ranks what each has counted; once, at the end. Collective over all ranks.
void expert_account_reduce(ExpertAccount *account);

// Shares; 0 of nothing. That of an expert's tokens that chose `other` too:
double expert_together(const LayerAccount *layer, int64_t expert, int64_t other);
// that of a set's tokens that chose the expert:
double expert_domain(const ExpertAccount *account, const LayerAccount *layer, int64_t set,
                     int64_t expert);
// and that of the occurrences of a token that chose it.
double expert_vocabulary(const ExpertAccount *account, const LayerAccount *layer, int64_t token,
                         int64_t expert);

#endif
