#!/usr/bin/env python3
"""Tiny random models of every family that moetrain imports, as transformers initialises and saves them.

    make.py [FAMILY ...]      writes FAMILY/config.json, model.safetensors and golden.json beside itself

golden.json has token numbers and the logits that transformers computes for them, in f32. Weights are stored in the type
that the family's row names, and rounded to it before. Needs torch and transformers (5.24 wrote what is here); a second run
with the same versions writes the same files."""
import json
import pathlib
import shutil
import sys

import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
COMMON = dict(vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
              head_dim=6, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=None,
              pad_token_id=None, initializer_range=0.3)
ROPE = {"rope_type": "default", "rope_theta": 1000.0}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16,
        "beta_fast": 8.0, "beta_slow": 1.0, "truncate": True}
PARTS_OF_PAIRS = dict(YARN, original_max_position_embeddings=64, beta_fast=4.0, beta_slow=0.5, truncate=False)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16,
          "low_freq_factor": 1.0, "high_freq_factor": 4.0}
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, intermediate_size=12)
ROUTED = dict(n_routed_experts=8, num_experts_per_tok=4, moe_intermediate_size=6, intermediate_size=12, n_shared_experts=2,
              routed_scaling_factor=1.8, first_k_dense_replace=1)

# model_type: (type of the stored weights, what the configuration has beside COMMON)
ZOO = {
    "qwen3_moe": ("bfloat16", dict(EXPERTS, norm_topk_prob=True, mlp_only_layers=[1], rope_parameters=ROPE,
                                   attention_bias=True, use_sliding_window=True, sliding_window=5)),
    "mixtral": ("bfloat16", dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=8, sliding_window=7,
                                 rope_parameters=ROPE)),
    "olmoe": ("bfloat16", dict(num_experts=4, num_experts_per_tok=2, intermediate_size=8, norm_topk_prob=False, head_dim=4,
                               rope_parameters=ROPE)),
    "llama": ("float32", dict(intermediate_size=12, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
                              rope_parameters={"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0})),
    "qwen3": ("float16", dict(intermediate_size=12, use_sliding_window=True, sliding_window=4, max_window_layers=2,
                              rope_parameters=LLAMA3)),
    "deepseek_v3": ("bfloat16", dict(ROUTED, q_lora_rank=6, kv_lora_rank=5, qk_rope_head_dim=4, qk_nope_head_dim=2,
                                     v_head_dim=3, n_group=4, topk_group=2, rms_norm_eps=1e-6, num_key_value_heads=4,
                                     head_dim=4, rope_interleave=True, num_mtp_layers=0, attention_bias=False,
                                     rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=1.0))),
    "qwen2_moe": ("float16", dict(EXPERTS, shared_expert_intermediate_size=10, decoder_sparse_step=2, norm_topk_prob=False,
                                  qkv_bias=True, rope_parameters=ROPE)),
    "glm4_moe": ("bfloat16", dict(ROUTED, n_group=1, topk_group=1, use_qk_norm=True, attention_bias=True, head_dim=8,
                                  num_mtp_layers=0, rope_parameters=dict(ROPE, partial_rotary_factor=0.5))),
    "gpt_oss": ("bfloat16", dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=8, sliding_window=4,
                                 rope_parameters=PARTS_OF_PAIRS)),
}


def make_model(family, seed=0, **changes):
    """A model in f32 whose every parameter is random: norms, biases and sinks too."""
    dtype, keys = ZOO[family]
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, **{**COMMON, **keys, **changes})
    config._attn_implementation = config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" in name:
                continue
            value.copy_(torch.randn_like(value) * 0.3)
            if name.endswith("norm.weight"):
                value.add_(1)
            if not name.endswith("e_score_correction_bias"):  # which stays f32
                value.copy_(value.to(getattr(torch, dtype)).float())
    return model


def golden_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].double().tolist()


def main(families):
    torch.set_num_threads(1)
    for family in families or ZOO:
        folder = HERE / family
        shutil.rmtree(folder, ignore_errors=True)
        model = make_model(family)
        tokens = [(7 * i * i + 3 * i + 1) % model.config.vocab_size for i in range(14)]
        golden = {"tokens": tokens, "logits": [[float(f"{x:.8g}") for x in row] for row in golden_of(model, tokens)]}
        wide = {name: value for name, value in model.state_dict().items() if name.endswith("e_score_correction_bias")}
        model.to(getattr(torch, ZOO[family][0]))
        for name, value in wide.items():
            parent, _, buffer = name.rpartition(".")
            setattr(model.get_submodule(parent), buffer, torch.nn.Buffer(value.float()))
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "golden.json").write_text(json.dumps(golden) + "\n")
        print(family, sum(path.stat().st_size for path in folder.iterdir()), "bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
