#include "model/embedding.h"

#include "model/dense_gradient.h"
#include "model/initialization.h"

void embedding_declare(Embedding *embedding, Work *work) {
    const ModelConfig *config = work->config;
    embedding->tied = config->tied_embeddings;
    embedding->table = param_add(work->params,
                                 (Param){.rank = 2,
                                         .shape = {config->vocab_size, config->d_model},
                                         .init_std = init_embedding_std(config),
                                         .looked_up = true},
                                 "embedding");
}

void head_declare(Embedding *embedding, Work *work) {
    const ModelConfig *config = work->config;
    Param weight = {
        .rank = 2, .shape = {config->vocab_size, config->d_model}, .init_std = config->init_std};
    bool bias = BIASES[config->bias].head;
    embedding->head = embedding->tied ? linear_share(work, embedding->table, bias, "head")
                                      : linear_declare(work, weight, bias, "head");
}

void embedding_layout(Embedding *embedding, Work *work, Arena *activations, Arena *scratch) {
    int64_t N = work->shape.N, V = work->config->vocab_size;
    if (work->config->logit_softcap > 0 && work->training)
        embedding->capped = arena_2d(activations, work->storage, N, V);
    size_t mark = arena_mark(scratch);
    embedding->order = arena_1d(scratch, I32, N + V + 1);
    arena_release(scratch, mark);
}

void lookup_layout(Lookup *lookup, Work *work, Arena *activations) {
    lookup->out = arena_2d(activations, F32, work->shape.N, work->config->d_model);
}

// 0 and 1 mean none.
static bool is_scaled(double factor) {
    return factor != 0 && factor != 1;
}

Tensor lookup_forward(Lookup *lookup, const Embedding *embedding, Work *work, Tensor tokens) {
    lookup->tokens = tokens;
    embedding_forward(work->dev, lookup->out, tokens, work_value(work, embedding->table));
    if (is_scaled(work->config->embedding_scale))
        multiply_by(work->dev, lookup->out, lookup->out, (float)work->config->embedding_scale);
    return lookup->out;
}

void lookup_backward(Lookup *lookup, const Embedding *embedding, Work *work, Tensor dout) {
    if (is_scaled(work->config->embedding_scale))
        multiply_by(work->dev, dout, dout, (float)work->config->embedding_scale);
    lookup_gradient(work, embedding->table, lookup->share, dout, lookup->tokens, embedding->order);
}

// The factor is taken into x, which is the smaller of the two.
void head_forward(Embedding *embedding, Work *work, Tensor logits, Tensor x) {
    const ModelConfig *config = work->config;
    double factor = logit_factor(config);
    if (is_scaled(factor)) multiply_by(work->dev, x, x, (float)factor);
    linear_forward(work, embedding->head, logits, x);
    if (config->logit_softcap == 0) return;
    softcap_forward(work->dev, logits, logits, (float)config->logit_softcap);
    if (work->training) copy(work->dev, embedding->capped, logits);
}

void head_backward(Embedding *embedding, Work *work, HeadUse use, Tensor dx, Tensor dlogits,
                   Tensor x) {
    const ModelConfig *config = work->config;
    double factor = logit_factor(config);
    if (config->logit_softcap > 0)
        softcap_backward(work->dev, dlogits, dlogits, embedding->capped,
                         (float)config->logit_softcap);
    linear_backward_shared(work, embedding->head, use.weight, use.bias, dx, dlogits, x);
    if (is_scaled(factor)) multiply_by(work->dev, dx, dx, (float)factor);
}
