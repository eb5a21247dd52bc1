#include "model/multi_token_prediction.h"

#include <stdlib.h>
#include <string.h>

#include "model/stream_digests.h"

// ---- layout -------------------------------------------------------------------------------------

static void declare_module(MtpModule *module, Work *work, const Embedding *embedding,
                           Gradients *gradients, int64_t number) {
    const ModelConfig *config = work->config;
    int64_t D = config->d_model;
    param_scope(work->params, "mtp", number);
    norm_declare(&module->token_norm, work, "enorm");
    norm_declare(&module->stream_norm, work, "hnorm");
    module->join = linear_declare(
        work,
        (Param){
            .rank = 2, .shape = {D, 2 * D}, .group = GROUP_HIDDEN, .init_std = config->init_std},
        false, "eh_proj");
    block_declare(&module->block, work, config->layers + number);
    norm_declare(&module->final_norm, work, "final_norm");
    param_scope(work->params, NULL, 0);
    gradients_add_bucket(gradients, work->params);
    module->tokens.share = gradients_add_share(gradients, embedding->table);
    module->head = (HeadUse){gradients_add_share(gradients, embedding->head.weight), OWN_GRADIENT};
    if (embedding->head.bias >= 0)
        module->head.bias = gradients_add_share(gradients, embedding->head.bias);
}

void mtp_declare(Mtp *mtp, Work *work, const Embedding *embedding, Gradients *gradients) {
    *mtp = (Mtp){.count = work->config->mtp.layers};
    if (mtp->count == 0) return;
    mtp->modules = calloc((size_t)mtp->count, sizeof *mtp->modules);
    CHECK_MEMORY(mtp->modules, "no memory for %lld modules", (long long)mtp->count);
    for (int64_t k = 0; k < mtp->count; k++)
        declare_module(&mtp->modules[k], work, embedding, gradients, k);
}

void mtp_free(Mtp *mtp) {
    for (int64_t k = 0; k < mtp->count; k++) block_free(&mtp->modules[k].block);
    free(mtp->modules);
    *mtp = (Mtp){0};
}

static void summarize(Statistics *stats);

static void layout_module(MtpModule *module, Work *work, Statistics *stats, Arena *activations,
                          Arena *scratch) {
    int64_t N = work->shape.N, D = work->config->d_model, layer = module->block.layer;
    lookup_layout(&module->tokens, work, activations);
    norm_layout(&module->token_norm, work, false, activations, scratch);
    norm_layout(&module->stream_norm, work, false, activations, scratch);
    module->both = arena_2d(activations, work->storage, N, 2 * D);
    module->input = arena_2d(activations, F32, N, D);
    block_layout(&module->block, work, true, stats, activations, scratch);
    norm_layout(&module->final_norm, work, true, activations, scratch);
    module->nats = statistics_vector(stats, "mtp_nats", layer, 1);
    module->guesses = statistics_counts(stats, "mtp_guesses", layer, 2);
}

void mtp_layout_scratch(Mtp *mtp, Work *work, Arena *scratch) {
    int64_t N = work->shape.N, D = work->config->d_model;
    if (mtp->count == 0) return;
    mtp->dx = arena_2d(scratch, F32, N, D);
    mtp->half = arena_2d(scratch, work->storage, N, D);
    mtp->dtokens = arena_2d(scratch, F32, N, D);
    mtp->dboth = arena_2d(scratch, work->storage, N, 2 * D);
}

void mtp_layout(Mtp *mtp, Work *work, Statistics *stats, Arena *activations, Arena *scratch) {
    if (mtp->count == 0) return;
    summarize(stats);
    mtp->losses = arena_1d(activations, F32, work->shape.N);
    for (int64_t k = 0; k < mtp->count; k++)
        layout_module(&mtp->modules[k], work, stats, activations, scratch);
}

bool mtp_check(const Mtp *mtp, const Work *work, Error *err) {
    for (int64_t k = 0; k < mtp->count; k++)
        if (!block_check(&mtp->modules[k].block, work, err)) return false;
    return true;
}

void mtp_bound(const ModelConfig *config, LayerBound *bound) {
    double count = (double)config->mtp.layers, D = (double)config->d_model;
    bound->parameters += count * (2 * D * D + 6 * D);
    bound->kept += count * 8 * D;
}

void mtp_cost(const Mtp *mtp, const Work *work, LayerCost *cost) {
    double D = (double)work->config->d_model, V = (double)work->config->vocab_size;
    for (int64_t k = 0; k < mtp->count; k++) {
        block_cost(&mtp->modules[k].block, work, cost);
        cost->flops_per_token += 4 * D * D + 2 * D * V;
    }
}

size_t mtp_bytes(const Mtp *mtp) {
    size_t bytes = 0;
    for (int64_t k = 0; k < mtp->count; k++)
        bytes += sizeof(MtpModule) - sizeof(Block) + block_bytes(&mtp->modules[k].block);
    return bytes;
}

// ---- what is told -------------------------------------------------------------------------------

// Of all modules together, nats or right first guesses over targets.
static double over_targets(const Statistics *stats, bool right) {
    double sum = 0, targets = 0;
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *column = &stats->columns[i];
        if (strcmp(column->name, "mtp_guesses") != 0) continue;
        const int64_t *guesses = statistics_counts_of(stats, column);
        targets += (double)guesses[0];
        sum += right ? (double)guesses[1] : statistics_value(stats, "mtp_nats", column->layer);
    }
    return targets > 0 ? sum / targets : 0;
}
static double mean_loss(const Statistics *stats, const char *column) {
    (void)column;
    return over_targets(stats, false);
}
static double share_right(const Statistics *stats, const char *column) {
    (void)column;
    return over_targets(stats, true);
}

static const Summary SUMMARIES[] = {
    {.field = "mtp_loss", .digits = 17, .value = mean_loss, .line = {" | mtp ", .decimals = 4}},
    {.field = "mtp_right",
     .digits = 9,
     .value = share_right,
     .line = {" right ", .decimals = 1, .percent = true}},
};

static void summarize(Statistics *stats) {
    for (size_t i = 0; i < sizeof SUMMARIES / sizeof *SUMMARIES; i++)
        statistics_summarize(stats, &SUMMARIES[i]);
}

// ---- a micro-batch ------------------------------------------------------------------------------

// Row k of what is ahead (D, N), as (N).
static Tensor ahead(const Work *work, Tensor rows, int64_t k) {
    return tensor_range(rows, k * work->shape.N, work->shape.N);
}

// A half of the columns of what M multiplies, or of its gradient: the token's are the first.
static ColumnBlocks columns(const Work *work, bool of_stream, bool from_both) {
    int64_t D = work->config->d_model, first = of_stream ? D : 0;
    return (ColumnBlocks){.blocks = 1,
                          .width = D,
                          .out_first = from_both ? 0 : first,
                          .x_first = from_both ? first : 0};
}

// Returns h'.
static Tensor join_forward(Mtp *mtp, MtpModule *module, Work *work, Tensor stream, Tensor vectors) {
    norm_forward(&module->token_norm, work, (Residual){.x = vectors});
    norm_forward(&module->stream_norm, work, (Residual){.x = stream});
    copy_columns(work->dev, module->both, module->token_norm.out, columns(work, false, false));
    copy_columns(work->dev, module->both, module->stream_norm.out, columns(work, true, false));
    Tensor made = work->storage == F32 ? module->input : mtp->half;
    linear_forward(work, module->join, made, module->both);
    if (work->storage != F32) convert(work->dev, module->input, made);
    return module->input;
}

// dx comes as the gradient of h' and leaves as that of the stream.
static void join_backward(Mtp *mtp, MtpModule *module, Work *work, Tensor dx) {
    linear_backward(work, module->join, mtp->dboth, work_stored(work, mtp->half, dx), module->both);
    copy_columns(work->dev, mtp->half, mtp->dboth, columns(work, true, true));
    fill_zero(work->dev, dx);
    norm_backward(&module->stream_norm, work, dx, mtp->half);
    copy_columns(work->dev, mtp->half, mtp->dboth, columns(work, false, true));
    fill_zero(work->dev, mtp->dtokens);
    norm_backward(&module->token_norm, work, mtp->dtokens, mtp->half);
}

// The loss, and the gradient of what the head reads, which takes its place in the final norm.
static void head_train(Mtp *mtp, MtpModule *module, Work *work, MtpShared shared, Tensor targets) {
    const MtpConfig *config = &work->config->mtp;
    double factor = config->loss_factor / (double)config->layers / (double)step_targets(work);
    Tensor out = module->final_norm.out;
    head_forward(shared.embedding, work, shared.logits, out);
    count_right_guesses(work->dev, statistics_count_range(shared.stats, module->guesses, 2),
                        shared.logits, targets);
    cross_entropy(work->dev, mtp->losses, shared.logits, targets, (float)factor);
    segment_sum(work->dev, statistics_rows(shared.stats, work), module->nats, mtp->losses, 1);
    digest_scope(work, DIGEST_FORWARD, module->block.layer, NULL);
    digest_part(work, "loss", mtp->losses);
    head_backward(shared.embedding, work, module->head, out, shared.logits, out);
    gradients_share_ready(shared.gradients, work, module->head.weight);
    gradients_share_ready(shared.gradients, work, module->head.bias);
}

// Returns h.
static Tensor module_forward(Mtp *mtp, int64_t k, Work *work, MtpShared shared, Tensor stream) {
    MtpModule *module = &mtp->modules[k];
    work->tokens = ahead(work, work->step.ahead_tokens, k);
    Tensor vectors = lookup_forward(&module->tokens, shared.embedding, work, work->tokens);
    Residual x = {.x = join_forward(mtp, module, work, stream, vectors)};
    x = block_forward(&module->block, work, shared.stats, x);
    stream = norm_forward(&module->final_norm, work, x);
    head_train(mtp, module, work, shared, ahead(work, work->step.ahead_targets, k));
    return stream;
}

// dx comes as the gradient of h that later modules leave, and leaves as that of the stream.
static void module_backward(Mtp *mtp, int64_t k, Work *work, MtpShared shared, Tensor dx) {
    MtpModule *module = &mtp->modules[k];
    norm_backward(&module->final_norm, work, dx, module->final_norm.out);
    block_backward(&module->block, work, dx);
    join_backward(mtp, module, work, dx);
    lookup_backward(&module->tokens, shared.embedding, work, mtp->dtokens);
    gradients_share_ready(shared.gradients, work, module->tokens.share);
    gradients_ready(shared.gradients, work, shared.gradients->count - (int)(mtp->count - k));
}

void mtp_train(Mtp *mtp, Work *work, MtpShared shared, Tensor stream, Tensor dx) {
    if (mtp->count == 0) return;
    for (int64_t k = 0; k < mtp->count; k++) stream = module_forward(mtp, k, work, shared, stream);
    fill_zero(work->dev, mtp->dx);
    for (int64_t k = mtp->count - 1; k >= 0; k--) module_backward(mtp, k, work, shared, mtp->dx);
    add(work->dev, dx, dx, mtp->dx);
}

void mtp_after_step(Mtp *mtp, Work *work, const Statistics *stats) {
    for (int64_t k = 0; k < mtp->count; k++) block_after_step(&mtp->modules[k].block, work, stats);
}
