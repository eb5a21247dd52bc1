#include "launcher/config_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/habits.h"
#include "launcher/suggest.h"

// ---- values that follow from others when left out -----------------------------------------------

// Not a function of the micro-batches as far as that can be: they must not be seen in the results.
static void derive_shards(TrainConfig *config) {
    int64_t pieces = config->micro_batches, odd = pieces / (pieces & -pieces);
    int64_t shards = config->batch % odd == 0 ? odd : 1;
    while ((shards < 8 || shards < pieces) && config->batch % (2 * shards) == 0) shards *= 2;
    config->shards = shards;
}

static void derive_max_expert_replicas(TrainConfig *config) {
    config->model.moe.max_expert_replicas = config->shards;
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
    config->model.d_ff = activation_is_gated(config->model.activation)
                             ? (8 * d_model + 3 * 32 - 1) / (3 * 32) * 32
                             : 4 * d_model;
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
    config->model.moe.d_ff.values[0] = config->model.d_ff;
}

static void derive_eval_every(TrainConfig *config) {
    config->eval_every = config->data.validation[0] ? 250 : 0;
}

// ---- the table ----------------------------------------------------------------------------------

// clang-format off
#define INTEGER(name, kind, member, initial, min, max, help)                                       \
    { name, KEY_INTEGER, KIND_##kind, offsetof(TrainConfig, member), initial, min, max, NULL, NULL, NULL, help }
#define INTEGER_DERIVED(name, kind, member, derive, how, min, max, help)                           \
    { name, KEY_INTEGER, KIND_##kind, offsetof(TrainConfig, member), NULL, min, max, NULL, how, derive, help }
#define NUMBER(name, kind, member, initial, min, max, help)                                        \
    { name, KEY_NUMBER, KIND_##kind, offsetof(TrainConfig, member), initial, min, max, NULL, NULL, NULL, help }
#define NUMBER_DERIVED(name, kind, member, derive, how, min, max, help)                            \
    { name, KEY_NUMBER, KIND_##kind, offsetof(TrainConfig, member), NULL, min, max, NULL, how, derive, help }
#define RATIONAL(name, kind, member, initial, min, max, help)                                      \
    { name, KEY_RATIONAL, KIND_##kind, offsetof(TrainConfig, member), initial, min, max, NULL, NULL, NULL, help }
#define FLAG(name, kind, member, initial, help)                                                    \
    { name, KEY_FLAG, KIND_##kind, offsetof(TrainConfig, member), initial, 0, 0, NULL, NULL, NULL, help }
#define CHOICE(name, kind, member, initial, choices, help)                                         \
    {name, KEY_CHOICE, KIND_##kind, offsetof(TrainConfig, member), initial, 0, 0, &choices, NULL, NULL, help}
#define WORD(name, kind, member, initial, choices, help)                                           \
    {name, KEY_WORD, KIND_##kind, offsetof(TrainConfig, member), initial, 0, 0, &choices, NULL, NULL, help}
#define PATH(name, kind, member, initial, help)                                                    \
    {name, KEY_PATH, KIND_##kind, offsetof(TrainConfig, member), initial, 0, 0, NULL, NULL, NULL, help}
#define PATH_OR_WORD(name, kind, member, initial, choices, help)                                   \
    {name, KEY_PATH, KIND_##kind, offsetof(TrainConfig, member), initial, 0, 0, &choices, NULL, NULL, help}
#define NAMES(name, kind, member, help)                                                            \
    {name, KEY_NAMES, KIND_##kind, offsetof(TrainConfig, member), "", 0, 0, NULL, NULL, NULL, help}
#define PATH_DERIVED(name, kind, member, how, help)                                                \
    {name, KEY_PATH, KIND_##kind, offsetof(TrainConfig, member), NULL, 0, 0, NULL, how, NULL, help}

#define MANY 1e12 // steps
const ConfigKey CONFIG_KEYS[] = {
    PATH_DERIVED("run.dir", FREE, run_dir, "runs/NAME in the current folder, from NAME.yaml",
        "folder of everything the run writes: config.yaml, metrics.jsonl, checkpoints/"),
    NUMBER("run.hang_timeout", FREE, hang_timeout, "600", 0, 1e6,
           "seconds without progress after which every rank says where it waits and the run ends with exit code 8 "
           "(a stopped rank, a cut network); loading and saving count as progress, but one flush of a file to the disk must "
           "fit; 0: wait for ever"),
    INTEGER("run.seed", STATE, seed, "1337", 0, 9007199254740992,
        "key of all random numbers: initial weights, order of the data, random drops"),

    WORD("device", FREE, device, "auto", DEVICE_CHOICES,
        "where the arithmetic happens"),

    PATH("data.train", COURSE, data.train, NULL,
        "training text, or a file of token numbers"),
    PATH("data.validation", FREE, data.validation, "",
        "held-out text for evaluation; empty: no evaluation"),
    CHOICE("data.format", FUNCTION, data.format, "auto", DATA_FORMAT_CHOICES,
        "what a token is, in both data files"),
    INTEGER("data.vocab_size", FUNCTION, data.vocab_size, "0", 0, 2147483647,
        "number of different tokens in uint16 and uint32 files; 0 for text, whose vocabulary is known"),
    NUMBER("data.bytes_per_token", FREE, data.bytes_per_token, "0", 0, 1e6,
        "bytes of text that a token of a uint16 or uint32 file stands for, for bits per byte; 0: unknown"),
    FLAG("data.check", FREE, data.check, "true",
        "whether data files are refused whose content is something else: compressed, with a header, text for token numbers or "
        "the reverse, numbers of another width; data.format: bytes takes any bytes either way"),

    INTEGER("train.steps", COURSE, steps, "1000", 1, MANY,
        "optimizer steps of the whole run"),
    INTEGER("train.batch", COURSE, batch, "16", 1, 1e9,
        "sequences in the global batch of one step, over all ranks and micro-batches"),
    INTEGER("train.context", COURSE, context, "128", 1, 1e6,
        "tokens of a sequence"),
    INTEGER("train.micro_batches", FREE, micro_batches, "1", 1, 1e6,
        "pieces in which a rank works off its part of the batch (gradient accumulation): less memory for activations, the "
        "same step; with train.reproducible: ranks a power of two where train.shards is one, and log2 of it more gradients"),
    INTEGER_DERIVED("train.shards", STATE, shards, derive_shards,
        "largest power of two up to 8, or train.micro_batches, that divides train.batch", 1, 65536,
        "pieces of the batch of a step that never depend on the number of ranks or micro-batches: what a routing group and "
        "the order of sums are; ranks x train.micro_batches must divide it"),
    CHOICE("train.reproducible", COURSE, reproducible, "ranks", REPRODUCIBLE_CHOICES,
        "what changes no bit of the results"),
    CHOICE("train.precision", STATE, precision, "f32", PRECISION_CHOICES,
        "storage of activations and of the matrices that multiply them; sums, parameters' masters, optimizer, router, "
        "norms and residual stream are f32 always"),
    INTEGER("train.max_skipped", FREE, max_skipped, "10", 1, 1e9,
        "steps in a row with non-finite loss or gradients that stop the run (exit code 6)"),
    INTEGER("train.threads", FREE, threads, "0", 0, 1024,
        "OpenMP threads of a rank; 0: OMP_NUM_THREADS, else its share of the CPUs and of the cgroup's quota"),
    NUMBER("train.lr", COURSE, optimizer.lr, "0.001", 0, 100,
        "learning rate after warm-up"),
    NUMBER_DERIVED("train.min_lr", COURSE, optimizer.min_lr, derive_min_lr, "train.lr / 10", 0, 100,
        "learning rate at the last step (cosine, linear, wsd)"),
    CHOICE("train.schedule", COURSE, optimizer.schedule, "cosine", LR_SCHEDULE_CHOICES,
        "course of the learning rate after warm-up"),
    INTEGER_DERIVED("train.warmup", COURSE, optimizer.warmup_steps, derive_warmup,
        "train.steps / 10, at most 50", 0, MANY,
        "steps in which the learning rate rises from 0 to train.lr"),
    INTEGER_DERIVED("train.decay", COURSE, optimizer.decay_steps, derive_decay,
        "train.steps / 5 with train.schedule: wsd, otherwise 0", 0, MANY,
        "steps of the final fall with train.schedule: wsd"),
    NUMBER("train.beta1", COURSE, optimizer.beta1, "0.9", 0, 0.999999,
        "AdamW: decay of the mean gradient"),
    NUMBER("train.beta2", COURSE, optimizer.beta2, "0.95", 0, 0.999999,
        "AdamW: decay of the mean squared gradient"),
    NUMBER("train.eps", COURSE, optimizer.eps, "1e-08", 1e-30, 1,
        "AdamW: added to the root of the mean squared gradient"),
    NUMBER("train.weight_decay", COURSE, optimizer.weight_decay, "0.1", 0, 100,
        "AdamW: decoupled decay of matrices; norms and biases do not decay"),
    NUMBER("train.clip_norm", COURSE, optimizer.clip_norm, "1", 0, 1e12,
        "largest norm of the whole gradient; 0: no clipping"),

    INTEGER("model.d_model", FUNCTION, model.d_model, "128", 1, 65536,
        "width of the residual stream"),
    INTEGER("model.layers", FUNCTION, model.layers, "4", 1, 1024,
        "blocks: norm, attention, norm, feed-forward"),
    CHOICE("model.activation", FUNCTION, model.activation, "swiglu", ACTIVATION_CHOICES,
        "of dense feed-forwards and of experts"),
    INTEGER_DERIVED("model.d_ff", FUNCTION, model.d_ff, derive_d_ff,
        "8/3 model.d_model rounded up to a multiple of 32 with a gated model.activation, else 4 model.d_model", 1, 1e6,
        "hidden width of dense feed-forwards"),
    FLAG("model.tied_embeddings", FUNCTION, model.tied_embeddings, "true",
        "one matrix for token embedding and output"),
    NUMBER("model.norm_eps", FUNCTION, model.norm_eps, "1e-05", 1e-12, 1,
        "RMSNorm: added to the mean square"),
    NUMBER("model.init_std", STATE, model.init_std, "0.02", 1e-9, 10,
        "standard deviation of initial weights"),

    INTEGER("attention.heads", FUNCTION, model.attention.shape.heads, "4", 1, 1024,
        "query heads"),
    INTEGER_DERIVED("attention.kv_heads", FUNCTION, model.attention.shape.kv_heads, derive_kv_heads,
        "attention.heads", 1, 1024,
        "key/value heads: as many as attention.heads is MHA, fewer is GQA, 1 is MQA"),
    INTEGER_DERIVED("attention.d_head", FUNCTION, model.attention.shape.d_head, derive_d_head,
        "model.d_model / attention.heads", 2, 4096,
        "width of a query or key head; even, because RoPE turns pairs"),
    INTEGER_DERIVED("attention.d_value", FUNCTION, model.attention.shape.d_value, derive_d_value,
        "attention.d_head", 1, 4096,
        "width of a value head"),
    NUMBER("attention.rope_theta", FUNCTION, model.attention.rope_theta, "10000", 1, 1e9,
        "RoPE: base of the wavelengths"),

    INTEGER("moe.experts", FUNCTION, model.moe.experts.values, "8", 0, 65536,
        "experts of a MoE layer, on all ranks together; 0: a dense model"),
    INTEGER("moe.top_k", FUNCTION, model.moe.top_k.values, "2", 1, 64,
        "experts that work on a token"),
    INTEGER_DERIVED("moe.d_ff", FUNCTION, model.moe.d_ff.values, derive_expert_d_ff,
        "model.d_ff", 1, 1e6,
        "hidden width of one expert"),
    INTEGER("moe.every", FUNCTION, model.moe.every, "1", 1, 1024,
        "every n-th layer is a MoE layer, the others are dense"),
    FLAG("moe.first", FUNCTION, model.moe.first, "true",
        "count from the first layer (0, n, 2n, …) instead of the n-th (n-1, 2n-1, …)"),
    CHOICE("moe.router", FUNCTION, model.moe.router.kind, "softmax_topk", ROUTER_CHOICES,
        "how a token's logits choose its experts and become their gate weights"),
    FLAG("moe.normalize_top_k", FUNCTION, model.moe.router.normalize_top_k, "false",
        "topk_softmax: divide the chosen weights by their sum"),
    RATIONAL("moe.capacity_factor", STATE, model.moe.capacity_factor, "0", 0, 1000,
        "an expert takes at most ceil(factor * top_k * tokens / experts) choices of a routing group; 0: no limit"),
    CHOICE("moe.dispatch", FREE, model.moe.dispatch, "exact", DISPATCH_CHOICES,
        "what travels to the experts"),
    INTEGER("moe.min_capacity", STATE, model.moe.min_capacity, "1", 1, 1e9,
        "smallest capacity of an expert"),
    CHOICE("moe.drop", STATE, model.moe.drop, "position", DROP_CHOICES,
        "who loses when an expert is full"),
    FLAG("moe.renormalize_after_drop", STATE, model.moe.renormalize_after_drop, "false",
        "divide a token's surviving gate weights by their sum"),
    CHOICE("moe.routing_group", STATE, model.moe.routing_group, "shard", ROUTING_GROUP_CHOICES,
        "tokens that compete for an expert's capacity"),
    NUMBER("moe.balance_loss", COURSE, model.moe.balance_loss, "0.01", 0, 1000,
        "factor of the load-balancing loss; 0: off"),
    CHOICE("moe.balance_scope", COURSE, model.moe.balance_scope, "shard", BALANCE_SCOPE_CHOICES,
        "tokens over which the load is balanced"),
    NUMBER("moe.z_loss", COURSE, model.moe.z_loss, "0.001", 0, 1000,
        "factor of the router's z-loss, which keeps its logits small; 0: off"),
    INTEGER_DERIVED("moe.max_expert_replicas", STATE, model.moe.max_expert_replicas, derive_max_expert_replicas,
        "train.shards", 1, 65536,
        "fixed groups of shards over which an expert's gradient is summed under train.reproducible: ranks: the ranks that hold "
        "the same expert, times train.micro_batches, must divide it; fewer are faster where an expert sees few tokens; part "
        "of the sums, so keep it in a run"),

    INTEGER("parallel.expert", FREE, expert_parallel, "0", 0, 65536,
        "ranks that share one set of experts; 0: the largest divisor of the ranks that divides moe.experts"),
    INTEGER("parallel.exchange_chunks", FREE, exchange_chunks, "2", 1, 16,
        "pieces in which tokens travel to other ranks' experts, so that one is on its way while another is computed; at "
        "most, and a divisor of the experts of a rank is taken; changes no bit"),

    INTEGER("checkpoint.every", FREE, checkpoint_every, "500", 0, MANY,
        "steps between checkpoints; 0: only at the end and on a signal"),
    INTEGER("checkpoint.keep_last", FREE, keep_last, "3", 0, 1e6,
        "newest checkpoints that are kept; 0: all"),
    PATH_OR_WORD("resume", FREE, resume, "auto", RESUME_CHOICES,
        "where training goes on; with a checkpoint's path a branch of its run begins, or goes on once run.dir holds a "
        "checkpoint of that branch"),
    NAMES("resume.allow", FREE, resume_allow,
        "function keys that may differ from the checkpoint's all the same; `moetrain help KEY` tells the kind of a key"),
    PATH("init", FREE, init, "",
        "checkpoint whose weights a new run begins with, at step 0 with a new optimizer, also on other data of the same "
        "vocabulary; once run.dir holds a checkpoint the run goes on from that; empty: random weights"),
    INTEGER("log.every", FREE, log_every, "10", 1, MANY,
        "steps between lines of the log and rows of metrics.jsonl; the last step and skipped ones always have a row"),
    FLAG("log.every_row", FREE, log_every_row, "false",
        "a row of metrics.jsonl for every step; lines of the log stay as log.every says"),
    INTEGER("log.utilization_every", FREE, utilization_every, "0", 0, MANY,
        "steps between rows of the expert-utilization history; 0: as log.every"),
    INTEGER_DERIVED("eval.every", FREE, eval_every, derive_eval_every,
        "250 with data.validation, otherwise 0", 0, MANY,
        "steps between evaluations; 0: only at the end"),
    INTEGER("eval.batches", FREE, eval_batches, "20", 0, MANY,
        "an evaluation takes at most so many times train.batch sequences; 0: the whole validation file"),
    RATIONAL("eval.capacity_factor", FREE, eval_capacity_factor, "0", 0, 1000,
        "moe.capacity_factor of evaluations, where each sequence is a routing group of its own; 0: no limit, nothing is dropped"),
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
    if (habit_key(name)) return habit_key(name);
    const char *names[CONFIG_KEY_COUNT + 1];
    for (int row = 0; row < CONFIG_KEY_COUNT; row++) names[row] = CONFIG_KEYS[row].name;
    names[CONFIG_KEY_COUNT] = NULL;
    return suggest_word(name, names);
}
