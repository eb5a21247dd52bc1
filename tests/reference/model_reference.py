"""A whole model once more, from the papers, with PyTorch's operations in double; gradients are
autograd's. Keys are those of the configuration, parameters have the names of checkpoints."""
import math

import torch
import torch.nn.functional as F

import routing_reference as routing
from attention_experts_reference import moa, switchhead
from attention_reference import attention, latent_attention
from layers_reference import GATED, feed_forward, norm
from moe_reference import moe, soft_moe
from peer_reference import peer, peer_shapes

# Of the keys that are read here, what holds where a case says nothing: each option is off.
DEFAULTS = {
    "train.micro_batches": 1, "train.shards": 2, "train.seed": 1337, "train.dropout": 0,
    "train.objective": "causal", "train.mask_share": 0.15, "mtp.layers": 0, "mtp.loss_factor": 0.1,
    "model.activation": "swiglu", "model.bias": "false", "model.norm": "rmsnorm",
    "model.norm_place": "pre", "model.norm_eps": 1e-5, "model.tied_embeddings": True,
    "model.mixer": "attention", "model.mup_base_width": 0, "model.embedding_scale": 1,
    "model.logit_scale": 1, "model.logit_softcap": 0,
    "attention.positions": "rope", "attention.rope_theta": 10000.0, "attention.rope_fraction": 1,
    "attention.rope_scaling": "none", "attention.rope_factor": 1,
    "attention.rope_original_context": 0, "attention.rope_truncate": True,
    "attention.rope_beta_slow": 1, "attention.softmax": "plain", "attention.qk_norm": "none",
    "attention.softcap": 0, "attention.gate": "none", "attention.window": 0,
    "attention.q_rank": 0,
    "peer.query_norm": "none",
    "moe.every": 1, "moe.first": True, "moe.router": "softmax_topk", "moe.normalize_top_k": False,
    "moe.scaling_factor": 1, "moe.groups": 1, "moe.top_groups": 1, "moe.sinkhorn_iterations": 8,
    "moe.jitter": 0, "moe.gate_bias": False, "moe.capacity_factor": 0, "moe.min_capacity": 1,
    "moe.drop": "position", "moe.renormalize_after_drop": False, "moe.routing_group": "shard",
    "moe.balance_share": "choices", "moe.balance_choices": "all", "moe.bias_update": "none",
    "moe.z_loss": 0.001, "moe.hash_layers": 0, "moe.force": "none", "moe.shared_experts": 0,
    "moe.shared_d_ff": 0, "moe.shared_gate": False, "moe.zero_experts": 0,
    "moe.zero_kind": "identity", "moe.dropout": 0, "moe.dropout_at": "hidden",
    "moe.balance": [{"kind": "load", "scope": "shard", "factor": 0.01}],
}


NO_TARGET = -1
MIXERS = {"attention": attention, "latent_attention": latent_attention, "moa": moa,
          "switchhead": switchhead}


class Config(dict):
    """Keys of a case over the defaults, with what is derived."""

    def __init__(self, keys):
        super().__init__({**DEFAULTS, **keys})
        self.setdefault("attention.kv_heads", self["attention.heads"])
        self.setdefault("attention.d_head", self["model.d_model"] // self["attention.heads"])
        self.setdefault("attention.d_value", self["attention.d_head"])
        self.setdefault("attention.d_rope",
                        int(self["attention.rope_fraction"] * self["attention.d_head"]))
        self.setdefault("train.embedding_dropout", self["train.dropout"])
        self.setdefault("attention.dropout", self["train.dropout"])
        muP, d_head = self["model.mup_base_width"], self["attention.d_head"]
        self.setdefault("attention.scale", d_head ** -0.5 if not muP else
                        self.get("attention.mup_base_d_head", d_head) ** 0.5 / d_head)
        llama3 = self["attention.rope_scaling"] == "llama3"
        self.setdefault("attention.rope_beta_fast", 4 if llama3 else 32)
        yarn = self["attention.rope_scaling"] == "yarn"
        self.setdefault("attention.rope_attention_factor",
                        0.1 * math.log(self["attention.rope_factor"]) + 1 if yarn else 1)
        self.setdefault("peer.activation", self["model.activation"])
        self.width_share = muP / self["model.d_model"] if muP else 1  # 1/m
        self.experts = self.at("moe.experts", 0)
        self.scored = self.experts + self["moe.zero_experts"]

    def of_layer(self, layer):
        """The configuration of that layer's experts."""
        return Config({**self, "moe.experts": self.at("moe.experts", layer),
                       "model.feed_forward": self.kind(layer)})

    def of_attention(self):
        """Of a mixer's router, which drops nothing and which nobody forces."""
        return Config({**self, "moe.experts": self["attention.experts"],
                       "moe.top_k": self["attention.heads"], "moe.zero_experts": 0,
                       "moe.capacity_factor": 0, "moe.hash_layers": 0, "moe.force": "none"})

    def at(self, key, layer):
        """The value of a layer, of a key that may have a list that repeats."""
        value, layer = self[key], min(layer, self["model.layers"] - 1)  # further blocks are as the last layer
        return value[layer % len(value)] if isinstance(value, list) else value

    def kind(self, layer):
        """Of the feed-forward."""
        if "model.feed_forward" in self:
            return self.at("model.feed_forward", layer)
        every, layer = self["moe.every"], min(layer, self["model.layers"] - 1)
        due = layer % every == (0 if self["moe.first"] else every - 1)
        return "moe" if self.at("moe.experts", layer) > 0 and due else "dense"

    def is_routed(self, layer):
        return self.kind(layer) in ("moe", "pr_moe", "latent_moe")

    def is_hashed(self, layer):
        return self["moe.router"] == "hash" or layer < self["moe.hash_layers"]


# ---- parameters --------------------------------------------------------------------------------

BIASES = {"false": "", "qkv": "qkv", "attention": "qkv output", "true": "qkv output ffn",
          "head": "qkv output ffn head", "no_qkv": "output ffn head"}


def parameter_shapes(c):
    D, V, H = c["model.d_model"], c["vocab_size"], c["attention.heads"]
    d, dv = c["attention.d_head"], c["attention.d_value"]
    biases, wide = BIASES[c["model.bias"]].split(), 2 if c["model.activation"] in GATED else 1
    shapes = {}

    def linear(name, shape, bias=""):
        shapes[name] = shape
        if bias in biases:
            shapes[name + ".bias"] = (*shape[:-2], shape[-2])

    def norm(name):
        shapes[name] = (D,)
        if c["model.norm"] == "layernorm":
            shapes[name + ".bias"] = (D,)

    def norms(name):
        norm(name + "_norm")
        if c["model.norm_place"] == "sandwich":
            norm(name + "_post_norm")

    def feed_forward(name, hidden, leading=(), width=D):
        linear(name + ".gate_up", (*leading, wide * hidden, width), "ffn")
        linear(name + ".down", (*leading, width, hidden), "ffn")

    def attention(name):
        KV = c["attention.kv_heads"]
        linear(name + ".qkv", (H * d + KV * (d + dv), D), "qkv")
        query_key_norms(name, KV)
        if c["attention.gate"] != "none":
            linear(name + ".gate", (H if c["attention.gate"] == "head" else H * dv, D))
        linear(name + ".output", (D, H * dv), "output")

    def query_key_norms(name, KV):
        if c["attention.qk_norm"] != "none":
            whole = c["attention.qk_norm"] == "whole"
            shapes[name + ".q_norm"] = (H * d if whole else d,)
            shapes[name + ".k_norm"] = (KV * d if whole else d,)

    def latent_attention(name):
        q_rank, rank, d_rope = (c["attention." + key] for key in ("q_rank", "kv_rank", "d_rope"))
        linear(name + ".down", ((q_rank or H * d) + rank + d_rope, D), "qkv")
        if q_rank:
            shapes[name + ".q_norm"] = (q_rank,)
            linear(name + ".q_up", (H * d, q_rank))
        shapes[name + ".kv_norm"] = (rank,)
        linear(name + ".kv_up", (H * (d - d_rope) + H * dv, rank))
        linear(name + ".output", (D, H * dv), "output")

    def moa(name):
        router(name, c.of_attention())
        linear(name + ".experts.query", (c["attention.experts"], d, D), "qkv")
        linear(name + ".kv", (d + dv, D), "qkv")
        query_key_norms(name, 1)
        linear(name + ".experts.output", (c["attention.experts"], D, dv), "output")

    def switchhead(name):
        experts = H * c["attention.experts"]
        linear(name + ".qk", (2 * H * d, D), "qkv")
        query_key_norms(name, H)
        shapes[name + ".value_router"] = (experts, D)
        linear(name + ".experts.value", (experts, dv, D), "qkv")
        shapes[name + ".output_router"] = (experts, D)
        linear(name + ".experts.output", (experts, D, dv), "output")

    def router(name, c):
        shapes[name + ".router"] = (c.scored, D)
        if c["moe.gate_bias"]:
            shapes[name + ".router.bias"] = (c.scored,)
        if c["moe.router"] == "noisy_top_k":
            shapes[name + ".router_noise"] = (c.scored, D)
        if c["moe.bias_update"] != "none":
            shapes[name + ".router_bias"] = (c.scored,)

    def moe(name, c):
        E, hidden, residual = c.experts, c["moe.d_ff"], c.kind(0) == "pr_moe"
        if c["moe.router"] != "hash":
            router(name, c)
        latent = c.kind(0) == "latent_moe"
        if latent:
            linear(name + ".latent_down", (c["moe.latent_width"], D), "ffn")
            linear(name + ".latent_up", (D, c["moe.latent_width"]), "ffn")
        feed_forward(name + ".experts", hidden, (E,), c["moe.latent_width"] if latent else D)
        if c["moe.shared_experts"] or residual:
            feed_forward(name + ".shared",
                         c["moe.shared_d_ff"] or (c["moe.shared_experts"] or 1) * hidden)
            if residual:
                linear(name + ".shared.coefficient", (2, D), "ffn")
            elif c["moe.shared_gate"]:
                shapes[name + ".shared.gate"] = (1, D)

    shapes["embedding"] = (V, D)
    if c["attention.positions"] == "learned":
        shapes["positions"] = (c["train.context"], D)
    for i in range(c["model.layers"] + c["mtp.layers"]):
        module = i - c["model.layers"]
        name = f"layers.{i}." if module < 0 else f"mtp.{module}."
        norms(name + "attention")
        {"attention": attention, "latent_attention": latent_attention,
         "moa": moa, "switchhead": switchhead}[c.at("model.mixer", i)](name + "attention")
        if c["attention.softmax"] == "sink":
            shapes[name + "attention.sinks"] = (H,)
        norms(name + "ffn")
        if c.is_routed(i):
            moe(name + "moe", c.of_layer(i))
        elif c.kind(i) == "peer":
            shapes.update(peer_shapes(name + "peer", c))
        elif c.kind(i) == "soft_moe":
            E = c.at("moe.experts", i)
            shapes[name + "moe.slots"] = (E * c["moe.slots"], D)
            feed_forward(name + "moe.experts", c["moe.d_ff"], (E,))
        else:
            feed_forward(name + "ffn", c["model.d_ff"])
        if module >= 0:
            for which in ("enorm", "hnorm", "final_norm"):
                norm(name + which)
            shapes[name + "eh_proj"] = (D, 2 * D)
    if c["model.norm_place"] != "post":
        norm("final_norm")
    if not c["model.tied_embeddings"]:
        shapes["head"] = (V, D)
    if "head" in biases:
        shapes["head.bias"] = (V,)
    return shapes


# ---- the model ---------------------------------------------------------------------------------

class Step:
    """Where a micro-batch stands, and what layers tell of it."""

    def __init__(self, c, number, micro_batch, loads):
        self.stream = lambda purpose, layer: (c["train.seed"], purpose, number, layer)
        self.micro_batch, self.loads = micro_batch, loads  # choices by layer, of those before
        self.told = {}                                     # by layer: terms, z, routed, dropped
        self.largest = {}                                  # scores of heads, by layer
        self.further = 0                                   # in the loss: multi-token prediction, importance of heads' experts
        self.concentration = []                            # of the slots of each layer that has them
        self.queries = {}                                  # that a batch norm has seen
        self.modules = []                                  # of each: nats, targets, right first guesses


def forward(p, c, tokens, targets, step):
    """Mean cross-entropy of a micro-batch (B, T), over the targets that there are; routers tell the rest in `step`."""
    place, (B, T) = c["model.norm_place"], tokens.shape
    x = F.embedding(tokens, p["embedding"]) * c["model.embedding_scale"]
    if c["attention.positions"] == "learned":
        x = x + p["positions"][:T]

    def drop(x, rate, purpose, number):
        if not rate:
            return x
        rows = range(step.micro_batch * B * T, (step.micro_batch + 1) * B * T)
        return x * routing.dropout(step.stream(purpose, number), rate, rows, x.shape[-1]).view_as(x)

    def branch(name, x, layer, number):
        before = x if place == "post" else norm(p, name + "_norm", x, c)
        made = layer(before)
        if place == "sandwich":
            made = norm(p, name + "_post_norm", made, c)
        x = x + drop(made, c["train.dropout"], routing.DROPOUT_RESIDUAL, number)
        return norm(p, name + "_norm", x, c) if place == "post" else x

    def mixer(name, i, x):
        return MIXERS[c.at("model.mixer", i)](p, name + ".attention", x, c, i, step)

    def feed(name, i, x, ids):
        rows = x.flatten(0, 1)
        if c.kind(i) == "peer":
            return peer(p, name + ".peer", rows, c, step.queries).view_as(x)
        if c.kind(i) == "soft_moe":
            return soft_moe(p, name + ".moe", x, c.of_layer(i), step)
        if not c.is_routed(i):
            return feed_forward(p, name + ".ffn", x, c)
        return moe(p, name + ".moe", rows, ids.flatten(), c.of_layer(i), step, i).view_as(x)

    def block(name, i, x, ids):
        x = branch(name + ".attention", x, lambda y: mixer(name, i, y), 2 * i)
        return branch(name + ".ffn", x, lambda y: feed(name, i, y, ids), 2 * i + 1)

    def logits_of(x):
        head = p["embedding" if c["model.tied_embeddings"] else "head"]
        logits = F.linear(x * c["model.logit_scale"] * c.width_share, head, p.get("head.bias")).flatten(0, 1)
        cap = c["model.logit_softcap"]
        return cap * torch.tanh(logits / cap) if cap else logits

    def ahead(k):  # the token k places behind the targets, where the window has one
        there = torch.full_like(targets, NO_TARGET)
        there[:, :T - k] = targets[:, k:]
        return there

    def predict_further(x):  # DeepSeek-V3, arXiv:2412.19437, section 2.2
        for k in range(c["mtp.layers"]):
            name, ids, wanted = f"mtp.{k}", ahead(k).clamp(min=0), ahead(k + 1).flatten()
            vectors = F.embedding(ids, p["embedding"]) * c["model.embedding_scale"]
            both = [norm(p, name + ".enorm", vectors, c), norm(p, name + ".hnorm", x, c)]
            x = F.linear(torch.cat(both, -1), p[name + ".eh_proj"])
            x = block(name, c["model.layers"] + k, x, ids)
            logits = logits_of(norm(p, name + ".final_norm", x, c))
            nats = F.cross_entropy(logits, wanted, ignore_index=NO_TARGET, reduction="sum")
            step.further = step.further + c["mtp.loss_factor"] / c["mtp.layers"] * nats / wanted.numel()
            right = logits.argmax(-1) == wanted
            step.modules.append([nats.item(), (wanted != NO_TARGET).sum().item(), right.sum().item()])

    x = drop(x, c["train.embedding_dropout"], routing.DROPOUT_EMBEDDING, 0)
    for i in range(c["model.layers"]):
        x = block(f"layers.{i}", i, x, tokens)
    predict_further(x)
    if place != "post":
        x = norm(p, "final_norm", x, c)
    return F.cross_entropy(logits_of(x), targets.flatten(), ignore_index=NO_TARGET)
