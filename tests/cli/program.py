"""Runs moetrain as a user would and looks at what it says."""
import os
import re
import subprocess
import sys
import tempfile
import unittest

PROGRAM = os.environ["MOETRAIN"]
HANG_SECONDS = 60  # generous: only a hang takes this long, also on a busy machine under sanitizers

# The smallest configuration that trains; each test changes what it is about.
TINY = {
    "data.train": "train.txt",
    "model.d_model": "16",
    "model.layers": "2",
    "attention.heads": "2",
    "moe.experts": "4",
    "moe.d_ff": "16",
    "train.steps": "2",
    "train.batch": "8",
    "train.context": "16",
}

# Starts one rank, whatever it is told; and says so.
SRUN = """#!/bin/sh
[ "$1" != --mpi=list ] || { echo pmix; exit; }
while [ "${1#-}" != "$1" ]; do [ "$1" != -n ] || shift; shift; done
date >> srun.log
exec "$@"
"""


class Outcome:
    def __init__(self, args, code, out, err):
        self.args, self.code, self.out, self.err = args, code, out, err
        self.errors = [line for line in err.splitlines() if line.startswith("moetrain: error: ")]

    def __str__(self):
        return f"{self.args}\nexit code {self.code}\n-- stdout\n{self.out}\n-- stderr\n{self.err}"


class ProgramTest(unittest.TestCase):
    """Every test has a folder of its own, self.folder, with a text to train on."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="moetrain-cli-")
        self.addCleanup(scratch.cleanup)
        self.folder = scratch.name
        self.write("train.txt", "In the beginning God created the heaven and the earth. " * 40)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        return name

    def write_tiny(self, name="tiny.yaml", **changes):
        """Dots in keys are written __ in changes; None leaves the key out."""
        keys = dict(TINY, **{key.replace("__", "."): value for key, value in changes.items()})
        return self.write(name, "".join(f"{k}: {v}\n" for k, v in keys.items() if v is not None))

    def run_program(self, *args, ranks=None, stdin=""):
        """ranks=None: without mpirun; stdin: what is written there."""
        environment = dict(
            {"ASAN_OPTIONS": "detect_leaks=0", **os.environ},  # Open MPI leaves memory behind
            OMP_NUM_THREADS="1", OMPI_MCA_mpi_yield_when_idle="1",
            OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        command = [PROGRAM, *args]
        if ranks is not None:
            command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks), *command]
        # bytes, decoded here: output may hold anything the configuration held
        done = subprocess.run(command, cwd=self.folder, env=environment, input=stdin.encode(),
                              capture_output=True, timeout=HANG_SECONDS)
        return Outcome(" ".join(command), done.returncode, done.stdout.decode("utf-8", "replace"),
                       done.stderr.decode("utf-8", "replace"))

    def do_task(self, script, number, tasks=1):
        """One of a batch script of a job of so many tasks, on one rank, by a stand-in for Slurm."""
        self.write("srun", SRUN)
        os.chmod(self.path("srun"), 0o700)
        done = subprocess.run(["bash", script], cwd=self.folder, capture_output=True, text=True, timeout=HANG_SECONDS,
                              env=dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}", SLURM_ARRAY_TASK_ID=str(number),
                                       SLURM_NTASKS=str(tasks), SLURM_JOB_ID="7", OMP_NUM_THREADS="1"))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def assert_done(self, outcome):
        self.assertEqual(outcome.code, 0, str(outcome))

    def assert_error(self, outcome, code, *parts):
        """The documented exit code and exactly one line of error, which has all the parts."""
        self.assertEqual(outcome.code, code, str(outcome))
        self.assertEqual(len(outcome.errors), 1, str(outcome))
        for part in parts:
            self.assertIn(part, outcome.errors[0], str(outcome))

    def snapshot(self):
        """Every file below the folder with its bytes, but for what tells of the last start of a run."""
        files = {}
        for parent, _, names in os.walk(self.folder):
            for name in set(names) - {"lock", "status.json", "outcome.json"}:
                with open(os.path.join(parent, name), "rb") as file:
                    files[os.path.relpath(file.name, self.folder)] = file.read()
        return files


STEP_4 = "checkpoints/step-00000004.h5"


class LifeTest(ProgramTest):
    """Runs of four steps of tiny.yaml with options of the model: their life and their text."""

    def train(self, run, *changes, ranks=None):
        outcome = self.run_program("tiny.yaml", f"run.dir={run}", *changes, ranks=ranks)
        self.assert_done(outcome)
        return outcome

    def digest(self, run):
        outcome = self.run_program("inspect", "--digest", f"{run}/{STEP_4}")
        self.assert_done(outcome)
        return outcome.out

    def check_life(self, name, *changes):
        """Interrupted and resumed on other ranks, the same digest; generation with a cache says what it says without."""
        self.train(name, *changes)
        self.train(f"{name}-resumed", *changes, "train.steps=2")
        self.train(f"{name}-resumed", *changes, "train.steps=4", "train.micro_batches=2", ranks=2)
        self.assertEqual(self.digest(name), self.digest(f"{name}-resumed"), name)
        for precision in ([], ["train.precision=bf16"]):
            run = f"{name}/{STEP_4}"
            if precision:
                self.train(f"{name}-bf16", *changes, *precision)
                run = f"{name}-bf16/{STEP_4}"
            greedy = ["generate", run, "--prompt", "In the ", "--tokens", "60", "--temperature", "0"]
            cached, recomputed = self.run_program(*greedy), self.run_program(*greedy, "--recompute")
            self.assert_done(cached)
            self.assertEqual(cached.out, recomputed.out, name)
        return self.digest(name)


def without_comments(yaml_text):
    return re.sub(r" +# .*", "", yaml_text)


def main():
    unittest.main(verbosity=2, argv=sys.argv)
