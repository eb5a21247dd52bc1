"""Attention whose heads are experts, once more, from the papers, with PyTorch in double."""
import torch
import torch.nn.functional as F

from attention_reference import mix, rotate
from layers_reference import linear
from moe_reference import gate_logits, route, tell


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
