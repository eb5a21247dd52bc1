"""A run and its branches: where a command goes on, what is moved aside, what begins from weights alone."""
import os
import re
import shutil

from program import main
from run_test import RUN, RunTest


class Branches(RunTest):
    def setUp(self):
        super().setUp()
        self.write_tiny(**RUN)
        self.train("r")

    def test_a_run_keeps_its_identity_and_a_branch_names_its_parent(self):
        run = self.run_id(self.step("r", 10))
        self.train("r", "train.steps=50")
        self.assertEqual(self.run_id(self.step("r", 50)), run)
        self.train("other", f"resume={self.step('r', 20)}")
        told = self.inspect(self.step("other", 30))
        self.assertNotEqual(self.run_id(self.step("other", 30)), run)
        self.assertRegex(told, f"began from +step 20 of run {run}, .*step-00000020.h5")

    def test_the_same_command_goes_on_with_its_branch(self):
        command = [f"resume={self.step('r', 20)}", "train.steps=30"]
        self.assertEqual(self.resumed_step(self.train("new", *command)), 20)
        command[1] = "train.steps=35"
        self.assertEqual(self.resumed_step(self.train("new", *command)), 30)
        os.remove(self.path(self.step("r", 20)))  # pruned meanwhile
        command[1] = "train.steps=45"
        self.assertEqual(self.resumed_step(self.train("new", *command)), 35)
        os.rename(self.path("r"), self.path("moved"))
        command = ["resume=moved/checkpoints/step-00000020.h5", "train.steps=50"]
        self.assertEqual(self.resumed_step(self.train("new", *command)), 45)
        self.assertEqual(self.abandoned("new"), [])

    def test_a_parent_that_was_moved_is_known_by_what_it_is(self):
        self.train("new", f"resume={self.step('r', 20)}", "train.steps=30")
        shutil.copy(self.path(self.step("r", 20)), self.path("kept.h5"))
        self.assertEqual(self.resumed_step(self.train("new", "resume=kept.h5", "train.steps=35")), 30)

    def test_going_back_to_a_copy_or_a_link_keeps_what_came_before(self):
        os.mkdir(self.path("kept"))
        shutil.copy(self.path(self.step("r", 20)), self.path("kept/good.h5"))
        os.symlink(self.path(self.step("r", 10)), self.path("link.h5"))
        self.train("r", "resume=kept/good.h5", "train.steps=25")
        self.assertEqual(self.steps("r"), [10, 20, 25])
        self.train("r", "resume=link.h5", "train.steps=15")
        self.assertEqual(self.steps("r"), [10, 15])
        self.assertEqual(self.rows("r/metrics.jsonl"), list(range(1, 16)))

    def test_another_checkpoint_of_the_same_path_begins_another_branch(self):
        self.train("new", f"resume={self.step('r', 20)}", "train.steps=30")
        shutil.rmtree(self.path("r"))
        self.train("r", "run.seed=5", "train.steps=20")
        outcome = self.train("new", f"resume={self.step('r', 20)}", "train.steps=30", "run.seed=5")
        self.assertEqual(self.resumed_step(outcome), 20)
        self.assertEqual(len(self.abandoned("new")), 1)

    def test_going_back_moves_aside_what_came_later(self):
        before = self.snapshot()
        outcome = self.train("r", f"resume={self.step('r', 20)}", "train.lr=0.0001", "train.steps=25")
        self.assertEqual(self.steps("r"), [10, 20, 25])
        [folder] = self.abandoned("r")
        self.assertIn(f"-{self.run_id(self.step('r', 20))[:8]}-from-step-00000020", folder)
        self.assertEqual(self.steps("r", f"checkpoints/{folder}"), [30, 40])
        self.assertIn(folder, outcome.out)
        self.assertEqual(self.rows("r/metrics.jsonl"), list(range(1, 26)))
        after = self.snapshot()
        for name in ("step-00000030.h5", "step-00000040.h5"):
            self.assertEqual(after[f"r/checkpoints/{folder}/{name}"], before[f"r/checkpoints/{name}"])
        self.assertEqual(after[f"r/checkpoints/{folder}/metrics.jsonl"], before["r/metrics.jsonl"])
        # auto stays on the branch, though it is behind what was given up
        self.assertEqual(self.resumed_step(self.train("r", "train.lr=0.0001", "train.steps=28")), 25)
        self.assertEqual(self.resumed_step(self.train("r", f"resume={self.step('r', 20)}", "train.steps=30")), 28)
        self.assertEqual(len(self.abandoned("r")), 1)

    def test_going_back_twice_and_taking_up_what_was_given_up(self):
        self.train("r", f"resume={self.step('r', 20)}", "train.steps=35")
        self.assertEqual(self.steps("r"), [10, 20, 30, 35])
        outcome = self.train("r", f"resume={self.step('r', 10)}", "train.steps=15")
        self.assertEqual(self.resumed_step(outcome), 10)
        self.assertEqual((self.steps("r"), len(self.abandoned("r"))), ([10, 15], 2))
        first = next(name for name in self.abandoned("r") if name.endswith("from-step-00000020"))
        outcome = self.train("r", f"resume=r/checkpoints/{first}/step-00000040.h5", "train.steps=41")
        self.assertEqual(self.resumed_step(outcome), 40)
        self.assertEqual((self.steps("r"), len(self.abandoned("r"))), ([41], 3))
        self.assertEqual(self.rows("r/metrics.jsonl"), [41])
        self.assertEqual(self.resumed_step(self.train("r", "train.steps=42")), 41)

    def test_an_interrupted_going_back_is_finished_first(self):
        """As a crash leaves it between two renames: the newest is moved, the one before not yet."""
        folder = "r/checkpoints/abandoned-00000000-from-step-00000020.moving"
        os.mkdir(self.path(folder))
        os.rename(self.path(self.step("r", 40)), self.path(f"{folder}/step-00000040.h5"))
        outcome = self.train("r", "train.steps=25")
        self.assertEqual(self.resumed_step(outcome), 20)
        self.assertEqual(self.steps("r", folder[2:-7]), [30, 40])
        self.assertEqual(self.rows(f"{folder[:-7]}/metrics.jsonl")[-1], 40)
        self.assertEqual(self.rows("r/metrics.jsonl")[-1], 25)

    def test_a_refused_going_back_moves_nothing(self):
        before = self.snapshot()
        back = f"resume={self.step('r', 20)}"
        self.train("r", back, "moe.top_k=1", "moe.router=topk_softmax", code=2)
        self.train("r", back, "run.seed=2", code=2)
        self.write("other.txt", "Another text. " * 200)
        self.train("r", back, "data.train=other.txt", code=3)
        self.train("r", "resume=none.h5", code=4)
        self.assert_error(self.train("r", "resume=r", code=4), 4, "it is a folder; name a checkpoint")
        self.assertEqual({k: v for k, v in self.snapshot().items() if k != "other.txt"}, before)

    def test_another_run_in_the_folder_is_moved_aside_whole(self):
        self.train("new", "train.steps=10")
        outcome = self.train("new", f"resume={self.step('r', 30)}", "train.steps=31")
        self.assertEqual(self.resumed_step(outcome), 30)
        self.assertEqual(self.steps("new"), [31])
        [folder] = self.abandoned("new")
        self.assertTrue(folder.endswith("-whole"), folder)
        self.assertEqual(self.rows(f"new/checkpoints/{folder}/metrics.jsonl"), list(range(1, 11)))
        self.assertEqual(self.rows("new/metrics.jsonl"), [31])

    def test_must_and_never_mean_what_they_meant(self):
        self.assertEqual(self.resumed_step(self.train("r", "resume=must", "train.steps=41")), 40)
        self.assert_error(self.train("r", "resume=never", code=2), 2, "resume: never", "another run.dir")
        self.assert_error(self.train("new", "resume=must", code=4), 4, "resume: must")


class FromWeights(RunTest):
    def setUp(self):
        super().setUp()
        self.write_tiny(**RUN)
        self.train("base")
        self.write("other.txt", "Now these are the generations of the sons of Noah. " * 50)
        self.new = ["data.train=other.txt", f"init={self.step('base', 40)}", "run.seed=3", "train.batch=4",
                    "moe.capacity_factor=2", "train.shards=2"]

    def test_a_new_run_begins_with_the_weights_alone(self):
        scratch = self.train("scratch", *[word for word in self.new if "init" not in word], "train.steps=1")
        outcome = self.train("new", *self.new, "train.steps=1")
        self.assertIsNone(self.resumed_step(outcome))
        loss, before = (float(re.search(r"step 1/1 \| loss ([\d.]+)", done.out)[1]) for done in (outcome, scratch))
        self.assertLess(loss, before - 0.5, "the weights have learned something")
        told = self.inspect(self.step("new", 1))
        self.assertIn(f"step 40 of run {self.run_id(self.step('base', 40))}", told)
        self.assertRegex(told, r"step +1 of 1, 64 tokens")

    def test_the_same_command_goes_on(self):
        self.train("new", *self.new, "train.steps=2")
        os.remove(self.path(self.step("base", 40)))  # no longer needed
        self.assertEqual(self.resumed_step(self.train("new", *self.new, "train.steps=3")), 2)
        self.assertEqual(self.resumed_step(self.train("new", *self.new[:1], *self.new[2:], "train.steps=4")), 3)
        # and a branch of it too
        back = f"resume={self.step('new', 2)}"
        self.assertEqual(self.resumed_step(self.train("new", *self.new, back, "train.steps=3")), 2)
        self.assertEqual(self.resumed_step(self.train("new", *self.new, "train.steps=4")), 3)

    def test_a_folder_of_another_run_is_refused(self):
        outcome = self.train("base", f"init={self.step('base', 20)}", "train.steps=50", code=2)
        self.assert_error(outcome, 2, "did not begin from init", "another run.dir")
        self.assert_error(self.train("new", "init=none.h5", code=4), 4, "none.h5")

    def test_what_the_weights_compute_must_stay(self):
        outcome = self.train("new", *self.new, "attention.heads=1", code=2)
        self.assert_error(outcome, 2, "attention.heads 2 -> 1", "resume.allow=attention.heads")
        self.train("new", *self.new, "attention.heads=1", "resume.allow=attention.heads", "train.steps=1")
        for more in ([], ["resume.allow=model.d_model"]):
            outcome = self.train("large", *self.new, "model.d_model=32", *more, code=2)
            self.assert_error(outcome, 2, "step-00000040.h5", "model.d_model 16 -> 32",
                              "leave init out; resume.allow does not help")

    def test_the_vocabulary_must_be_the_same(self):
        self.train("characters", "data.format=characters", "train.steps=1")
        init = [f"init={self.step('characters', 1)}", "train.steps=1"]
        with open(self.path("train.txt")) as file:
            text = file.read()
        self.write("shuffled.txt", text[::-1])
        self.train("same", "data.format=characters", "data.train=shuffled.txt", *init)
        self.write("shifted.txt", text.replace("I", "J"))
        outcome = self.train("shifted", "data.format=characters", "data.train=shifted.txt", *init, code=3)
        self.assert_error(outcome, 3, "shifted.txt", "U+004A", "U+0049")
        self.write("more.txt", text + "!?")
        outcome = self.train("more", "data.format=characters", "data.train=more.txt", *init, code=3)
        self.assert_error(outcome, 3, "more.txt", "19 tokens", "17")
        self.assert_error(self.train("bytes", *init, code=2), 2, "data.format characters -> auto")
        masked = ["train.objective=masked", "resume.allow=train.objective"]  # has a token more
        outcome = self.train("masked", "data.format=characters", *init, *masked, code=2)
        self.assert_error(outcome, 2, "train.objective causal -> masked", "resume.allow does not help")
        self.assert_error(self.run_program("evaluate", "characters", *masked), 2, "is a causal model",
                          "leave train.objective out")


if __name__ == "__main__":
    main()
