"""Routing once more, from the papers, with PyTorch in double: random numbers, who is chosen, with
what weight, and who is dropped. Choices would jump at near ties, so inputs with one are refused."""
import math
from fractions import Fraction

import torch
import torch.nn.functional as F

MARGIN = 2e-4  # f32 logits of these sizes are within 1e-5 of f64, also after ten optimizer steps


class NearTie(Exception):
    """The inputs hold a choice that f32 could decide differently."""


def require_gaps(sorted_values):
    """Neighbours along the last axis, sorted descending, must differ by MARGIN."""
    gaps = sorted_values[..., :-1] - sorted_values[..., 1:]
    if gaps.numel() and gaps[~gaps.isnan()].min() < MARGIN:
        raise NearTie


def best(keys, count):
    """Numbers of the `count` largest keys of each row, best first."""
    values, order = keys.detach().topk(min(count + 1, keys.shape[-1]), dim=-1)
    require_gaps(values)
    return order[..., :count]


# ---- random numbers ----------------------------------------------------------------------------

# Purposes of kernels/rng.h.
DROP, ROUTER_NOISE, JITTER, FORCED, HASH = 3, 7, 9, 10, 15
DROPOUT_EMBEDDING, DROPOUT_ATTENTION, DROPOUT_RESIDUAL, DROPOUT_EXPERT = 11, 12, 13, 14
MASK = 16


def philox_words(seed, purpose, a, b, index):
    """The four words of Philox 4x32-10 (Salmon et al. 2011), with the counters of kernels/rng.c."""
    mask = 0xFFFFFFFF
    k0, k1 = seed & mask, seed >> 32
    c = [index & mask, (index >> 32) ^ (purpose << 24), a, b]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & mask, (p0 >> 32) ^ c[3] ^ k1, p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c


def philox(*stream, index):
    return philox_words(*stream, index)[0]


def normals(stream, first, rows, columns):
    """Standard normal numbers, as kernels/routing_ops.h draws those of row `first` on."""
    def normal(i):
        words = philox_words(*stream, i // 4)
        first_of_pair = i % 4 // 2 * 2
        u, v = (words[first_of_pair + j] >> 8 for j in (0, 1))
        wave = math.sin if i % 2 else math.cos
        return math.sqrt(-2 * math.log(1 - u * 2.0 ** -24)) * wave(2 * math.pi * v * 2.0 ** -24)
    numbers = [normal(first * columns + i) for i in range(rows * columns)]
    return torch.tensor(numbers).view(rows, columns)


def jitter(stream, amount, first, rows, columns):
    """Factors from 1 - amount to 1 + amount (Switch)."""
    def factor(i):
        word = philox_words(*stream, i // 4)[i % 4]
        return 1 + amount * ((word >> 8) * 2.0 ** -23 - 1)
    return torch.tensor([factor(first * columns + i) for i in range(rows * columns)]).view(rows, -1)


def dropout(stream, rate, rows, columns):
    """0, or what the rest grows by (arXiv:1207.0580, inverted), of rows with these numbers."""
    def factor(i):
        return 0.0 if philox_words(*stream, i // 4)[i % 4] < rate * 2 ** 32 else 1 / (1 - rate)
    return torch.tensor([[factor(r * columns + i) for i in range(columns)] for r in rows],
                        dtype=torch.get_default_dtype()).view(len(rows), columns)


def attention_dropout(stream, rate, first, sequences, heads, T):
    """The same of probabilities (B, H, T, T): 16 bits each, see AttentionDropout."""
    below = round(rate * 65536)

    def factor(query, head, key):
        words = philox_words(*stream, (query * heads + head) * ((T + 7) // 8) + key // 8)
        bits = words[key % 8 // 2] >> (key % 2 * 16) & 0xFFFF
        return 0.0 if bits < below else 65536 / (65536 - below)
    return torch.tensor([[[[factor(first + b * T + t, h, s) for s in range(T)] for t in range(T)]
                          for h in range(heads)] for b in range(sequences)])


def drawn(stream, number, top_k, experts):
    """top_k of the experts, drawn without putting back: the r-th of those that are left."""
    left, ids = list(range(experts)), []
    for k in range(top_k):
        ids.append(left.pop(philox(*stream, index=number * top_k + k) * len(left) >> 32))
    return ids


# ---- choices and weights -----------------------------------------------------------------------

def sinkhorn(logits, iterations):
    """The plan of Megatron-LM's `sinkhorn`, after so many iterations."""
    cost = (logits - logits.max(-1, keepdim=True).values).exp()
    rows, columns = torch.ones(cost.shape[0]), torch.ones(cost.shape[1])
    for _ in range(iterations):
        rows = 1 / (cost.shape[0] * (columns * cost).sum(1))
        columns = 1 / (cost.shape[1] * (rows[:, None] * cost).sum(0))
    return columns * cost * rows[:, None]


def within_groups(keys, groups, top_groups, top_k):
    """-inf for the experts of all but the best groups (DeepSeek-V3, arXiv:2412.19437, 2.1.2)."""
    by_group = keys.view(-1, groups, keys.shape[-1] // groups)
    most = min(max(top_k // top_groups, 1), by_group.shape[-1])
    chosen = best(by_group.topk(most, dim=-1).values.sum(-1), top_groups)
    allowed = F.one_hot(chosen, groups).sum(1).bool()
    return by_group.masked_fill(~allowed[..., None], -math.inf).flatten(1)


SCORES = {"sigmoid": torch.sigmoid, "sqrtsoftplus": lambda z: F.softplus(z).sqrt()}


def probabilities(logits, router, top_k):
    """What balance losses call P: scores over their sum."""
    if router == "sinkhorn" and top_k == 1:
        router = "sigmoid"
    scores = SCORES[router](logits) if router in SCORES else logits.exp()
    return scores / scores.sum(-1, keepdim=True)


def choose(logits, router, top_k, bias=None, groups=1, top_groups=1, iterations=8, parts=1):
    """ids (N, K), best first."""
    if router == "sinkhorn":
        plans = [sinkhorn(part, iterations) for part in logits.detach().chunk(parts)]
        # Sinkhorn's plan is small numbers: gaps are those of their logarithms.
        return best(torch.cat(plans).log(), top_k)
    if router in SCORES:
        keys = SCORES[router](logits)
    elif bias is not None or groups > 1:
        keys = logits.softmax(-1)
    else:
        keys = logits
    if bias is not None:
        keys = keys + bias
    if groups > 1:
        keys = within_groups(keys.detach(), groups, top_groups, top_k)
    return best(keys, top_k)


def weigh(logits, ids, router, normalize=False, scaling=1.0):
    """Gate weights (N, K) of the chosen."""
    top_k = ids.shape[1]
    if router in ("softmax_topk", "noisy_top_k", "hash"):
        return logits.gather(1, ids).softmax(-1)
    if router == "sinkhorn" and top_k == 1:
        return torch.sigmoid(logits).gather(1, ids)
    if router in ("topk_softmax", "sinkhorn", "expert_choice"):
        weights = logits.softmax(-1).gather(1, ids)
        return weights / weights.sum(-1, keepdim=True) if normalize else weights
    weights = SCORES[router](logits).gather(1, ids)
    if top_k > 1:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * scaling


# ---- capacity ----------------------------------------------------------------------------------

def capacity(factor, min_capacity, top_k, tokens, experts):
    """Choices that an expert takes of a routing group; None when dropless."""
    if factor == 0:
        return None
    return max(min_capacity, math.ceil(Fraction(factor) * top_k * tokens / experts))


def keep(ids, weights, groups, limit, policy, random_key=None):
    """Which choices survive: of each run of tokens and expert the first `limit`, as ordered by the
    policy."""
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
                    of_last = torch.stack([weights[c] for c in choices[limit - 1:limit + 1]])
                    require_gaps(of_last.detach())
            else:
                choices.sort(key=lambda c: (random_key(c[0] * K + c[1]), c))
            for choice in choices[limit:]:
                kept[choice] = False
    return kept
