"""Starts the runs of a reproduction, or takes them from their folders where they are done, and
reads their figures.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = pathlib.Path(os.environ.get("MOETRAIN", ROOT / "build/release/moetrain"))


def environment(threads):
    return dict(
        os.environ,
        OMP_NUM_THREADS=str(threads),
        OMP_WAIT_POLICY="passive",
        OMPI_MCA_mpi_yield_when_idle="1",
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )


def call(words, threads=1, log=None):
    """What the program printed; also into the file log as it comes. Ends this script where the
    program fails.
    """
    words = [str(word) for word in words]
    with open(log or os.devnull, "a") as copy:
        process = subprocess.Popen(
            words,
            env=environment(threads),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        printed = ""
        for line in process.stdout:
            printed += line
            copy.write(line)
            copy.flush()
    code = process.wait()
    if code != 0:
        sys.exit(
            f"{' '.join(words)}\n{printed}exit code {code}"
            + (", log: " + str(log) if log else "")
            + ("; run the same command again" if code == 75 else "")
        )
    return printed


def key_words(keys):
    return [f"{key}={value}" for key, value in keys.items()]


class Run:
    """One training run: a configuration and keys over it, a seed among them.

    Its folder is named by both, so that one that is done is not done again, an interrupted one goes
    on from its checkpoint, and a changed configuration is another run.
    """

    def __init__(self, parent, config, keys, ranks=1, threads=1):
        self.config, self.keys, self.ranks, self.threads = HERE / config, dict(keys), ranks, threads
        settings = re.sub(r"\s*(#.*)?\n", "\n", self.config.read_text())  # comments change nothing
        text = settings + json.dumps(self.keys, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:8]
        self.folder = pathlib.Path(parent) / f"{self.config.stem}-{self.keys['run.seed']}-{name}"

    def words(self, *more):
        launcher = (
            ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", self.ranks]
            if self.ranks > 1
            else []
        )
        return [*launcher, PROGRAM, self.config, *key_words(self.keys), *more]

    def rows(self):
        """The rows of metrics.jsonl, without those that a resumed run wrote twice."""
        try:
            lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        rows = {}
        for line in lines:
            row = json.loads(line)
            rows[row["step"], "val_loss" in row] = row
        return [rows[key] for key in sorted(rows)]

    def is_done(self):
        return (self.folder / "done").exists()

    def run(self):
        """Trains to the end, unless that is done already. False where there was nothing to do."""
        if self.is_done():
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        printed = call(self.words(f"run.dir={self.folder}"), self.threads, self.folder / "log")
        (self.folder / "done").write_text(
            re.search(r"^moetrain .*", printed, re.MULTILINE)[0] + "\n"
        )
        return True

    def machine(self):
        """ "moetrain VERSION | ranks x threads | CPU, GEMM library": the first line of its log."""
        return " | ".join((self.folder / "done").read_text().split(" | ")[:3])

    def peak_mib(self):
        """Of rank 0, resident, program and libraries included."""
        log = (self.folder / "log").read_text()
        return float(re.findall(r"memory of rank 0: .* peak ([\d.]+)", log)[-1])

    def training_curve(self):
        return [(row["step"], row["loss"]) for row in self.rows() if "loss" in row]

    def validation_curve(self):
        return [(row["step"], row["val_loss"]) for row in self.rows() if "val_loss" in row]

    def validation(self):
        """Loss over the whole validation text, nats a token, at the last step."""
        return self.validation_curve()[-1][1]

    def validation_max_vio(self):
        """MaxVio of the tokens of the whole validation text, the mean over layers."""
        return [row for row in self.rows() if "val_loss" in row][-1]["max_vio_mean"]

    def parameters(self):
        """(all, active for a token)"""
        printed = call([PROGRAM, "plan", self.config, *key_words(self.keys), "-np", 1])
        return tuple(map(int, re.search(r"(\d+) parameters, (\d+) active", printed).groups()))

    def megaflops_per_token(self):
        printed = call([PROGRAM, "plan", self.config, *key_words(self.keys), "-np", 1])
        return float(re.search(r"([\d.]+) MFLOP a token", printed)[1])

    def evaluate(self, text, **keys):
        """Loss of its last checkpoint over another text, nats a token; kept beside the run."""
        words = [f"data.validation={text}", *key_words(keys)]
        kept_at = self.folder / "evaluations.json"
        kept = json.loads(kept_at.read_text()) if kept_at.exists() else {}
        name = " ".join(words)
        if name not in kept:
            printed = call([PROGRAM, "evaluate", self.folder, *words], self.threads)
            kept[name] = float(re.search(r"loss ([\d.]+) nats", printed)[1])
            kept_at.write_text(json.dumps(kept, indent=1))
        return kept[name]

    def max_vio(self, last_steps):
        """max/mean - 1 of the tokens that the experts of a layer got over the last steps: one
        number a layer.
        """
        import h5py  # Debian's python3-h5py, for this figure alone

        newest = sorted((self.folder / "checkpoints").glob("step-*.h5"))[-1]
        with h5py.File(newest) as file:
            history = file["utilization"]
            steps, routed = history["step"][()], history["routed"][()]
            routed = routed[steps > steps[-1] - last_steps].sum(axis=0)  # (layers, experts)
        return [float(layer.max() / layer.mean() - 1) for layer in routed if layer.sum() > 0]


def step_times(runs, steps, rounds, skip=5):
    """Milliseconds a step of each run, which go on from where it ended: at the start routing is
    not learned yet, experts overflow, and a step with fewer tokens is faster. Over rounds in which
    each has its turn: a slower minute hits all alike.
    """
    times = [[] for _ in runs]
    for _ in range(rounds):
        for run, taken in zip(runs, times):
            folder = run.folder.parent / "timing"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(run.folder, folder)
            last = run.rows()[-1]["step"]
            call(
                run.words(
                    f"run.dir={folder}",
                    f"train.steps={last + steps + skip}",
                    "checkpoint.every=0",
                    "log.every=1",
                    "eval.every=0",
                    "data.validation=",
                ),
                run.threads,
            )
            rows = [
                json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
            ]
            timed = [row["step_ms"] for row in rows if row["step"] > last and "step_ms" in row]
            taken += timed[skip:]
            shutil.rmtree(folder)
    return times
