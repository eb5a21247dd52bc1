"""Documents that a window holds several of: masked, each is as if it were alone."""
import json
import math
import re

from program import STEP_4, LifeTest, main

MASK = ("data.documents=mask", r"data.document_end=\n")


class DocumentMasks(LifeTest):
    def setUp(self):
        super().setUp()
        self.write("train.txt", "In the beginning God created the heaven and the earth.\n" * 40)
        self.write_tiny(train__steps="4", checkpoint__every="2", model__init_std="0.3", train__context="24", train__schedule="constant")

    def test_a_masked_document_is_evaluated_as_if_it_were_alone(self):
        texts = ["In the beginning was the word,\nand more words.", "A second story, which is short.", "Third!"]
        self.write("all.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        for number, text in enumerate(texts):
            self.write(f"alone{number}.txt", text + "\n")
        self.train("run")

        def evaluate(*keys):
            outcome = self.run_program("evaluate", f"run/{STEP_4}", "train.context=96", *keys)
            self.assert_done(outcome)
            found = re.search(r"loss ([\d.]+) nats.*? ([\d.]+) bits per byte, (\d+) tokens", outcome.out + outcome.err)
            return float(found[1]), float(found[2]), int(found[3])

        alone = [evaluate("data.validation=" + self.path(f"alone{number}.txt")) for number in range(3)]
        loss, bits, tokens = evaluate("data.validation=" + self.path("all.jsonl"), "data.documents=mask")
        self.assertEqual(sum(row[2] for row in alone), tokens)
        self.assertAlmostEqual(sum(row[0] * row[2] for row in alone) / tokens, loss, delta=2e-6)  # printed with six digits
        self.assertAlmostEqual(loss / math.log(2), bits, delta=1e-4)
        self.assertNotAlmostEqual(loss, evaluate("data.validation=" + self.path("all.jsonl"))[0], delta=1e-3)

    def test_what_is_said_of_each_document_adds_up_to_the_whole(self):
        texts = ["In the beginning was the word. " * 3, "", "A second story.", "Third, and last of all."]
        self.write("all.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        self.train("run")

        def evaluate(*keys, ranks=None):
            outcome = self.run_program("evaluate", f"run/{STEP_4}", "--per-document", "data.validation=" + self.path("all.jsonl"),
                                       *keys, ranks=ranks)
            self.assert_done(outcome)
            whole = re.search(r"loss ([\d.]+) nats.*? ([\d.]+) bits per byte, (\d+) tokens", outcome.out + outcome.err)
            rows = [json.loads(line) for line in outcome.out.splitlines() if line.startswith("{")]
            return rows, float(whole[1]), int(whole[3])

        lengths = [len(text) + 1 for text in texts if text]
        for mask in MASK[:1], ("data.documents=ignore", "eval.stride=7"):
            rows, loss, tokens = evaluate(*mask)
            *documents, total = rows
            masked = mask == MASK[:1]  # then the first token of no document is a target
            self.assertEqual([row["document"] for row in documents], [0, 1, 2])
            self.assertEqual([row["tokens"] for row in documents], [n - (masked or i == 0) for i, n in enumerate(lengths)])
            self.assertEqual((total["documents"], total["tokens"]), (3, tokens))
            self.assertEqual(sum(row["nats"] for row in documents), total["nats"])
            self.assertAlmostEqual(total["loss"], loss, delta=1e-6)
            for row in rows:
                self.assertAlmostEqual(row["bits_per_byte"], row["nats"] / row["tokens"] / math.log(2), delta=1e-12)
            self.assertEqual(rows, evaluate(*mask, "train.batch=3", "train.shards=1", "train.micro_batches=1")[0])
            self.assertEqual(rows, evaluate(*mask, ranks=2)[0])
        alone = self.write("alone.txt", texts[2] + "\n")
        found = self.run_program("evaluate", f"run/{STEP_4}", "--per-document", "data.validation=" + self.path(alone), MASK[1])
        self.assertEqual(json.loads(found.out.splitlines()[0])["tokens"], lengths[1] - 1)
        self.assert_error(self.run_program("evaluate", f"run/{STEP_4}", "--per-document", "data.validation=" + self.path(alone)), 2,
                          "nothing says where its documents begin")
        self.assert_error(self.run_program("evaluate", f"run/{STEP_4}", "--per-document", "--choices", "x"), 2,
                          "leave --per-document out")

    def test_losses_that_no_sum_holds_are_null(self):
        self.write("all.jsonl", json.dumps({"text": "In the beginning was the word."}) + "\n")
        self.train("run", "train.lr=1", "train.warmup=0", "train.clip_norm=0", "model.logit_scale=1e6", "train.max_skipped=100")
        found = self.run_program("evaluate", f"run/{STEP_4}", "--per-document", "data.validation=" + self.path("all.jsonl"))
        self.assert_done(found)
        for row in (json.loads(line) for line in found.out.splitlines() if line.startswith("{")):
            self.assertEqual((row["tokens"], row["nats"], row["loss"], row.get("bits_per_byte")), (30, None, None, None))

    def test_a_run_with_documents_is_resumed_on_other_ranks(self):
        self.check_life("masked", *MASK)
        self.train("ignored")
        self.assertNotEqual(self.digest("masked"), self.digest("ignored"))

    def test_packed_documents_are_told_with_their_padding_and_resumed(self):
        self.write("train.txt", "".join("x" * (1 + n * 7 % 40) + "\n" for n in range(300)))
        packed = [*MASK, "data.packing=best_fit"]
        lengths = [1 + n * 7 % 40 for n in range(300)]  # the line break has no target behind it
        plan = self.run_program("plan", "tiny.yaml", "-np", "1", *packed)
        self.assert_done(plan)
        found = re.search(r"300 documents in (\d+) windows, ([\d.]+)% padding", plan.out)
        windows = int(found[1])
        self.assertGreaterEqual(windows * 24, sum(lengths))
        self.assertLess(windows * 24, sum(lengths) * 1.1)
        self.assertAlmostEqual(float(found[2]), 100 * (1 - sum(lengths) / windows / 24), delta=0.006)
        self.check_life("packed", *packed)
        self.assertIn(f", {found[2]}% padding", self.run_program("tiny.yaml", "run.dir=again", *packed).out)
        self.assert_error(self.run_program("tiny.yaml", "data.packing=best_fit"), 2, "set data.documents=mask")

    def test_an_end_that_never_occurs_is_told(self):
        warning = "train.txt: data.document_end ('\\n') does not part it, so that all of it is one document"
        for end, told in ((r"'\n'", 1), (r"\n", 0)):
            outcome = self.run_program("tiny.yaml", f"run.dir={told}", "data.documents=mask", f"data.document_end={end}")
            self.assert_done(outcome)
            self.assertEqual(outcome.err.count(warning), told, str(outcome))

    def test_documents_that_nothing_parts_are_not_masked(self):
        self.assert_error(self.run_program("tiny.yaml", "data.documents=mask"), 2, "nothing says where its documents begin",
                          "set data.document_end")
        self.assert_error(self.run_program("tiny.yaml", "moe.routing_group=document"), 2, "set data.documents=mask")
        self.assert_error(self.run_program("tiny.yaml", "moe.routing_group=document", "moe.dispatch=padded", "moe.capacity_factor=1",
                                           *MASK), 2, "set moe.dispatch=exact")
        self.assert_error(self.run_program("tiny.yaml", "moe.balance_scope=document"), 2, "set data.documents=mask")
        self.assert_error(self.run_program("tiny.yaml", "moe.balance=[{kind: importance, scope: document}]", *MASK), 2,
                          "set kind: load")


main()
