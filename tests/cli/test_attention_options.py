"""What attention.* changes, as a user sees it: training that goes on where it stopped, generation, plans and refusals."""
import json
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
        self.assert_error(self.run_program(*changed, "resume.allow=attention.softmax"), 2,
                          "attention.softmax sink -> plain", "resume.allow does not help, as tensors differ")

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

    def test_scores_and_gates(self):
        capped = ["attention.softcap=2", "attention.qk_norm=head"]
        digests = {self.check_life(name, *changes) for name, *changes in (
            ("alibi", "attention.positions=alibi", "attention.gate=element", *capped),
            ("mixed", "attention.positions=[rope,alibi]", "attention.gate=head", "attention.softmax=sink",
             "attention.window=[0,5]", "attention.max_logits=true", "attention.dropout=0.2"))}
        self.assertEqual(len(digests), 2)
        self.assertRegex(self.run_program("inspect", f"alibi/{STEP_4}").out, r"layers\.0\.attention\.gate +f32 \(16, 16\)")

    def test_the_largest_scores_are_told_and_change_nothing(self):
        def told(run, field):
            with open(self.path(f"{run}/metrics.jsonl")) as file:
                rows = [json.loads(line) for line in file]
            return [row[field] for row in rows if field in row]
        self.train("silent")
        self.train("told", "attention.max_logits=true", "log.utilization_every=2")
        self.train("told-by-ranks", "attention.max_logits=true", "train.micro_batches=2", ranks=2)
        logits = told("told", "max_attention_logit")
        self.assertGreater(len(logits), 0)
        self.assertEqual(logits, told("told-by-ranks", "max_attention_logit"))
        self.assertTrue(all(logit > 0 for logit in logits))
        self.assertEqual(told("silent", "max_attention_logit"), [])
        self.assertEqual(told("silent", "loss"), told("told", "loss"))
        self.assertIn("max_attention_logit", self.run_program("inspect", f"told/{STEP_4}").out)

    def test_dropout_is_trains_own_unless_given(self):
        def shown(*changes):
            outcome = self.run_program("tiny.yaml", "--print-config", *changes)
            self.assert_done(outcome)
            return re.search(r"attention\.dropout: (\S+)", outcome.out)[1]
        self.assertEqual(shown(), "0")
        self.assertEqual(shown("train.dropout=0.1"), "0.1")
        self.assertEqual(shown("train.dropout=0.1", "attention.dropout=0"), "0")

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
