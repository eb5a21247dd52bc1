#include "kernels/integers.h"
#include "kernels/option_rows.h"
#include "model/loss.h"
#include "worker/train_config.h"

// Not a function of the micro-batches as far as that can be: they must not be seen in the results.
static void derive_embedding_dropout(void *section) {
    ModelConfig *model = &((TrainConfig *)section)->model;
    model->embedding_dropout = model->dropout;
}

static void derive_shards(void *section) {
    TrainConfig *config = section;
    int64_t pieces = config->micro_batches, odd = pieces / largest_power_of_two_divisor(pieces);
    int64_t shards = config->batch % odd == 0 ? odd : 1;
    while ((shards < 8 || shards < pieces) && config->batch % (2 * shards) == 0) shards *= 2;
    config->shards = shards;
}

// clang-format off
#define SECTION_STRUCT TrainConfig
static const Option ROWS[] = {
    INTEGER("train.steps", COURSE, steps, DEFAULT("1000"), RANGE(1, MANY_STEPS),
        "optimizer steps of the whole run"),
    INTEGER("train.batch", COURSE, batch, DEFAULT("16"), RANGE(1, 1e9),
        "sequences in the global batch of one step, over all ranks and micro-batches"),
    INTEGER("train.context", COURSE, context, DEFAULT("128"), RANGE(1, 1e6),
        "tokens of a sequence"),
    INTEGER("train.micro_batches", FREE, micro_batches, DEFAULT("1"), RANGE(1, 1e6),
        "pieces in which a rank computes its part of the batch (gradient accumulation): less memory for activations, the "
        "same step; with train.reproducible: ranks a power of two where train.shards is one, and log2 of it more gradients"),
    INTEGER("train.shards", STATE, shards,
        DERIVED("largest power of two up to 8, or train.micro_batches, that divides train.batch", derive_shards),
        RANGE(1, 65536),
        "pieces of the batch of a step that never depend on the number of ranks or micro-batches: what a routing group and "
        "the order of sums are; a micro-batch has as many of them as there are ranks, or more"),
    CHOICE("train.reproducible", COURSE, reproducible, DEFAULT("ranks"), OF(REPRODUCIBLE_CHOICES),
        "what changes no bit of the results"),
    CHOICE("train.precision", STATE, precision, DEFAULT("f32"), OF(PRECISION_CHOICES),
        "storage of activations and of the matrices that multiply them; sums, parameters' masters, optimizer, router, "
        "norms and residual stream are f32 always"),
    NUMBER("train.dropout", COURSE, model.dropout, DEFAULT("0"), RANGE(0, 0.99),
        "share of the embedding, of attention's probabilities and of what each mixer and feed-forward adds to the residual "
        "stream that is zero in a step, the rest growing by 1/(1 - share); none in evaluation and generation (GPT-2)"),
    NUMBER("train.embedding_dropout", COURSE, model.embedding_dropout, DERIVED("train.dropout", derive_embedding_dropout),
        RANGE(0, 0.99), "that share of the embedding alone (embd_pdrop of transformers); makeMoE has none"),
    CHOICE("train.objective", FUNCTION, model.objective, DEFAULT("causal"), OF(OBJECTIVE_CHOICES),
        "what the model is to predict; masked: attention sees both sides, the vocabulary gets a mask token, and nothing can be "
        "generated"),
    NUMBER("train.mask_share", COURSE, mask_share, DEFAULT("0.15"), RANGE(0.001, 0.99),
        "train.objective masked: share of the tokens that the loss is of; of ten of them eight become the mask token, one any "
        "token, one stays (BERT, arXiv:1810.04805)"),
    INTEGER("train.max_skipped", FREE, max_skipped, DEFAULT("10"), RANGE(1, 1e9),
        "steps in a row with non-finite loss or gradients that stop the run (exit code 6)"),
    INTEGER("train.threads", FREE, threads, DEFAULT("0"), RANGE(0, 1024),
        "OpenMP threads of a rank; 0: OMP_NUM_THREADS, else its share of the CPUs and of the cgroup's quota"),
};
// clang-format on

// How the batch is cut into micro-batches and shards.
static bool check(const void *section, const OptionRules *rules) {
    const TrainConfig *train = section;
    char list[160];
    if (train->batch % train->micro_batches != 0) {
        option_list_divisors(train->batch, 0, list);
        return option_broken(
            rules, "train.micro_batches", "train.batch",
            "train.micro_batches (%lld) does not divide train.batch (%lld); set it to one of %s",
            (long long)train->micro_batches, (long long)train->batch, list);
    }
    const BalanceTerms *balance = &train->model.moe.balance;
    for (int64_t i = 0; i < balance->count; i++)
        if (balance->maps[i].scope == BALANCE_DOCUMENT && train->data.documents != DOCUMENTS_MASK)
            return option_broken(rules, "moe.balance", "data.documents",
                                 "moe.balance: {scope: document} is of documents that nothing "
                                 "parts; set data.documents=mask, or scope: sequence");
    if (train->model.moe.routing_group == GROUP_DOCUMENT && train->data.documents != DOCUMENTS_MASK)
        return option_broken(rules, "moe.routing_group", "data.documents",
                             "moe.routing_group: document is of documents that nothing parts; set "
                             "data.documents=mask, or moe.routing_group=sequence");
    if (train->model.mtp.layers >= train->context)
        return option_broken(rules, "mtp.layers", "train.context",
                             "mtp.layers (%lld) reach beyond a window of train.context (%lld) "
                             "tokens; set mtp.layers below that",
                             (long long)train->model.mtp.layers, (long long)train->context);
    if (train->model.objective != OBJECTIVE_MASKED && train->mask_share != 0.15)
        return option_broken(rules, "train.mask_share", "train.objective",
                             "train.mask_share is of train.objective=masked alone; set that, or "
                             "leave it out");
    if (model_has_feed_forward(&train->model, FEED_FORWARD_SOFT_MOE) &&
        train->data.documents == DOCUMENTS_MASK)
        return option_broken(rules, "data.documents", "model.feed_forward",
                             "data.documents=mask keeps the documents of a sequence apart, and the "
                             "slots of soft_moe mix them; set data.documents=ignore, or another "
                             "model.feed_forward");
    int64_t sequences = train->batch / train->micro_batches;
    bool exact = train->reproducible == REPRODUCIBLE_RANKS;
    if (train->batch % train->shards != 0) {
        int64_t n = exact ? largest_power_of_two_divisor(train->batch) : train->batch;
        option_list_divisors(n, 0, list);
        return option_broken(
            rules, "train.shards", "train.batch",
            "train.shards (%lld) does not divide train.batch (%lld); set it to one of %s",
            (long long)train->shards, (long long)train->batch, list);
    }
    int64_t most = train->micro_batches * largest_power_of_two_divisor(sequences);
    if (train->shards % train->micro_batches != 0)
        return option_broken(
            rules, "train.shards", "train.micro_batches",
            "train.micro_batches (%lld) does not divide train.shards (%lld), the pieces "
            "of the whole batch; set train.shards=%lld, or fewer micro-batches",
            (long long)train->micro_batches, (long long)train->shards, (long long)most);
    if (exact && !is_power_of_two(train->shards / train->micro_batches))
        return option_broken(
            rules, "train.shards", "train.micro_batches",
            "train.shards (%lld) / train.micro_batches (%lld) is not a power of two, as "
            "train.reproducible: ranks needs; set train.shards=%lld or "
            "train.reproducible=run",
            (long long)train->shards, (long long)train->micro_batches, (long long)most);
    return true;
}

const OptionSection TRAIN_OPTIONS = SECTION(ROWS, check);
