#!/usr/bin/env python3
"""In a debug build ranks that call different collectives, or the same with other arguments, end with one message that names
both, instead of hanging.

  mismatch.py PLANTED_MISMATCH"""
import os
import subprocess
import sys

from runs import ENVIRONMENT, HANG_SECONDS, launcher

# What rank 1 does otherwise, and what the message says of rank 0 and of rank 1.
PLANTS = {
    "length": ("all_reduce_sum", "8 x f32", "7 x f32"),
    "nothing_at_all": ("all_reduce_sum", "8 x f32", "0 x f32"),
    "dtype": ("all_reduce_sum", "8 x f32", "8 x i32"),
    "order": ("all_reduce_sum", "fixed tree", "any order"),
    "kind": ("all_reduce_sum", "gradients", "statistics"),
    "root": ("broadcast", "from 0", "from 1"),
    "call": ("", "all_reduce_sum", "barrier"),
    "group_of_all": ("barrier", "group 1", "group 0"),
    "agreement": ("", "comm_agree", "broadcast"),
}


def run(program, *words, ranks=4):
    command = [*launcher(ranks), program, *words]
    return subprocess.run(command, env=dict(os.environ, **ENVIRONMENT), stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=HANG_SECONDS)


def main(program):
    failed = 0

    def expect(what, true, done):
        nonlocal failed
        failed += not true
        print(f"{'ok    ' if true else 'FAILED'}  {what}", "" if true else done.stdout, flush=True)

    done = run(program)
    expect("equal calls go through", done.returncode == 0 and "fatal" not in done.stdout, done)
    for plant, (call, first, second) in PLANTS.items():
        done = run(program, plant)
        fatal = [line for line in done.stdout.splitlines() if "moetrain: fatal: " in line]
        ok = done.returncode != 0 and len(fatal) == 1
        if ok:
            head, _, tail = fatal[0].partition("; rank 1 on ")
            ok = call in head and first in head and "rank 0 on " in head and call in tail and second in tail
        expect(f"another {plant.replace('_', ' ')} is named", ok, done)
    done = run(program, "rows")
    expect("a wrong number of rows is named", done.returncode != 0
           and "sends 2 rows to rank 1, which expects 3" in done.stdout, done)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
