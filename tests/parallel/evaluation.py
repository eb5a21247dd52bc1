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
    (3, 1, {"parallel.expert": 3}),
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


def a_masked_model_is_evaluated_with_one_mask(space: Workspace):
    masked = dict(STILL, **{"train.objective": "masked", "train.steps": 2})
    results = []
    for number, (ranks, threads, layout) in enumerate(LAYOUTS[:5]):
        space.run(f"masked{number}", dict(masked, **layout), ranks, threads)
        results.append([row["val_loss"] for row in validation_rows(space, f"masked{number}")])
        assert len(results[-1]) == 2 and {*results[-1]} == {results[0][0]}, (layout, results)
    trained = [row["loss"] for row in space.metrics("masked0") if "loss" in row]  # of other tokens, but of targets alone, too
    assert all(abs(loss / results[0][0] - 1) < 0.2 for loss in trained), (trained, results[0])
    checkpoint, text = space.checkpoints("masked0")[-1], generated_text(5, 24 + 5)

    def pseudo(piece, passes, context, ranks=1):
        write(space.path("piece.txt"), piece)
        command = [*launcher(ranks), space.program, "evaluate", checkpoint, f"data.validation={space.path('piece.txt')}",
                   f"eval.mask_passes={passes}", f"train.context={context}"]
        outcome = space.finish(space.start(command), command)
        found = re.search(r"pseudo-perplexity [\d.]+, ([\d.]+) nats a token: (\d+) tokens, each masked in one of (\d+)",
                          outcome.output)
        assert outcome.code == 0 and found, str(outcome)
        assert (int(found[2]), int(found[3])) == (len(piece) - 1, passes), str(outcome)
        return float(found[1]) * (len(piece) - 1)

    for passes in (8, 24):  # which divide the windows' beginnings, so that pieces are masked as the whole is
        whole = pseudo(text, passes, 24)
        assert abs(pseudo(text, passes, 24, ranks=2) - whole) < 1e-9, passes
        # the last window's four tokens as they are alone: what fills it up is not seen
        pieces = pseudo(text[:25], passes, 24) + pseudo(text[24:], passes, 4)
        assert abs(pieces - whole) < 1e-6 * 2 * len(text), (passes, whole, pieces)  # six digits are printed
    assert abs(pseudo(text, 8, 24) - whole) > 1e-3, whole
    for option in (["--choices", "x.jsonl"], ["--per-document"]):
        command = [space.program, "evaluate", checkpoint, *option]
        outcome = space.finish(space.start(command), command)
        assert outcome.code == 2 and option[0] in outcome.output and "train.objective=masked" in outcome.output, str(outcome)
    command = [space.program, "generate", checkpoint, "--prompt", "a"]
    outcome = space.finish(space.start(command), command)
    assert outcome.code == 2 and "nothing can be generated" in outcome.output, str(outcome)


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


main([batches_shards_and_ranks_are_not_seen, a_masked_model_is_evaluated_with_one_mask,
      every_token_but_the_first_is_a_target_once,
      evaluate_prints_what_training_logged, an_interrupted_evaluation_is_made_up_for])
