#include "model/embedding.h"

void embedding_declare(Embedding *embedding, Work *work) {
    const ModelConfig *config = work->config;
    embedding->tied = config->tied_embeddings;
    embedding->table = param_add(work->params,
                                 (Param){.rank = 2,
                                         .shape = {config->vocab_size, config->d_model},
                                         .init_std = config->init_std},
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
    int64_t N = work->shape.N, D = work->config->d_model, V = work->config->vocab_size;
    embedding->out = arena_2d(activations, F32, N, D);
    size_t mark = arena_mark(scratch);
    embedding->order = arena_1d(scratch, I32, N + V + 1);
    arena_release(scratch, mark);
}

Tensor embedding_layer_forward(Embedding *embedding, Work *work, Tensor tokens) {
    embedding->tokens = tokens;
    embedding_forward(work->dev, embedding->out, tokens, work_value(work, embedding->table));
    return embedding->out;
}

void embedding_layer_backward(Embedding *embedding, Work *work, Tensor dout) {
    embedding_backward(work->dev, work_gradient(work, embedding->table), dout, embedding->tokens,
                       work->shape.dense_parts, embedding->order);
}

void head_forward(Embedding *embedding, Work *work, Tensor logits, Tensor x) {
    linear_forward(work, embedding->head, logits, x);
}

void head_backward(Embedding *embedding, Work *work, Tensor dx, Tensor dlogits, Tensor x) {
    Tensor dhead =
        embedding->tied ? work->head_gradient : work_gradient(work, embedding->head.weight);
    linear_backward_into(work, embedding->head, dhead, dx, dlogits, x);
}
