"""What keys of blocks, shared experts, dropout and scales change, as a user sees it."""
import json
import re

from program import LifeTest, STEP_4, main


class ModelOptions(LifeTest):
    def setUp(self):
        super().setUp()
        self.write_tiny(train__steps="4", checkpoint__every="2", model__init_std="0.3", train__schedule="constant")

    def test_the_place_of_norms(self):
        digests = {self.check_life(place, f"model.norm_place={place}", "train.dropout=0.1")
                   for place in ("pre", "post", "sandwich")}
        self.assertEqual(len(digests), 3)
        post, sandwich = (self.run_program("inspect", f"{place}/{STEP_4}").out for place in ("post", "sandwich"))
        self.assertNotIn("final_norm", post)
        self.assertRegex(sandwich, r"layers\.1\.ffn_post_norm +f32 \(16\)")

    def test_shared_experts_and_scales(self):
        digests = {self.check_life(name, *changes) for name, *changes in (
            ("gate", "moe.shared_experts=2", "moe.shared_gate=true", "model.logit_softcap=5", "model.logit_scale=0.5"),
            ("plain", "moe.shared_experts=1", "moe.shared_d_ff=24", "model.embedding_scale=4", "model.init=kaiming",
             "model.norm_place=post", "model.logit_softcap=5", "model.mup_base_width=8"))}
        self.assertEqual(len(digests), 2)

    def test_dropout_is_of_training_alone(self):
        self.write("validation.txt", "And the evening and the morning were the first day. " * 9)
        self.train("dropped", "train.dropout=0.4", "moe.dropout=0.4", "data.validation=validation.txt")
        evaluate = ["evaluate", f"dropped/{STEP_4}"]
        dropped, without = self.run_program(*evaluate), self.run_program(*evaluate, "train.dropout=0", "moe.dropout=0")
        self.assert_done(dropped)
        self.assert_done(without)
        losses = [re.search(r"[0-9.]+ nats", outcome.out + outcome.err)[0] for outcome in (dropped, without)]
        self.assertEqual(losses[0], losses[1])

    def test_shared_experts_are_counted(self):
        def plan(*changes):
            outcome = self.run_program("plan", "tiny.yaml", "-np", "1", *changes)
            self.assert_done(outcome)
            return float(re.search(r"([0-9.]+) MFLOP a token", outcome.out)[1])
        # Training: 3 passes, 2 operations, 2 layers; SwiGLU has 3 matrices, the gate a row.
        more = 3 * 2 * 2 * 16 * (3 * 2 * 16 + 1) / 1e6
        gated = plan("moe.shared_experts=2", "moe.shared_gate=true")
        self.assertAlmostEqual(gated - plan(), more, delta=1.1e-3)
        residual = plan("model.feed_forward=pr_moe") - plan()  # one of them, and two coefficients
        self.assertAlmostEqual(residual, 3 * 2 * 2 * 16 * (3 * 16 + 2) / 1e6, delta=1.1e-3)

    def test_less_travels_to_a_latent_space(self):
        def sent(*changes):
            outcome = self.run_program("plan", "tiny.yaml", "-np", "2", *changes)
            self.assert_done(outcome)
            return {kind: int(re.search(rf"^  {kind} +([0-9]+)$", outcome.out, re.MULTILINE)[1])
                    for kind in ("dispatch", "combine")}
        wide, narrow = sent(), sent("model.feed_forward=latent_moe", "moe.latent_width=3")
        self.assertGreater(wide["dispatch"], 0)
        for kind, bytes_sent in wide.items():  # of model.d_model 16
            self.assertEqual(narrow[kind] * 16, bytes_sent * 3)

    def test_slots_travel_instead_of_tokens(self):
        outcome = self.run_program("plan", "tiny.yaml", "-np", "2", "model.feed_forward=soft_moe", "moe.slots=3",
                                   "moe.allow_noncausal=true", "moe.experts=4")
        self.assert_done(outcome)
        for kind in ("dispatch", "combine"):  # a half leaves, there and back, of 12 slots a sequence, in 2 layers
            sent = int(re.search(rf"^  {kind} +([0-9]+)$", outcome.out, re.MULTILINE)[1])
            sequences = int(re.search(r"([0-9]+) sequences", outcome.out)[1]) // 2  # of a rank
            self.assertEqual(sent, 2 * 2 * sequences * 12 // 2 * 16 * 4)

    def test_slots_generate_nothing(self):
        soft = ["model.feed_forward=soft_moe", "moe.allow_noncausal=true"]
        self.assert_done(self.run_program("tiny.yaml", "run.dir=soft", *soft))
        self.assert_error(self.run_program("generate", "soft", "--prompt", "a"), 2, "soft_moe", "tokens after it")

    def test_modules_that_predict_further_on_are_of_training_alone(self):
        self.write("validation.txt", "And the evening and the morning were the first day. " * 9)
        dense = ["moe.experts=0", "data.validation=validation.txt"]
        self.check_life("further", "mtp.layers=2", "data.validation=validation.txt")
        self.train("further-dense", "mtp.layers=1", *dense)
        with open(self.path("further/metrics.jsonl"), encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        trained = [row for row in rows if "loss" in row]
        self.assertTrue(all(0 < row["mtp_loss"] < 7 and 0 <= row["mtp_right"] <= 1 for row in trained), trained)
        self.assertFalse(any("mtp_loss" in row for row in rows if "val_loss" in row))
        self.assertRegex(self.run_program("inspect", f"further/{STEP_4}").out, r"mtp\.1\.eh_proj +f32 \(16, 32\)")
        exported = self.run_program("export", "hf", f"further-dense/{STEP_4}", "exported")
        self.assert_done(exported)
        self.assertIn("mtp.layers 1", exported.out + exported.err)
        upcycled = self.run_program("upcycle", f"further-dense/{STEP_4}", "up.h5", "moe.experts=4")
        self.assert_done(upcycled)
        losses = [re.search(r"loss ([0-9.]+) nats", (o := self.run_program("evaluate", which)).out + o.err)[1]
                  for which in (f"further-dense/{STEP_4}", "up.h5")]
        self.assertAlmostEqual(float(losses[0]), float(losses[1]), places=5)

    def test_modules_that_predict_further_on_are_counted(self):
        def plan(*changes):
            outcome = self.run_program("plan", "tiny.yaml", "-np", "1", *changes)
            self.assert_done(outcome)
            parameters = re.search(r"([0-9]+) parameters, ([0-9]+) active", outcome.out)
            flops = re.search(r"\(([0-9.]+) MFLOP a token", outcome.out)
            return [int(parameters[1]), int(parameters[2]), round(1e6 * float(flops[1]))]
        D, V = 16, 256
        main, module = plan(), plan("mtp.layers=1")
        layer = [b - a for a, b in zip(plan("model.layers=2"), plan("model.layers=3"))]
        more = [b - a for a, b in zip(main, module)]
        self.assertEqual(more[:2], [n + 2 * D * D + 3 * D for n in layer[:2]])
        self.assertAlmostEqual(more[2], layer[2] + 3 * (2 * 2 * D * D + 2 * D * V), delta=1500)  # of figures rounded to 1000


if __name__ == "__main__":
    main()
