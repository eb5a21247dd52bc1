"""`moetrain scale`: points, what is lost on the way to them, and how it goes on."""
import csv
import os

from program import ProgramTest, main

PARTS = ("compute", "imbalance", "wait", "exchange", "reduction", "other")
FEW = ("--steps", "4", "--warm-up", "1", "--repeats", "1", "--oversubscribe", "-o", "out")


class ScaleTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write_tiny(model__layers="1", run__check_replicas_every="0")

    def scale(self, *words, code=0):
        outcome = self.run_program("scale", "tiny.yaml", *FEW, *words)
        self.assertEqual(outcome.code, code, str(outcome))
        return outcome

    def rows(self):
        with open(self.path("out/scale.csv"), newline="") as file:
            return list(csv.DictReader(file))

    def check_sums(self, rows):
        """A step is its parts, and what they lost is what efficiency lacks: to nine digits."""
        for row in rows:
            self.assertAlmostEqual(sum(float(row[part]) for part in PARTS), 1, 7)
            self.assertAlmostEqual(sum(float(row[f"lost_{part}"]) for part in PARTS), 1 - float(row["efficiency"]), 7)

    def test_points_have_both_routings_and_losses_that_add_up(self):
        outcome = self.scale("--np", "1,2", "train.lr=0.01")
        rows = self.rows()
        self.assertEqual([(row["ranks"], row["routing"], row["runs"]) for row in rows],
                         [(ranks, routing, "1") for ranks in "12" for routing in ("learned", "even")])
        self.check_sums(rows)
        for row in rows:
            tokens = int(row["batch"]) * 16 / float(row["step_ms"]) * 1e3
            self.assertAlmostEqual(float(row["tokens_per_second"]), tokens, delta=1e-6 * tokens)
            self.assertLessEqual(float(row["step_ms_p10"]), float(row["step_ms"]))
            self.assertLessEqual(float(row["step_ms"]), float(row["step_ms_p90"]))
        for row, first in zip(rows[2:], rows[:2]):
            efficiency = float(row["tokens_per_second"]) / 2 / float(first["tokens_per_second"])
            self.assertAlmostEqual(float(row["efficiency"]), efficiency, 6)
            self.assertGreater(float(row["exchange"]), 0)
        self.assertEqual([row["efficiency"] for row in rows[:2]], ["1", "1"])
        self.assertRegex(outcome.out, r"2 ranks do [0-9.]+ times the work of 1 in a second \(efficiency \d+ %\)")
        with open(self.path("out/scale.svg")) as file:
            self.assertIn("strong scaling", file.read())
        printed = self.run_program("--print-config", "out/np-2/even-1/scale.yaml").out
        for line in ("moe.force: balanced", "train.lr: 0.01", "train.steps: 5"):
            self.assertIn(line, printed)
        # Nothing is measured again.
        again = self.scale("--np", "1,2", "train.lr=0.01")
        self.assertEqual(self.rows(), rows)
        self.assertIn(outcome.out.splitlines()[-1], again.out)

    def test_the_batch_grows_with_the_ranks_and_so_may_the_experts(self):
        self.scale("--np", "1,2", "--experts", "model.feed_forward=moe")
        rows = self.rows()
        self.assertEqual([int(row["batch"]) for row in rows], [8, 8, 16, 16])
        self.assertEqual([int(row["experts"]) for row in rows], [4, 4, 8, 8])
        self.check_sums(rows)
        self.assertIn("moe.experts: 8", self.run_program("--print-config", "out/np-2/learned-1/scale.yaml").out)

    def test_a_model_without_a_router_has_one_routing_and_tasks_do_a_point_each(self):
        dense = ("--np", "1,2", "--weak", "model.feed_forward=dense")
        outcome = self.scale(*dense, "--task", "2")
        self.assertEqual([(row["ranks"], row["routing"], row["runs"]) for row in self.rows()],
                         [("1", "learned", "0"), ("2", "learned", "1")])
        self.assertIn("too few points", outcome.out)
        self.assertFalse(os.path.exists(self.path("out/np-1")))
        self.scale(*dense)
        self.assertEqual([row["runs"] for row in self.rows()], ["1", "1"])
        self.check_sums(self.rows())
        # Runs of other keys, or of fewer steps, are not taken for these.
        for word, *parts in (("train.lr=0.5", "train.lr", "0.5"), ("model.layers=2", "model.layers"), ("--steps=9", "train.steps")):
            words = word.split("=") if word.startswith("--") else [word]
            self.assert_error(self.scale(*dense, *words, code=2), 2, "np-1/learned-1 was begun with", *parts, "-o")

    def test_a_script_has_a_task_for_each_point(self):
        job = ("-N", "1", "--ntasks-per-node", "2", "--time", "1:00:00", "--script", "job.sbatch")
        self.scale("--np", "1,2", *job, "train.lr=0.01")
        with open(self.path("job.sbatch")) as file:
            script = file.read()
        for part in (" --ntasks-per-node=2", " --array=1-4\n", " --exclusive ", "#SBATCH --mem=", "tiny.yaml' '--np' '1,2' "
                     "'--strong' '--steps' '4' '--warm-up' '1' '--repeats' '1' '-o' 'out' 'train.lr=0.01'\n"):
            self.assertIn(part, script)
        self.assertFalse(os.path.exists(self.path("out")))
        self.do_task("job.sbatch", 2, tasks=2)
        self.assertTrue(os.path.exists(self.path("srun.log")))
        self.assertEqual([row["runs"] for row in self.rows()], ["0", "1", "0", "0"])

    def test_a_point_that_fails_holds_up_no_other(self):
        launcher = """sh -c 'test {np} != 2 || exit 3; exec "$0" "$@"'"""
        outcome = self.scale("--np", "1,2", "--launcher", launcher, "model.feed_forward=dense", code=3)
        self.assert_error(outcome, 3, "run 1 on 2 ranks", "out/np-2")
        self.assertEqual([row["runs"] for row in self.rows()], ["1", "0"])
        self.assertEqual(self.rows()[1]["step_ms"], "")

    def test_what_is_wrong_is_told_before_anything_begins(self):
        for words, *parts in (
                ((), "--np LIST"),
                (("--np", "2,1"), "that grow", "2,1"),
                (("--np", "1,2,x"), "1,2,x"),
                (("--np", "1,100"), "100 ranks"),
                (("--np", "1", "--weak", "--experts"), "exclude each other"),
                (("--np", "1,2", "--experts", "model.layers=2", "moe.experts=[4, 2]"), "moe.experts", "list"),
                (("--np", "1,2", "--experts", "model.feed_forward=dense"), "no layer has a router", "--weak"),
                (("--np", "3,4", "--weak", "train.batch=8"), "train.batch is 8 on 3 ranks", "--np"),
                (("--np", "1", "--task", "3"), "--task is 3", "2 points"),
                (("--np", "1", "--time", "9"), "add -N"),
                (("--np", "1", "-N", "1", "--task", "1"), "leave --task out"),
                (("--np", "1,4", "-N", "2"), "4 ranks are more than the 2 tasks", "--ntasks-per-node"),
                (("--np", "1", "train.lrr=1"), "train.lr")):
            outcome = self.run_program("scale", "tiny.yaml", *FEW, *words)
            self.assert_error(outcome, 2, *parts)
            self.assertFalse(os.path.exists(self.path("out")), str(outcome))
        outcome = self.run_program("scale", "tiny.yaml", "--np", "100000", "-o", "out")
        self.assert_error(outcome, 2, "--np")


if __name__ == "__main__":
    main()
