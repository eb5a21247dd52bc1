#!/usr/bin/env python3
"""A run that is stopped and goes on computes what the unbroken run computes: the same rows of metrics.jsonl in every
digit, the same digest of the last checkpoint (parameters, moments, cursor) and the same utilization history. No tolerance.

  resume.py MOETRAIN [TEST …]"""
import os
import shutil
import re
import signal
import subprocess

from runs import Workspace, difference, main, ranks_of

# Dropping by chance and accumulation, because their counters must go on too; utilization rows that checkpoints cut.
CONFIG = {
    "train.steps": 10, "moe.capacity_factor": 1, "moe.drop": "random", "train.micro_batches": 2,
    "log.utilization_every": 4, "checkpoint.keep_last": 0, "eval.every": 3,
}


def assert_same(space, run, wanted, what):
    rows, digest = space.result(run)
    assert (rows, digest) == wanted, f"{what}: {difference(rows, wanted[0])}"


def a_run_cut_at_step_5_goes_on_on_any_layout(space: Workspace):
    mix = "[{path: train.txt, weight: 0.7}, {path: validation.txt, weight: 0.3}]"  # cut in the middle of a period
    weights = "[{from: 3, source: train.txt, weight: 0.2}, {from: 8, source: train.txt, weight: 0}]"
    config = dict(CONFIG, **{"checkpoint.every": 5, "data.train": mix, "data.curriculum": weights})
    space.run("unbroken", config, ranks=3)
    wanted = space.result("unbroken")
    for ranks, threads, expert_parallel, micro_batches in ((2, 1, 2, 2), (1, 2, 1, 4), (4, 1, 1, 2), (3, 1, 3, 1), (8, 1, 4, 1)):
        run = f"resumed{ranks}"
        shutil.copytree(space.path("unbroken"), space.path(run))
        os.remove(space.checkpoints(run)[-1])  # metrics.jsonl still tells of the steps after the cut
        outcome = space.run(run, dict(config, **{"parallel.expert": expert_parallel, "train.micro_batches": micro_batches}),
                            ranks, threads)
        assert "resumed from" in outcome.output and "at step 5" in outcome.output, str(outcome)
        assert_same(space, run, wanted, f"{ranks} ranks, parallel.expert {expert_parallel}")


def every_optimizer_and_objective_goes_on_on_any_layout(space: Workspace):
    changes = {"masked": {"train.objective": "masked"}, "further": {"mtp.layers": 1}}
    for word in ("sgd", "lion", "masked", "further", "muon"):
        config = dict(CONFIG, **{"checkpoint.every": 5, **changes.get(word, {"train.optimizer": word}), "train.lr": 0.001})
        space.run(f"{word}-unbroken", config, ranks=2)
        wanted = space.result(f"{word}-unbroken")
        for ranks, threads, expert_parallel, micro_batches in ((1, 2, 1, 4), (4, 1, 4, 2)):
            run = f"{word}-resumed{ranks}"
            shutil.copytree(space.path(f"{word}-unbroken"), space.path(run))
            os.remove(space.checkpoints(run)[-1])
            outcome = space.run(run, dict(config, **{"parallel.expert": expert_parallel,
                                                     "train.micro_batches": micro_batches}), ranks, threads)
            assert "at step 5" in outcome.output, str(outcome)
            assert_same(space, run, wanted, f"{word}, {ranks} ranks")
    config.update({"train.steps": 12, "train.optimizer": "adamw"})  # what muon has saved is no state of AdamW
    outcome = space.run("muon-unbroken", config, ranks=2, code=2)
    assert "train.optimizer" in outcome.output, str(outcome)


def checkpoint_timings_leave_no_trace(space: Workspace):
    results = []
    for every in (0, 1, 3):
        space.run(f"every{every}", dict(CONFIG, **{"checkpoint.every": every}), ranks=2)
        results.append(space.result(f"every{every}"))
        assert len(space.checkpoints(f"every{every}")) == {0: 1, 1: 10, 3: 4}[every]
    for rows, digest in results[1:]:
        assert (rows, digest) == results[0], difference(rows, results[0][0])


def a_path_can_be_resumed_into_another_folder(space: Workspace):
    space.run("unbroken", dict(CONFIG, **{"checkpoint.every": 5}), ranks=2)
    rows, digest = space.result("unbroken")
    space.run("branch", dict(CONFIG, resume=space.checkpoints("unbroken")[0]), ranks=4)
    later = [row for row in rows if row["step"] > 5]
    assert_same(space, "branch", (later, digest), "resume: PATH")


def a_save_that_training_does_not_wait_for_holds_the_same(space: Workspace):
    """With checkpoint.async every checkpoint has the digest of the one that training waited for, on any layout."""
    config = dict(CONFIG, **{"checkpoint.every": 2, "train.skip_z": 6, "log.dead_expert_steps": 4, "train.ema": 0.9})
    digests = {}
    for run, ranks, more in (("waits", 2, {}), ("async2", 2, {"checkpoint.async": "true"}),
                             ("async4", 4, {"checkpoint.async": "true", "parallel.expert": 2})):
        outcome = space.run(run, dict(config, **more), ranks)
        assert ("training waited" in outcome.output) == bool(more), str(outcome)
        told = subprocess.run([space.program, "checkpoint", "verify", space.path(run)], capture_output=True, text=True,
                              check=True).stdout
        digests[run] = [line.split()[-1] for line in told.splitlines()]
        assert len(digests[run]) == 5 and digests[run] == digests["waits"], digests
    os.remove(space.checkpoints("async4")[-1])
    outcome = space.run("async4", dict(config, **{"checkpoint.async": "true"}), ranks=1)
    assert "at step 8" in outcome.output, str(outcome)
    assert_same(space, "async4", space.result("waits"), "gone on after asynchronous saves")


def flip(path, share):
    """One bit of the byte that lies at this share of the file."""
    with open(path, "r+b") as file:
        at = int(os.path.getsize(path) * share)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def damage_that_only_loading_finds_is_passed_over(space: Workspace):
    """Header and manifest of the newest hold, a weight does not: the one before is taken, and the end is the same."""
    config = dict(CONFIG, **{"checkpoint.every": 3, "train.skip_z": 6, "log.dead_expert_steps": 4, "train.ema": 0.9})
    space.run("unbroken", config, ranks=2)
    wanted = space.result("unbroken")
    for share in (0.5, 0.97):
        run = f"damaged{share}"
        shutil.copytree(space.path("unbroken"), space.path(run))
        flip(space.checkpoints(run)[-1], share)
        outcome = space.run(run, config, ranks=4)
        assert outcome.output.count("checkpoint not usable: ") == 1, str(outcome)
        assert "step-00000010.h5" in outcome.output and "at step 9" in outcome.output, str(outcome)
        assert_same(space, run, wanted, f"damaged at {share}")
    for path in space.checkpoints(run):
        flip(path, 0.5)
    outcome = space.run(run, config, ranks=2, code=4)
    assert "none of the 4 checkpoints" in outcome.output, str(outcome)


def run_of(space, path):
    """Identity of a checkpoint's run, and of the run it is a branch of."""
    told = subprocess.run([space.program, "inspect", path], capture_output=True, text=True, check=True).stdout
    return [match and match[1] for match in (re.search(r"^run +([0-9a-f]{32})$", told, re.MULTILINE),
                                             re.search(r"^began from +step 4 of run ([0-9a-f]{32})", told, re.MULTILINE))]


def a_branch_goes_on_on_any_layout(space: Workspace):
    """Begun on four ranks, gone on with on two and one, in its own folder and in the parent's: each time the unbroken branch."""
    config = dict(CONFIG, **{"checkpoint.every": 2, "train.schedule": "constant"})
    space.run("parent", config, ranks=2)
    rows, digest = space.metrics("parent"), space.digest("parent")
    shutil.copytree(space.path("parent"), space.path("inside"))
    for run, later in (("outside", [row for row in rows if row["step"] > 4]), ("inside", rows)):
        begin = next(path for path in space.checkpoints("inside" if run == "inside" else "parent") if "00000004" in path)
        parent, _ = run_of(space, begin)
        for steps, ranks, at in ((6, 4, 4), (8, 2, 6), (10, 1, 8)):
            outcome = space.run(run, dict(config, resume=begin, **{"train.steps": steps}), ranks)
            assert outcome.output.count(f"at step {at}") == 1, str(outcome)
            assert outcome.output.count("a branch of run") == (at == 4), str(outcome)
        assert space.digest(run) == digest, "the branch computes something else"
        own, its_parent = run_of(space, space.checkpoints(run)[-1])
        assert its_parent == parent and own not in (None, parent), (own, its_parent, parent)
        assert [row for row in space.metrics(run) if "loss" in row] == [row for row in later if "loss" in row]


def refusals_are_one_line_on_any_number_of_ranks(space: Workspace):
    space.run("run", {"checkpoint.every": 2}, ranks=2)
    for changes, code in (({"run.seed": 2}, 2), ({"resume": "none.h5"}, 4), ({"init": space.checkpoints("run")[0]}, 2)):
        outcome = space.run("run", dict(changes, **{"train.steps": 6}), ranks=4, code=code)
        assert outcome.output.count("moetrain: error: ") == 1, str(outcome)


def stop_and_go_on(space, how):
    """Trains `steps` steps unbroken; then again, stopped by `how(process)` twice, on different layouts."""
    config = dict(CONFIG, **{"train.steps": 150, "eval.every": 40, "log.utilization_every": 16})
    space.run("unbroken", config, ranks=2)
    wanted = space.result("unbroken")
    for stop_after, ranks in ((7, 2), (60, 4)):
        command = space.command("stopped", config, ranks)
        process = space.start(command, fault=space.slow_after(stop_after))
        space.wait_for_step("stopped", stop_after, process)
        how(process)
        outcome = space.finish(process, command)
        assert outcome.code == 75, f"exit code 75 expected\n{outcome}"
        step = int(space.checkpoints("stopped")[-1][-11:-3])
        assert stop_after <= step < 150, f"stopped at step {step}\n{outcome}"
    outcome = space.run("stopped", config, ranks=1)
    assert f"at step {step}" in outcome.output, str(outcome)
    assert_same(space, "stopped", wanted, "stopped and gone on")


def a_signal_to_mpirun_saves_and_exits_with_75(space: Workspace):
    stop_and_go_on(space, lambda mpirun: mpirun.send_signal(signal.SIGUSR1))


def a_signal_to_one_rank_stops_all(space: Workspace):
    stop_and_go_on(space, lambda mpirun: os.kill(ranks_of(mpirun)[-1], signal.SIGTERM))


main([a_run_cut_at_step_5_goes_on_on_any_layout, every_optimizer_and_objective_goes_on_on_any_layout,
      checkpoint_timings_leave_no_trace,
      a_save_that_training_does_not_wait_for_holds_the_same, damage_that_only_loading_finds_is_passed_over, a_path_can_be_resumed_into_another_folder, a_branch_goes_on_on_any_layout,
      refusals_are_one_line_on_any_number_of_ranks, a_signal_to_mpirun_saves_and_exits_with_75,
      a_signal_to_one_rank_stops_all])
