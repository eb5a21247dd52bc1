"""What generate writes: prompts, stop strings, samples, penalties, JSON; and what evaluate scores."""
import json
import re

from program import STEP_4, ProgramTest, main

CHECKPOINT = f"run/{STEP_4}"
GREEDY = ("--temperature", "0")


class Generation(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write_tiny(train__steps="4", data__format="characters", data__validation="validation.txt",
                        model__init_std="0.3", train__batch="4")
        self.validation = "InthebeginningtheheavenandGodcreatedtheearth." * 2
        self.write("validation.txt", self.validation)
        self.assert_done(self.run_program("tiny.yaml", "run.dir=run", "eval.every=0"))

    def generate(self, *args, stdin=""):
        outcome = self.run_program("generate", CHECKPOINT, *args, stdin=stdin)
        self.assert_done(outcome)
        return outcome.out

    def samples(self, *args, stdin=""):
        return [json.loads(line) for line in self.generate("--json", *args, stdin=stdin).splitlines()]

    def choices(self, *questions, ranks=None, more=()):
        self.write("q.jsonl", "".join(json.dumps(question) + "\n" for question in questions))
        outcome = self.run_program("evaluate", CHECKPOINT, "--choices", "q.jsonl", "--json", *more, ranks=ranks)
        self.assert_done(outcome)
        rows = [json.loads(line) for line in outcome.out.splitlines() if line.startswith("{")]
        return rows, re.search(r"accuracy [0-9.]+, by length [0-9.]+, \d+ questions, \d+ choices", outcome.out)[0]

    def test_a_prompt_comes_from_the_line_a_file_or_standard_input(self):
        self.write("prompt.txt", "In the ")
        there = self.generate("--prompt", "In the ", "--tokens", "9", *GREEDY)
        self.assertTrue(there.startswith("In the ") and len(there) == len("In the ") + 9 + 1, there)
        self.assertEqual(there, self.generate("--prompt-file", "prompt.txt", "--tokens", "9", *GREEDY))
        self.assertEqual(there, self.generate("--prompt-file", "-", "--tokens", "9", *GREEDY, stdin="In the "))
        self.write("prompt.txt", b"In\0the")
        for file, word in (("prompt.txt", "byte 2 is NUL"), ("none.txt", "none.txt")):
            self.assert_error(self.run_program("generate", CHECKPOINT, "--prompt-file", file), 3, word)
        self.assert_error(self.run_program("generate", CHECKPOINT, "--prompt-file", "-", stdin="ä"), 2, "--prompt-file")

    def test_lines_are_prompts_and_an_empty_one_goes_on(self):
        one, two = (self.generate("--prompt", text, "--tokens", "8", *GREEDY) for text in ("In", "God "))
        self.assertEqual(self.generate("--interactive", "--tokens", "8", *GREEDY, stdin="In\nGod "), one + two)
        more = self.generate("--interactive", "--tokens", "5", *GREEDY, stdin="In\n\n")
        whole = self.generate("--prompt", "In", "--tokens", "10", *GREEDY)
        self.assertEqual(more.replace("\n", ""), whole.replace("\n", ""))
        wrong = self.run_program("generate", CHECKPOINT, "--interactive", "--tokens", "8", *GREEDY, stdin="ä\nIn\n")
        self.assertEqual((wrong.code, wrong.out, len(wrong.errors)), (0, one, 1), str(wrong))

    def test_a_text_ends_before_a_stop_string(self):
        whole = self.samples("--prompt", "In the ", "--tokens", "14", "--seed", "3")[0]
        self.assertEqual((whole["finish_reason"], len(whole["tokens"])), ("length", 14))
        stop = whole["text"][6:9]
        at = whole["text"].index(stop)
        options = ("--prompt", "In the ", "--tokens", "14", "--seed", "3", "--stop", "zzz", "--stop", stop)
        stopped = self.samples(*options)[0]
        self.assertEqual((stopped["text"], stopped["finish_reason"]), (whole["text"][:at], "stop"))
        self.assertEqual(stopped["tokens"], whole["tokens"][:at + 3])
        self.assertEqual(self.generate(*options), "In the " + whole["text"][:at] + "\n")
        # what only begins a stop string is shown in the end
        begun = self.generate(*options[:6], "--stop", whole["text"][-3:] + "zzz")
        self.assertEqual(begun, "In the " + whole["text"] + "\n")

    def test_samples_differ_and_the_first_is_the_only_one(self):
        several = self.samples("--prompt", "God ", "--tokens", "20", "--samples", "3")
        self.assertEqual(len({row["text"] for row in several}), 3)
        self.assertEqual(several[:1], self.samples("--prompt", "God ", "--tokens", "20"))
        plain = self.generate("--prompt", "God ", "--tokens", "20", "--samples", "3")
        self.assertEqual(plain, "---\n".join(f"God {row['text']}\n" for row in several))
        # longer than the context, so that the cache has begun anew
        long = self.samples("--prompt", "God ", "--tokens", "40", "--samples", "2", *GREEDY)
        self.assertEqual(long[0], long[1])

    def test_a_penalty_keeps_tokens_from_coming_again(self):
        freely = self.samples("--prompt", "In", "--tokens", "15", *GREEDY)[0]["tokens"]
        self.assertLess(len(set(freely)), 15)
        rarely = self.samples("--prompt", "In", "--tokens", "15", *GREEDY, "--repetition-penalty", "100")[0]["tokens"]
        self.assertEqual(len(set(rarely)), 15)

    def test_log_probabilities_are_the_same_however_they_are_asked_for(self):
        prompt = "In the beginning "
        for more in ((), ("--repetition-penalty", "1.5"), ("--recompute",)):
            row = self.samples("--prompt", prompt[:5], "--tokens", "11", "--logprobs", *more)[0]
            self.assertEqual(len(row["logprobs"]), 11)
            # each token as a choice of its own, in windows of other tokens
            questions = [{"context": prompt[:5] + row["text"][:i], "choices": [row["text"][i]], "gold": 0}
                         for i in range(11)]
            kept = [i for i in range(11) if not (prompt[:5] + row["text"][:i]).endswith(" ")]
            scored, _ = self.choices(*[questions[i] for i in kept], ranks=2, more=("train.batch=8",))
            self.assertGreater(len(kept), 5)
            for i, answer in zip(kept, scored):
                self.assertEqual(f"{row['logprobs'][i]:.9g}", f"{answer['logprobs'][0]:.9g}", row)

    def test_timings_are_of_the_first_token_and_of_the_later_ones(self):
        told = self.samples("--tokens", "9", "--samples", "2", "--timings")
        for row in told:
            self.assertGreater(row["first_token_ms"], 0)
            self.assertGreater(row["token_ms"], 0)
        alone = self.samples("--tokens", "1", "--timings")[0]
        self.assertIsNone(alone["token_ms"])
        untold = self.samples("--tokens", "9", "--samples", "2")
        for row in told:
            del row["first_token_ms"], row["token_ms"]
        self.assertEqual(told, untold)
        text = self.run_program("generate", CHECKPOINT, "--tokens", "9", "--timings", *GREEDY)
        self.assertRegex(str(text), r"first token after [0-9.]+ ms, then [0-9.]+ ms a token \([0-9]+ tokens/s\)")

    def test_ranks_share_a_file_of_prompts(self):
        prompts = ["In the ", "", "God created the heaven and the earth. In the", "heaven", "a"]
        self.write("p.jsonl", "".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
        options = ("generate", CHECKPOINT, "--prompts", "p.jsonl", "--tokens", "9", "--samples", "2", "--logprobs",
                   "--stop", "e")
        told = []
        for ranks, more in ((None, ()), (2, ("parallel.expert=2",)), (4, ("parallel.expert=2",))):
            outcome = self.run_program(*options, *more, ranks=ranks)
            self.assert_done(outcome)
            told.append([line for line in outcome.out.splitlines() if line.startswith("{")])
        self.assertEqual(told[0], told[1])
        self.assertEqual(told[0], told[2])
        rows = [json.loads(line) for line in told[0]]
        self.assertEqual([row["prompt"] for row in rows], [text for text in prompts for _ in range(2)])
        self.assertEqual(len({row["finish_reason"] for row in rows}), 2)
        self.assertTrue(any(first != second for first, second in zip(rows[::2], rows[1::2])), rows)
        self.assertEqual(rows[4:6], self.samples("--prompt", prompts[2], *options[4:]))
        for text, *words in (('{"prompt": 3}', "line 1"), ('{"prompt": "a"}\n\n{"prompt": "ä"}', "line 3")):
            self.write("p.jsonl", text)
            self.assert_error(self.run_program(*options), 2 if "ä" in text else 3, *words)

    def test_choices_are_scored(self):
        questions = [{"context": "In the begin", "choices": ["ning", "God", "g"], "gold": 0},
                     {"context": "", "choices": ["In the heaven", "I"], "gold": 1},
                     {"context": "the", "choices": [" hea", "I"], "gold": 0},
                     {"context": "the hea", "choices": ["eeee", "G"], "gold": 0},
                     {"context": "the earth. " * 9, "choices": ["In the", "created "], "gold": 0}]
        rows, told = self.choices(*questions)
        for row, question in zip(rows, questions):
            logprobs = row["logprobs"]
            self.assertTrue(all(value < 0 for value in logprobs), row)
            self.assertEqual(row["choice"], logprobs.index(max(logprobs)))
            each = [value / len(text) for value, text in zip(logprobs, question["choices"])]
            self.assertEqual(row["choice_by_length"], each.index(max(each)))
        right = sum(row["choice"] == row["gold"] for row in rows) / 5
        self.assertTrue(any(row["choice"] != row["choice_by_length"] for row in rows), rows)
        by_length = sum(row["choice_by_length"] == row["gold"] for row in rows) / 5
        self.assertEqual(told, f"accuracy {right:.4f}, by length {by_length:.4f}, 5 questions, 11 choices")
        self.assertEqual(self.choices(*questions, ranks=2, more=("train.batch=2", "train.shards=2")), (rows, told))
        # a sum over the text is the sum of its parts
        parts, _ = self.choices({"context": "In the begin", "choices": ["n"], "gold": 0},
                                {"context": "In the beginn", "choices": ["ing"], "gold": 0})
        self.assertAlmostEqual(rows[0]["logprobs"][0], sum(row["logprobs"][0] for row in parts), 6)

    def test_files_of_questions_that_are_none_are_refused(self):
        for text, *words in (("", "q.jsonl"), ("{\n", "line 1 is no JSON"), ("\n\n[]\n", "line 3 is no JSON"),
                             ("\n{}", "line 2", "choices"),
                             ('{"context": "a", "choices": [], "gold": 0}', "line 1"),
                             ('{"context": "a", "choices": ["b"], "gold": 1}', "line 1", "gold is 1"),
                             ('{"context": "a", "choices": ["h", ""], "gold": 0}', "choice 1"),
                             ('{"context": "a", "choices": ["ä"], "gold": 0}', "row 1"),
                             ('{"context": "a", "choices": ["eeeeeeeeeeeeeeeee"], "gold": 0}', "train.context (16)")):
            self.write("q.jsonl", text)
            self.assert_error(self.run_program("evaluate", CHECKPOINT, "--choices", "q.jsonl"), 2 if "ä" in text else 3,
                              *words)

    def test_overlapping_windows_score_every_token_once(self):
        told = {}
        for stride, more, ranks in ((0, (), None), (16, (), None), (5, (), None), (5, ("train.batch=2",), 2),
                                    (5, ("eval.batches=2",), None)):
            outcome = self.run_program("evaluate", CHECKPOINT, "eval.batches=0", f"eval.stride={stride}", *more, ranks=ranks)
            self.assert_done(outcome)
            told[stride, more] = re.search(r"loss ([0-9.]+).* (\d+) tokens", outcome.out).groups()
        self.assertEqual(told[0, ()], told[16, ()])
        self.assertEqual(told[5, ()], told[5, ("train.batch=2",)])
        self.assertEqual((told[0, ()][1], told[5, ()][1]), (str(len(self.validation) - 1),) * 2)
        # each token as a choice after what its window has before it
        text = self.validation
        begins = [0 if t <= 16 else (t - 17) // 5 * 5 + 5 for t in range(1, len(text))]
        rows, _ = self.choices(*[{"context": text[begin:t], "choices": [text[t]], "gold": 0}
                                 for t, begin in enumerate(begins, 1)])
        loss = -sum(row["logprobs"][0] for row in rows) / len(rows)
        self.assertAlmostEqual(float(told[5, ()][0]), loss, 6)
        self.assertEqual(told[5, ("eval.batches=2",)][1], str(16 + 7 * 5))
        wrong = self.run_program("evaluate", CHECKPOINT, "eval.stride=17")
        self.assert_error(wrong, 2, "eval.stride (17)", "train.context (16)")

    def test_options_that_contradict_each_other_are_refused(self):
        for args, *words in ((("--prompt", "a", "--prompt-file", "b"), "--prompt-file"), (("--logprobs",), "--json"),
                             (("--interactive", "--prompt", "a"), "--interactive"),
                             (("--prompts", "a", "--interactive"), "--interactive"), (("--stop", ""), "--stop")):
            self.assert_error(self.run_program("generate", CHECKPOINT, *args), 2, *words)
        self.assert_error(self.run_program("evaluate", CHECKPOINT, "--json"), 2, "--choices")


main()
