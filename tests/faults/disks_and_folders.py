#!/usr/bin/env python3
"""What disks and people do to the folder of a run that is alive: a disk that is full for a while or for good, folders that
cannot be written, links that lead elsewhere, a folder that is removed or moved away.

  disks_and_folders.py MOETRAIN [TEST …]"""
import atexit
import ctypes
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import HANG_SECONDS, IDLE, Workspace, main, write  # noqa: E402

LONG = {"train.steps": 1000000, "eval.every": 0, "checkpoint.every": 20}


def start(space, run, config, ranks=1, **how):
    """In the background, its output in a file that grows."""
    command = space.command(run, config, ranks)
    output = space.path(f"{run}.out")
    with open(output, "w") as file:
        process = space.start(command, stdout=file, **how)
    atexit.register(process.kill)  # after a failed test
    return process, command, output


def read(path):
    with open(path, errors="replace") as file:
        return file.read()


def wait_for(output, pattern, process, after=0):
    """Until the output has the pattern, behind its first characters; returns the match."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        over = process.poll() is not None
        found = re.search(pattern, read(output)[after:])
        if found:
            return found
        assert not over, f"ended with {process.returncode} before '{pattern}'\n{read(output)}"
        time.sleep(0.02)
    raise AssertionError(f"never '{pattern}'\n{read(output)[-3000:]}")


def stop(process, output, code=75):
    process.send_signal(signal.SIGUSR1)
    process.wait(HANG_SECONDS)
    assert process.returncode == code, f"exit code {process.returncode}, not {code}\n{read(output)[-3000:]}"


def halt(pid):
    """SIGSTOP, until each thread has stopped."""
    def stands(thread):
        try:
            return read(f"/proc/{pid}/task/{thread}/stat").rsplit(")", 1)[1].split()[0] == "T"
        except FileNotFoundError:  # it has just ended
            return True
    os.kill(pid, signal.SIGSTOP)
    while not all(map(stands, os.listdir(f"/proc/{pid}/task"))):
        time.sleep(0.01)


def rows(space, run):
    """Every line is a JSON object; the steps of the training rows grow."""
    found = [json.loads(line) for line in read(space.path(run, "metrics.jsonl")).splitlines()]
    steps = [row["step"] for row in found if "loss" in row]
    assert steps == sorted(set(steps)), steps
    return found


def steps_saved(space, run):
    return [int(path[-11:-3]) for path in space.checkpoints(run)]


# Where a checkpoint cannot be made as long as it stands there; needs no right to mount.
def block(folder):
    os.rename(folder, f"{folder}.aside")
    write(folder, "in the way")


def unblock(folder):
    os.remove(folder)
    os.rename(f"{folder}.aside", folder)


def a_save_that_fails_is_tried_again_while_training_goes_on(space: Workspace, **more):
    process, _, output = start(space, "run", dict(LONG, **more), ranks=2)
    wait_for(output, r"saved .*step-00000020\.h5", process)
    block(space.path("run", "checkpoints"))
    failed = int(wait_for(output, r"warning: step (\d+) is not saved: .*training goes on", process)[1])
    wait_for(output, rf"step {failed + 25}/", process)  # past the next save, which changes nothing before patience ends
    unblock(space.path("run", "checkpoints"))
    saved = int(wait_for(output, rf"(?s)step {failed} is not saved.*saved [^\n]*step-(\d+)\.h5", process)[1])
    assert saved > failed, "the state of the moment is saved, not that of the failure"
    after = int(wait_for(output, rf"(?s)saved [^\n]*step-{saved:08d}\.h5.*?saved [^\n]*step-(\d+)\.h5", process)[1])
    assert after == saved - saved % 20 + 20, f"the next save, of step {after}, is not one of checkpoint.every"
    stop(process, output)
    assert read(output).count("is not saved") == 1, f"one warning, not one an attempt\n{read(output)}"
    assert not [name for name in os.listdir(space.path("run", "checkpoints")) if name.endswith(".tmp")]
    rows(space, "run")


def so_is_one_that_training_does_not_wait_for(space: Workspace):
    a_save_that_fails_is_tried_again_while_training_goes_on(space, **{"checkpoint.async": "true"})


def training_goes_on_beside_a_slow_save_until_the_next_is_due(space: Workspace):
    """The save of step 2 takes longer than steps 3 and 4, and holds step 2 all the same."""
    config = {"train.steps": 6, "eval.every": 0, "checkpoint.every": 2, "checkpoint.async": "true", "log.every": 1}
    space.run("plain", dict(config, **{"checkpoint.async": "false"}))
    said = space.run("run", config, fault="slow:call=fsync,file=step-00000002.h5.tmp,ms=3000").output
    saved = re.search(r"saved [^\n]*step-00000002\.h5", said)
    assert said.find("\nstep 4/6") < saved.start() < said.find("\nstep 5/6"), said
    assert steps_saved(space, "run") == steps_saved(space, "plain") == [2, 4, 6], "none is left out"
    for one, other in zip(space.checkpoints("run"), space.checkpoints("plain")):
        digests = [subprocess.run([space.program, "inspect", "--digest", path], capture_output=True, text=True,
                                  check=True).stdout for path in (one, other)]
        assert digests[0] == digests[1], f"{one}: another state"


def a_disk_that_is_full_for_a_moment_costs_neither_run_nor_rows(space: Workspace):
    disk = space.path("disk")
    os.mkdir(disk)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode != 0:
        print("left out: a small file system cannot be mounted")
        return
    try:
        os.mkdir(f"{disk}/run")
        os.symlink(f"{disk}/run", space.path("run"))
        process, _, output = start(space, "run", dict(LONG, **{"checkpoint.keep_last": 1, "log.utilization_every": 1000000}))
        wait_for(output, r"saved .*step-00000020\.h5", process)
        with open(f"{disk}/filler", "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 1024):
                    pass
            except OSError:
                pass
        wait_for(output, r"warning: .*metrics\.jsonl: cannot write: No space left", process)
        wait_for(output, r"warning: step \d+ is not saved: .*free", process)
        before = steps_saved(space, "run")
        os.remove(f"{disk}/filler")
        wait_for(output, r"metrics\.jsonl is written again; \d+ rows are missing", process)
        wait_for(output, r"(?s)is not saved.*saved ", process)
        stop(process, output)
        assert before and steps_saved(space, "run")[-1] > before[-1]
        assert rows(space, "run")[-1]["step"] == steps_saved(space, "run")[-1]
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


class SmallDisk:
    """A tmpfs for the checkpoints of one run; `there` is False where none can be mounted."""

    def __init__(self, space, run, megabytes):
        self.path = space.path(f"{run}-disk")
        os.mkdir(self.path)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", self.path]
        self.there = subprocess.run(mount, capture_output=True).returncode == 0
        if not self.there:
            print("left out: a small file system cannot be mounted")
            return
        atexit.register(self.unmount)
        os.makedirs(space.path(run))
        os.symlink(self.path, space.path(run, "checkpoints"))

    def take(self, name, left):
        """All room but `left` bytes, also what another writer gives back meanwhile."""
        with open(f"{self.path}/{name}", "ab", buffering=0) as file:
            try:
                while os.statvfs(self.path).f_bavail * 4096 > left:
                    file.write(bytes(1 << 18 if left else 1 << 20))
            except OSError:
                pass

    def give_back(self, name):
        os.remove(f"{self.path}/{name}")

    def unmount(self):
        subprocess.run(["umount", "-l", self.path], capture_output=True)


# A checkpoint of some 20 MB, whose writing takes a while.
LARGE = dict(LONG, **{"moe.d_ff": 1024, "checkpoint.async": "true", "checkpoint.keep_last": 1, "train.batch": 8,
                      "train.shards": 8, "log.utilization_every": 1000000})


def fill_while_a_thread_writes(space, disk, run, process, output):
    """Between the look for room and the writing, at the first save at which that succeeds."""
    libc = ctypes.CDLL(None)
    size = os.path.getsize(space.checkpoints(run)[-1])
    disk.take("filler", int(1.1 * size) + (3 << 20))
    watch = libc.inotify_init()
    libc.inotify_add_watch(watch, disk.path.encode(), 0x100)  # IN_CREATE
    for _ in range(200):
        seen = len(read(output))
        while b".tmp" not in os.read(watch, 4096):
            pass
        disk.take("more", 0)
        if "No space left" in wait_for(output, r"(is not saved: .*|saved .*step-.*)\n", process, seen)[0]:
            os.close(watch)
            disk.take("more", 0)  # what was written of the one that failed
            return
        disk.give_back("more")
    raise AssertionError(f"the disk was never full in time\n{read(output)[-3000:]}")


def a_disk_that_fills_while_a_thread_writes_costs_nothing_once_there_is_room(space: Workspace):
    disk = SmallDisk(space, "run", 100)
    if not disk.there:
        return
    process, _, output = start(space, "run", LARGE)
    wait_for(output, r"saved .*step-00000020\.h5", process)
    fill_while_a_thread_writes(space, disk, "run", process, output)
    failed = int(re.findall(r"warning: step (\d+) is not saved: .*No space left on device; training goes on", read(output))[0])
    wait_for(output, rf"step {failed + 25}/", process)
    assert not [name for name in os.listdir(disk.path) if name.endswith(".tmp")], "what failed is left"
    assert steps_saved(space, "run") and steps_saved(space, "run")[-1] < failed
    disk.give_back("more")
    disk.give_back("filler")
    wait_for(output, rf"(?s)step {failed} is not saved.*saved ", process)
    stop(process, output)
    assert steps_saved(space, "run")[-1] > failed
    space.run("run", dict(LARGE, **{"train.steps": steps_saved(space, "run")[-1] + 1}))  # it holds
    disk.unmount()


def a_disk_that_stays_full_ends_the_run_with_exit_code_5(space: Workspace):
    # All at once, because all wait: one at its last save, one on its way, one whose thread met it.
    disk = SmallDisk(space, "behind", 100)
    behind = start(space, "behind", LARGE, fault=IDLE) if disk.there else None
    if behind:
        wait_for(behind[2], r"saved .*step-00000020\.h5", behind[0])
        fill_while_a_thread_writes(space, disk, "behind", behind[0], behind[2])
    last = start(space, "last", dict(LONG, **{"checkpoint.every": 0}), fault=IDLE)
    periodic = start(space, "periodic", LONG, fault=IDLE)
    for (process, _, output), run in ((last, "last"), (periodic, "periodic")):
        wait_for(output, r"step 30/", process)
        block(space.path(run, "checkpoints"))
    last[0].send_signal(signal.SIGUSR1)
    for process, _, output in (last, periodic, behind) if behind else (last, periodic):
        process.wait(HANG_SECONDS)
        text = read(output)
        assert process.returncode == 5, f"exit code {process.returncode}\n{text[-3000:]}"
        errors = [line for line in text.splitlines() if line.startswith("moetrain: error: ")]
        assert len(errors) == 1 and "not saved at step" in errors[0] and "checkpoints" in errors[0], errors
        assert "stopped by" not in text
    unblock(space.path("periodic", "checkpoints"))
    space.run("periodic", {"train.steps": steps_saved(space, "periodic")[-1] + 1})  # what there was is intact
    disk.unmount()


def a_folder_that_takes_no_checkpoint_ends_the_run_before_step_1(space: Workspace):
    os.mkdir(space.path("run"))
    write(space.path("run", "checkpoints"), "a file")
    outcome = space.run("run", {}, ranks=2, code=5)
    assert "checkpoints exists and is not a directory" in outcome.output and "\nstep 1/" not in outcome.output, outcome
    os.remove(space.path("run", "checkpoints"))
    os.symlink(space.path("nowhere"), space.path("run", "checkpoints"))
    outcome = space.run("run", {}, code=5)
    assert "\nstep 1/" not in outcome.output, outcome
    os.remove(space.path("run", "checkpoints"))

    few = (16 << 20, resource.RLIM_INFINITY)
    process, _, output = start(space, "run", {"model.d_model": 256, "moe.d_ff": 256},
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, few))
    assert process.wait(HANG_SECONDS) == 5, read(output)
    assert "ulimit -f" in read(output) and "\nstep 1/" not in read(output), read(output)
    space.run("run", {})


def no_file_is_written_through_a_link(space: Workspace):
    elsewhere = space.path("elsewhere")
    write(elsewhere, "keep\n")
    config = {"train.steps": 4, "checkpoint.every": 2}
    for number, (name, code) in enumerate([
            ("metrics.jsonl", 5), ("starts.jsonl", 5), ("lock", 5), ("config.yaml", 0), ("config.yaml.tmp", 0),
            ("metrics.jsonl.tmp", 0), ("checkpoints/step-00000002.h5.tmp", 0), ("checkpoints/step-00000000.h5.tmp", 0)]):
        run = f"run{number}"
        os.makedirs(space.path(run, "checkpoints"))
        os.symlink(elsewhere, space.path(run, name))
        command = space.command(run, config)
        outcome = space.finish(space.start(command), command)
        assert outcome.code == code, f"{name}: exit code {code} expected\n{outcome}"
        assert code == 0 or "link" in outcome.output, f"{name}\n{outcome}"
        assert read(elsewhere) == "keep\n", f"{name} was written through"

    # A folder elsewhere is another matter: checkpoints often belong on a larger disk.
    os.makedirs(space.path("large", "checkpoints"))
    os.makedirs(space.path("large", "run"))
    os.symlink(space.path("large", "run"), space.path("linked"))
    os.symlink(space.path("large", "checkpoints"), space.path("linked", "checkpoints"))
    space.run("linked", config)
    space.run("linked", dict(config, **{"train.steps": 6}))
    assert os.listdir(space.path("large", "checkpoints")) and os.path.islink(space.path("linked", "checkpoints"))
    assert [row["step"] for row in rows(space, "linked") if "loss" in row] == [1, 2, 3, 4, 5, 6]


def a_folder_that_vanishes_is_noticed_and_made_anew(space: Workspace):
    process, _, output = start(space, "run", LONG)
    # Without rows, whose writing notices it too.
    behind, _, said = start(space, "behind", dict(LONG, **{"checkpoint.async": "true", "log.every": 1000000}))
    wait_for(said, r"saved ", behind)
    os.rename(space.path("behind"), space.path("moved-behind"))
    wait_for(said, r"(?s)warning: run\.dir [^\n]* is made anew.*saved ", behind)
    stop(behind, said)
    wait_for(output, r"saved ", process)
    second = space.command("run", LONG)
    for remove in (lambda path: os.rename(path, space.path("moved")), lambda path: os.remove(os.path.join(path, "lock")),
                   shutil.rmtree):
        before = len(read(output))
        halt(process.pid)  # removing takes its time: what came back meanwhile would be removed too
        remove(space.path("run"))
        process.send_signal(signal.SIGCONT)
        wait_for(output, r"(?s)warning: run\.dir [^\n]* is made anew.*saved .*saved ", process, before)
        names = set(os.listdir(space.path("run")))
        assert {"config.yaml", "lock", "checkpoints", "metrics.jsonl"} <= names, names
    outcome = space.finish(space.start(second), second)
    assert outcome.code == 9 and "run.dir" in outcome.output, f"a second job starts\n{outcome}"
    stop(process, output)
    assert steps_saved(space, "run") and rows(space, "run")
    assert steps_saved(space, "moved") and rows(space, "moved"), "what was moved away is whole"


def two_commands_with_the_same_output_do_not_disturb_each_other(space: Workspace):
    """The second begins while the first waits for the disk: it is told so, and the first ends as if alone."""
    config = {"train.steps": 1, "eval.every": 0, "model.mixer": "attention", "checkpoint.every": 1}
    space.run("routed", config)
    space.run("dense", dict(config, **{"moe.experts": 0}))
    routed, dense = space.checkpoints("routed")[-1], space.checkpoints("dense")[-1]
    text = space.path("text.txt")
    write(text, "In the beginning God created the heaven and the earth. " * 9)
    for name, words in (("analysis", ["analyse", routed, "--data", text, "-o"]), ("new.h5", ["upcycle", dense, "moe.experts=4"]),
                        ("dense.npz", ["checkpoint", "export-npz", dense]), ("hf", ["export", "hf", dense])):
        out = space.path("out")
        os.makedirs(out)
        path, output = os.path.join(out, name), space.path(f"{name}.out")
        command = [space.program, *words, path]
        with open(output, "w") as file:
            first = space.start(command, stdout=file, fault="slow:call=fsync,ms=500,times=1000")
        atexit.register(first.kill)
        deadline = time.monotonic() + HANG_SECONDS
        while not os.listdir(out) and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        second = space.finish(space.start(command), command)
        assert second.code == 5 and f"process {first.pid} is making it" in second.output, second
        first.wait(HANG_SECONDS)
        assert first.returncode == 0, read(output)
        assert os.listdir(out) == [name], os.listdir(out)
        shutil.rmtree(out)


def what_prune_cannot_remove_ends_it_with_exit_code_5(space: Workspace):
    space.run("run", {"train.steps": 3, "eval.every": 0, "checkpoint.every": 1, "checkpoint.keep_last": 0})
    command = [space.program, "checkpoint", "prune", space.path("run"), "--keep-last", "1"]
    outcome = space.finish(space.start(command, fault="io:call=unlink,file=step-,times=all,errno=EACCES"), command)
    assert outcome.code == 5 and "2 checkpoints that were to be removed stay" in outcome.output, outcome
    assert outcome.output.count("warning: cannot remove") == 2 and "0 of 3 checkpoints removed" in outcome.output, outcome


if __name__ == "__main__":
    main([a_save_that_fails_is_tried_again_while_training_goes_on, so_is_one_that_training_does_not_wait_for,
          training_goes_on_beside_a_slow_save_until_the_next_is_due,
          a_disk_that_is_full_for_a_moment_costs_neither_run_nor_rows,
          a_disk_that_fills_while_a_thread_writes_costs_nothing_once_there_is_room,
          a_disk_that_stays_full_ends_the_run_with_exit_code_5,
          a_folder_that_takes_no_checkpoint_ends_the_run_before_step_1, no_file_is_written_through_a_link,
          a_folder_that_vanishes_is_noticed_and_made_anew, two_commands_with_the_same_output_do_not_disturb_each_other,
          what_prune_cannot_remove_ends_it_with_exit_code_5])
