// The enumerations of kernels.h that a user can name: their words, and what follows from a value.
#include "kernels/kernels.h"

static const struct ActivationFacts {
    Choice choice;
    int64_t inputs;
} ACTIVATION_ROWS[] = {
#define ROW(value, word, inputs, meaning) [value] = {{#word, meaning}, inputs},
    ACTIVATIONS(ROW)
#undef ROW
};
const ChoiceTable ACTIVATION_CHOICES = CHOICE_TABLE(ACTIVATION_ROWS);

bool activation_is_gated(Activation kind) {
    return ACTIVATION_ROWS[kind].inputs == 2;
}

int64_t activation_input_width(Activation kind, int64_t F) {
    return ACTIVATION_ROWS[kind].inputs * F;
}

static const Choice SOFTMAXES[] = {
    [SOFTMAX_PLAIN] = {"plain", "the weights of a query sum to 1"},
    [SOFTMAX_OFF_BY_ONE] = {"off_by_one",
                            "1 more in the denominator (Miller 2023, Attention Is Off By One)"},
    [SOFTMAX_SINK] = {"sink",
                      "exp of a learned logit of each query head more (gpt-oss, arXiv:2508.10925)"},
};
const ChoiceTable ATTENTION_SOFTMAX_CHOICES = CHOICE_TABLE(SOFTMAXES);

static const Choice QK_NORMS[] = {
    [QK_NORM_NONE] = {"none", "as they are projected"},
    [QK_NORM_HEAD] = {"head", "RMS norm of each head, a weight for all of them (Qwen3)"},
    [QK_NORM_WHOLE] = {"whole", "RMS norm over all heads together (OLMo 2, arXiv:2501.00656)"},
};
const ChoiceTable QK_NORM_CHOICES = CHOICE_TABLE(QK_NORMS);

static const struct NormFacts {
    Choice choice;
    int64_t params, statistics;
} NORM_ROWS[] = {
#define ROW(value, word, params, statistics, meaning)                                              \
    [value] = {{#word, meaning}, params, statistics},
    NORMS(ROW)
#undef ROW
};
const ChoiceTable NORM_CHOICES = CHOICE_TABLE(NORM_ROWS);

bool norm_has_bias(NormKind kind) {
    return NORM_ROWS[kind].params == 2;
}

int64_t norm_statistics(NormKind kind) {
    return NORM_ROWS[kind].statistics;
}

static const Choice ROUTERS[] = {
    [SOFTMAX_TOPK] = {"softmax_topk", "softmax over the chosen logits (Mixtral)"},
    [TOPK_SOFTMAX] = {"topk_softmax", "choose from the full softmax (Switch)"},
    [SIGMOID] = {"sigmoid", "a sigmoid of each logit, over the sum of the chosen (DeepSeek-V3)"},
    [SQRT_SOFTPLUS] = {"sqrtsoftplus",
                       "the root of each logit's softplus, over the sum of the chosen "
                       "(DeepSeek-V4)"},
    [NOISY_TOPK] = {"noisy_top_k",
                    "softmax_topk of logits with learned noise, while training (Shazeer et al. "
                    "2017, arXiv:1701.06538; makeMoE)"},
    [SINKHORN] = {"sinkhorn",
                  "while training choices whose load Sinkhorn's iterations even out, otherwise the "
                  "largest logits; weights from the full softmax, with one choice its sigmoid "
                  "(Megatron-LM; BASE, arXiv:2103.16716)"},
    [HASH] = {"hash", "by the token's id, each of the top_k with weight 1/top_k: there is no gate "
                      "(Hash Layers, arXiv:2106.04426)"},
    [EXPERT_CHOICE] = {"expert_choice",
                       "each expert takes its best tokens, top_k * tokens / experts times "
                       "moe.capacity_factor (default 1) of a routing group "
                       "(Zhou et al., arXiv:2202.09368)"},
};
const ChoiceTable ROUTER_CHOICES = CHOICE_TABLE(ROUTERS);

RouterScore router_score(RouterRule rule, int64_t K) {
    switch (rule.kind) {
    case SOFTMAX_TOPK:
    case TOPK_SOFTMAX:
    case NOISY_TOPK:
    case HASH:
    case EXPERT_CHOICE:
        return SCORE_EXP;
    case SIGMOID:
        return SCORE_SIGMOID;
    case SQRT_SOFTPLUS:
        return SCORE_SQRT_SOFTPLUS;
    case SINKHORN:
        return K == 1 ? SCORE_SIGMOID : SCORE_EXP;
    }
    CHECK(false, "router %d", (int)rule.kind);
}

RouterWeighing router_weighing(RouterRule rule, int64_t K) {
    switch (rule.kind) {
    case SOFTMAX_TOPK:
    case NOISY_TOPK:
    case HASH:
        return WEIGH_OVER_CHOSEN;
    case TOPK_SOFTMAX:
        return rule.normalize_top_k ? WEIGH_OVER_CHOSEN : WEIGH_OVER_ALL;
    case EXPERT_CHOICE:
        return WEIGH_OVER_ALL;
    case SIGMOID:
    case SQRT_SOFTPLUS:
        return K == 1 || rule.alone ? WEIGH_ALONE : WEIGH_OVER_CHOSEN;
    case SINKHORN:
        return K == 1 ? WEIGH_ALONE : WEIGH_OVER_ALL;
    }
    CHECK(false, "router %d", (int)rule.kind);
}

bool router_scales(RouterKind kind) {
    return kind == SIGMOID || kind == SQRT_SOFTPLUS;
}

int64_t router_group_choices(RouterRule rule, int64_t size, int64_t K) {
    int64_t most = K / rule.top_groups;
    return most < 1 ? 1 : most < size ? most : size;
}

bool router_single_weight_is_1(RouterRule rule) {
    return router_weighing(rule, 1) == WEIGH_OVER_CHOSEN;
}

static const Choice DROPS[] = {
    [DROP_POSITION] = {"position",
                       "later tokens lose, second choices before first ones (GShard, Switch)"},
    [DROP_PROBABILITY] = {"probability", "smaller gate weights lose (Megatron's probs; V-MoE, "
                                         "arXiv:2106.05974)"},
    [DROP_RANDOM] = {"random", "chance decides, the same on any ranks"},
};
const ChoiceTable DROP_CHOICES = CHOICE_TABLE(DROPS);
