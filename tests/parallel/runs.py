"""Runs of the built program in a folder of their own, and what they leave behind."""
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HANG_SECONDS = 120  # only a hang takes this long, also on a busy machine under sanitizers

ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMP_WAIT_POLICY": "passive",  # threads of many ranks share few cores: do not spin
    "OMPI_MCA_odls_base_sigkill_timeout": "0",  # unless MERCIFUL
}

# What mpirun does of itself when a rank has failed, or when it is to end: it leaves the ranks a second before SIGTERM and
# one before SIGKILL, so that every exit but 0 takes two seconds more, in which who waits for a message keeps a core busy.
MERCIFUL = {"OMPI_MCA_odls_base_sigkill_timeout": "1"}

# The model of all these tests: small, but every part of it is there. Each test changes what it is about.
TINY = {
    "data.train": "train.txt", "data.validation": "validation.txt",
    "model.d_model": 32, "model.layers": 2, "attention.heads": 2, "model.d_ff": 48,
    "moe.experts": 8, "moe.top_k": 2, "moe.d_ff": 24,
    "train.steps": 5, "train.batch": 16, "train.context": 16, "train.shards": 8, "train.lr": 0.003, "train.warmup": 1,
    "eval.every": 2, "eval.batches": 2, "log.every": 1, "checkpoint.every": 0,
}

# What a row of metrics.jsonl says about the training itself; the other keys are measured times.
EXACT_KEYS = ("step", "loss", "gradient_norm", "lr", "balance_loss", "balance_loss_shard", "balance_loss_sequence",
              "balance_loss_batch", "balance_loss_step", "balance_loss_importance_shard",
              "balance_loss_importance_sequence", "balance_loss_importance_batch", "balance_loss_noisy_load_shard",
              "balance_loss_noisy_load_sequence", "balance_loss_noisy_load_batch", "z_loss", "drop_rate", "load_imbalance",
              *(of + figure for of in ("", "attention_", "value_", "output_", "combine_", "peer_")
                for figure in ("max_vio", "max_vio_mean", "dead_experts")),
              *(of + scope for of in ("value_importance_", "output_importance_") for scope in ("shard", "sequence", "batch")),
              "slot_concentration", "zero_share", "router_logit_rms", "router_entropy_nats", "tokens", "skipped_steps",
              "val_loss", "val_bits_per_byte", "validation", "source_loss", "source_load_imbalance", "source_load_distance")


def generated_text(seed, size):
    """Words of a small language: something to learn in few steps, the same on every machine."""
    source = random.Random(seed)
    words = ["".join(source.choice("abcdefghijklmnop") for _ in range(source.randint(2, 7))) for _ in range(80)]
    text = ""
    while len(text) < size:
        text += source.choice(words[: source.randint(1, len(words))]) + source.choice("  \n,")
    return text[:size]


def write(path, content):
    with open(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)


def launcher(ranks, words=None):
    """What stands before the program. One rank needs no mpirun, and starts in a third of its time; `words` ask for it."""
    if ranks == 1 and words is None:
        return []
    return ["mpirun", "--oversubscribe", "--bind-to", "none", *(words or ()), "-np", str(ranks)]


# A step takes its time, and no processor: of a run without end that is only there while something else is waited for.
IDLE = "slow:phase=step,ms=50,times=all"


class Outcome:
    def __init__(self, command, code, output):
        self.command, self.code, self.output = command, code, output

    def __str__(self):
        return f"{' '.join(self.command)}\nexit code {self.code}\n{self.output}"


class Workspace:
    """A temporary folder with data and configurations; every run is a folder below it."""

    def __init__(self, program):
        self.program = os.path.abspath(program)
        self._scratch = tempfile.TemporaryDirectory(prefix="moetrain-test-")
        self.folder = self._scratch.name
        write(self.path("train.txt"), generated_text(1, 30000))
        write(self.path("validation.txt"), generated_text(2, 4000))

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def command(self, run, config, ranks=1, mpirun=None):
        """The command line that trains TINY changed by `config`, in run.dir `run`; `mpirun` adds words to those of mpirun."""
        keys = dict(TINY, **config)
        if keys["moe.experts"] == 0:
            keys = {key: value for key, value in keys.items() if not key.startswith("moe.")} | {"moe.experts": 0}
        name = self.path(f"{run}.yaml")
        write(name, "".join(f"{key}: {value}\n" for key, value in keys.items() if value is not None))
        return [*launcher(ranks, mpirun), self.program, name, f"run.dir={self.path(run)}"]

    def start(self, command, threads=1, fault=None, merciful=False, **how):
        """fault: what MOETRAIN_FAULT asks of moetrain_faults (tests/faults/inject), which runs in the product's place."""
        environment = dict(os.environ, **{**ENVIRONMENT, **(MERCIFUL if merciful else {})}, OMP_NUM_THREADS=str(threads))
        if fault is not None:
            command = [f"{word}_faults" if word == self.program else word for word in command]
            environment["MOETRAIN_FAULT"] = fault
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, text=True,
                                **{"cwd": self.folder, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **how})

    def finish(self, process, command, seconds=HANG_SECONDS):
        """Waits for the end; a hang is an error and is ended by us."""
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"hang: {' '.join(command)}\n{output}") from None
        killed_by = max(0, -process.returncode)  # as mpirun and shells say it
        return Outcome(command, 128 + killed_by if killed_by else process.returncode, output or "")

    def run(self, run, config, ranks=1, threads=1, code=0, **how):
        command = self.command(run, config, ranks)
        outcome = self.finish(self.start(command, threads, **how), command)
        assert outcome.code == code, f"exit code {code} expected\n{outcome}"
        return outcome

    def metrics(self, run):
        """The rows of a run without what was measured with a clock."""
        with open(self.path(run, "metrics.jsonl")) as file:
            rows = [json.loads(line) for line in file]
        return [{key: row[key] for key in EXACT_KEYS if key in row} for row in rows]

    def checkpoints(self, run):
        folder = self.path(run, "checkpoints")
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return sorted(os.path.join(folder, name) for name in names if name.endswith(".h5"))

    def digest(self, run):
        """Of the newest checkpoint."""
        newest = self.checkpoints(run)[-1]
        done = subprocess.run([self.program, "inspect", "--digest", newest], capture_output=True, text=True,
                              env=dict(os.environ, **ENVIRONMENT), timeout=HANG_SECONDS)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def history(self, run):
        """A hash of the newest checkpoint's utilization history, of which the digest has only the sums."""
        import h5py

        hasher = hashlib.sha256()
        with h5py.File(self.checkpoints(run)[-1], "r") as file:
            file["utilization"].visititems(
                lambda name, item: hasher.update(name.encode() + item[...].tobytes()) if hasattr(item, "shape") else None)
        return hasher.hexdigest()

    def result(self, run):
        """All that must be equal between two runs that are the same computation and log equally often."""
        return self.metrics(run), f"{self.digest(run)} {self.history(run)}"

    def slow_after(self, steps, ms=500):
        """A fault: every start does so many steps and is slow from then on, until hurry(). So a run is still under way when
        what is done to it arrives, however fast the machine is and however long this script is kept waiting."""
        return f"slow:phase=step,nth={steps + 1},ms={ms},times=all,until={self.path('hurry')}"

    def hurry(self):
        write(self.path("hurry"), "")

    def remove(self, run):
        shutil.rmtree(self.path(run))

    def wait_for_step(self, run, step, process):
        """Until metrics.jsonl shows that step."""
        deadline = time.monotonic() + HANG_SECONDS
        path = self.path(run, "metrics.jsonl")
        while time.monotonic() < deadline and process.poll() is None:
            if os.path.exists(path):
                with open(path) as file:
                    if f'{{"step":{step},' in file.read():
                        return
            time.sleep(0.01)
        said = process.stdout.read() if process.poll() is not None and getattr(process, "stdout", None) else ""
        raise AssertionError(f"{run} never reached step {step}\n{said}")


def faults_in(outcome):
    """What moetrain_faults says it has done, a line each."""
    return [line for line in outcome.output.splitlines() if line.startswith("moetrain: fault: ")]


def difference(rows, wanted):
    """The first key of the first row that differs, for the message of a failure."""
    for a, b in zip(rows, wanted):
        for key in sorted(set(a) | set(b)):
            if a.get(key) != b.get(key):
                return f"step {b.get('step')}, {key}: {a.get(key)!r}, not {b.get(key)!r}"
    return f"{len(rows)} rows, not {len(wanted)}" if len(rows) != len(wanted) else "only the digest"


def ranks_of(process):
    """Process ids of the ranks that this mpirun has started on this machine."""
    return children_of(process.pid)


def children_of(pid):
    children = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry))
    return sorted(children.get(pid, []))


def wait_until_gone(pids):
    """After a kill of mpirun its ranks live on for about a second, still writing."""
    deadline = time.monotonic() + HANG_SECONDS
    for pid in pids:
        while time.monotonic() < deadline:
            try:
                with open(f"/proc/{pid}/stat") as file:
                    if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                        break
            except OSError:
                break
            time.sleep(0.01)
        else:
            raise AssertionError(f"process {pid} does not end")


def kill(pid, number=signal.SIGKILL):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


class Skipped(Exception):
    """What a test needs is not on this machine."""


def main(tests):
    """Runs test(workspace) for each, in a workspace each; arguments: the program, then names of tests to run. A test may return
    how many faults it has made. Exit code 77 when all were skipped. tests/faults/run reads the lines."""
    program, names = sys.argv[1], sys.argv[2:]
    failed, skipped, done = 0, 0, 0
    unknown = set(names) - {test.__name__ for test in tests}
    assert not unknown, f"no test is called {', '.join(sorted(unknown))}"
    for test in tests:
        sentence = test.__name__.replace("_", " ")
        if names and test.__name__ not in names:
            continue
        begin = time.monotonic()
        done += 1
        try:
            faults = test(Workspace(program))
            many = f", {faults} faults" if faults else ""
            print(f"ok      {sentence} ({time.monotonic() - begin:.1f} s{many})", flush=True)
        except Skipped as reason:
            skipped += 1
            print(f"skipped {sentence} ({reason})", flush=True)
        except Exception as error:  # also one of the script itself: the other tests run all the same
            failed += 1
            if not isinstance(error, AssertionError):
                traceback.print_exc()
            print(f"FAILED  {sentence} ({time.monotonic() - begin:.1f} s): {error}", flush=True)
    sys.exit(1 if failed else 77 if skipped == done > 0 else 0)
