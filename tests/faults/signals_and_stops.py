#!/usr/bin/env python3
"""Signals that arrive in the middle of arithmetic, and ranks that stop without a word.

  signals_and_stops.py MOETRAIN [TEST …]"""
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import ENVIRONMENT, HANG_SECONDS, Workspace, kill, main, ranks_of, wait_until_gone  # noqa: E402

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
    for run, rank in (("run", 2), ("first", 0)):  # also where rank 0, which tells how a run is going, says nothing
        command = space.command(run, config, ranks=4)
        process = space.start(command)
        space.wait_for_step(run, 3, process)
        with open(space.path(run, "status.json")) as file:
            pids = [pid for of_host in json.load(file)["hosts"].values() for pid in of_host]
        assert sorted(pids) == ranks_of(process), pids
        os.kill(pids[rank], signal.SIGSTOP)
        outcome = space.finish(process, command)
        assert outcome.code == 8, f"exit code 8 expected\n{outcome}"
        assert "no progress for 3 s" in outcome.output and "run.hang_timeout" in outcome.output, outcome
        with open(space.path(run, "outcome.json")) as file:
            known = json.load(file)
        assert known["exit_code"] == 8 and known["rank"] != rank and "no progress for 3 s in: " in known["message"], known
        wait_until_gone(pids)


def slow_work_that_goes_on_is_no_hang(space: Workspace):
    """Reading a checkpoint takes longer than run.hang_timeout, but no single read does."""
    if not shutil.which("strace"):
        return
    space.run("run", {"train.steps": 1, "eval.every": 0})
    config = {"train.steps": 2, "eval.every": 0, "run.hang_timeout": 3}
    slow = ["strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=pread64", "-e", "inject=pread64:delay_enter=10000"]
    command = [*slow, *space.command("run", config)[-3:]]
    outcome = space.finish(space.start(command), command)
    assert outcome.code == 0 and "resumed from" in outcome.output, str(outcome)


def a_stopped_rank_ends_an_evaluation_too(space: Workspace):
    space.run("run", {"train.steps": 1, "eval.every": 0})
    with open(space.path("long.txt"), "w") as file:
        file.write("all work and no play " * 500000)
    command = [*space.command("run", {}, ranks=2)[:-2], "evaluate", space.checkpoints("run")[-1],
               f"data.validation={space.path('long.txt')}", "run.hang_timeout=3"]
    process = space.start(command)
    while len(ranks_of(process)) < 2 and process.poll() is None:
        time.sleep(0.01)
    while process.poll() is None and any(int(status(pid, "Threads")) < 4 for pid in ranks_of(process)):
        time.sleep(0.01)  # the watchdog is the last that MPI's two threads are followed by
    pids = ranks_of(process)
    os.kill(pids[1], signal.SIGSTOP)
    outcome = space.finish(process, command)
    assert outcome.code == 8 and "no progress for 3 s" in outcome.output, str(outcome)
    wait_until_gone(pids)


LONG = {"train.steps": 1000000, "eval.every": 0, "checkpoint.every": 0, "log.every": 1000, "log.every_row": "true"}
# A step of a second and more, longer than mpirun waits for its ranks.
SLOW = dict(LONG, **{"model.d_model": 256, "moe.d_ff": 1024, "train.batch": 32, "train.context": 128,
                     "data.validation": "''"})
LAUNCHER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launcher", "mpirun")


def alone(space, run, config):
    return space.command(run, config)[-3:]  # one rank without mpirun, which would keep signals to itself


def status(pid, name):
    with open(f"/proc/{pid}/status") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith(name + ":"))


def a_signal_during_start_up_is_obeyed_before_the_first_step(space: Workspace):
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        command = alone(space, "run", LONG)
        process = space.start(command)
        while int(status(process.pid, "Threads")) == 1 and process.poll() is None:
            pass  # until MPI_Init has begun
        kill(process.pid, number)
        outcome = space.finish(process, command)
        assert outcome.code == 75 and f"stopped by {number.name} after step" in outcome.output, str(outcome)


def each_request_is_obeyed_and_usr2_is_not_one(space: Workspace):
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        run = number.name
        command = alone(space, run, LONG)
        process = space.start(command)
        space.wait_for_step(run, 1, process)
        kill(process.pid, signal.SIGUSR2)
        space.wait_for_step(run, len(space.metrics(run)) + 2, process)
        kill(process.pid, number)
        outcome = space.finish(process, command)
        assert outcome.code == 75 and f"stopped by {number.name} after step" in outcome.output, str(outcome)
        assert len(space.checkpoints(run)) == 1, str(outcome)


def under_nohup_a_closed_terminal_is_no_request(space: Workspace):
    command = alone(space, "run", LONG)
    process = space.start(command, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    space.wait_for_step("run", 1, process)
    kill(process.pid, signal.SIGHUP)
    space.wait_for_step("run", len(space.metrics("run")) + 5, process)
    kill(process.pid, signal.SIGTERM)
    assert space.finish(process, command).code == 75


def a_signal_ends_what_has_nothing_to_save(space: Workspace):
    space.run("run", {"train.steps": 1, "eval.every": 0})
    newest = space.checkpoints("run")[-1]
    command = [space.program, "generate", newest, "--tokens", "1000000"]
    with open(space.path("text"), "wb") as text:
        process = space.start(command, stdout=text, stderr=subprocess.PIPE)
    while os.path.getsize(space.path("text")) < 100 and process.poll() is None:
        time.sleep(0.01)
    kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 75 and "stopped by SIGINT after" in errors, errors


def through(space, config, run="run", ranks=2):
    """launcher/mpirun with two ranks."""
    return [LAUNCHER, *space.command(run, config, ranks)[1:]]


def launcher_mpirun_gives_a_long_step_the_time_to_save(space: Workspace):
    # Ctrl-C and then a closed terminal, as a terminal does it: by the session that it controls.
    for run, config, last_word in (("interrupted", SLOW, b"\x03"), ("closed", LONG, None)):
        command = through(space, config, run)
        terminal, its_end = os.openpty()

        def take_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        process = subprocess.Popen(command, stdin=its_end, stdout=its_end, stderr=its_end, cwd=space.folder,
                                   preexec_fn=take_terminal, env=dict(os.environ, **ENVIRONMENT, OMP_NUM_THREADS="1"))
        os.close(its_end)
        space.wait_for_step(run, 1, process)
        if last_word:
            os.write(terminal, last_word)
            text = b""
            try:
                while chunk := os.read(terminal, 4096):
                    text += chunk
            except OSError:  # the end of a terminal
                pass
            assert b"everything is saved" in text, text.decode()
        os.close(terminal)
        assert process.wait(HANG_SECONDS) == 75, run
        assert len(space.checkpoints(run)) == 1, run


def launcher_mpirun_obeys_at_any_moment_of_the_start(space: Workspace):
    for number, delay in ((signal.SIGUSR1, 0.1), (signal.SIGTERM, 0.2), (signal.SIGHUP, 0.4), (signal.SIGINT, 0.6)):
        command = through(space, LONG)
        process = space.start(command)
        time.sleep(delay)
        kill(process.pid, number)
        outcome = space.finish(process, command)
        assert outcome.code == 75, str(outcome)


def launcher_mpirun_goes_on_when_nobody_reads(space: Workspace):
    words = " ".join(through(space, {"train.steps": 20, "eval.every": 0}))
    done = subprocess.run(["bash", "-c", f"{words} | head -1; exit ${{PIPESTATUS[0]}}"], cwd=space.folder, text=True,
                          env=dict(os.environ, **ENVIRONMENT), capture_output=True, timeout=HANG_SECONDS)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stdout + done.stderr


def launcher_mpirun_passes_exit_codes_on(space: Workspace):
    for config, code in (({"train.steps": 1, "eval.every": 0}, 0), ({"moe.top_k": 99}, 2)):
        command = through(space, config)
        outcome = space.finish(space.start(command), command)
        assert outcome.code == code, str(outcome)


def mpirun_itself_is_answered_before_it_kills(space: Workspace):
    """It leaves with 1 whatever its ranks do; what they can do in its second is to say what is going on."""
    command = space.command("run", SLOW, ranks=2)
    process = space.start(command)
    space.wait_for_step("run", 1, process)
    kill(process.pid, signal.SIGTERM)
    outcome = space.finish(process, command)
    assert outcome.code == 1, str(outcome)
    assert "SIGTERM" in outcome.output, str(outcome)


if __name__ == "__main__":
    main([a_signal_in_the_middle_of_a_matrix_product_is_harmless, a_stopped_rank_ends_the_run_with_exit_code_8,
          a_stopped_rank_ends_an_evaluation_too, slow_work_that_goes_on_is_no_hang, a_signal_during_start_up_is_obeyed_before_the_first_step, each_request_is_obeyed_and_usr2_is_not_one,
          under_nohup_a_closed_terminal_is_no_request, a_signal_ends_what_has_nothing_to_save,
          launcher_mpirun_gives_a_long_step_the_time_to_save, launcher_mpirun_obeys_at_any_moment_of_the_start,
          launcher_mpirun_goes_on_when_nobody_reads, launcher_mpirun_passes_exit_codes_on,
          mpirun_itself_is_answered_before_it_kills])
