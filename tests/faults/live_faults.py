#!/usr/bin/env python3
"""What can go wrong around a run that is alive, and how it leaves: data that shrinks, a second job, numbers that are
not finite, a closed stdout, every way to resume, a damaged checkpoint.

  live_faults.py MOETRAIN [TEST …]"""
import glob
import os
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import ENVIRONMENT, HANG_SECONDS, IDLE, Workspace, difference, main, ranks_of, wait_until_gone  # noqa: E402

LONG = {"train.steps": 100000, "eval.every": 0}
# Decay of 1e4 times the weight a step: the weights leave the range of f32 within ten steps.
EXPLODING = {"train.steps": 100, "train.lr": 100, "train.weight_decay": 100, "train.schedule": "constant",
             "train.warmup": 0, "eval.every": 0}


def errors(outcome):
    return [line for line in outcome.output.splitlines() if line.startswith("moetrain: error: ")]


def assert_error(outcome, code, *parts):
    """The documented exit code and one line of error, from rank 0 alone, with all the parts."""
    assert outcome.code == code, f"exit code {code} expected\n{outcome}"
    assert len(errors(outcome)) == 1, f"one error expected\n{outcome}"
    for part in parts:
        assert part in errors(outcome)[0], f"'{part}' expected\n{outcome}"


def assert_says(outcome, part):
    assert part in outcome.output, f"'{part}' expected\n{outcome}"


def start_and_wait(space, run, config, step, ranks=2, fault=None):
    command = space.command(run, config, ranks)
    process = space.start(command, fault=fault)
    space.wait_for_step(run, step, process)
    return process, command


def data_that_shrinks_ends_all_ranks_with_exit_code_3(space: Workspace):
    # Little is left: every rank fails. Most is left: in some step one rank fails while others could go on.
    for ranks, left in ((1, 100), (4, 100), (4, 26000)):
        shutil.copy(space.path("train.txt"), space.path("shrinking.txt"))
        run = f"shrink{ranks}-{left}"
        process, command = start_and_wait(space, run, dict(LONG, **{"data.train": "shrinking.txt"}), 5, ranks)
        pids = ranks_of(process)
        os.truncate(space.path("shrinking.txt"), left)
        assert_error(space.finish(process, command), 3, "shrinking.txt", f"ends at byte {left} ", "30000")
        wait_until_gone(pids)


def validation_data_that_shrinks_ends_with_exit_code_3(space: Workspace):
    shutil.copy(space.path("validation.txt"), space.path("shrinking.txt"))
    config = dict(LONG, **{"data.validation": "shrinking.txt", "eval.every": 1, "eval.batches": 0})
    process, command = start_and_wait(space, "run", config, 3)
    os.truncate(space.path("shrinking.txt"), 2000)
    assert_error(space.finish(process, command), 3, "shrinking.txt", "ends at byte 2000 ", "4000")


def changed_data_is_refused_on_resume(space: Workspace):
    space.run("run", {"data.train": "train.txt"}, ranks=2)
    with open(space.path("train.txt"), "r+b") as file:
        file.seek(20000)
        file.write(b"#")
    assert_error(space.run("run", {"train.steps": 10}, ranks=2, code=3), 3, "train.txt", "not the data")


def a_second_job_in_the_folder_is_refused(space: Workspace):
    first, command = start_and_wait(space, "run", LONG, 3, fault=IDLE)
    before = os.stat(space.path("run", "config.yaml")).st_mtime_ns
    # At once, because each waits some seconds for the one before.
    others = [[*space.command("run", LONG, ranks=2), *words] for words in ([], ["resume=must"])]
    others = [(space.start(words), words) for words in others]
    for outcome in [space.finish(*other) for other in others]:
        assert_error(outcome, 9, "another job", "run.dir")
    assert os.stat(space.path("run", "config.yaml")).st_mtime_ns == before, "the second job wrote into the folder"
    assert first.poll() is None, "the second job ended the first"
    first.send_signal(signal.SIGUSR1)
    outcome = space.finish(first, command)
    assert outcome.code == 75, str(outcome)
    space.run("run", dict(LONG, **{"train.steps": 2}), ranks=1)  # and nothing keeps the folder locked


def steps_that_are_not_finite_change_nothing(space: Workspace):
    import h5py
    import numpy

    config = dict(EXPLODING, **{"train.max_skipped": 4, "checkpoint.every": 1, "checkpoint.keep_last": 0})
    outcome = space.run("run", config, ranks=2, code=6)
    assert_error(outcome, 6, "4 steps in a row", "not finite", "train.lr")
    rows = space.metrics("run")
    last, before = rows[-1], rows[-5]
    assert last["skipped_steps"] == 4 and before["skipped_steps"] == 0, rows[-6:]
    assert any(row["loss"] is None or row["gradient_norm"] is None for row in rows[-4:]), rows[-4:]
    assert last["tokens"] - before["tokens"] == 4 * 256, "the cursor goes on over skipped steps"
    assert outcome.output.count("step skipped") == 4, str(outcome)

    newest, good = space.checkpoints("run")[-1], space.checkpoints("run")[-5]
    assert f"{last['step']:08d}" in newest and f"{before['step']:08d}" in good, newest
    with h5py.File(newest, "r") as a, h5py.File(good, "r") as b:
        names = []
        for group in ("parameters", "optimizer"):
            a[group].visititems(lambda name, item: names.append(f"{group}/{name}") if hasattr(item, "shape") else None)
        assert len(names) > 20
        for name in names:
            assert numpy.array_equal(a[name][...], b[name][...], equal_nan=True), f"a skipped step changed {name}"


def skipped_steps_are_counted_across_a_resume(space: Workspace):
    config = dict(EXPLODING, **{"train.max_skipped": 3})
    first = space.run("run", config, ranks=2, code=6)
    assert_error(first, 6, "3 steps in a row")
    again = space.run("run", dict(config, **{"train.max_skipped": 5}), ranks=1, code=6)
    assert_error(again, 6, "5 steps in a row")
    assert again.output.count("step skipped") == 2, str(again)


def a_closed_or_full_stdout_does_not_stop_training(space: Workspace):
    # `mpirun … | head` is not here: mpirun itself aborts at a closed pipe, before any rank could know.
    environment = dict(os.environ, **ENVIRONMENT, OMP_NUM_THREADS="1")
    mpirun = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", "2", "bash", "-c"]
    config = {"train.steps": 60}
    space.run("wanted", config)
    for number, (launcher, redirection) in enumerate([
            (["bash", "-c"], "| head -1; exit ${PIPESTATUS[0]}"), (["bash", "-c"], ">/dev/full"),
            (["bash", "-c"], "<&- >&- 2>&-"), (mpirun, ">&- 2>&-"), (mpirun, ">/dev/full 2>/dev/full")]):
        program = " ".join(space.command(f"run{number}", config))
        done = subprocess.run([*launcher, f"{program} {redirection}"], cwd=space.folder, env=environment, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=HANG_SECONDS)
        assert done.returncode == 0, f"{redirection}: exit code {done.returncode}\n{done.stderr}"
        assert ("head" in redirection) == (len(done.stdout.splitlines()) == 1), done.stdout
        assert space.result(f"run{number}") == space.result("wanted"), redirection


def each_way_to_resume(space: Workspace):
    config = {"train.steps": 4, "checkpoint.every": 2, "train.schedule": "constant"}
    longer = dict(config, **{"train.steps": 6})
    assert_error(space.run("run", dict(config, resume="must"), ranks=2, code=4), 4, "resume: must", "no checkpoint")
    space.run("run", dict(config, resume="never"), ranks=2)
    newest = space.checkpoints("run")[-1]
    bytes_before = open(newest, "rb").read()
    assert_error(space.run("run", dict(longer, resume="never"), ranks=2, code=2), 2, "resume: never")
    assert open(newest, "rb").read() == bytes_before, "a refused run changed the checkpoint"
    assert_says(space.run("run", dict(longer, resume="must"), ranks=2), "at step 4")
    assert_says(space.run("run", longer, ranks=1), "nothing to train")
    assert_says(space.run("path", dict(longer, resume=space.checkpoints("run")[0]), ranks=2), "at step 2")
    assert space.digest("path") == space.digest("run"), "resume: PATH computes something else"
    missing = space.path("run", "checkpoints", "step-00000099.h5")
    outcome = space.run("other", dict(longer, resume=missing), ranks=2, code=4)
    assert_error(outcome, 4, "step-00000099.h5")


def damage(path, offset=None):
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        file.seek(offset if offset is not None else size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x10]))


def a_damaged_checkpoint_gives_way_to_the_one_before(space: Workspace):
    config = {"train.steps": 6, "checkpoint.every": 2, "checkpoint.keep_last": 0, "moe.capacity_factor": 1}
    space.run("run", config, ranks=2)
    wanted = space.result("run")
    paths = space.checkpoints("run")
    damage(paths[-1])
    os.truncate(paths[-2], os.path.getsize(paths[-2]) - 1)
    outcome = space.run("run", config, ranks=4)
    warnings = [line for line in outcome.output.splitlines() if "warning" in line]
    assert len(warnings) == 2 and "step-00000006.h5" in warnings[0] and "step-00000004.h5" in warnings[1], str(outcome)
    assert "at step 2" in outcome.output, str(outcome)
    assert space.result("run") == wanted, difference(space.metrics("run"), wanted[0])


def only_damaged_checkpoints_are_no_reason_to_begin_anew(space: Workspace):
    space.run("run", {"train.steps": 4, "checkpoint.every": 2}, ranks=2)
    for path in space.checkpoints("run"):
        damage(path)
    kept = {path: open(path, "rb").read() for path in glob.glob(space.path("run", "checkpoints", "*"))}
    for resume in ("auto", "must", space.checkpoints("run")[0]):
        outcome = space.run("run", {"train.steps": 6, "resume": resume}, ranks=2, code=4)
        assert_error(outcome, 4, "checkpoint")
    assert kept == {path: open(path, "rb").read() for path in glob.glob(space.path("run", "checkpoints", "*"))}


main([data_that_shrinks_ends_all_ranks_with_exit_code_3, validation_data_that_shrinks_ends_with_exit_code_3,
      changed_data_is_refused_on_resume, a_second_job_in_the_folder_is_refused,
      steps_that_are_not_finite_change_nothing, skipped_steps_are_counted_across_a_resume,
      a_closed_or_full_stdout_does_not_stop_training, each_way_to_resume,
      a_damaged_checkpoint_gives_way_to_the_one_before, only_damaged_checkpoints_are_no_reason_to_begin_anew])
