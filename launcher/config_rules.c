#include "launcher/config_rules.h"

#include <stdarg.h>
#include <string.h>

#include "worker/data_format.h"

static bool is_given(const Config *config, const char *key) {
    OriginKind kind = config->origins[config_key_find(key)].kind;
    return kind == ORIGIN_FILE || kind == ORIGIN_COMMAND_LINE;
}

// The error of a rule that joins `key` and `other` (may be NULL); it begins with the place where
// the user gave one of them, or else with the file.
static bool broken(const Config *config, Error *err, const char *key, const char *other,
                   const char *format, ...) __attribute__((format(printf, 5, 6)));

static bool broken(const Config *config, Error *err, const char *key, const char *other,
                   const char *format, ...) {
    char message[1024], place[CONFIG_PATH_BYTES + 32];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (!is_given(config, key)) key = other && is_given(config, other) ? other : NULL;
    snprintf(place, sizeof place, "%s", config->source);
    if (key) config_place(config, key, place);
    return error_set(err, EXIT_CONFIG, "%.400s: %s", place, message);
}

static bool is_power_of_two(int64_t n) {
    return n > 0 && (n & (n - 1)) == 0;
}

// "1, 2, 4, 8": the divisors of n that also divide m (m = 0: any), up to 12 of them.
static void list_divisors(int64_t n, int64_t m, char list[160]) {
    size_t used = 0;
    int count = 0;
    for (int64_t d = 1; d <= n && count < 12; d++) {
        if (n % d != 0 || m % d != 0) continue;
        used +=
            (size_t)snprintf(list + used, 160 - used, "%s%lld", count++ ? ", " : "", (long long)d);
    }
}

// "2, 4, 8": n times the powers of two up to `most`.
static void list_multiples(int64_t n, int64_t most, char list[160]) {
    size_t used = 0;
    list[0] = 0;
    for (int count = 0; n <= most && count < 12; n *= 2)
        used +=
            (size_t)snprintf(list + used, 160 - used, "%s%lld", count++ ? ", " : "", (long long)n);
}

static int64_t largest_power_of_two_divisor(int64_t n) {
    return n & -n;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static bool check_data(const Config *config, Error *err) {
    const DataConfig *data = &config->train.data;
    DataFormat format = data_format_resolve(data);
    bool numbers = format == DATA_UINT16 || format == DATA_UINT32;
    if (numbers && data->vocab_size == 0)
        return broken(
            config, err, "data.train", "data.format",
            "data.train holds token numbers (%s)%s, so data.vocab_size must be given (50257 "
            "for GPT-2's tokens)",
            data_format_name(format), data->format == DATA_AUTO ? ", as its name *.bin says" : "");
    if (numbers && data->format != DATA_UINT32 && data->vocab_size > 65536)
        return broken(config, err, "data.vocab_size", "data.format",
                      "data.vocab_size (%lld) is more than uint16 can count, 65536; set "
                      "data.format=uint32 or a smaller vocabulary",
                      (long long)data->vocab_size);
    if (!numbers && data->vocab_size != 0)
        return broken(config, err, "data.vocab_size", "data.format",
                      "data.vocab_size (%lld) is only for uint16 and uint32 files; leave it out "
                      "for text, or set data.format=uint16",
                      (long long)data->vocab_size);
    if (!numbers && data->bytes_per_token != 0)
        return broken(
            config, err, "data.bytes_per_token", "data.format",
            "data.bytes_per_token (%g) is only for uint16 and uint32 files; leave it out for text",
            data->bytes_per_token);
    if (!data->validation[0] && config->train.eval_every > 0)
        return broken(config, err, "eval.every", NULL,
                      "eval.every (%lld) needs data.validation, which is empty; name a file or set "
                      "eval.every=0",
                      (long long)config->train.eval_every);
    return true;
}

static bool check_batch(const Config *config, Error *err) {
    const TrainConfig *train = &config->train;
    char list[160];
    if (train->batch % train->micro_batches != 0) {
        list_divisors(train->batch, 0, list);
        return broken(
            config, err, "train.micro_batches", "train.batch",
            "train.micro_batches (%lld) does not divide train.batch (%lld); set it to one of %s",
            (long long)train->micro_batches, (long long)train->batch, list);
    }
    int64_t sequences = train->batch / train->micro_batches;
    bool exact = train->reproducible == REPRODUCIBLE_RANKS;
    if (train->batch % train->shards != 0) {
        list_divisors(exact ? largest_power_of_two_divisor(train->batch) : train->batch, 0, list);
        return broken(config, err, "train.shards", "train.batch",
                      "train.shards (%lld) does not divide train.batch (%lld); set it to one of %s",
                      (long long)train->shards, (long long)train->batch, list);
    }
    if (train->shards % train->micro_batches != 0)
        return broken(config, err, "train.shards", "train.micro_batches",
                      "train.micro_batches (%lld) does not divide train.shards (%lld), the pieces "
                      "of the whole batch; set train.shards=%lld, or fewer micro-batches",
                      (long long)train->micro_batches, (long long)train->shards,
                      (long long)(train->micro_batches * largest_power_of_two_divisor(sequences)));
    int64_t shards = train->shards / train->micro_batches;
    if (exact && !is_power_of_two(shards))
        return broken(config, err, "train.shards", "train.micro_batches",
                      "train.shards (%lld) / train.micro_batches (%lld) is not a power of two, as "
                      "train.reproducible: ranks needs; set train.shards=%lld or "
                      "train.reproducible=run",
                      (long long)train->shards, (long long)train->micro_batches,
                      (long long)(train->micro_batches * largest_power_of_two_divisor(sequences)));
    // Choices of a micro-batch are numbered with 32 bits.
    int64_t top_k = 1;
    for (int64_t layer = 0; layer < train->model.layers; layer++)
        if (model_feed_forward(&train->model, layer) == FEED_FORWARD_MOE)
            top_k = larger(top_k, moe_shape(&train->model, layer).top_k);
    if ((double)sequences * (double)train->context * (double)top_k >= 2147483647.0)
        return broken(config, err, "train.batch", "train.context",
                      "a micro-batch of %lld sequences x %lld tokens x top_k %lld has 2^31 choices "
                      "or more; raise train.micro_batches",
                      (long long)sequences, (long long)train->context, (long long)top_k);
    return true;
}

static bool check_schedule(const Config *config, Error *err) {
    const TrainConfig *train = &config->train;
    const OptimizerConfig *optimizer = &train->optimizer;
    if (optimizer->min_lr > optimizer->lr)
        return broken(config, err, "train.min_lr", "train.lr",
                      "train.min_lr (%g) is above train.lr (%g); set it to at most %g",
                      optimizer->min_lr, optimizer->lr, optimizer->lr);
    if (optimizer->schedule != LR_WSD && optimizer->decay_steps != 0)
        return broken(config, err, "train.decay", "train.steps",
                      "train.decay (%lld) is only for train.schedule: wsd; leave it out or set "
                      "train.schedule=wsd",
                      (long long)optimizer->decay_steps);
    // A warm-up longer than the run is a shortened run, not an error; a decay that begins before it
    // ended is one.
    int64_t room = train->steps - optimizer->warmup_steps;
    if (optimizer->decay_steps > (room > 0 ? room : 0) && optimizer->schedule == LR_WSD)
        return broken(config, err, "train.decay", "train.steps",
                      "train.warmup (%lld) + train.decay (%lld) exceed train.steps (%lld); set "
                      "train.decay to at most %lld",
                      (long long)optimizer->warmup_steps, (long long)optimizer->decay_steps,
                      (long long)train->steps, (long long)(room > 0 ? room : 0));
    return true;
}

static bool check_attention(const Config *config, Error *err) {
    const AttentionShape *shape = &config->train.model.attention.shape;
    int64_t d_model = config->train.model.d_model;
    char list[160];
    if (shape->heads % shape->kv_heads != 0) {
        list_divisors(shape->heads, 0, list);
        return broken(
            config, err, "attention.kv_heads", "attention.heads",
            "attention.kv_heads (%lld) does not divide attention.heads (%lld); set it to one of %s",
            (long long)shape->kv_heads, (long long)shape->heads, list);
    }
    if (!is_given(config, "attention.d_head") && d_model % shape->heads != 0) {
        list_divisors(d_model, 0, list);
        return broken(config, err, "attention.heads", "model.d_model",
                      "attention.heads (%lld) does not divide model.d_model (%lld); set it to one "
                      "of %s, or give attention.d_head",
                      (long long)shape->heads, (long long)d_model, list);
    }
    if (shape->d_head % 2 != 0)
        return broken(
            config, err, "attention.d_head", "attention.heads",
            "attention.d_head (%lld) is odd, but RoPE turns pairs; set attention.d_head=%lld",
            (long long)shape->d_head, (long long)shape->d_head + 1);
    return true;
}

// The sizes of one MoE layer.
static bool check_moe_shape(const Config *config, MoeShape shape, Error *err) {
    const MoeConfig *moe = &config->train.model.moe;
    if (shape.top_k > shape.experts)
        return broken(config, err, "moe.top_k", "moe.experts",
                      "moe.top_k (%lld) is more than moe.experts (%lld); set it to at most %lld",
                      (long long)shape.top_k, (long long)shape.experts, (long long)shape.experts);
    bool weight_is_one = router_weights_sum_to_1(moe->router) || moe->renormalize_after_drop;
    if (shape.top_k == 1 && weight_is_one)
        return broken(config, err, "moe.top_k", "moe.experts",
                      "moe.top_k (1) with this gate weight is always 1, so the router would get no "
                      "gradient; set moe.router=topk_softmax%s%s, or moe.top_k=2",
                      moe->router.normalize_top_k ? " moe.normalize_top_k=false" : "",
                      moe->renormalize_after_drop ? " moe.renormalize_after_drop=false" : "");
    return true;
}

static bool check_moe(const Config *config, Error *err) {
    const TrainConfig *train = &config->train;
    const ModelConfig *model = &train->model;
    const MoeConfig *moe = &model->moe;
    char list[160];
    bool any = false;
    for (int64_t layer = 0; layer < PER_LAYER_MAX; layer++)
        any = any || moe_shape(model, layer).experts > 0;
    if (!any) {
        if (train->expert_parallel > 1)
            return broken(
                config, err, "parallel.expert", "moe.experts",
                "parallel.expert (%lld) needs experts, but moe.experts is 0; leave it out",
                (long long)train->expert_parallel);
        return true;
    }
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (model_feed_forward(model, layer) == FEED_FORWARD_MOE &&
            !check_moe_shape(config, moe_shape(model, layer), err))
            return false;
    if (model_moe_layers(model) == 0)
        return broken(config, err, "moe.every", "model.layers",
                      "moe.every (%lld) is more than model.layers (%lld), so no layer has experts; "
                      "set it to at most %lld, or moe.first=true, or moe.experts=0",
                      (long long)moe->every, (long long)train->model.layers,
                      (long long)train->model.layers);
    bool exact = train->reproducible == REPRODUCIBLE_RANKS;
    int64_t groups = moe->max_expert_replicas;
    if (exact && (train->shards % groups != 0 || groups % train->micro_batches != 0 ||
                  !is_power_of_two(groups / train->micro_batches))) {
        int64_t least = train->micro_batches;
        list_multiples(least, train->shards, list);
        return broken(config, err, "moe.max_expert_replicas", "train.shards",
                      "moe.max_expert_replicas (%lld) is not train.micro_batches (%lld) times a "
                      "power of two that divides train.shards (%lld); set it to one of %s, or "
                      "leave it out",
                      (long long)groups, (long long)least, (long long)train->shards, list);
    }
    if (moe->dispatch == DISPATCH_PADDED && moe->capacity_factor.numerator == 0)
        return broken(config, err, "moe.dispatch", "moe.capacity_factor",
                      "moe.dispatch: padded sends every expert's whole capacity, but "
                      "moe.capacity_factor is 0 (dropless); set moe.capacity_factor=1.25 or "
                      "moe.dispatch=exact");
    int64_t divisor = model_experts_divisor(model);
    if (train->expert_parallel > 0 && divisor % train->expert_parallel != 0) {
        list_divisors(divisor, 0, list);
        return broken(config, err, "parallel.expert", "moe.experts",
                      "parallel.expert (%lld) does not divide moe.experts (%lld); set it to one of "
                      "%s, or leave it out",
                      (long long)train->expert_parallel, (long long)divisor, list);
    }
    return true;
}

// All layers' parameters, and numbers kept for a token, at most.
static double feed_forward_parameters(const ModelConfig *model) {
    double sum = 0, D = (double)model->d_model;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        MoeShape moe = moe_shape(model, layer);
        sum += model_feed_forward(model, layer) == FEED_FORWARD_MOE
                   ? (double)moe.experts * D * (3 * (double)moe.d_ff + 1)
                   : 3 * D * (double)model->d_ff;
    }
    return sum;
}
static double feed_forward_activations(const ModelConfig *model) {
    double sum = 0, D = (double)model->d_model;
    bool padded = model->moe.dispatch == DISPATCH_PADDED;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        MoeShape moe = moe_shape(model, layer);
        double rows = (double)(padded ? moe.experts : moe.top_k);
        sum += model_feed_forward(model, layer) == FEED_FORWARD_MOE
                   ? rows * (3 * (double)moe.d_ff + 4 * D) + (double)moe.experts
                   : 3 * (double)model->d_ff;
    }
    return sum;
}

// Sizes are counted in 64 bits everywhere below; this bound leaves room for every product of them
// that is ever made.
static bool check_size(const Config *config, Error *err) {
    const double most = 1e16; // numbers of one kind
    const TrainConfig *train = &config->train;
    const ModelConfig *model = &train->model;
    const AttentionShape *s = &model->attention.shape;
    bool text = train->data.vocab_size == 0; // then at most the code points of Unicode
    double vocabulary = text ? 0x110000 : (double)train->data.vocab_size;
    double D = (double)model->d_model, layers = (double)model->layers;
    double attention = (double)(s->heads * (s->d_head + s->d_value)) +
                       (double)(s->kv_heads * (s->d_head + s->d_value));
    double parameters =
        2 * vocabulary * D + layers * D * (attention + 2) + feed_forward_parameters(model);
    if (parameters > most)
        return broken(config, err, "model.layers", "model.d_model",
                      "a model of %.2g parameters is beyond what can be planned, %.0e; reduce "
                      "model.layers, model.d_model, model.d_ff, moe.experts or moe.d_ff",
                      parameters, most);
    double tokens = (double)(train->batch / train->micro_batches) * (double)train->context;
    double activations =
        tokens * (vocabulary + layers * (2 * attention + 6 * D) + feed_forward_activations(model));
    if (activations > most)
        return broken(config, err, "train.batch", "train.context",
                      "a micro-batch of %.2g tokens with %.2g numbers to keep is beyond what can "
                      "be planned, %.0e; raise train.micro_batches or reduce train.batch, "
                      "train.context or the model",
                      tokens, activations, most);
    return true;
}

bool config_check(const Config *config, Error *err) {
    return check_data(config, err) && check_batch(config, err) && check_schedule(config, err) &&
           check_attention(config, err) && check_moe(config, err) && check_size(config, err);
}

static int64_t largest_common_divisor(int64_t a, int64_t b) {
    return b == 0 ? a : largest_common_divisor(b, a % b);
}

// Decides parallel.expert where it is left open. False when it does not divide the ranks.
static bool decide_expert_parallel(const Config *config, int ranks, TrainConfig *train,
                                   Error *err) {
    int64_t divisor = model_experts_divisor(&train->model);
    char list[160];
    if (divisor == 0) train->expert_parallel = 1;
    if (train->expert_parallel == 0)
        train->expert_parallel = largest_common_divisor(ranks, divisor);
    if (ranks % train->expert_parallel == 0) return true;
    list_divisors(ranks, divisor, list);
    return broken(config, err, "parallel.expert", "moe.experts",
                  "parallel.expert (%lld) does not divide the %d ranks; set it to one of %s, "
                  "or leave it out",
                  (long long)train->expert_parallel, ranks, list);
}

bool config_resolve_ranks(const Config *config, int ranks, TrainConfig *train, Error *err) {
    *train = config->train;
    bool stored = config->origins[config_key_find("parallel.expert")].kind != ORIGIN_COMMAND_LINE;
    if (stored && train->expert_parallel > 0 && ranks % train->expert_parallel != 0)
        train->expert_parallel = 0;
    return decide_expert_parallel(config, ranks, train, err);
}

bool config_check_ranks(const Config *config, int ranks, TrainConfig *train, Error *err) {
    *train = config->train;
    MoeConfig *moe = &train->model.moe;
    bool exact = train->reproducible == REPRODUCIBLE_RANKS;
    char list[160];
    int64_t shards = train->shards / train->micro_batches;
    if (shards % ranks != 0) {
        list_divisors(shards, 0, list);
        return broken(config, err, "train.shards", "train.batch",
                      "%d ranks cannot share train.shards (%lld) / train.micro_batches (%lld) "
                      "evenly; use mpirun -np with one of %s, fewer train.micro_batches, which "
                      "changes no result, or other shards from the first step on",
                      ranks, (long long)train->shards, (long long)train->micro_batches, list);
    }
    if (!is_power_of_two(shards / ranks))
        return broken(config, err, "train.shards", "train.batch",
                      "each of %d ranks would own %lld of train.shards (%lld) in each of the "
                      "%lld micro-batches, not a power of two; set train.shards=%lld",
                      ranks, (long long)shards / ranks, (long long)train->shards,
                      (long long)train->micro_batches, (long long)ranks * train->micro_batches);
    if (!decide_expert_parallel(config, ranks, train, err)) return false;
    if (model_experts_divisor(&train->model) == 0) return true;
    int64_t replicas = ranks / train->expert_parallel, pieces = replicas * train->micro_batches;
    if (exact && moe->max_expert_replicas % pieces != 0)
        return broken(config, err, "moe.max_expert_replicas", "train.shards",
                      "%d ranks / parallel.expert %lld would hold each expert %lld times and train "
                      "it in %lld micro-batches, but moe.max_expert_replicas is %lld; leave it out "
                      "from the first step on, or set train.reproducible=run",
                      ranks, (long long)train->expert_parallel, (long long)replicas,
                      (long long)train->micro_batches, (long long)moe->max_expert_replicas);
    return true;
}
