#!/usr/bin/env python3
"""Signals that arrive in the middle of arithmetic, and ranks that stop without a word.

  signals_and_stops.py MOETRAIN [TEST …]"""
import os
import random
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import Workspace, kill, main, ranks_of, wait_until_gone  # noqa: E402

# Nearly all of a step is matrix products, where a handler that ran on the computing thread's stack would write into
# the heap: the library uses the stack pointer as a data pointer.
PRODUCTS = {"model.d_model": 256, "moe.d_ff": 512, "train.context": 128, "train.steps": 100000,
            "eval.every": 0, "checkpoint.every": 0}


def a_signal_in_the_middle_of_a_matrix_product_is_harmless(space: Workspace):
    for attempt in range(3):
        run = f"run{attempt}"
        command = space.command(run, PRODUCTS, ranks=1)[-3:]  # without mpirun, which would forward only the first
        process = space.start(command, threads=2)
        space.wait_for_step(run, 1 + attempt, process)
        while process.poll() is None:  # the first is obeyed when the step ends; the others fall into it
            kill(process.pid, random.choice((signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)))
            time.sleep(0.0002)
        outcome = space.finish(process, command)
        assert outcome.code == 75, f"exit code 75 expected\n{outcome}"
        assert len(space.checkpoints(run)) == 1, f"one checkpoint expected\n{outcome}"


def a_stopped_rank_ends_the_run_with_exit_code_8(space: Workspace):
    config = {"train.steps": 100000, "eval.every": 0, "run.hang_timeout": 3}
    command = space.command("run", config, ranks=4)
    process = space.start(command)
    space.wait_for_step("run", 3, process)
    pids = ranks_of(process)
    os.kill(pids[2], signal.SIGSTOP)
    outcome = space.finish(process, command)
    assert outcome.code == 8, f"exit code 8 expected\n{outcome}"
    assert "no progress for 3 s" in outcome.output and "run.hang_timeout" in outcome.output, outcome
    wait_until_gone(pids)


if __name__ == "__main__":
    main([a_signal_in_the_middle_of_a_matrix_product_is_harmless, a_stopped_rank_ends_the_run_with_exit_code_8])
