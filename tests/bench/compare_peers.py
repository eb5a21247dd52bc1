#!/usr/bin/env python3
"""Milliseconds a training step of moetrain against PyTorch, at the makeMoE shape (peers/): same machine, threads, text.

    compare_peers.py [--threads 1 2] [--rounds 3] [--steps 30] [--python PATH ...] [--csv FILE]

Needs build/release/moetrain, data/kjv (launcher/prepare-kjv) and a Python with torch. Every candidate is started once a
round, in turn, so that a busy machine slows all alike; first steps are discarded, the median over all rounds counts.
A peer runs with each Python given, with the plain and the fused optimizer, and its fastest candidate is the peer. The
two written peers have the article's dropout, router noise, biases and LayerNorm, which moetrain lacks; "careful, no
noise" leaves dropout and noise out, the nearest to what moetrain computes. moetrain gets a balance loss, since a
router without noise or balance loss sends every token to the same two experts.
"""
import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TEXT = os.path.join(ROOT, "data/kjv/train.txt")
DISCARD = 10

PEERS = {
    "plain": ["makemoe_plain.py"],
    "careful": ["makemoe_careful.py"],
    "careful, no noise": ["makemoe_careful.py", "--dropout", "0", "--no-noise"],
}


def run_moetrain(threads, steps):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([os.path.join(ROOT, "build/release/moetrain"), os.path.join(ROOT, "configs/makemoe.yaml"),
                        f"run.dir={folder}/run", "resume=never", f"train.steps={DISCARD + steps}", "log.every=1",
                        "eval.batches=1", "checkpoint.every=0", "moe.balance_loss=0.01"],
                       env=dict(os.environ, OMP_NUM_THREADS=str(threads)), stdout=subprocess.DEVNULL, check=True)
        with open(f"{folder}/run/metrics.jsonl") as file:
            rows = [json.loads(line) for line in file]
    return [row["step_ms"] for row in rows if "step_ms" in row][DISCARD:]


def run_peer(python, arguments, threads, steps):
    """Step times, or None when this Python cannot run it."""
    command = [python, os.path.join(HERE, "peers", arguments[0]), *arguments[1:], "--text", TEXT,
               "--discard", str(DISCARD), "--steps", str(steps), "--threads", str(threads)]
    done = subprocess.run(command, env=dict(os.environ, OMP_NUM_THREADS=str(threads)), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        print(f"left out: {python} {' '.join(arguments)}: {reason}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])["milliseconds"]


def measure(arguments, threads):
    """Step times of every candidate (name, setting), over all rounds."""
    candidates = {("moetrain", ""): lambda: run_moetrain(threads, arguments.steps)}
    for name, script in PEERS.items():
        for python in arguments.python:
            for optimizer in ([], ["--fused-adamw"]):
                candidates[name, " ".join([python, *optimizer])] = (
                    lambda p=python, a=script + optimizer: run_peer(p, a, threads, arguments.steps))
    times = {key: [] for key in candidates}
    for _ in range(arguments.rounds):
        for key in list(times):
            taken = candidates[key]()
            if taken is None:
                del times[key]
            else:
                times[key] += taken
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--python", nargs="+", default=["/usr/bin/python3"], help="interpreters with torch")
    parser.add_argument("--csv", help="also write every candidate's figures here")
    arguments = parser.parse_args()
    table = []
    for threads in arguments.threads:
        times = measure(arguments, threads)
        ours = statistics.median(times["moetrain", ""])
        print(f"{threads} thread(s), ms/step: median [p10 - p90]; ratio to moetrain")
        for (name, setting), taken in times.items():
            deciles, median = statistics.quantiles(taken, n=10), statistics.median(taken)
            table.append([threads, name, setting, round(median, 2), round(deciles[0], 2), round(deciles[8], 2),
                          round(median / ours, 2)])
            print(f"  {name:18} {median:7.1f} [{deciles[0]:.1f} - {deciles[8]:.1f}]  {median / ours:5.2f}  {setting}")
        for name in PEERS:
            best = min((row[3] for row in table if row[0] == threads and row[1] == name), default=None)
            if best:
                print(f"  fastest {name}: {best:.1f} ms/step, {best / ours:.2f} times moetrain's {ours:.1f}")
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["threads", "program", "setting", "median_ms", "p10_ms", "p90_ms", "ratio"])
            writer.writerows(table)


if __name__ == "__main__":
    main()
