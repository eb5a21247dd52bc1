"""Training steps of model_reference.py: gradients by autograd, updates by torch.optim where it has
the optimizer, in double."""
import inspect
import math

import numpy as np
import torch
import torch.optim._muon

import model_reference as model
import routing_reference as routing
from layers_reference import GATED
from moe_reference import MEASURED
from peer_reference import AVERAGES, move_averages
from routing_reference import NearTie

DEFAULTS = {
    "train.optimizer": "adamw", "train.schedule": "constant", "train.warmup": 0,
    "train.weight_decay": 0.1, "train.clip_norm": 1.0, "train.beta1": 0.9, "train.eps": 1e-8,
    "train.nesterov": None, "train.qk_clip": 0, "train.ema": 0, "train.groups": [],
    "moe.bias_rate": 0.001, "moe.bias_steps": 0, "moe.bias_decay_steps": 0,
}

RULES = ("router_bias", *AVERAGES)  # parameters without gradients

# Muon's iteration in double: PyTorch rounds it to bfloat16, which is coarser than what is checked.
exec(inspect.getsource(torch.optim._muon._zeropower_via_newtonschulz)
     .replace("torch.bfloat16", "torch.float64"), torch.optim._muon.__dict__)


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of arXiv:2302.06675."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for w in group["params"]:
                m = self.state[w].setdefault("m", torch.zeros_like(w))
                c = beta1 * m + (1 - beta1) * w.grad
                if ((c != 0) & (c.abs() < 1e-5 * c.abs().max())).any():
                    raise NearTie  # f32 might take the other sign
                w -= group["lr"] * (c.sign() + group["weight_decay"] * w)
                m.mul_(beta2).add_((1 - beta2) * w.grad)


def is_vector(name):
    """Norms, biases and sinks: nothing decays them."""
    return name.endswith(("norm", ".bias", "sinks"))


def is_hidden(name):
    """Matrices between hidden layers."""
    shared_gate = name.endswith("shared.gate")
    return name.endswith(("qkv", "output", "gate", "gate_up", "down", "_up", "eh_proj")) and not shared_gate


def matrices(name, w, c):
    """The maps that lie in one parameter, each by itself."""
    if w.dim() == 3:
        return [m for expert in w for m in matrices(name, expert, c)]
    H, d, dv = c["attention.heads"], c["attention.d_head"], c["attention.d_value"]
    if name.endswith("qkv"):
        KV = c["attention.kv_heads"]
        return w.split([H * d, KV * d, KV * dv])
    if name.endswith("gate_up") and c["model.activation"] in GATED:
        return w.chunk(2)
    if name.endswith("attention.down"):
        q = c["attention.q_rank"] or H * d
        return w.split([q, c["attention.kv_rank"], w.shape[0] - q - c["attention.kv_rank"]])
    if name.endswith("kv_up"):
        return w.split([w.shape[0] - H * dv, H * dv])
    return [w]


def rates(name, c):
    """Factor of the learning rate, and weight decay (muP: arXiv:2203.03466)."""
    follows_width = is_hidden(name) or name.endswith(("router", "router_noise", "shared.gate"))
    scale, decay = c.width_share if follows_width else 1, c["train.weight_decay"]
    if is_vector(name):
        decay = 0
    for group in c["train.groups"]:
        if group["match"] in name:
            return scale * group.get("lr_scale", 1), group.get("weight_decay", decay)
    return scale, decay


def open_optimizers(params, c):
    """Of leaves that share the parameters' memory; (leaf, parameter, function of its gradient)."""
    kind, lr = c["train.optimizer"], c["train.lr"]
    muon, others, pieces = [], [], []
    for name, w in params.items():
        if name.endswith(RULES):
            continue
        scale, decay = rates(name, c)
        by_muon = kind == "muon" and is_hidden(name)
        split = (lambda x, name=name: matrices(name, x, c)) if by_muon else (lambda x: [x])
        leaves = [part.detach().requires_grad_() for part in split(w)]
        pieces.append((leaves, name, split))
        groups = muon if by_muon else others
        groups.append(dict(params=leaves, lr=lr * scale, scale=scale, weight_decay=decay))
    betas = (c["train.beta1"], c.get("train.beta2", 0.99 if kind == "lion" else 0.95))
    momentum = c.get("train.momentum", {"sgd": 0.9, "muon": 0.95}.get(kind))
    if kind == "sgd":
        made = [torch.optim.SGD(others, momentum=momentum, nesterov=bool(c["train.nesterov"]))]
    elif kind == "lion":
        made = [Lion(others, dict(betas=betas))]
    else:
        made = [torch.optim.AdamW(others, betas=betas, eps=c["train.eps"])]
    if muon:
        nesterov = True if c["train.nesterov"] is None else c["train.nesterov"]
        made.append(torch.optim.Muon(muon, momentum=momentum, nesterov=nesterov,
                                     adjust_lr_fn="match_rms_adamw"))
    return made, pieces


def learning_rate(c, step):
    """Warm-up, then cosine from lr to min_lr at the last step."""
    warmup, lr = c["train.warmup"], c["train.lr"]
    if step < warmup:
        return lr * (step + 1) / warmup
    if c["train.schedule"] == "constant":
        return lr
    progress = (step - warmup) / (c["train.steps"] - 1 - warmup)
    return c["train.min_lr"] + (lr - c["train.min_lr"]) * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def clip_scores(params, c, largest):
    """QK-clip (Kimi K2, arXiv:2507.20534): heads that share a key are clipped together."""
    heads, d, KV = c["attention.heads"], c["attention.d_head"], c["attention.kv_heads"]
    for layer, scores in largest.items():
        most = torch.stack(scores).amax(0).view(KV, -1).amax(1)
        gamma = (c["train.qk_clip"] / most).clamp(max=1).sqrt()
        factors = torch.cat([gamma.repeat_interleave(heads // KV * d), gamma.repeat_interleave(d)])
        for name in ("qkv", "qkv.bias"):
            w = params.get(f"layers.{layer}.attention.{name}")
            if w is not None:
                w[:len(factors)] *= factors.view(-1, *[1] * (w.dim() - 1))
    return largest


@torch.no_grad()
def move_biases(params, c, loads, step):
    """Auxiliary-loss-free balance (arXiv:2408.15664, arXiv:2412.19437): by the sign of what an
    expert's load lacks, or in proportion to it; the mean of the biases stays 0."""
    left, rate = c["moe.bias_steps"] - step, c["moe.bias_rate"]
    if c["moe.bias_steps"]:
        rate *= min(1, max(left, 0) / max(c["moe.bias_decay_steps"], 1)) if left > 0 else 0
    for router, load in loads.items():
        bias = params.get(router + ".router_bias")
        if bias is None:
            continue
        mean = load.sum() / len(load)
        lack = mean - load
        moved = bias + rate * (lack.sign() if c["moe.bias_update"] == "sign" else
                               lack / mean)
        bias.copy_(moved - moved.mean())


def mask(c, tokens, first):
    """What a masked model reads in the place of tokens (B, T), number `first` of epoch 0 and so on, and its targets: of ten
    that are drawn eight become the mask token, one any token, one stays (BERT, arXiv:1810.04805)."""
    inputs, targets, mask_token = tokens.clone(), torch.full_like(tokens, model.NO_TARGET), c["vocab_size"] - 1
    for i in range(tokens.numel()):
        words = routing.philox_words(c["train.seed"], routing.MASK, 0, 0, first + i)
        if words[0] >= c["train.mask_share"] * 2.0 ** 32:
            continue
        targets.view(-1)[i] = tokens.reshape(-1)[i]
        if words[1] % 10 < 9:
            inputs.view(-1)[i] = mask_token if words[1] % 10 < 8 else words[2] % mask_token
    return inputs, targets


def train(c, start, text):
    """start: parameters by name; text (steps, batch, T + 1). What each step tells, the first
    gradients, the parameters at the end and their moving average."""
    params = {name: w.clone().requires_grad_() for name, w in start.items()}
    optimizers, pieces = open_optimizers(params, c)
    average = {name: w.detach().clone() for name, w in params.items()}
    rows, first_gradients = [], None
    for number in range(c["train.steps"]):
        loads, told, largest, loss, further, modules, queries = {}, [], {}, 0, 0, [], {}
        concentration = []
        micro_batches = text[number].chunk(c["train.micro_batches"])
        for m, rows_of_text in enumerate(micro_batches):
            step = model.Step(c, number, m, loads)
            step.largest, step.queries = largest, queries
            inputs, targets = rows_of_text[:, :-1], rows_of_text[:, 1:]
            if c["train.objective"] == "masked":  # all micro-batches have equally many targets, or there is one
                inputs, targets = mask(c, inputs, (number * len(micro_batches) + m) * inputs.numel())
            of_micro = model.forward(params, c, inputs, targets, step)
            loss = loss + of_micro / len(micro_batches)
            further = further + step.further / len(micro_batches)
            told.append(step.told)
            modules.append(step.modules)
            concentration.append(step.concentration)
        routers = sorted(told[0])
        terms = [sum(t[i]["terms"] for t in told) / len(told) for i in routers]
        z = [sum(t[i]["z"] for t in told) / len(told) for i in routers]
        factors = torch.tensor([float(t["factor"]) for t in c["moe.balance"] or MEASURED])
        total = loss + further + sum((factors * t).sum() for t in terms) + c["moe.z_loss"] * sum(z)
        names = [name for name in params if not name.endswith(RULES)]
        gradients = dict(zip(names, torch.autograd.grad(total, [params[n] for n in names])))
        norm = math.sqrt(sum((g * g).sum().item() for g in gradients.values()))
        clip, lr = c["train.clip_norm"], learning_rate(c, number)
        scale = min(1.0, clip / norm) if clip else 1.0
        for leaves, name, split in pieces:
            for leaf, gradient in zip(leaves, split(gradients[name] * scale)):
                leaf.grad = gradient
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["scale"]
            optimizer.step()
        move_biases(params, c, loads, number)
        move_averages(params, queries)
        if c["train.qk_clip"]:
            clip_scores(params, c, largest)
        for name, w in average.items():
            w.lerp_(params[name].detach(), 1 - c["train.ema"])
        counts = {key: [sum(t[i][key] for t in told) for i in routers]
                  for key in ("routed", "dropped")}
        rows.append(dict(loss=loss.item(), gradient_norm=norm, lr=lr,
                         modules=np.sum(modules, 0).tolist(), concentration=np.mean(concentration, 0).tolist(),
                         terms=[t.tolist() for t in terms],
                         z=[v.item() for v in z], **counts))
        first_gradients = first_gradients or gradients
    return rows, first_gradients, {n: w.detach() for n, w in params.items()}, average
