#!/usr/bin/env python3
"""kill -9 of each rank in each phase of a run, one after the other in a run that goes on every time: no kill costs more than
the step that was not saved yet, and the run ends as the unbroken one does.

  kills_by_phase.py MOETRAIN [TEST …]     a sample; FAULTS_ALL=1: each rank of two and four, with asynchronous saves too"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import Workspace, difference, faults_in, main  # noqa: E402

AT_START = ["init", "load"]
IN_A_STEP = ["step", "data", "forward", "all-to-all", "backward", "optimizer", "eval", "write", "commit"]
IN_A_SAVE = ["write", "commit"]  # there what other ranks still do matters: they have the time that mpirun gives
CONFIG = {"train.steps": 100, "checkpoint.every": 1, "eval.every": 1, "train.schedule": "constant", "train.micro_batches": 2,
          "moe.capacity_factor": 1, "moe.drop": "random", "log.utilization_every": 7}


def newest(space, run):
    return int(space.checkpoints(run)[-1][-11:-3])


def kill_everywhere(space, ranks, config, places, behind=0):
    """behind: steps more that may be lost, of saves that training does not wait for."""
    space.run("killed", dict(config, **{"train.steps": 1}), ranks)
    for phase, rank in places:
        before = newest(space, "killed")
        step = 0 if phase in AT_START else before + 2
        outcome = space.run("killed", config, ranks, code=137, fault=f"kill:rank={rank},step={step},phase={phase}",
                            merciful=phase in IN_A_SAVE)
        assert len(faults_in(outcome)) == 1, outcome
        assert not [line for line in outcome.output.splitlines() if "warning" in line and "taken over" not in line], outcome
        if phase not in AT_START:
            assert f"step-{before:08d}.h5 at step {before}" in outcome.output, outcome
        now, kept = newest(space, "killed"), before if phase in AT_START else before + 1
        assert kept - behind <= now <= kept, f"killed in {phase}: step {now}, not {kept}\n{outcome}"
    steps = newest(space, "killed") + 2
    space.run("killed", dict(config, **{"train.steps": steps}), ranks)
    space.run("unbroken", dict(config, **{"train.steps": steps, "checkpoint.every": 0}), ranks)
    wanted = space.result("unbroken")
    assert space.result("killed") == wanted, difference(space.metrics("killed"), wanted[0])
    return len(places)


def everywhere(ranks):
    return [(phase, rank) for phase in AT_START + IN_A_STEP for rank in range(ranks)]


def a_kill_in_any_phase_costs_one_step(space: Workspace):
    if EVERY:
        return kill_everywhere(space, 2, CONFIG, everywhere(2))
    return kill_everywhere(space, 2, CONFIG, [(phase, i % 2) for i, phase in enumerate(AT_START + IN_A_STEP)])


def also_where_four_ranks_do_not_wait_for_saves(space: Workspace):
    config = dict(CONFIG, **{"checkpoint.async": "true"})
    if not EVERY:
        return kill_everywhere(space, 4, config, [("optimizer", 2), ("write", 3), ("commit", 1)], behind=1)
    return kill_everywhere(space, 4, CONFIG, everywhere(4)) + \
        kill_everywhere(Workspace(space.program), 2, config, everywhere(2), behind=1) + \
        kill_everywhere(Workspace(space.program), 4, config, everywhere(4), behind=1)


EVERY = bool(os.environ.get("FAULTS_ALL"))
main([a_kill_in_any_phase_costs_one_step, also_where_four_ranks_do_not_wait_for_saves])
