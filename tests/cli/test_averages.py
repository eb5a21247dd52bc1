"""The moving average of the weights: what it is, what is evaluated with it, and how a run goes on."""
import json

import h5py
import numpy

from program import main
from run_test import RUN, RunTest

DECAY = numpy.float32(0.75)


class Averages(RunTest):
    def setUp(self):
        super().setUp()
        self.write("validation.txt", "And the earth was without form, and void; and darkness was upon the face. " * 3)
        self.write_tiny(**dict(RUN, train__steps="4", checkpoint__every="1", train__ema="0.75", train__warmup="1",
                               data__validation="validation.txt", moe__bias_update="sign", train__lr="0.01"))

    def group(self, run, step, name):
        with h5py.File(self.path(self.step(run, step))) as file:
            values = {}
            if name in file:
                file[name].visititems(lambda path, item: values.update({path: item[()]})
                                      if isinstance(item, h5py.Dataset) else None)
            return values

    def losses(self, run):
        with open(self.path(f"{run}/metrics.jsonl")) as file:
            return [row["val_loss"] for row in map(json.loads, file) if "val_loss" in row]

    def digest(self, run):
        return self.run_program("inspect", "--digest", run).out

    def assert_follows(self, run, first):
        average = self.group(run, first, "ema")
        self.assertIn("layers.0.moe.router", average)
        self.assertNotIn("layers.0.moe.router_bias", average)  # no gradient changes it
        for step in range(first + 1, 5):
            values = self.group(run, step, "parameters")
            got = self.group(run, step, "ema")
            for name, before in average.items():
                want = DECAY * before + (1 - DECAY) * values[name]
                # one product may have been fused with the sum
                self.assertLessEqual(numpy.abs(got[name] - want).max(), 1e-7 * max(1, numpy.abs(want).max()), name)
            average = got

    def test_it_follows_the_weights_and_goes_on(self):
        self.train("r")
        self.assert_follows("r", 1)
        self.train("half", "train.steps=2")
        self.train("half")
        self.assertEqual(self.digest("half"), self.digest("r"))
        two = self.run_program("tiny.yaml", "run.dir=two", ranks=2)
        self.assert_done(two)
        self.assertEqual(self.digest("two"), self.digest("r"))

    def test_it_may_begin_and_end_with_a_resume(self):
        self.train("r", "train.steps=2", "train.ema=0")
        self.assertEqual(self.group("r", 2, "ema"), {})
        self.train("r", "train.steps=3")
        before, after = self.group("r", 2, "parameters"), self.group("r", 3, "parameters")
        for name, got in self.group("r", 3, "ema").items():
            want = DECAY * before[name] + (1 - DECAY) * after[name]
            self.assertLessEqual(numpy.abs(got - want).max(), 1e-7 * max(1, numpy.abs(want).max()), name)
        self.train("r", "train.steps=4", "train.ema=0")
        self.assertEqual(self.group("r", 4, "ema"), {})

    def test_it_is_evaluated_and_generates(self):
        for precision in ("f32", "bf16"):
            keys = ["eval.every=2", f"train.precision={precision}"]
            self.train(f"a{precision}", *keys)
            outcome = self.train(f"b{precision}", *keys, "eval.weights=ema")
            self.assertIn("dropless, averaged weights", outcome.out)
            run = f"b{precision}"
            self.assertEqual(self.digest(run), self.digest(f"a{precision}"))  # evaluation changes nothing
            self.assertNotEqual(self.losses(run), self.losses(f"a{precision}"))
            # The training's evaluation and that of its checkpoint are one.
            out = self.run_program("evaluate", run).out
            self.assertIn(f"loss {self.losses(run)[-1]:.6f} nats a token", out)
            out = self.run_program("evaluate", run, "eval.weights=trained").out
            self.assertIn(f"loss {self.losses(f'a{precision}')[-1]:.6f} nats a token", out)
        words = ["--prompt", "In the ", "--tokens", "30", "--temperature", "0.9", "--seed", "3"]
        texts = [self.run_program("generate", "bf32", *words, f"eval.weights={which}") for which in ("ema", "trained")]
        for outcome in texts:
            self.assert_done(outcome)
        self.assertNotEqual(texts[0].out, texts[1].out)

    def test_there_must_be_one(self):
        self.assert_error(self.run_program("tiny.yaml", "run.dir=r", "train.ema=0", "eval.weights=ema"), 2,
                          "eval.weights", "train.ema=0.999")
        self.train("r", "train.ema=0")
        self.assert_error(self.run_program("evaluate", "r", "eval.weights=ema", "train.ema=0.5"), 4, "ema/")


if __name__ == "__main__":
    main()
