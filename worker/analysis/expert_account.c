#include "worker/analysis/expert_account.h"

#include <stdlib.h>

#include "comm/comm.h"

// ---- memory -------------------------------------------------------------------------------------

static void *counts(int64_t elements, DType dtype) {
    void *memory = calloc((size_t)elements + 1, dtype_bytes(dtype));
    CHECK_MEMORY(memory, "no memory for %lld counts", (long long)elements);
    return memory;
}

static void open_layer(LayerAccount *layer, const ExpertAccount *account, int64_t number) {
    MoeShape shape = moe_shape(&account->model->config, number);
    int64_t E = shape.scored;
    *layer = (LayerAccount){.layer = number,
                            .experts = E,
                            .top_k = shape.top_k,
                            .together = counts(E * E, I64),
                            .of_set = counts(account->sets * E, I64),
                            .first_of_set = counts(account->sets * E, I64),
                            .of_token = counts(account->vocab_size * E, I32)};
}

static void passed(void *context, int64_t tokens);

bool expert_account_open(ExpertAccount *account, Model *model, const BatchBuffer *batch,
                         int64_t sets, Error *err) {
    const ModelConfig *config = &model->config;
    if (config->moe.router.kind == EXPERT_CHOICE)
        return error_set(err, EXIT_CONFIG,
                         "with moe.router=expert_choice experts choose tokens, and analyse counts "
                         "what tokens choose");
    *account = (ExpertAccount){
        .model = model, .batch = batch, .sets = sets, .vocab_size = config->vocab_size};
    account->layers = calloc((size_t)config->layers, sizeof *account->layers);
    CHECK_MEMORY(account->layers, "no memory for %lld layers", (long long)config->layers);
    account->set_tokens = counts(sets, I64);
    account->tokens = counts(config->vocab_size, I64);
    for (int64_t layer = 0; layer < config->layers; layer++)
        if (model_is_routed(config, layer))
            open_layer(&account->layers[account->count++], account, layer);
    if (account->count == 0)
        return error_set(err, EXIT_CONFIG,
                         "no layer of this model has experts that a router chooses");
    routing_tape_open(&account->tape, config, model->work.shape.N);
    account->tape.passed = passed;
    account->tape.context = account;
    model->work.tape = &account->tape;
    return true;
}

void expert_account_close(ExpertAccount *account) {
    for (int64_t i = 0; i < account->count; i++) {
        free(account->layers[i].together);
        free(account->layers[i].of_set);
        free(account->layers[i].first_of_set);
        free(account->layers[i].of_token);
    }
    if (account->model) routing_tape_close(&account->tape, &account->model->config);
    free(account->layers);
    free(account->set_tokens);
    free(account->tokens);
    *account = (ExpertAccount){0};
}

// ---- counting -----------------------------------------------------------------------------------

void expert_account_begin_set(ExpertAccount *account, int64_t set) {
    account->set = set;
}

static void count_token(const ExpertAccount *account, LayerAccount *layer, int32_t token,
                        const int32_t *ids) {
    int64_t E = layer->experts, *of_set = layer->of_set + account->set * E;
    layer->first_of_set[account->set * E + ids[0]]++;
    for (int64_t i = 0; i < layer->top_k; i++) {
        of_set[ids[i]]++;
        layer->of_token[token * E + ids[i]]++;
        for (int64_t j = 0; j < layer->top_k; j++) layer->together[ids[i] * E + ids[j]]++;
    }
}

// Each token of a file but the last is its own window's once.
static void passed(void *context, int64_t tokens) {
    ExpertAccount *account = context;
    const BatchBuffer *batch = account->batch;
    const int32_t *read = tensor_i32(batch->host_tokens);
    (void)tokens;
    for (int64_t b = 0; b < batch->B; b++)
        for (int64_t i = tensor_i64(batch->firsts)[b]; i < tensor_i64(batch->counts)[b]; i++) {
            int64_t row = b * batch->T + i;
            account->tokens[read[row]]++;
            account->set_tokens[account->set]++;
            for (int64_t l = 0; l < account->count; l++) {
                LayerAccount *layer = &account->layers[l];
                Tensor ids = account->tape.layers[layer->layer];
                count_token(account, layer, read[row], tensor_i32(ids) + row * layer->top_k);
            }
        }
}

static void sum(void *values, DType dtype, int64_t elements) {
    all_reduce_sum(comm_world(), tensor_1d(values, dtype, elements), REDUCE_ANY_ORDER, (Tensor){0},
                   TRAFFIC_OTHER);
}

void expert_account_reduce(ExpertAccount *account) {
    sum(account->set_tokens, I64, account->sets);
    sum(account->tokens, I64, account->vocab_size);
    for (int64_t i = 0; i < account->count; i++) {
        LayerAccount *layer = &account->layers[i];
        int64_t E = layer->experts;
        sum(layer->together, I64, E * E);
        sum(layer->of_set, I64, account->sets * E);
        sum(layer->first_of_set, I64, account->sets * E);
        sum(layer->of_token, I32, account->vocab_size * E);
    }
}

// ---- shares -------------------------------------------------------------------------------------

static double share(int64_t part, int64_t whole) {
    return whole > 0 ? (double)part / (double)whole : 0;
}

double expert_together(const LayerAccount *layer, int64_t expert, int64_t other) {
    int64_t E = layer->experts;
    return share(layer->together[expert * E + other], layer->together[expert * E + expert]);
}

double expert_domain(const ExpertAccount *account, const LayerAccount *layer, int64_t set,
                     int64_t expert) {
    return share(layer->of_set[set * layer->experts + expert], account->set_tokens[set]);
}

double expert_vocabulary(const ExpertAccount *account, const LayerAccount *layer, int64_t token,
                         int64_t expert) {
    return share(layer->of_token[token * layer->experts + expert], account->tokens[token]);
}
