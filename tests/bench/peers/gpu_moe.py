#!/usr/bin/env python3
"""The model of configs/gpu.yaml in PyTorch on one GPU, as the field writes it: flash attention, experts by a grouped product
(torchtitan) or by a batched one over a capacity, bf16 products by autocast, fused AdamW, optionally torch.compile.

  gpu_moe.py [--experts grouped|batched] [--compile] [--steps N] [--batch N] [--context N]

Prints the median milliseconds of a step, tokens per second and the largest memory."""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

D, LAYERS, HEADS, KV, FF, EXPERTS, TOP_K, EXPERT_FF, CAPACITY, VOCAB = 1024, 12, 16, 4, 2816, 16, 2, 1408, 1.25, 256
HEAD = D // HEADS
grouped_mm = getattr(F, "grouped_mm", None) or torch._grouped_mm


def rope(x, cosine, sine):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cosine - b * sine, a * sine + b * cosine), -1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(D, (HEADS + 2 * KV) * HEAD, bias=False)
        self.out = nn.Linear(D, D, bias=False)

    def forward(self, x, cosine, sine):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, HEADS + 2 * KV, HEAD).transpose(1, 2).split((HEADS, KV, KV), 1)
        q, k = rope(q, cosine, sine).to(v.dtype), rope(k, cosine, sine).to(v.dtype)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(y.transpose(1, 2).reshape(n, t, D))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(D, 2 * FF, bias=False)
        self.down = nn.Linear(FF, D, bias=False)

    def forward(self, x):
        gate, up = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up), x.new_zeros(())


class Experts(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.router = nn.Linear(D, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, D, 2 * EXPERT_FF) * 0.02)
        self.down = nn.Parameter(torch.randn(EXPERTS, EXPERT_FF, D) * 0.02)

    def forward(self, x):
        shape = x.shape
        x = x.reshape(-1, D)
        with torch.autocast("cuda", enabled=False):
            logits = F.linear(x.float(), self.router.weight)
        probabilities = logits.softmax(-1)
        weights, ids = probabilities.topk(TOP_K, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        counts = torch.bincount(ids.flatten(), minlength=EXPERTS) if not torch.compiler.is_compiling() else \
            F.one_hot(ids.flatten(), EXPERTS).sum(0)
        balance = EXPERTS * (counts / ids.numel() * probabilities.mean(0)).sum()
        order = ids.flatten().argsort(stable=True)
        x = x.to(torch.bfloat16)
        up, down = self.up.to(torch.bfloat16), self.down.to(torch.bfloat16)
        if self.kind == "grouped":
            offsets = counts.cumsum(0).to(torch.int32)
            rows = x[order // TOP_K]
            gate, value = grouped_mm(rows, up, offs=offsets).chunk(2, -1)
            rows = grouped_mm(F.silu(gate) * value, down, offs=offsets)
            factors = weights.flatten()[order].unsqueeze(-1).to(torch.bfloat16)
            y = torch.zeros_like(x).index_add(0, order // TOP_K, rows * factors)
        else:
            capacity = int(CAPACITY * ids.numel() / EXPERTS)
            starts = counts.cumsum(0) - counts
            expert = ids.flatten()[order]
            place = torch.arange(len(order), device=x.device) - starts[expert]
            slot = torch.where(place < capacity, expert * capacity + place, EXPERTS * capacity)
            rows = x.new_zeros(EXPERTS * capacity + 1, D).index_copy(0, slot, x[order // TOP_K])
            gate, value = torch.bmm(rows[:-1].view(EXPERTS, capacity, D), up).chunk(2, -1)
            rows = torch.bmm(F.silu(gate) * value, down).view(-1, D)
            rows = torch.cat((rows, rows.new_zeros(1, D)))[slot]
            factors = weights.flatten()[order].unsqueeze(-1).to(torch.bfloat16)
            y = torch.zeros_like(x).index_add(0, order // TOP_K, rows * factors)
        return y.view(shape), 0.01 * balance + 0.001 * logits.logsumexp(-1).square().mean()


class Block(nn.Module):
    def __init__(self, feed_forward):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(D), nn.RMSNorm(D)
        self.attention, self.feed_forward = Attention(), feed_forward

    def forward(self, x, cosine, sine):
        x = x + self.attention(self.norm1(x), cosine, sine)
        y, loss = self.feed_forward(self.norm2(x))
        return x + y, loss


class Model(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, D)
        self.blocks = nn.ModuleList(Block(Experts(kind) if i % 2 else Dense()) for i in range(LAYERS))
        self.norm = nn.RMSNorm(D)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens, targets, cosine, sine):
        x = self.embedding(tokens)
        extra = 0.0
        for block in self.blocks:
            x, loss = block(x, cosine, sine)
            extra = extra + loss
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()) + extra / LAYERS * 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", choices=("grouped", "batched"), default="grouped")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--context", type=int, default=1024)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    model = Model(arguments.experts).cuda()
    call = torch.compile(model) if arguments.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, weight_decay=0.1, fused=True)
    angles = torch.outer(torch.arange(arguments.context), 10000.0 ** (-torch.arange(0, HEAD, 2) / HEAD)).cuda()
    cosine, sine = angles.cos(), angles.sin()
    text = torch.randint(VOCAB, (arguments.batch * 8, arguments.context + 1), device="cuda")
    times = []
    for step in range(arguments.steps + 5):
        rows = text[(step % 8) * arguments.batch:][: arguments.batch]
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = call(rows[:, :-1], rows[:, 1:], cosine, sine)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begin))
    median = statistics.median(times[5:])
    print(f"experts {arguments.experts}, compile {arguments.compile}: {median:.1f} ms a step, "
          f"{1e3 * arguments.batch * arguments.context / median:.0f} tokens/s, loss {loss.item():.3f}, "
          f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB, {sum(p.numel() for p in model.parameters())} parameters, "
          f"PyTorch {torch.__version__}")
    print(json.dumps({"experts": arguments.experts, "compile": arguments.compile, "median_ms": median, "milliseconds": times[5:]}))


if __name__ == "__main__":
    main()
