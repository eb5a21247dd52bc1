#!/usr/bin/env python3
"""The loss of a dense model with latent attention (DeepSeek-V2, arXiv:2405.04434), once more from the parameters of its
checkpoint, in double and in the plainest loops: what the program said when it evaluated it.

  latent_attention.py MOETRAIN"""
import json
import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np

TOKENS = 30
TOLERANCE = 2e-6  # of the loss: f32 sums of a few dozen terms in two layers, each rounded to 2^-24
THETA, EPS = 10000.0, 1e-5

CASES = [
    {"attention.d_head": 12, "attention.d_rope": 4, "attention.q_rank": 6, "attention.kv_rank": 5},
    {"attention.d_head": 10, "attention.d_value": 3, "attention.softmax": "sink", "attention.window": 7},
    {"attention.d_head": 8, "attention.positions": "none", "attention.kv_rank": 9},
]


def rms_norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def turned(x, position, d_rope):
    """The first d_rope channels of a head, pairs half of them apart (arXiv:2104.09864)."""
    half, y = d_rope // 2, x.copy()
    for i in range(half):
        angle = position * THETA ** (-2 * i / d_rope)
        a, b = x[i], x[i + half]
        y[i], y[i + half] = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
    return y


def attention(x, of, config):
    heads, d_head, d_value = config["attention.heads"], config["attention.d_head"], config["attention.d_value"]
    q_rank, rank, d_rope = config["attention.q_rank"], config["attention.kv_rank"], config["attention.d_rope"]
    d_nope, window = d_head - d_rope, config.get("attention.window", 0)
    turn = turned if config.get("attention.positions") != "none" else lambda head, position, d_rope: head
    down = x @ of("down").T
    first = q_rank or heads * d_head
    queries, latent, rotary = down[:, :first], down[:, first:first + rank], down[:, first + rank:]
    if q_rank:
        queries = rms_norm(queries, of("q_norm")) @ of("q_up").T
    up = rms_norm(latent, of("kv_norm")) @ of("kv_up").T
    out = np.zeros((len(x), heads * d_value))
    for h in range(heads):
        nope = up[:, h * d_nope:(h + 1) * d_nope]
        values = up[:, heads * d_nope + h * d_value:heads * d_nope + (h + 1) * d_value]
        keys = [np.concatenate([turn(rotary[t], t, d_rope), nope[t]]) for t in range(len(x))]
        for t in range(len(x)):
            query = turn(queries[t, h * d_head:(h + 1) * d_head], t, d_rope)
            seen = range(max(0, t + 1 - window) if window else 0, t + 1)
            weights = np.exp([query @ keys[s] / np.sqrt(d_head) for s in seen])
            rest = np.exp(of("sinks")[h]) if config.get("attention.softmax") == "sink" else 0
            mixed = sum(weight * values[s] for weight, s in zip(weights, seen))
            out[t, h * d_value:(h + 1) * d_value] = mixed / (weights.sum() + rest)
    return out @ of("output").T


def feed_forward(x, of):
    gate, up = np.split(x @ of("gate_up").T, 2, axis=1)
    return (gate / (1 + np.exp(-gate)) * up) @ of("down").T


def loss_of(parameters, config, text):
    value = {name: np.asarray(parameters[name], np.float64) for name in parameters}
    x = value["embedding"][list(text[:-1])]
    for layer in range(config["model.layers"]):
        of = lambda name: value[f"layers.{layer}.{name}"]  # of this turn of the loop, in which alone it is called
        x = x + attention(rms_norm(x, of("attention_norm")), lambda name: of(f"attention.{name}"), config)
        x = x + feed_forward(rms_norm(x, of("ffn_norm")), lambda name: of(f"ffn.{name}"))
    logits = rms_norm(x, value["final_norm"]) @ value["head"].T
    logits -= logits.max(-1, keepdims=True)
    chosen = logits[np.arange(len(text) - 1), list(text[1:])]
    return float(np.mean(np.log(np.exp(logits).sum(-1)) - chosen))


def check(program, folder, number, case):
    text = b"In the beginning God created the heaven and the earth. " * 40
    held_out = text[7:7 + TOKENS + 1]
    for name, content in (("train.txt", text), ("validation.txt", held_out)):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    config = {"model.d_model": 16, "model.layers": 2, "model.d_ff": 24, "attention.heads": 2, **case}
    fixed = {"data.train": "train.txt", "data.validation": "validation.txt", "model.mixer": "latent_attention",
             "model.tied_embeddings": "false", "model.init_std": 0.3, "moe.experts": 0, "train.steps": 4,
             "train.batch": 4, "train.context": TOKENS, "train.lr": 0.02, "run.dir": f"run{number}"}
    path = os.path.join(folder, "config.yaml")
    with open(path, "w") as file:
        file.writelines(f"{key}: {value}\n" for key, value in {**fixed, **config}.items())
    done = subprocess.run([program, path, f"run.dir={folder}/run{number}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = subprocess.run([program, "--print-config", path], capture_output=True, text=True, check=True).stdout
    for line in printed.splitlines():  # what was derived
        key, _, rest = line.partition(": ")
        if key in ("attention.d_value", "attention.d_rope", "attention.kv_rank", "attention.q_rank"):
            config[key] = int(rest.split()[0])
    with open(f"{folder}/run{number}/metrics.jsonl") as file:
        said = [row["val_loss"] for row in map(json.loads, file) if "val_loss" in row][-1]
    with h5py.File(f"{folder}/run{number}/checkpoints/step-00000004.h5") as file:
        wanted = loss_of(file["parameters"], config, held_out)
    print(f"{case}: {said:.9f}, wanted {wanted:.9f}")
    assert abs(said - wanted) <= TOLERANCE * abs(wanted), case


def main():
    with tempfile.TemporaryDirectory(prefix="moetrain-latent-") as folder:
        for number, case in enumerate(CASES):
            check(os.path.abspath(sys.argv[1]), folder, number, case)


main()
