#include "kernels/option_rows.h"
#include "model/model_config.h"

// ---- words --------------------------------------------------------------------------------------

static const Choice BALANCE_SCOPES[] = {
    [BALANCE_SHARD] = {"shard", "the tokens of one of train.shards"},
    [BALANCE_SEQUENCE] = {"sequence", "the tokens of one sequence"},
    [BALANCE_BATCH] = {"batch", "the tokens of a whole micro-batch, on all ranks"},
};
const ChoiceTable BALANCE_SCOPE_CHOICES = CHOICE_TABLE(BALANCE_SCOPES);

static const Choice BIAS_UPDATES[] = {
    [BIAS_UPDATE_NONE] = {"none", "there is no bias"},
    [BIAS_UPDATE_SIGN] = {"sign",
                          "after each step a step of moe.bias_rate towards the mean load, up or "
                          "down (DeepSeek-V3)"},
};
const ChoiceTable BIAS_UPDATE_CHOICES = CHOICE_TABLE(BIAS_UPDATES);

// ---- keys ---------------------------------------------------------------------------------------

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    NUMBER("moe.balance_loss", COURSE, moe.balance_loss, DEFAULT("0.01"), RANGE(0, 1000),
        "factor of the load-balancing loss; 0: off"),
    CHOICE("moe.balance_scope", COURSE, moe.balance_scope, DEFAULT("shard"), OF(BALANCE_SCOPE_CHOICES),
        "tokens over which the load is balanced"),
    CHOICE("moe.bias_update", FUNCTION, moe.bias_update, DEFAULT("none"), OF(BIAS_UPDATE_CHOICES),
        "a bias for each expert that is added to its score when experts are chosen, nowhere else, and evens out their load"),
    NUMBER("moe.bias_rate", COURSE, moe.bias_rate, DEFAULT("0.001"), RANGE(0, 1),
        "step of that bias; scores lie between 0 and 1"),
    NUMBER("moe.z_loss", COURSE, moe.z_loss, DEFAULT("0.001"), RANGE(0, 1000),
        "factor of the router's z-loss, which keeps its logits small; 0: off"),
};
// clang-format on

const OptionSection BALANCE_OPTIONS = SECTION(ROWS, NULL);
