"""Checkpoints that earlier programs have written are read, compute what they computed there, and are gone on from.
earlier/without-runs.h5 is of the first release, which knew neither runs nor layers of different sizes;
earlier/one-table-of-experts.h5 of the last program before the history had a table for each name, earlier/objective-of-model.h5
of the last that called train.objective model.objective. Their losses and texts are
those that these programs printed; so are the digests but the first's, which was of another definition. A release that adds to
the format adds its own."""
import os
import random
import shutil

from program import ProgramTest, main

EARLIER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "earlier")
GOLDEN = {  # digest, validation loss in nats, greedy text
    "without-runs": ("321855470421d38b33b11882672e3236", 2.208961, "abc" + "c" * 20),
    "one-table-of-experts": ("02813122f1bac2505f991cd0f3637bef", 2.212084, "abc" + "c" * 20),
    "objective-of-model": ("6343c5ee88823794a232b3fb3dcffdd6", 2.212288, "abc" + "c" * 14 + " " * 6),
}
CONFIG = """data.train: t.txt
data.validation: t.txt
data.format: characters
model: {d_model: 16, layers: 2}
attention: {heads: 2}
model.d_ff: 32
moe: {experts: 4, top_k: 2, d_ff: 16}
train: {steps: 8, batch: 4, context: 16, lr: 0.003}
eval: {every: 0, batches: 4}
"""


class EarlierCheckpoints(ProgramTest):
    def setUp(self):
        super().setUp()
        source = random.Random(1)
        with open(self.path("t.txt"), "w") as file:
            file.write("".join(source.choice("abcdefgh ") for _ in range(4000)))
        with open(self.path("g.yaml"), "w") as file:
            file.write(CONFIG)

    def test_they_compute_what_they_computed(self):
        for name, (digest, loss, text) in GOLDEN.items():
            with self.subTest(name):
                path = os.path.join(EARLIER, f"{name}.h5")
                self.assertEqual(self.run_program("inspect", "--digest", path).out.strip(), digest)
                verified = self.run_program("checkpoint", "verify", path)
                self.assertIn(f"step 6 holds, digest {digest}", verified.out)
                evaluated = self.run_program("evaluate", path, "data.validation=t.txt")
                self.assert_done(evaluated)
                # sums of another processor's vector units round otherwise
                self.assertAlmostEqual(float(evaluated.out.split("loss ")[1].split()[0]), loss, delta=1e-5)
                told = self.run_program("generate", path, "--prompt", "abc", "--tokens", "20", "--temperature", "0")
                self.assertIn(text, told.out)

    def test_training_goes_on_from_them(self):
        for name in GOLDEN:
            with self.subTest(name):
                os.makedirs(self.path(f"{name}/checkpoints"))
                shutil.copy(os.path.join(EARLIER, f"{name}.h5"), self.path(f"{name}/checkpoints/step-00000006.h5"))
                # a default that has changed since; the program says so and how to keep it
                kept = ["moe.max_expert_replicas=1"] if name == "without-runs" else []
                outcome = self.run_program("g.yaml", f"run.dir={name}", *kept)
                self.assert_done(outcome)
                self.assertIn("at step 6", outcome.out)
                self.assertTrue(os.path.exists(self.path(f"{name}/checkpoints/step-00000008.h5")))


main()
