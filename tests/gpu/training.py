#!/usr/bin/env python3
"""Training with device: cuda, on GPUs or on their emulation: the same bits on any number of ranks, the CPU's loss curve,
checkpoints that go both ways.

  training.py MOETRAIN [TEST ...]

Exit code 77 where there is no GPU. Layouts with more ranks than GPUs are left out, and said so."""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "parallel"))
from runs import ENVIRONMENT, HANG_SECONDS, Workspace, difference, main  # noqa: E402

# Small, because every CUDA thread may be a fiber: a head more is a tile of 64 by 64 more of each sequence.
SMALL = {"device": "cuda", "model.d_model": 16, "model.d_ff": 24, "moe.d_ff": 8, "moe.experts": 4, "attention.heads": 1,
         "train.batch": 8, "train.context": 8, "train.shards": 4, "moe.max_expert_replicas": 4,
         "train.steps": 3, "eval.every": 3, "eval.batches": 1, "log.digest_every": 3}

# name: what it changes, layouts (ranks, parallel.expert)
CONFIGURATIONS = {
    "dropless, f32": ({"run.check_exchanges": "on"}, [(2, 1), (4, 2)]),
    "switch, batch balance, f32": (
        {"moe.top_k": 1, "moe.router": "topk_softmax", "moe.capacity_factor": 1, "moe.balance_scope": "batch",
         "model.activation": "relu", "model.tied_embeddings": "false", "train.context": 9},
        [(4, 4)]),
    "padded, bf16": (
        {"train.precision": "bf16", "run.check_exchanges": "on", "moe.dispatch": "padded", "moe.capacity_factor": 1.25, "moe.drop": "probability",
         "attention.heads": 4, "attention.kv_heads": 2, "train.micro_batches": 2, "train.shards": 8},
        [(2, 2), (4, 4)]),
    "layers of different sizes, learned positions, f32": (
        {"model.layers": 3, "model.feed_forward": "[moe, dense, moe]", "moe.experts": "[2, 0, 6]", "moe.top_k": "[1, 2]",
         "moe.router": "topk_softmax", "attention.positions": "learned", "parallel.exchange_chunks": 2},
        [(2, 2), (4, 1)]),
    "random drops, bf16": (
        {"train.precision": "bf16", "moe.capacity_factor": 0.75, "moe.drop": "random", "moe.every": 2},
        [(4, 2)]),
}

# Relative difference between the losses of the CPU and of a GPU. Both round alike but for the order of sums (f32: 1e-7 of
# single values) or the side to which a value at a rounding's edge falls (bf16: 2^-8 of single values); over the tokens of a
# loss that averages out, and every step starts from parameters that differ by as little. Ten times as much would be a wrong
# term; a close choice of the router that falls the other way moves single tokens, and shows as 1e-3 of an f32 loss.
CURVE_TOLERANCE = {"f32": 1e-6, "bf16": 1e-3}


def gpus(program):
    """How many GPUs the program can use: it says how many ranks are too many."""
    environment = dict(os.environ, **ENVIRONMENT)
    done = subprocess.run([program, "--version"], capture_output=True, text=True, env=environment, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr
    if "device cuda" not in done.stdout:
        return 0
    if os.environ.get("MOETRAIN_EMULATION_DEVICES"):
        return int(os.environ["MOETRAIN_EMULATION_DEVICES"])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=HANG_SECONDS)
        return len(listed.stdout.splitlines())
    except FileNotFoundError:
        return 8  # the emulation's default


def losses(workspace, run):
    return [(row["step"], key, row[key]) for row in workspace.metrics(run) for key in ("loss", "val_loss") if key in row]


def digests(workspace, run):
    with open(workspace.path(run, "digests.jsonl")) as file:
        return [json.loads(line) for line in file]


def assert_same_curve(workspace, run, reference, tolerance):
    got, want = losses(workspace, run), losses(workspace, reference)
    assert [row[:2] for row in got] == [row[:2] for row in want], f"{got}\n{want}"
    worst = max(abs(a[2] - b[2]) / b[2] for a, b in zip(got, want))
    print(f"        {run} against {reference}: worst relative difference {worst:.2g} over {len(got)} losses")
    assert worst <= tolerance, f"{worst:.3g} is more than {tolerance:g}\n{got}\n{want}"


def the_same_bits_on_any_number_of_ranks(workspace):
    available = gpus(workspace.program)
    for name, (changes, layouts) in CONFIGURATIONS.items():
        config = dict(SMALL, **changes)
        workspace.run("np1", dict(config, **{"run.seed": 3}), 1)
        wanted, hashes = workspace.result("np1"), digests(workspace, "np1")
        for ranks, expert in layouts:
            if ranks > available:
                print(f"        skipped: {name} on {ranks} ranks, there are {available} GPUs")
                continue
            run = f"np{ranks}e{expert}"
            subprocess.run(["rm", "-rf", workspace.path(run)], check=True)
            workspace.run(run, dict(config, **{"run.seed": 3, "parallel.expert": expert}), ranks)
            result = workspace.result(run)
            assert result == wanted, f"{name}, {run}: {difference(result[0], wanted[0])}"
            assert digests(workspace, run) == hashes, f"{name}, {run}: other digests"
        print(f"        {name}: loss {losses(workspace, 'np1')[-1][2]:.9g}, digest {wanted[1][:12]}")
        subprocess.run(["rm", "-rf", workspace.path("np1")], check=True)


def the_loss_curve_of_the_cpu(workspace):
    for precision, tolerance in CURVE_TOLERANCE.items():
        config = dict(SMALL, **{"train.precision": precision, "train.steps": 6})
        workspace.run(f"cuda_{precision}", config, 1)
        workspace.run(f"cpu_{precision}", dict(config, device="cpu"), 1)
        assert_same_curve(workspace, f"cuda_{precision}", f"cpu_{precision}", tolerance)
        # Their bits differ, what there are digests of does not.
        there, here = digests(workspace, f"cuda_{precision}"), digests(workspace, f"cpu_{precision}")
        assert len(there) == len(here) == 2, there
        for a, b in zip(there, here):
            assert list(a) == list(b), f"{list(a)}\n{list(b)}"
            for folder in (name for name in a if isinstance(a[name], dict)):
                assert list(a[folder]) == list(b[folder]), f"{list(a[folder])}\n{list(b[folder])}"


def a_checkpoint_of_one_backend_resumes_on_the_other(workspace):
    config = dict(SMALL, **{"train.steps": 4})
    workspace.run("unbroken", dict(config, device="cpu"), 1)
    for first, second in (("cpu", "cuda"), ("cuda", "cpu")):
        run = f"{first}_then_{second}"
        command = workspace.command(run, dict(config, device=first, **{"checkpoint.every": 2}), 1)
        # The whole schedule is that of 4 steps: the first half is a run whose second checkpoint is thrown away.
        outcome = workspace.finish(workspace.start(command), command)
        assert outcome.code == 0, outcome
        os.remove(workspace.checkpoints(run)[-1])
        assert workspace.checkpoints(run)[-1].endswith("step-00000002.h5"), workspace.checkpoints(run)
        outcome = workspace.run(run, dict(config, device=second, **{"checkpoint.every": 2}), 1)
        assert "at step 2" in outcome.output, outcome
        assert_same_curve(workspace, run, "unbroken", CURVE_TOLERANCE["f32"])


def a_resume_on_other_ranks_changes_no_bit(workspace):
    if gpus(workspace.program) < 2:
        print("        skipped: one GPU")
        return
    config = dict(SMALL, **{"checkpoint.every": 2})
    workspace.run("whole", config, 1)
    workspace.run("broken", config, 2)
    os.remove(workspace.checkpoints("broken")[-1])
    workspace.run("broken", config, 1)
    assert workspace.digest("broken") == workspace.digest("whole")


def evaluation_and_text_of_a_checkpoint(workspace):
    # Sampled, not greedy: a draw shows a change of the whole distribution. A high learning rate makes attention matter.
    workspace.run("run", dict(SMALL, **{"train.lr": 0.05, "train.steps": 10}), 1)
    newest = workspace.checkpoints("run")[-1]
    environment = dict(os.environ, **ENVIRONMENT)
    said = {}
    for device in ("cuda", "cpu"):
        for verb, *rest in (["evaluate", newest], ["generate", newest, "--tokens", "40", "--temperature", "1",
                                                    "--prompt", "ab"]):
            command = [workspace.program, verb, *rest, f"device={device}"]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HANG_SECONDS)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            said[verb, device] = done.stdout + done.stderr
    assert said["generate", "cuda"] == said["generate", "cpu"], said
    loss = {device: float(said["evaluate", device].split("loss ")[1].split()[0]) for device in ("cuda", "cpu")}
    assert abs(loss["cuda"] - loss["cpu"]) <= 2e-6 * loss["cpu"], loss


if __name__ == "__main__":
    if gpus(os.path.abspath(sys.argv[1])) == 0:
        print("skipped: the program finds no GPU here")
        sys.exit(77)
    main([the_same_bits_on_any_number_of_ranks, the_loss_curve_of_the_cpu,
          a_checkpoint_of_one_backend_resumes_on_the_other, a_resume_on_other_ranks_changes_no_bit,
          evaluation_and_text_of_a_checkpoint])
