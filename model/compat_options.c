// compat: the rules of another system as defaults, so that a model of it trains here as there. A
// key that is given wins. Rows are what the systems' sources and papers say, from memory.
#include <string.h>

#include "kernels/option_rows.h"
#include "model/model_config.h"

static const Choice COMPATS[] = {
    [COMPAT_NONE] = {"none", "the defaults of this program"},
    [COMPAT_MEGATRON] = {"megatron", "Megatron-LM: capacity upwards in double, drops by weight"},
    [COMPAT_GSHARD] = {"gshard", "GShard (arXiv:2006.16668; Lingvo): top-2, weights over the two, "
                                 "capacity downwards and 4 at least; its loss counts first choices "
                                 "alone"},
    [COMPAT_SWITCH] = {"switch",
                       "Switch (arXiv:2101.03961; Mesh TensorFlow): top-1 of the softmax, "
                       "capacity downwards and 4 at least"},
    [COMPAT_DEEPSPEED] = {"deepspeed", "DeepSpeed-MoE: capacity upwards in float and 4 at least, "
                                       "weights over the choices that were kept; its loss counts "
                                       "first choices alone"},
    [COMPAT_TUTEL] = {"tutel", "Tutel: weights over the chosen, capacity a multiple of top_k; its "
                               "loss counts first choices alone"},
    [COMPAT_MIXTRAL] = {"mixtral", "Mixtral in transformers: softmax over the chosen, no drops, f "
                                   "sums to top_k"},
    [COMPAT_OLMOE] = {"olmoe", "OLMoE (arXiv:2409.02060): softmax over all, not normalised, no "
                               "drops, f sums to top_k"},
    [COMPAT_QWEN3] = {"qwen3",
                      "Qwen3 (arXiv:2505.09388): normalised softmax, no drops, balance over "
                      "the step"},
    [COMPAT_DEEPSEEK_V3] = {"deepseek_v3", "DeepSeek-V3 (arXiv:2412.19437): sigmoids times 2.5, a "
                                           "bias by sign, a small balance loss of sequences"},
    [COMPAT_GPT_OSS] = {"gpt_oss", "gpt-oss in transformers: softmax over the chosen, no drops, f "
                                   "sums to top_k"},
};
const ChoiceTable COMPAT_CHOICES = CHOICE_TABLE(COMPATS);

typedef struct Preset {
    Compat compat;
    const char *key, *value;
} Preset;

// clang-format off
static const Preset PRESETS[] = {
    // core/transformer/moe/moe_utils.py: get_capacity, switch_load_balancing_loss_func
    {COMPAT_MEGATRON, "moe.capacity_rounding", "ceil_f64"},
    {COMPAT_MEGATRON, "moe.drop", "probability"},
    {COMPAT_MEGATRON, "moe.z_loss", "0"},
    // lingvo/core/gshard_layers.py: Top2Gating
    {COMPAT_GSHARD, "moe.router", "topk_softmax"},
    {COMPAT_GSHARD, "moe.normalize_top_k", "true"},
    {COMPAT_GSHARD, "moe.capacity_factor", "1"},
    {COMPAT_GSHARD, "moe.capacity_rounding", "floor"},
    {COMPAT_GSHARD, "moe.min_capacity", "4"},
    {COMPAT_GSHARD, "moe.balance_choices", "first"},
    {COMPAT_GSHARD, "moe.z_loss", "0"},
    // mesh_tensorflow/transformer/moe.py: _switch_gating
    {COMPAT_SWITCH, "moe.router", "topk_softmax"},
    {COMPAT_SWITCH, "moe.top_k", "1"},
    {COMPAT_SWITCH, "moe.capacity_factor", "1.25"},
    {COMPAT_SWITCH, "moe.capacity_rounding", "floor"},
    {COMPAT_SWITCH, "moe.min_capacity", "4"},
    {COMPAT_SWITCH, "moe.z_loss", "0"},
    // deepspeed/moe/sharded_moe.py: _capacity, top2gating
    {COMPAT_DEEPSPEED, "moe.router", "topk_softmax"},
    {COMPAT_DEEPSPEED, "moe.renormalize_after_drop", "true"},
    {COMPAT_DEEPSPEED, "moe.capacity_factor", "1"},
    {COMPAT_DEEPSPEED, "moe.capacity_rounding", "ceil_f32"},
    {COMPAT_DEEPSPEED, "moe.min_capacity", "4"},
    {COMPAT_DEEPSPEED, "moe.balance_choices", "first"},
    {COMPAT_DEEPSPEED, "moe.z_loss", "0"},
    // tutel/impls/fast_dispatch.py: extract_critical; losses.py: gshard_loss
    {COMPAT_TUTEL, "moe.router", "topk_softmax"},
    {COMPAT_TUTEL, "moe.normalize_top_k", "true"},
    {COMPAT_TUTEL, "moe.capacity_factor", "1"},
    {COMPAT_TUTEL, "moe.capacity_rounding", "floor_per_choice"},
    {COMPAT_TUTEL, "moe.balance_choices", "first"},
    {COMPAT_TUTEL, "moe.z_loss", "0"},
    // transformers: modeling_mixtral.py, load_balancing_loss_func
    {COMPAT_MIXTRAL, "moe.balance_loss", "0.001"},
    {COMPAT_MIXTRAL, "moe.balance_share", "tokens"},
    {COMPAT_MIXTRAL, "moe.balance_scope", "batch"},
    {COMPAT_MIXTRAL, "moe.z_loss", "0"},
    {COMPAT_OLMOE, "moe.router", "topk_softmax"},
    {COMPAT_OLMOE, "moe.balance_share", "tokens"},
    {COMPAT_QWEN3, "moe.router", "topk_softmax"},
    {COMPAT_QWEN3, "moe.normalize_top_k", "true"},
    {COMPAT_QWEN3, "moe.balance_scope", "step"},
    {COMPAT_QWEN3, "moe.balance_loss", "0.001"},
    {COMPAT_QWEN3, "moe.z_loss", "0"},
    {COMPAT_DEEPSEEK_V3, "moe.router", "sigmoid"},
    {COMPAT_DEEPSEEK_V3, "moe.scaling_factor", "2.5"},
    {COMPAT_DEEPSEEK_V3, "moe.bias_update", "sign"},
    {COMPAT_DEEPSEEK_V3, "moe.bias_rate", "0.001"},
    {COMPAT_DEEPSEEK_V3, "moe.balance_scope", "sequence"},
    {COMPAT_DEEPSEEK_V3, "moe.balance_loss", "0.0001"},
    {COMPAT_DEEPSEEK_V3, "moe.z_loss", "0"},
    // transformers: modeling_gpt_oss.py, configuration_gpt_oss.py
    {COMPAT_GPT_OSS, "moe.gate_bias", "true"},
    {COMPAT_GPT_OSS, "moe.balance_loss", "0.9"},
    {COMPAT_GPT_OSS, "moe.balance_share", "tokens"},
    {COMPAT_GPT_OSS, "moe.balance_scope", "batch"},
    {COMPAT_GPT_OSS, "moe.z_loss", "0"},
};

const char *compat_default(Compat compat, const char *key) {
    for (size_t i = 0; i < sizeof PRESETS / sizeof *PRESETS; i++)
        if (PRESETS[i].compat == compat && strcmp(PRESETS[i].key, key) == 0)
            return PRESETS[i].value;
    return NULL;
}

#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    CHOICE("compat", FREE, compat, DEFAULT("none"), OF(COMPAT_CHOICES),
        "the system whose rules of routing, dropping and balance are the defaults of the moe keys; keys that are given win"),
};
// clang-format on

const OptionSection COMPAT_OPTIONS = SECTION(ROWS, NULL);
