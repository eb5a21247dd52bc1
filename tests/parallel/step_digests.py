#!/usr/bin/env python3
"""log.digest_every and `moetrain diff-runs`: digests do not depend on how a run is cut, and lead to what was changed.

  step_digests.py MOETRAIN [TEST …]"""
import subprocess

from runs import HANG_SECONDS, Workspace, faults_in, main, write

# Layers of many kinds and sizes, of which none is the first that a change would show in.
CONFIG = {"model.layers": 4, "model.feed_forward": "[dense, moe, peer, moe]", "moe.experts": "[0, 8, 0, 4]", "model.mixer": "[attention, "
          "attention, latent_attention, attention]", "peer.keys": 8, "peer.heads": 2, "peer.top_k": 2,
          "train.schedule": "constant", "train.steps": 4, "eval.every": 0, "log.digest_every": 2, "run.check_replicas_every": 0, "run.check_exchanges": "off"}

# Layers of all kinds but moa, and so small that a run takes no time.
KINDS = {"model.layers": 6, "model.mixer": "[attention, latent_attention, switchhead, attention, attention, attention]",
         "model.feed_forward": "[dense, moe, soft_moe, peer, latent_moe, pr_moe]", "moe.experts": "[0, 8, 4, 0, 8, 8]",
         "attention.experts": 4, "moe.shared_experts": 1, "moe.latent_width": 12, "moe.slots": 2, "moe.allow_noncausal": "true",
         "peer.keys": 8, "peer.heads": 2, "peer.top_k": 2, "train.steps": 1, "train.schedule": "constant", "eval.every": 0,
         "log.digest_every": 1}
MOA = {"model.mixer": "[attention, moa]", "attention.experts": 4, "mtp.layers": 1, "train.steps": 1, "train.schedule": "constant",
       "eval.every": 0, "log.digest_every": 1}


def diff(space, run, other, code):
    done = subprocess.run([space.program, "diff-runs", space.path(run), space.path(other)], capture_output=True, text=True,
                          timeout=HANG_SECONDS)
    assert done.returncode == code, f"{other}: exit code {done.returncode}, not {code}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def text(space, run):
    with open(space.path(run, "digests.jsonl")) as file:
        return file.read()


def however_a_run_is_cut_they_are_the_same(space: Workspace):
    space.run("one", CONFIG)
    for run, ranks, changes in (("three", 3, {}), ("micro", 2, {"train.micro_batches": 2, "moe.dispatch": "exact"}),
                                ("four", 4, {"parallel.expert": 2}), ("six", 6, {"parallel.expert": 2}),
                                ("cut", 2, {"train.steps": 3})):
        space.run(run, dict(CONFIG, **changes), ranks)
        if run == "cut":  # and after a resume, without what had come later
            with open(space.path("cut", "digests.jsonl"), "a") as file:
                file.write('{"step":4}\n')
            space.run(run, CONFIG, 4)
        assert text(space, run) == text(space, "one"), diff(space, "one", run, 1)
        assert diff(space, "one", run, 0) == "nothing differs in 2 steps, the last of them 4\n"
    # Micro-batches, and a resume after a step without digests: the sum is then in another set of gradients.
    micro_batches = {"train.micro_batches": 2, "moe.dispatch": "exact"}
    space.run("odd", dict(CONFIG, **micro_batches, **{"run.stop_at": 1}), code=75)
    space.run("odd", dict(CONFIG, **micro_batches))
    assert text(space, "odd") == text(space, "one"), diff(space, "one", "odd", 1)
    config = dict(CONFIG, **{"model.feed_forward": "[dense, moe, moe, moe]", "moe.experts": "[0, 8, 5, 4]", "peer.keys": None,
                             "peer.heads": None, "peer.top_k": None})
    space.run("even", config)
    space.run("uneven", dict(config, **{"parallel.expert": 3}), 3)
    assert text(space, "uneven") == text(space, "even"), diff(space, "even", "uneven", 1)
    for model in (KINDS, MOA):
        space.run("whole", model)
        space.run("halves", dict(model, **{"train.micro_batches": 2, "parallel.exchange_chunks": 2}), 2)
        assert text(space, "halves") == text(space, "whole"), diff(space, "whole", "halves", 1)
        space.remove("whole")
        space.remove("halves")


def two_configurations_are_trained_until_they_part(space: Workspace):
    """The same on any number of ranks; and with another rate of learning from the second step on, whose gradients differ."""
    for name, changes in (("a", {}), ("b", {"train.lr": 0.01})):
        space.command(name, dict(CONFIG, **{"log.digest_every": 0}, **changes))  # writes the configuration

    def live(*words, code):
        command = [space.program, "diff-runs", "--live", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, cwd=space.path("."))
        assert done.returncode == code, f"{command}: exit code {done.returncode}, not {code}: {done.stdout}{done.stderr}"
        return done.stdout.splitlines()

    told = live("a.yaml", "a.yaml", "-np", "1,3", code=0)
    assert told == [f"nothing differs in {steps} steps, the last of them {steps}" for steps in (1, 2, 4)], told
    told = live("a.yaml", "b.yaml", "-np", "2,1", "-o", "parted", code=1)
    assert len(told) == 1 and told[0].startswith("step 1: the first difference is in parameters"), told
    for words in (("a.yaml", "none.yaml"), ("a.yaml", "a.yaml", "-np", "2"), ("a.yaml", "a.yaml", "-np", "1,9"), ("a.yaml",)):
        live(*words, "-o", "refused", code=2)


def a_change_is_found_where_it_was_made(space: Workspace):
    space.run("unbroken", CONFIG, 2)
    for number, (fault, words) in enumerate([
            *((f"flip:step=2,bit=22,element=3200,tensor={tensor}", f"step 2: the first difference is in forward, {place}, window 0 of 16") for tensor, place in (
                ("embedding", "embedding"), ("layers.0.attention.qkv", "layers.0.mixer.qkv"), ("layers.0.ffn.down", "layers.0.feed_forward.out"),
                ("layers.1.ffn_norm", "layers.1.feed_forward.in"), ("layers.2.peer.query_first", "layers.2.feed_forward.queries"))),
            # Nothing of it is seen before the update, or in one expert alone.
            ("flip:step=2,in=gradient,bit=0,tensor=layers.1.moe.experts.down", "in gradients, layers.1.moe.experts.down, expert 0 of 8"),
            ("flip:step=2,in=gradient,bit=0,tensor=final_norm", "in gradients, final_norm"),
            ("flip:step=2,in=activation,bit=0", "in backward, layers.3.feed_forward.out, window 0 of 16"),
            # On rank 1, which has the second half of the windows; and in a step without digests.
            ("flip:rank=1,step=2,bit=22,tensor=layers.0.attention.qkv", "in forward, layers.0.mixer.qkv, window 8 of 16, in shard 4"),
            ("flip:step=3,bit=22,tensor=layers.0.attention.qkv", "step 4: the first difference is in forward, embedding, window 0 of 16, "
             "in shard 0 of its micro-batch, and 15 more; up to step 2 nothing differs")]):
        outcome = space.run(f"faulty{number}", CONFIG, 2, fault=fault)
        assert faults_in(outcome), f"{fault}\n{outcome}"
        told = diff(space, "unbroken", f"faulty{number}", 1)
        assert words in told and told.count("\n") == 1, f"{fault}: {told}"
        space.remove(f"faulty{number}")


def an_ulp_is_found_in_the_part_that_made_it(space: Workspace):
    """The last bit of one element of what the n-th call of an op in the step has made, on one rank, or on the second of two."""
    for model, name, ranks, plants in (
            (KINDS, "kinds", 1, (
                ("matmul_forward", 1, "forward, layers.0.mixer.qkv"), ("attention_forward", 1, "forward, layers.0.mixer.heads"),
                ("matmul_forward", 2, "forward, layers.0.mixer.out"), ("normalize_forward", 2, "forward, layers.0.feed_forward.in"),
                ("matmul_forward", 4, "forward, layers.0.feed_forward.out"), ("attention_forward", 2, "forward, layers.1.mixer.heads"),
                ("router_forward", 1, "forward, layers.1.feed_forward.router.choice"),
                ("combine_forward", 1, "forward, layers.1.feed_forward.combined"),
                ("router_forward", 2, "forward, layers.2.mixer.attention.value_router"),
                ("attention_forward", 3, "forward, layers.2.mixer.heads"),
                ("router_forward", 3, "forward, layers.2.mixer.attention.output_router"),
                ("combine_forward", 3, "forward, layers.2.mixer.out"),
                ("slot_weights_forward", 1, "forward, layers.2.feed_forward.slot_weights"),
                ("combine_forward", 4, "forward, layers.2.feed_forward.combined"),
                ("product_keys_forward", 1, "forward, layers.3.feed_forward.choice"),
                ("named_sums", 1, "forward, layers.3.feed_forward.out"),
                ("router_forward", 4, "forward, layers.4.feed_forward.router.choice"),
                ("combine_forward", 5, "forward, layers.4.feed_forward.combined"),
                ("combine_forward", 6, "forward, layers.5.feed_forward.combined"),
                ("router_backward", 1, "backward, layers.5.feed_forward.router.logits"),
                ("attention_backward", 1, "backward, layers.5.mixer.qkv"), ("attention_backward", 4, "backward, layers.2.mixer.qkv"))),
            (MOA, "moa", 2, (
                ("router_forward", 2, "forward, layers.1.mixer.router.choice"), ("attention_forward", 2, "forward, layers.1.mixer.heads"),
                ("combine_forward", 2, "forward, layers.1.mixer.out"), ("attention_forward", 3, "forward, mtp.0.mixer.heads")))):
        space.run(name, model, ranks)
        window = f", window {8 * (ranks - 1)} of 16, in shard {4 * (ranks - 1)} "
        for op, nth, place in plants:
            fault = f"flip:rank={ranks - 1},step=1,in=result,bit=0,tensor={op},nth={nth}"
            outcome = space.run("faulty", model, ranks, fault=fault)
            assert faults_in(outcome), f"{fault}\n{outcome}"
            told = diff(space, name, "faulty", 1)
            assert f"the first difference is in {place}{window}" in told, f"{fault}: {told}"
            space.remove("faulty")


def what_cannot_be_compared_is_one_line(space: Workspace):
    short = {"train.steps": 2, "eval.every": 0, "log.digest_every": 2}
    space.run("run", short)
    space.run("none", dict(short, **{"log.digest_every": 0}))
    space.run("smaller", dict(short, **{"train.batch": 8}))
    space.run("later", dict(short, **{"train.steps": 3, "log.digest_every": 3}))
    space.run("deeper", dict(short, **{"model.layers": 3}))
    for other, code, words in (("none", 2, "log.digest_every above 0"), ("smaller", 2, "16 windows a step and"), ("later", 2, "no step in common"),
                               ("deeper", 1, "these are different models")):
        told = diff(space, "run", other, code)
        assert words in told and told.count("\n") == 1, told
    for line in ("", "{", "[]", '{"step":"2"}', '{"step":0}', '{"step":1000000000000000000000}'):
        write(space.path("damaged"), line + "\n")
        told = diff(space, "run", "damaged", 4)
        assert "damaged: line " in told and told.count("\n") == 1, told
    for line in ('{"step":2,"windows":16}', '{"step":2,"windows":16,"forward":[]}', '{"step":2,"windows":16,"forward":{"embedding":{}}}'):
        write(space.path("strange"), line + "\n")
        diff(space, "run", "strange", 1)
        diff(space, "strange", "run", 1)


main([however_a_run_is_cut_they_are_the_same, two_configurations_are_trained_until_they_part, a_change_is_found_where_it_was_made,
      an_ulp_is_found_in_the_part_that_made_it, what_cannot_be_compared_is_one_line])
