"""Attention once more, from the papers, with PyTorch in double."""
import math

import torch
import torch.nn.functional as F

import routing_reference as routing
from layers_reference import linear


def rope_frequencies(c):
    """Radians a position by pair of channels (arXiv:2104.09864), and as they are extended: linear
    (arXiv:2306.15595), NTK-aware, YaRN (arXiv:2309.00071, as published with it), Llama 3.1's."""
    d, theta, factor = c["attention.d_rope"], c["attention.rope_theta"], c["attention.rope_factor"]
    if c["attention.rope_scaling"] == "ntk":
        theta = theta * factor ** (d / (d - 2))
    frequency = theta ** (-torch.arange(0, d, 2) / d)
    if c["attention.rope_scaling"] == "linear":
        return frequency / factor
    if c["attention.rope_scaling"] == "llama3":
        turns = c["attention.rope_original_context"] * frequency / (2 * math.pi)
        fast, slow = c["attention.rope_beta_fast"], c["attention.rope_beta_slow"]
        kept = ((turns - slow) / (fast - slow)).clamp(0, 1)
        return frequency / factor * (1 - kept) + frequency * kept
    if c["attention.rope_scaling"] != "yarn":
        return frequency

    def channel(turns):
        context = c["attention.rope_original_context"]
        return d * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))
    low, high = channel(c["attention.rope_beta_fast"]), channel(c["attention.rope_beta_slow"])
    if c["attention.rope_truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    slowed = ((torch.arange(d // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequency / factor * slowed + frequency * (1 - slowed)


def rotate(x, c):
    """Turns the first channels of (B, T, heads, d), in pairs half of them apart."""
    pairs = c["attention.d_rope"] // 2
    angles = torch.arange(x.shape[1])[:, None] * rope_frequencies(c)
    length = torch.full_like(angles, c["attention.rope_attention_factor"])
    turned = torch.complex(x[..., :pairs].contiguous(), x[..., pairs:2 * pairs].contiguous())
    turned = turned * torch.polar(length, angles)[:, None, :]
    return torch.cat([turned.real, turned.imag, x[..., 2 * pairs:]], dim=-1)


def alibi_slopes(heads):
    """As the authors' get_slopes (arXiv:2108.12409)."""
    def of_power(n):
        start = 2 ** (-2 ** -(math.log2(n) - 3))
        return [start * start ** i for i in range(n)]
    power = 2 ** math.floor(math.log2(heads))
    return torch.tensor(of_power(power) + of_power(2 * power)[::2][:heads - power])


def mix(p, name, q, k, v, c, layer, step):
    """Attention of (B, T, heads, d); tells the step the largest score of each head."""
    T, scale = q.shape[1], c["attention.scale"]
    distance = torch.arange(T)[:, None] - torch.arange(T)
    window = c.at("attention.window", layer) or T
    seen = (distance >= 0) & (distance < window)
    if c["train.objective"] == "masked":
        seen, distance = seen | seen.T, distance.abs()
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    repeated = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = scale * q @ repeated.transpose(2, 3)
    told = step.largest.setdefault(layer, [])
    told.append(scores.detach().masked_fill(~seen, -math.inf).amax((0, 2, 3)))
    bias = torch.zeros(q.shape[1], T, T).masked_fill(~seen, -math.inf)
    if c.at("attention.positions", layer) == "alibi":
        bias = bias - alibi_slopes(q.shape[1])[:, None, None] * distance
    shaped = c["attention.softcap"] or c["attention.dropout"]
    if c["attention.softmax"] == "plain" and not shaped:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], scale=scale,
                                              enable_gqa=True).transpose(1, 2)
    if c["attention.softcap"]:
        scores = c["attention.softcap"] * torch.tanh(scores / c["attention.softcap"])
    scores = scores + bias
    if c["attention.softmax"] == "off_by_one":  # Miller 2023: one more key, of score 0 and value 0
        scores = F.pad(scores, (0, 1))
    elif c["attention.softmax"] == "sink":  # gpt-oss: of a learned score
        sinks = p[name + ".sinks"][None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.softmax(-1)[..., :T]
    if c["attention.dropout"]:
        weights = weights * routing.attention_dropout(
            step.stream(routing.DROPOUT_ATTENTION, layer), c["attention.dropout"],
            step.micro_batch * weights.shape[0] * T, *weights.shape[:3])
    return (weights @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)).transpose(1, 2)


def attention(p, name, x, c, layer, step):
    H, KV = c["attention.heads"], c["attention.kv_heads"]
    d, dv = c["attention.d_head"], c["attention.d_value"]
    q, k, v = linear(p, name + ".qkv", x).split([H * d, KV * d, KV * dv], dim=-1)
    eps = c["model.norm_eps"]
    if c["attention.qk_norm"] == "whole":
        q = F.rms_norm(q, q.shape[-1:], p[name + ".q_norm"], eps)
        k = F.rms_norm(k, k.shape[-1:], p[name + ".k_norm"], eps)
    q, k, v = (y.unflatten(-1, (-1, size)) for y, size in ((q, d), (k, d), (v, dv)))
    if c["attention.qk_norm"] == "head":
        q = F.rms_norm(q, (d,), p[name + ".q_norm"], eps)
        k = F.rms_norm(k, (d,), p[name + ".k_norm"], eps)
    if c.at("attention.positions", layer) == "rope":
        q, k = rotate(q, c), rotate(k, c)
    out = mix(p, name, q, k, v, c, layer, step)
    if c["attention.gate"] != "none":  # arXiv:2505.06708
        gates = torch.sigmoid(linear(p, name + ".gate", x))
        out = out * gates.unflatten(-1, (H, -1))
    return linear(p, name + ".output", out.flatten(2))


def latent_attention(p, name, x, c, layer, step):
    """DeepSeek-V2 (arXiv:2405.04434, 2.1); rotary channels stand first in a head."""
    H, d, dv = c["attention.heads"], c["attention.d_head"], c["attention.d_value"]
    q_rank, rank, d_rope = (c["attention." + key] for key in ("q_rank", "kv_rank", "d_rope"))
    eps = c["model.norm_eps"]
    q, latent, key = linear(p, name + ".down", x).split([q_rank or H * d, rank, d_rope], dim=-1)
    if q_rank:
        q = linear(p, name + ".q_up", F.rms_norm(q, (q_rank,), p[name + ".q_norm"], eps))
    up = linear(p, name + ".kv_up", F.rms_norm(latent, (rank,), p[name + ".kv_norm"], eps))
    k, v = (y.unflatten(-1, (H, -1)) for y in up.split([H * (d - d_rope), H * dv], dim=-1))
    k = torch.cat([key[:, :, None].expand(-1, -1, H, -1), k], dim=-1)
    q = q.unflatten(-1, (H, d))
    if c.at("attention.positions", layer) == "rope":
        q, k = rotate(q, c), rotate(k, c)
    return linear(p, name + ".output", mix(p, name, q, k, v, c, layer, step).flatten(2))
