"""Attention whose heads are experts, once more, from the papers, with PyTorch in double."""
import torch
import torch.nn.functional as F

import routing_reference as routing
from attention_reference import mix, rotate
from layers_reference import linear
from moe_reference import cv_squared, gate_logits, route, scopes_of, tell


def expert_linear(p, name, x, ids):
    """Of rows x (N, K, in), each by its expert."""
    out = torch.einsum("nkoi,nki->nko", p[name][ids], x)
    return out + p[name + ".bias"][ids] if name + ".bias" in p else out


def moa(p, name, x, c, layer, step):
    """Mixture of attention heads (arXiv:2210.05144)."""
    B, T, _ = x.shape
    K, d, dv = c["attention.heads"], c["attention.d_head"], c["attention.d_value"]
    of, rows = c.of_attention(), x.flatten(0, 1)
    logits, raw, smooth_load = gate_logits(p, name, rows, of, step, layer + c["model.layers"])
    ids, weights, kept = route(p, name, logits, None, of, step, layer)
    q = expert_linear(p, name + ".experts.query", rows[:, None].expand(-1, K, -1), ids)
    q = q.view(B, T, K, d)
    k, v = (y[:, :, None] for y in linear(p, name + ".kv", x).split([d, dv], dim=-1))
    if c["attention.qk_norm"] == "head":
        q = F.rms_norm(q, (d,), p[name + ".q_norm"], c["model.norm_eps"])
        k = F.rms_norm(k, (d,), p[name + ".k_norm"], c["model.norm_eps"])
    if c.at("attention.positions", layer) == "rope":
        q, k = rotate(q, c), rotate(k, c)
    heads = mix(p, name, q, k, v, c, layer, step).flatten(0, 1)
    made = expert_linear(p, name + ".experts.output", heads, ids)
    tell(name, of, logits, raw, weights, ids, kept, step, smooth_load)
    return (weights[:, :, None] * made).sum(1).view(B, T, -1)


def head_gates(p, name, rows, c):
    """Each head's experts, not competing: ids among all, (N, H, k), and weights."""
    H, E, k = c["attention.heads"], c["attention.experts"], c["attention.top_k"]
    scores = torch.sigmoid(rows @ p[name].T).view(-1, H, E)
    ids = routing.best(scores.detach(), k)
    return ids + E * torch.arange(H)[:, None], scores.gather(-1, ids)


def head_importance(ids, weights, c):
    """The terms of moe.balance that are of importance, of each head, a term being the mean of its scopes (N, H, k)."""
    E, total = c["attention.experts"], 0
    for term in c["moe.balance"] or []:
        if term["kind"] != "importance":
            continue
        mass = F.one_hot(ids % E, E) * weights[..., None]                     # (N, H, k, E)
        scopes = mass.sum(2).chunk(scopes_of(c, len(ids))[term["scope"]])
        of_heads = [cv_squared(scope.sum(0)[h]) for scope in scopes for h in range(ids.shape[1])]
        total = total + term["factor"] * sum(of_heads) / len(of_heads)
    return total


def switchhead(p, name, x, c, layer, step):
    """SwitchHead (arXiv:2312.07987)."""
    B, T, _ = x.shape
    H, k, d, dv = (c["attention." + key] for key in ("heads", "top_k", "d_head", "d_value"))
    rows, eps = x.flatten(0, 1), c["model.norm_eps"]
    v_ids, v_weights = head_gates(p, name + ".value_router", rows, c)
    ids, weights = head_gates(p, name + ".output_router", rows, c)
    step.further = step.further + head_importance(v_ids, v_weights, c) + head_importance(ids, weights, c)
    values = expert_linear(p, name + ".experts.value", rows[:, None].expand(-1, H * k, -1),
                           v_ids.flatten(1)).view(-1, H, k, dv)
    v = (v_weights[..., None] * values).sum(2).view(B, T, H, dv)
    q, key = linear(p, name + ".qk", x).chunk(2, dim=-1)
    if c["attention.qk_norm"] == "whole":
        q = F.rms_norm(q, q.shape[-1:], p[name + ".q_norm"], eps)
        key = F.rms_norm(key, key.shape[-1:], p[name + ".k_norm"], eps)
    q, key = (y.unflatten(-1, (H, d)) for y in (q, key))
    if c["attention.qk_norm"] == "head":
        q = F.rms_norm(q, (d,), p[name + ".q_norm"], eps)
        key = F.rms_norm(key, (d,), p[name + ".k_norm"], eps)
    if c.at("attention.positions", layer) == "rope":
        q, key = rotate(q, c), rotate(key, c)
    heads = mix(p, name, q, key, v, c, layer, step).flatten(0, 1)
    made = expert_linear(p, name + ".experts.output", heads.repeat_interleave(k, dim=1),
                         ids.flatten(1))
    return (weights.flatten(1)[..., None] * made).sum(1).view(B, T, -1)
