#!/usr/bin/env python3
"""log.digest_every and `moetrain diff-runs`: digests do not depend on how a run is cut, and lead to what was changed.

  step_digests.py MOETRAIN [TEST …]"""
import json
import os
import subprocess

from runs import HANG_SECONDS, Workspace, faults_in, main, write

# Layers of many kinds and sizes, of which none is the first that a change would show in.
CONFIG = {"model.layers": 4, "model.feed_forward": "[dense, moe, peer, moe]", "moe.experts": "[0, 8, 0, 4]",
          "model.mixer": "[attention, attention, latent_attention, attention]", "peer.keys": 8, "peer.heads": 2,
          "peer.top_k": 2, "train.schedule": "constant", "train.steps": 4, "eval.every": 0, "log.digest_every": 2,
          "run.check_replicas_every": 0, "run.check_exchanges": "off"}

# Layers of all kinds but moa, and so small that a run takes no time.
KINDS = {"model.layers": 6, "model.mixer": "[attention, latent_attention, switchhead, attention, attention, attention]",
         "model.feed_forward": "[dense, moe, soft_moe, peer, latent_moe, pr_moe]", "moe.experts": "[0, 8, 4, 0, 8, 8]",
         "attention.experts": 4, "moe.shared_experts": 1, "moe.latent_width": 12, "moe.slots": 2, "moe.allow_noncausal": "true",
         "peer.keys": 8, "peer.heads": 2, "peer.top_k": 2, "train.steps": 1, "train.schedule": "constant", "eval.every": 0,
         "log.digest_every": 1}
MOA = {"model.mixer": "[attention, moa]", "attention.experts": 4, "mtp.layers": 1, "train.steps": 1, "train.schedule": "constant",
       "eval.every": 0, "log.digest_every": 1}
# Experts of which three ranks have unequal shares; dropped choices; stored as bf16.
UNEVEN = dict(MOA, **{"attention.experts": 5, "moe.experts": "[8, 4]", "moe.capacity_factor": 1, "moe.dispatch": "padded",
                      "train.precision": "bf16"})


# Of PEER what is added to others before it has a digest, where an ulp may be lost: it changes more.
ADDED_UP, ADDED_UP_MESSAGE = ("named_sums", "reduce_scatter_sum"), 17


def diff(space, run, other, code):
    done = subprocess.run([space.program, "diff-runs", space.path(run), space.path(other)], capture_output=True, text=True,
                          timeout=HANG_SECONDS)
    assert done.returncode == code, f"{other}: exit code {done.returncode}, not {code}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def text(space, run):
    with open(space.path(run, "digests.jsonl")) as file:
        return file.read()


def plant(space, model, ranks, plants):
    """Of (fault, words): diff-runs says the words of the fault. A fault has a step to itself, in a run whose parameters stay what
    they are, so that it is not seen later: a weight is changed back."""
    most, steps, faults = 16, [], []  # FAULTS_MAX of tests/faults/inject/fault.h

    def run():
        still = dict(model, **{"train.lr": 0, "train.steps": len(steps), "log.digest_every": 1})
        space.run("unbroken", still, ranks)
        outcome = space.run("faulty", still, ranks, fault=";".join(faults))
        for number, words in enumerate(steps):
            assert any(f"in step {number + 1}: " in line for line in faults_in(outcome)), f"{faults[number]}\n{outcome}"
            if not words:  # the weight is as it was
                continue
            for of in ("unbroken", "faulty"):
                write(space.path(f"{of}.jsonl"), text(space, of).splitlines(True)[number])
            told = diff(space, "unbroken.jsonl", "faulty.jsonl", 1)
            assert told.startswith(f"step {number + 1}: the first difference is in {words}"), f"{words}: {told}"
            assert told.count("\n") == 1, told
        for of in ("unbroken", "faulty"):
            space.remove(of)

    for fault, words in plants:
        if len(faults) + 2 > most:
            run()
            steps, faults = [], []
        times = (1, 2) if "in=" not in fault else (1,)
        faults += [fault.replace(":", f":step={len(steps) + time},", 1) for time in times]
        steps += [words, None][:len(times)]
    run()


def however_a_run_is_cut_they_are_the_same(space: Workspace):
    space.run("one", CONFIG)
    space.run("three", CONFIG, 3)
    space.run("six", dict(CONFIG, **{"parallel.expert": 2}), 6)
    # Micro-batches, and a resume on other ranks after a step without digests, when the sum is in another set of gradients; and
    # without what had come later.
    cut = dict(CONFIG, **{"train.micro_batches": 2, "moe.dispatch": "exact"})
    space.run("cut", dict(cut, **{"run.stop_at": 3}), 2, code=75)
    with open(space.path("cut", "digests.jsonl"), "a") as file:
        file.write('{"step":4}\n')
    space.run("cut", dict(cut, **{"parallel.expert": 2}), 4)
    for run in ("three", "six", "cut"):
        assert text(space, run) == text(space, "one"), diff(space, "one", run, 1)
        assert diff(space, "one", run, 0) == "nothing differs in 2 steps, the last of them 4\n"
    for model, ranks, changes in ((KINDS, 2, {"parallel.exchange_chunks": 2}), (UNEVEN, 3, {})):
        space.run("whole", model)
        space.run("parts", dict(model, **changes, **{"train.micro_batches": 2}), ranks)
        assert text(space, "parts") == text(space, "whole"), diff(space, "whole", "parts", 1)
        space.remove("whole")
        space.remove("parts")


def two_configurations_are_trained_until_they_part(space: Workspace):
    """The same on any number of ranks; and with another rate of learning from the second step on, whose gradients differ."""
    for name, changes in (("a", {}), ("b", {"train.lr": 0.01})):
        space.command(name, dict(CONFIG, **{"train.steps": 2, "log.digest_every": 0}, **changes))  # writes the configuration

    def live(*words, code):
        command = [space.program, "diff-runs", "--live", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, cwd=space.path("."))
        assert done.returncode == code, f"{command}: exit code {done.returncode}, not {code}: {done.stdout}{done.stderr}"
        return done.stdout.splitlines()

    told = live("a.yaml", "a.yaml", "-np", "1,3", code=0)
    assert told == [f"nothing differs in {steps} steps, the last of them {steps}" for steps in (1, 2)], told
    told = live("a.yaml", "b.yaml", "-np", "2,1", "-o", "parted", code=1)
    assert len(told) == 1 and told[0].startswith("step 1: the first difference is in parameters"), told
    for words in (("a.yaml", "none.yaml"), ("a.yaml", "a.yaml", "-np", "2"), ("a.yaml", "a.yaml", "-np", "1,9"), ("a.yaml",)):
        live(*words, "-o", "refused", code=2)


def a_change_is_found_where_it_was_made(space: Workspace):
    plant(space, CONFIG, 2, [
        *((f"flip:bit=22,element=3200,tensor={tensor}", f"forward, {place}, window 0 of 16") for tensor, place in (
            ("embedding", "embedding"), ("layers.0.attention.qkv", "layers.0.mixer.qkv"),
            ("layers.0.ffn.down", "layers.0.feed_forward.out"),
            ("layers.1.ffn_norm", "layers.1.feed_forward.in"), ("layers.2.peer.query_first", "layers.2.feed_forward.queries"))),
        # On rank 1, which has the second half of the windows.
        ("flip:rank=1,bit=22,tensor=layers.0.attention.qkv", "forward, layers.0.mixer.qkv, window 8 of 16, in shard 4"),
        ("flip:in=activation,bit=0", "backward, layers.3.feed_forward.returned, expert "),
        # Nothing of it is seen before the update, or in one expert alone.
        ("flip:in=gradient,bit=0,tensor=layers.1.moe.experts.down", "gradients, layers.1.moe.experts.down, expert 0 of 8"),
        ("flip:in=gradient,bit=0,tensor=final_norm", "gradients, final_norm")])
    # In a step without digests.
    space.run("unbroken", CONFIG)
    space.run("faulty", CONFIG, fault="flip:step=3,bit=22,tensor=layers.0.attention.qkv")
    assert ("step 4: the first difference is in forward, embedding, window 0 of 16, in shard 0 of its micro-batch, and 15 more; "
            "up to step 2 nothing differs") in diff(space, "unbroken", "faulty", 1)


def an_ulp_is_found_in_the_part_that_made_it(space: Workspace):
    """The last bit of one element of what the n-th call of an op in the step has made on the second of two ranks, or of the n-th
    message that this rank sends to the other: each way of an exchange is two."""
    for model, ops, messages in (
            (KINDS, (
                ("matmul_forward", 1, "forward, layers.0.mixer.qkv"), ("attention_forward", 1, "forward, layers.0.mixer.heads"),
                ("matmul_forward", 2, "forward, layers.0.mixer.out"),
                ("normalize_forward", 2, "forward, layers.0.feed_forward.in"),
                ("matmul_forward", 4, "forward, layers.0.feed_forward.out"),
                ("attention_forward", 2, "forward, layers.1.mixer.heads"),
                ("router_forward", 1, "forward, layers.1.feed_forward.router.choice"),
                ("combine_forward", 1, "forward, layers.1.feed_forward.combined"),
                ("router_forward", 2, "forward, layers.2.mixer.attention.value_router"),
                ("attention_forward", 3, "forward, layers.2.mixer.heads"),
                ("router_forward", 3, "forward, layers.2.mixer.attention.output_router"),
                ("combine_forward", 3, "forward, layers.2.mixer.out"),
                ("slot_weights_forward", 1, "forward, layers.2.feed_forward.slot_weights"),
                ("combine_forward", 4, "forward, layers.2.feed_forward.combined"),
                ("product_keys_forward", 1, "forward, layers.3.feed_forward.choice"),
                # Of tokens of the first rank, and of their weights, which all ranks get.
                *(("all_gather", nth, "forward, layers.3.feed_forward.dispatched, part 4 of 8") for nth in (1, 3)),
                ("named_sums", 1, "forward, layers.3.feed_forward.returned, window 0 of 16"),
                ("router_forward", 4, "forward, layers.4.feed_forward.router.choice"),
                ("combine_forward", 5, "forward, layers.4.feed_forward.combined"),
                ("combine_forward", 6, "forward, layers.5.feed_forward.combined"),
                ("router_backward", 1, "backward, layers.5.feed_forward.router.logits"),
                ("attention_backward", 1, "backward, layers.5.mixer.qkv"),
                ("all_gather", 4, "backward, layers.3.feed_forward.returned, part 4 of 8"),
                ("named_sums", 2, "backward, layers.3.feed_forward.dispatched, window 0 of 16"),
                ("reduce_scatter_sum", 1, "backward, layers.3.feed_forward.queries"),
                ("attention_backward", 4, "backward, layers.2.mixer.qkv")), (
                (1, "forward, layers.1.feed_forward.dispatched, expert 0 of 8"),
                (3, "forward, layers.1.feed_forward.returned, window 0 of 16"),
                (5, "forward, layers.2.mixer.values.dispatched, expert 0 of 8"),
                (11, "forward, layers.2.mixer.outputs.returned, window 0 of 16"),
                (13, "forward, layers.2.feed_forward.dispatched, expert 0 of 4"),
                (17, "forward, layers.3.feed_forward.returned, window 0 of 16"),
                (26, "backward, layers.5.feed_forward.returned, expert 0 of 8"),
                (28, "backward, layers.5.feed_forward.dispatched, window 0 of 16"),
                (43, "backward, layers.2.mixer.values.returned, expert 0 of 8"),
                (45, "backward, layers.2.mixer.values.dispatched, window 0 of 16"))),
            (MOA, (
                ("router_forward", 2, "forward, layers.1.mixer.router.choice"),
                ("attention_forward", 2, "forward, layers.1.mixer.heads"),
                ("combine_forward", 2, "forward, layers.1.mixer.out"), ("attention_forward", 3, "forward, mtp.0.mixer.heads")), (
                (5, "forward, layers.1.mixer.queries.dispatched, expert 0 of 4"),
                (7, "forward, layers.1.mixer.queries.returned, window 0 of 16"),
                (9, "forward, layers.1.mixer.outputs.dispatched, expert 0 of 4"),
                (11, "forward, layers.1.mixer.outputs.returned, window 0 of 16"),
                (45, "backward, layers.1.mixer.outputs.returned, expert 0 of 4"),
                (47, "backward, layers.1.mixer.outputs.dispatched, window 0 of 16")))):
        plant(space, dict(model, **{"run.check_exchanges": "off"}), 2, [
            *((f"{'scale:factor=2' if op in ADDED_UP else 'flip:bit=0'},rank=1,in=result,tensor={op},nth={nth}",
               place if "window" in place or "part" in place else f"{place}, window 8 of 16, in shard 4 ") for op, nth, place in ops),
            *((f"flip:rank=1,in=message,bit={20 if nth == ADDED_UP_MESSAGE else 0},nth={nth}", place) for nth, place in messages)])


def totals_over_ranks_are_compared(space: Workspace):
    space.run("run", {"train.steps": 2, "eval.every": 0, "log.digest_every": 1}, 2)
    first, second = (json.loads(line) for line in text(space, "run").splitlines())
    assert first["statistics"].keys() == second["statistics"].keys() >= {"layers.0.routed", "layers.1.routed", "loss"}, first
    for name in ("layers.0.routed", "layers.1.routed", "loss"):  # other tokens have other totals
        assert first["statistics"][name] != second["statistics"][name], name
    changed = dict(second, statistics=dict(second["statistics"], **{"layers.1.routed": first["statistics"]["layers.1.routed"]}))
    write(space.path("changed"), "\n".join(json.dumps(row) for row in (first, changed)) + "\n")
    assert "step 2: the first difference is in statistics, layers.1.routed" in diff(space, "run", "changed", 1)


def what_cannot_be_compared_is_one_line(space: Workspace):
    space.run("run", {"train.steps": 2, "eval.every": 0, "log.digest_every": 2})
    row = json.loads(text(space, "run"))
    assert (row["step"], row["windows"]) == (2, 16), row
    os.mkdir(space.path("none"))
    write(space.path("smaller"), json.dumps(dict(row, windows=8)))
    write(space.path("later"), json.dumps(dict(row, step=3)))
    write(space.path("older"), json.dumps({key: value for key, value in row.items() if key != "format"}))
    deeper = dict(row["forward"], **{"layers.2.mixer": row["forward"]["embedding"]})
    write(space.path("deeper"), json.dumps(dict(row, forward=deeper)))
    for other, code, words in (("none", 2, "log.digest_every above 0"), ("smaller", 2, "windows a step and"),
                               ("later", 2, "no step in common"), ("older", 2, "two builds made them"),
                               ("deeper", 1, "these are different models")):
        for pair in (("run", other), (other, "run")):
            told = diff(space, *pair, code)
            assert words in told and told.count("\n") == 1, told
    for line in ("", "{", "[]", '{"step":"2"}', '{"step":0}', '{"step":1000000000000000000000}'):
        write(space.path("damaged"), line + "\n")
        told = diff(space, "run", "damaged", 4)
        assert "damaged: line " in told and told.count("\n") == 1, told
    for forward in (None, [], {"embedding": {}}, {"embedding": {"experts": {}}}):
        write(space.path("strange"), json.dumps(dict(format=row["format"], step=2, windows=16, forward=forward)) + "\n")
        diff(space, "run", "strange", 1)
        diff(space, "strange", "run", 1)


main([however_a_run_is_cut_they_are_the_same, two_configurations_are_trained_until_they_part, a_change_is_found_where_it_was_made,
      an_ulp_is_found_in_the_part_that_made_it, totals_over_ranks_are_compared, what_cannot_be_compared_is_one_line])
