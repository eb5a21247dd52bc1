#!/usr/bin/env python3
"""A checkpoint that cannot be read is not a damaged one: whoever reads it ends with exit code 5 and says so. No older one is
taken instead, and nothing is removed or renamed.

  read_errors.py MOETRAIN [TEST …]"""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import Workspace, main  # noqa: E402


def listing(folder):
    return sorted((name, os.stat(os.path.join(folder, name)).st_size) for name in os.listdir(folder))


def every_reader_says_so_and_leaves_everything_alone(space: Workspace):
    config = {"train.steps": 4, "checkpoint.every": 2, "checkpoint.keep_last": 0, "eval.every": 0}
    space.run("run", config)
    folder = space.path("run", "checkpoints")
    newest = space.checkpoints("run")[-1]
    before = listing(folder)
    train = space.command("run", dict(config, **{"train.steps": 6}))
    go_on, branch = train, [*train, f"resume={space.checkpoints('run')[0]}", "resume.allow=train.steps"]
    program = train[0]
    readers = {
        "resume": go_on, "branch": branch, "evaluate": [program, "evaluate", space.path("run")],
        "generate": [program, "generate", newest, "--prompt", "a"], "inspect": [program, "inspect", newest],
        "digest": [program, "inspect", "--digest", newest], "verify": [program, "checkpoint", "verify", space.path("run")],
        "diff": [program, "checkpoint", "diff", newest, space.checkpoints("run")[0]],
        "export-npz": [program, "checkpoint", "export-npz", newest, space.path("out.npz")],
        "prune": [program, "checkpoint", "prune", space.path("run"), "--keep-last", "1"],
    }
    for name, command in readers.items():
        # the header; what follows it
        for number in ("1", "2", "4"):
            broken = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", newest, "-e", "trace=pread64",
                      "-e", f"inject=pread64:error=EIO:when={number}+"]
            outcome = space.finish(space.start([*broken, *command]), command)
            assert outcome.code == 5, f"{name}, read {number}: exit code 5 expected\n{outcome}"
            assert "Input/output error" in outcome.output, f"{name}, read {number}\n{outcome}"
            assert "damaged" not in outcome.output.replace("or are damaged", ""), f"{name}\n{outcome}"
            assert listing(folder) == before, f"{name}, read {number}: {listing(folder)}"
    assert not os.path.exists(space.path("out.npz"))

    # A branch that begins from a copy looks in the run's folder for what it is a copy of.
    oldest = space.checkpoints("run")[0]
    shutil.copy(oldest, space.path("copy.h5"))
    command = [*train, f"resume={space.path('copy.h5')}"]
    broken = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", oldest, "-e", "trace=pread64", "-e", "inject=pread64:error=EIO"]
    outcome = space.finish(space.start([*broken, *command]), command)
    assert outcome.code == 5 and "Input/output error" in outcome.output, str(outcome)
    assert listing(folder) == before, f"given up because it could not be read: {listing(folder)}"


if __name__ == "__main__":
    if not shutil.which("strace") or subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"]).returncode != 0:
        print("skipped: no strace, or ptrace is not permitted")
        sys.exit(77)
    main([every_reader_says_so_and_leaves_everything_alone])
