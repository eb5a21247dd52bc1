#!/usr/bin/env python3
"""Golden values from PyTorch: what the C code must compute, written down a second time and differentiated by autograd.

    make_fixtures.py [FOLDER]    writes attention.h5, routing.h5, moe_layer.h5, adamw.h5, training.h5 (default: fixtures/)

Inputs are stored as f32 and everything is computed from them in f64, so an expected value (f64) is the truth and the
difference to it is the f32 error of the code under test. Choices (which experts, who is dropped) would jump at near
ties; the script refuses inputs whose smallest gap is below MARGIN. Needs python3-torch and python3-h5py; the fixtures
are kept in the repository, so only a change of the definitions runs this again. Inputs come from NumPy's PCG64: a new
run writes the same numbers.
"""
import math
import os
import sys
from fractions import Fraction

import h5py
import numpy as np
import torch

MARGIN = 2e-4  # f32 logits of these sizes are within 1e-5 of f64, also after ten optimizer steps
torch.set_default_dtype(torch.float64)


class NearTie(Exception):
    """The inputs hold a choice that f32 could decide differently."""


def require_gaps(sorted_values):
    """Neighbours along the last axis, sorted descending, must differ by MARGIN."""
    if sorted_values.shape[-1] > 1 and (sorted_values[..., :-1] - sorted_values[..., 1:]).min() < MARGIN:
        raise NearTie


def normal(rng, *shape, std=1.0, mean=0.0):
    """f32 random numbers, as f64."""
    return torch.tensor((mean + std * rng.standard_normal(shape)).astype(np.float32).astype(np.float64))


# ---- attention ----------------------------------------------------------------------------------------------------

def rotate(x, theta):
    """RoPE on (B, T, heads, d): dimension i turns with i + d/2, position p by the angle p * theta^(-2i/d)."""
    T, d = x.shape[1], x.shape[3]
    angle = torch.arange(T)[:, None] * theta ** (-2.0 * torch.arange(d // 2) / d)
    cos, sin = angle.cos()[None, :, None, :], angle.sin()[None, :, None, :]
    a, b = x[..., :d // 2], x[..., d // 2:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def split_heads(qkv, T, heads, kv_heads, d_head, d_value):
    q, k, v = qkv.view(-1, T, qkv.shape[-1]).split([heads * d_head, kv_heads * d_head, kv_heads * d_value], dim=-1)
    return (q.reshape(*q.shape[:2], heads, d_head), k.reshape(*k.shape[:2], kv_heads, d_head),
            v.reshape(*v.shape[:2], kv_heads, d_value))


def rotate_qkv(qkv, T, theta, **shape):
    q, k, v = split_heads(qkv, T, **shape)
    rotated = [rotate(q, theta).flatten(2), rotate(k, theta).flatten(2), v.flatten(2)]
    return torch.cat(rotated, dim=-1).view(qkv.shape)


def attend(qkv, T, scale, **shape):
    """Causal attention of rotated rows; returns (N, H * d_value) and the log-sum-exp of the scaled scores (N, H)."""
    q, k, v = split_heads(qkv, T, **shape)
    per_group = shape["heads"] // shape["kv_heads"]
    k, v = k.repeat_interleave(per_group, dim=2), v.repeat_interleave(per_group, dim=2)
    scores = scale * torch.einsum("bthd,bshd->bhts", q, k)
    scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)
    out = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)
    return out.reshape(qkv.shape[0], -1), scores.logsumexp(-1).transpose(1, 2).reshape(qkv.shape[0], -1)


# ---- mixture of experts -------------------------------------------------------------------------------------------

def route(logits, top_k, rule, normalize=False):
    """ids (N, K), best first, ties to the lower expert; gate weights (N, K)."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    require_gaps(ordered)
    ids = order[:, :top_k]
    if rule == "softmax_topk":
        return ids, logits.gather(1, ids).softmax(-1)
    weights = logits.softmax(-1).gather(1, ids)
    return ids, weights / weights.sum(-1, keepdim=True) if normalize else weights


def philox(seed, purpose, a, b, index):
    """First word of Philox 4x32-10 (Salmon et al. 2011) under the counter layout of kernels/rng.c."""
    mask = 0xFFFFFFFF
    k0, k1 = seed & mask, seed >> 32
    c = [index & mask, (index >> 32) ^ (purpose << 24), a, b]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & mask, (p0 >> 32) ^ c[3] ^ k1, p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c[0]


def capacity(factor, min_capacity, top_k, tokens, experts):
    """Choices that an expert takes of a routing group; None when dropless."""
    return None if factor == 0 else max(min_capacity, math.ceil(Fraction(factor) * top_k * tokens / experts))


def keep(ids, weights, groups, limit, policy, random_key=None):
    """Which choices survive: within each run of tokens and expert the first `limit` by the policy's order."""
    N, K = ids.shape
    kept = torch.ones(N, K, dtype=torch.bool)
    if limit is None:
        return kept
    for group in range(groups):
        first, end = group * N // groups, (group + 1) * N // groups
        for expert in set(ids[first:end].flatten().tolist()):
            choices = [(n, k) for n in range(first, end) for k in range(K) if ids[n, k] == expert]
            if policy == "position":
                choices.sort(key=lambda c: (c[1], c[0]))
            elif policy == "probability":
                choices.sort(key=lambda c: (-weights[c].item(), c[0]))
                if len(choices) > limit:
                    require_gaps(torch.stack([weights[c] for c in choices]).detach()[limit - 1:limit + 1])
            else:
                choices.sort(key=lambda c: (random_key(c[0] * K + c[1]), c))
            for choice in choices[limit:]:
                kept[choice] = False
    return kept


def expert(x, gate_up, down, activation):
    """One expert or dense feed-forward; weights are [out, in], gate_up holds the gate's rows, then those of up."""
    hidden = x @ gate_up.T
    if activation == "relu":
        return torch.relu(hidden) @ down.T
    gate, up = hidden.chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up) @ down.T


def balance_term(logits, ids, experts, parts, whole_batch):
    """E * sum_i f_i P_i, averaged over parts; f_i has no gradient. Even routing gives 1."""
    def fractions(chosen):
        return torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
    total = 0.0
    for z, chosen in zip(logits.chunk(parts), ids.chunk(parts)):
        f = fractions(ids if whole_batch else chosen)
        total = total + experts * (f * z.softmax(-1).mean(0)).sum() / parts
    return total


def moe(x, router, gate_up, down, c, T):
    """The layer's output, balance term and mean squared log-sum-exp (without coefficients), and what was decided.

    c: configuration; x: a whole micro-batch (N, D)."""
    N, E, K = x.shape[0], c["experts"], c["top_k"]
    logits = x @ router.T
    ids, weights = route(logits, K, c["router"], c.get("normalize_top_k", False))
    groups = c["shards"] if c["routing_group"] == "shard" else N // T
    kept = keep(ids, weights, groups, capacity(c["capacity_factor"], c["min_capacity"], K, N // groups, E), c["drop"])
    gates = weights * kept
    if c["renormalize_after_drop"]:
        gates = gates / gates.sum(-1, keepdim=True).clamp_min(1e-300)
    out = torch.zeros_like(x)
    for e in range(E):
        n, k = torch.nonzero(kept & (ids == e), as_tuple=True)
        out = out.index_add(0, n, gates[n, k, None] * expert(x[n], gate_up[e], down[e], c["activation"]))
    parts = {"shard": c["shards"], "sequence": N // T, "batch": 1}[c["balance_scope"]]
    balance = balance_term(logits, ids, E, parts, c["balance_scope"] == "batch")
    z = (logits.logsumexp(-1) ** 2).mean()
    routed = torch.bincount(ids[kept], minlength=E)
    dropped = torch.bincount(ids[~kept], minlength=E)
    return out, balance, z, dict(ids=ids, weights=weights, gates=gates, kept=kept, routed=routed, dropped=dropped)


# ---- the whole model ----------------------------------------------------------------------------------------------

def rmsnorm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def is_moe_layer(c, layer):
    return layer % c["every"] == (0 if c["first"] else c["every"] - 1)


def parameter_shapes(c):
    D, V, E, H, KV = c["d_model"], c["vocab_size"], c["experts"], c["heads"], c["kv_heads"]
    wide = 1 if c["activation"] == "relu" else 2
    shapes = {"embedding": (V, D)}
    for i in range(c["layers"]):
        shapes[f"layers.{i}.attention_norm"] = (D,)
        shapes[f"layers.{i}.attention.qkv"] = (H * c["d_head"] + KV * (c["d_head"] + c["d_value"]), D)
        shapes[f"layers.{i}.attention.output"] = (D, H * c["d_value"])
        shapes[f"layers.{i}.ffn_norm"] = (D,)
        if is_moe_layer(c, i):
            shapes[f"layers.{i}.moe.router"] = (E, D)
            shapes[f"layers.{i}.moe.experts.gate_up"] = (E, wide * c["moe_d_ff"], D)
            shapes[f"layers.{i}.moe.experts.down"] = (E, D, c["moe_d_ff"])
        else:
            shapes[f"layers.{i}.ffn.gate_up"] = (wide * c["d_ff"], D)
            shapes[f"layers.{i}.ffn.down"] = (D, c["d_ff"])
    shapes["final_norm"] = (D,)
    if not c["tied_embeddings"]:
        shapes["head"] = (V, D)
    return shapes


def losses(p, c, tokens, targets):
    """Mean cross-entropy of a micro-batch (B, T), and for each MoE layer balance term, z term and decisions."""
    T = tokens.shape[1]
    shape = {key: c[key] for key in ("heads", "kv_heads", "d_head", "d_value")}
    balance, z, decisions = [], [], []
    h = p["embedding"][tokens.flatten()]
    for i in range(c["layers"]):
        name = f"layers.{i}."
        qkv = rmsnorm(h, p[name + "attention_norm"], c["norm_eps"]) @ p[name + "attention.qkv"].T
        mixed, _ = attend(rotate_qkv(qkv, T, c["rope_theta"], **shape), T, c["d_head"] ** -0.5, **shape)
        h = h + mixed @ p[name + "attention.output"].T
        x = rmsnorm(h, p[name + "ffn_norm"], c["norm_eps"])
        if is_moe_layer(c, i):
            weights = [p[name + "moe." + part] for part in ("router", "experts.gate_up", "experts.down")]
            out, b, zz, decided = moe(x, *weights, c, T)
            balance.append(b), z.append(zz), decisions.append(decided)
        else:
            out = expert(x, p[name + "ffn.gate_up"], p[name + "ffn.down"], c["activation"])
        h = h + out
    head = p["embedding"] if c["tied_embeddings"] else p["head"]
    logits = rmsnorm(h, p["final_norm"], c["norm_eps"]) @ head.T
    return torch.nn.functional.cross_entropy(logits, targets.flatten()), torch.stack(balance), torch.stack(z), decisions


def learning_rate(c, step):
    """Warm-up, then cosine from lr to min_lr at the last step."""
    if step < c["warmup_steps"]:
        return c["lr"] * (step + 1) / c["warmup_steps"]
    progress = (step - c["warmup_steps"]) / (c["steps"] - 1 - c["warmup_steps"])
    return c["min_lr"] + (c["lr"] - c["min_lr"]) * 0.5 * (1 + math.cos(math.pi * progress))


def adamw(w, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    """Decoupled decay (arXiv:1711.05101); t counts from 1."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1 ** t), v / (1 - beta2 ** t)
    return w - lr * (m_hat / (v_hat.sqrt() + eps) + weight_decay * w), m, v


def train(c, params, tokens, targets):
    """params: start values by name; tokens, targets (steps, batch, T). Returns what each step reports, and the end."""
    params = dict(params)
    m = {name: torch.zeros_like(w) for name, w in params.items()}
    v = dict(m)
    rows = {key: [] for key in ("loss", "balance", "z", "gradient_norm", "lr", "routed", "dropped")}
    for step in range(c["steps"]):
        leaves = {name: w.detach().requires_grad_() for name, w in params.items()}
        pieces = [losses(leaves, c, x, y) for x, y in zip(tokens[step].chunk(c["micro_batches"]),
                                                         targets[step].chunk(c["micro_batches"]))]
        loss, balance, z = (sum(piece[i] for piece in pieces) / c["micro_batches"] for i in range(3))
        gradients = torch.autograd.grad(loss + c["balance_loss"] * balance.sum() + c["z_loss"] * z.sum(),
                                        list(leaves.values()))
        norm = math.sqrt(sum((g * g).sum().item() for g in gradients))
        lr, scale = learning_rate(c, step), min(1.0, c["clip_norm"] / norm)
        for (name, w), g in zip(params.items(), gradients):
            decay = 0.0 if name.endswith("norm") else c["weight_decay"]
            params[name], m[name], v[name] = adamw(w, g * scale, m[name], v[name], step + 1, lr, c["beta1"], c["beta2"],
                                                   c["eps"], decay)
        rows["loss"].append(loss.item()), rows["balance"].append(balance.tolist()), rows["z"].append(z.tolist())
        rows["gradient_norm"].append(norm), rows["lr"].append(lr)
        for count in ("routed", "dropped"):
            rows[count].append(sum(torch.stack([d[count] for d in piece[3]]) for piece in pieces).tolist())
        if step == 0:
            first_gradients = dict(zip(params, gradients))
    return rows, first_gradients, params, m, v


# ---- files --------------------------------------------------------------------------------------------------------

def write(file, prefix, values, dtype):
    for name, value in values.items():
        array = value.detach().numpy() if torch.is_tensor(value) else np.asarray(value)
        file.create_dataset(f"{prefix}/{name}", data=array.astype(dtype), track_times=False)


def write_config(file, prefix, c):
    """Numbers as they are, words as numbers of the enums in kernels.h and model_config.h."""
    words = {"softmax_topk": 0, "topk_softmax": 1, "position": 0, "probability": 1, "random": 2, "shard": 0,
             "sequence": 1, "batch": 2, "swiglu": 0, "relu": 1}
    c = {key: words.get(value, value) if isinstance(value, str) else value for key, value in c.items()}
    factor = Fraction(c.pop("capacity_factor", 0))
    c.update(capacity_numerator=factor.numerator, capacity_denominator=factor.denominator)
    for key, value in c.items():
        dtype = np.float64 if isinstance(value, float) else np.int64
        file.create_dataset(f"{prefix}/config/{key}", data=np.asarray(value, dtype), track_times=False)


def first_without_near_ties(make):
    for seed in range(1000):
        try:
            return make(np.random.default_rng(seed))
        except NearTie:
            continue
    sys.exit("no inputs without near ties among 1000 seeds")


def make_attention(file):
    cases = {
        "grouped": dict(heads=4, kv_heads=2, d_head=6, d_value=6, T=7, sequences=3, theta=10000.0),
        "single_kv_wide_values": dict(heads=3, kv_heads=1, d_head=4, d_value=10, T=19, sequences=2, theta=500.0),
        "all_heads": dict(heads=2, kv_heads=2, d_head=16, d_value=8, T=33, sequences=1, theta=10000.0),
    }
    for number, (name, case) in enumerate(cases.items()):
        rng = np.random.default_rng(100 + number)
        shape = {key: case[key] for key in ("heads", "kv_heads", "d_head", "d_value")}
        T, N, scale = case["T"], case["T"] * case["sequences"], case["d_head"] ** -0.5
        width = case["heads"] * case["d_head"] + case["kv_heads"] * (case["d_head"] + case["d_value"])
        qkv = normal(rng, N, width).requires_grad_()
        dout = normal(rng, N, case["heads"] * case["d_value"])
        rotated = rotate_qkv(qkv, T, case["theta"], **shape)
        rotated.retain_grad()
        out, lse = attend(rotated, T, scale, **shape)
        (out * dout).sum().backward()
        write_config(file, name, dict(case, scale=scale))
        write(file, name, dict(qkv=qkv, dout=dout), np.float32)
        write(file, name, dict(rotated=rotated, out=out, lse=lse, drotated=rotated.grad, dqkv=qkv.grad), np.float64)


def make_routing(file):
    rules = {"softmax_topk": ("softmax_topk", False), "topk_softmax": ("topk_softmax", False),
             "topk_softmax_normalized": ("topk_softmax", True)}
    N, E, K, parts, groups, seed, first_token = 48, 6, 3, 4, 3, 0x123456789ABCDEF, 1000
    for name, (rule, normalize) in rules.items():
        def make(rng):
            logits = normal(rng, N, E, std=1.5).requires_grad_()
            dweights, balance, z_scale = normal(rng, N, K), normal(rng, parts, E, std=0.1), 0.01
            ids, weights = route(logits, K, rule, normalize)
            probabilities, lse = logits.softmax(-1), logits.logsumexp(-1)
            entropy = -(probabilities * probabilities.log()).sum(-1)
            prob_sum = probabilities.view(parts, -1, E).sum(1)
            ((weights * dweights).sum() + (prob_sum * balance).sum() + z_scale * (lse ** 2).sum()).backward()
            limit = capacity(Fraction(3, 4), 1, K, N // groups, E)
            kept = {policy: keep(ids, weights, groups, limit, policy,
                                 lambda i: philox(seed, 3, 7, 2, first_token * K + i))
                    for policy in ("position", "probability", "random")}
            return logits, dweights, balance, z_scale, ids, weights, lse, prob_sum, entropy, limit, kept
        logits, dweights, balance, z_scale, ids, weights, lse, prob_sum, entropy, limit, kept = \
            first_without_near_ties(make)
        write_config(file, name, dict(router=rule, normalize_top_k=int(normalize), top_k=K, parts=parts, groups=groups,
                                      capacity=limit, z_scale=z_scale, seed=seed, first_token=first_token))
        write(file, name, dict(logits=logits, dweights=dweights, balance=balance), np.float32)
        write(file, name, dict(weights=weights, lse=lse, prob_sum=prob_sum, entropy_sum=entropy.view(parts, -1).sum(1),
                               lse2_sum=(lse ** 2).view(parts, -1).sum(1), dlogits=logits.grad), np.float64)
        write(file, name, dict(ids=ids), np.int32)
        write(file, name, {f"kept_{policy}": mask for policy, mask in kept.items()}, np.uint8)


def make_moe_layer(file):
    base = dict(d_model=12, experts=5, top_k=2, moe_d_ff=9, T=6, sequences=8, shards=4, activation="swiglu",
                router="softmax_topk", normalize_top_k=False, capacity_factor=Fraction(1), min_capacity=1,
                drop="position", routing_group="shard", renormalize_after_drop=False, balance_loss=0.1,
                balance_scope="shard", z_loss=0.01)
    cases = {
        "position": base,
        "probability": dict(base, router="topk_softmax", drop="probability", capacity_factor=Fraction(11, 10),
                            routing_group="sequence", balance_scope="sequence"),
        "dropless": dict(base, router="topk_softmax", normalize_top_k=True, capacity_factor=Fraction(0), top_k=3,
                         balance_scope="batch"),
        "renormalized": dict(base, capacity_factor=Fraction(3, 4), renormalize_after_drop=True, top_k=3),
        "switch": dict(base, router="topk_softmax", top_k=1, activation="relu", capacity_factor=Fraction(5, 4)),
    }
    for name, c in cases.items():
        D, E, F, N = c["d_model"], c["experts"], c["moe_d_ff"], c["T"] * c["sequences"]
        wide = F if c["activation"] == "relu" else 2 * F

        def make(rng):
            inputs = dict(x=normal(rng, N, D), router=normal(rng, E, D, std=0.4),
                          gate_up=normal(rng, E, wide, D, std=0.4), down=normal(rng, E, D, F, std=0.4))
            dout = normal(rng, N, D)
            leaves = {key: value.requires_grad_() for key, value in inputs.items()}
            out, balance, z, decided = moe(*leaves.values(), c, c["T"])
            ((out * dout).sum() + c["balance_loss"] * balance + c["z_loss"] * z).backward()
            return leaves, dout, out, balance, z, decided
        leaves, dout, out, balance, z, decided = first_without_near_ties(make)
        dropped = decided["dropped"].sum().item()
        assert (dropped == 0) == (c["capacity_factor"] == 0), f"{name}: nothing is dropped"
        write_config(file, name, c)
        write(file, name, dict(leaves, dout=dout), np.float32)
        write(file, name, dict(out=out, balance=balance, z=z, gates=decided["gates"]), np.float64)
        write(file, name, {"d" + key: leaf.grad for key, leaf in leaves.items()}, np.float64)
        write(file, name, {key: decided[key] for key in ("ids", "routed", "dropped")}, np.int32)
        write(file, name, dict(kept=decided["kept"]), np.uint8)


def make_adamw(file):
    rng = np.random.default_rng(400)
    steps, n = 5, 37
    c = dict(steps=steps, lr=0.01, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    scales = [1.0, 0.25, 1.0, 0.5, 1.0]
    w, m, v = normal(rng, n), torch.zeros(n), torch.zeros(n)
    gradients, weights, start = normal(rng, steps, n), [], w
    gradients[:, 5] = 0.0  # a parameter without gradients only decays
    for t in range(1, steps + 1):
        w, m, v = adamw(w, gradients[t - 1] * scales[t - 1], m, v, t, *(c[k] for k in ("lr", "beta1", "beta2", "eps",
                                                                                      "weight_decay")))
        weights.append(w)
    write_config(file, "adamw", c)
    write(file, "adamw", dict(start=start, gradients=gradients, grad_scales=scales), np.float32)
    write(file, "adamw", dict(weights=torch.stack(weights), m=m, v=v), np.float64)


def make_training(file):
    base = dict(vocab_size=17, d_model=16, layers=2, d_ff=20, tied_embeddings=1, activation="swiglu", norm_eps=1e-5,
                heads=4, kv_heads=2, d_head=4, d_value=6, rope_theta=10000.0, experts=4, top_k=2, moe_d_ff=12, every=2,
                first=0, router="softmax_topk", normalize_top_k=False, capacity_factor=Fraction(11, 10), min_capacity=1,
                drop="position", renormalize_after_drop=False, routing_group="shard", balance_loss=0.01,
                balance_scope="shard", z_loss=0.001, steps=10, batch=8, T=6, micro_batches=1, shards=4, lr=0.01,
                min_lr=0.001, warmup_steps=3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0)
    cases = {
        "tied": base,
        "untied": dict(base, tied_embeddings=0, every=1, router="topk_softmax", drop="probability", micro_batches=2,
                       shards=2, routing_group="sequence", capacity_factor=Fraction(1), clip_norm=0.5),
    }
    for name, c in cases.items():
        def make(rng):
            start = {}
            for row, shape in parameter_shapes(c).items():
                is_norm = row.endswith("norm")
                start[row] = normal(rng, *shape, std=0.1 if is_norm else 0.3, mean=1.0 if is_norm else 0.0)
            # Sequences with a rule (steps of 1 to 3 modulo the vocabulary), so that ten steps learn something.
            first = rng.integers(0, c["vocab_size"], (c["steps"], c["batch"], 1))
            stride = rng.integers(1, 4, (c["steps"], c["batch"], 1))
            text = torch.tensor((first + stride * np.arange(c["T"] + 1)) % c["vocab_size"])
            return start, text, train(c, start, text[..., :-1], text[..., 1:])
        start, text, (rows, first_gradients, end, m, v) = first_without_near_ties(make)
        assert rows["loss"][-1] < rows["loss"][0] and min(rows["gradient_norm"]) > 0
        assert max(rows["gradient_norm"]) > c["clip_norm"] and np.sum(rows["dropped"]) > 0
        write_config(file, name, c)
        file.create_dataset(f"{name}/text", data=text.numpy().astype(np.int32), track_times=False)
        write(file, f"{name}/start", start, np.float32)
        counts = {key: rows.pop(key) for key in ("routed", "dropped")}
        write(file, f"{name}/steps", rows, np.float64)
        write(file, f"{name}/steps", counts, np.int32)
        write(file, f"{name}/first_gradients", first_gradients, np.float64)
        write(file, f"{name}/end", end, np.float64)
        print(f"{name}: losses", " ".join(f"{x:.4f}" for x in rows["loss"]))


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
    os.makedirs(folder, exist_ok=True)
    makers = dict(attention=make_attention, routing=make_routing, moe_layer=make_moe_layer, adamw=make_adamw,
                  training=make_training)
    for name, make in makers.items():
        with h5py.File(os.path.join(folder, name + ".h5"), "w") as file:
            make(file)


if __name__ == "__main__":
    main()
