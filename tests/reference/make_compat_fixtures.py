#!/usr/bin/env python3
"""Writes fixtures/compat.h5: what other systems' rules make of the same logits, in plain numpy, each written as its own
source has it and none with another's help. test_compat.c gives the same logits to the program under `compat`.

  /usr/bin/python3 tests/reference/make_compat_fixtures.py        a second run writes the same numbers

From memory of the sources named beside each, since none is a dependency: Megatron-LM, Lingvo, Mesh TensorFlow,
DeepSpeed, Tutel and transformers as of 2024 to 2026. GShard, DeepSpeed and Tutel take f of first choices alone. The loss is that of one layer, without its coefficient."""
import math
import pathlib

import h5py
import numpy

F32 = numpy.float32
# tokens, experts, top_k (systems of one or two choices take theirs), capacity factor as a fraction
CASES = {"even": (1600, 4, 2, 11, 10), "odd": (7, 3, 2, 1, 1), "small": (37, 5, 3, 9, 10), "tenths": (90, 9, 2, 7, 10)}


def softmax(x):
    e = numpy.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def top(x, k):
    return numpy.argsort(-x, axis=-1, kind="stable")[:, :k]


def by_position(ids, capacity, experts):
    """First choices of all tokens in order, then second ones (GShard's cumsum of masks)."""
    kept, used = numpy.zeros(ids.shape, bool), numpy.zeros(experts, int)
    for k in range(ids.shape[1]):
        for n in range(len(ids)):
            kept[n, k] = used[ids[n, k]] < capacity
            used[ids[n, k]] += 1
    return kept


def mesh_loss(probabilities, ids, experts):
    """num_experts * sum(density * density_proxy)."""
    density = numpy.array([(ids == e).any(axis=1).mean() for e in range(experts)])
    return experts * (density * probabilities.mean(axis=0)).sum()


def huggingface_loss(probabilities, ids, experts):
    """load_balancing_loss_func: one-hot (tokens, top_k, experts), mean over tokens, sum over both."""
    tokens_per_expert = numpy.eye(experts)[ids].mean(axis=0)  # (top_k, experts)
    return (tokens_per_expert * probabilities.mean(axis=0)[None]).sum() * experts


def megatron(z, k, cf):
    n, experts = z.shape
    ids = top(z, k)
    weights = softmax(numpy.take_along_axis(z, ids, 1))  # moe_router_pre_softmax False
    capacity = math.ceil(n * k / experts * cf)            # get_capacity
    kept = numpy.zeros(ids.shape, bool)                   # drop policy "probs": the largest of each expert
    for e in range(experts):
        rows, slots = numpy.where(ids == e)
        for i in sorted(range(len(rows)), key=lambda i: (-F32(weights[rows[i], slots[i]]), rows[i]))[:capacity]:
            kept[rows[i], slots[i]] = True
    tokens_per_expert = numpy.bincount(ids.ravel(), minlength=experts)
    loss = (softmax(z).sum(axis=0) * tokens_per_expert).sum() * experts / (n * n * k)
    return ids, kept, weights * kept, capacity, loss


def gshard(z, k, cf):  # Top2Gating
    n, experts = z.shape
    gates, ids = softmax(z), top(z, 2)
    weights = numpy.take_along_axis(gates, ids, 1)
    weights = weights / weights.sum(axis=1, keepdims=True)
    capacity = max(4, int(n * (2 * cf) / experts))
    kept = by_position(ids, capacity, experts)
    mask_1 = numpy.eye(experts)[ids[:, 0]]  # density_1 = mean(mask_1), density_1_proxy = mean(gates)
    loss = (mask_1.mean(axis=0) * gates.mean(axis=0)).mean() * experts * experts
    return ids, kept, weights * kept, capacity, loss


def switch(z, k, cf):  # _switch_gating
    n, experts = z.shape
    gates, ids = softmax(z), top(z, 1)
    capacity = max(min(n, int((n * cf) / experts)), 4)
    kept = by_position(ids, capacity, experts)
    return ids, kept, numpy.take_along_axis(gates, ids, 1) * kept, capacity, mesh_loss(gates, ids, experts)


def deepspeed(z, k, cf):  # _capacity, top2gating without the noise of the second choice
    n, experts = z.shape
    gates, ids = softmax(z), top(z, 2)
    capacity = max(int(numpy.ceil(F32(n / experts) * F32(cf * 2))), 4)
    kept = by_position(ids, capacity, experts)
    weights = numpy.take_along_axis(gates, ids, 1) * kept
    weights = weights / numpy.maximum(weights.sum(axis=1, keepdims=True), numpy.finfo(F32).eps)
    me, ce = gates.mean(axis=0), (numpy.arange(experts)[None] == gates.argmax(axis=1)[:, None]).mean(axis=0)
    return ids, kept, weights, capacity, (me * ce).mean() * experts * experts


def tutel(z, k, cf):  # extract_critical, normalize_gate
    n, experts = z.shape
    gates, ids = softmax(z), top(z, k)
    weights = numpy.take_along_axis(gates, ids, 1)
    weights = weights / numpy.maximum(weights.sum(axis=1, keepdims=True), numpy.finfo(F32).eps)
    samples_per_expert = (n + experts - 1) // experts
    capacity = k * int(cf * samples_per_expert)
    kept = by_position(ids, capacity, experts)
    top_1 = numpy.bincount(ids[:, 0], minlength=experts)  # gshard_loss
    loss = (gates.sum(axis=0) * top_1).sum() * experts / (n * n)
    return ids, kept, weights * kept, capacity, loss


def dropless(z, k, weigh, loss):
    ids = top(z, k)
    return ids, numpy.ones(ids.shape, bool), weigh(ids), -1, loss(softmax(z), ids, z.shape[1])


def mixtral(z, k, cf):
    def weigh(ids):
        weights = numpy.take_along_axis(softmax(z), ids, 1)
        return weights / weights.sum(axis=1, keepdims=True)
    return dropless(z, k, weigh, huggingface_loss)


def olmoe(z, k, cf):  # norm_topk_prob False
    return dropless(z, k, lambda ids: numpy.take_along_axis(softmax(z), ids, 1), huggingface_loss)


def gpt_oss(z, k, cf):  # softmax of the chosen logits
    return dropless(z, k, lambda ids: softmax(numpy.take_along_axis(z, ids, 1)), huggingface_loss)


def qwen3(z, k, cf):  # norm_topk_prob True; the loss of its report: N_E sum f p with f a share of choices
    def loss(probabilities, ids, experts):
        f = numpy.bincount(ids.ravel(), minlength=experts) / ids.size
        return experts * (f * probabilities.mean(axis=0)).sum()
    ids, kept, weights, capacity, _ = mixtral(z, k, cf)
    return ids, kept, weights, capacity, loss(softmax(z), ids, z.shape[1])


def deepseek_v3(z, k, cf):  # report, eq. 12 to 20: f_i = N_r/(K_r T) * count, P_i the mean of s/sum s
    n, experts = z.shape
    s = 1 / (1 + numpy.exp(-z))
    ids = top(s, k)
    weights = numpy.take_along_axis(s, ids, 1)
    weights = 2.5 * weights / (weights.sum(axis=1, keepdims=True) + 1e-20) if k > 1 else 2.5 * weights
    f = experts / (k * n) * numpy.bincount(ids.ravel(), minlength=experts)
    loss = (f * (s / s.sum(axis=1, keepdims=True)).mean(axis=0)).sum()
    return ids, numpy.ones(ids.shape, bool), weights, -1, loss


def main():
    path = pathlib.Path(__file__).parent / "fixtures" / "compat.h5"
    with h5py.File(path, "w", track_order=True) as file:
        for system in (megatron, gshard, switch, deepspeed, tutel, mixtral, olmoe, qwen3, deepseek_v3, gpt_oss):
            for case, (n, experts, k, numerator, denominator) in CASES.items():
                random = numpy.random.default_rng(n)
                # Some experts are favourites, so that capacity is exceeded.
                z = (random.normal(0, 1, (n, experts)) + random.normal(0, 0.7, experts)).astype(F32)
                ids, kept, weights, capacity, loss = system(z.astype(float), k, numerator / denominator)
                group = file.create_group(f"{system.__name__}/{case}")
                for name, data in (("logits", z), ("ids", ids.astype(numpy.int32)),
                                   ("kept", kept.astype(numpy.uint8)), ("weights", weights.astype(F32))):
                    group.create_dataset(name, data=data, compression="gzip", shuffle=True)
                group["loss"] = numpy.array([loss])
                for name, value in (("capacity", capacity), ("numerator", numerator), ("denominator", denominator)):
                    group[f"config/{name}"] = value


main()
