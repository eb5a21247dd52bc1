"""A layer of experts once more, from the papers, with PyTorch in double."""
import torch
import torch.nn.functional as F

import routing_reference as routing
from layers_reference import feed_forward, linear


def cv_squared(x):
    """The squared coefficient of variation (Shazeer et al. 2017, eq. 7)."""
    return x.var(unbiased=False) / x.mean() ** 2


def noisy_load(raw, noisy, deviation, top_k):
    """P(x, i), appendix A of Shazeer et al. 2017: the chance that expert i would be chosen if its
    noise alone were drawn again."""
    sorted_logits = noisy.sort(-1, descending=True).values
    last, following = sorted_logits[:, top_k - 1:top_k], sorted_logits[:, top_k:top_k + 1]
    threshold = torch.where(noisy >= last, following, last)
    return torch.distributions.Normal(0, 1).cdf((raw - threshold) / deviation)


MEASURED = [{"kind": "load", "scope": "shard", "factor": 0}]  # where no term is asked for


def scopes_of(c, rows):
    """How many of each scope are in a micro-batch of so many tokens."""
    return {"shard": c["train.shards"] // c["train.micro_batches"], "sequence": rows // c["train.context"],
            "batch": 1, "step": 1}


def balance_terms(c, counts_of, logits, weights, ids, step, name, smooth_load):
    """The list of moe.balance without factors; a term is the mean of its scopes."""
    N, E, K = logits.shape[0], c.scored, ids.shape[1]
    probability = routing.probabilities(logits, c["moe.router"], K)
    per_token = c["moe.top_k"]
    if c["moe.balance_share"] == "tokens" or c["moe.balance_choices"] == "first":
        per_token = 1
    terms = []
    for term in c["moe.balance"] or MEASURED:
        of_scope, values = scopes_of(c, N)[term["scope"]], []
        for rows in torch.arange(N).chunk(of_scope):
            if term["kind"] == "importance":
                mass = torch.zeros(E).index_add(0, ids[rows].flatten(), weights[rows].flatten())
                values.append(cv_squared(mass))
            elif term["kind"] == "noisy_load":
                values.append(cv_squared(smooth_load[rows].sum(0)))
            else:
                load, tokens = counts_of(rows), len(rows)
                if term["scope"] == "step":
                    load = load + step.loads.get(name, 0)
                    tokens = tokens * (step.micro_batch + 1)
                f = load / (per_token * tokens)
                values.append(E * (f * probability[rows].mean(0)).sum())
        terms.append(torch.stack(values).mean())
    step.loads[name] = step.loads.get(name, 0) + counts_of(torch.arange(N))
    return torch.stack(terms)


def expert_choice(logits, groups, limit):
    """Each expert takes the `limit` tokens of a group that want it most (arXiv:2202.09368)."""
    wanted = logits.softmax(-1)
    taken = [routing.best(group.T, limit) for group in wanted.detach().chunk(groups)]
    kept = [F.one_hot(t, wanted.shape[0] // groups).sum(1).T.bool() for t in taken]
    ids = torch.arange(wanted.shape[1]).expand_as(wanted)
    return ids, wanted, torch.cat(kept)


def gate_logits(p, name, x, c, step, layer):
    """Logits that choose, those that z-loss is of, and the smooth load of noisy ones."""
    N, D = x.shape
    first = step.micro_batch * N
    if c["moe.router"] == "hash":
        return torch.zeros(N, c.scored), torch.zeros(N, c.scored), None
    if c["moe.jitter"]:
        x = x * routing.jitter(step.stream(routing.JITTER, layer), c["moe.jitter"], first, N, D)
    raw = linear(p, name + ".router", x)
    if c["moe.router"] != "noisy_top_k":
        return raw, raw, None
    deviation = F.softplus(linear(p, name + ".router_noise", x))
    noise = routing.normals(step.stream(routing.ROUTER_NOISE, layer), first, N, c.scored)
    noisy = raw + noise * deviation
    return noisy, raw, noisy_load(raw, noisy, deviation, c["moe.top_k"])


def route(p, name, logits, tokens, c, step, layer):
    """ids, weights and what is kept, of all experts and those of no computation."""
    N, K, router = logits.shape[0], c["moe.top_k"], c["moe.router"]
    parts = c["train.shards"] // c["train.micro_batches"]
    groups = parts if c["moe.routing_group"] == "shard" else N // c["train.context"]
    factor = c["moe.capacity_factor"]
    if router == "expert_choice":
        return expert_choice(logits, groups,
                             routing.capacity(factor or 1, 1, K, N // groups, c.scored))
    first = step.micro_batch * N
    if c.is_hashed(layer):
        stream = (0, routing.HASH, 0, layer)
        ids = torch.tensor([routing.drawn(stream, t, K, c["moe.experts"]) for t in tokens.tolist()])
    elif c["moe.force"] == "balanced":
        ids = (first * K + torch.arange(N * K)).view(N, K) % c.scored
    elif c["moe.force"] == "random":
        stream = step.stream(routing.FORCED, layer)
        ids = torch.tensor([routing.drawn(stream, first + n, K, c.scored) for n in range(N)])
    else:
        ids = routing.choose(logits, router, K, p.get(name + ".router_bias"), c["moe.groups"],
                             c["moe.top_groups"], c["moe.sinkhorn_iterations"], parts)
    weights = routing.weigh(logits, ids, router, c["moe.normalize_top_k"],
                            c["moe.scaling_factor"])
    limit = routing.capacity(factor, c["moe.min_capacity"], K, N // groups, c.scored)
    drop = step.stream(routing.DROP, layer)
    kept = routing.keep(ids, weights, groups, limit, c["moe.drop"],
                        lambda i: routing.philox(*drop, index=first * K + i))
    return ids, weights, kept | (ids >= c["moe.experts"])


def expert_dropout(c, step, layer, expert, tokens, N, K):
    """Of the rows of an expert; they are numbered by expert and shard of the step."""
    shards, micro_batches = c["train.shards"], c["train.micro_batches"]
    rows, length = [], N * micro_batches // shards
    for n in tokens:
        shard = step.micro_batch * (shards // micro_batches) + n // length
        first = (expert * shards + shard) * length * K
        rows.append(first + sum(first <= row < first + length * K for row in rows))

    def drop(place, x):
        if not c["moe.dropout"] or c["moe.dropout_at"] != place:
            return x
        stream = step.stream(routing.DROPOUT_EXPERT, layer)
        return x * routing.dropout(stream, c["moe.dropout"], rows, x.shape[1])
    return drop


def moe(p, name, x, tokens, c, step, layer):
    """Of rows x (N, D)."""
    E = c["moe.experts"]
    logits, raw, smooth_load = gate_logits(p, name, x, c, step, layer)
    ids, weights, kept = route(p, name, logits, tokens, c, step, layer)
    gates = weights * kept
    if c["moe.renormalize_after_drop"]:
        null = c["moe.zero_kind"] == "null"
        gates = gates * (ids < E) if null else gates
        gates = gates / gates.sum(-1, keepdim=True).clamp_min(1e-300)
    latent = c.kind(0) == "latent_moe"
    seen = linear(p, name + ".latent_down", x) if latent else x
    out = torch.zeros_like(seen)
    for e in range(E):
        n, k = torch.nonzero(kept & (ids == e), as_tuple=True)
        drop = expert_dropout(c, step, layer, e, n.tolist(), *ids.shape)
        made = feed_forward(p, name + ".experts", seen[n], c, e, drop)
        out = out.index_add(0, n, gates[n, k, None] * made)
    if c["moe.zero_kind"] == "identity":
        out = out + (gates * (ids >= E)).sum(-1, keepdim=True) * seen
    if latent:
        out = linear(p, name + ".latent_up", out)
    if c.kind(0) == "pr_moe":
        shares = linear(p, name + ".shared.coefficient", x).softmax(-1)
        out = shares[:, :1] * out + shares[:, 1:] * feed_forward(p, name + ".shared", x, c)
    elif c["moe.shared_experts"]:
        shared = feed_forward(p, name + ".shared", x, c)
        if c["moe.shared_gate"]:
            shared = shared * torch.sigmoid(linear(p, name + ".shared.gate", x))
        out = out + shared
    tell(name, c, logits, raw, weights, ids, kept, step, smooth_load)
    return out


def tell(name, c, logits, raw, weights, ids, kept, step, smooth_load):
    """What a router says of a micro-batch."""
    takes = c["moe.router"] == "expert_choice"  # what an expert does not take was no choice

    def counts_of(rows):
        chosen = ids[rows][kept[rows]] if takes else ids[rows].flatten()
        if c["moe.balance_choices"] == "first":
            chosen = ids[rows, 0]
        return torch.bincount(chosen, minlength=c.scored)
    step.told[name] = dict(
        terms=balance_terms(c, counts_of, logits, weights, ids, step, name, smooth_load),
        z=(raw.logsumexp(-1) ** 2).mean(),
        routed=torch.bincount(ids[kept], minlength=c.scored),
        dropped=torch.bincount(ids[~kept], minlength=c.scored) * (not takes))


def soft_moe(p, name, x, c, step):
    """Of sequences x (B, T, D): slots that mix their tokens (arXiv:2308.00951)."""
    logits = x @ p[name + ".slots"].T
    slots = logits.softmax(1).mT @ x
    step.concentration.append((logits.softmax(1) ** 2).sum(1).mean().item())  # over sequences and slots
    made = [feed_forward(p, name + ".experts", slots[:, s], c, s % c.experts)
            for s in range(slots.shape[1])]
    return logits.softmax(2) @ torch.stack(made, 1)
