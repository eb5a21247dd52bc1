#!/usr/bin/env python3
"""The promise of the program: the same configuration and seed give the same losses in every digit, and the same
bytes of parameters, optimizer state and utilization, on any number of ranks, threads, expert-parallel degrees and
micro-batches.

  invariance.py MOETRAIN [CONFIGURATION …]
  invariance.py --names                       of the configurations: CTest has a test for each

Each configuration is trained on one rank with one thread and the first layout's micro-batches, then on the layouts
beside it; all of metrics.jsonl that is not a time and the digest of the last checkpoint must be equal. No tolerance."""
import sys
import time

from runs import Workspace, difference

# name: what it changes, layouts (ranks, threads a rank, parallel.expert, train.micro_batches)
CONFIGURATIONS = {
    "dropless": (
        {"data.format": "characters"},
        [(2, 2, 1, 1), (4, 1, 2, 2), (8, 1, 4, 1), (8, 1, 1, 1), (1, 2, 1, 8), (2, 1, 2, 4)]),
    "switch, position": (
        {"moe.top_k": 1, "moe.router": "topk_softmax", "moe.capacity_factor": 1, "moe.drop": "position",
         "moe.balance_scope": "batch", "model.activation": "relu", "model.tied_embeddings": "false",
         "model.d_model": 48, "attention.heads": 3, "moe.d_ff": 40, "train.context": 17},
        [(1, 2, 1, 1), (2, 1, 2, 1), (4, 2, 4, 1), (8, 1, 8, 1)]),
    "probability, accumulation, GQA": (
        {"moe.router": "topk_softmax", "moe.normalize_top_k": "true", "moe.capacity_factor": 1.1,
         "moe.drop": "probability", "moe.renormalize_after_drop": "true", "moe.routing_group": "sequence",
         "moe.balance_scope": "sequence", "attention.heads": 4, "attention.kv_heads": 2, "attention.d_value": 6},
        [(2, 2, 1, 4), (4, 1, 4, 2), (1, 1, 1, 4)]),
    "random, dense layers mixed in": (
        {"moe.capacity_factor": 0.75, "moe.drop": "random", "moe.every": 2, "moe.first": "false",
         "moe.max_expert_replicas": 4, "moe.balance_loss": 0.5, "model.layers": 4, "train.batch": 32,
         "train.shards": 16},
        [(2, 2, 1, 2), (4, 1, 4, 4), (8, 1, 4, 2), (1, 1, 1, 4)]),
    "one replica, MQA": (
        {"moe.top_k": 3, "moe.capacity_factor": 1.25, "moe.routing_group": "sequence", "moe.min_capacity": 3,
         "moe.balance_scope": "batch", "moe.z_loss": 0.1, "moe.max_expert_replicas": 2, "attention.kv_heads": 1,
         "attention.heads": 4, "train.batch": 32, "train.shards": 16},  # the batch of this balance is a micro-batch
        [(2, 1, 2, 2), (4, 1, 4, 2)]),
    "six experts, sixteen shards": (
        {"moe.experts": 6, "moe.router": "topk_softmax", "moe.capacity_factor": 0.9, "moe.drop": "random",
         "moe.routing_group": "sequence", "moe.renormalize_after_drop": "true", "moe.max_expert_replicas": 4,
         "model.d_model": 40, "attention.heads": 4, "model.activation": "relu", "train.shards": 16},
        [(2, 1, 2, 1), (4, 2, 1, 1), (8, 1, 2, 1), (2, 1, 2, 4), (3, 1, 3, 1), (6, 1, 6, 1)]),
    "padded, routing by sequence": (  # two sequences a shard: two capacities in the rows of each expert and shard
        {"moe.dispatch": "padded", "moe.capacity_factor": 1.1, "moe.routing_group": "sequence",
         "moe.min_capacity": 3, "moe.renormalize_after_drop": "true", "parallel.exchange_chunks": 3,
         "train.batch": 32, "train.shards": 16},
        [(1, 2, 1, 1), (2, 1, 2, 2), (4, 1, 1, 1), (4, 1, 4, 4), (8, 1, 2, 2), (3, 1, 3, 1)]),
    "sigmoid, balance over the batch": (
        {"moe.router": "sigmoid", "moe.scaling_factor": 2.5, "moe.capacity_factor": 1.1, "moe.drop": "probability",
         "moe.balance_scope": "batch", "moe.balance_loss": 0.1},
        [(2, 2, 2, 1), (4, 1, 2, 1)]),
    "noisy_top_k with jitter": (
        {"moe.router": "noisy_top_k", "moe.jitter": 0.1, "moe.noise_in_evaluation": "true", "moe.capacity_factor": 1.25,
         "moe.router_init_scale": 0.5},
        [(2, 2, 2, 2), (3, 1, 3, 1)]),
    "sinkhorn over sequences": (
        {"moe.router": "sinkhorn", "moe.balance_scope": "sequence", "moe.top_k": 1, "moe.capacity_factor": 1.25},
        [(2, 1, 2, 2), (4, 1, 2, 1)]),
    "sqrtsoftplus in groups": (
        {"moe.gate_bias": "true", "moe.router": "sqrtsoftplus", "moe.groups": 4, "moe.top_groups": 2, "moe.scaling_factor": 1.5,
         "moe.bias_update": "sign", "moe.balance_scope": "batch"},
        [(1, 1, 1, 1), (2, 1, 2, 1), (4, 1, 4, 1)]),
    "balance over sequences, shards and the step": (  # what the step's is made of depends on its micro-batches
        {"moe.balance": "[{scope: sequence, factor: 0.1}, {scope: step, factor: 0.2}, {scope: shard}]",
         "moe.router": "topk_softmax", "moe.capacity_factor": 1.1, "train.batch": 32},
        [(2, 1, 2, 2), (4, 1, 1, 2), (4, 2, 4, 2)]),
    "importance and noisy load": (
        {"moe.balance": "[{kind: importance, scope: batch, factor: 0.3}, {kind: noisy_load, scope: sequence},"
                        " {kind: noisy_load, scope: batch, factor: 0.2}, {scope: shard}]",
         "moe.balance_choices": "first",
         "moe.router": "noisy_top_k", "moe.capacity_factor": 1.1, "train.batch": 32},
        [(2, 1, 2, 2), (4, 1, 1, 2), (4, 2, 4, 2)]),
    "a bias of the choice": (
        {"moe.bias_update": "sign", "moe.bias_rate": 0.02, "moe.router": "topk_softmax", "moe.capacity_factor": 1,
         "moe.drop": "random", "moe.balance_loss": 0, "moe.max_expert_replicas": 4, "train.batch": 32,
         "train.shards": 16},
        [(1, 2, 1, 4), (2, 1, 2, 2), (4, 1, 4, 2), (8, 1, 4, 1)]),
    "a bias by quantiles": (
        {"moe.bias_update": "quantile", "moe.router": "sigmoid", "moe.balance_loss": 0, "moe.capacity_factor": 1.1},
        [(2, 2, 2, 2), (4, 1, 4, 1)]),
    "routed by token id, without a gate": (
        {"moe.router": "hash", "moe.capacity_factor": 1, "moe.drop": "random"},
        [(2, 1, 2, 1), (4, 2, 2, 2)]),
    "forced, skewed, then by token id": (
        {"moe.force": "skewed", "moe.force_sigma": 1.5, "moe.hash_layers": 1, "moe.router": "sigmoid",
         "moe.bias_update": "sign", "train.precision": "bf16"},
        [(2, 2, 2, 4), (4, 1, 2, 1)]),
    "experts that choose": (
        {"moe.router": "expert_choice", "moe.allow_noncausal": "true", "moe.max_expert_replicas": 4, "moe.top_k": 3,
         "train.batch": 32, "train.shards": 16},
        [(4, 2, 4, 2), (6, 1, 3, 1)]),
    "bf16, a chunk for each expert": (
        {"train.precision": "bf16", "parallel.exchange_chunks": 16, "moe.top_k": 1, "moe.router": "topk_softmax",
         "moe.balance_loss": 0, "model.tied_embeddings": "false", "model.d_model": 40, "moe.d_ff": 20},
        [(1, 2, 1, 1), (2, 1, 2, 4), (4, 2, 2, 2), (4, 1, 4, 1), (8, 1, 8, 1), (3, 1, 3, 1)]),
    "layernorm, geglu, padded, bf16": (
        {"model.norm": "layernorm", "model.activation": "geglu", "train.precision": "bf16", "moe.dispatch": "padded",
         "moe.capacity_factor": 1.1, "model.d_model": 40, "attention.heads": 4, "moe.d_ff": 20},
        [(2, 2, 2, 2), (3, 1, 3, 1)]),
    "norms after the sum, bf16, dropout": (
        {"model.norm_place": "post", "model.norm": "layernorm", "train.precision": "bf16", "train.dropout": 0.1,
         "model.d_model": 36},
        [(2, 2, 2, 4), (4, 1, 2, 1)]),
    "norms before and after": (
        {"model.norm_place": "sandwich", "train.dropout": 0.1, "moe.capacity_factor": 1.1, "model.d_model": 36},
        [(2, 1, 2, 1), (4, 2, 4, 2)]),
    "zero-computation experts": (
        {"moe.zero_experts": 3, "moe.top_k": 3, "moe.router": "sigmoid", "moe.bias_update": "sign", "moe.bias_rate": 0.02,
         "moe.capacity_factor": 1, "moe.drop": "random", "moe.shared_experts": 1, "parallel.exchange_chunks": 2,
         "moe.balance": "[{scope: sequence, factor: 0.01}, {scope: batch}]", "moe.max_expert_replicas": 4, "train.batch": 32,
         "train.shards": 16},
        [(1, 2, 1, 1), (2, 1, 2, 1), (4, 1, 2, 1), (8, 1, 8, 1), (6, 1, 6, 1)]),
    "zero-computation experts that give nothing, padded, bf16": (
        {"moe.zero_experts": 8, "moe.zero_kind": "null", "moe.router": "noisy_top_k", "moe.renormalize_after_drop": "true",
         "moe.dispatch": "padded", "moe.capacity_factor": 1, "moe.routing_group": "sequence", "train.precision": "bf16",
         "moe.hash_layers": 1, "train.batch": 32, "train.shards": 16},
        [(2, 1, 2, 1), (4, 2, 4, 2)]),
    "shared experts": (
        {"moe.shared_experts": 2, "moe.shared_gate": "true", "moe.capacity_factor": 1, "parallel.exchange_chunks": 2,
         "model.d_model": 36, "moe.d_ff": 20, "model.logit_scale": 0.3, "model.logit_softcap": 5,
         "model.embedding_scale": 6, "model.activation": "swiglu_oai", "model.init": "kaiming"},
        [(2, 2, 2, 4), (4, 1, 2, 1)]),
    "shared experts without a gate, bf16": (
        {"moe.shared_experts": 1, "moe.shared_d_ff": 40, "train.precision": "bf16", "model.logit_softcap": 30,
         "model.mup_base_width": 16, "model.init": "xavier"},
        [(1, 2, 1, 1), (4, 1, 4, 2)]),
    "a pyramid of residual experts": (
        {"model.layers": 3, "model.feed_forward": "pr_moe", "moe.experts": "[4, 8, 16]", "moe.top_k": 1,
         "moe.router": "topk_softmax", "moe.capacity_factor": 1.1, "parallel.exchange_chunks": 2, "model.bias": "true"},
        [(2, 2, 2, 4), (4, 1, 4, 1), (3, 1, 3, 1)]),
    "a latent space": (
        {"model.feed_forward": "latent_moe", "moe.latent_width": 12, "moe.shared_experts": 1, "parallel.exchange_chunks": 2,
         "moe.zero_experts": 2, "moe.capacity_factor": 1.1},
        [(2, 2, 2, 4), (4, 1, 4, 1)]),
    "a latent space beside others, padded, bf16": (
        {"model.feed_forward": "[latent_moe, moe]", "moe.dispatch": "padded", "moe.capacity_factor": 1.1,
         "train.precision": "bf16", "train.optimizer": "muon"},
        [(1, 2, 1, 1), (4, 1, 2, 2)]),
    "slots": (
        {"model.feed_forward": "soft_moe", "moe.slots": 3, "moe.allow_noncausal": "true", "parallel.exchange_chunks": 2,
         "moe.dropout": 0.2, "model.bias": "true"},
        [(2, 2, 2, 4), (4, 1, 4, 1), (6, 1, 3, 1)]),
    "slots beside experts, bf16": (
        {"model.feed_forward": "[moe, soft_moe]", "moe.experts": "[8, 4]", "moe.slots": 2, "moe.allow_noncausal": "true",
         "train.precision": "bf16"},
        [(1, 2, 1, 1), (4, 1, 2, 2)]),
    "residual beside shared experts, bf16": (
        {"model.feed_forward": "[moe, pr_moe]", "moe.shared_experts": 1, "moe.shared_gate": "true", "moe.shared_d_ff": 20,
         "train.precision": "bf16"},
        [(1, 2, 1, 1), (4, 1, 2, 2)]),
    "dense": (
        {"moe.experts": 0, "model.tied_embeddings": "false", "model.d_model": 36, "model.d_ff": 44,
         "attention.d_head": 10},
        [(1, 2, 0, 2), (2, 1, 0, 1), (4, 2, 0, 2), (3, 1, 0, 1), (2, 1, 0, 4)]),
    "biases": (
        {"model.bias": "head", "moe.capacity_factor": 1, "attention.kv_heads": 1, "attention.d_head": 6},
        [(2, 2, 2, 4), (3, 1, 3, 1), (4, 2, 4, 1)]),
    "biases, padded, bf16": (
        {"model.bias": "true", "moe.dispatch": "padded", "moe.capacity_factor": 1.1, "train.precision": "bf16",
         "model.activation": "relu", "moe.every": 2},
        [(2, 2, 1, 4), (4, 1, 4, 2)]),
    "dropout": (
        {"train.dropout": 0.2, "moe.dropout": 0.3, "moe.capacity_factor": 1.1, "moe.drop": "random",
         "parallel.exchange_chunks": 2, "model.d_model": 36, "attention.heads": 3, "moe.d_ff": 27, "train.context": 21,
         "moe.max_expert_replicas": 4},
        [(1, 2, 1, 1), (2, 1, 2, 4), (4, 1, 2, 2), (8, 1, 4, 1), (3, 1, 3, 1)]),
    "dropout of what experts put out, padded, bf16": (
        {"train.dropout": 0.1, "moe.dropout": 0.1, "moe.dropout_at": "output", "moe.dispatch": "padded",
         "moe.capacity_factor": 1.1, "moe.routing_group": "sequence", "train.precision": "bf16",
         "attention.positions": "learned", "train.batch": 32, "train.shards": 16},
        [(1, 1, 1, 1), (2, 1, 2, 2), (4, 1, 1, 1)]),
    "learned positions": (
        {"attention.positions": "learned", "model.tied_embeddings": "false", "attention.d_head": 5,
         "moe.capacity_factor": 1.25, "train.context": 19},
        [(2, 2, 2, 4), (3, 1, 3, 1)]),
    "no positions, bf16": (
        {"attention.positions": "none", "attention.d_head": 7, "train.precision": "bf16"},
        [(2, 1, 2, 1), (4, 2, 2, 2)]),
    "sinks": (
        {"attention.softmax": "sink", "attention.heads": 4, "attention.kv_heads": 2, "model.d_model": 48},
        [(2, 2, 2, 4), (3, 1, 3, 1)]),
    "sinks, bf16": (
        {"attention.softmax": "sink", "train.precision": "bf16", "train.context": 70},
        [(2, 1, 2, 1), (4, 2, 2, 2)]),
    "windows": (
        {"attention.window": "[9, 0, 70]", "model.layers": 3, "train.context": 90},
        [(2, 1, 2, 1), (4, 2, 2, 2)]),
    "scores of every kind": (
        {"attention.positions": "[alibi, rope]", "attention.softcap": 2, "attention.gate": "element",
         "attention.dropout": 0.2, "attention.qk_norm": "whole", "attention.max_logits": "true",
         "attention.rope_fraction": 0.5, "attention.softmax": "sink", "attention.d_head": 8,
         "attention.window": "[0, 30]", "train.context": 70},
        [(2, 2, 2, 4), (4, 1, 2, 1)]),
    "norms of queries and keys": (
        {"attention.qk_norm": "head", "attention.heads": 4, "attention.kv_heads": 2, "train.precision": "bf16"},
        [(2, 2, 2, 4), (3, 1, 3, 1)]),
    "latent attention": (
        {"model.mixer": "latent_attention", "attention.heads": 4, "attention.d_head": 12, "attention.d_value": 6,
         "attention.q_rank": 20, "attention.softmax": "sink", "train.optimizer": "muon"},
        [(2, 2, 2, 4), (4, 1, 2, 1), (3, 1, 3, 1)]),
    "latent attention beside others, bf16": (
        {"model.mixer": "[latent_attention, attention]", "attention.kv_rank": 10, "attention.window": "[9, 0]",
         "model.bias": "true", "train.precision": "bf16"},
        [(2, 1, 2, 1), (4, 2, 2, 2)]),
    "attention experts": (  # of six, three a rank of two; beside routed ones
        {"model.mixer": "moa", "attention.heads": 3, "attention.experts": 6, "attention.d_head": 10, "attention.d_value": 7,
         "moe.experts": 4, "attention.qk_norm": "head", "moe.bias_update": "sign", "moe.balance_scope": "sequence",
         "train.optimizer": "muon"},
        [(2, 2, 2, 4), (4, 1, 2, 2)]),
    "attention experts beside other mixers, bf16": (  # fewer than others' choices; dropping is of feed-forwards
        {"model.mixer": "[moa, attention]", "attention.heads": 2, "attention.experts": 4, "attention.window": "[9, 0]",
         "moe.experts": 4, "model.bias": "true", "moe.router": "noisy_top_k", "moe.jitter": 0.1, "attention.dropout": 0.1,
         "moe.capacity_factor": 1.1, "moe.dispatch": "padded", "train.precision": "bf16"},
        [(2, 2, 2, 4), (4, 1, 4, 2)]),
    "experts of heads": (  # eight in all
        {"model.mixer": "switchhead", "attention.heads": 2, "attention.experts": 4, "attention.d_value": 7, "moe.experts": 4,
         "attention.top_k": 3, "train.optimizer": "muon", "parallel.exchange_chunks": 2,
         "moe.balance": "[{kind: importance}, {kind: importance, scope: sequence}]"},
        [(2, 2, 2, 4), (3, 1, 3, 1)]),
    "importance of the heads of a batch": (
        {"model.mixer": "switchhead", "attention.heads": 2, "attention.experts": 4, "model.feed_forward": "dense",
         "moe.balance": "[{kind: importance, scope: batch}]"},
        [(2, 1, 2, 1), (4, 2, 4, 1)]),
    "experts of heads beside other mixers, bf16": (
        {"model.mixer": "[switchhead, attention]", "attention.heads": 4, "attention.experts": 2, "attention.top_k": 1,
         "moe.experts": 0, "model.bias": "true", "attention.qk_norm": "head", "attention.dropout": 0.1,
         "train.precision": "bf16"},
        [(2, 1, 2, 1), (4, 2, 4, 2)]),
    "peer": (  # more experts than are chosen in a step; with micro-batches all rows are updated in every step
        {"model.feed_forward": "peer", "peer.keys": 24, "peer.heads": 3, "peer.top_k": 4, "model.activation": "gelu"},
        [(1, 2, 1, 1), (2, 1, 2, 4), (4, 1, 2, 1), (8, 1, 8, 1), (6, 1, 2, 1)]),
    "peer, all rows in every step": (  # what keeps an average, or another rule than AdamW
        {"model.feed_forward": "peer", "peer.keys": 8, "peer.heads": 2, "peer.top_k": 3, "train.optimizer": "lion",
         "train.ema": 0.9, "peer.query_norm": "batch"},
        [(2, 1, 2, 1), (4, 1, 2, 2)]),
    "peer beside experts, gated, bf16": (
        {"model.feed_forward": "[peer, moe]", "peer.keys": 6, "peer.heads": 2, "peer.top_k": 5, "moe.experts": 4,
         "train.precision": "bf16", "moe.capacity_factor": 1},
        [(2, 2, 1, 4), (4, 1, 4, 2)]),
    "layers of different kinds and sizes": (
        {"model.layers": 4, "model.feed_forward": "[moe, dense, moe, moe]", "moe.experts": "[8, 0, 4, 16]",
         "moe.top_k": "[2, 1, 3]", "moe.d_ff": "[24, 8, 12]", "moe.capacity_factor": 1.1, "moe.drop": "random",
         "parallel.exchange_chunks": 2, "moe.balance_scope": "batch"},
        [(2, 2, 2, 1), (4, 1, 4, 1), (8, 1, 4, 1), (8, 1, 2, 1)]),
    "layers of different sizes, padded, bf16": (
        {"model.layers": 3, "moe.experts": "[2, 6, 4]", "moe.top_k": "[2, 3]", "moe.d_ff": "[20, 24]",
         "moe.dispatch": "padded", "moe.capacity_factor": 1.25, "train.precision": "bf16",
         "parallel.exchange_chunks": 3},
        [(2, 1, 2, 4), (4, 1, 2, 2)]),
    "sgd with momentum": (
        {"train.optimizer": "sgd", "train.lr": 0.05, "train.min_lr": 0.005, "train.nesterov": "true"},
        [(2, 1, 2, 1), (4, 1, 2, 1), (1, 2, 1, 4)]),
    "lion, bf16": (
        {"train.optimizer": "lion", "train.lr": 0.0003, "train.min_lr": 3e-05, "train.precision": "bf16"},
        [(2, 1, 1, 2), (4, 1, 4, 1)]),
    "muon": (  # an expert or eight on a rank; tall, wide and fused matrices of one and of several shapes
        {"train.optimizer": "muon", "attention.heads": 4, "attention.kv_heads": 2, "attention.d_value": 6,
         "moe.d_ff": 40, "model.feed_forward": "[moe, dense]", "model.bias": "true"},
        [(1, 2, 1, 4), (2, 1, 2, 1), (4, 1, 4, 2), (8, 1, 8, 1)]),
    "muon, bf16": (
        {"train.optimizer": "muon", "train.precision": "bf16", "train.nesterov": "false", "train.momentum": 0.8,
         "model.activation": "relu"},
        [(2, 1, 2, 2), (4, 1, 2, 1)]),
    "groups, averages, clipped scores": (  # and steps that are skipped: the spread of six losses is soon left
        {"train.optimizer": "muon", "train.groups": '[{match: "*.router", lr_scale: 0.1, weight_decay: 0}, '
         '{match: "*norm", lr_scale: 2}]', "train.ema": 0.75, "eval.weights": "ema", "train.skip_z": 1,
         "train.skip_window": 4, "train.qk_clip": 0.02, "train.precision": "bf16", "attention.kv_heads": 1,
         "moe.max_expert_replicas": 4, "train.batch": 32, "train.shards": 16},
        [(2, 2, 2, 1), (4, 1, 2, 2)]),
    "three sources": (  # one of them read more than once
        {"data.train": "[{path: train.txt, weight: 0.62}, {path: validation.txt, weight: 0.3}, "
         "{path: validation.txt, weight: 0.08, name: again}]", "train.context": 60,
         "data.curriculum": "[{from: 2, source: again, weight: 0.3}]",
         "data.validation": "[{path: validation.txt}, {path: train.txt, name: seen}]"},
        [(2, 2, 2, 1), (4, 1, 2, 2)]),
    "documents": (  # lines, which shards, ranks and micro-batches have different numbers of; a target each less
        {"data.documents": "mask", "data.document_end": r"\n", "attention.softmax": "sink", "attention.window": "[0, 30]",
         "data.train": "[{path: train.txt, weight: 0.7}, {path: validation.txt, weight: 0.3}]", "train.context": 90,
         "train.precision": "bf16"},
        [(2, 2, 2, 4), (4, 1, 2, 1)]),
    "documents packed, learned positions": (  # padding has no loss
        {"data.documents": "mask", "data.packing": "best_fit", "moe.routing_group": "document", "moe.drop": "random", "data.document_end": r"\n", "attention.positions": "learned", "train.context": 75,
         "moe.capacity_factor": 1.1, "moe.balance": "[{scope: document, factor: 0.1}, {scope: batch, factor: 0.05}]"},
        [(2, 1, 2, 2), (4, 1, 1, 2)]),
    "masked, experts that choose": (  # padding is no target; as many as a step draws
        {"train.objective": "masked", "train.mask_share": 0.3, "moe.router": "expert_choice", "moe.max_expert_replicas": 4,
         "attention.window": "[0, 30]", "attention.positions": "[alibi, rope]", "train.context": 70, "train.batch": 32,
         "train.shards": 16, "data.documents": "mask", "data.packing": "best_fit", "data.document_end": r"\n"},
        [(2, 2, 2, 1), (4, 1, 4, 2)]),
    "masked, bf16": (
        {"train.objective": "masked", "train.precision": "bf16", "attention.softmax": "sink", "train.dropout": 0.1,
         "data.format": "characters"},
        [(2, 2, 2, 4), (4, 1, 2, 1)]),
    "any number of ranks": (  # of which three, five, six and seven own two or three nodes of the tree each
        {"train.batch": 16, "train.shards": 16, "moe.capacity_factor": 1.1, "moe.drop": "random"},
        [(3, 1, 1, 1), (3, 1, 3, 2), (5, 1, 5, 1), (6, 1, 2, 1), (6, 1, 3, 1), (6, 1, 6, 1), (7, 1, 7, 2), (8, 1, 8, 1)]),
    "tokens further on, in documents": (
        {"mtp.layers": 2, "mtp.loss_factor": 0.5, "moe.capacity_factor": 1.1, "moe.bias_update": "sign", "moe.shared_experts": 1,
         "parallel.exchange_chunks": 2, "data.documents": "mask", "data.packing": "best_fit", "data.document_end": r"\n",
         "train.context": 75},
        [(2, 2, 2, 2), (3, 1, 3, 1)]),
    "one token further on, untied, norms after, bf16": (
        {"mtp.layers": 1, "model.tied_embeddings": "false", "model.bias": "head", "model.norm_place": "post",
         "train.precision": "bf16", "train.dropout": 0.1, "moe.every": 2, "model.logit_softcap": 20},
        [(2, 2, 2, 4), (3, 1, 3, 1)]),
    "three times a power of two": (  # of micro-batches and shards
        {"train.batch": 12, "train.shards": 12, "moe.capacity_factor": 1, "moe.drop": "random"},
        [(1, 1, 1, 6), (2, 2, 2, 3), (4, 1, 2, 3), (1, 1, 1, 12)]),
}


def check_configuration(name, space):
    """Prints a row a layout; returns the layouts that differ."""
    changes, layouts = CONFIGURATIONS[name]
    wanted, failures = None, []
    first = (1, 1, 1 if layouts[0][2] else 0, layouts[0][3])
    for number, (ranks, threads, expert_parallel, micro_batches) in enumerate([first, *layouts]):
        run, begin = f"run{number}", time.monotonic()
        layout = {"train.micro_batches": micro_batches}
        if expert_parallel:
            layout["parallel.expert"] = expert_parallel
        space.run(run, dict(changes, **layout), ranks, threads)
        rows, digest = space.result(run)
        wanted = wanted or (rows, digest)
        same = (rows, digest) == wanted
        losses = [row["loss"] for row in rows if "loss" in row]
        drops = max(row.get("drop_rate", 0) for row in rows)
        print(f"{name:32} {ranks:2} {threads:7} {expert_parallel or '-':>6} {micro_batches:5} {losses[-1]:.15f} {drops:8.3f}  "
              f"{digest[:12]}  {'same' if same else 'DIFFERS'}  {time.monotonic() - begin:.1f} s", flush=True)
        assert len(losses) == 5 and (drops > 0) == ("moe.capacity_factor" in changes), rows
        if not same:
            failures.append(f"{name}, {ranks} ranks x {threads} threads, parallel.expert {expert_parallel}, "
                            f"train.micro_batches {micro_batches}: "
                            + difference(rows, wanted[0]))
    return failures


def check_repeats(space):
    """train.reproducible: run promises equal repeats on one layout."""
    config = {"train.reproducible": "run", "moe.capacity_factor": 1, "parallel.expert": 2, "train.micro_batches": 2}
    results = []
    for run in ("first", "second"):
        space.run(run, config, ranks=4, threads=2)
        results.append(space.result(run))
    same = results[0] == results[1]
    print(f"{'reproducible: run, repeated':32} {4:2} {2:7} {2:6} {2:5} {results[0][0][-2]['loss']:.15f} {'':8}  "
          f"{results[0][1][:12]}  {'same' if same else 'DIFFERS'}", flush=True)
    return [] if same else ["reproducible: run: " + difference(*(rows for rows, _ in results))]


def check_coverage():
    """The layouts together must show every number of ranks and threads, every expert-parallel degree and micro-batches."""
    layouts = [layout for _, layouts in CONFIGURATIONS.values() for layout in layouts]
    for axis, values in enumerate(({1, 2, 3, 4, 5, 6, 7, 8}, {1, 2}, {0, 1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 6, 8, 12})):
        assert {layout[axis] for layout in layouts} == values
    assert any(ranks > 2 * degree > 0 for ranks, _, degree, _ in layouts), "no expert with more than two replicas"
    assert any(min(ranks, micro_batches) > 1 and ranks > degree for ranks, _, degree, micro_batches in layouts)


def main():
    check_coverage()
    names = sys.argv[2:] or [*CONFIGURATIONS, "repeats"]
    if sys.argv[1] == "--names":
        print("\n".join(names))
        return
    print(f"{'configuration':32} np threads expert micro {'last loss':17} max drop  digest")
    failures, begin = [], time.monotonic()
    for name in names:
        space = Workspace(sys.argv[1])
        failures += check_repeats(space) if name == "repeats" else check_configuration(name, space)
    print(f"{time.monotonic() - begin:.0f} s")
    for failure in failures:
        print("FAILED", failure)
    sys.exit(1 if failures else 0)


main()
