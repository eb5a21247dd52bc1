"""Zero-computation experts as a user meets them: their life, what is told of them, what is refused."""
import json
import re

from program import LifeTest, STEP_4, main


class ZeroExperts(LifeTest):
    def setUp(self):
        super().setUp()
        self.write("validation.txt", "And the evening and the morning were the first day. " * 9)
        self.write_tiny(train__steps="4", checkpoint__every="2", model__init_std="0.3", train__schedule="constant",
                        data__validation="validation.txt", log__every="1", eval__every="4")

    def test_a_run_is_continued_on_other_ranks_and_generates_the_same_with_a_cache(self):
        digests = {self.check_life(name, "moe.zero_experts=3", *changes) for name, *changes in (
            ("identity", "moe.bias_update=sign", "moe.capacity_factor=1"),
            ("nothing", "moe.zero_kind=null", "moe.renormalize_after_drop=true"))}
        self.assertEqual(len(digests), 2)

    def test_their_share_is_told(self):
        run = self.train("r", "moe.zero_experts=3", "moe.capacity_factor=1")
        with open(self.path("r/metrics.jsonl")) as file:
            rows = [json.loads(line) for line in file]
        step, evaluation = ([row for row in rows if name in row][-1] for name in ("loss", "val_loss"))
        self.assertIn(f"| zero {100 * step['zero_share']:.1f}%", run.out + run.err)
        inspected = self.run_program("inspect", f"r/{STEP_4}").out
        shares = re.findall(r"^ +\d \|.*, zero ([\d.]+)%, dropped ([\d.]+)%", inspected, re.MULTILINE)
        for i, name in enumerate(("zero_share", "drop_rate")):
            mean = sum(float(share[i]) for share in shares) / len(shares)
            self.assertAlmostEqual(mean, 100 * step[name], delta=0.051, msg=inspected)
        self.assertGreater(step["drop_rate"], 0)
        self.assertGreater(evaluation["zero_share"], 0)
        evaluated = self.run_program("evaluate", f"r/{STEP_4}").out
        shares = [float(share) for share in re.findall(r"^layer \d: .*, zero ([\d.]+)%", evaluated, re.MULTILINE)]
        self.assertAlmostEqual(sum(shares) / len(shares), 100 * evaluation["zero_share"], delta=0.051, msg=evaluated)
        without = self.train("without")
        self.assertNotIn("zero", without.out + without.err)

    def test_a_plan_says_what_a_token_costs_at_least_and_at_most(self):
        def flops(*changes):
            outcome = self.run_program("plan", "tiny.yaml", "-np", "1", "moe.top_k=2", *changes)
            self.assert_done(outcome)
            step = float(re.search(r"([\d.]+) MFLOP a token, forward", outcome.out)[1])
            found = re.search(r"minimum ([\d.]+), mean ([\d.]+) .*, maximum ([\d.]+) MFLOP a token", outcome.out)
            return step, [float(figure) for figure in found.groups()] if found else None

        without, nothing = flops()
        self.assertIsNone(nothing)
        experts = 4
        zero = 2
        step, (least, mean, most) = flops(f"moe.experts={experts}", f"moe.zero_experts={zero}")
        self.assertEqual(step, mean)
        # Three passes, 2 layers, of a router that is wider.
        self.assertAlmostEqual(most, without + 3 * 2 * 2 * 16 * zero / 1e6, delta=0.0011)
        self.assertAlmostEqual(mean, least + (most - least) * experts / (experts + zero), delta=0.0011)
        # One zero expert leaves a choice of two that costs.
        _, (half, _, _) = flops(f"moe.experts={experts}", "moe.zero_experts=1")
        self.assertAlmostEqual(most - half, (most - least) / 2, delta=0.0021)

    def test_they_leave_a_choice_where_all_that_compute_fit_into_top_k(self):
        every = ["moe.router=noisy_top_k", "moe.experts=4", "moe.top_k=4", "moe.balance=[{kind: noisy_load}]"]
        self.assert_error(self.run_program("tiny.yaml", "run.dir=refused", *every), 2, "looks at the expert after the chosen")
        self.train("chosen", *every, "moe.zero_experts=2")

    def test_what_makes_no_sense_is_refused_with_the_reason(self):
        for changes, *words in (
                (["moe.zero_kind=null"], "moe.zero_experts is 0", "set moe.zero_experts=1"),
                (["moe.zero_experts=2", "moe.groups=2"], "moe.groups (2)", "leave out"),
                (["moe.zero_experts=2", "moe.router=hash"], "token id", "leave out moe.zero_experts (2)"),
                (["moe.zero_experts=2", "moe.hash_layers=2"], "token id", "leave out moe.zero_experts (2)"),
                (["moe.zero_experts=2", "moe.router=expert_choice", "moe.allow_noncausal=true"],
                 "experts choose tokens", "leave out moe.zero_experts (2)"),
                (["moe.zero_experts=65536"], "more than 65536 together", "at most 65532"),
                (["moe.zero_experts=-1"], "moe.zero_experts", "0 to 65536"),
                (["moe.zero_experts=2", "moe.zero_kind=identities"], "did you mean", "identity")):
            self.assert_error(self.run_program("tiny.yaml", "run.dir=refused", *changes), 2, *words)
        self.train("r", "moe.zero_experts=2")
        self.assert_error(self.run_program("tiny.yaml", "run.dir=r", "moe.zero_experts=1", "train.steps=6"), 2,
                          "moe.zero_experts")


if __name__ == "__main__":
    main()
