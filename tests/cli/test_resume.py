"""What a run that goes on may change, and what it leaves as it was."""
import os
import re
import shutil

from program import ProgramTest, main
from run_test import RUN, RunTest


class Differences(RunTest):
    def setUp(self):
        super().setUp()
        self.write_tiny(**dict(RUN, train__steps="4"))
        self.train("r")

    def test_every_difference_is_told(self):
        outcome = self.train("r", "train.steps=6", "train.lr=0.0002", "train.weight_decay=0.2", "log.every=5",
                             "train.threads=1", "eval.batches=7")
        for change in ("train.lr 0.001 -> 0.0002", "train.min_lr 0.0001 -> 2e-05", "train.weight_decay 0.1 -> 0.2",
                       "train.steps 4 -> 6", "log.every 1 -> 5", "train.threads 0 -> 1", "eval.batches 20 -> 7"):
            self.assertIn(change, outcome.out)

    def test_function_keys_are_refused_with_both_values_and_the_fix(self):
        before = self.snapshot()
        for changes, parts in (
                (["attention.heads=1"], ["attention.heads 2 -> 1 (so attention.kv_heads 2 -> 1",
                                         "attention.d_head 8 -> 16", "resume.allow=attention.heads"]),
                (["attention.rope_theta=100", "model.norm_eps=0.1"],
                 ["attention.rope_theta 10000 -> 100", "resume.allow=model.norm_eps,attention.rope_theta"]),
                (["moe.top_k=3"], ["moe.top_k 2 -> 3"]), (["run.seed=7"], ["run.seed 1337 -> 7"]),
                (["train.shards=4"], ["train.shards 8 -> 4"]), (["moe.capacity_factor=1.25"], ["0 -> 1.25"]),
                (["model.activation=relu", "model.d_ff=64"], ["model.activation swiglu -> relu"]),
                (["moe.router=topk_softmax"], ["moe.router softmax_topk -> topk_softmax"]),
                (["train.batch=4"], ["train.shards 8 -> 4 (follows from train.batch; train.shards=8 keeps it)"])):
            for more in ([], ["train.steps=6"], [f"resume={self.step('r', 4)}"]):
                outcome = self.run_program("tiny.yaml", "run.dir=r", *changes, *more)
                self.assert_error(outcome, 2, "step-00000004.h5", *parts)
        self.assertEqual(self.snapshot(), before, "nothing is written, not even config.yaml")

    def test_a_value_that_nobody_writes_any_more_is_told_how_to_keep(self):
        self.train("small", "train.shards=2")
        outcome = self.run_program("tiny.yaml", "run.dir=small", "train.steps=6")
        self.assert_error(outcome, 2, "train.shards 2 -> 8 (a default; train.shards=2 keeps it)",
                          "resume.allow=train.shards")
        self.train("small", "train.steps=6", "train.shards=2")

    def test_a_function_key_may_change_where_it_is_named(self):
        outcome = self.train("r", "train.steps=5", "attention.heads=1", "model.norm_eps=0.1",
                             "resume.allow=attention.heads,model.norm_eps")
        self.assertIn("warning: resume.allow lets function keys differ", outcome.err)
        for change in ("attention.heads 2 -> 1", "attention.d_head 8 -> 16", "model.norm_eps 1e-05 -> 0.1"):
            self.assertIn(change, outcome.err)
        outcome = self.train("r", "train.steps=6", "attention.heads=1", "model.norm_eps=0.1")
        self.assertNotIn("1e-05", outcome.out + outcome.err)  # from here on it is the run's
        outcome = self.run_program("tiny.yaml", "run.dir=r", "train.steps=7", "resume.allow=attention.heads")
        self.assert_error(outcome, 2, "model.norm_eps 0.1 -> 1e-05")
        self.assertNotIn("attention.heads", outcome.errors[0].split("accept")[0])

    def test_nothing_is_allowed_that_cannot_be_loaded(self):
        for change in ("mtp.layers=1", "moe.experts=5", "train.optimizer=sgd"):
            key = change.split("=")[0]
            for allow in ("", key):
                outcome = self.run_program("tiny.yaml", "run.dir=r", "train.steps=6", change, f"resume.allow={allow}")
                self.assert_error(outcome, 2, key, "choose another run.dir", "resume.allow does not help")
        outcome = self.run_program("tiny.yaml", "run.dir=b", f"resume={self.step('r', 4)}", "mtp.layers=1")
        self.assert_error(outcome, 2, "leave resume out; resume.allow does not help")
        for more in ([], ["resume.allow=moe.d_ff"]):
            outcome = self.run_program("evaluate", "r", "moe.d_ff=5", *more)
            self.assert_error(outcome, 2, "moe.d_ff", "resume.allow does not help")

    def test_the_list_in_yaml_and_on_the_command_line(self):
        for text in ("resume.allow: [run.seed, moe.top_k]\n", "resume.allow:\n- run.seed\n- moe.top_k\n",
                     "resume: {allow: [run.seed, moe.top_k]}\n", "resume.allow: run.seed, moe.top_k\n",
                     "resume: auto\nresume.allow: [run.seed, moe.top_k]\n"):
            with open(self.path(self.write_tiny("list.yaml"))) as file:
                self.write("list.yaml", file.read() + text)
            outcome = self.run_program("--print-config", "list.yaml")
            self.assert_done(outcome)
            self.assertIn("\nresume.allow: [run.seed,moe.top_k] ", outcome.out)
        outcome = self.run_program("--print-config", "tiny.yaml", "resume.allow=run.seed,moe.top_k")
        self.assertIn("\nresume.allow: [run.seed,moe.top_k] ", outcome.out)
        self.assert_error(self.run_program("--print-config", "tiny.yaml", "resume.allow=moe.topk"), 2, "moe.topk",
                          "did you mean 'moe.top_k'")
        self.write("bad.yaml", "data.train: train.txt\nresume.allow: [[run.seed]]\n")
        self.assert_error(self.run_program("--print-config", "bad.yaml"), 2, "bad.yaml:2:15:", "list")

    def test_a_finished_run_of_another_seed_is_not_nothing_to_train(self):
        with open(self.path("r/config.yaml")) as file:
            before = file.read()
        self.assert_error(self.train("r", "run.seed=2", code=2), 2, "run.seed 1337 -> 2", "another run.dir")
        outcome = self.train("r", "train.lr=0.5")  # a course key of a finished run: told, and nothing claims it
        self.assertRegex(outcome.err, "warning: .*nothing is trained with these.*train.lr 0.001 -> 0.5")
        self.assertIn("nothing to train", outcome.out)
        with open(self.path("r/config.yaml")) as file:
            self.assertEqual(file.read(), before)

    def test_data_may_move_but_not_change(self):
        os.mkdir(self.path("data"))
        os.rename(self.path("train.txt"), self.path("data/train.txt"))
        self.train("r", "data.train=data/train.txt", "train.steps=5")
        self.write("train.txt", "Another text. " * 200)
        outcome = self.train("r", "train.steps=6", code=3)
        self.assert_error(outcome, 3, "train.txt", "init=", "another run.dir")
        outcome = self.train("new", f"resume={self.step('r', 5)}", "train.steps=6", code=3)
        self.assert_error(outcome, 3, "init=", "instead of resume")
        self.assertNotIn("another run.dir", outcome.errors[0])


class Health(RunTest):
    DIVERGING = ["train.steps=200", "train.lr=100", "train.weight_decay=100", "train.warmup=0", "checkpoint.keep_last=1"]

    def test_restarts_of_a_diverged_run_keep_the_last_good_checkpoint(self):
        self.write_tiny(**dict(RUN, train__steps="20"))
        self.train("r")
        for every in ("0", "1", "0"):  # also when there is a checkpoint of each step on the way
            outcome = self.train("r", *self.DIVERGING, f"checkpoint.every={every}", code=6)
            self.assertEqual(len(outcome.errors), 1, str(outcome))
        steps = self.steps("r")
        self.assertEqual(len(steps), 2, steps)
        self.assertNotIn("not healthy", self.inspect(self.step("r", steps[0])))
        self.assertIn("not healthy", self.inspect(self.step("r", steps[1])))
        self.assertLessEqual(steps[0], 21)
        outcome = self.train("r", f"resume={self.step('r', steps[0])}", "train.steps=25")
        self.assertEqual(self.resumed_step(outcome), steps[0])
        self.assertNotIn("not healthy", self.inspect(self.step("r", 25)))


class Folders(RunTest):
    def test_a_copied_folder_trains_in_the_copy(self):
        self.write_tiny(**RUN)
        self.train("runs/a", "train.steps=10")
        before = {name: content for name, content in self.snapshot().items() if name.startswith("runs/a")}
        shutil.copytree(self.path("runs/a"), self.path("elsewhere/b"))
        os.symlink(self.path("elsewhere/b"), self.path("link"))  # a folder by another name is the same folder
        for config, steps in (("elsewhere/b/config.yaml", 20), ("link/config.yaml", 30)):
            outcome = self.run_program(config, f"train.steps={steps}")
            self.assert_done(outcome)
            self.assertIn(steps, self.steps("elsewhere/b"))
        os.remove(self.path("link"))
        os.rename(self.path("elsewhere/b"), self.path("moved"))
        self.assert_done(self.run_program("moved/config.yaml", "train.steps=40"))
        self.assertIn(40, self.steps("moved"))
        after = {name: content for name, content in self.snapshot().items() if name.startswith("runs/a")}
        self.assertEqual(after, before)

    def test_two_configurations_of_one_name_are_told_apart(self):
        for folder, top_k in (("a", "2"), ("b", "3")):
            os.mkdir(self.path(folder))
            self.write_tiny(f"{folder}/train.yaml", data__train="../train.txt", moe__top_k=top_k)
        self.assert_done(self.run_program("a/train.yaml"))
        self.assert_error(self.run_program("b/train.yaml"), 2, "runs/train", "moe.top_k 2 -> 3", "another run.dir")

    def test_a_checkpoint_that_cannot_be_read_is_not_passed_over(self):
        self.write_tiny(**RUN)
        self.train("r", "train.steps=10")
        os.symlink("/nowhere/step-00000020.h5", self.path(self.step("r", 20)))
        self.assert_error(self.train("r", code=5), 5, "step-00000020.h5", "cannot be read")
        self.assertEqual(self.steps("r"), [10, 20])


class Kinds(ProgramTest):
    def test_every_key_has_a_kind_and_every_derived_value_names_its_keys(self):
        out = self.run_program("help").out
        keys = re.findall(r"^  ([a-z][\w.]*) ", out, re.MULTILINE)
        self.assertGreater(len(keys), 60)
        kinds = {}
        for key in keys:
            told = self.run_program("help", key).out
            kinds[key] = re.search(r"^  kind:    (free|course|function): ", told, re.MULTILINE)
            self.assertIsNotNone(kinds[key], f"{key}\n{told}")
            kinds[key] = kinds[key][1]
        for key, kind in {"log.every": "free", "parallel.expert": "free", "train.threads": "free", "train.lr": "course",
                          "train.batch": "course", "data.train": "course", "moe.balance_loss": "course",
                          "attention.heads": "function", "run.seed": "function", "train.shards": "function",
                          "moe.max_expert_replicas": "function", "model.norm_eps": "function"}.items():
            self.assertEqual(kinds[key], kind, key)
        self.write_tiny()
        config = self.run_program("--print-config", "tiny.yaml").out
        derived = re.findall(r"^([a-z][\w.]*): .* # derived: (.*)$", config, re.MULTILINE)
        self.assertGreater(len(derived), 8)
        for key, words in derived:
            self.assertTrue(key == "run.dir" or any(name in words for name in keys), f"{key}: {words}")


if __name__ == "__main__":
    main()
