#!/usr/bin/env python3
"""kill -9 of mpirun or of a rank at random moments of starting, training and saving; then the same command again, until
the run is done. The final digest and metrics.jsonl are those of the unbroken run, and no kill costs more than the
steps since the newest complete checkpoint, here one. (kills_by_phase.py kills ranks at known places.)

  kill9.py MOETRAIN [SEED]     mpirun thrice and a rank; FAULTS_ALL=1: six ranks more"""
import glob
import os
import random
import re
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import Workspace, difference, kill, ranks_of, wait_until_gone  # noqa: E402

ALL = bool(os.environ.get("FAULTS_ALL"))
STEPS = 250 if ALL else 100
# What is killed while what; the order, the rank and the very moment are random.
KILLS = [("mpirun", "training"), ("mpirun", "saving"), ("mpirun", "start"), ("rank", "saving")]
if ALL:
    KILLS += [("rank", "start"), *[("rank", "training")] * 2, *[("rank", "saving")] * 3]
CONFIG = {
    "train.steps": STEPS, "checkpoint.every": 1, "moe.capacity_factor": 1, "moe.drop": "random",
    "train.micro_batches": 2, "log.utilization_every": 7, "eval.every": 50,
}


def last_step(space, run):
    """Of metrics.jsonl, which tells of a step before it is saved."""
    path = space.path(run, "metrics.jsonl")
    if not os.path.exists(path):
        return 0
    with open(path) as file:
        steps = [int(match) for match in re.findall(r'^{"step":(\d+),"loss"', file.read(), re.M)]
    return steps[-1] if steps else 0


def wait_for_moment(space, moment, process, chance):
    """Returns at a random moment of the wanted kind, or when the run ends by itself."""
    if moment == "start":
        time.sleep(chance.uniform(0, 0.6))
        return
    begin, folder = last_step(space, "killed"), space.path("killed", "checkpoints")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if moment == "saving" and glob.glob(os.path.join(folder, "*.tmp")) and last_step(space, "killed") > begin:
            time.sleep(chance.uniform(0, 0.03))  # anywhere between the first byte and the pruning
            return
        if moment == "training" and last_step(space, "killed") > begin + 1:
            time.sleep(chance.uniform(0, 0.1))
            return
        time.sleep(0.0005)


def kill_one(process, victim, chance):
    """Stops mpirun, so that it starts nothing more, kills it or a rank, and waits until every process is gone. Left alone the
    other ranks train on for a second, on a fast machine to the end of the run: they are killed after a few steps, as by a
    host that goes down."""
    kill(process.pid, signal.SIGSTOP)
    ranks = ranks_of(process)
    victim = chance.choice(ranks) if ranks and victim == "rank" else process.pid
    kill(victim)
    kill(process.pid, signal.SIGCONT)
    time.sleep(chance.uniform(0, 0.1))
    for rank in ranks:
        kill(rank)
    output, _ = process.communicate(timeout=120)
    wait_until_gone(ranks)
    return "mpirun" if victim == process.pid else f"rank {ranks.index(victim)}", output


def warnings(output):
    """All but that of the lock, whose holder was killed."""
    return [line for line in output.splitlines() if "warning" in line and "taken over" not in line]


def main():
    space, seed = Workspace(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    chance = random.Random(seed)
    space.run("unbroken", dict(CONFIG, **{"checkpoint.every": 0}), ranks=2)
    wanted = space.result("unbroken")

    done_before = 0  # steps that metrics.jsonl told of when the last kill came
    for number, (victim, moment) in enumerate(chance.sample(KILLS, len(KILLS))):
        ranks = chance.choice([2, 2, 4])
        process = space.start(space.command("killed", CONFIG, ranks), fault=space.slow_after(8))
        wait_for_moment(space, moment, process, chance)
        assert process.poll() is None, f"the run ended before kill {number}:\n{process.communicate()[0]}"
        victim, output = kill_one(process, victim, chance)
        torn = len(glob.glob(space.path("killed", "checkpoints", "*.tmp")))
        resumed = re.search(r"resumed from .* at step (\d+)", output)
        if resumed:
            assert int(resumed.group(1)) >= done_before - 1, f"lost steps before step {done_before}:\n{output}"
        elif re.search(r"^step ", output, re.M):
            assert done_before <= 1, f"began anew after step {done_before}:\n{output}"
        assert process.returncode != 0, f"exit code 0 after kill -9 of {victim}:\n{output}"
        assert not warnings(output), f"a kill left a damaged checkpoint under its final name\n{output}"
        done_before = last_step(space, "killed")
        print(f"kill {number + 1}: {victim} of {ranks} ranks while {moment}, after step {done_before}"
              f"{', half a checkpoint left' if torn else ''}", flush=True)

    outcome = space.run("killed", dict(CONFIG, **{"checkpoint.every": 100}), ranks=2)
    assert done_before > 3, f"the kills came too early to mean anything: after step {done_before}"
    assert space.result("killed") == wanted, difference(space.metrics("killed"), wanted[0])
    assert not warnings(outcome.output), f"a kill left a damaged checkpoint\n{outcome}"
    assert not glob.glob(space.path("killed", "checkpoints", "*.tmp")), "temporary files stay"
    print(f"ok      after kills at random moments, seed {seed}, the run ends as the unbroken one does ({len(KILLS)} faults)")


main()
