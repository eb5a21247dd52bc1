#!/usr/bin/env python3
"""A model generates the same whatever its options: with each of the table of option_pairs.py that shapes a model, in
each precision, a sequence has the same logits with the cache, token by token or many at once, and without it, and the
same losses in training: in bits, since no number depends on how many rows a product has.

  generation.py TRAIN_MANY [KEY=VALUE …]"""
import os
import sys
import time

from option_pairs import key_of, options, run, together

SECTIONS = ("model.", "attention.", "moe.", "peer.")
# More tokens than a tile of attention's kernels has rows, and weights whose attention is not flat.
LIVELY = ["train.context=70", "model.init_std=0.3"]
# What makes training another function than generation, on purpose: choices that are dropped, numbers that are.
TRAINING_DIFFERS = ("moe.capacity_factor", "moe.dropout", "attention.dropout", "moe.jitter", "moe.force", "train.dropout",
                    "moe.min_capacity", "moe.drop", "moe.renormalize_after_drop", "moe.routing_group", "moe.dispatch",
                    "moe.allow_noncausal", "moe.router=expert_choice", "moe.router=sinkhorn", "moe.router=noisy",
                    "peer.query_norm=batch")
# Models whose choices follow from tokens behind, or of a run alone.
NOT_GENERATED = ("moe.router=expert_choice", "model.feed_forward=soft_moe")


def line_of(precision, *chosen):
    line = [*chosen, f"train.precision={precision}"]
    return together(*line, *(option for option in LIVELY if key_of(option) not in map(key_of, line)))


def main():
    program, chosen, begin = os.path.abspath(sys.argv[1]), sys.argv[2:], time.monotonic()
    singles = [[option] for option in options(program) if option.startswith(SECTIONS)]
    lines = [line_of(precision, *single) for precision in ("f32", "bf16") for single in ([chosen] if chosen else singles)]
    failures = 0
    print("differences: cache, training")
    for line, answer in run(program, lines, ["--generate"]):
        differs = any(option.startswith(TRAINING_DIFFERS) for option in line)
        word, *errors = answer.split(" ")
        if word == "compared":
            if float(errors[0]) == 0 and (differs or float(errors[1]) == 0):
                continue
        if answer.startswith("refused 2 ") and any(option in NOT_GENERATED for option in line):
            continue
        failures += 1
        print("FAILED", " ".join(line), "|", answer)
    print(f"{len(lines)} models, {failures} failures, {time.monotonic() - begin:.0f} s")
    sys.exit(1 if failures else 0)


main()
