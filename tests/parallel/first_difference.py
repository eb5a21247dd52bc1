#!/usr/bin/env python3
"""Where two runs part that should be the same: the first step whose row of metrics differs, or whose checkpoint does, and
which tensors. What differs in optimizer/m alone is the gradient of that parameter: look at its layer.

  first_difference.py MOETRAIN CONFIG.yaml [key=value …] -- RANKS [key=value …] -- RANKS [key=value …]
  first_difference.py build/release/moetrain configs/tiny.yaml train.steps=20 -- 1 -- 2 train.micro_batches=2
  first_difference.py MOETRAIN          tests itself

Both runs save every step into a temporary folder: choose few steps, or begin at a checkpoint with resume=PATH. Exit code
0: nothing differs; 1: something does; 2: a run failed."""
import os
import sys

import h5py
import numpy

from runs import Workspace, difference, launcher

EVERY_STEP = ["checkpoint.every=1", "checkpoint.keep_last=0", "log.every_row=true"]


def train(space, run, config, ranks, keys):
    command = [*launcher(int(ranks)), space.program, config, *keys, *EVERY_STEP, f"run.dir={space.path(run)}"]
    outcome = space.finish(space.start(command, cwd=os.getcwd()), command, None)
    if outcome.code != 0:
        print(outcome)
        sys.exit(2)


def tensors_that_differ(paths):
    """Lines: name, where, both values. Only what training goes on from: parameters and the optimizer's states."""
    lines = []
    with h5py.File(paths[0], "r") as a, h5py.File(paths[1], "r") as b:
        def compare(name, item):
            if not isinstance(item, h5py.Dataset) or not name.startswith(("parameters/", "optimizer/")):
                return
            values = item[...], b[name][...]
            differ = numpy.argwhere(values[0] != values[1])
            if len(differ):
                at = tuple(int(i) for i in differ[0])
                lines.append(f"  {name}: {len(differ)} of {values[0].size}, first at {at}: {values[0][at]!r}, not {values[1][at]!r}")
        a.visititems(compare)
    return lines


def first_difference(space):
    """The report, or None."""
    rows = [{row["step"]: row for row in space.metrics(run) if "loss" in row} for run in ("first", "second")]
    files = [{os.path.basename(path): path for path in space.checkpoints(run)} for run in ("first", "second")]
    for step in sorted(rows[0]):
        report = []
        if rows[0][step] != rows[1].get(step):
            report.append(f"  {difference([rows[0][step]], [rows[1].get(step, {})])}")
        name = f"step-{step:08d}.h5"
        report += tensors_that_differ([files[0][name], files[1][name]])
        if report:
            return "\n".join([f"step {step} is the first that differs", *report])
    return None


def compare(program, config, common, sides):
    space = Workspace(program)
    for run, (ranks, *keys) in zip(("first", "second"), sides):
        train(space, run, config, ranks, [*common, *keys])
    return first_difference(space)


def test_itself(program):
    space = Workspace(program)
    space.command("tiny", {"train.steps": 3, "eval.every": 0})  # writes tiny.yaml
    config = space.path("tiny.yaml")
    assert compare(program, config, [], [["1"], ["2", "parallel.expert=2"]]) is None
    # Nothing but the update differs: the parameters at once, the loss a step later. Then the loss itself.
    report = compare(program, config, [], [["1"], ["1", "train.weight_decay=0.5"]])
    assert report.startswith("step 1 is") and "loss" not in report and "parameters/" in report, report
    assert "optimizer/" not in report, report
    report = compare(program, config, [], [["1"], ["1", "run.seed=1"]])
    assert report.startswith("step 1 is") and "loss" in report, report


def main():
    if len(sys.argv) == 2:
        test_itself(sys.argv[1])
        return
    words = sys.argv[1:]
    if words.count("--") != 2 or words.index("--") < 2 or words[-1] == "--":
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    first = words.index("--")
    second = words.index("--", first + 1)
    report = compare(words[0], words[1], words[2:first], [words[first + 1:second], words[second + 1:]])
    print(report or "nothing differs")
    sys.exit(1 if report else 0)


main()
