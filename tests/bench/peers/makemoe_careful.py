#!/usr/bin/env python3
"""The peer as a careful PyTorch programmer writes it: the model of makemoe_plain.py with one projection for queries,
keys and values of all heads, tokens sorted by expert, one pair of matrix products an expert on contiguous rows, and
one index_add to bring them back. Same parameters, same arithmetic. Options: --help."""
import peer_training as peer
import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.qkv = nn.Linear(peer.D_MODEL, 3 * peer.D_MODEL, bias=False)
        self.output = nn.Linear(peer.D_MODEL, peer.D_MODEL)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("future", torch.ones(peer.CONTEXT, peer.CONTEXT, dtype=torch.bool).triu(1))

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, peer.HEADS, D // peer.HEADS).permute(2, 0, 3, 1, 4)
        scores = (q * D ** -0.5) @ k.transpose(-1, -2)
        weights = self.dropout(scores.masked_fill(self.future[:T, :T], float("-inf")).softmax(-1))
        return self.dropout(self.output((weights @ v).transpose(1, 2).reshape(B, T, D)))


class MixtureOfExperts(nn.Module):
    def __init__(self, dropout, noise):
        super().__init__()
        E, D, H = peer.EXPERTS, peer.D_MODEL, peer.D_FF
        self.router = nn.Linear(D, 2 * E if noise else E)  # scores, then the spread of their noise
        self.up = nn.ModuleList(nn.Linear(D, H) for _ in range(E))
        self.down = nn.ModuleList(nn.Linear(H, D) for _ in range(E))
        self.dropout, self.noise = dropout, noise

    def choose(self, rows):
        logits = self.router(rows)
        if self.noise:
            scores, spread = logits.chunk(2, dim=-1)
            logits = scores + torch.randn_like(scores) * F.softplus(spread)
        best, ids = logits.topk(peer.TOP_K, dim=-1)
        return ids.flatten(), best.softmax(-1).flatten()

    def forward(self, x):
        rows = x.view(-1, x.shape[-1])
        ids, gates = self.choose(rows)
        order = ids.argsort()
        token = order // peer.TOP_K
        counts = torch.bincount(ids, minlength=peer.EXPERTS).tolist()
        pieces = rows.index_select(0, token).split(counts)
        answers = [down(F.relu(up(piece))) for up, down, piece in zip(self.up, self.down, pieces)]
        answer = F.dropout(torch.cat(answers), self.dropout, self.training) * gates.index_select(0, order).unsqueeze(1)
        return torch.zeros_like(rows).index_add(0, token, answer).view_as(x)


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
        x = self.token(tokens) + self.position.weight[:tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


if __name__ == "__main__":
    peer.run(Model)
