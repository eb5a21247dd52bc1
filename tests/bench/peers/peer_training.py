"""What the PyTorch peers share: text, batches, the training loop with its clock, and the peer's best settings."""
import argparse
import json
import os
import statistics
import time

# OpenBLAS does not know recent Intel CPUs and falls back to SSE3 kernels, five times slower. Read when torch loads it.
if "avx512f" in open("/proc/cpuinfo").read():
    os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")

import torch

D_MODEL, LAYERS, HEADS, EXPERTS, TOP_K, D_FF = 128, 8, 8, 8, 2, 512
BATCH, CONTEXT = 16, 32


def read_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", help="characters to train on; without it random tokens of a vocabulary of 65")
    parser.add_argument("--steps", type=int, default=100, help="timed steps")
    parser.add_argument("--discard", type=int, default=10, help="steps before the clock counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--no-noise", action="store_true", help="a router without noise")
    parser.add_argument("--fused-adamw", action="store_true", help="one kernel for the optimizer (PyTorch 2.4)")
    return parser.parse_args()


def read_tokens(path):
    """All tokens and the size of the vocabulary."""
    if path is None:
        return torch.randint(65, (1 << 20,)), 65
    with open(path, encoding="utf-8") as file:
        text = file.read()
    number = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([number[character] for character in text]), len(number)


def draw_batch(tokens):
    starts = torch.randint(len(tokens) - CONTEXT, (BATCH,)).tolist()
    inputs = torch.stack([tokens[i:i + CONTEXT] for i in starts])
    targets = torch.stack([tokens[i + 1:i + CONTEXT + 1] for i in starts])
    return inputs, targets


def initialize(module):
    """Kaiming normal on every linear weight, zero biases; embeddings keep N(0, 1)."""
    if isinstance(module, torch.nn.Linear):
        torch.nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)


def run(make_model):
    """Trains make_model(vocab_size, dropout, noise) and prints the median step, then one line of JSON."""
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1337)
    tokens, vocab_size = read_tokens(arguments.text)
    model = make_model(vocab_size, arguments.dropout, not arguments.no_noise)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **({"fused": True} if arguments.fused_adamw else {}))
    milliseconds = []
    for _ in range(arguments.discard + arguments.steps):
        start = time.perf_counter()
        inputs, targets = draw_batch(tokens)
        loss = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        milliseconds.append(1e3 * (time.perf_counter() - start))
    timed = milliseconds[arguments.discard:]
    parameters = sum(p.numel() for p in model.parameters())
    print(f"median {statistics.median(timed):.1f} ms/step, loss {loss.item():.3f}, {parameters} parameters, "
          f"PyTorch {torch.__version__}, {arguments.threads} thread(s)")
    print(json.dumps({"median_ms": statistics.median(timed), "milliseconds": timed, "loss": loss.item(),
                      "parameters": parameters, "threads": arguments.threads, "torch": torch.__version__}))
