#include <stdio.h>
#include <stdlib.h>

#include "kernels/option_rows.h"
#include "worker/train_config.h"

static void derive_min_lr(void *section) {
    OptimizerConfig *optimizer = &((TrainConfig *)section)->optimizer;
    char decimal[32]; // 0.0003 of 0.003, where the binary quotient is 0.00030000000000000003
    snprintf(decimal, sizeof decimal, "%.15g", optimizer->lr / 10);
    optimizer->min_lr = strtod(decimal, NULL);
}

static void derive_beta2(void *section) {
    OptimizerConfig *optimizer = &((TrainConfig *)section)->optimizer;
    optimizer->beta2 = optimizer->kind == OPTIMIZER_LION ? 0.99 : 0.95;
}

static void derive_momentum(void *section) {
    OptimizerConfig *optimizer = &((TrainConfig *)section)->optimizer;
    optimizer->momentum = optimizer->kind == OPTIMIZER_SGD    ? 0.9
                          : optimizer->kind == OPTIMIZER_MUON ? 0.95
                                                              : 0;
}

static void derive_nesterov(void *section) {
    OptimizerConfig *optimizer = &((TrainConfig *)section)->optimizer;
    optimizer->nesterov = optimizer->kind == OPTIMIZER_MUON;
}

static void derive_warmup(void *section) {
    TrainConfig *config = section;
    config->optimizer.warmup_steps = config->steps / 10 < 50 ? config->steps / 10 : 50;
}

static void derive_decay(void *section) {
    TrainConfig *config = section;
    config->optimizer.decay_steps = config->optimizer.schedule == LR_WSD ? config->steps / 5 : 0;
}

// clang-format off
#define SECTION_STRUCT GroupRule
static const Option GROUP_FIELDS[] = {
    PATTERN("match", NONE, match, REQUIRED, "names of parameters, as `moetrain inspect` lists them, with * and ?"),
    NUMBER("lr_scale", NONE, lr_scale, DEFAULT("1"), RANGE(0, 1e6), "multiplies the learning rate; 0: they stay"),
    NUMBER("weight_decay", NONE, weight_decay, DEFAULT("-1"), RANGE(-1, 100),
        "instead of train.weight_decay; -1: as without the group"),
};
static const OptionMap GROUP_MAP = MAP_FIELDS(GROUP_FIELDS, GroupRules);
#undef SECTION_STRUCT
#define SECTION_STRUCT TrainConfig
static const Option ROWS[] = {
    CHOICE("train.optimizer", STATE, optimizer.kind, DEFAULT("adamw"), OF(OPTIMIZER_CHOICES),
        "how gradients change parameters"),
    NUMBER("train.lr", COURSE, optimizer.lr, DEFAULT("0.001"), RANGE(0, 100),
        "learning rate after warm-up"),
    NUMBER("train.min_lr", COURSE, optimizer.min_lr, DERIVED("train.lr / 10", derive_min_lr), RANGE(0, 100),
        "learning rate at the last step (cosine, linear, wsd)"),
    CHOICE("train.schedule", COURSE, optimizer.schedule, DEFAULT("cosine"), OF(LR_SCHEDULE_CHOICES),
        "course of the learning rate after warm-up"),
    INTEGER("train.warmup", COURSE, optimizer.warmup_steps,
        DERIVED("train.steps / 10, at most 50", derive_warmup), RANGE(0, MANY_STEPS),
        "steps in which the learning rate rises from 0 to train.lr"),
    INTEGER("train.decay", COURSE, optimizer.decay_steps,
        DERIVED("train.steps / 5 with train.schedule: wsd, otherwise 0", derive_decay), RANGE(0, MANY_STEPS),
        "steps of the final fall with train.schedule: wsd"),
    NUMBER("train.beta1", COURSE, optimizer.beta1, DEFAULT("0.9"), RANGE(0, 0.999999),
        "AdamW (arXiv:1711.05101): decay of the mean gradient; Lion (arXiv:2302.06675): share of it in the step"),
    NUMBER("train.beta2", COURSE, optimizer.beta2,
        DERIVED("0.99 with train.optimizer: lion, otherwise 0.95", derive_beta2), RANGE(0, 0.999999),
        "AdamW (arXiv:1711.05101): decay of the mean squared gradient; Lion (arXiv:2302.06675): of the mean gradient"),
    NUMBER("train.eps", COURSE, optimizer.eps, DEFAULT("1e-08"), RANGE(1e-30, 1),
        "AdamW (arXiv:1711.05101): added to the root of the mean squared gradient"),
    NUMBER("train.weight_decay", COURSE, optimizer.weight_decay, DEFAULT("0.1"), RANGE(0, 100),
        "decay of matrices, not of norms and biases; decoupled (arXiv:1711.05101), except that train.optimizer: sgd adds it to "
        "the gradient as torch.optim.SGD does"),
    MAPS("train.groups", COURSE, optimizer.groups, DEFAULT("[]"), GROUP_MAP,
        "parameters with a learning rate or decay of their own, by name (parameter groups of torch.optim): the first group "
        "that matches a name is its"),
    NUMBER("train.momentum", COURSE, optimizer.momentum,
        DERIVED("0.9 with train.optimizer: sgd, 0.95 with muon, otherwise 0", derive_momentum), RANGE(0, 0.999999),
        "SGD (torch.optim.SGD), Muon (Jordan 2024): decay of the sum of gradients"),
    FLAG("train.nesterov", COURSE, optimizer.nesterov,
        DERIVED("true with train.optimizer: muon, otherwise false", derive_nesterov),
        "SGD (torch.optim.SGD), Muon (Jordan 2024): the step looks ahead by one more gradient"),
    NUMBER("train.clip_norm", COURSE, optimizer.clip_norm, DEFAULT("1"), RANGE(0, 1e12),
        "largest norm of the whole gradient (Pascanu et al., arXiv:1211.5063); 0: no clipping"),
    NUMBER("train.qk_clip", COURSE, model.attention.qk_clip, DEFAULT("0"), RANGE(0, 1e6),
        "largest attention score of a step above which the projections of the head's queries and keys are scaled down after "
        "it (QK-clip; Kimi K2, arXiv:2507.20534: 100); 0: never"),
    NUMBER("train.ema", COURSE, optimizer.ema, DEFAULT("0"), RANGE(0, 0.999999),
        "decay of a moving average of the weights, ema = decay ema + (1 - decay) w after each step (Polyak and Juditsky 1992; "
        "AveragedModel of torch.optim.swa_utils), as large as the parameters and in checkpoints; see eval.weights; 0: none"),
    NUMBER("train.skip_z", COURSE, optimizer.skip_z, DEFAULT("0"), RANGE(0, 1e6),
        "a step is a spike, with which train.spike_policy deals, whose loss or gradient norm lies more than this many standard "
        "deviations above the mean of the last train.skip_window steps (OLMo-core's SkipStepOptimizer: 6; llm.c); 0: none is"),
    INTEGER("train.skip_window", COURSE, optimizer.skip_window, DEFAULT("128"), RANGE(2, 1e6),
        "steps whose losses and gradient norms train.skip_z compares with, skipped ones among them; it judges from half of "
        "them on"),
    CHOICE("train.spike_policy", COURSE, optimizer.spike_policy, DEFAULT("skip"), OF(SPIKE_POLICY_CHOICES),
        "what follows when a step is a spike by train.skip_z (PaLM, arXiv:2204.02311, rolled back; OLMo-core skips)"),
    INTEGER("train.rollback_steps", COURSE, rollback_steps, DEFAULT("100"), RANGE(1, MANY_STEPS),
        "steps before a spike to which train.spike_policy: rollback goes back at least (PaLM, arXiv:2204.02311: about 100): to "
        "the checkpoint of checkpoint.every before them; without one the step is skipped"),
    INTEGER("train.rollback_batches", COURSE, rollback_batches, DEFAULT("200"), RANGE(0, MANY_STEPS),
        "batches of data that are skipped there (PaLM, arXiv:2204.02311: 200 to 500); those up to the spike at least"),
    INTEGER("train.rollback_limit", FREE, rollback_limit, DEFAULT("20"), RANGE(1, 1e6),
        "times that a run goes back at most; the next spike ends it with exit code 6"),
};
// clang-format on

// A key that the chosen optimizer does not read, with another value than the one it has when left
// out: the user takes it for something.
static bool check_unused(const OptimizerConfig *optimizer, const OptionRules *rules) {
    enum {
        A = 1 << OPTIMIZER_ADAMW,
        S = 1 << OPTIMIZER_SGD,
        L = 1 << OPTIMIZER_LION,
        M = 1 << OPTIMIZER_MUON
    };
    const struct {
        const char *key;
        double value, unset;
        int readers; // bits of the optimizers that read it
        const char *of;
    } keys[] = {
        {"train.beta1", optimizer->beta1, 0.9, A | L | M, "adamw, lion and muon"},
        {"train.beta2", optimizer->beta2, 0.95, A | L | M, "adamw, lion and muon"},
        {"train.eps", optimizer->eps, 1e-8, A | M, "adamw and muon"},
        {"train.momentum", optimizer->momentum, 0, S | M, "sgd and muon"},
        {"train.nesterov", optimizer->nesterov, 0, S | M, "sgd and muon"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!(keys[i].readers >> optimizer->kind & 1) && keys[i].value != keys[i].unset)
            return option_broken(
                rules, keys[i].key, "train.optimizer",
                "%s is of train.optimizer: %s; leave it out or change train.optimizer", keys[i].key,
                keys[i].of);
    if (optimizer->nesterov && optimizer->momentum == 0)
        return option_broken(rules, "train.nesterov", "train.momentum",
                             "train.nesterov needs a momentum; set train.momentum=0.9 or "
                             "train.nesterov=false");
    return true;
}

// muP's learning rates are those of updates whose size does not follow the gradient's.
static bool check_mup(const TrainConfig *train, const OptionRules *rules) {
    OptimizerKind kind = train->optimizer.kind;
    if (train->model.mup_base_width == 0 || kind == OPTIMIZER_ADAMW || kind == OPTIMIZER_LION)
        return true;
    return option_broken(rules, "model.mup_base_width", "train.optimizer",
                         "model.mup_base_width sets learning rates as adamw and lion need them; "
                         "set train.optimizer=adamw or model.mup_base_width=0");
}

static bool check_groups(const GroupRules *groups, const OptionRules *rules) {
    for (int64_t i = 0; i < groups->count; i++) {
        double decay = groups->maps[i].weight_decay;
        if (decay < 0 && decay != GROUP_DECAY_AS_BEFORE)
            return option_broken(rules, "train.groups", NULL,
                                 "train.groups: weight_decay %g of '%s' is below 0; leave it out "
                                 "for that of train.weight_decay",
                                 decay, groups->maps[i].match);
    }
    return true;
}

static bool check_qk_clip(const ModelConfig *model, const OptionRules *rules) {
    const AttentionConfig *attention = &model->attention;
    if (attention->qk_clip == 0) return true;
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (model_mixer(model, layer) != MIXER_ATTENTION)
            return option_broken(rules, "train.qk_clip", "model.mixer",
                                 "train.qk_clip (%g) knows the projections of model.mixer: "
                                 "attention alone, and layer %lld has another one; set "
                                 "train.qk_clip=0 or model.mixer=attention",
                                 attention->qk_clip, (long long)layer);
    if (attention->qk_norm == QK_NORM_NONE) return true;
    return option_broken(
        rules, "train.qk_clip", "attention.qk_norm",
        "train.qk_clip (%g) scales what attention.qk_norm brings back to its norm, "
        "which bounds the scores already; set train.qk_clip=0 or "
        "attention.qk_norm=none",
        attention->qk_clip);
}

static bool check_spikes(const TrainConfig *train, const OptionRules *rules) {
    const struct {
        const char *key;
        int64_t value, unset;
    } keys[] = {
        {"train.rollback_steps", train->rollback_steps, 100},
        {"train.rollback_batches", train->rollback_batches, 200},
        {"train.rollback_limit", train->rollback_limit, 20},
    };
    bool back = train->optimizer.spike_policy == SPIKE_ROLLBACK;
    if (train->optimizer.skip_z == 0 && train->optimizer.spike_policy != SPIKE_SKIP)
        return option_broken(rules, "train.spike_policy", "train.skip_z",
                             "train.spike_policy is of spikes, which train.skip_z: 0 never finds; "
                             "set train.skip_z=6, or leave it out");
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !back; i++)
        if (keys[i].value != keys[i].unset)
            return option_broken(rules, keys[i].key, "train.spike_policy",
                                 "%s is of train.spike_policy: rollback; set that, or leave it out",
                                 keys[i].key);
    if (back && train->checkpoint_every == 0)
        return option_broken(rules, "train.spike_policy", "checkpoint.every",
                             "train.spike_policy: rollback goes back to checkpoints, and "
                             "checkpoint.every is 0; set it to some steps");
    if (back && (train->routing_record[0] || train->routing_replay[0]))
        return option_broken(rules, "train.spike_policy",
                             train->routing_record[0] ? "moe.record" : "moe.replay",
                             "a file of routing does not go back, as train.spike_policy: rollback "
                             "does; leave one of them out");
    return true;
}

static bool check(const void *section, const OptionRules *rules) {
    const TrainConfig *train = section;
    if (!check_qk_clip(&train->model, rules) || !check_spikes(train, rules)) return false;
    const OptimizerConfig *optimizer = &train->optimizer;
    if (optimizer->min_lr > optimizer->lr)
        return option_broken(rules, "train.min_lr", "train.lr",
                             "train.min_lr (%g) is above train.lr (%g); set it to at most %g",
                             optimizer->min_lr, optimizer->lr, optimizer->lr);
    if (optimizer->schedule != LR_WSD && optimizer->decay_steps != 0)
        return option_broken(
            rules, "train.decay", "train.steps",
            "train.decay (%lld) is only for train.schedule: wsd; leave it out or set "
            "train.schedule=wsd",
            (long long)optimizer->decay_steps);
    if (!check_unused(optimizer, rules) || !check_groups(&optimizer->groups, rules) ||
        !check_mup(train, rules))
        return false;
    // A warm-up longer than the run is a shortened run, not an error; a decay that begins before it
    // ended is one.
    int64_t left = train->steps - optimizer->warmup_steps;
    if (optimizer->decay_steps > (left > 0 ? left : 0) && optimizer->schedule == LR_WSD)
        return option_broken(
            rules, "train.decay", "train.steps",
            "train.warmup (%lld) + train.decay (%lld) exceed train.steps (%lld); set "
            "train.decay to at most %lld",
            (long long)optimizer->warmup_steps, (long long)optimizer->decay_steps,
            (long long)train->steps, (long long)(left > 0 ? left : 0));
    return true;
}

const OptionSection OPTIMIZER_OPTIONS = SECTION(ROWS, check);
