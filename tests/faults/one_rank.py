#!/usr/bin/env python3
"""What happens on one rank alone and must concern all: numbers that are not finite.

  one_rank.py MOETRAIN [TEST …]"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import Workspace, faults_in, main  # noqa: E402

CONFIG = {"train.steps": 4, "eval.every": 0, "checkpoint.every": 1, "checkpoint.keep_last": 0}


def parameters(path):
    import h5py

    with h5py.File(path, "r") as file:
        found = {}
        for group in ("parameters", "optimizer"):
            file[group].visititems(lambda name, item: found.update({f"{group}/{name}": item[...].tobytes()})
                                   if hasattr(item, "shape") else None)
        return found


def a_gradient_that_is_not_finite_on_one_rank_skips_the_step_on_all(space: Workspace):
    # While it is computed; and in one rank's copy of the sum over ranks, which others do not see.
    computed, summed = "nan:", "nan:in=gradient,tensor=final_norm,"
    places = [(computed, 2, 2, 0), (computed, 2, 2, 1), (computed, 4, 2, 3), (summed, 2, 1, 1), (summed, 2, 2, 1)]
    for fault, ranks, expert, rank in places:
        outcome = space.run("run", dict(CONFIG, **{"parallel.expert": expert}), ranks, fault=f"{fault}rank={rank},step=2")
        assert len(faults_in(outcome)) == 1 and outcome.output.count("step skipped") == 1, outcome
        paths = space.checkpoints("run")
        assert parameters(paths[0]) == parameters(paths[1]) != parameters(paths[2]), "a skipped step changed something"
        assert [row["skipped_steps"] for row in space.metrics("run") if "loss" in row] == [0, 1, 1, 1]
        space.remove("run")
    return len(places)


def too_many_of_them_end_the_run(space: Workspace):
    outcome = space.run("run", dict(CONFIG, **{"train.max_skipped": 2}), ranks=2, code=6, fault="nan:rank=1,times=all")
    assert "2 steps in a row were not finite" in outcome.output, outcome
    return len(faults_in(outcome))


main([a_gradient_that_is_not_finite_on_one_rank_skips_the_step_on_all, too_many_of_them_end_the_run])
