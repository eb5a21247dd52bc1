#!/usr/bin/env python3
"""MOETRAIN_TRACE_OPS: in a build with MOETRAIN_DEBUG a line for each op, the same in each run of the same; in others a refusal.

  op_trace.py MOETRAIN TEST …"""
import os

from runs import Workspace, faults_in, main

CONFIG = {"train.steps": 2, "train.schedule": "constant", "eval.every": 0, "moe.shared_experts": 1}


def trace(space, name, ranks=1, threads=1, **how):
    """The lines of every rank."""
    os.environ["MOETRAIN_TRACE_OPS"] = space.path(name)
    outcome = space.run(name, CONFIG, ranks, threads, **how)
    lines = []
    for rank in range(ranks):
        with open(space.path(f"{name}-rank-{rank}.txt")) as file:
            lines.append(file.read().splitlines())
    return lines, outcome


def first_difference(lines, others):
    """Of the first line that differs what does, and the line."""
    for line, other in zip(lines, others):
        if line != other:
            return [word.split("=")[0] for word, wrong in zip(line.split(), other.split()) if word != wrong], line
    return f"{len(lines)} ops, and {len(others)}"


def two_runs_of_the_same_have_the_same_trace(space: Workspace):
    """Also on several ranks, whose rows are on their way while ops compute; ops that a step has are there."""
    (one,), outcome = trace(space, "one")
    assert "tracing every op" in outcome.output, outcome
    names = {line.split()[1] for line in one}
    assert names >= {"embedding_forward", "matmul_backward_weight", "attention_forward", "router_forward", "exchange_plan",
                     "adamw_update"}, names
    assert [int(line.split()[0]) for line in one] == list(range(1, len(one) + 1))
    (threads,), _ = trace(space, "threads", threads=2)
    assert threads == one, first_difference(one, threads)
    ranks, _ = trace(space, "ranks", 2)
    again, _ = trace(space, "again", 2, threads=2)
    for rank in range(2):
        assert again[rank] == ranks[rank], first_difference(ranks[rank], again[rank])


def a_changed_bit_is_named_where_an_op_first_reads_it(space: Workspace):
    """A fault changes what an op has made when the op is done: what comes next has read something else than was written."""
    (right,), _ = trace(space, "right")
    (wrong,), outcome = trace(space, "wrong", fault="flip:step=2,in=result,bit=0,tensor=activation_forward,nth=1")
    assert faults_in(outcome), outcome
    words, line = first_difference(right, wrong)
    assert line.split()[1] == "matmul_forward" and words[-1] == "x" and words[:-1] in ([], ["y"]), f"{words} of {line}"


def a_build_without_it_refuses(space: Workspace):
    os.environ["MOETRAIN_TRACE_OPS"] = space.path("refused")
    outcome = space.run("refused", CONFIG, 2, code=2)
    assert outcome.output.count("MOETRAIN_TRACE_OPS is set, and this build does not trace ops") == 1, outcome


main([two_runs_of_the_same_have_the_same_trace, a_changed_bit_is_named_where_an_op_first_reads_it, a_build_without_it_refuses])
