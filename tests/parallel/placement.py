#!/usr/bin/env python3
"""parallel.placement: measured: experts change ranks by their load when a run goes on, and no bit changes.

  placement.py MOETRAIN [TEST …]

A run of half the steps goes on in a branch for each layout, and must end as the run that one rank trained unbroken."""
import re
import shutil

from runs import Workspace, difference, main

# Few experts have most of the tokens, and neighbours of them share a rank.
BUSY = {"moe.force": "skewed", "moe.force_sigma": 1.5, "train.steps": 6, "eval.every": 3, "log.digest_every": 2,
        "checkpoint.every": 3}
HALF, REST = {"run.stop_at": 3}, {"parallel.placement": "measured"}


def text(space, run):
    with open(space.path(run, "digests.jsonl")) as file:
        return file.read()


def tensors(space, run):
    """All of the newest checkpoint but configuration and what tells of the run."""
    import h5py

    found = {}
    with h5py.File(space.checkpoints(run)[-1], "r") as file:
        file.visititems(lambda name, item: found.update({name: item[...].tobytes()}) if hasattr(item, "shape") else None)
    return {name: value for name, value in found.items()
            if not name.startswith("about/") and name not in ("config", "manifest", "block_hashes")}


def times_the_mean(outcome):
    """Of the busiest rank, as it is placed and in order."""
    told = re.search(r"the busiest rank of a layer has ([0-9.]+) times the mean of the rows, in order it had ([0-9.]+)",
                     outcome.output)
    assert told, outcome
    return float(told[1]), float(told[2])


def goes_on(space, config, layouts):
    """layouts: ranks, parallel.expert, train.micro_batches; the first half is trained on the second number of them."""
    micro_batches = layouts[0][2]
    space.run("unbroken", dict(config, **{"train.micro_batches": micro_batches}))
    space.run("half", dict(config, **HALF, **{"train.micro_batches": micro_batches}), 2, code=75)
    for ranks, degree, micro_batches in layouts:
        run = f"np{ranks}-{degree}-{micro_batches}"
        shutil.copytree(space.path("half"), space.path(run))
        layout = {"parallel.expert": degree, "train.micro_batches": micro_batches}
        outcome = space.run(run, dict(config, **REST, **layout), ranks)
        if degree > 1:
            placed, in_order = times_the_mean(outcome)
            assert placed < in_order, outcome
        else:
            assert "the busiest rank" not in outcome.output, outcome
        rows, wanted = space.metrics(run), space.metrics("unbroken")
        assert rows == wanted, f"{run}: {difference(rows, wanted)}"
        assert space.result(run) == space.result("unbroken"), run
        assert tensors(space, run) == tensors(space, "unbroken"), run
        assert text(space, run) == text(space, "unbroken"), run
    return run


def on_any_ranks_with_what_counts_rows(space: Workspace):
    """Dropout inside experts draws by the numbers of rows, and drops are drawn; of three ranks one has fewer experts."""
    config = dict(BUSY, **{"moe.dropout": 0.2, "moe.capacity_factor": 1.5, "moe.drop": "random", "moe.top_k": 3})
    last = goes_on(space, config, [(1, 1, 1), (2, 2, 1), (3, 3, 2), (4, 4, 1), (4, 2, 1)])
    # Once more from where the last one stopped, which knows nothing of where experts had lived.
    longer = dict(config, **{"train.steps": 8})
    space.run("unbroken", longer)
    space.run(last, dict(longer, **{"parallel.placement": "even"}), 3)
    assert space.result(last) == space.result("unbroken")


def padded_in_half_precision_with_orthogonal_updates(space: Workspace):
    goes_on(space, dict(BUSY, **{"moe.dispatch": "padded", "moe.capacity_factor": 1.25, "train.precision": "bf16",
                                 "model.bias": "true", "train.optimizer": "muon", "train.ema": 0.9,
                                 "parallel.exchange_chunks": 2, "moe.zero_experts": 2}),
            [(2, 2, 2), (4, 4, 2)])


def heads_as_experts_and_modules_behind_the_layers(space: Workspace):
    goes_on(space, dict(BUSY, **{"model.mixer": "[moa, attention]", "attention.heads": 2, "attention.experts": 6,
                                 "moe.experts": "[8, 6]", "moe.bias_update": "sign", "mtp.layers": 1, "moe.shared_experts": 1}),
            [(2, 2, 1), (3, 3, 1)])


def experts_of_heads(space: Workspace):
    goes_on(space, dict(BUSY, **{"model.mixer": "switchhead", "attention.heads": 2, "attention.experts": 4,
                                 "attention.top_k": 1, "model.feed_forward": "[moe, soft_moe]", "moe.slots": 2,
                                 "moe.allow_noncausal": "true"}),
            [(4, 4, 1)])


def a_run_without_a_history_is_in_order(space: Workspace):
    outcome = space.run("new", dict(BUSY, **REST, **{"train.steps": 2, "parallel.expert": 2}), 2)
    assert "nothing is measured yet" in outcome.output, outcome
    weights = {"train.steps": 1, "parallel.expert": 2, "init": space.checkpoints("new")[-1]}
    outcome = space.run("weights", dict(BUSY, **REST, **weights), 2)
    assert "nothing is measured yet" in outcome.output, outcome
    outcome = space.run("new", dict(BUSY, **REST, **{"moe.experts": 4}), 2, code=2)
    assert "moe.experts" in outcome.output, outcome  # before anything is placed
    outcome = space.run("wrong", dict(BUSY, **{"parallel.placement": "busy"}), code=2)
    assert "even or measured" in outcome.output, outcome


main([on_any_ranks_with_what_counts_rows, padded_in_half_precision_with_orthogonal_updates,
      heads_as_experts_and_modules_behind_the_layers, experts_of_heads, a_run_without_a_history_is_in_order])
