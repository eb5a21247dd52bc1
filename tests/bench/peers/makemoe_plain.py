#!/usr/bin/env python3
"""The peer as tutorials write it: plain PyTorch in the design of makeMoE
(huggingface.co/blog/AviSoori1x/makemoe-from-scratch), in our own words. One module a head, boolean masks and indexed
assignment around each expert. 8.996545 M parameters with a vocabulary of 65. Options: --help."""
import peer_training as peer
import torch
from torch import nn
from torch.nn import functional as F


class Head(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        size = peer.D_MODEL // peer.HEADS
        self.query = nn.Linear(peer.D_MODEL, size, bias=False)
        self.key = nn.Linear(peer.D_MODEL, size, bias=False)
        self.value = nn.Linear(peer.D_MODEL, size, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("causal", torch.ones(peer.CONTEXT, peer.CONTEXT).tril())

    def forward(self, x):
        T = x.shape[1]
        scores = self.query(x) @ self.key(x).transpose(1, 2) * peer.D_MODEL ** -0.5  # the article's scale
        scores = scores.masked_fill(self.causal[:T, :T] == 0, float("-inf"))
        return self.dropout(scores.softmax(-1)) @ self.value(x)


class Attention(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.heads = nn.ModuleList(Head(dropout) for _ in range(peer.HEADS))
        self.output = nn.Linear(peer.D_MODEL, peer.D_MODEL)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.output(torch.cat([head(x) for head in self.heads], dim=-1)))


class Router(nn.Module):
    def __init__(self, noise):
        super().__init__()
        self.score = nn.Linear(peer.D_MODEL, peer.EXPERTS)
        self.spread = nn.Linear(peer.D_MODEL, peer.EXPERTS)
        self.noise = noise

    def forward(self, x):
        logits = self.score(x)
        if self.noise:
            logits = logits + torch.randn_like(logits) * F.softplus(self.spread(x))
        best, ids = logits.topk(peer.TOP_K, dim=-1)
        chosen_only = torch.full_like(logits, float("-inf")).scatter(-1, ids, best)
        return chosen_only.softmax(-1), ids


def make_expert(dropout):
    return nn.Sequential(nn.Linear(peer.D_MODEL, peer.D_FF), nn.ReLU(), nn.Linear(peer.D_FF, peer.D_MODEL),
                         nn.Dropout(dropout))


class MixtureOfExperts(nn.Module):
    def __init__(self, dropout, noise):
        super().__init__()
        self.router = Router(noise)
        self.experts = nn.ModuleList(make_expert(dropout) for _ in range(peer.EXPERTS))

    def forward(self, x):
        gates, ids = self.router(x)
        out = torch.zeros_like(x)
        rows, row_gates = x.view(-1, x.shape[-1]), gates.view(-1, gates.shape[-1])
        for number, expert in enumerate(self.experts):
            mask = (ids == number).any(dim=-1)
            row_mask = mask.view(-1)
            if row_mask.any():
                answer = expert(rows[row_mask]) * row_gates[row_mask, number].unsqueeze(1)
                out[mask] += answer
        return out


class Block(nn.Module):
    def __init__(self, dropout, noise):
        super().__init__()
        self.attention, self.experts = Attention(dropout), MixtureOfExperts(dropout, noise)
        self.norm1, self.norm2 = nn.LayerNorm(peer.D_MODEL), nn.LayerNorm(peer.D_MODEL)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.experts(self.norm2(x))


class Model(nn.Module):
    def __init__(self, vocab_size, dropout, noise):
        super().__init__()
        self.token = nn.Embedding(vocab_size, peer.D_MODEL)
        self.position = nn.Embedding(peer.CONTEXT, peer.D_MODEL)
        self.blocks = nn.Sequential(*[Block(dropout, noise) for _ in range(peer.LAYERS)])
        self.norm = nn.LayerNorm(peer.D_MODEL)
        self.head = nn.Linear(peer.D_MODEL, vocab_size)
        self.apply(peer.initialize)

    def forward(self, tokens):
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


if __name__ == "__main__":
    peer.run(Model)
