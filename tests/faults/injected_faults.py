#!/usr/bin/env python3
"""Faults on request (inject/fault.h): each kind does what it says, once and where it says; what is misspelt is refused; the
product knows nothing of them.

  injected_faults.py MOETRAIN [TEST …]"""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import Workspace, faults_in, main, write  # noqa: E402

SHORT = {"train.steps": 3, "eval.every": 2, "checkpoint.every": 2}


def what_is_misspelt_is_refused(space: Workspace):
    for text, parts in ((
            "kil:rank=0", ["unknown kind 'kil'", "did you mean 'kill'"]), ("kill:rnk=0", ["unknown key 'rnk'"]),
            ("kill:phase=forwards", ["unknown phase", "'forward'"]), ("kill:ms=5", ["kill has no ms="]),
            ("kill:rank=-1", ["rank=-1 is no whole number"]), ("io:errno=EFUL", ["unknown errno"]),
            ("kill:nth=0", ["nth=0"]), ("kill:until=", ["until="]), ("flip:in=weights", ["unknown in"]), (";", ["no fault"]),
            ("", ["no fault"]), ("scale:factor=x", ["factor=x is no number"]), ("kill;kill:times=", ["times="]),
            (";".join(["kill"] * 17), ["more than 16"])):
        command = space.command("run", SHORT)
        outcome = space.finish(space.start(command, fault=text), command)
        assert outcome.code == 2, outcome
        errors = [line for line in outcome.output.splitlines() if line.startswith("moetrain: error: MOETRAIN_FAULT: ")]
        assert len(errors) == 1 and all(part in errors[0] for part in parts), f"{text}\n{outcome}"
    assert not os.path.exists(space.path("run"))


def the_product_does_not_know_them(space: Workspace):
    os.environ["MOETRAIN_FAULT"] = "kill"
    try:
        space.run("product", SHORT)
    finally:
        del os.environ["MOETRAIN_FAULT"]
    assert faults_in(space.run("faulty", SHORT, fault="kill:step=99")) == []
    assert space.result("product") == space.result("faulty")


def a_file_ends_what_lasts_until_it_is_there(space: Workspace):
    lasting = f"slow:phase=step,ms=1,times=all,until={space.path('there')}"
    assert len(faults_in(space.run("before", SHORT, fault=lasting))) == SHORT["train.steps"]
    write(space.path("there"), "")
    assert faults_in(space.run("after", SHORT, fault=lasting)) == []


def numbers_change_on_one_rank(space: Workspace):
    # What finds them is off: damaged_numbers.py.
    unchecked = dict(SHORT, **{"run.check_replicas_every": 0, "run.check_exchanges": "off"})
    space.run("unbroken", SHORT, ranks=2)
    wanted = space.digest("unbroken")
    for fault in ("flip:rank=1,step=2,bit=30", "flip:in=gradient,rank=1,step=2,tensor=final_norm",
                  "flip:in=message,rank=1,step=2,bit=30", "flip:in=activation,rank=1,step=2,bit=30",
                  "scale:in=activation,step=2,factor=3", "spike:step=2"):
        outcome = space.run("run", dict(unchecked, resume="never"), ranks=2, fault=fault)
        assert len(faults_in(outcome)) == (1 if "rank=" in fault else 2), f"{fault}\n{outcome}"
        assert space.digest("run") != wanted, f"{fault} changes nothing\n{outcome}"
        space.remove("run")
    outcome = space.run("run", SHORT, ranks=2, code=2, fault="flip:tensor=final_nrom")
    assert "no such parameter" in outcome.output, outcome


def writes(outcome):
    return sum("pwrite of" in line for line in faults_in(outcome))


def a_call_fails_or_is_short(space: Workspace):
    space.run("unbroken", SHORT)
    wanted = space.result("unbroken")
    for number, fault in enumerate(("short:times=all", "io:call=pwrite,errno=EINTR,file=checkpoints",
                                    "slow:call=fsync,ms=1;slow:phase=forward,ms=1,step=2")):
        outcome = space.run(f"run{number}", SHORT, fault=fault)
        assert len(faults_in(outcome)) >= fault.count(";") + 1, f"{fault}\n{outcome}"
        assert space.result(f"run{number}") == wanted, fault
    whole, short = (writes(space.run(f"{number}", SHORT, fault=fault)) for number, fault in enumerate((
        "slow:call=pwrite,ms=1,times=all", "short:call=pwrite,times=all")))
    assert short > whole, f"{whole} writes become {short} when each is short"
    outcome = space.run("run", SHORT, code=5, fault="io:call=mkdir,errno=EROFS")
    assert "Read-only file system" in outcome.output and "mkdir of" in faults_in(outcome)[0], outcome


def memory_is_refused(space: Workspace):
    outcome = space.run("run", SHORT, code=5, fault="alloc:step=0,nth=100")
    assert "memory" in outcome.output and "allocation of" in faults_in(outcome)[0], outcome


def a_process_is_stopped_or_killed(space: Workspace):
    command = space.command("run", SHORT)
    process = space.start(command, fault="stop:step=2,phase=optimizer;kill:step=3,phase=backward,nth=2")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status) and space.metrics("run")[-1]["step"] == 1
    os.kill(process.pid, signal.SIGCONT)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL and "in step 3: backward" in output, output


main([what_is_misspelt_is_refused, the_product_does_not_know_them, a_file_ends_what_lasts_until_it_is_there,
      numbers_change_on_one_rank, a_call_fails_or_is_short, memory_is_refused, a_process_is_stopped_or_killed])
