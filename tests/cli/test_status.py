"""status.json, outcome.json and `moetrain status`: how a run is going and how it ended, for those who look from outside."""
import json
import os
import signal
import subprocess
import time

from program import HANG_SECONDS, PROGRAM, ProgramTest, main


class Status(ProgramTest):
    def read(self, name):
        with open(self.path(name)) as file:
            return json.load(file)

    def start(self, run="run"):
        """One rank that trains until it is told otherwise, past its first step."""
        process = subprocess.Popen([PROGRAM, "tiny.yaml", f"run.dir={run}", "train.steps=1000000"], cwd=self.folder,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=dict(os.environ, OMP_NUM_THREADS="1"))
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.wait_for(lambda: (self.status(run).get("status", {}).get("step") or 0) > 2, process)
        return process

    def wait_for(self, true, process):
        deadline = time.monotonic() + HANG_SECONDS
        while not true():
            self.assertIsNone(process.poll(), "the run has ended")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def status(self, run="run"):
        outcome = self.run_program("status", run, "--json")
        return json.loads(outcome.out) if outcome.code == 0 else {}

    def test_a_run_that_is_done_says_so(self):
        self.write_tiny(**{"data.validation": "train.txt", "eval.batches": "1"})
        self.assert_done(self.run_program("tiny.yaml", "run.dir=run", ranks=2))
        known = self.status()
        status, outcome = known["status"], known["outcome"]
        self.assertEqual((known["state"], outcome["exit_code"], outcome["step"]), ("done", 0, 2))
        self.assertEqual((status["step"], status["steps"], status["checkpoint"]["step"]), (2, 2, 2))
        self.assertEqual(status["evaluation"]["step"], 2)
        with open(self.path("run/metrics.jsonl")) as file:
            rows = [json.loads(line) for line in file]
        last = [row for row in rows if "loss" in row][-1]
        self.assertEqual(status["loss"], last["loss"])
        self.assertEqual(status["figures"]["dead_experts"], last["dead_experts"])
        self.assertEqual([len(pids) for pids in status["hosts"].values()], [2])
        told = self.run_program("status", "run")
        self.assert_done(told)
        for part in ("run: done", "step 2 of 2", "checkpoint of step 2", "max_vio", "validation at step 2"):
            self.assertIn(part, told.out)
        self.assertEqual([name for name in os.listdir(self.path("run")) if ".tmp" in name], [])

    def test_without_a_run_there_is_no_status(self):
        self.assert_error(self.run_program("status"), 2, ".", "status.json")
        self.assert_error(self.run_program("status", "x", "--jsn"), 2, "did you mean '--json'")

    def test_a_run_that_lives_is_running_and_one_that_was_saved_says_why(self):
        self.write_tiny()
        process = self.start()
        known = self.status()
        self.assertEqual((known["state"], known["outcome"]), ("running", None))
        self.assertEqual(list(known["status"]["hosts"].values()), [[process.pid]])
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(process.wait(HANG_SECONDS), 75)
        known = self.status()
        self.assertEqual((known["state"], known["outcome"]["exit_code"]), ("saved", 75))
        self.assertEqual(known["outcome"]["step"], known["status"]["checkpoint"]["step"])

    def test_a_killed_run_has_no_outcome_and_is_told_from_one_that_lives(self):
        self.write_tiny()
        self.assert_done(self.run_program("tiny.yaml", "run.dir=run"))  # its outcome is no longer that of the folder
        process = self.start()
        process.kill()
        process.wait(HANG_SECONDS)
        self.assertEqual(self.status()["state"], "killed")
        self.assertFalse(os.path.exists(self.path("run/outcome.json")))
        told = self.run_program("status", "run")
        self.assertIn("killed in: ", told.out)

    def test_an_error_after_the_lock_is_the_outcome_and_a_refused_job_leaves_none(self):
        self.write_tiny()
        self.assert_done(self.run_program("tiny.yaml", "run.dir=run"))
        self.assert_error(self.run_program("tiny.yaml", "run.dir=run", "resume=never"), 2, "resume: never")
        self.assertEqual(self.status()["outcome"]["exit_code"], 2)
        self.assertIn("resume: never", self.status()["outcome"]["message"])
        process = self.start("other")
        before = self.read("other/status.json")["started"]
        self.assertEqual(self.run_program("tiny.yaml", "run.dir=other").code, 9)
        self.assertEqual(self.read("other/status.json")["started"], before)
        self.assertFalse(os.path.exists(self.path("other/outcome.json")))
        process.kill()

    def test_the_attempt_is_named_by_its_starter(self):
        self.write_tiny()
        os.environ["MOETRAIN_ATTEMPT"] = "of today"
        self.addCleanup(os.environ.pop, "MOETRAIN_ATTEMPT")
        self.assert_done(self.run_program("tiny.yaml", "run.dir=run"))
        known = self.status()
        self.assertEqual([known[part]["attempt"] for part in ("status", "outcome")], ["of today"] * 2)


if __name__ == "__main__":
    main()
