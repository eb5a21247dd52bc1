#!/usr/bin/env python3
"""Signals that arrive in the middle of arithmetic, and ranks that stop without a word.

  signals_and_stops.py MOETRAIN [TEST …]"""
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import ENVIRONMENT, HANG_SECONDS, Workspace, faults_in, kill, main, ranks_of, wait_until_gone  # noqa: E402

# Nearly all of a step is matrix products, where a handler that ran on the computing thread's stack would write into
# the heap: the library uses the stack pointer as a data pointer.
PRODUCTS = {"model.d_model": 256, "moe.d_ff": 512, "train.context": 128, "train.steps": 100000,
            "eval.every": 0, "checkpoint.every": 0}


def a_signal_in_the_middle_of_a_matrix_product_is_harmless(space: Workspace):
    for attempt in range(3):
        run = f"run{attempt}"
        command = space.command(run, PRODUCTS)  # without mpirun, which would forward only the first
        process = space.start(command, threads=2)
        space.wait_for_step(run, 1 + attempt, process)
        while process.poll() is None:  # the first is obeyed when the step ends; the others fall into it
            kill(process.pid, random.choice((signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)))
            time.sleep(0.0002)
        outcome = space.finish(process, command)
        assert outcome.code == 75, f"exit code 75 expected\n{outcome}"
        assert len(space.checkpoints(run)) == 1, f"one checkpoint expected\n{outcome}"


def a_stopped_rank_ends_the_run_with_exit_code_8(space: Workspace):
    config = {"train.steps": 100000, "eval.every": 0}
    # Also where rank 0, which tells how a run is going, says nothing; and after a time that was learned.
    for run, rank, limits in (("run", 2, {"run.hang_timeout": 3}), ("first", 0, {"run.hang_timeout": 1e6, "run.hang_floor": 3})):
        command = space.command(run, dict(config, **limits), ranks=4)
        process = space.start(command)
        space.wait_for_step(run, 5, process)
        with open(space.path(run, "status.json")) as file:
            pids = [pid for of_host in json.load(file)["hosts"].values() for pid in of_host]
        assert sorted(pids) == ranks_of(process), pids
        os.kill(pids[rank], signal.SIGSTOP)
        outcome = space.finish(process, command)
        assert outcome.code == 8, f"exit code 8 expected\n{outcome}"
        said = r"no progress for \d+ s in: .*" + ("run.hang_floor" if len(limits) == 2 else "run.hang_timeout sets the limit")
        assert re.search(said, outcome.output), outcome
        with open(space.path(run, "outcome.json")) as file:
            known = json.load(file)
        assert known["exit_code"] == 8 and known["rank"] != rank and "no progress for " in known["message"], known
        stopped = f"rank {rank} on {socket.gethostname()} stopped beating at "
        assert stopped in known["message"] and stopped in outcome.output, f"{known}\n{outcome}"
        number = re.search(r", in collective (\d+) \(\w+ of \d+ bytes", known["message"])[1]
        with open(space.path(run, "health", f"flight-rank-{known['rank']}.txt")) as file:
            flight = file.read().splitlines()
        assert re.fullmatch(rf" +{number} .* not ended .*", flight[-1]), flight[-1]
        numbers = [int(line.split()[0]) for line in flight if line.strip()[:1].isdigit()]
        assert numbers == list(range(numbers[0], int(number) + 1)) and len(numbers) <= 256, numbers
        wait_until_gone(pids)
    space.run("first", dict(config, **{"train.steps": 1}), ranks=2)  # which has fewer ranks, and ends well
    assert not os.path.exists(space.path("first", "health")), os.listdir(space.path("first", "health"))


def a_disk_that_does_not_answer_keeps_no_watchdog(space: Workspace):
    """Whoever touches the lock of the run waits for ever, and then training, which looks at it."""
    if not shutil.which("strace"):
        return
    config = {"train.steps": 100000, "eval.every": 0, "log.every": 100000, "log.every_row": "true", "run.hang_timeout": 3}
    dead = ["strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=utimensat", "-e", "inject=utimensat:delay_enter=1000000000:when=3+"]
    command = [*dead, *space.command("run", config)]
    process = space.start(command)
    space.wait_for_step("run", 3, process)
    wait_until_gone(ranks_of(process))
    process.kill()  # strace, which goes on waiting
    outcome = space.finish(process, command)
    assert "no progress for 3 s in: " in outcome.output, str(outcome)
    with open(space.path("run", "outcome.json")) as file:
        assert json.load(file)["exit_code"] == 8, str(outcome)


def a_reader_that_sleeps_keeps_no_watchdog(space: Workspace):
    """Who should read the log does not, and the pipe is full: the report finds no room in it either."""
    config = {"train.steps": 100000, "eval.every": 0, "log.every": 1, "run.hang_timeout": 3}
    process = space.start(space.command("run", config))  # without mpirun, which would read it
    space.wait_for_step("run", 3, process)
    wait_until_gone([process.pid])
    with open(space.path("run", "outcome.json")) as file:
        assert json.load(file)["exit_code"] == 8


def a_thread_that_saves_hides_no_hang(space: Workspace):
    """Rank 0 waits for rank 1, while its own thread gives a sign of life every two seconds, for minutes."""
    if not shutil.which("strace"):
        return
    config = {"train.steps": 100000, "eval.every": 0, "checkpoint.every": 3, "checkpoint.async": "true", "run.hang_timeout": 4}
    command = space.command("run", config, mpirun=())
    slow = ["strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=sync_file_range", "-e", "inject=sync_file_range:delay_enter=2000000"]
    command = [*command[:-3], *slow, *command[-3:], ":", "-np", "1", *command[-3:]]
    # Before step 6: there rank 0 would wait for its thread, which is no hang.
    process = space.start(command, fault="stop:rank=1,step=5,phase=forward")
    outcome = space.finish(process, command)
    assert outcome.code == 8 and "no progress for 4 s in: " in outcome.output, str(outcome)
    assert not space.checkpoints("run"), f"the thread was waited for\n{outcome}"


def slow_work_that_goes_on_is_no_hang(space: Workspace):
    """Reading a checkpoint takes longer than run.hang_timeout, but no single read does."""
    if not shutil.which("strace"):
        return
    space.run("run", {"train.steps": 1, "eval.every": 0})
    config = {"train.steps": 2, "eval.every": 0, "run.hang_timeout": 3}
    slow = ["strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=pread64", "-e", "inject=pread64:delay_enter=10000"]
    command = [*slow, *space.command("run", config)]
    outcome = space.finish(space.start(command), command)
    assert outcome.code == 0 and "resumed from" in outcome.output, str(outcome)


def a_slow_disk_of_one_rank_is_no_hang_of_the_others(space: Workspace):
    """Rank 1 writes its part of a checkpoint for eight seconds, and rank 0, which has written its own, may be quiet for five."""
    runs = {}
    for mode in ("false", "true"):
        config = {"train.steps": 2, "eval.every": 0, "checkpoint.every": 1, "checkpoint.async": mode, "run.hang_timeout": 5}
        command = space.command(f"async_{mode}", config, ranks=2)
        runs[mode] = command, space.start(command, fault="slow:rank=1,phase=write,ms=1000,times=8")
    for command, process in runs.values():
        outcome = space.finish(process, command)
        assert outcome.code == 0 and len(faults_in(outcome)) == 8, str(outcome)


def a_rank_that_is_stopped_around_mpi_is_noticed(space: Workspace):
    config = {"train.steps": 1, "eval.every": 0, "run.hang_timeout": 3}
    runs = {}
    for phase in ("start", "leave"):
        command = space.command(phase, config, ranks=2)
        runs[phase] = command, space.start(command, fault=f"stop:rank=1,phase={phase}")
    said = r"moetrain: fatal: rank 0 on \S+, process \d+: no progress for \d+ s in: "
    command, process = runs["start"]
    outcome = space.finish(process, command)
    assert outcome.code == 8 and re.search(said + "starting MPI", outcome.output), str(outcome)
    command, process = runs["leave"]
    outcome = space.finish(process, command)
    assert re.search(said + r"leaving MPI.* \(what was to be done had been done, and that exit code stands\)", outcome.output), str(outcome)
    with open(space.path("leave", "outcome.json")) as file:
        assert json.load(file)["exit_code"] == 0, str(outcome)
    assert len(space.checkpoints("leave")) == 1, str(outcome)


def reads(pid, name):
    """Whether the process has a file of that name open."""
    try:
        return any(os.path.basename(os.readlink(f"/proc/{pid}/fd/{fd}")) == name for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:  # gone, or a file was closed meanwhile
        return False


def a_stopped_rank_ends_an_evaluation_too(space: Workspace):
    space.run("run", {"train.steps": 1, "eval.every": 0})
    with open(space.path("long.txt"), "w") as file:
        file.write("a bad old magpie climbed on, and on, and on\n" * 250000)
    command = [*space.command("run", {}, ranks=2)[:-2], "evaluate", space.checkpoints("run")[-1],
               f"data.validation={space.path('long.txt')}", "eval.batches=0", "run.hang_timeout=3"]
    process = space.start(command)
    while len(ranks_of(process)) < 2 and process.poll() is None:
        time.sleep(0.01)
    pids = ranks_of(process)
    while process.poll() is None and not all(reads(pid, "long.txt") for pid in pids):
        time.sleep(0.01)  # the watchdog knows run.hang_timeout by then
    os.kill(pids[1], signal.SIGSTOP)
    outcome = space.finish(process, command)
    assert outcome.code == 8 and "no progress for 3 s" in outcome.output, str(outcome)
    wait_until_gone(pids)


def a_slow_rank_is_named_and_changes_no_bit(space: Workspace):
    """The data of rank 1 lie on a slow disk: 16 reads a step take 320 ms, and the step of rank 0 some."""
    if not shutil.which("strace"):
        return
    config = {"train.steps": 12, "eval.every": 0, "data.validation": "''", "log.straggler_steps": 5}
    command = space.command("run", config, mpirun=())
    slow = ["strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=pread64", "-e", "inject=pread64:delay_enter=20000"]
    command = [*command, ":", "-np", "1", *slow, *command[-3:]]
    outcome = space.finish(space.start(command), command)
    assert outcome.code == 0, str(outcome)
    named = re.findall(r"rank (\d) on \S+ is a straggler", outcome.output)
    assert "1" in named, str(outcome)
    told = subprocess.run([space.program, "status", space.path("run")], capture_output=True, text=True).stdout
    assert re.search(r"slowest rank 1 on \S+, score 0\.\d\d .*: a straggler", told), told
    with open(space.path("run", "metrics.jsonl")) as file:
        rows = [json.loads(line) for line in file]
    assert all(row["slowest_rank"] in (0, 1) and 0 < row["slowest_score"] <= 1 for row in rows), rows
    space.run("unslowed", dict(config, **{"log.straggler_steps": 0}))
    assert space.digest("run") == space.digest("unslowed"), str(outcome)


LONG = {"train.steps": 1000000, "eval.every": 0, "checkpoint.every": 0, "log.every": 1000, "log.every_row": "true"}
# A step of a second and more, longer than mpirun waits for its ranks.
SLOW = dict(LONG, **{"model.d_model": 256, "moe.d_ff": 1024, "train.batch": 32, "train.context": 128,
                     "data.validation": "''"})
LAUNCHER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launcher", "mpirun")


def status(pid, name):
    with open(f"/proc/{pid}/status") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith(name + ":"))


def a_signal_during_start_up_is_obeyed_before_the_first_step(space: Workspace):
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        command = space.command("run", LONG)
        process = space.start(command)
        while int(status(process.pid, "Threads")) == 1 and process.poll() is None:
            pass  # until MPI_Init has begun
        kill(process.pid, number)
        outcome = space.finish(process, command)
        assert outcome.code == 75 and f"stopped by {number.name} after step" in outcome.output, str(outcome)


def each_request_is_obeyed_and_usr2_is_not_one(space: Workspace):
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        run = number.name
        command = space.command(run, LONG)
        process = space.start(command)
        space.wait_for_step(run, 1, process)
        kill(process.pid, signal.SIGUSR2)
        space.wait_for_step(run, len(space.metrics(run)) + 2, process)
        kill(process.pid, number)
        outcome = space.finish(process, command)
        assert outcome.code == 75 and f"stopped by {number.name} after step" in outcome.output, str(outcome)
        assert len(space.checkpoints(run)) == 1, str(outcome)


def under_nohup_a_closed_terminal_is_no_request(space: Workspace):
    command = space.command("run", LONG)
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
    process = space.start(command, merciful=True)
    space.wait_for_step("run", 1, process)
    kill(process.pid, signal.SIGTERM)
    outcome = space.finish(process, command)
    assert outcome.code == 1, str(outcome)
    assert "SIGTERM" in outcome.output, str(outcome)


if __name__ == "__main__":
    main([a_signal_in_the_middle_of_a_matrix_product_is_harmless, a_stopped_rank_ends_the_run_with_exit_code_8,
          a_rank_that_is_stopped_around_mpi_is_noticed, a_stopped_rank_ends_an_evaluation_too, a_disk_that_does_not_answer_keeps_no_watchdog,
          a_reader_that_sleeps_keeps_no_watchdog, a_slow_rank_is_named_and_changes_no_bit, a_thread_that_saves_hides_no_hang,
          slow_work_that_goes_on_is_no_hang, a_slow_disk_of_one_rank_is_no_hang_of_the_others,
          a_signal_during_start_up_is_obeyed_before_the_first_step, each_request_is_obeyed_and_usr2_is_not_one,
          under_nohup_a_closed_terminal_is_no_request, a_signal_ends_what_has_nothing_to_save,
          launcher_mpirun_gives_a_long_step_the_time_to_save, launcher_mpirun_obeys_at_any_moment_of_the_start,
          launcher_mpirun_goes_on_when_nobody_reads, launcher_mpirun_passes_exit_codes_on,
          mpirun_itself_is_answered_before_it_kills])
