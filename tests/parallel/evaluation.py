#!/usr/bin/env python3
"""An evaluation is a function of the weights and the file: every token but the first is a target once, and nothing else
can be seen in the result. Equal in every digit; no tolerance but that of printed digits.

  evaluation.py MOETRAIN [TEST …]"""
import re
import signal

from runs import Workspace, difference, generated_text, launcher, main, write

# lr 0: whatever the batch, the weights stay those of step 0. Large ones, so that routing and losses differ from token to token.
STILL = {"train.steps": 1, "train.lr": 0, "train.min_lr": 0, "train.warmup": 0, "model.init_std": 0.3, "eval.every": 1,
         "eval.batches": 0, "train.context": 24, "moe.capacity_factor": 0.5}
LAYOUTS = [  # ranks, threads, what may not be seen
    (1, 1, {}), (1, 2, {"train.batch": 8}), (2, 1, {"train.batch": 32, "parallel.expert": 1}),
    (4, 1, {"train.micro_batches": 2}), (2, 2, {"train.shards": 4}), (8, 1, {"parallel.expert": 4}),
    (1, 1, {"moe.dispatch": "padded", "train.micro_batches": 8}), (2, 1, {"train.reproducible": "run"}),
]


def validation_rows(space, run):
    return [row for row in space.metrics(run) if "val_loss" in row]


def evaluate(space, checkpoint, *overrides, ranks=1, code=0):
    command = [*launcher(ranks), space.program, "evaluate", checkpoint, *overrides]
    outcome = space.finish(space.start(command), command)
    assert outcome.code == code, str(outcome)
    found = re.search(r"loss ([\d.]+) nats.*?(\d+) tokens in .* s, (.*)", outcome.output)
    return (float(found[1]), int(found[2]), found[3]) if found else outcome


def batches_shards_and_ranks_are_not_seen(space: Workspace):
    for name, config in {"dropless": {}, "by chance": {"eval.capacity_factor": 0.5, "moe.drop": "random"},
                         "by position": {"eval.capacity_factor": 0.75}}.items():
        results = []
        for number, (ranks, threads, layout) in enumerate(LAYOUTS):
            run = f"{name}{number}"
            space.run(run, dict(STILL, **config, **layout), ranks, threads)
            results.append(validation_rows(space, run))
            assert results[-1] == results[0] and len(results[0]) == 1, f"{name}, {layout}: {results[-1]}, not {results[0]}"
        if name != "dropless":
            assert results[0] != dropless, f"{name}: nothing was dropped"
        dropless = results[0] if name == "dropless" else dropless


def every_token_but_the_first_is_a_target_once(space: Workspace):
    space.run("run", dict(STILL, **{"train.steps": 1}))
    checkpoint = space.checkpoints("run")[-1]
    text = generated_text(5, 24 * 7 + 11)

    def loss_of(begin, end):
        write(space.path("piece.txt"), text[begin:end])
        loss, tokens, how = evaluate(space, checkpoint, f"data.validation={space.path('piece.txt')}")
        assert (tokens, how) == (end - begin - 1, "dropless"), (begin, end, tokens, how)
        return loss * tokens

    whole = loss_of(0, len(text))
    windows = sum(loss_of(begin, min(begin + 25, len(text))) for begin in range(0, len(text) - 1, 24))
    assert abs(whole - windows) < 1e-6 * len(text), f"{whole} nats, the sum over its windows is {windows}"  # six digits are printed
    loss_of(0, 25)  # one whole window
    loss_of(0, 2)
    write(space.path("piece.txt"), "a")
    outcome = evaluate(space, checkpoint, f"data.validation={space.path('piece.txt')}", code=3)
    assert "no successor" in outcome.output, str(outcome)


def evaluate_prints_what_training_logged(space: Workspace):
    config = {"moe.capacity_factor": 0.5, "moe.drop": "random", "train.micro_batches": 4, "eval.every": 3}
    space.run("run", config, ranks=2)
    logged = validation_rows(space, "run")[-1]["val_loss"]
    for ranks, changes in ((1, []), (2, ["train.micro_batches=1"])):
        loss, tokens, how = evaluate(space, space.checkpoints("run")[-1], *changes, ranks=ranks)
        assert f"{loss:.6f}" == f"{logged:.6f}" and tokens == 2 * 16 * 16 and how == "dropless", (loss, tokens, how, logged)
    loss, _, how = evaluate(space, space.checkpoints("run")[-1], "eval.capacity_factor=0.25")
    assert how == "capacity factor 0.25" and abs(loss - logged) > 1e-4, (loss, how, logged)


def an_interrupted_evaluation_is_made_up_for(space: Workspace):
    write(space.path("validation.txt"), generated_text(2, 120000))  # seconds
    config = {"train.steps": 6, "eval.every": 3, "eval.batches": 0}
    space.run("unbroken", config)
    wanted = space.result("unbroken")
    for step in (3, 6):  # in the middle, and after the last step
        command = space.command("stopped", config)
        process = space.start(command, fault=f"slow:phase=eval,step={step},ms=60000,until={space.path(f'signalled-{step}')}")
        space.wait_for_step("stopped", step, process)
        process.send_signal(signal.SIGUSR1)
        write(space.path(f"signalled-{step}"), "")
        outcome = space.finish(process, command)
        assert outcome.code == 75 and f"after step {step}" in outcome.output, str(outcome)
    assert [row["step"] for row in validation_rows(space, "stopped")] == [3]
    for _ in range(2):  # made up for once
        space.run("stopped", config)
        rows, digest = space.result("stopped")
        assert (rows, digest) == wanted, difference(rows, wanted[0])


main([batches_shards_and_ranks_are_not_seen, every_token_but_the_first_is_a_target_once,
      evaluate_prints_what_training_logged, an_interrupted_evaluation_is_made_up_for])
