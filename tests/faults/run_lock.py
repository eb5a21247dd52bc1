#!/usr/bin/env python3
"""RUN/lock: who holds it, who is thought dead, and who has been replaced.

  run_lock.py MOETRAIN [TEST …]"""
import os
import re
import shutil
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import IDLE, Workspace, kill, main, wait_until_gone  # noqa: E402

LONG = {"train.steps": 1000000, "eval.every": 0, "checkpoint.every": 0, "log.every": 1000, "log.every_row": "true"}
SHORT = {"train.steps": 1, "eval.every": 0}
# As on a file system without flock().
NO_FLOCK = ["strace", "-f", "-q", "-e", "trace=flock", "-e", "inject=flock:error=ENOSYS", "-o", "/dev/null"]
ELSEWHERE = "host h7 machine another-boot/pid:[1] pid 4242 started 99 job 17 ranks 4 since 2026-01-01T00:00:00Z\n"


def start(space, run, config, before=(), fault=IDLE):
    """One rank; its process id is the one that the lock names, also behind strace."""
    command = [*before, *space.command(run, config)]
    process = space.start(command, fault=fault)
    space.wait_for_step(run, 1, process)
    return process, command, holder(space, run)


def record(space, run):
    with open(space.path(run, "lock")) as file:
        return file.read()


def holder(space, run):
    named = re.search(r" pid (\d+) ", record(space, run))
    assert named, "the lock names nobody"
    return int(named[1])


def again(space, run, config, code, *parts, before=()):
    command = [*before, *space.command(run, config)]
    outcome = space.finish(space.start(command), command)
    assert outcome.code == code, f"exit code {code} expected\n{outcome}"
    for part in parts:
        assert part in outcome.output, f"'{part}' expected\n{outcome}"
    return outcome


def stop(space, process, command, pid):
    kill(pid, signal.SIGTERM)
    outcome = space.finish(process, command)
    assert outcome.code == 75, str(outcome)


def a_second_job_is_told_who_trains_here(space: Workspace):
    process, command, pid = start(space, "run", LONG)
    again(space, "run", LONG, 9, f"process {pid} on {os.uname().nodename}", "1 rank, since 20")
    stop(space, process, command, pid)
    assert record(space, "run") == "", "a lock that is released names nobody"
    outcome = again(space, "run", dict(LONG, **{"train.steps": 2}), 0)
    assert "taken over" not in outcome.output, str(outcome)


def a_killed_holder_is_named_and_replaced_at_once(space: Workspace):
    process, command, pid = start(space, "run", LONG)
    kill(pid)
    space.finish(process, command)
    again(space, "run", SHORT, 0, f"process {pid}", "ended without a word: taken over")


def a_stopped_holder_makes_the_next_job_try_later(space: Workspace):
    process, command, pid = start(space, "run", LONG)
    kill(pid, signal.SIGSTOP)
    again(space, "run", LONG, 75, f"process {pid}", "has not answered for")
    kill(pid, signal.SIGCONT)
    stop(space, process, command, pid)


def a_copy_of_a_folder_in_use_is_free(space: Workspace):
    process, command, pid = start(space, "run", LONG)
    shutil.copytree(space.path("run"), space.path("copy"))
    outcome = again(space, "copy", SHORT, 0)
    assert "taken over" not in outcome.output, str(outcome)
    stop(space, process, command, pid)


def a_holder_that_was_replaced_in_its_sleep_writes_nothing_more(space: Workspace):
    config = dict(LONG, **{"checkpoint.every": 1, "checkpoint.keep_last": 0})
    process, command, pid = start(space, "run", config, fault=None)  # most of its time it saves
    kill(pid, signal.SIGSTOP)
    time.sleep(4)  # longer than a holder may be silent
    with open(space.path("run", "lock"), "w") as file:
        file.write(ELSEWHERE)
    rows, checkpoints = len(space.metrics("run")), space.checkpoints("run")
    kill(pid, signal.SIGCONT)
    outcome = space.finish(process, command)
    assert outcome.code == 9 and "replaced this one" in outcome.output, str(outcome)
    assert len(space.metrics("run")) <= rows + 1, "rows were written after the run was lost"
    assert space.checkpoints("run") == checkpoints, "a checkpoint was written after the run was lost"
    assert record(space, "run") == ELSEWHERE, "the new holder's lock was touched"


def a_holder_on_another_host_is_gone_when_the_file_stands_still(space: Workspace):
    os.makedirs(space.path("run"))
    with open(space.path("run", "lock"), "w") as file:
        file.write(ELSEWHERE)
    again(space, "run", SHORT, 0, "job 17, process 4242 on h7 (4 ranks, since 2026", "does not answer any more: taken over")


def without_flock_the_beats_of_the_holder_count(space: Workspace):
    process, command, pid = start(space, "run", LONG, before=NO_FLOCK)
    again(space, "run", LONG, 9, f"process {pid}", before=NO_FLOCK)
    kill(pid)
    space.finish(process, command)
    again(space, "run", SHORT, 0, f"process {pid}", "taken over", before=NO_FLOCK)

    # On another host nothing proves a death, but a minute of silence.
    with open(space.path("run", "lock"), "w") as file:
        file.write(ELSEWHERE)
    again(space, "run", SHORT, 75, "process 4242 on h7", "has not answered", before=NO_FLOCK)
    old = time.time() - 100
    os.utime(space.path("run", "lock"), (old, old))
    again(space, "run", SHORT, 0, "process 4242 on h7", "taken over", before=NO_FLOCK)


def a_lock_that_is_a_link_is_not_followed(space: Workspace):
    os.makedirs(space.path("run"))
    os.symlink(space.path("elsewhere"), space.path("run", "lock"))
    again(space, "run", SHORT, 5, "lock")
    assert not os.path.exists(space.path("elsewhere"))


def a_restart_waits_for_ranks_that_are_dying(space: Workspace):
    command = space.command("run", LONG, ranks=2)
    process = space.start(command)
    space.wait_for_step("run", 1, process)
    pid = holder(space, "run")
    process.kill()  # mpirun; its ranks notice a second later
    process.communicate()
    space.run("run", dict(LONG, **{"train.steps": 2}), ranks=2)
    wait_until_gone([pid])


tests = [a_second_job_is_told_who_trains_here, a_killed_holder_is_named_and_replaced_at_once,
         a_stopped_holder_makes_the_next_job_try_later, a_copy_of_a_folder_in_use_is_free,
         a_holder_that_was_replaced_in_its_sleep_writes_nothing_more,
         a_holder_on_another_host_is_gone_when_the_file_stands_still, a_lock_that_is_a_link_is_not_followed,
         a_restart_waits_for_ranks_that_are_dying]
if shutil.which("strace"):
    tests.append(without_flock_the_beats_of_the_holder_count)
main(tests)
