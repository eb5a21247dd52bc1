#!/usr/bin/env python3
"""Ops against PyTorch: what the C code must compute, written down a second time and differentiated by autograd.

    make_op_fixtures.py [FOLDER]    writes attention.h5, routing.h5, adamw.h5 (default: fixtures/)

Inputs are stored as f32 and everything is computed from them in f64, so an expected value (f64) is the truth and the
difference to it is the f32 error of the code under test. Needs PyTorch and h5py; the fixtures are kept in the
repository, so only a change of the definitions runs this again. Inputs come from NumPy's PCG64: a new run writes the
same numbers. Whole models: make_model_fixtures.py.
"""
import math
import os
import sys
from fractions import Fraction

import h5py
import numpy as np
import torch

from routing_reference import DROP, NearTie, capacity, choose, keep, philox, weigh

torch.set_default_dtype(torch.float64)


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


# ---- optimizer ----------------------------------------------------------------------------------------------------

def adamw(w, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    """Decoupled decay (arXiv:1711.05101); t counts from 1."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1 ** t), v / (1 - beta2 ** t)
    return w - lr * (m_hat / (v_hat.sqrt() + eps) + weight_decay * w), m, v


# ---- files --------------------------------------------------------------------------------------------------------

def write(file, prefix, values, dtype):
    for name, value in values.items():
        array = value.detach().numpy() if torch.is_tensor(value) else np.asarray(value)
        file.create_dataset(f"{prefix}/{name}", data=array.astype(dtype), track_times=False)


def write_config(file, prefix, c):
    """Numbers as they are, words as numbers of the enums in routing_ops.h."""
    words = {"softmax_topk": 0, "topk_softmax": 1}
    c = {key: words.get(value, value) if isinstance(value, str) else value for key, value in c.items()}
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
            ids = choose(logits, rule, K)
            weights = weigh(logits, ids, rule, normalize)
            probabilities, lse = logits.softmax(-1), logits.logsumexp(-1)
            entropy = -(probabilities * probabilities.log()).sum(-1)
            prob_sum = probabilities.view(parts, -1, E).sum(1)
            ((weights * dweights).sum() + (prob_sum * balance).sum() + z_scale * (lse ** 2).sum()).backward()
            limit = capacity(Fraction(3, 4), 1, K, N // groups, E)
            kept = {policy: keep(ids, weights, groups, limit, policy,
                                 lambda i: philox(seed, DROP, 7, 2, index=first_token * K + i))
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


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
    os.makedirs(folder, exist_ok=True)
    makers = dict(attention=make_attention, routing=make_routing, adamw=make_adamw)
    for name, make in makers.items():
        with h5py.File(os.path.join(folder, name + ".h5"), "w") as file:
            make(file)


if __name__ == "__main__":
    main()
