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

    def test_norms_of_queries_and_keys(self):
        digests = {self.check_life(kind, f"attention.qk_norm={kind}") for kind in ("head", "whole")}
        self.assertEqual(len(digests), 2)
        for kind, shape in (("head", "(4)"), ("whole", "(16)")):
            self.assertRegex(self.run_program("inspect", f"{kind}/{STEP_4}").out,
                             r"layers\.1\.attention\.q_norm +f32 " + re.escape(shape))

    def test_rope_of_every_kind(self):
        yarn = ["attention.rope_scaling=yarn", "attention.rope_factor=4", "attention.rope_original_context=24"]
        digests = {self.check_life(name, *changes) for name, *changes in (
            ("part", "attention.rope_fraction=0.5", "attention.rope_scaling=ntk", "attention.rope_factor=2"),
            ("some", "attention.positions=[rope,none]", "attention.scale=0.25", *yarn))}
        self.assertEqual(len(digests), 2)
        for changes, *message in (
                (["attention.rope_factor=2"], "attention.rope_factor 2 wants attention.rope_scaling=linear"),
                (["attention.rope_scaling=ntk"], "changes nothing"),
                (yarn[:2], "wants attention.rope_original_context"),
                ([*yarn, "attention.rope_beta_slow=40"], "is not above attention.rope_beta_slow"),
                (["attention.rope_fraction=0.25"], "is no pair of channels; set it to 0.5 or more"),
                (["attention.positions=none", "attention.rope_fraction=0.5"], "attention.positions=rope"),
                (["attention.positions=[learned,rope]"], "set attention.positions=learned or leave it out")):
            self.assert_error(self.run_program("tiny.yaml", "run.dir=refused", *changes), 2, *message)

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
