#include "worker/generation/decoder.h"

#include <string.h>

#include "comm/comm.h"
#include "kernels/integers.h"
#include "model/configured_layers.h"

// Wide enough for a product to be bound by arithmetic, and narrow enough to lie in the caches.
static const int64_t WIDTHS[DECODER_WIDTHS] = {1, 16, 64, 256};

static ModelSplit split_of(const Decoder *d, const TrainConfig *config, int64_t width) {
    ModelSplit split = {.ranks = comm_size(),
                        .rank = comm_rank(),
                        .expert_parallel = config->expert_parallel,
                        .shards = comm_size(),
                        .sequences = comm_size(),
                        .context = width,
                        .positions = d->context,
                        .micro_batches = 1,
                        .storage = session_storage(config),
                        .decoding = !d->recompute};
    session_hold_weights(&split, d->weights);
    return split;
}

static void open_tokens(Decoder *d, Device *dev) {
    int64_t widest = d->widths[d->count - 1];
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 0) {
            arena_measure(&d->arena, "tokens", dev);
            arena_measure(&d->host_arena, "tokens", NULL);
        } else {
            arena_allocate(&d->arena);
            arena_allocate(&d->host_arena);
        }
        d->tokens = arena_1d(&d->arena, I32, widest);
        d->targets = arena_1d(&d->arena, I32, widest);
        d->host_tokens = arena_mirror(&d->host_arena, d->tokens);
        d->host_targets = arena_mirror(&d->host_arena, d->targets);
    }
}

bool decoder_open(Decoder *d, const TrainConfig *config, Session *session,
                  const char *checkpoint_path, WeightKind weights, bool recompute, Error *err) {
    TrainConfig single = *config;
    if (!model_for_generation(&single.model, err)) return false;
    d->context = config->context;
    d->weights = weights;
    d->recompute = recompute;
    for (int i = 0; !recompute && i < DECODER_WIDTHS; i++)
        if (i == 0 || WIDTHS[i - 1] < d->context)
            d->widths[d->count++] = smaller(WIDTHS[i], d->context);
    if (recompute) d->widths[d->count++] = d->context;
    int64_t widest = d->widths[d->count - 1];
    if (!restore_model(&d->restored, &single, split_of(d, config, widest), session, checkpoint_path,
                       err))
        return false;
    Model *owner = d->models[d->count - 1] = &d->restored.model;
    for (int i = 0; i < d->count - 1; i++) {
        Model *model = d->models[i] = &d->beside[i];
        bool fits =
            model_measure_beside(model, owner, &owner->config, split_of(d, config, d->widths[i]));
        CHECK(fits, "%lld tokens need more room than %lld", (long long)d->widths[i],
              (long long)widest);
        model_allocate(model, session->groups, (uint64_t)config->seed);
    }
    open_tokens(d, &session->dev);
    if (!recompute) kv_cache_open(&d->cache, owner, d->context);
    return true;
}

void decoder_close(Decoder *d) {
    if (d->cache.layers) kv_cache_close(&d->cache);
    for (int i = 0; i < DECODER_WIDTHS - 1; i++) model_free(&d->beside[i]);
    restore_free(&d->restored);
    arena_free(&d->arena);
    arena_free(&d->host_arena);
    *d = (Decoder){0};
}

void decoder_listen(Decoder *d, const RoutingTape *tape,
                    void (*passed)(void *context, int64_t first, int64_t count), void *context) {
    for (int i = 0; i < d->count; i++) d->models[i]->work.tape = tape;
    d->passed = passed;
    d->listener = context;
}

void decoder_forget(Decoder *d, int64_t tokens) {
    d->cached = smaller(d->cached, tokens);
}

// The first `n` of `width` tokens at once. What fills the rest up stands behind them, where
// attention does not see it.
static Tensor upload(Decoder *d, const int32_t *tokens, int64_t n, int64_t width) {
    Tensor host = tensor_range(d->host_tokens, 0, width), there = tensor_range(d->tokens, 0, width);
    memset(host.data, 0, tensor_bytes(host));
    memcpy(host.data, tokens, (size_t)n * sizeof *tokens);
    device_upload(d->restored.model.work.dev, there, host);
    return there;
}

// Which of the cuts reads `left` tokens: the narrowest that holds them, unless more than half of it
// would stay empty. The first wide one costs as much as two or three tokens alone, since both read
// every weight once.
static int cut_for(const Decoder *d, int64_t left) {
    int i = 0;
    while (i + 1 < d->count && d->widths[i] < left) i++;
    int64_t least = i > 1 ? d->widths[i] / 2 + 1 : 3;
    return i > 0 && left < least ? i - 1 : i;
}

// The most over all ranks, which read at the same time. Collective over all ranks.
static int64_t most_over_ranks(int64_t tokens) {
    double most = (double)tokens;
    if (comm_size() > 1) all_reduce_max(comm_world(), tensor_1d(&most, F64, 1), TRAFFIC_OTHER);
    return (int64_t)most;
}

const float *decoder_read(Decoder *d, const int32_t *window, int64_t count) {
    Tensor logits = {0};
    CHECK(count > 0 && count <= d->context, "a window of %lld tokens", (long long)count);
    if (d->recompute) {
        d->last = &d->restored.model;
        logits = model_logits(d->last, upload(d, window, count, d->context));
        d->last_row = count - 1;
        if (d->passed) d->passed(d->listener, 0, count);
        return model_read_logits(d->last, logits, d->last_row);
    }
    decoder_forget(d, count - 1); // whose logits nobody has kept
    for (int64_t left; (left = most_over_ranks(count - d->cached)) > 0;) {
        int cut = cut_for(d, left);
        int64_t width = d->widths[cut];
        // At the end of the context, and while another rank has more to read, some are read again,
        // to the same numbers.
        int64_t first = smaller(smaller(d->cached, count - 1), d->context - width);
        int64_t n = smaller(width, count - first);
        d->last = d->models[cut];
        logits = model_decode(d->last, &d->cache, upload(d, window + first, n, width), first);
        if (d->passed) d->passed(d->listener, first, n);
        d->cached = larger(d->cached, first + n);
        d->last_row = n - 1;
    }
    return model_read_logits(d->last, logits, d->last_row);
}

double decoder_loss(Decoder *d, int32_t token) {
    int64_t N = d->last->work.shape.N;
    Tensor host = tensor_range(d->host_targets, 0, N), there = tensor_range(d->targets, 0, N);
    for (int64_t n = 0; n < N; n++) tensor_i32(host)[n] = token;
    device_upload(d->last->work.dev, there, host);
    return (double)model_logit_losses(d->last, there)[d->last_row];
}
