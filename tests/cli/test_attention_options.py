"""What attention.* changes, as a user sees it: training that goes on where it stopped, generation, plans and refusals."""
import re

from program import LifeTest, STEP_4, main


class AttentionOptions(LifeTest):
    def setUp(self):
        super().setUp()
        self.write_tiny(train__steps="4", checkpoint__every="2", model__init_std="0.3", attention__heads="4",
                        attention__kv_heads="2", train__context="24", train__schedule="constant")

    def test_softmax_of_every_kind(self):
        digests = {self.check_life(kind, f"attention.softmax={kind}") for kind in ("plain", "off_by_one", "sink")}
        self.assertEqual(len(digests), 3)
        self.assertRegex(self.run_program("inspect", f"sink/{STEP_4}").out, r"layers\.1\.attention\.sinks +f32 \(4\)")
        changed = ["tiny.yaml", "run.dir=sink", "attention.softmax=plain", "train.steps=5"]
        self.assert_error(self.run_program(*changed), 2, "attention.softmax sink -> plain")
        self.assert_error(self.run_program(*changed, "resume.allow=attention.softmax"), 4,
                          "attention.sinks is in the checkpoint and not in the model")

    def test_windows(self):
        digests = {self.check_life(name, f"attention.window={window}", *more)
                   for name, window, *more in (("five", 5), ("one", 1), ("mixed", "4,0"),
                                               ("sinks", "[7,0]", "attention.softmax=sink"))}
        self.assertEqual(len(digests), 4)
        for window in (24, 1000):  # all that there is to see
            self.train(f"wide-{window}", f"attention.window={window}")
        self.train("whole")
        self.assertEqual({self.digest(run) for run in ("wide-24", "wide-1000")}, {self.digest("whole")})

    def test_a_window_costs_less(self):
        def flops(*changes):
            outcome = self.run_program("plan", "tiny.yaml", "-np", "1", *changes)
            self.assert_done(outcome)
            return float(re.search(r"([0-9.]+) MFLOP a token", outcome.out)[1])
        # Training: 3 passes, 2 operations, 4 heads of 4 + 4 channels, of each key in a layer.
        whole, window, half = flops(), flops("attention.window=5"), flops("attention.window=[0,5]")
        keys = (24 + 1) / 2 - (5 * 24 - (4 + 3 + 2 + 1)) / 24
        self.assertAlmostEqual(whole - window, 2 * 3 * 2 * 4 * 8 * keys / 1e6, delta=1.1e-3)
        self.assertAlmostEqual(whole - half, 3 * 2 * 4 * 8 * keys / 1e6, delta=1.1e-3)


if __name__ == "__main__":
    main()
