// Names and facts as transformers 5.24 has them (models/*/configuration_*.py, modeling_*.py,
// conversion_mapping.py); names of tensors are those on the disk.
#include "worker/huggingface/family.h"

#include <string.h>

// clang-format off
#define LAYER "model.layers.{l}."
#define TENSOR(their_name, our_name, ...) {.theirs = their_name, .ours = our_name, __VA_ARGS__}
#define FIELD(their_name, our_name, ...)  {.theirs = their_name, .ours = our_name, __VA_ARGS__}

// ---- tensors ------------------------------------------------------------------------------------

static const TensorRule ENDS[] = {
    TENSOR("model.embed_tokens.weight", "embedding"),
    TENSOR("model.norm.weight", "final_norm"),
    TENSOR("lm_head.weight", "head"),
    TENSOR(LAYER "input_layernorm.weight", "layers.{l}.attention_norm"),
    TENSOR(LAYER "post_attention_layernorm.weight", "layers.{l}.ffn_norm"),
    {0}};

static const TensorRule HEADS[] = {
    TENSOR(LAYER "self_attn.q_proj.weight", "layers.{l}.attention.qkv", .order = ROWS_FIRST),
    TENSOR(LAYER "self_attn.k_proj.weight", "layers.{l}.attention.qkv", .order = ROWS_SECOND),
    TENSOR(LAYER "self_attn.v_proj.weight", "layers.{l}.attention.qkv", .order = ROWS_THIRD),
    TENSOR(LAYER "self_attn.q_proj.bias", "layers.{l}.attention.qkv.bias", .order = ROWS_FIRST),
    TENSOR(LAYER "self_attn.k_proj.bias", "layers.{l}.attention.qkv.bias", .order = ROWS_SECOND),
    TENSOR(LAYER "self_attn.v_proj.bias", "layers.{l}.attention.qkv.bias", .order = ROWS_THIRD),
    TENSOR(LAYER "self_attn.o_proj.weight", "layers.{l}.attention.output"),
    TENSOR(LAYER "self_attn.o_proj.bias", "layers.{l}.attention.output.bias"),
    TENSOR(LAYER "self_attn.q_norm.weight", "layers.{l}.attention.q_norm"),
    TENSOR(LAYER "self_attn.k_norm.weight", "layers.{l}.attention.k_norm"),
    TENSOR(LAYER "self_attn.sinks", "layers.{l}.attention.sinks"),
    {0}};

// A query's latent, or queries at once; keys and values by theirs (DeepSeek-V2, arXiv:2405.04434).
static const TensorRule LATENTS[] = {
    TENSOR(LAYER "self_attn.q_a_proj.weight", "layers.{l}.attention.down", .order = ROWS_FIRST, .when = WITH_QUERY_LATENT),
    TENSOR(LAYER "self_attn.q_proj.weight", "layers.{l}.attention.down", .order = ROWS_QUERIES, .when = WITHOUT_QUERY_LATENT),
    TENSOR(LAYER "self_attn.q_a_proj.bias", "layers.{l}.attention.down.bias", .order = ROWS_FIRST, .when = WITH_QUERY_LATENT),
    TENSOR(LAYER "self_attn.kv_a_proj_with_mqa.bias", "layers.{l}.attention.down.bias", .order = ROWS_LATENT_KEYS),
    TENSOR(LAYER "self_attn.o_proj.bias", "layers.{l}.attention.output.bias"),
    TENSOR(LAYER "self_attn.q_a_layernorm.weight", "layers.{l}.attention.q_norm"),
    TENSOR(LAYER "self_attn.q_b_proj.weight", "layers.{l}.attention.q_up", .order = ROWS_QUERIES),
    TENSOR(LAYER "self_attn.kv_a_proj_with_mqa.weight", "layers.{l}.attention.down", .order = ROWS_LATENT_KEYS),
    TENSOR(LAYER "self_attn.kv_a_layernorm.weight", "layers.{l}.attention.kv_norm"),
    TENSOR(LAYER "self_attn.kv_b_proj.weight", "layers.{l}.attention.kv_up", .order = ROWS_KEYS_VALUES),
    TENSOR(LAYER "self_attn.o_proj.weight", "layers.{l}.attention.output"),
    {0}};

static const TensorRule DENSE[] = {
    TENSOR(LAYER "mlp.gate_proj.weight", "layers.{l}.ffn.gate_up", .order = ROWS_FIRST),
    TENSOR(LAYER "mlp.up_proj.weight", "layers.{l}.ffn.gate_up", .order = ROWS_SECOND),
    TENSOR(LAYER "mlp.down_proj.weight", "layers.{l}.ffn.down"),
    TENSOR(LAYER "mlp.gate_proj.bias", "layers.{l}.ffn.gate_up.bias", .order = ROWS_FIRST),
    TENSOR(LAYER "mlp.up_proj.bias", "layers.{l}.ffn.gate_up.bias", .order = ROWS_SECOND),
    TENSOR(LAYER "mlp.down_proj.bias", "layers.{l}.ffn.down.bias"),
    {0}};

static const TensorRule EXPERTS[] = {
    TENSOR(LAYER "mlp.gate.weight", "layers.{l}.moe.router"),
    TENSOR(LAYER "mlp.experts.{e}.gate_proj.weight", "layers.{l}.moe.experts.gate_up", .order = ROWS_FIRST),
    TENSOR(LAYER "mlp.experts.{e}.up_proj.weight", "layers.{l}.moe.experts.gate_up", .order = ROWS_SECOND),
    TENSOR(LAYER "mlp.experts.{e}.down_proj.weight", "layers.{l}.moe.experts.down"),
    {0}};

static const TensorRule MIXTRAL_EXPERTS[] = {
    TENSOR(LAYER "block_sparse_moe.gate.weight", "layers.{l}.moe.router"),
    TENSOR(LAYER "block_sparse_moe.experts.{e}.w1.weight", "layers.{l}.moe.experts.gate_up", .order = ROWS_FIRST),
    TENSOR(LAYER "block_sparse_moe.experts.{e}.w3.weight", "layers.{l}.moe.experts.gate_up", .order = ROWS_SECOND),
    TENSOR(LAYER "block_sparse_moe.experts.{e}.w2.weight", "layers.{l}.moe.experts.down"),
    {0}};

static const TensorRule QWEN_SHARED[] = {
    TENSOR(LAYER "mlp.shared_expert.gate_proj.weight", "layers.{l}.moe.shared.gate_up", .order = ROWS_FIRST,
           .zeros = ZEROS_GATE_UP),
    TENSOR(LAYER "mlp.shared_expert.up_proj.weight", "layers.{l}.moe.shared.gate_up", .order = ROWS_SECOND,
           .zeros = ZEROS_GATE_UP),
    TENSOR(LAYER "mlp.shared_expert.down_proj.weight", "layers.{l}.moe.shared.down", .zeros = ZEROS_DOWN),
    TENSOR(LAYER "mlp.shared_expert_gate.weight", "layers.{l}.moe.shared.gate", .zeros = ZEROS_GATE),
    {0}};

static const TensorRule DEEPSEEK_SHARED[] = {
    TENSOR(LAYER "mlp.gate.e_score_correction_bias", "layers.{l}.moe.router_bias", .wide = true, .zeros = ZEROS_BIAS),
    TENSOR(LAYER "mlp.shared_experts.gate_proj.weight", "layers.{l}.moe.shared.gate_up", .order = ROWS_FIRST),
    TENSOR(LAYER "mlp.shared_experts.up_proj.weight", "layers.{l}.moe.shared.gate_up", .order = ROWS_SECOND),
    TENSOR(LAYER "mlp.shared_experts.down_proj.weight", "layers.{l}.moe.shared.down"),
    {0}};

static const TensorRule GPT_OSS_EXPERTS[] = {
    TENSOR(LAYER "mlp.router.weight", "layers.{l}.moe.router"),
    TENSOR(LAYER "mlp.router.bias", "layers.{l}.moe.router.bias"),
    TENSOR(LAYER "mlp.experts.gate_up_proj", "layers.{l}.moe.experts.gate_up", .order = ROWS_ALTERNATE, .transposed = true,
     .all_experts = true),
    TENSOR(LAYER "mlp.experts.gate_up_proj_bias", "layers.{l}.moe.experts.gate_up.bias", .order = ROWS_ALTERNATE,
           .all_experts = true),
    TENSOR(LAYER "mlp.experts.down_proj", "layers.{l}.moe.experts.down", .transposed = true, .all_experts = true),
    TENSOR(LAYER "mlp.experts.down_proj_bias", "layers.{l}.moe.experts.down.bias", .all_experts = true),
    {0}};

// ---- config.json --------------------------------------------------------------------------------

static const FieldRule OF_ALL[] = {
    FIELD("hidden_size", "model.d_model"),
    FIELD("num_hidden_layers", "model.layers"),
    FIELD("num_attention_heads", "attention.heads"),
    FIELD("rms_norm_eps", "model.norm_eps"),
    FIELD("tie_word_embeddings", "model.tied_embeddings", .absent = "false"),
    {0}};
static const FieldRule OF_HEADS[] = {
    FIELD("num_key_value_heads", "attention.kv_heads", .absent = ""),
    FIELD("head_dim", "attention.d_head", .absent = ""),
    {0}};
static const FieldRule OF_LATENTS[] = {
    FIELD("q_lora_rank", "attention.q_rank", .absent = "0"),
    FIELD("kv_lora_rank", "attention.kv_rank"),
    FIELD("qk_rope_head_dim", "attention.d_rope"),
    FIELD("v_head_dim", "attention.d_value"),
    {0}};
static const FieldRule OF_DENSE[] = {FIELD("intermediate_size", "model.d_ff", .absent = ""), {0}};
static const FieldRule OF_LOCAL_EXPERTS[] = {
    FIELD("num_local_experts", "moe.experts"),
    FIELD("num_experts_per_tok", "moe.top_k"),
    FIELD("intermediate_size", "moe.d_ff"),
    {0}};
static const FieldRule OF_OLMOE_EXPERTS[] = {
    FIELD("num_experts", "moe.experts"),
    FIELD("num_experts_per_tok", "moe.top_k"),
    FIELD("intermediate_size", "moe.d_ff"),
    {0}};
static const FieldRule OF_QWEN_EXPERTS[] = {
    FIELD("num_experts", "moe.experts", .also = "num_local_experts"),
    FIELD("num_experts_per_tok", "moe.top_k"),
    FIELD("moe_intermediate_size", "moe.d_ff"),
    {0}};
static const FieldRule OF_QWEN_SHARED[] = {FIELD("shared_expert_intermediate_size", "moe.shared_d_ff"), {0}};
static const FieldRule OF_ROUTED_EXPERTS[] = {
    FIELD("n_routed_experts", "moe.experts"),
    FIELD("num_experts_per_tok", "moe.top_k"),
    FIELD("moe_intermediate_size", "moe.d_ff"),
    FIELD("n_shared_experts", "moe.shared_experts"),
    FIELD("routed_scaling_factor", "moe.scaling_factor", .absent = "1"),
    FIELD("n_group", "moe.groups", .absent = "1"),
    FIELD("topk_group", "moe.top_groups", .absent = "1"),
    {0}};

static const FactRule NORMED_HEADS[] = {{"attention.qk_norm", "head"}, {0}};
static const FactRule OLMOE_FACTS[] = {{"attention.qk_norm", "whole"}, {0}};
static const FactRule QWEN2_MOE_FACTS[] = {{"moe.shared_experts", "1"}, {"moe.shared_gate", "true"}, {0}};
// The norms of latents have an epsilon of their own there.
static const FactRule DEEPSEEK_V3_FACTS[] = {{"model.mixer", "latent_attention"}, {"model.norm_eps", "1e-06"}, {0}};
static const FactRule GPT_OSS_FACTS[] = {
    {"model.activation", "swiglu_oai"},
    {"attention.softmax", "sink"},
    {"moe.gate_bias", "true"},
    {0}};

static const DemandRule SILU[] = {{"hidden_act", "\"silu\""}, {0}};
static const DemandRule OLMOE_DEMANDS[] = {
    {"hidden_act", "\"silu\""}, {"clip_qkv", "null"}, {0}};
static const DemandRule DEEPSEEK_V3_DEMANDS[] = {
    {"hidden_act", "\"silu\""}, {"scoring_func", "\"sigmoid\""},
    {"topk_method", "\"noaux_tc\""}, {"moe_layer_freq", "1"}, {0}};
static const DemandRule GPT_OSS_DEMANDS[] = {
    {"hidden_act", "\"silu\""}, {"attention_bias", "true"}, {"swiglu_alpha", "1.702"}, {"swiglu_limit", "7.0"}, {0}};

// ---- the families -------------------------------------------------------------------------------

static const Family QWEN3_MOE = {
    .model_type = "qwen3_moe", .architecture = "Qwen3MoeForCausalLM", .compat = "qwen3",
    .tensors = {ENDS, HEADS, DENSE, EXPERTS},
    .fields = {OF_ALL, OF_HEADS, OF_QWEN_EXPERTS, OF_DENSE},
    .facts = NORMED_HEADS, .demands = SILU,
    .router = ROUTER_SOFTMAX, .places = PLACES_LISTED, .window = WINDOW_SAME_IF,
    .bias = {.theirs = "attention_bias", .with = "attention"},
};
static const Family MIXTRAL = {
    .model_type = "mixtral", .architecture = "MixtralForCausalLM", .compat = "mixtral",
    .tensors = {ENDS, HEADS, MIXTRAL_EXPERTS},
    .fields = {OF_ALL, OF_HEADS, OF_LOCAL_EXPERTS},
    .demands = SILU,
    .router = ROUTER_NORMALIZED, .places = PLACES_ALL, .window = WINDOW_SAME,
    .bias = {.always = "false"},
};
static const Family OLMOE = {
    .model_type = "olmoe", .architecture = "OlmoeForCausalLM", .compat = "olmoe",
    .tensors = {ENDS, HEADS, EXPERTS},
    .fields = {OF_ALL, OF_HEADS, OF_OLMOE_EXPERTS},
    .facts = OLMOE_FACTS, .demands = OLMOE_DEMANDS,
    .router = ROUTER_SOFTMAX, .places = PLACES_ALL,
    .bias = {.theirs = "attention_bias", .with = "attention"}, .heads_fill = true,
};
static const Family LLAMA = {
    .model_type = "llama", .architecture = "LlamaForCausalLM",
    .tensors = {ENDS, HEADS, DENSE},
    .fields = {OF_ALL, OF_HEADS, OF_DENSE},
    .demands = SILU,
    .bias = {.theirs = "attention_bias", .with = "attention", .second = "mlp_bias", .with_both = "true"},
};
static const Family QWEN3 = {
    .model_type = "qwen3", .architecture = "Qwen3ForCausalLM",
    .tensors = {ENDS, HEADS, DENSE},
    .fields = {OF_ALL, OF_HEADS, OF_DENSE},
    .facts = NORMED_HEADS, .demands = SILU,
    .window = WINDOW_TYPES_IF,
    .bias = {.theirs = "attention_bias", .with = "attention"},
};
static const Family DEEPSEEK_V3 = {
    .model_type = "deepseek_v3", .architecture = "DeepseekV3ForCausalLM", .compat = "deepseek_v3",
    .tensors = {ENDS, LATENTS, DENSE, EXPERTS, DEEPSEEK_SHARED},
    .fields = {OF_ALL, OF_LATENTS, OF_ROUTED_EXPERTS, OF_DENSE},
    .facts = DEEPSEEK_V3_FACTS, .demands = DEEPSEEK_V3_DEMANDS,
    .router = ROUTER_SIGMOIDS, .places = PLACES_AFTER_FIRST,
    .bias = {.theirs = "attention_bias", .with = "attention"}, .latents = true, .widths_sum = true,
};
static const Family QWEN2_MOE = {
    .model_type = "qwen2_moe", .architecture = "Qwen2MoeForCausalLM",
    .tensors = {ENDS, HEADS, DENSE, EXPERTS, QWEN_SHARED},
    .fields = {OF_ALL, OF_HEADS, OF_QWEN_EXPERTS, OF_QWEN_SHARED, OF_DENSE},
    .facts = QWEN2_MOE_FACTS, .demands = SILU,
    .router = ROUTER_SOFTMAX, .places = PLACES_LISTED, .window = WINDOW_TYPES_IF,
    .bias = {.theirs = "qkv_bias", .with = "qkv"}, .shared_of_zeros = true,
};
static const Family GLM4_MOE = {
    .model_type = "glm4_moe", .architecture = "Glm4MoeForCausalLM",
    .tensors = {ENDS, HEADS, DENSE, EXPERTS, DEEPSEEK_SHARED},
    .fields = {OF_ALL, OF_HEADS, OF_ROUTED_EXPERTS, OF_DENSE},
    .demands = SILU,
    .router = ROUTER_SIGMOIDS, .places = PLACES_AFTER_FIRST,
    .bias = {.theirs = "attention_bias", .with = "qkv"},
    .turns_part = true, .qk_norm_if = "use_qk_norm", .widths_sum = true,
};
static const Family GPT_OSS = {
    .model_type = "gpt_oss", .architecture = "GptOssForCausalLM", .compat = "gpt_oss",
    .tensors = {ENDS, HEADS, GPT_OSS_EXPERTS},
    .fields = {OF_ALL, OF_HEADS, OF_LOCAL_EXPERTS},
    .facts = GPT_OSS_FACTS, .demands = GPT_OSS_DEMANDS,
    .router = ROUTER_NORMALIZED, .places = PLACES_ALL, .window = WINDOW_TYPES,
    .bias = {.always = "true"}, .mxfp4 = true,
};
// clang-format on

const Family *const FAMILIES[] = {&LLAMA,       &QWEN3,     &MIXTRAL,  &QWEN3_MOE, &OLMOE,
                                  &DEEPSEEK_V3, &QWEN2_MOE, &GLM4_MOE, &GPT_OSS,   NULL};

const Family *family_find(const char *model_type) {
    for (int i = 0; FAMILIES[i]; i++)
        if (strcmp(FAMILIES[i]->model_type, model_type) == 0) return FAMILIES[i];
    return NULL;
}

bool family_has_field(const Family *family, const char *key) {
    for (int list = 0; list < FAMILY_RULES_MOST && family->fields[list]; list++)
        for (const FieldRule *field = family->fields[list]; field->theirs; field++)
            if (strcmp(field->ours, key) == 0) return true;
    return false;
}
