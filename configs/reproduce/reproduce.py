#!/usr/bin/python3
"""Published results beside ours: trains what a reproduction needs and prints both.

    configs/reproduce/reproduce.py makemoe --text tinyshakespeare.txt    (karpathy/char-rnn has it)
    configs/reproduce/reproduce.py nanogpt --text tinyshakespeare.txt
    configs/reproduce/reproduce.py switch [--steps 4000]
    configs/reproduce/reproduce.py balance
    configs/reproduce/reproduce.py peer

Runs lie under --folder and go on where they were stopped: run the same command again. A run that is
done is read, not trained. --readme writes tables and plots into configs/reproduce/ as well.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import truediv

from line_plot import line_plot
from reproduce_runs import HERE, ROOT, Run, step_times

TRAIN_SHARE = 0.9  # of the user's characters, as makeMoE and nanoGPT cut them


@dataclass
class Row:
    """One line of a table: a configuration, keys over it, the figure that its source gives."""

    label: str
    config: str
    keys: dict = field(default_factory=dict)
    published: str = ""
    goal: str = ""
    evaluation: dict = field(default_factory=dict)  # keys that its evaluation alone has


@dataclass
class Experiment:
    title: str
    rows: list
    steps: int
    text: str  # user: --text, cut 9 to 1; kjv: the default corpus, as the configuration has it
    seeds: int = 3
    published: list = field(default_factory=list)  # (name, loss): dashed lines of the plot
    windows: int = (
        0  # also the mean over all windows of so many characters, as random batches see them
    )
    timing: bool = False  # also the time of a step, in turn, and memory
    balance_steps: int = 0  # also MaxVio over so many last steps
    curve: str = "validation"


EXPERIMENTS = {
    "makemoe": Experiment(
        "makeMoE on Tiny Shakespeare: 5,000 steps of 512 characters",
        steps=5000,
        text="user",
        windows=32,
        published=[("article, own GPU", 1.7508), ("its code, one CPU run", 1.7052)],
        rows=[
            Row(
                "as the article's code",
                "makemoe.yaml",
                {},
                "1.7508 (article), 1.7052 (its code, on a CPU)",
                "1.68 to 1.72",
            ),
            Row(
                "… with expert capacity",
                "makemoe.yaml",
                {"moe.capacity_factor": 1, "eval.capacity_factor": 1, "train.shards": 1},
                "1.765 (article)",
            ),
            Row(
                "… the same runs, nothing dropped in evaluation",
                "makemoe.yaml",
                {"moe.capacity_factor": 1, "eval.capacity_factor": 1, "train.shards": 1},
                evaluation={"eval.capacity_factor": 0},
            ),
            Row(
                "RMSNorm, RoPE, no noise, no dropout, cosine",
                "makemoe_modern.yaml",
                {
                    "train.optimizer": "adamw",
                    "train.lr": 0.001,
                    "model.activation": "relu",
                    "attention.qk_norm": "none",
                    "moe.experts": 8,
                    "moe.top_k": 2,
                    "moe.d_ff": 512,
                },
            ),
            Row(
                "and Muon, QK norm, fine-grained experts, squared ReLU",
                "makemoe_modern.yaml",
                {},
                "",
                "at most 1.59",
            ),
        ],
    ),
    "nanogpt": Experiment(
        "nanoGPT shakespeare_char, settings for a CPU: 2,000 steps of 768 characters",
        steps=2000,
        text="user",
        windows=64,
        published=[("nanoGPT", 1.88)],
        rows=[
            Row("dense, as nanoGPT", "nanogpt.yaml", {}, "1.88", "at most 1.90"),
            Row(
                "8 experts, 2 at work, equal active parameters",
                "nanogpt.yaml",
                {"model.feed_forward": "moe", "moe.experts": 8, "moe.top_k": 2, "moe.d_ff": 256},
            ),
        ],
    ),
    "switch": Experiment(
        "Dense and experts at equal FLOPs a token: King James Bible, bytes",
        steps=400,
        text="kjv",
        seeds=1,
        timing=True,
        rows=[
            Row("dense", "switch.yaml"),
            Row(
                "Switch, 1 of 8",
                "switch.yaml",
                {
                    "model.feed_forward": "moe",
                    "moe.experts": 8,
                    "moe.top_k": 1,
                    "moe.d_ff": 576,
                    "moe.router": "topk_softmax",
                    "moe.capacity_factor": 1.25,
                },
            ),
            Row(
                "2 of 8",
                "switch.yaml",
                {"model.feed_forward": "moe", "moe.experts": 8, "moe.top_k": 2, "moe.d_ff": 288},
            ),
            Row(
                "8 of 32 and a shared one, fine-grained",
                "switch.yaml",
                {
                    "model.feed_forward": "moe",
                    "moe.experts": 32,
                    "moe.top_k": 8,
                    "moe.d_ff": 64,
                    "moe.shared_experts": 1,
                },
            ),
        ],
    ),
    "peer": Experiment(
        "One-neuron experts found by product keys beside routed experts: King James Bible, bytes",
        steps=100,
        text="kjv",
        seeds=1,
        timing=True,
        rows=[
            Row("8 routed experts of 162 neurons, 2 at work", "peer.yaml"),
            Row(
                "36^2 experts, 8 heads of 30",
                "peer.yaml",
                {
                    "model.feed_forward": "peer",
                    "peer.keys": 36,
                    "peer.top_k": 30,
                    "peer.d_key": 8,
                },
                "7 times the time, 3 times the memory; 3.6 to 6.3, 2.4 to 3 (its code, here)",
                "at most 1.5 times the time, 1.3 times the memory",
            ),
            Row(
                "128^2 experts, 8 heads of 16",
                "peer.yaml",
                {"model.feed_forward": "peer", "peer.keys": 128, "peer.d_key": 16},
            ),
        ],
    ),
    "balance": Experiment(
        "Balance of 64 experts, 6 at work",
        steps=2000,
        text="kjv",
        seeds=1,
        balance_steps=1000,
        curve="training",
        rows=[
            Row(
                "auxiliary loss, factor 0.001",
                "balance.yaml",
                {"moe.balance_loss": 0.001},
                "0.72 (1 B), 0.52 (3 B)",
            ),
            Row("auxiliary loss, factor 0.01", "balance.yaml", {"moe.balance_loss": 0.01}),
            Row(
                "bias by sign",
                "balance.yaml",
                {"moe.bias_update": "sign", "moe.bias_rate": 0.01},
                "0.04 (1 B, 3 B)",
                "at most 0.04",
            ),
        ],
    ),
}


def write_if_new(path, text):
    data = text.encode()
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)


class Texts:
    """The user's text cut into training and validation, and the latter once more for each start of
    its windows.
    """

    def __init__(self, path, folder):
        text = pathlib.Path(path).read_bytes().decode()
        cut = int(TRAIN_SHARE * len(text))
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.held_out = folder, text[cut:]
        self.train, self.validation = folder / "train.txt", folder / "validation.txt"
        self.sample = folder / "train-sample.txt"  # a fifth of the training text, from all of it
        write_if_new(self.train, text[:cut])
        write_if_new(self.validation, self.held_out)
        write_if_new(
            self.sample,
            "".join(text[start : min(start + 4096, cut)] for start in range(0, cut, 5 * 4096)),
        )

    def shifted(self, start):
        path = self.folder / f"validation-from-{start}.txt"
        write_if_new(path, self.held_out[start:])
        return path


def mean_and_spread(values, digits=4):
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def median_and_least(values):
    return statistics.median(values), min(values)


def random_windows(run, texts, context, keys, starts=4):
    """The loss that batches of random windows estimate.

    A random window starts anywhere, so each character is predicted with 1 to context characters of
    the text before it, equally often. Windows in a row give each character one of these; cut from
    `starts` first characters in turn they come near the mean over all, without the noise of drawing
    them: 400 batches have one of about 0.004.
    """
    return statistics.mean(
        run.evaluate(texts.shifted(i * context // starts), **{"eval.batches": 0, **keys})
        for i in range(starts)
    )


def average_curves(curves):
    """The mean over seeds at steps that all have."""
    tables = [dict(curve) for curve in curves]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return [(step, statistics.mean(table[step] for table in tables)) for step in steps]


def markdown_table(header, lines):
    return (
        "\n".join(
            ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]]
        )
        + "\n"
    )


class Reproduction:
    def __init__(self, name, options):
        self.name, self.options, self.experiment = name, options, EXPERIMENTS[name]
        self.folder = pathlib.Path(options.folder).resolve() / name
        self.steps = options.steps or self.experiment.steps
        self.texts = (
            Texts(options.text, self.folder / "text") if self.experiment.text == "user" else None
        )
        self.rows = [
            row
            for i, row in enumerate(self.experiment.rows)
            if not options.rows or i + 1 in options.rows
        ]
        seeds = options.seeds or self.experiment.seeds
        self.runs = [
            [self.make_run(row, options.seed + i) for i in range(seeds)] for row in self.rows
        ]

    def make_run(self, row, seed):
        keys = dict(row.keys, **{"run.seed": seed})
        if self.texts:
            keys.update({"data.train": self.texts.train, "data.validation": self.texts.validation})
        if self.steps != self.experiment.steps:
            keys.update({"train.steps": self.steps, "log.every": max(1, self.steps // 100)})
            if self.experiment.curve == "validation":
                keys["eval.every"] = max(1, self.steps // 10)
        keys.update(word.split("=", 1) for word in self.options.keys)
        keys = {key: str(value) for key, value in keys.items()}
        return Run(self.folder, row.config, keys, self.options.ranks, self.options.threads)

    def train(self):
        """A seed of every row before the next seed: what is there when it is stopped is of use."""
        pending = {run.folder: run for seed in zip(*self.runs) for run in seed if not run.is_done()}

        def train_one(run):
            print(f"training {run.folder}", flush=True)
            run.run()

        with ThreadPoolExecutor(self.options.at_once) as pool:
            list(pool.map(train_one, pending.values()))

    def done(self):
        """[(row, its runs that are done)], of rows that have any."""
        pairs = zip(self.rows, self.runs)
        done = [(row, [run for run in runs if run.is_done()]) for row, runs in pairs]
        done = [(row, runs) for row, runs in done if runs]
        if not done:
            sys.exit(f"no run of {self.name} is done; leave --no-training out")
        return done

    def table(self, done, times):
        """times: milliseconds of steps of each row, or nothing."""
        experiment = self.experiment
        last = experiment.balance_steps

        def mean_of(measure, digits=4):
            return lambda row, runs: mean_and_spread([measure(row, run) for run in runs], digits)

        columns = [
            ("", lambda row, runs: row.label),
            ("parameters", lambda row, runs: f"{runs[0].parameters()[0]:,}"),
            ("active", lambda row, runs: f"{runs[0].parameters()[1]:,}"),
            ("seeds", lambda row, runs: str(len(runs))),
            ("training loss", mean_of(self.training_loss)),
            ("validation loss, whole text", mean_of(self.validation_loss)),
        ]
        if experiment.windows:
            columns += [("validation loss, random windows", mean_of(self.random_windows_loss))]
        if last:
            columns += [
                ("MaxVio, validation text", mean_of(lambda row, run: run.validation_max_vio(), 3)),
                (
                    f"MaxVio, last {last} steps",
                    mean_of(lambda row, run: statistics.mean(run.max_vio(last)), 3),
                ),
            ]
        if times:
            dense = times[done[0][0].label]
            columns += [
                ("MFLOP a token", lambda row, runs: f"{runs[0].megaflops_per_token():.2f}"),
                (
                    "ms a step, median (least)",
                    lambda row, runs: "{:.1f} ({:.1f})".format(*median_and_least(times[row.label])),
                ),
                (
                    "times the first row's, median (least)",
                    lambda row, runs: "{:.2f} ({:.2f})".format(
                        *map(truediv, median_and_least(times[row.label]), median_and_least(dense))
                    ),
                ),
                ("peak MiB", lambda row, runs: f"{runs[0].peak_mib():.0f}"),
                (
                    "times the first row's",
                    lambda row, runs: f"{runs[0].peak_mib() / done[0][1][0].peak_mib():.2f}",
                ),
            ]
        columns += [
            ("published", lambda row, runs: row.published),
            ("goal", lambda row, runs: row.goal),
        ]
        lines = [[cell(row, runs) for _, cell in columns] for row, runs in done]
        footer = f"\n{self.steps:,} steps each. {done[0][1][0].machine()}.\n"
        return markdown_table([name for name, _ in columns], lines) + footer

    def training_loss(self, row, run):
        """Without dropout, over a fifth of the training text; of the default corpus that of the
        last rows.
        """
        if self.texts:
            return run.evaluate(self.texts.sample, **{"eval.batches": 0, **row.evaluation})
        return statistics.mean(loss for _, loss in run.training_curve()[-5:])

    def validation_loss(self, row, run):
        if not row.evaluation:
            return run.validation()
        return run.evaluate(self.texts.validation, **{"eval.batches": 0, **row.evaluation})

    def random_windows_loss(self, row, run):
        return random_windows(run, self.texts, self.experiment.windows, row.evaluation)

    def plots(self, done, times):
        """{file name: SVG}"""
        pick = Run.validation_curve if self.experiment.curve == "validation" else Run.training_curve
        trained = [(row, runs) for row, runs in done if not row.evaluation]
        curves = [(row.label, average_curves([pick(run) for run in runs])) for row, runs in trained]
        title, name = self.experiment.title, f"{self.experiment.curve} loss, nats a token"
        marks = self.experiment.published
        svgs = {f"{self.name}.svg": line_plot(title, "steps", name, curves, marks)}
        if times:
            seconds = {label: statistics.median(taken) / 1000 for label, taken in times.items()}
            in_time = [
                (label, [(step * seconds[label], loss) for step, loss in curve])
                for label, curve in curves
            ]
            svgs[f"{self.name}_time.svg"] = line_plot(
                title, "seconds of training steps", name, in_time
            )
        return svgs

    def report(self):
        done, times = self.done(), {}
        if self.experiment.timing and not self.options.no_timing:
            taken = step_times([runs[0] for _, runs in done], 20, 3)
            times = {row.label: ms for (row, _), ms in zip(done, taken)}
        table, svgs = self.table(done, times), self.plots(done, times)
        print(f"\n{self.experiment.title}\n\n{table}")
        (self.folder / "table.md").write_text(table)
        for name, svg in svgs.items():
            (self.folder / name).write_text(svg)
            print(f"plot: {self.folder / name}")
        if self.options.readme:
            write_section(
                HERE / "README.md",
                self.name,
                table + "".join(f"\n![{self.experiment.title}]({name})\n" for name in svgs),
            )
            for name in svgs:
                shutil.copy(self.folder / name, HERE / name)


def write_section(path, name, text):
    """Replaces what stands between the two comments of this name."""
    begin, end = f"<!-- {name}: written by reproduce.py -->", f"<!-- {name}: end -->"
    old = path.read_text()
    if begin not in old or end not in old:
        sys.exit(f"{path} lacks the lines '{begin}' and '{end}'")
    path.write_text(old[: old.index(begin) + len(begin)] + "\n" + text + old[old.index(end) :])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("keys", nargs="*", help="key=value for every run")
    parser.add_argument("--text", help="the user's text; 9 tenths of it train")
    parser.add_argument("--steps", type=int, help="of each run, for a short look or a long one")
    parser.add_argument("--seeds", type=int, help="how many")
    parser.add_argument("--seed", type=int, default=1337, help="the first of them")
    parser.add_argument(
        "--rows",
        type=lambda text: [int(number) for number in text.split(",")],
        help="only these rows of the table, from 1: 1,4",
    )
    parser.add_argument("--folder", default=ROOT / "runs/reproduce")
    parser.add_argument("--ranks", type=int, default=1, help="of each run: changes no bit")
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument(
        "--at-once", type=int, default=max(1, (os.cpu_count() or 1)), help="runs side by side"
    )
    parser.add_argument("--no-training", action="store_true", help="print what is done so far")
    parser.add_argument("--no-timing", action="store_true", help="leave the time of a step out")
    parser.add_argument(
        "--readme", action="store_true", help="write table and plots into configs/reproduce"
    )
    options = parser.parse_intermixed_args()
    if EXPERIMENTS[options.name].text == "user" and not options.text:
        parser.error(f"{options.name} needs --text FILE, Tiny Shakespeare")
    reproduction = Reproduction(options.name, options)
    if not options.no_training:
        reproduction.train()
    reproduction.report()


if __name__ == "__main__":
    main()
