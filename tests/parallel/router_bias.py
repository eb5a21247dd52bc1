#!/usr/bin/env python3
"""The bias that evens out the load of experts without a loss (moe.bias_update: sign): what a rule after each step makes
of it, by a computation of its own from the recorded loads; that skipped steps leave it alone; that it is part of a
checkpoint; and that it does what it is for.

  router_bias.py MOETRAIN [TEST …]"""
import os
import shutil

import h5py
import numpy

from runs import Workspace, difference, main

RATE = 0.01
CONFIG = {"moe.bias_update": "sign", "moe.bias_rate": RATE, "moe.balance_loss": 0, "log.utilization_every": 1,
          "train.steps": 12, "train.micro_batches": 2, "moe.capacity_factor": 1.1, "moe.drop": "random"}
RULES = ("sigmoid", "softmax_topk", "topk_softmax")


def moved(bias, load):
    """b_i += u sign(mean c - c_i); b -= mean(b): in double, rounded once."""
    step = bias.astype(numpy.float64) + RATE * numpy.sign(load.sum() - len(load) * load)
    return (step - sum(step) / len(step)).astype(numpy.float32)


def contents(space, run):
    """The biases of all steps (steps + 1, layers, experts), the last as saved, and the loads before dropping."""
    with h5py.File(space.checkpoints(run)[-1], "r") as file:
        history = file["utilization"]
        assert list(history["steps"]) == [1] * len(history["steps"])
        layers = [layer for layer, _ in history["layers/router_bias"]]
        last = [file[f"parameters/layers.{layer}.moe.router_bias"][:] for layer in layers]
        assert all(f"optimizer/m/layers.{layer}.moe.router_bias" not in file for layer in layers)
        assert last[0].dtype == numpy.float32
        biases = numpy.concatenate([history["router_bias"][:].astype(numpy.float32), [last]])
        loads = history["routed"][:] + history["dropped"][:]
        if "zero" in history:  # experts that compute nothing are balanced like the others
            loads = numpy.concatenate([loads, history["zero"][:]], axis=2)
        return biases, loads


def after_each_step_it_is_what_the_loads_make_of_it(space: Workspace):
    for rule in RULES:
        zero = 3 if rule == "sigmoid" else 0
        space.run(rule, dict(CONFIG, **{"moe.router": rule, "moe.zero_experts": zero}), ranks=2)
        biases, loads = contents(space, rule)
        assert (biases[0] == 0).all() and (biases[1] != 0).any() and biases.shape[2] == loads.shape[2] == 8 + zero
        for step in range(len(loads)):
            for layer in range(loads.shape[1]):
                wanted = moved(biases[step, layer], loads[step, layer])
                assert (biases[step + 1, layer] == wanted).all(), (rule, step, layer, biases[step + 1, layer], wanted)
        assert abs(biases[-1].astype(float).sum(axis=-1)).max() < 1e-6


def a_proportional_step_ends_as_the_schedule_says(space: Workspace):
    """b_i += u (mean c - c_i) / mean c; b -= mean(b); u falls linearly to 0 over steps 5 to 8 of 8."""
    changes = {"moe.bias_update": "proportional", "moe.bias_steps": 8, "moe.bias_decay_steps": 4}
    space.run("run", dict(CONFIG, **changes), ranks=2)
    biases, loads = contents(space, "run")
    for step in range(len(loads)):
        rate = RATE * max(0, min(1, (8 - step) / 4))
        for layer in range(loads.shape[1]):
            before, load = biases[step, layer].astype(numpy.float64), loads[step, layer]
            moved_to = before + rate * (load.sum() - len(load) * load) / load.sum()
            wanted = (moved_to - moved_to.mean()).astype(numpy.float32) if rate > 0 else biases[step, layer]
            assert abs(biases[step + 1, layer] - wanted).max() < 1e-8, (step, layer)
    assert (biases[8] == biases[-1]).all() and (biases[7] != biases[8]).any()


def it_changes_what_is_chosen(space: Workspace):
    space.run("without", dict(CONFIG, **{"moe.bias_update": "none", "moe.bias_rate": 0.001}))
    space.run("with", CONFIG)
    first, second = ([row["loss"] for row in space.metrics(run) if "loss" in row] for run in ("without", "with"))
    assert first[0] == second[0], "the bias begins at zero"
    assert first[1:] != second[1:]


def steps_that_are_skipped_leave_it_alone(space: Workspace):
    changes = {"train.lr": 100, "train.weight_decay": 100, "train.schedule": "constant", "train.warmup": 0,
               "train.max_skipped": 3, "train.steps": 100, "eval.every": 0}
    space.run("run", dict(CONFIG, **changes), code=6)
    rows = [row for row in space.metrics("run") if "loss" in row]
    biases, _ = contents(space, "run")
    skipped = [row["step"] for row in rows if row["loss"] is None or row["gradient_norm"] is None]
    assert len(skipped) >= 3
    for step in skipped:
        assert (biases[step] == biases[step - 1]).all(), step


def a_run_that_is_cut_goes_on_the_same(space: Workspace):
    config = dict(CONFIG, **{"checkpoint.every": 5, "checkpoint.keep_last": 0, "moe.router": "sigmoid"})
    space.run("unbroken", config)
    wanted = space.result("unbroken")
    for ranks, expert_parallel, micro_batches in ((1, 1, 2), (4, 2, 2), (2, 2, 4)):
        run = f"resumed{ranks}"
        shutil.copytree(space.path("unbroken"), space.path(run))
        for path in space.checkpoints(run)[1:]:
            os.remove(path)
        outcome = space.run(run, dict(config, **{"parallel.expert": expert_parallel,
                                                 "train.micro_batches": micro_batches}), ranks)
        assert "at step 5" in outcome.output, str(outcome)
        got = space.result(run)
        assert got == wanted, difference(got[0], wanted[0])


def evaluation_and_generation_use_it(space: Workspace):
    space.run("run", dict(CONFIG, **{"eval.every": 12, "data.format": "characters"}), ranks=2)
    newest = space.checkpoints("run")[-1]
    loss = [row["val_loss"] for row in space.metrics("run") if "val_loss" in row][-1]
    command = [space.program, "evaluate", newest]
    outcome = space.finish(space.start(command), command)
    assert outcome.code == 0 and f"{loss:.4f}" in outcome.output, f"{loss}\n{outcome}"
    command = [space.program, "generate", newest, "--prompt", "a", "--tokens", "8"]
    outcome = space.finish(space.start(command), command)
    assert outcome.code == 0, str(outcome)


def the_load_becomes_more_even(space: Workspace):
    """Weights that begin large make some experts favourites, and no loss says otherwise."""
    skewed = {"moe.balance_loss": 0, "model.init_std": 0.3, "train.steps": 60, "moe.router": "sigmoid", "eval.every": 0,
              "moe.top_k": 1, "log.utilization_every": 1}
    worst = {}
    for update in ("none", "sign", "proportional", "quantile"):
        rate = {"moe.bias_rate": 0.01} if update in ("sign", "proportional") else {}
        space.run(update, dict(skewed, **{"moe.bias_update": update}, **rate))
        with h5py.File(space.checkpoints(update)[-1], "r") as file:
            load = file["utilization/routed"][-20:].sum(axis=0)
        worst[update] = (load.max(axis=1) / load.mean(axis=1)).max()
    print("busiest over mean expert:", {update: round(float(value), 2) for update, value in worst.items()})
    for update in ("sign", "proportional", "quantile"):
        assert worst[update] - 1 < 0.5 * (worst["none"] - 1), worst


def of_scores_that_stay_quantiles_make_an_even_load(space: Workspace):
    """Nothing learns, so that the load of 10 steps is what the bias of the same scores makes of it. In double, on
    normal logits with offsets of 1.5 deviations, 20 steps of 256 tokens and 8 experts end within 6 % of the mean."""
    changes = {"moe.bias_update": "quantile", "moe.balance_loss": 0, "moe.router": "sigmoid", "model.init_std": 0.3,
               "train.lr": 1e-9, "train.min_lr": 1e-9, "train.steps": 30, "eval.every": 0, "log.utilization_every": 1}
    vio = {}
    for update in ("none", "quantile"):
        space.run(update, dict(changes, **{"moe.bias_update": update}), ranks=2)
        with h5py.File(space.checkpoints(update)[-1], "r") as file:
            load = file["utilization/routed"][-10:].sum(axis=0)
        vio[update] = (load.max(axis=1) / load.mean(axis=1)).max() - 1
    print("MaxVio of 10 steps:", vio)
    assert vio["quantile"] < 0.15 < 0.5 < vio["none"], vio


main([after_each_step_it_is_what_the_loads_make_of_it, a_proportional_step_ends_as_the_schedule_says,
      it_changes_what_is_chosen, steps_that_are_skipped_leave_it_alone,
      a_run_that_is_cut_goes_on_the_same, evaluation_and_generation_use_it, the_load_becomes_more_even,
      of_scores_that_stay_quantiles_make_an_even_load])
