#include <math.h>

#include "kernels/option_rows.h"
#include "worker/train_config.h"

static void derive_every(void *section) {
    TrainConfig *config = section;
    config->eval_every = config->data.validation.count > 0 ? 250 : 0;
}

static void derive_mask_passes(void *section) {
    TrainConfig *config = section;
    config->eval_mask_passes = (int64_t)ceil(1 / config->mask_share);
}

static const Choice WEIGHTS[] = {
    [WEIGHTS_TRAINED] = {"trained", "the parameters as the last step left them"},
    [WEIGHTS_EMA] = {"ema", "their moving average, with train.ema"},
};
const ChoiceTable EVALUATION_WEIGHTS_CHOICES = CHOICE_TABLE(WEIGHTS);

// clang-format off
#define SECTION_STRUCT TrainConfig
static const Option ROWS[] = {
    INTEGER("eval.every", FREE, eval_every,
        DERIVED("250 with data.validation, otherwise 0", derive_every), RANGE(0, MANY_STEPS),
        "steps between evaluations; 0: only at the end"),
    INTEGER("eval.batches", FREE, eval_batches, DEFAULT("20"), RANGE(0, MANY_STEPS),
        "an evaluation takes at most so many times train.batch sequences; 0: the whole validation file"),
    INTEGER("eval.stride", FREE, eval_stride, DEFAULT("0"), RANGE(0, 1 << 30),
        "tokens from one window of an evaluation to the next, each token being scored in the first that has it; fewer "
        "than train.context give it more context (transformers' perplexity of fixed-length models); 0: train.context"),
    INTEGER("eval.mask_passes", FREE, eval_mask_passes,
        DERIVED("1 / train.mask_share, rounded up", derive_mask_passes), RANGE(1, 1e6),
        "train.objective masked: passes in which moetrain evaluate masks each token once, every so manieth at a time, for a "
        "pseudo-perplexity (arXiv:1910.14659); train.context masks one token of a window at a time, as the paper does"),
    RATIONAL("eval.capacity_factor", FREE, eval_capacity_factor, DEFAULT("0"), RANGE(0, 1000),
        "moe.capacity_factor of evaluations, where each sequence is a routing group of its own; 0: no limit, nothing is dropped"),
    CHOICE("eval.weights", FREE, eval_weights, DEFAULT("trained"), OF(EVALUATION_WEIGHTS_CHOICES),
        "which weights are evaluated, and generate text"),
};
// clang-format on

static bool check(const void *section, const OptionRules *rules) {
    const TrainConfig *config = section;
    if (config->data.validation.count == 0 && config->eval_every > 0)
        return option_broken(
            rules, "eval.every", NULL,
            "eval.every (%lld) needs data.validation, which is empty; name a file or set "
            "eval.every=0",
            (long long)config->eval_every);
    if (config->eval_stride > config->context)
        return option_broken(
            rules, "eval.stride", "train.context",
            "eval.stride (%lld) leaves out tokens between windows of train.context (%lld); give at "
            "most that, or 0 for windows that follow each other",
            (long long)config->eval_stride, (long long)config->context);
    if (config->eval_weights == WEIGHTS_EMA && config->optimizer.ema == 0)
        return option_broken(
            rules, "eval.weights", "train.ema",
            "eval.weights: ema needs a moving average, and train.ema is 0; set train.ema=0.999, or "
            "eval.weights=trained");
    return true;
}

const OptionSection EVALUATE_OPTIONS = SECTION(ROWS, check);
