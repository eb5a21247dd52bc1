#!/usr/bin/env python3
"""`moetrain supervise`: runs that are killed, stopped, diverge, find their disk full or have lost hosts end with the bits of
the unbroken run, or say why they cannot.

  supervise.py MOETRAIN [TEST …]"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import HANG_SECONDS, IDLE, Workspace, kill, main, wait_until_gone, write  # noqa: E402

HANG = 5 * HANG_SECONDS  # several starts
RUN = {"train.steps": 80, "log.every": 1, "eval.every": 0, "checkpoint.every": 10, "checkpoint.keep_last": 0, "data.validation": "''",
       "run.hang_timeout": 5}


def start(space, run, config, *options, ranks=2, before=(), fault=None):
    """`moetrain supervise` in the background, its output in a file."""
    keys = space.command(run, config)[-2:]
    command = [*before, space.program, "supervise", keys[0], "-np", str(ranks), "--wait", "0.1", *options, keys[1]]
    with open(space.path(f"{run}.out"), "a") as file:
        return space.start(command, stdout=file, fault=fault)


def text(space, run):
    with open(space.path(f"{run}.out"), errors="replace") as file:
        return file.read()


def finish(space, run, process, code=0):
    try:
        process.wait(HANG)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise AssertionError(f"hang\n{text(space, run)}") from None
    assert process.returncode == code, f"exit code {process.returncode}, not {code}\n{text(space, run)}"


def read(space, run, name):
    try:
        with open(space.path(run, name)) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def wait_for(space, run, process, what, true):
    deadline = time.monotonic() + HANG
    while True:
        found = true()
        if found:
            return found
        assert process.poll() is None and time.monotonic() < deadline, f"never {what}\n{text(space, run)}"
        time.sleep(0.01)


def ranks_of_start(space, run, process, number):
    """The ranks' pids, once start N holds the run directory."""
    def look():
        status = read(space, run, "status.json")
        return status.get("attempt", "").endswith(f"/{number}") and [pid for pids in status["hosts"].values() for pid in pids]
    return wait_for(space, run, process, f"start {number}", look)


def journal(space, run):
    with open(space.path(run, "attempts.jsonl")) as file:
        return [row for row in map(json.loads, file) if "exit_code" in row]


def codes(space, run):
    return [row["exit_code"] for row in journal(space, run)]


def parent(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


def a_run_that_is_killed_and_stopped_ends_with_the_same_bits(space: Workspace):
    # All ranks, so that no watchdog is left to say so. Their supervisor loses patience while the other run goes on.
    stopped = start(space, "stopped", RUN, fault=space.slow_after(11))
    frozen = ranks_of_start(space, "stopped", stopped, 1)
    space.wait_for_step("stopped", 11, stopped)
    for pid in frozen:
        kill(pid, signal.SIGSTOP)
    process = start(space, "run", dict(RUN, resume="never"), fault=space.slow_after(11))  # resume binds the first start alone
    pids = ranks_of_start(space, "run", process, 1)
    space.wait_for_step("run", 11, process)
    kill(pids[1])
    pids += ranks_of_start(space, "run", process, 2)
    kill(parent(pids[-1]))  # mpirun, whose ranks live on for a second
    pids += ranks_of_start(space, "run", process, 3)
    space.hurry()
    finish(space, "run", process)
    finish(space, "stopped", stopped)
    wait_until_gone(pids + frozen)
    assert codes(space, "run") == [137, 137, 0], journal(space, "run")
    assert [row["action"] for row in journal(space, "run")] == 2 * ["restart"] + ["leave"]
    assert journal(space, "run")[2]["first_step"] >= 10, journal(space, "run")
    assert codes(space, "stopped") == [8, 0], journal(space, "stopped")
    assert "no sign of life" in journal(space, "stopped")[0]["message"], journal(space, "stopped")
    space.run("unbroken", RUN)
    for run in ("run", "stopped"):
        assert space.digest(run) == space.digest("unbroken"), text(space, run)


# Stands for ssh. All hosts are this one under other names; one for which there is a file gone-HOST does not answer.
AGENT = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
host=$1; shift
[ ! -e "${0%/*}/gone-$host" ] || exit 1
exec unshare --uts sh -c "hostname $host; $*"
"""


def a_run_whose_host_is_lost_goes_on_with_fewer_ranks_and_the_same_bits(space: Workspace):
    if subprocess.run(["unshare", "--uts", "true"], check=False, capture_output=True).returncode != 0:
        return
    agent = space.path("agent")
    write(agent, AGENT)
    os.chmod(agent, 0o755)
    os.environ["OMPI_MCA_plm_rsh_agent"] = agent
    try:
        process = start(space, "run", RUN, "--hosts", "h1:1,h2:1", fault=space.slow_after(11))
        ranks_of_start(space, "run", process, 1)
        lost = read(space, "run", "status.json")["hosts"]["h2"][0]
        space.wait_for_step("run", 11, process)
        write(space.path("gone-h2"), "")
        for pid in (parent(lost), lost):
            kill(pid)
        ranks_of_start(space, "run", process, 2)
        space.hurry()
        finish(space, "run", process)
    finally:
        del os.environ["OMPI_MCA_plm_rsh_agent"]
    assert [row["ranks"] for row in journal(space, "run")] == [2, 1], journal(space, "run")
    assert "host h2 does not answer" in text(space, "run"), text(space, "run")
    space.run("unbroken", RUN)
    assert space.digest("run") == space.digest("unbroken"), text(space, "run")


def a_request_to_stop_is_passed_on_and_the_same_command_goes_on(space: Workspace):
    process = start(space, "run", RUN, fault=space.slow_after(3))
    space.wait_for_step("run", 3, process)
    second = start(space, "run", RUN)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    finish(space, "run", process, code=75)
    finish(space, "run", second)  # waits some seconds for the one before
    assert codes(space, "run") == [75, 0], journal(space, "run")
    space.run("unbroken", RUN)
    assert space.digest("run") == space.digest("unbroken"), text(space, "run")


LONG = dict(RUN, **{"train.steps": 1000000, "checkpoint.every": 0, "log.every": 1000, "log.every_row": "true"})


def a_second_supervisor_is_refused_and_one_that_is_killed_leaves_a_saved_run(space: Workspace):
    process = start(space, "run", LONG, ranks=1, fault=IDLE)
    pids = ranks_of_start(space, "run", process, 1)
    space.wait_for_step("run", 3, process)
    others = [start(space, "run", LONG)]  # at once: each waits some seconds for the one before
    if shutil.which("strace"):  # as on a file system without flock()
        others.append(start(space, "run", LONG, before=["strace", "-f", "-q", "-e", "trace=flock", "-e",
                                                        "inject=flock:error=ENOSYS", "-o", "/dev/null"]))
    for other in others:
        finish(space, "run", other, code=9)
    assert text(space, "run").count("another job") == len(others), text(space, "run")
    process.kill()
    process.wait()
    wait_until_gone(pids)
    assert read(space, "run", "outcome.json")["exit_code"] == 75, text(space, "run")
    steps = read(space, "run", "outcome.json")["step"]
    process = start(space, "run", dict(LONG, **{"train.steps": steps + 1}))
    finish(space, "run", process)
    assert "taken over" in text(space, "run"), text(space, "run")


def ask(space, *words, code=0):
    done = subprocess.run([space.program, *words], cwd=space.folder, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == code, f"{words}: exit code {done.returncode}, not {code}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


class Daemon:
    def __init__(self, pid):
        self.pid = pid

    def poll(self):
        return None if os.path.exists(f"/proc/{self.pid}") else 0


def what_is_asked_of_a_run_is_done_by_all_ranks_after_one_step_and_outlives_a_restart(space: Workspace):
    run = "run-" + "long-" * 30 + "path"  # longer than the address of a socket may be
    process = start(space, run, dict(LONG, **{"train.schedule": "constant"}), "--daemon")
    finish(space, run, process)
    daemon = Daemon(int(text(space, run).split("supervise: process ")[1].split()[0]))
    os.remove(space.path(f"{run}.out"))
    os.symlink(space.path(run, "supervise.log"), space.path(f"{run}.out"))
    try:
        space.wait_for_step(run, 3, daemon)
        assert os.stat(space.path(run, "control.sock")).st_mode & 0o777 == 0o600
        assert json.loads(ask(space, "status", run, "--json"))["state"] == "running"
        ask(space, "checkpoint-now", run)
        wait_for(space, run, daemon, "a checkpoint", lambda: space.checkpoints(run))
        for words, part in ((("train.lr", "101"), "0 to 100"), (("train.batch", "4"), "these can: log.every"),
                            (("train.lr", "1;x"), "no request")):
            assert part in ask(space, "set", run, *words, code=2), words
        ask(space, "set", run, "train.lr", "0.0005")
        changed = wait_for(space, run, daemon, "the rate", lambda: [row for row in space.metrics(run) if row["lr"] == 0.0005])
        assert all(row["lr"] == 0.003 for row in space.metrics(run) if 0 < row["step"] < changed[0]["step"] and row["step"] > 1)
        kill(ranks_of_start(space, run, daemon, 1)[1])
        ranks_of_start(space, run, daemon, 2)
        wait_for(space, run, daemon, "the second start", lambda: read(space, run, "status.json").get("lr"))
        assert read(space, run, "status.json")["lr"] == 0.0005
        ask(space, "stop", run)
        wait_until_gone([daemon.pid])
        assert codes(space, run) == [137, 75], journal(space, run)
        with open(space.path(run, "config.yaml")) as file:
            assert "\ntrain.lr: 0.0005\n" in file.read()
        assert "no supervisor answers" in ask(space, "stop", run, code=2)
        told = ask(space, "status", run)
        assert "set train.lr=0.0005" in told and "start 1 ended" in told, told
    finally:
        kill(daemon.pid)


def wrapper(space, name, lines):
    """A launcher of the user: mpirun, with words that a shell script adds to each start."""
    path = space.path(name)
    write(path, f"#!/bin/bash\nranks=$1; shift\n{lines}\nexec mpirun -np $ranks \"$@\"\n")
    os.chmod(path, 0o755)
    return ["--launcher", f"'{path}' {{np}}"]


# Weights that grow a hundredfold in each step.
RUINOUS = "train.lr=100 train.weight_decay=1"
DIVERGES = {"train.steps": 40, "eval.every": 0, "checkpoint.every": 0, "train.max_skipped": 2, "data.validation": "''"}


def a_run_that_diverges_goes_back_and_gives_up_when_that_does_not_help(space: Workspace):
    for run in ("once", "always", "unbroken"):
        space.run(run, dict(DIVERGES, **{"train.steps": 10}))
    once = wrapper(space, "once.sh", 'case $MOETRAIN_ATTEMPT in */1) set -- "$@" ' + RUINOUS + ";; esac")
    process = start(space, "once", DIVERGES, *once)
    finish(space, "once", process)
    assert codes(space, "once") == [6, 0], journal(space, "once")
    assert journal(space, "once")[1]["first_step"] == 10, journal(space, "once")
    space.run("unbroken", DIVERGES)
    assert space.digest("once") == space.digest("unbroken"), text(space, "once")
    process = start(space, "always", DIVERGES, *wrapper(space, "always.sh", f'set -- "$@" {RUINOUS}'))
    finish(space, "always", process, code=6)
    assert codes(space, "always") == [6, 6], journal(space, "always")
    assert "twice after step" in journal(space, "always")[1]["reason"], journal(space, "always")


def what_no_restart_mends_ends_at_once(space: Workspace):
    process = start(space, "refused", dict(RUN, **{"moe.top_k": 99}))
    finish(space, "refused", process, code=2)
    assert not os.path.exists(space.path("refused")), "nothing is begun"
    write(space.path("empty.txt"), "")
    process = start(space, "data", dict(RUN, **{"data.train": "empty.txt"}))
    finish(space, "data", process, code=3)
    assert codes(space, "data") == [3], journal(space, "data")
    os.makedirs(space.path("damaged", "checkpoints"))
    write(space.path("damaged", "checkpoints", "step-00000005.h5"), "no checkpoint")
    process = start(space, "damaged", RUN)
    finish(space, "damaged", process, code=4)
    assert codes(space, "damaged") == [4], journal(space, "damaged")
    process = start(space, "launcher", RUN, "--launcher", "no-such-launcher -n {np}")
    finish(space, "launcher", process, code=127)
    assert codes(space, "launcher") == [127], journal(space, "launcher")


def a_launcher_that_never_ends_is_not_waited_for(space: Workspace):
    """What the ranks have written is the outcome, as where mpirun waits for a host that is cut off."""
    endless = wrapper(space, "endless.sh", 'mpirun -np $ranks "$@"; exec sleep 100000')
    process = start(space, "run", dict(RUN, **{"train.steps": 3}), *endless)
    finish(space, "run", process)
    assert codes(space, "run") == [0] and journal(space, "run")[0]["launcher_code"] == 137, journal(space, "run")
    assert "its launcher does not" in text(space, "run"), text(space, "run")


def a_full_disk_is_waited_for(space: Workspace):
    """A launcher that says 5 stands for a run that could not save; the disk is a real one."""
    if os.getuid() != 0:
        return
    os.mkdir(space.path("run"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "none", space.path("run")], check=True)
    try:
        write(space.path("run", "other-files"), b"\0" * (40 << 20))
        full = wrapper(space, "full.sh", "case $MOETRAIN_ATTEMPT in */1) exit 5;; esac")
        process = start(space, "run", dict(RUN, **{"train.steps": 3}), *full)
        wait_for(space, "run", process, "waits", lambda: "waiting for room" in text(space, "run"))
        os.remove(space.path("run", "other-files"))
        finish(space, "run", process)
        assert codes(space, "run") == [5, 0], journal(space, "run")
    finally:
        subprocess.run(["umount", space.path("run")], check=True)


if __name__ == "__main__":
    main([a_run_that_is_killed_and_stopped_ends_with_the_same_bits,
          a_run_whose_host_is_lost_goes_on_with_fewer_ranks_and_the_same_bits,
          a_request_to_stop_is_passed_on_and_the_same_command_goes_on,
          a_second_supervisor_is_refused_and_one_that_is_killed_leaves_a_saved_run,
          what_is_asked_of_a_run_is_done_by_all_ranks_after_one_step_and_outlives_a_restart,
          a_run_that_diverges_goes_back_and_gives_up_when_that_does_not_help,
          what_no_restart_mends_ends_at_once, a_launcher_that_never_ends_is_not_waited_for, a_full_disk_is_waited_for])
