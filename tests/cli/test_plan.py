"""What `plan` says beside what a run takes, and what is said when a host has too little."""
import re

from program import PROGRAM, ProgramTest, main

MODEL = {"model__d_model": "96", "model__layers": "4", "attention__heads": "4", "moe__experts": "8", "moe__d_ff": "128",
         "train__batch": "16", "train__context": "128", "train__steps": "4", "checkpoint__every": "2", "log__every": "1"}

# The sanitizers' own memory is no part of any plan.
with open(PROGRAM, "rb") as file:
    SANITIZED = b"__asan_init" in file.read()


class PlanTest(ProgramTest):
    def expect_at_most(self, ranks, *changes, threads="1"):
        """A run on these ranks takes no more than its log and `plan` said at most."""
        config = self.write_tiny(**MODEL)
        words = [*changes, f"train.threads={threads}"]
        plan = self.run_program("plan", config, "-np", str(ranks), *words)
        self.assert_done(plan)
        at_most = float(re.search(r"total +[\d.]+ +worst case +([\d.]+)", plan.out)[1])
        run = self.run_program(config, "run.dir=run", *words, "resume=never", ranks=ranks)
        self.assert_done(run)
        logged, peak = re.search(r"([\d.]+) at most .* peak ([\d.]+)", run.out + run.err).groups()
        if not SANITIZED:
            self.assertLessEqual(float(peak), float(logged), str(run))
            self.assertLessEqual(float(peak), at_most, f"{plan}\n{run}")
            self.assertLess(at_most, float(peak) + 60, f"{plan}\n{run}")  # and a use can be made of it

    def test_one_rank(self):
        self.write("validation.txt", "And the evening and the morning were the first day. " * 40)
        self.expect_at_most(1, "data.validation=validation.txt", "eval.every=2")

    def test_two_ranks(self):
        self.expect_at_most(2)

    def test_three_ranks_of_which_the_first_has_most(self):
        self.expect_at_most(3)
        plan = self.run_program("plan", self.write_tiny(**MODEL), "-np", "3")
        self.assertRegex(plan.err, r"3 ranks .* 8 shards evenly: the first have 3 of them, 1.12 times .* 2 or 4 ranks")
        self.assertRegex(plan.err, r"parallel.expert \(3\) .* 8 experts evenly: .* 3 of them, 1.12 times .*; 6 or 9 experts")

    def test_experts_are_placed_by_the_loads_of_the_checkpoint_that_a_run_goes_on_from(self):
        config = self.write_tiny(**MODEL, parallel__placement="measured", run__dir="run", moe__force="skewed")
        words = ("plan", config, "-np", "2")
        self.assertIn("placed in their order until the run goes on from a checkpoint", self.run_program(*words).out)
        self.assertNotIn("placement", self.run_program(*words, "parallel.placement=even").out)
        self.assert_done(self.run_program(config))
        plan, run = self.run_program(*words), self.run_program(config, "train.steps=5", ranks=2)
        self.assert_done(plan)
        placed = re.findall(r"^  layer (\d) +rank 0:((?: \d){4}) \| rank 1:((?: \d){4})$", plan.out, re.M)
        self.assertEqual([layer for layer, _, _ in placed], list("0123"), plan.out)
        for _, one, other in placed:
            self.assertEqual(sorted((one + other).split()), list("01234567"))
        gain = re.search(r"experts placed by their loads of the last 4 steps: .*\)", plan.out)[0]
        self.assertIn(gain, run.out + run.err)  # which has placed them
        self.assertEqual(plan.out, self.run_program(*words, "resume=run/checkpoints/step-00000004.h5").out)
        self.assertIn("in their order", self.run_program(*words, "resume=never").out)
        other = self.run_program(*words, "moe.experts=4").out
        self.assertIn("has no loads of these experts", other)
        self.assertIn("rank 0: 0 1 | rank 1: 2 3", other)

    def test_two_threads_in_bf16(self):
        self.expect_at_most(1, "train.precision=bf16", threads="2")

    def test_muon(self):
        self.expect_at_most(2, "train.optimizer=muon")

    def test_a_dense_model_of_long_sequences(self):
        self.expect_at_most(1, "moe.experts=0", "train.batch=2", "train.context=768")

    def test_a_padded_exchange_with_gradient_accumulation(self):
        self.expect_at_most(2, "moe.dispatch=padded", "moe.capacity_factor=1", "train.micro_batches=2")

    def test_a_plan_says_when_this_machine_is_too_small(self):
        config = self.write_tiny()
        plan = self.run_program("plan", config, "-np", "1", "model.d_model=65536", "model.layers=1024")
        self.assert_done(plan)
        self.assertRegex(plan.err, r"moetrain: warning: [\d.]+ MiB are free here")

    def test_a_run_that_cannot_fit_is_refused_before_it_begins(self):
        config = self.write_tiny()
        run = self.run_program(config, "run.dir=run", "model.d_model=65536", "model.layers=1024")
        self.assert_error(run, 5, "a rank needs", "MiB are free", "parameters", "use more hosts")


if __name__ == "__main__":
    main()
