#!/usr/bin/env python3
"""A supervised run among faults that come by chance: killed and stopped ranks, a killed mpirun, full disks, requests to stop
after which it goes on with another number of ranks. It ends with the digest of the unbroken run.

  soak.py MOETRAIN [FAULTS [SEED]]      four faults unless told otherwise; FAULTS_ALL=1: 240 of them, twenty minutes"""
import os
import random
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from supervise import HANG, RUN, finish, parent, read, start, text, wait_for  # noqa: E402
from runs import Workspace, kill, main  # noqa: E402

FAULTS = int(sys.argv[2]) if len(sys.argv) > 2 else 240 if os.environ.get("FAULTS_ALL") else 4
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else 7
del sys.argv[2:]
STEPS_A_FAULT, STEPS_BEHIND = 25, 100


class Soak:
    def __init__(self, space, source):
        self.space, self.source = space, source
        self.config = dict(RUN, **{"train.steps": STEPS_A_FAULT * FAULTS + STEPS_BEHIND, "train.schedule": "constant",
                                   "checkpoint.keep_last": 2, "run.hang_timeout": 3})
        self.process = None

    def start(self):
        # Where ranks outlive their mpirun for a second the next fault must not find the run done.
        self.process = start(self.space, "run", self.config, ranks=self.source.choice((1, 2, 4)),
                             fault=self.space.slow_after(STEPS_A_FAULT, ms=50))

    def ranks(self):
        """Those that are alive, once there are some."""
        def look():
            status = read(self.space, "run", "status.json")
            pids = [pid for of_host in status.get("hosts", {}).values() for pid in of_host]
            return pids if pids and all(os.path.exists(f"/proc/{pid}") for pid in pids) else None
        return wait_for(self.space, "run", self.process, "ranks", look)

    def kill_rank(self):
        kill(self.source.choice(self.ranks()))

    def kill_mpirun(self):
        launcher = parent(self.ranks()[0])
        if launcher != self.process.pid:  # of ranks whose mpirun has just been killed it is the supervisor
            kill(launcher)

    def stop_rank(self):
        kill(self.source.choice(self.ranks()), signal.SIGSTOP)

    def stop_all_ranks(self):
        for pid in self.ranks():
            kill(pid, signal.SIGSTOP)

    def other_ranks(self):
        self.ranks()
        self.process.send_signal(self.source.choice((signal.SIGUSR1, signal.SIGTERM)))
        code = self.process.wait(HANG)
        # Saved; or the fault before this one has just ended the ranks, and nothing is started any more.
        assert code in (75, 137, 8), f"exit code {code}\n{text(self.space, 'run')[-3000:]}"
        self.start()

    def full_disk(self):
        """Until a save or a row has failed. As root alone: there the disk is one of its own."""
        if os.getuid() != 0:
            return
        said = text(self.space, "run").count("free")
        self.ranks()
        with open(self.space.path("run", "filler"), "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        try:
            wait_for(self.space, "run", self.process, "a full disk",
                     lambda: text(self.space, "run").count("free") > said or "No space" in text(self.space, "run"))
        finally:
            os.remove(self.space.path("run", "filler"))


def faults_by_chance_change_no_bit(space: Workspace):
    print(f"{FAULTS} faults, seed {SEED}", flush=True)
    soak = Soak(space, random.Random(SEED))
    kinds = [soak.kill_rank, soak.kill_mpirun, soak.stop_rank, soak.stop_all_ranks, soak.other_ranks, soak.full_disk]
    os.mkdir(space.path("run"))
    if os.getuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", space.path("run")], check=True)
    try:
        soak.start()
        for fault in range(FAULTS):
            space.wait_for_step("run", 1 + fault * STEPS_A_FAULT + soak.source.randrange(STEPS_A_FAULT), soak.process)
            kind = soak.source.choice(kinds)
            print(f"  {kind.__name__}", flush=True)
            kind()
        space.hurry()
        finish(space, "run", soak.process)
        result = space.digest("run")
    except AssertionError as error:
        lines = [line for line in text(space, "run").splitlines() if not line.startswith(("step ", "saved "))]
        raise AssertionError(f"{str(error)[:200]}\n" + "\n".join(lines[-60:])) from None
    finally:
        if os.getuid() == 0:
            subprocess.run(["umount", "-l", space.path("run")], check=True)
    space.run("unbroken", soak.config)
    assert result == space.digest("unbroken"), text(space, "run")
    return FAULTS


if __name__ == "__main__":
    main([faults_by_chance_change_no_bit])
