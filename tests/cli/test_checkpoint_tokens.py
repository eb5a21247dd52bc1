"""What evaluation and generation take from a checkpoint: its tokens, and which file it is."""
import random
import shutil
import struct

from program import ProgramTest, main

RANDOM = random.Random(1)
UINT16 = struct.pack("<2000H", *[min(int(RANDOM.paretovariate(0.4)) - 1, 50256) for _ in range(2000)])
TEXT = "In the beginning God created the heaven and the earth. " * 40
NUMBERS = {"data__vocab_size": "50257"}


class Vocabulary(ProgramTest):
    """Generation and evaluation take what a token is from the checkpoint."""

    def train(self, **changes):
        self.write_tiny(train__steps="1", **changes)
        self.assert_done(self.run_program("tiny.yaml"))
        return "runs/tiny/checkpoints/step-00000001.h5"

    def refuse(self, verb, checkpoint, override, *parts):
        with self.subTest(verb=verb, override=override):
            self.assert_error(self.run_program(verb, checkpoint, *override.split()), 2, *parts)

    def test_of_bytes_cannot_be_overridden(self):
        checkpoint = self.train(data__validation="train.txt")
        for verb in ("generate", "evaluate"):
            self.refuse(verb, checkpoint, "data.format=characters", "data.format is characters", "are bytes")
        self.refuse("generate", checkpoint, "data.format=uint16 data.vocab_size=256", "uint16", "bytes")
        self.refuse("generate", checkpoint, "data.vocab_size=100", "data.vocab_size is 100", "256")
        for same in ("data.format=bytes", "data.format=auto", "data.vocab_size=256", "data.train=x.bin"):
            self.assert_done(self.run_program("generate", checkpoint, "--tokens", "1", same))
        self.write("tokens.dat", UINT16)
        self.assert_error(self.run_program("evaluate", checkpoint, "data.validation=tokens.dat"), 3, "tokens.dat", "uint16")

    def test_of_characters_cannot_be_overridden(self):
        checkpoint = self.train(data__format="characters")
        self.refuse("generate", checkpoint, "data.format=bytes --prompt hello", "data.format is bytes", "are characters")
        self.refuse("evaluate", checkpoint, "data.format=bytes data.validation=train.txt", "are characters")
        self.refuse("generate", checkpoint, "data.vocab_size=9", "data.vocab_size is 9", "characters")
        # Without a prompt the text begins with a line break, which this text lacks: with token 0 then.
        self.assert_done(self.run_program("generate", checkpoint, "--tokens", "3"))
        outcome = self.run_program("generate", checkpoint, "--prompt", "a\nb")
        self.assert_error(outcome, 2, r"'\n' (U+000A)")
        self.assertEqual(outcome.err.count("\n"), 1, str(outcome))

    def test_of_token_numbers_cannot_be_overridden(self):
        self.write("train.bin", UINT16)
        checkpoint = self.train(data__train="train.bin", **NUMBERS)
        self.refuse("generate", checkpoint, "data.vocab_size=65", "data.vocab_size is 65", "50257")
        self.refuse("generate", checkpoint, "data.format=uint32", "data.format is uint32", "are uint16")
        self.refuse("evaluate", checkpoint, "data.validation=train.txt data.format=bytes", "are uint16")
        self.refuse("generate", checkpoint, "--prompt 50257", "'50257'", "from 0 to 50256")
        self.write("v.txt", TEXT)
        self.assert_error(self.run_program("evaluate", checkpoint, "data.validation=v.txt", "data.train=v.txt"), 3, "is text")

    def test_what_the_weights_compute_cannot_be_overridden(self):
        checkpoint = self.train(data__validation="train.txt")
        for override, old in (("attention.rope_theta=100", "10000 -> 100"), ("model.norm_eps=0.1", "1e-05 -> 0.1"),
                              ("moe.router=topk_softmax", "softmax_topk -> topk_softmax")):
            with self.subTest(override):
                key = override.split("=")[0]
                for verb in ("evaluate", "generate"):
                    outcome = self.run_program(verb, checkpoint, override)
                    self.assert_error(outcome, 2, key, old, f"resume.allow={key}")
                allowed = self.run_program("evaluate", checkpoint, override, f"resume.allow={key}")
                self.assertEqual(allowed.code, 0, str(allowed))
                self.assertIn(key, allowed.err)

    def test_how_training_was_cut_binds_no_reader(self):
        checkpoint = self.train(data__validation="train.txt", train__batch="16", train__shards="16",
                                train__micro_batches="4", moe__max_expert_replicas="4")
        results = set()
        for overrides in ([], ["train.batch=3"], ["train.batch=1"], ["train.batch=6", "train.micro_batches=2"]):
            outcome = self.run_program("evaluate", checkpoint, "eval.batches=0", *overrides)
            self.assertEqual(outcome.code, 0, str(outcome))
            results.add(outcome.out.split(" tokens in")[0])
        self.assertEqual(len(results), 1, results)

    def test_prompt_and_continuation_of_token_numbers_are_apart(self):
        self.write("train.bin", UINT16)
        checkpoint = self.train(data__train="train.bin", **NUMBERS)
        for prompt, given in (("50256 15 11", ["50256", "15", "11"]), (" 7\n\t8 ", ["7", "8"]), ("", []), (" ", [])):
            with self.subTest(prompt):
                outcome = self.run_program("generate", checkpoint, "--prompt", prompt, "--tokens", "3")
                self.assert_done(outcome)
                words = outcome.out.split()
                self.assertEqual(words[: len(given)], given)
                self.assertEqual(len(words), len(given) + 3, outcome.out)
                self.assertTrue(all(0 <= int(word) < 50257 for word in words))

    def test_contexts_of_one_to_three_tokens_generate(self):
        for context in ("1", "2", "3"):
            with self.subTest(context):
                checkpoint = self.train(train__context=context)
                for options in ([], ["--recompute"]):
                    outcome = self.run_program("generate", checkpoint, "--prompt", "abcd", "--tokens", "6", *options)
                    self.assert_done(outcome)
                    self.assertTrue(outcome.out.startswith("abcd"))
            shutil.rmtree(self.path("runs"))


class Checkpoints(ProgramTest):
    """What may stand where a checkpoint is wanted."""

    def test_a_folder_stands_for_its_newest_checkpoint(self):
        self.write_tiny(data__validation="train.txt", checkpoint__every="1", checkpoint__keep_last="0", train__steps="2")
        self.assert_error(self.run_program("generate", "tiny.yaml"), 4, "is a configuration", "runs/tiny")
        self.assert_done(self.run_program("tiny.yaml"))
        newest = self.run_program("inspect", "--digest", "runs/tiny/checkpoints/step-00000002.h5")
        self.assert_done(newest)
        for folder in ("runs/tiny", "runs/tiny/", "runs/tiny/checkpoints"):
            self.assertEqual(self.run_program("inspect", "--digest", folder).out, newest.out)
        self.assertIn("step-00000002.h5", self.run_program("inspect", "runs/tiny").out)
        for ranks in (None, 2):
            outcome = self.run_program("evaluate", "runs/tiny", ranks=ranks)
            self.assert_done(outcome)
            self.assertIn("validation of step 2", outcome.out)
        self.assert_error(self.run_program("inspect", "runs"), 4, "runs: is a folder without checkpoints", "step-")
        self.assert_error(self.run_program("generate", "tiny.yaml"), 4, "is a configuration", "step-00000002.h5")
        self.assert_error(self.run_program("runs/tiny/checkpoints/step-00000002.h5"), 2, "is a checkpoint", "resume=")


if __name__ == "__main__":
    main()
