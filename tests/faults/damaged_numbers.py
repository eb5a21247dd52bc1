#!/usr/bin/env python3
"""Numbers that change on one rank, in weights, gradients, messages and arithmetic: each check finds its own, names the rank and
saves nothing of it; without the check the damage passes unseen into the result.

  damaged_numbers.py MOETRAIN [TEST …]"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import Workspace, faults_in, main  # noqa: E402
from supervise import RUN, codes, finish, start, text, wrapper  # noqa: E402

SHORT = {"train.steps": 6, "eval.every": 0, "checkpoint.every": 2, "checkpoint.keep_last": 0, "data.validation": "''"}
UNCHECKED = {"run.check_replicas_every": 0, "run.check_exchanges": "off"}


def steps(space, run):
    return [int(path[-11:-3]) for path in space.checkpoints(run)]


def expect(space, run, fault, code, parts, saved, ranks=2, **changes):
    """The fault ends the run with this code, all the parts in its message, and these checkpoints."""
    outcome = space.run(run, dict(SHORT, **changes), ranks=ranks, code=code, fault=fault)
    errors = [line for line in outcome.output.splitlines() if line.startswith("moetrain: error: ")]
    assert len(errors) == 1 and all(part in errors[0] for part in parts), f"{fault}: {parts}\n{outcome}"
    assert steps(space, run) == saved, f"{fault}: {steps(space, run)}\n{outcome}"
    assert faults_in(outcome), outcome


def passes_unseen(space, wanted, fault, **changes):
    outcome = space.run("unseen", dict(SHORT, **UNCHECKED, **changes), ranks=2, fault=fault)
    assert faults_in(outcome) and space.digest("unseen") != wanted, f"{fault} changes nothing\n{outcome}"
    space.remove("unseen")


def copies_that_differ_are_not_saved(space: Workspace):
    space.run("unbroken", SHORT)
    wanted = space.digest("unbroken")
    weight = "flip:rank=1,step=4,tensor=layers.0.attention.qkv,bit=3"  # of the mantissa: nothing else will ever show it
    expect(space, "two", weight, 6, ["step 4", "rank 0 on ", "rank 1 on ", "parameters/", "no majority"], [2])
    expect(space, "four", weight, 6, ["step 4", "rank 1 on ", "the 3 other ranks", "parameters/"], [2], ranks=4)
    gradient = "flip:in=gradient,rank=2,step=4,tensor=final_norm,bit=22"
    expect(space, "third", gradient, 6, ["step 6", "rank 2 on ", "final_norm"], [], ranks=4,
           **{"run.check_replicas_every": 3, "checkpoint.every": 0})
    for fault in (weight, gradient.replace("rank=2", "rank=0")):
        passes_unseen(space, wanted, fault)


def messages_that_change_on_their_way_are_not_applied(space: Workspace):
    space.run("unbroken", SHORT)
    message = "flip:in=message,rank=1,step=4,bit=2"
    expect(space, "first", message, 7, ["step 4: layer 0, dispatch of tokens: rank 0 on ", "what rank 1 on ", "rows sent"], [2])
    expect(space, "last", f"{message},nth=16", 7, ["combine of the inputs' gradients", "what rank 1 on "], [2],
           **{"parallel.exchange_chunks": 2})
    passes_unseen(space, space.digest("unbroken"), message)


def wrong_arithmetic_shows_when_a_step_is_computed_twice(space: Workspace):
    space.run("unbroken", SHORT)
    wanted = space.digest("unbroken")
    wrong = "flip:in=activation,rank=1,step=4,bit=20"
    twice = {"run.recheck": "every", "run.recheck_every": 2}
    expect(space, "every", wrong, 6, ["step 4, computed twice", "rank 1 on ", "gradients"], [2], **twice)
    passes_unseen(space, wanted, wrong)
    not_finite = "nan:in=activation,rank=1,step=4"
    expect(space, "nan", not_finite, 6, ["step 4, computed twice", "rank 1 on "], [2], **{"run.recheck": "suspicious"})
    # The same again is the data's: the step is skipped by the rule of all steps that are not finite.
    outcome = space.run("data", dict(SHORT, **{"run.recheck": "suspicious"}), ranks=2, fault=f"{not_finite},times=all")
    assert "gave the same bits" in outcome.output and "step skipped (1 in a row)" in outcome.output, outcome
    assert steps(space, "data") == [2, 4, 6]


def a_supervisor_goes_back_to_the_checkpoint_before_the_damage(space: Workspace):
    config = dict(RUN, **{"train.steps": 30, "run.check_replicas_every": 5})
    flip = "flip:rank=1,step=12,tensor=embedding,bit=3"
    once = wrapper(space, "once.sh", f'case $MOETRAIN_ATTEMPT in */1) export MOETRAIN_FAULT="{flip}";; esac\n'
                                     f'words=("$@"); words[0]={space.program}_faults; set -- "${{words[@]}}"')
    process = start(space, "run", config, *once)
    finish(space, "run", process)
    assert codes(space, "run") == [6, 0], text(space, "run")
    assert "another parameters/embedding" in text(space, "run") or "different parameters/embedding" in text(space, "run")
    space.run("unbroken", config)
    assert space.digest("run") == space.digest("unbroken"), text(space, "run")


if __name__ == "__main__":
    main([copies_that_differ_are_not_saved, messages_that_change_on_their_way_are_not_applied,
          wrong_arithmetic_shows_when_a_step_is_computed_twice, a_supervisor_goes_back_to_the_checkpoint_before_the_damage])
