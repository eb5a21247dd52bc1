#!/usr/bin/env python3
"""Clocks that are wrong by more than a year, and one that jumps back while training: only dates change. With libfaketime, which
leaves the monotonic clock alone.

  clocks.py MOETRAIN [TEST …]"""
import glob
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import Skipped, Workspace, main, write  # noqa: E402

CONFIG = {"train.steps": 6, "eval.every": 1, "checkpoint.every": 2, "train.schedule": "constant"}


def fake_clock():
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not found:
        raise Skipped("libfaketime is missing: launcher/install-packages test")
    return {"LD_PRELOAD": found[0], "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1"}


def run_at(space, run, config, variables, ranks=2):
    """Each rank with these variables; mpirun keeps its clock."""
    words = [word for name, value in variables.items() for word in ("-x", f"{name}={value}")]
    command = space.command(run, config, ranks, mpirun=words)
    outcome = space.finish(space.start(command), command)
    assert outcome.code == 0, outcome
    return outcome


def years(space, run):
    with open(space.path(run, "starts.jsonl")) as file:
        return [int(json.loads(line)["time"][:4]) for line in file]


def a_year_too_early_or_too_late_is_only_a_date(space: Workspace):
    clock = fake_clock()
    space.run("unbroken", CONFIG, ranks=2)
    wanted = space.result("unbroken")
    for number, (first, second) in enumerate([("+400d", "-400d"), ("-400d", "+400d")]):
        run = f"run{number}"
        run_at(space, run, dict(CONFIG, **{"train.steps": 3}), dict(clock, FAKETIME=first))
        run_at(space, run, CONFIG, dict(clock, FAKETIME=second))
        assert space.result(run) == wanted, run
        begun = years(space, run)
        assert abs(begun[0] - begun[1]) >= 2, f"the clock was not wrong: {begun}"
    return 4


def a_clock_that_jumps_back_while_training_is_no_hang(space: Workspace):
    clock = dict(fake_clock(), FAKETIME_TIMESTAMP_FILE=space.path("clock"))
    config = dict(CONFIG, **{"train.steps": 400, "checkpoint.every": 100, "run.hang_timeout": 5, "eval.every": 0,
                            "log.straggler_steps": 0})  # the ranks of a busy machine may be uneven, whatever its clock says
    space.run("unbroken", dict(config, **{"checkpoint.every": 0}), ranks=2)
    write(space.path("clock"), "+400d\n")
    words = [word for name, value in clock.items() for word in ("-x", f"{name}={value}")]
    command = space.command("run", config, 2, mpirun=words)
    jumps = ((50, "-400d\n"), (150, "+400d\n"), (250, "-1d\n"))
    process = space.start(command, fault=";".join(f"slow:phase=step,step={step + 1},ms=500,until={space.path(f'jumped-{step}')}"
                                                  for step, _ in jumps))
    for step, offset in jumps:
        space.wait_for_step("run", step, process)
        write(space.path("clock"), offset)
        write(space.path(f"jumped-{step}"), "")
    outcome = space.finish(process, command)
    assert outcome.code == 0 and "warning" not in outcome.output, outcome
    assert space.digest("run") == space.digest("unbroken"), outcome
    return 3


main([a_year_too_early_or_too_late_is_only_a_date, a_clock_that_jumps_back_while_training_is_no_hang])
