"""PEER once more, from arXiv:2407.04153: the scores of all n² experts are written out, none are
sought by halves."""
import torch

from layers_reference import GATED, PLAIN
from routing_reference import NearTie

AVERAGES = ("query_mean_first", "query_mean_second", "query_variance_first", "query_variance_second")
CLOSE = 1e-4  # sums of scores nearer than that could be in another order in f32


def peer_shapes(name, c):
    n, heads, d_key = c["peer.keys"], c["peer.heads"], c["peer.d_key"]
    D, kind = c["model.d_model"], c["peer.activation"]
    shapes = {}
    for half in ("first", "second"):
        shapes[f"{name}.query_{half}"] = (heads * d_key, D)
        if c["peer.query_norm"] == "batch":
            shapes[f"{name}.query_mean_{half}"] = shapes[f"{name}.query_variance_{half}"] = (heads * d_key,)
        shapes[f"{name}.keys_{half}"] = (n, d_key)
    for table in (["gate"] if kind in GATED else []) + ["up", "down"]:
        shapes[f"{name}.experts.{table}"] = (n * n, D)
    return shapes


def peer(p, name, x, c, seen):
    """x (N, D); queries to be normalised are left in `seen` by the name of their averages."""
    n, heads, k = c["peer.keys"], c["peer.heads"], c["peer.top_k"]
    kind = c["peer.activation"]

    def normalised(queries, which):
        """By the tokens of each shard; the averages wait for those of the whole step."""
        seen.setdefault(f"{name}.query_{{}}_{which}", []).append(queries.detach())
        shards = queries.unflatten(0, (c["train.shards"] // c["train.micro_batches"], -1))
        return torch.cat([torch.nn.functional.batch_norm(shard, None, None, training=True) for shard in shards])

    def half(which):
        queries = x @ p[f"{name}.query_{which}"].T
        if c["peer.query_norm"] == "batch":
            queries = normalised(queries, which)
        queries = queries.unflatten(1, (heads, c["peer.d_key"]))
        return queries @ p[f"{name}.keys_{which}"].T                         # (N, H, n)

    scores = (half("first")[..., :, None] + half("second")[..., None, :]).flatten(-2)
    best, experts = scores.topk(min(k + 1, n * n), dim=-1)                   # sorted
    if (best[..., :-1] - best[..., 1:]).min() < CLOSE:
        raise NearTie
    weights, experts = best[..., :k].softmax(-1), experts[..., :k]           # (N, H, k)

    def times(table):
        return torch.einsum("nd,nhkd->nhk", x, p[f"{name}.experts.{table}"][experts])

    hidden = GATED[kind](times("gate"), times("up")) if kind in GATED else PLAIN[kind](times("up"))
    return torch.einsum("nhk,nhkd->nd", weights * hidden, p[f"{name}.experts.down"][experts])


@torch.no_grad()
def move_averages(params, seen):
    """After a step, as torch.nn.BatchNorm1d with its momentum of 0.1, of all its tokens."""
    for name, queries in seen.items():
        rows = torch.cat(queries)
        for which, now in (("mean", rows.mean(0)), ("variance", rows.var(0))):
            params[name.format(which)].lerp_(now, 0.1)
