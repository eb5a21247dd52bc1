#include "launcher/config_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/suggest.h"

// ---- values that follow from others when left out --------------------------------------------------------

static void derive_shards(TrainConfig *config) {
    int64_t sequences = config->batch / config->micro_batches;
    config->shards = 1;
    while (config->shards < 8 && sequences % (2 * config->shards) == 0) config->shards *= 2;
}

static void derive_min_lr(TrainConfig *config) {
    char decimal[32]; // 0.0003 of 0.003, where the binary quotient is 0.00030000000000000003
    snprintf(decimal, sizeof decimal, "%.15g", config->optimizer.lr / 10);
    config->optimizer.min_lr = strtod(decimal, NULL);
}

static void derive_warmup(TrainConfig *config) {
    config->optimizer.warmup_steps = config->steps / 10 < 50 ? config->steps / 10 : 50;
}

static void derive_decay(TrainConfig *config) {
    config->optimizer.decay_steps = config->optimizer.schedule == LR_WSD ? config->steps / 5 : 0;
}

static void derive_d_ff(TrainConfig *config) {
    int64_t d_model = config->model.d_model;
    config->model.d_ff =
        config->model.activation == RELU ? 4 * d_model : (8 * d_model + 3 * 32 - 1) / (3 * 32) * 32;
}

static void derive_kv_heads(TrainConfig *config) {
    config->model.attention.shape.kv_heads = config->model.attention.shape.heads;
}

static void derive_d_head(TrainConfig *config) {
    config->model.attention.shape.d_head =
        config->model.d_model / config->model.attention.shape.heads;
}

static void derive_d_value(TrainConfig *config) {
    config->model.attention.shape.d_value = config->model.attention.shape.d_head;
}

static void derive_expert_d_ff(TrainConfig *config) {
    config->model.moe.d_ff = config->model.d_ff;
}

static void derive_eval_every(TrainConfig *config) {
    config->eval_every = config->data.validation[0] ? 250 : 0;
}

// ---- the table -------------------------------------------------------------------------------------------

// clang-format off
#define INTEGER(name, member, initial, min, max, help)                                             \
    { name, KEY_INTEGER, offsetof(TrainConfig, member), initial, min, max, NULL, NULL, NULL, help }
#define INTEGER_DERIVED(name, member, derive, how, min, max, help)                                 \
    { name, KEY_INTEGER, offsetof(TrainConfig, member), NULL, min, max, NULL, how, derive, help }
#define NUMBER(name, member, initial, min, max, help)                                              \
    { name, KEY_NUMBER, offsetof(TrainConfig, member), initial, min, max, NULL, NULL, NULL, help }
#define NUMBER_DERIVED(name, member, derive, how, min, max, help)                                  \
    { name, KEY_NUMBER, offsetof(TrainConfig, member), NULL, min, max, NULL, how, derive, help }
#define RATIONAL(name, member, initial, min, max, help)                                            \
    { name, KEY_RATIONAL, offsetof(TrainConfig, member), initial, min, max, NULL, NULL, NULL, help }
#define FLAG(name, member, initial, help)                                                          \
    { name, KEY_FLAG, offsetof(TrainConfig, member), initial, 0, 0, NULL, NULL, NULL, help }
#define CHOICES(...) (const char *const[]){__VA_ARGS__, NULL}
#define CHOICE(name, member, initial, help, ...)                                                   \
    {name, KEY_CHOICE, offsetof(TrainConfig, member), initial, 0, 0, CHOICES(__VA_ARGS__), NULL, NULL, help}
#define WORD(name, member, initial, help, ...)                                                     \
    {name, KEY_WORD, offsetof(TrainConfig, member), initial, 0, 0, CHOICES(__VA_ARGS__), NULL, NULL, help}
#define PATH(name, member, initial, help)                                                          \
    {name, KEY_PATH, offsetof(TrainConfig, member), initial, 0, 0, NULL, NULL, NULL, help}
#define PATH_OR_WORD(name, member, initial, help, ...)                                             \
    {name, KEY_PATH, offsetof(TrainConfig, member), initial, 0, 0, CHOICES(__VA_ARGS__), NULL, NULL, help}
#define PATH_DERIVED(name, member, how, help)                                                      \
    {name, KEY_PATH, offsetof(TrainConfig, member), NULL, 0, 0, NULL, how, NULL, help}

#define MANY 1e12 // steps
const ConfigKey CONFIG_KEYS[] = {
    PATH_DERIVED("run.dir", run_dir, "runs/NAME in the current folder, from NAME.yaml",
        "folder of everything the run writes: config.yaml, metrics.jsonl, checkpoints/"),
    NUMBER("run.hang_timeout", hang_timeout, "600", 0, 1e6,
           "seconds without progress after which every rank says where it waits and the run ends with exit code 8 "
           "(a stopped rank, a cut network); loading and saving count as progress, but one flush of a file to the disk must "
           "fit; 0: wait for ever"),
    INTEGER("run.seed", seed, "1337", 0, 9007199254740992,
        "key of all random numbers: initial weights, order of the data, random drops"),

    WORD("device", device, "auto",
        "where the arithmetic happens; auto takes the best there is",
        "auto", "cpu", "cuda"),

    PATH("data.train", data.train, NULL,
        "training text, or a file of token numbers"),
    PATH("data.validation", data.validation, "",
        "held-out text for evaluation; empty: no evaluation"),
    CHOICE("data.format", data.format, "auto",
        "what a token is; auto: uint16 for *.bin, bytes for anything else",
        "auto", "bytes", "characters", "uint16", "uint32"),
    INTEGER("data.vocab_size", data.vocab_size, "0", 0, 2147483647,
        "number of different tokens in uint16 and uint32 files; 0 for text, whose vocabulary is known"),
    NUMBER("data.bytes_per_token", data.bytes_per_token, "0", 0, 1e6,
        "bytes of text that a token of a uint16 or uint32 file stands for, for bits per byte; 0: unknown"),

    INTEGER("train.steps", steps, "1000", 1, MANY,
        "optimizer steps of the whole run"),
    INTEGER("train.batch", batch, "16", 1, 1e9,
        "sequences in the global batch of one step, over all ranks and micro-batches"),
    INTEGER("train.context", context, "128", 1, 1e6,
        "tokens of a sequence"),
    INTEGER("train.micro_batches", micro_batches, "1", 1, 1e6,
        "pieces in which a rank works off its part of the batch (gradient accumulation): less memory, same step"),
    INTEGER_DERIVED("train.shards", shards, derive_shards,
        "largest power of two up to 8 that divides train.batch / train.micro_batches", 1, 65536,
        "pieces of a micro-batch that never depend on the number of ranks; the ranks must divide it"),
    CHOICE("train.reproducible", reproducible, "ranks",
        "ranks: same bits on any number of ranks; run: same bits when repeated alike; off: no promise",
        "ranks", "run", "off"),
    CHOICE("train.precision", precision, "f32",
        "storage of activations and of the matrices that multiply them; sums, parameters' masters, optimizer, router, "
        "norms and residual stream are f32 always",
        "f32", "bf16"),
    INTEGER("train.max_skipped", max_skipped, "10", 1, 1e9,
        "steps in a row with non-finite loss or gradients that stop the run (exit code 6)"),
    INTEGER("train.threads", threads, "0", 0, 1024,
        "OpenMP threads of a rank; 0: OMP_NUM_THREADS, else its share of the CPUs and of the cgroup's quota"),
    NUMBER("train.lr", optimizer.lr, "0.001", 0, 100,
        "learning rate after warm-up"),
    NUMBER_DERIVED("train.min_lr", optimizer.min_lr, derive_min_lr, "train.lr / 10", 0, 100,
        "learning rate at the last step (cosine, linear, wsd)"),
    CHOICE("train.schedule", optimizer.schedule, "cosine",
        "course of the learning rate after warm-up; wsd: stays, then falls over the last train.decay steps",
        "constant", "linear", "cosine", "wsd"),
    INTEGER_DERIVED("train.warmup", optimizer.warmup_steps, derive_warmup,
        "train.steps / 10, at most 50", 0, MANY,
        "steps in which the learning rate rises from 0 to train.lr"),
    INTEGER_DERIVED("train.decay", optimizer.decay_steps, derive_decay,
        "train.steps / 5 with wsd, otherwise 0", 0, MANY,
        "steps of the final fall with train.schedule: wsd"),
    NUMBER("train.beta1", optimizer.beta1, "0.9", 0, 0.999999,
        "AdamW: decay of the mean gradient"),
    NUMBER("train.beta2", optimizer.beta2, "0.95", 0, 0.999999,
        "AdamW: decay of the mean squared gradient"),
    NUMBER("train.eps", optimizer.eps, "1e-08", 1e-30, 1,
        "AdamW: added to the root of the mean squared gradient"),
    NUMBER("train.weight_decay", optimizer.weight_decay, "0.1", 0, 100,
        "AdamW: decoupled decay of matrices; norms and biases do not decay"),
    NUMBER("train.clip_norm", optimizer.clip_norm, "1", 0, 1e12,
        "largest norm of the whole gradient; 0: no clipping"),

    INTEGER("model.d_model", model.d_model, "128", 1, 65536,
        "width of the residual stream"),
    INTEGER("model.layers", model.layers, "4", 1, 1024,
        "blocks: norm, attention, norm, feed-forward"),
    CHOICE("model.activation", model.activation, "swiglu",
        "of dense feed-forwards and of experts",
        "swiglu", "relu"),
    INTEGER_DERIVED("model.d_ff", model.d_ff, derive_d_ff,
        "8/3 model.d_model rounded up to a multiple of 32 for swiglu, 4 model.d_model for relu", 1, 1e6,
        "hidden width of dense feed-forwards"),
    FLAG("model.tied_embeddings", model.tied_embeddings, "true",
        "one matrix for token embedding and output"),
    NUMBER("model.norm_eps", model.norm_eps, "1e-05", 1e-12, 1,
        "RMSNorm: added to the mean square"),
    NUMBER("model.init_std", model.init_std, "0.02", 1e-9, 10,
        "standard deviation of initial weights"),

    INTEGER("attention.heads", model.attention.shape.heads, "4", 1, 1024,
        "query heads"),
    INTEGER_DERIVED("attention.kv_heads", model.attention.shape.kv_heads, derive_kv_heads,
        "attention.heads", 1, 1024,
        "key/value heads: as many as attention.heads is MHA, fewer is GQA, 1 is MQA"),
    INTEGER_DERIVED("attention.d_head", model.attention.shape.d_head, derive_d_head,
        "model.d_model / attention.heads", 2, 4096,
        "width of a query or key head; even, because RoPE turns pairs"),
    INTEGER_DERIVED("attention.d_value", model.attention.shape.d_value, derive_d_value,
        "attention.d_head", 1, 4096,
        "width of a value head"),
    NUMBER("attention.rope_theta", model.attention.rope_theta, "10000", 1, 1e9,
        "RoPE: base of the wavelengths"),

    INTEGER("moe.experts", model.moe.experts, "8", 0, 65536,
        "experts of a MoE layer, on all ranks together; 0: a dense model"),
    INTEGER("moe.top_k", model.moe.top_k, "2", 1, 64,
        "experts that work on a token"),
    INTEGER_DERIVED("moe.d_ff", model.moe.d_ff, derive_expert_d_ff,
        "model.d_ff", 1, 1e6,
        "hidden width of one expert"),
    INTEGER("moe.every", model.moe.every, "1", 1, 1024,
        "every n-th layer is a MoE layer, the others are dense"),
    FLAG("moe.first", model.moe.first, "true",
        "count from the first layer (0, n, 2n, …) instead of the n-th (n-1, 2n-1, …)"),
    CHOICE("moe.router", model.moe.router.kind, "softmax_topk",
        "softmax_topk: softmax over the chosen logits (Mixtral); topk_softmax: choose from the full softmax (Switch)",
        "softmax_topk", "topk_softmax"),
    FLAG("moe.normalize_top_k", model.moe.router.normalize_top_k, "false",
        "topk_softmax: divide the chosen weights by their sum"),
    RATIONAL("moe.capacity_factor", model.moe.capacity_factor, "0", 0, 1000,
        "an expert takes at most ceil(factor * top_k * tokens / experts) choices of a routing group; 0: no limit"),
    CHOICE("moe.dispatch", model.moe.dispatch, "exact",
        "exact: kept choices travel, after their counts; padded: every expert takes its whole capacity from every shard, so "
        "that no rank waits for counts (GPUs); needs moe.capacity_factor above 0",
        "exact", "padded"),
    INTEGER("moe.min_capacity", model.moe.min_capacity, "1", 1, 1e9,
        "smallest capacity of an expert"),
    CHOICE("moe.drop", model.moe.drop, "position",
        "who loses when an expert is full: later tokens, smaller gate weights, or chance",
        "position", "probability", "random"),
    FLAG("moe.renormalize_after_drop", model.moe.renormalize_after_drop, "false",
        "divide a token's surviving gate weights by their sum"),
    CHOICE("moe.routing_group", model.moe.routing_group, "shard",
        "tokens that compete for an expert's capacity",
        "shard", "sequence"),
    NUMBER("moe.balance_loss", model.moe.balance_loss, "0.01", 0, 1000,
        "factor of the load-balancing loss; 0: off"),
    CHOICE("moe.balance_scope", model.moe.balance_scope, "shard",
        "tokens over which the load is balanced",
        "shard", "sequence", "batch"),
    NUMBER("moe.z_loss", model.moe.z_loss, "0.001", 0, 1000,
        "factor of the router's z-loss, which keeps its logits small; 0: off"),
    INTEGER("moe.max_expert_replicas", model.moe.max_expert_replicas, "1", 1, 65536,
        "ranks that may hold the same expert under train.reproducible: ranks; part of the sums, so keep it in a run"),

    INTEGER("parallel.expert", expert_parallel, "0", 0, 65536,
        "ranks that share one set of experts; 0: the largest divisor of the ranks that divides moe.experts"),
    INTEGER("parallel.exchange_chunks", exchange_chunks, "2", 1, 16,
        "pieces in which tokens travel to other ranks' experts, so that one is on its way while another is computed; at "
        "most, and a divisor of the experts of a rank is taken; changes no bit"),

    INTEGER("checkpoint.every", checkpoint_every, "500", 0, MANY,
        "steps between checkpoints; 0: only at the end and on a signal"),
    INTEGER("checkpoint.keep_last", keep_last, "3", 0, 1e6,
        "newest checkpoints that are kept; 0: all"),
    PATH_OR_WORD("resume", resume, "auto",
        "auto: from the newest checkpoint of run.dir if any; must: an error without one; never; or a checkpoint's path",
        "auto", "never", "must"),
    INTEGER("log.every", log_every, "10", 1, MANY,
        "steps between lines of the log and rows of metrics.jsonl"),
    INTEGER("log.utilization_every", utilization_every, "0", 0, MANY,
        "steps between rows of the expert-utilization history; 0: as log.every"),
    INTEGER_DERIVED("eval.every", eval_every, derive_eval_every,
        "250 with data.validation, otherwise 0", 0, MANY,
        "steps between evaluations; 0: only at the end"),
    INTEGER("eval.batches", eval_batches, "20", 0, MANY,
        "batches of an evaluation; 0: the whole validation file"),
};
// clang-format on

_Static_assert(sizeof CONFIG_KEYS / sizeof *CONFIG_KEYS == CONFIG_KEY_COUNT,
               "CONFIG_KEY_COUNT is the number of rows");

int config_key_find(const char *name) {
    for (int row = 0; row < CONFIG_KEY_COUNT; row++)
        if (strcmp(CONFIG_KEYS[row].name, name) == 0) return row;
    return -1;
}

const char *config_key_suggest(const char *name) {
    const char *names[CONFIG_KEY_COUNT + 1];
    for (int row = 0; row < CONFIG_KEY_COUNT; row++) names[row] = CONFIG_KEYS[row].name;
    names[CONFIG_KEY_COUNT] = NULL;
    return suggest_word(name, names);
}
