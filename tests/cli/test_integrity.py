"""What watches the numbers while a run is alive: steps computed twice, spikes that are logged, skipped or gone back from."""
import json

from program import main
from run_test import RUN, RunTest


class Integrity(RunTest):
    def rows(self, run):
        with open(self.path(f"{run}/metrics.jsonl")) as file:
            return [json.loads(line) for line in file]

    def digest(self, run, step):
        outcome = self.run_program("inspect", "--digest", self.step(run, step))
        self.assert_done(outcome)
        return outcome.out

    def test_steps_computed_twice_change_no_bit(self):
        self.write_tiny(**dict(RUN, train__steps="6", checkpoint__every="0", train__micro_batches="2"))
        self.train("off", "run.check_replicas_every=0", "run.check_exchanges=off")
        for ranks in (1, 2):
            run = f"twice{ranks}"
            outcome = self.run_program("tiny.yaml", f"run.dir={run}", "run.recheck=every", "run.recheck_every=2",
                                       "run.check_replicas_every=1", "run.check_exchanges=on", ranks=ranks)
            self.assert_done(outcome)
            self.assertEqual(self.digest(run, 6), self.digest("off", 6))

    def test_a_strange_step_that_comes_out_the_same_is_the_datas(self):
        self.write_tiny(**dict(RUN, train__steps="12", checkpoint__every="0", train__warmup="1"))
        keys = ["train.skip_z=0.8", "train.skip_window=6"]
        outcome = self.train("r", *keys, "run.recheck=suspicious")
        self.assertEqual(outcome.out.count("computed twice, gave the same bits"), outcome.err.count("step skipped (train.skip_z)"))
        self.assertIn("computed twice, gave the same bits", outcome.out)
        self.train("plain", *keys)
        self.assertEqual(self.digest("r", 12), self.digest("plain", 12))

    def test_spikes_are_logged_skipped_or_gone_back_from(self):
        self.write_tiny(**dict(RUN, train__steps="30", checkpoint__every="5", train__warmup="1", checkpoint__keep_last="1"))
        keys = ["train.skip_z=0.8", "train.skip_window=6"]
        logged = self.train("logged", *keys, "train.spike_policy=log")
        self.assertIn("applied all the same", logged.err)
        self.train("plain")
        rows = [row for row in self.rows("logged") if "loss" in row]
        self.assertEqual([row["loss"] for row in rows], [row["loss"] for row in self.rows("plain") if "loss" in row])
        self.assertGreater(rows[-1]["outlier_steps"], 0)

        back = ["train.spike_policy=rollback", "train.rollback_steps=3", "train.rollback_batches=2", "train.rollback_limit=2",
                "train.skip_z=1.2", "train.skip_window=6"]
        whole = self.train("back", *back, code=6)
        self.assertIn("back to step", whole.err)
        self.assert_error(whole, 6, "after 2 rollbacks", "train.rollback_limit")
        events = [row for row in self.rows("back") if "spike_step" in row]
        self.assertEqual([row["rollbacks"] for row in events][-1], 2)
        for row in events:
            self.assertEqual(row["step"], (row["spike_step"] - 1 - 3) // 5 * 5)
            self.assertGreaterEqual(row["skipped_batches"], row["spike_step"] - row["step"])
        self.assertTrue(self.abandoned("back"))

    def test_a_run_that_goes_back_is_the_same_on_other_ranks_and_across_a_resume(self):
        self.write_tiny(**dict(RUN, train__steps="30", checkpoint__every="5", train__warmup="1", checkpoint__keep_last="1"))
        keys = ["train.spike_policy=rollback", "train.rollback_steps=3", "train.rollback_batches=2", "train.skip_z=1.2",
                "train.skip_window=6"]
        whole = self.train("whole", *keys)
        self.assertGreater(whole.err.count("back to step"), 3)
        self.assertNotRegex(whole.err, r"no checkpoint of step [1-9]")  # pruning has spared them
        self.assertEqual(self.rows("whole")[-1]["rollbacks"], whole.err.count("back to step"))
        self.assert_done(self.run_program("tiny.yaml", "run.dir=two", *keys, ranks=2))
        for steps in (21, 24, 27, 30):  # ends at each, on its way to the same state
            self.train("parts", *keys, f"train.steps={steps}")
        for run in ("two", "parts"):
            self.assertEqual(self.digest(run, 30), self.digest("whole", 30), run)


if __name__ == "__main__":
    main()
