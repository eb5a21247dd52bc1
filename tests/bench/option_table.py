#!/usr/bin/python3
"""What each option costs: time of a training step, of an evaluation, and peak memory, beside the
default's.

    option_table.py [--keys moe.router attention] [--rounds 3] [--steps 8] [--threads 1] [--csv
    FILE]

Every word of every key of the sections model, attention and moe is a row, as `moetrain help` lists
them, each at the default of all other keys and at equal active FLOPs (a plain activation has wider
experts than a gated one), and then the numbers of NUMBERS. A new word appears by itself; what it
cannot do without is a row of NEEDS, why it may cost more one of REASONS. A combination that the
program refuses is a row with the reason.

In each round every option has its turn, and the default again before every fourth: a ratio is
between a run and the default's run just before it, the median over rounds, so that a slower minute
hits both. "least" is between the least times of all rounds.
"""

import argparse
import csv
import fnmatch
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("MOETRAIN", str(ROOT / "build/release/moetrain"))

# A step of 10 GFLOP: matrix products of a size as in use, a tenth of a second.
BASE = {
    "model.d_model": 256,
    "model.layers": 2,
    "attention.heads": 4,
    "moe.experts": 16,
    "moe.top_k": 2,
    "moe.d_ff": 512,
    "train.batch": 8,
    "train.context": 128,
    "eval.batches": 4,
}
SECTIONS = ("model.", "attention.", "moe.")
MORE_KEYS = ("train.optimizer", "train.precision")
SKIPPED = (
    "moe.first",
    "moe.allow_noncausal",
)  # nothing by itself

# Keys that a word cannot do without, or that keep its FLOPs equal: values, or functions of BASE.
PLAIN = {
    "moe.d_ff": lambda base: 3 * int(base["moe.d_ff"]) // 2
}  # two matrices where a gated one has three
NEEDS = {
    "model.activation=relu": PLAIN,
    "model.activation=gelu": PLAIN,
    "model.activation=gelu_tanh": PLAIN,
    "model.activation=relu2": PLAIN,
    "model.feed_forward=dense": {
        "model.d_ff": lambda base: int(base["moe.top_k"]) * int(base["moe.d_ff"])
    },
    "moe.drop=probability": {"moe.capacity_factor": 1.25},
    "moe.drop=random": {"moe.capacity_factor": 1.25},
    "moe.renormalize_after_drop=true": {"moe.capacity_factor": 1.25},
    "moe.routing_group=sequence": {"moe.capacity_factor": 1.25},
    "moe.dispatch=padded": {"moe.capacity_factor": 1.25},
    "moe.normalize_top_k=true": {"moe.router": "topk_softmax"},
    "moe.noise_in_evaluation=true": {"moe.router": "noisy_top_k"},
    "moe.router=expert_choice": {"moe.allow_noncausal": "true"},
    "moe.bias_update=quantile": {"moe.balance_loss": 0},
    "moe.dropout_at=output": {"moe.dropout": 0.1},
    "moe.shared_gate=true": {"moe.shared_experts": 1, "moe.top_k": 3, "moe.d_ff": 256},
    "moe.zero_kind=null": {"moe.zero_experts": 16, "moe.top_k": 4},  # half of the choices
    "attention.rope_scaling=linear": {"attention.rope_factor": 4},
    "attention.rope_scaling=ntk": {"attention.rope_factor": 4},
    "attention.rope_scaling=yarn": {
        "attention.rope_factor": 4,
        "attention.rope_original_context": 32,
    },
}

# Options that are numbers, each with the value that is measured.
NUMBERS = (
    {"attention.kv_heads": 2},
    {"attention.window": 64},
    {"attention.rope_fraction": 0.5},
    {"train.dropout": 0.1},
    {"moe.dropout": 0.1},
    {"moe.shared_experts": 1, "moe.top_k": 3, "moe.d_ff": 256},
    {"moe.experts": 64, "moe.top_k": 8, "moe.d_ff": 128},
    {"moe.zero_experts": 16, "moe.top_k": 4},
    {"moe.hash_layers": 1},
    {"model.logit_softcap": 30},
    {"moe.balance_loss": 0},
    {"moe.z_loss": 0},
    {"moe.capacity_factor": 1.25},
)

# What is expected to cost more, and why.
REASONS = {
    "train.optimizer=muon": "Newton-Schulz: products of each hidden matrix, whatever the tokens",
    "train.precision=bf16": "on CPUs without AMX bf16 products are slower than f32 ones",
}


def call_program(words, threads=1):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    return subprocess.run(
        [PROGRAM, *map(str, words)], env=environment, capture_output=True, text=True
    )


def choices(key):
    """(words of the key, the default): words are those that `help` explains one by one, or true and
    false.
    """
    text = call_program(["help", key]).stdout
    value = re.search(r"^  value:   (.*)\n((?: {11}\S.*\n)*)", text, re.MULTILINE)
    default = re.search(r"^  default: (\S*)", text, re.MULTILINE)[1]
    words = (
        ["true", "false"]
        if value[1] == "true or false"
        else re.findall(r"^ {11}(\w+) ", value[2], re.MULTILINE)
    )
    return words, default


def needs(name):
    return {
        key: value(BASE) if callable(value) else value for key, value in NEEDS.get(name, {}).items()
    }


def options(patterns):
    """[(name, keys over BASE)]"""
    found = []
    for key in re.findall(r"^  ([a-z]\w*\.\w+) ", call_program(["help"]).stdout, re.MULTILINE):
        if (key.startswith(SECTIONS) or key in MORE_KEYS) and key not in SKIPPED:
            words, default = choices(key)
            found += [
                (f"{key}={word}", {key: word, **needs(f"{key}={word}")})
                for word in words
                if word != default
            ]
    found += [(" ".join(f"{key}={value}" for key, value in keys.items()), keys) for keys in NUMBERS]
    return [
        option
        for option in found
        if not patterns or any(fnmatch.fnmatch(option[0], pattern + "*") for pattern in patterns)
    ]


class Refused(Exception):
    pass


def measure(folder, keys, steps, threads):
    """(ms of each step, ms of each evaluation, peak MiB) of one start of the program; first ones
    are discarded.
    """
    run_dir = pathlib.Path(folder) / "run"
    subprocess.run(["rm", "-rf", run_dir], check=True)
    merged = dict(BASE, **keys)
    every = max(1, steps // 2)
    done = call_program(
        [
            pathlib.Path(folder) / "table.yaml",
            f"run.dir={run_dir}",
            f"train.steps={2 + steps}",
            "train.warmup=1",
            "log.every=1",
            "checkpoint.every=0",
            f"eval.every={every}",
            *(f"{key}={value}" for key, value in merged.items()),
        ],
        threads,
    )
    if done.returncode == 2:
        error = next(line for line in done.stderr.splitlines() if "error:" in line)
        raise Refused(error.split("error: ", 1)[1])
    if done.returncode != 0:
        sys.exit(f"{keys}\n{done.stdout}{done.stderr}exit code {done.returncode}")
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    peak = re.search(r"^memory of rank 0.* peak ([\d.]+)", done.stdout, re.MULTILINE)[1]
    return (
        [row["step_ms"] for row in rows if "step_ms" in row][2:],
        [1000 * row["val_seconds"] for row in rows if "val_seconds" in row][1:],
        float(peak),
    )


def measure_all(folder, wanted, arguments):
    """{name: [(option's figures, default's figures just before), …]} and {name: reason} of what was
    refused.
    """
    pairs, refused = {name: [] for name, _ in wanted}, {}
    for number in range(arguments.rounds):
        for i, (name, keys) in enumerate(wanted):
            if i % 4 == 0:
                base = measure(folder, {}, arguments.steps, arguments.threads)
            if name in refused:
                continue
            try:
                pairs[name].append(
                    (measure(folder, keys, arguments.steps, arguments.threads), base)
                )
            except Refused as error:
                refused[name] = str(error)
            if sys.stderr.isatty():
                print(
                    f"\rround {number + 1}/{arguments.rounds}, option {i + 1}/{len(wanted)} ",
                    end="",
                    file=sys.stderr,
                )
    return pairs, refused


def ratios(pairs, part):
    """(least time, median over rounds of the ratio of medians, ratio of the least times)"""
    least, least_base = (
        min(value for pair in pairs for value in pair[side][part]) for side in (0, 1)
    )
    median = statistics.median(
        statistics.median(a[part]) / statistics.median(b[part]) for a, b in pairs
    )
    return least, median, least / least_base


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--keys", nargs="+", default=[], help="only options that begin so; * and ? are taken"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each start")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--set", nargs="+", default=[], help="key=value for all, the default too: another shape"
    )
    parser.add_argument("--csv", help="write the table here as well")
    arguments = parser.parse_args()
    BASE.update(word.split("=", 1) for word in arguments.set)
    wanted = options(arguments.keys)
    if not wanted:
        sys.exit(f"no option begins with {' or '.join(arguments.keys)}")
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "".join(chr(97 + (i * 7 + j * j * 3) % 26) for j in range(2 + i % 7))
            for i in range(997)
        ]
        text = " ".join(
            words[(i * i + i // 3) % 997] for i in range(50000)
        )  # routing spreads as on real text
        (pathlib.Path(folder) / "text.txt").write_text(text)
        (pathlib.Path(folder) / "table.yaml").write_text(
            "data: {train: text.txt, validation: text.txt}\n"
        )
        pairs, refused = measure_all(folder, wanted, arguments)
    header = [
        "option",
        "step_ms",
        "step_ratio",
        "step_ratio_least",
        "evaluation_ms",
        "evaluation_ratio",
        "evaluation_ratio_least",
        "peak_mib",
        "peak_ratio",
        "note",
    ]
    table = []
    for name, _ in wanted:
        if name in refused:
            table.append([name, *[""] * 8, refused[name]])
            continue
        step, evaluation = ratios(pairs[name], 0), ratios(pairs[name], 1)
        peak, base_peak = pairs[name][0][0][2], pairs[name][0][1][2]
        more = " ".join(f"{key}={value}" for key, value in needs(name).items())
        note = "; ".join(part for part in (more and f"with {more}", REASONS.get(name)) if part)
        table.append(
            [
                name,
                f"{step[0]:.1f}",
                f"{step[1]:.2f}",
                f"{step[2]:.2f}",
                f"{evaluation[0]:.1f}",
                f"{evaluation[1]:.2f}",
                f"{evaluation[2]:.2f}",
                f"{peak:.0f}",
                f"{peak / base_peak:.2f}",
                note,
            ]
        )
    print(
        f"default: {' '.join(f'{key}={value}' for key, value in BASE.items())}; "
        f"{arguments.threads} thread(s); "
        f"{arguments.rounds} rounds of {arguments.steps} steps; ms are the least"
    )
    print(f"{'':46} {'training step':^23} {'evaluation':^23} {'peak memory':^15}")
    print(
        f"{'option':46} "
        + " ".join(f"{name:>7}" for name in ("ms", "ratio", "least") * 2 + ("MiB", "ratio"))
    )
    for row in table:
        print(
            f"{row[0]:46} "
            + " ".join(f"{cell:>7}" for cell in row[1:9])
            + (f"  {row[9]}" if row[9] else "")
        )
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as file:
            csv.writer(file).writerows([header, *table])


if __name__ == "__main__":
    main()
