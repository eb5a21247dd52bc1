#!/usr/bin/env python3
"""The end of a job's time, from run.max_minutes or from a batch system: the run is saved before and goes on with the same
bits.

  time_limits.py MOETRAIN [TEST …]"""
import json
import os
import re
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "parallel")]
from runs import Workspace, kill, main, write  # noqa: E402
from supervise import LONG, RUN, ask, codes, finish, journal, ranks_of_start, read, start, text, wait_for  # noqa: E402


def a_run_is_saved_before_its_time_is_over_and_goes_on_with_the_same_bits(space: Workspace):
    write(space.path("long.txt"), "abcdefg, hijklmnop\n" * 20000)  # an evaluation that no limit waits for
    limited = dict(LONG, **{"run.max_minutes": 0.15, "train.schedule": "constant", "data.validation": "long.txt", "eval.every": 20, "eval.batches": 0,
                            "checkpoint.async": "true", "checkpoint.every": 7, "checkpoint.keep_last": 1})
    outcome = space.run("run", limited, ranks=2, code=75)
    left = re.search(r"time limit: (\S+) s left, says run.max_minutes; the longest save", outcome.output)
    assert left and float(left[1]) > 0, outcome
    end = read(space, "run", "outcome.json")
    assert end["out_of_time"] and end["message"] == "stopped by the time limit, everything is saved", end
    steps = space.metrics("run")[-1]["step"]
    assert space.checkpoints("run")[-1].endswith(f"step-{steps:08d}.h5"), (steps, space.checkpoints("run"))
    short = {"train.steps": steps + 3, "train.schedule": "constant", "eval.every": 0, "checkpoint.every": 0}
    space.run("run", dict(LONG, **short), ranks=1)
    space.run("unbroken", dict(LONG, **short), ranks=1)
    assert space.digest("run") == space.digest("unbroken"), outcome


def in_a_job(space, seconds):
    """The environment of a Slurm job that ends in so many seconds, as far as the program asks."""
    end_of_job(space, seconds)
    write(space.path("squeue"), f"""#!/bin/sh
[ "$*" = '--noheader --jobs 17 --format=%L' ] || exit 1
left=$(($(cat {space.path("job_end")}) - $(date +%s)))
echo $((left / 60)):$((left % 60))
""")
    os.chmod(space.path("squeue"), 0o755)
    return {"PATH": f"{space.folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}


def end_of_job(space, seconds):
    write(space.path("next"), str(int(time.time()) + seconds))
    os.rename(space.path("next"), space.path("job_end"))


def supervised(space, run, config, seconds, *options):
    before = dict(os.environ)
    os.environ.update(in_a_job(space, seconds))
    try:
        return start(space, run, config, *options)
    finally:
        os.environ.clear()
        os.environ.update(before)


def a_supervisor_leaves_when_the_job_ends_and_not_when_a_rank_does(space: Workspace):
    begin = time.monotonic()
    process = supervised(space, "run", dict(LONG, **{"checkpoint.every": 10}), 600)
    pids = ranks_of_start(space, "run", process, 1)
    space.wait_for_step("run", 3, process)
    told = ask(space, "status", "run")
    assert re.search(r"time limit in \d+m.*, says Slurm job 17", told), told
    end_of_job(space, int(8 + 4 * (time.monotonic() - begin)))  # the next start takes as long, also on a busy machine
    kill(pids[1])
    finish(space, "run", process, code=75)
    assert codes(space, "run") == [137, 75], text(space, "run")
    assert journal(space, "run")[1]["reason"] == "saved before the time limit", journal(space, "run")


def a_start_for_which_there_is_no_time_is_left_to_the_next_job(space: Workspace):
    process = supervised(space, "run", dict(RUN, **{"train.steps": 100000}), 55, "--wait", "300")
    pids = ranks_of_start(space, "run", process, 1)
    space.wait_for_step("run", 3, process)
    kill(pids[1])
    finish(space, "run", process, code=75)
    assert codes(space, "run") == [137] and "the time is over before the next start" in text(space, "run"), text(space, "run")


def a_limit_that_was_changed_holds(space: Workspace):
    process = supervised(space, "run", dict(LONG, **{"checkpoint.every": 10}), 600)
    pids = ranks_of_start(space, "run", process, 1)
    space.wait_for_step("run", 3, process)
    end_of_job(space, 25)  # which the supervisor asks for before the next start
    kill(pids[1])
    ranks_of_start(space, "run", process, 2)
    end_of_job(space, 3600)  # and rank 0 before it stops
    wait_for(space, "run", process, "an hour left", lambda: re.search("time limit in (59m|1h)", ask(space, "status", "run")))
    process.send_signal(signal.SIGTERM)
    finish(space, "run", process, code=75)
    assert codes(space, "run") == [137, 75], text(space, "run")
    assert re.search(r"time limit: \d+s left, says Slurm job 17.*\n(.*\n)*.*time limit changed: ", text(space, "run")), text(space, "run")


if __name__ == "__main__":
    main([a_run_is_saved_before_its_time_is_over_and_goes_on_with_the_same_bits,
          a_supervisor_leaves_when_the_job_ends_and_not_when_a_rank_does,
          a_start_for_which_there_is_no_time_is_left_to_the_next_job, a_limit_that_was_changed_holds])
