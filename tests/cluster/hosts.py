#!/usr/bin/env python3
"""Training over several hosts with mpirun across them: the network fails for a while or for ever, and a host dies. Exit
code 77 where that cannot be played here.

  hosts.py MOETRAIN [TEST …]"""
import json
import os
import re
import subprocess
import sys
import time

import namespaces

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parallel"))
from runs import ENVIRONMENT, HANG_SECONDS, MERCIFUL, Workspace, difference, kill, main  # noqa: E402

SOURCE = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
hosts = None


def start(space, run, config, *command, steps):
    """`command` on h1 in the background, before the words of the configuration; its output in a file. The run is slow after
    so many steps."""
    # Merciful: ranks write how the run ended when mpirun has lost a host.
    environment = dict(os.environ, **{**ENVIRONMENT, **MERCIFUL, **hosts.mpi}, OMP_NUM_THREADS="1", OMPI_MCA_rmaps_base_oversubscribe="1",
                       OMPI_MCA_hwloc_base_binding_policy="none", MOETRAIN_FAULT=space.slow_after(steps))
    words = space.command(run, config)[-2:]
    if "supervise" not in command:
        words.insert(0, f"{space.program}_faults")
    with open(space.path(f"{run}.out"), "w") as file:
        return hosts.start("h1", [*command, *words], env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def text(space, run):
    with open(space.path(f"{run}.out"), errors="replace") as file:
        return file.read()


def finish(space, run, process):
    try:
        return process.wait(HANG_SECONDS)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"hang\n{text(space, run)}") from None


def across_hosts_and_a_link_that_is_down_for_a_while_the_bits_are_those_of_one_host(space: Workspace):
    config = {"train.steps": 100, "eval.every": 50}
    process = start(space, "across", config, f"{SOURCE}/launcher/mpirun", "--host", "h1:2,h2:2", "-np", "4", steps=3)
    space.wait_for_step("across", 3, process)
    hosts.cut("h2")
    time.sleep(1)
    reached = len(space.metrics("across"))
    time.sleep(1)
    assert process.poll() is None and not space.checkpoints("across"), "the run was over before the link was down"
    assert len(space.metrics("across")) == reached, "the link is down and nobody waits for it"
    hosts.mend("h2")
    space.hurry()
    assert finish(space, "across", process) == 0, text(space, "across")
    assert "h1, h2" in text(space, "across"), text(space, "across")
    space.run("alone", config)
    assert space.result("across") == space.result("alone"), difference(space.metrics("across"), space.metrics("alone"))


def a_link_that_stays_down_ends_the_run_and_the_report_names_who_is_unreachable(space: Workspace):
    config = {"train.steps": 100000, "eval.every": 0, "run.hang_timeout": 4}
    process = start(space, "run", config, f"{SOURCE}/launcher/mpirun", "--host", "h1:2,h2:1,h3:1", "-np", "4", steps=3)
    space.wait_for_step("run", 3, process)
    hosts.cut("h3")
    code = finish(space, "run", process)
    hosts.kill("h3")
    hosts.boot("h3")
    with open(space.path("run", "outcome.json")) as file:
        known = json.load(file)
    told = f"exit code {code}, {known}\n{text(space, 'run')}"
    assert known["exit_code"] == 8 and code in (8, 205), told
    named = re.search(r"; rank 3 on h3 .*host does not answer at 10\.77\.0\.3|; this host, h3, reaches none", known["message"])
    assert named and not re.search(r"rank \d on h[12]", known["message"]), told


def a_supervised_run_goes_on_without_a_host_that_dies(space: Workspace):
    config = {"train.steps": 60, "eval.every": 0, "checkpoint.every": 5, "run.hang_timeout": 4}
    process = start(space, "run", config, f"{space.program}_faults", "supervise", "-np", "4", "--wait", "0.1", "--hosts",
                    "h1:1,h2:1,h3:1,h4:1", steps=6)
    space.wait_for_step("run", 6, process)
    hosts.kill("h3")
    space.hurry()
    assert finish(space, "run", process) == 0, text(space, "run")
    with open(space.path("run", "attempts.jsonl")) as file:
        journal = [row for row in map(json.loads, file) if "exit_code" in row]
    assert [row["ranks"] for row in journal] == [4, 3] and journal[1]["first_step"] >= 5, journal
    assert "host h3 does not answer" in text(space, "run"), text(space, "run")
    space.run("unbroken", config)
    assert space.digest("run") == space.digest("unbroken"), text(space, "run")


if __name__ == "__main__":
    namespaces.enter()
    with namespaces.Hosts(4) as hosts:
        main([across_hosts_and_a_link_that_is_down_for_a_while_the_bits_are_those_of_one_host,
              a_link_that_stays_down_ends_the_run_and_the_report_names_who_is_unreachable,
              a_supervised_run_goes_on_without_a_host_that_dies])
