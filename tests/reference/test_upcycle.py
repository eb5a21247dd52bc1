"""Models with experts made of dense ones: the dense model's logits, and the weights that they must have for it."""
import os

import h5py
import numpy as np

from test_huggingface import HuggingFaceTest, main

TOKENS = [73, 110, 32, 116, 104, 101, 32, 98, 101, 103, 105, 110, 110, 105, 110, 103, 32, 71, 111, 100]
# Gate weights that sum to 1 do so but for roundings of 2^-24 each, and slices are summed in another order than the whole:
# measured 4e-7 at most, of logits as large as the largest.
RELATIVE = 2e-6
COPIES, SLICES = ["moe.experts=8"], ["moe.experts=16", "moe.top_k=8", "moe.d_ff=12"]

EQUAL = [
    ([], COPIES), ([], SLICES),
    ([], [*COPIES, "moe.router=sigmoid", "moe.scaling_factor=2.5", "moe.bias_update=sign"]),
    ([], [*COPIES, "moe.router=topk_softmax", "moe.normalize_top_k=true", "moe.gate_bias=true"]),
    ([], [*COPIES, "moe.router=topk_softmax", "moe.renormalize_after_drop=true", "moe.capacity_factor=2"]),
    ([], [*COPIES, "moe.router=topk_softmax", "moe.top_k=8"]),
    ([], [*COPIES, "moe.router=noisy_top_k"]),
    ([], [*COPIES, "moe.every=2"]),
    ([], [*COPIES, "moe.router=hash", "moe.top_k=4"]),
    ([], ["moe.experts=12", "moe.top_k=6", "moe.d_ff=16"]),  # three slices: weights are rounded once more
    ([], [*SLICES, "moe.router=sqrtsoftplus", "moe.scaling_factor=2", "moe.groups=2"]),
    (["model.bias=true", "model.activation=gelu"], COPIES),
    (["model.bias=true", "model.activation=gelu"], [*SLICES, "moe.router=sigmoid", "moe.scaling_factor=2"]),
    (["model.feed_forward=[dense, peer]", "peer.keys=4", "peer.top_k=2"], [*COPIES, "model.feed_forward=[moe, peer]"]),
    (["model.mixer=moa", "attention.experts=4", "attention.kv_heads=1"], [*COPIES, "moe.capacity_factor=8"]),
]

REFUSED = [
    ([], ["moe.experts=0"], ["set moe.experts"]),
    ([], [*COPIES, "moe.router=topk_softmax"], ["layer 0", "sum to 1", "moe.router=softmax_topk"]),
    ([], [*COPIES, "moe.router=topk_softmax", "moe.top_k=1"], ["sum to 1"]),
    ([], [*COPIES, "moe.router=sinkhorn"], ["sum to 1"]),
    ([], [*COPIES, "moe.router=expert_choice", "moe.allow_noncausal=true"], ["expert_choice"]),
    ([], [*COPIES, "moe.zero_experts=1"], ["moe.zero_experts=0"]),
    ([], [*COPIES, "moe.shared_experts=1"], ["moe.shared_experts=0"]),
    ([], [*COPIES, "moe.d_ff=20"], ["moe.d_ff (20)", "model.d_ff (48)"]),
    ([], [*COPIES, "moe.d_ff=96"], ["moe.d_ff (96)", "set it to 48"]),
    ([], ["moe.experts=16", "moe.top_k=6", "moe.d_ff=12"], ["moe.top_k (6)", "multiples of 4"]),
    ([], [*SLICES, "moe.router=hash"], ["moe.router=hash", "moe.d_ff=48"]),
    ([], [*SLICES, "moe.groups=8", "moe.top_groups=4"], ["moe.groups (8)", "divisor of 4"]),
    ([], [*COPIES, "attention.kv_heads=1"], ["attention.kv_heads is 2", "here 1", "leave it out"]),
    ([], [*COPIES, "model.layers=3"], ["model.layers is 2"]),
    (["model.feed_forward=[dense, peer]", "peer.keys=4", "peer.top_k=2"], [*COPIES, "model.feed_forward=[peer, moe]"],
     ["layer 0 is dense", "model.feed_forward"]),
    (["model.feed_forward=peer", "peer.keys=4", "peer.top_k=2"], COPIES, ["no layer gets experts", "model.feed_forward"]),
    (["model.mixer=moa", "attention.experts=4", "attention.kv_heads=1"], [*COPIES, "moe.router=sigmoid"],
     ["moe.router, which moa layers obey, too", "softmax_topk", "here sigmoid"]),
    (["model.mixer=moa", "attention.experts=4", "attention.kv_heads=1"], [*COPIES, "moe.bias_update=sign"],
     ["moe.bias_update, which moa"]),
    (["moe.experts=4"], COPIES, ["layer 0 has experts already", "init"]),
]


class Upcycle(HuggingFaceTest):
    def setUp(self):
        super().setUp()
        self.trained = {}
        self.write_tiny(model__d_ff="48", moe__experts="0", moe__d_ff=None, train__lr="0.02")

    def dense(self, changes):
        """The run of a configuration, trained once in a test."""
        key = tuple(changes)
        if key not in self.trained:
            self.trained[key] = f"dense-{len(self.trained)}"
            done = self.run_program("tiny.yaml", f"run.dir={self.trained[key]}", "train.steps=4", *changes)
            self.assert_done(done)
        return self.trained[key]

    def parameters(self, path):
        with h5py.File(self.path(path)) as file:
            return {name: item[()] for name, item in file["parameters"].items()}

    def upcycle(self, dense, name, *changes):
        done = self.run_program("upcycle", dense, name, *changes)
        self.assert_done(done)
        return done

    def test_logits_are_those_of_the_dense_model(self):
        logits = {}
        for number, (model, changes) in enumerate(EQUAL):
            with self.subTest(changes=changes, model=model):
                dense = self.dense(model)
                if dense not in logits:
                    logits[dense] = np.array(self.logits(dense, TOKENS))
                self.upcycle(dense, f"{number}.h5", *changes)
                difference = np.abs(self.logits(f"{number}.h5", TOKENS) - logits[dense]).max()
                worst = difference / np.abs(logits[dense]).max()
                if os.environ.get("MOETRAIN_SHOW_ERRORS"):
                    print(f"{changes}: {worst:.2e}")
                # With powers of two as weights a sum of copies is the one, in every bit.
                self.assertLessEqual(worst, 0 if "moe.router=hash" in changes else RELATIVE)

    def test_in_bf16_copies_have_the_same_bits(self):
        dense = self.dense(["train.precision=bf16"])  # the sum is rounded to the copy
        self.upcycle(dense, "copies.h5", *COPIES)
        text = ["--prompt", "In the ", "--tokens", "20", "--json", "--logprobs"]
        was, now = self.run_program("generate", dense, *text), self.run_program("generate", "copies.h5", *text)
        self.assert_done(now)
        self.assertEqual(was.out, now.out)

    def test_experts_are_copies_or_slices_and_groups_have_one_row_of_the_router(self):
        dense = self.dense([])
        was = self.parameters(f"{dense}/checkpoints/step-00000004.h5")
        for changes, G in ((COPIES, 1), (SLICES, 4)):
            self.upcycle(dense, f"{G}.h5", *changes)
            now = self.parameters(f"{G}.h5")
            for layer in range(2):
                gate_up, down = (was[f"layers.{layer}.ffn.{name}"] for name in ("gate_up", "down"))
                gate, up = np.split(gate_up, 2)
                for expert, weights in enumerate(now[f"layers.{layer}.moe.experts.gate_up"]):
                    part = expert % G
                    self.assertTrue((weights == np.concatenate([np.split(gate, G)[part], np.split(up, G)[part]])).all())
                    there = now[f"layers.{layer}.moe.experts.down"][expert]
                    self.assertTrue((there == G * np.split(down, G, axis=1)[part]).all())
                router = now[f"layers.{layer}.moe.router"]
                self.assertTrue((router == np.repeat(router[::G], G, axis=0)).all())
                self.assertEqual(len(np.unique(router, axis=0)), len(router) // G)
            for name in set(was) & set(now):
                self.assertTrue((was[name] == now[name]).all(), name)
            self.assertEqual({name for name in was if name not in now}, {n for n in was if ".ffn." in n})

    def test_experts_whose_slots_mix_tokens_stay_what_they_are(self):
        dense = self.dense(["model.feed_forward=[dense, soft_moe]", "moe.experts=8", "moe.allow_noncausal=true"])
        self.upcycle(dense, "soft.h5", *COPIES, "model.feed_forward=[moe, soft_moe]")
        was, now = self.parameters(f"{dense}/checkpoints/step-00000004.h5"), self.parameters("soft.h5")
        self.assertTrue(all((was[name] == now[name]).all() for name in was if ".ffn." not in name))
        losses = [self.run_program("evaluate", checkpoint, "data.validation=train.txt").out for checkpoint in (dense, "soft.h5")]
        first, second = (float(text.split(": loss ")[1].split()[0]) for text in losses)
        self.assertLessEqual(abs(first - second), RELATIVE * first)

    def test_training_goes_on_from_it(self):
        for optimizer in ("adamw", "muon"):
            dense = self.dense(["data.format=characters", f"train.optimizer={optimizer}", "train.ema=0.9"])
            self.upcycle(dense, f"{optimizer}.h5", *SLICES)
            keys = [*SLICES, "data.format=characters", f"train.optimizer={optimizer}", "train.ema=0.9"]
            runs = {}
            for name, begin, ranks in (("init", "init", None), ("init-2", "init", 2), ("resume", "resume", None)):
                runs[name] = f"{optimizer}-{name}"
                done = self.run_program("tiny.yaml", *keys, f"run.dir={runs[name]}", f"{begin}={optimizer}.h5", ranks=ranks)
                self.assert_done(done)
            self.assertEqual(len({self.digest(run) for run in runs.values()}), 1, optimizer)

    def test_what_would_compute_something_else_is_refused_and_leaves_nothing(self):
        for model, changes, parts in REFUSED:
            with self.subTest(changes=changes, model=model):
                dense = self.dense(model)
                before = self.snapshot()
                self.assert_error(self.run_program("upcycle", dense, "refused.h5", *changes), 2, *parts)
                self.assertEqual(self.snapshot(), before)
        self.assert_error(self.run_program("upcycle", dense, *COPIES), 2, "the name of a new one")
        self.assert_error(self.run_program("upcycle", self.dense([]), "tiny.yaml", *COPIES), 5, "tiny.yaml exists")
        self.assert_error(self.run_program("upcycle", "nowhere", "refused.h5", *COPIES), 4, "nowhere")


if __name__ == "__main__":
    main()
