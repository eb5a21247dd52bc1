"""Weights in fewer bits (--weights): what they cost and save, and that no number depends on how it is asked for."""
import json
import re

from program import STEP_4, ProgramTest, main

CHECKPOINT = f"run/{STEP_4}"
# A number's largest relative error; of int8 that of a row's largest number, some four times the others' mean square.
EPS = {"bf16": 2**-9, "fp16": 2**-12, "int8": 4 / 254}


class Weights(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write_tiny(train__steps="4", data__format="characters", data__validation="validation.txt",
                        model__init_std="0.3", train__batch="4", model__tied_embeddings="true", model__d_model="64", moe__d_ff="64")
        self.write("validation.txt", "InthebeginningtheheavenandGodcreatedtheearth." * 3)
        self.assert_done(self.run_program("tiny.yaml", "run.dir=run", "eval.every=0"))

    def evaluate(self, *args, ranks=None):
        outcome = self.run_program("evaluate", CHECKPOINT, "eval.batches=0", *args, ranks=ranks)
        self.assert_done(outcome)
        return outcome.out

    def table(self, *args, ranks=None):
        rows = [line.split() for line in self.evaluate("--weights", "all", *args, ranks=ranks).splitlines()[-5:]]
        self.assertEqual([row[0] for row in rows], ["weights", "f32", "bf16", "fp16", "int8"], rows)
        table = {}
        for kind, loss, *difference, size, speed, moved, _ in ([*rows[1], "0", "%"], *rows[2:]):
            self.assertGreater(float(speed), 0)
            table[kind] = loss, float(difference[0]) if difference else 0.0, float(size), moved
        return table

    def test_a_table_of_losses_bytes_speed_and_moved_choices(self):
        table = self.table()
        size = {kind: row[2] for kind, row in table.items()}
        for kind, (loss, difference, _, moved) in table.items():
            self.assertIn(f"loss {loss} ", self.evaluate("--weights", kind))
            self.assertAlmostEqual(float(loss) - float(table["f32"][0]), difference, 5)
            if kind == "f32":
                continue
            # Errors of weights move a logit by about eps of its size, layer by layer; this model's logits are some units
            # wide. Tokens' errors differ in sign, so that the mean moves far less.
            self.assertLess(abs(difference), 10 * EPS[kind], kind)
            self.assertNotEqual(loss, table["f32"][0], kind)
            self.assertLess(float(moved), 100 * 10 * EPS[kind], kind)
        self.assertGreater(float(table["int8"][3]), 0)
        # In MB of a byte a number: matrices beside the head, and the head, whose f32 stays as the table of embeddings.
        found = re.search(r"parameters/embedding +f32 \((\d+), (\d+)\)", self.run_program("inspect", CHECKPOINT).out)
        head = 1e-6 * int(found[1]) * int(found[2])
        matrices = (size["f32"] - size["bf16"]) / 2 + head
        self.assertEqual(size["bf16"], size["fp16"])
        self.assertAlmostEqual(size["bf16"] - size["int8"], matrices + head, delta=0.2 * (matrices + head))  # scales

    def test_where_experts_choose_no_choice_moves(self):
        keys = ["moe.router=expert_choice", "moe.allow_noncausal=true"]
        self.assert_done(self.run_program("tiny.yaml", "run.dir=chosen", "eval.every=0", *keys))
        table = self.run_program("evaluate", "chosen", "--weights", "all")
        self.assert_done(table)
        self.assertNotIn("%", table.out)

    def test_nothing_depends_on_batch_ranks_and_prefill(self):
        table = self.table()
        for ranks, more in ((2, ("train.batch=8",)), (4, ("parallel.expert=2",))):
            other = self.table(*more, ranks=ranks)
            for kind in table:
                self.assertEqual((table[kind][0], table[kind][3]), (other[kind][0], other[kind][3]), kind)
        prompt = "In the beginning "
        for kind in ("bf16", "fp16", "int8"):
            samples = []
            for more in ((), ("--recompute",)):
                outcome = self.run_program("generate", CHECKPOINT, "--prompt", prompt[:5], "--tokens", "11", "--logprobs",
                                           "--json", "--weights", kind, *more)
                self.assert_done(outcome)
                samples.append(json.loads(outcome.out))
            self.assertEqual(*samples)
            text, logprobs = samples[0]["text"], samples[0]["logprobs"]
            kept = [i for i in range(11) if not (prompt[:5] + text[:i]).endswith(" ")]
            self.write("q.jsonl", "".join(json.dumps({"context": prompt[:5] + text[:i], "choices": [text[i]], "gold": 0}) + "\n"
                                          for i in kept))
            out = self.evaluate("--choices", "q.jsonl", "--json", "--weights", kind, "train.batch=8", ranks=2)
            scored = [json.loads(line)["logprobs"][0] for line in out.splitlines() if line.startswith("{")]
            self.assertEqual([f"{logprobs[i]:.9g}" for i in kept], [f"{score:.9g}" for score in scored], kind)

    def test_other_words_are_refused(self):
        for verb in ("evaluate", "generate"):
            self.assert_error(self.run_program(verb, CHECKPOINT, "--weights", "int4"), 2, "--weights is 'int4'", "int8")
        self.assert_error(self.run_program("generate", CHECKPOINT, "--weights", "all"), 2, "--weights is 'all'")
        for more in (("--choices", "q.jsonl"), ("--per-document",)):
            self.assert_error(self.run_program("evaluate", CHECKPOINT, "--weights", "all", *more), 2, more[0])
        self.assert_error(self.run_program("inspect", CHECKPOINT, "--weights", "int8"), 2, "belongs to evaluate")


main()
