#!/usr/bin/env python3
"""A whole run whose system calls and allocations fail one by one: a save that fails is made up for on a new file, no other file
that fails changes a bit, and missing memory ends the run with its exit code. (check_io_faults makes each call of a save fail.)

  failing_calls.py MOETRAIN [TEST …]     a sample; FAULTS_ALL=1: every N-th call"""
import itertools
import os
import resource
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import Workspace, faults_in, main  # noqa: E402

ALL = bool(os.environ.get("FAULTS_ALL"))
CONFIG = {"train.steps": 5, "eval.every": 0, "checkpoint.every": 2, "checkpoint.keep_last": 0}


def alone(space, run, config, fault, code, **how):
    command = space.command(run, config)
    outcome = space.finish(space.start(command, fault=fault, **how), command)
    assert code is None or outcome.code == code, f"exit code {code} expected with {fault}\n{outcome}"
    return outcome


def numbers(sample):
    """Which call fails: a sample, or all, until none does."""
    return itertools.count(1) if ALL else iter(sample)


def a_save_that_fails_once_costs_nothing(space: Workspace):
    space.run("unbroken", CONFIG)
    wanted, faults = space.result("unbroken"), 0
    for call, errno, sample in (("open", "EMFILE", [1, 2]), ("ftruncate", "EFBIG", [1]), ("pwrite", "ENOSPC", [1, 9, 30]),
                                ("pwrite", "EIO", [20]), ("pread", "EIO", [5]), ("fsync", "EIO", [1, 2, 3]),
                                ("rename", "EIO", [1])):
        for nth in numbers(sample):
            outcome = alone(space, "run", CONFIG, f"io:call={call},errno={errno},file=/checkpoints,step=2,nth={nth}", 0)
            if ALL and not faults_in(outcome):
                break
            assert len(faults_in(outcome)) == 1, outcome
            # The folder's sync comes after the renaming: the file is there, and is saved once more.
            assert "warning: step 2 is not saved: " in outcome.output or call == "open", f"{call} {nth}\n{outcome}"
            assert [path for path in space.checkpoints("run") if path.endswith("5.h5")], outcome
            assert not [name for name in os.listdir(space.path("run", "checkpoints")) if name.endswith(".tmp")], outcome
            assert space.result("run") == wanted, f"{call} {nth}\n{outcome}"
            space.remove("run")
            faults += 1
    return faults


def no_other_file_stops_training(space: Workspace):
    space.run("unbroken", CONFIG)
    wanted, faults = space.digest("unbroken"), 0
    for fault, says in (("io:call=write,errno=ENOSPC,file=metrics.jsonl,times=2,nth=2", "2 rows are missing"),
                        ("io:call=write,errno=ENOSPC,file=metrics.jsonl,times=all", "rows are missing"),
                        ("short:file=metrics.jsonl,times=all", None), ("io:file=status.json,times=all,errno=ENOSPC", None),
                        ("io:file=outcome.json,times=all", None), ("io:call=open,file=/lock,nth=2,times=all", None),
                        ("io:file=request.json,times=all", None), ("io:call=unlink,times=all", None)):
        outcome = alone(space, "run", CONFIG, fault, 0)
        assert faults_in(outcome), f"{fault} did not strike\n{outcome}"
        assert not says or says in outcome.output, f"'{says}' expected with {fault}\n{outcome}"
        assert space.digest("run") == wanted, fault
        space.remove("run")
        faults += len(faults_in(outcome))
    return faults


def a_folder_that_cannot_be_written_ends_the_run_before_step_1(space: Workspace):
    cases = ["io:call=mkdir", "io:call=open,file=/lock", "io:call=open,file=metrics.jsonl", "io:call=open,file=starts.jsonl",
             "io:call=open,file=step-00000000.h5.tmp", "io:call=pwrite,file=step-00000000.h5.tmp",
             "io:call=write,file=config.yaml"]
    for fault in cases:
        outcome = alone(space, "run", CONFIG, f"{fault},errno=EROFS", 5)
        assert "Read-only file system" in outcome.output and "\nstep 1/" not in outcome.output, outcome
        shutil.rmtree(space.path("run"), ignore_errors=True)
    return len(cases)


def memory_that_is_missing_ends_the_run(space: Workspace):
    """At once with exit code 5 and what there is, unless what was asked for is not needed."""
    space.run("unbroken", CONFIG)
    wanted, faults, enough = space.digest("unbroken"), 0, 0
    for nth in numbers([1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 110, 144, 170, 200, 233]):
        outcome = alone(space, "run", CONFIG, f"alloc:nth={nth}", None)
        if not faults_in(outcome):
            assert ALL, f"fewer than {nth} allocations\n{outcome}"
            break
        faults += 1
        if outcome.code == 0:
            assert space.digest("run") == wanted, outcome
            enough += 1
        else:
            assert outcome.code == 5 and "memory" in outcome.output, f"allocation {nth}\n{outcome}"
        shutil.rmtree(space.path("run"), ignore_errors=True)
    assert enough < faults / 5, f"{enough} of {faults} missing allocations changed nothing"
    return faults


def so_does_a_limit_of_the_address_space(space: Workspace):
    large = dict(CONFIG, **{"model.d_model": 1024, "moe.d_ff": 4096, "train.batch": 32})
    limit = 1 << 30
    outcome = alone(space, "run", large, None, 5, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert "MiB" in outcome.output and "moetrain plan" in outcome.output, outcome
    return 1


main([a_save_that_fails_once_costs_nothing, no_other_file_stops_training,
      a_folder_that_cannot_be_written_ends_the_run_before_step_1,
      memory_that_is_missing_ends_the_run, so_does_a_limit_of_the_address_space])
