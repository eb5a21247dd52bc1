"""Verbs, options, help, and the resolved configuration."""
import re

from program import TINY, ProgramTest, main, without_comments


class CommandLine(ProgramTest):
    def test_alone_it_shows_the_usage_and_fails(self):
        outcome = self.run_program()
        self.assert_error(outcome, 2)
        self.assertIn("usage: mpirun", outcome.err)

    def test_help_names_verbs_and_exit_codes(self):
        for args in (["--help"], ["-h"], ["plan", "--help"]):
            outcome = self.run_program(*args)
            self.assert_done(outcome)
            for word in ("evaluate", "generate", "inspect", "plan", "75"):
                self.assertIn(word, outcome.out)

    def test_version_names_every_library(self):
        outcome = self.run_program("--version")
        self.assert_done(outcome)
        for word in ("moetrain ", "Open MPI", "HDF5", "libyaml", "oneDNN", "xxHash", "device cpu"):
            self.assertIn(word, outcome.out)

    def test_help_explains_a_key_a_section_and_all(self):
        self.assertIn("position, probability or random", self.run_program("help", "moe.drop").out)
        self.assertIn("attention.kv_heads", self.run_program("help", "attention").out)
        everything = self.run_program("help").out
        for key in TINY:
            self.assertIn(key, everything)
        self.assert_error(self.run_program("help", "moe.dorp"), 2, "did you mean 'moe.drop'")

    def test_wrong_words_are_named_with_a_suggestion(self):
        for args, parts in (
            (["evalute", "x.h5"], ["evalute", "did you mean 'evaluate'"]),
            (["generate", "x.h5", "--tokns", "5"], ["--tokns", "did you mean '--tokens'"]),
            (["generate", "x.h5", "--tokens", "-5"], ["--tokens", "'-5'"]),
            (["generate", "x.h5", "--tokens"], ["--tokens needs"]),
            (["generate", "x.h5", "--top-p=0"], ["--top-p", "'0'"]),
            (["generate"], ["generate needs a checkpoint"]),
            (["inspect", "x.h5", "y.h5"], ["'y.h5'", "too many"]),
            (["inspect", "--digest=1", "x.h5"], ["--digest takes no value"]),
            (["plan", "tiny.yaml"], ["-np"]),
            (["plan", "tiny.yaml", "-np", "two"], ["-np", "'two'"]),
            (["tiny.yaml", "steps"], ["'steps'", "key=value"]),
            (["moe.top_k=2"], ["needs a configuration", "moe.top_k=2"]),
            (["--prompt", "x"], ["--prompt"]),
            (["tiny.yaml", "--resume"], ["--resume"]),
        ):
            with self.subTest(args):
                self.assert_error(self.run_program(*args), 2, "command line", *parts)

    def test_under_mpirun_it_speaks_once(self):
        outcome = self.run_program("--help", ranks=2)
        self.assert_done(outcome)
        self.assertEqual(outcome.out.count("Exit codes:"), 1)
        self.assert_error(self.run_program("--halp", ranks=2), 2, "--halp", "--help")

    def test_missing_checkpoints_are_exit_code_4(self):
        for verb in ("inspect", "evaluate", "generate"):
            with self.subTest(verb):
                self.assert_error(self.run_program(verb, "none.h5"), 4, "none.h5")


class PrintConfig(ProgramTest):
    def test_values_say_where_they_came_from(self):
        self.write_tiny(run__dir="out/../here", data__train="./train.txt")
        outcome = self.run_program("--print-config", "tiny.yaml", "train.lr=3e-4", "data.validation=v.txt")
        self.assert_done(outcome)
        lines = {line.split(":")[0]: line for line in outcome.out.splitlines() if line}
        for key, value, origin in (
            ("model.d_model", "16", r"tiny.yaml:2:1"),
            ("train.lr", "0.0003", "command line"),
            ("moe.top_k", "2", "default"),
            ("attention.d_head", "8", "derived: model.d_model / attention.heads"),
            ("data.train", f'"{self.folder}/train.txt"', "tiny.yaml:1:1"),
            ("data.validation", f'"{self.folder}/v.txt"', "command line"),
            ("run.dir", f'"{self.folder}/out/../here"', "tiny.yaml:10:1"),
        ):
            self.assertRegex(lines[key], rf"^{re.escape(key)}: {re.escape(value)} +# {origin}$")

    def test_what_it_prints_reads_back_to_the_same(self):
        self.write_tiny(
            moe__capacity_factor="1.1", train__lr="0.1234567890123", run__seed="9007199254740992",
            data__validation='"with \\"quotes\\", a \\\\ and # \u00e9.txt"', moe__router="topk_softmax",
            eval__every="7", resume="some.h5", train__schedule="wsd")
        first = self.run_program("--print-config", "tiny.yaml")
        self.assert_done(first)
        self.write("again.yaml", first.out)
        second = self.run_program("--print-config", "again.yaml")
        self.assert_done(second)
        self.assertEqual(without_comments(first.out), without_comments(second.out))
        self.assertIn("\u00e9.txt", second.out)
        self.assertIn("train.lr: 0.1234567890123 ", second.out)

    def test_default_folder_of_the_run_is_named_after_the_file(self):
        self.write_tiny(name="my.model.yaml")
        outcome = self.run_program("--print-config", "my.model.yaml")
        self.assertIn(f'run.dir: "{self.folder}/runs/my.model"', outcome.out)

    def test_nested_and_dotted_keys_are_the_same(self):
        self.write("nested.yaml", "data:\n  train: train.txt\nmoe: {experts: 4, top_k: 1,\n  router: topk_softmax}\n")
        self.write("dotted.yaml", "data.train: train.txt\nmoe.experts: 4\nmoe.top_k: '1'\nmoe.router: topk_softmax\n")
        nested, dotted = (self.run_program("--print-config", f"{name}.yaml", "run.dir=r") for name in ("nested", "dotted"))
        self.assert_done(nested)
        self.assertEqual(without_comments(nested.out), without_comments(dotted.out))


if __name__ == "__main__":
    main()
