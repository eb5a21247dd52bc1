"""`moetrain slurm`: scripts that fit the configuration, and what it refuses."""
import os
import re
import stat
import subprocess

from program import PROGRAM, ProgramTest, main


class BatchScriptTest(ProgramTest):
    def script(self, *words, **changes):
        outcome = self.run_program("slurm", self.write_tiny(**changes), *words)
        self.assert_done(outcome)
        checked = subprocess.run(["bash", "-n"], input=outcome.out, text=True, capture_output=True)
        self.assertEqual(checked.stderr, "", outcome.out)
        return outcome.out

    def test_a_script_asks_for_what_the_configuration_needs(self):
        text = self.script("-N", "2", "--ntasks-per-node", "4", "--time", "1-00:00:00", "train.threads=3", "train.batch=16",
                           "train.shards=8")
        for part in ("--nodes=2 --ntasks-per-node=4 --cpus-per-task=3 --time=1-00:00:00\n", "--job-name=\"tiny\"",
                     f"--chdir=\"{os.path.realpath(self.folder)}\"", "--requeue --open-mode=append --signal=B:USR1@120\n",
                     f"moetrain='{os.path.realpath(PROGRAM)}'\n", f"set -- '{os.path.realpath(self.path('tiny.yaml'))}' "
                     "'train.threads=3' 'train.batch=16'"):
            self.assertIn(part, text)
        self.assertNotIn("--gres", text)
        self.assertNotIn("MOETRAIN_SOURCE", text)
        plan = self.run_program("plan", "tiny.yaml", "-np", "8", "train.threads=3", "train.batch=16", "train.shards=8").out
        even, worst = map(float, re.search(r"total +([\d.]+) +worst case +([\d.]+)", plan).groups())
        memory = int(re.search(r"#SBATCH --mem=(\d+)M\n", text)[1])
        self.assertLessEqual(1.1 * (worst + 3 * even), memory + 1)
        self.assertLessEqual(memory, 1.1 * (worst + 3 * even) + 2)

    def test_gpus_are_asked_for_where_the_device_is_one(self):
        text = self.script("-N", "1", "--ntasks-per-node", "2", device="cuda")
        self.assertIn("--ntasks-per-node=2 --gres=gpu:2\n", text)

    def test_a_short_job_has_no_signal_that_would_come_at_once(self):
        self.assertNotIn("--signal=", self.script("-N", "1", "--time", "3"))
        self.assertIn("--signal=B:USR1@120", self.script("-N", "1", "--time", "4"))

    def test_a_script_that_lacks_the_source_or_the_program_says_which(self):
        slurm = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launcher", "slurm")
        self.write("lines", "train.lr=1\n")
        os.makedirs(self.path("empty"))
        for script in sorted(name for name in os.listdir(slurm) if name.endswith(".sbatch")):
            words = [*(["lines"] if script == "array.sbatch" else []), "tiny.yaml"]
            for names, said in (({"SLURM_SUBMIT_DIR": self.path("empty")}, f"{self.path('empty')}: not moetrain's source; submit there"),
                                ({"MOETRAIN_SOURCE": os.path.join(slurm, "..", ".."), "MOETRAIN": self.path("none")},
                                 f"no program {self.path('none')}: build it")):
                done = subprocess.run(["bash", os.path.join(slurm, script), *words], text=True, capture_output=True, cwd=self.folder,
                                      env=dict(os.environ, SLURM_ARRAY_TASK_ID="1", SLURM_NTASKS="1", **{"MOETRAIN": PROGRAM, **names}))
                self.assertEqual(done.returncode, 2, (script, done))
                self.assertEqual(done.stderr.count("\n"), 1, (script, done))
                self.assertTrue(done.stderr.startswith(said), (script, done))

    def test_what_a_script_runs(self):
        """With stand-ins for srun, mpirun and scontrol: the words that the program gets, and what follows from 75."""
        for name in ("srun", "scontrol"):
            self.write(name, f"#!/bin/sh\necho {name} \"$@\"; [ {name} = scontrol ] || exit 75\n")
            os.chmod(self.path(name), stat.S_IRWXU)
        text = self.script("-N", "1", "--launcher", "srun", "train.lr=0.5", "data.train=it's one.txt")
        self.write("it's one.txt", "text " * 100)
        done = subprocess.run(["bash"], input=text, text=True, capture_output=True, cwd=self.folder,
                              env=dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}", SLURM_JOB_ID="17"))
        self.assertEqual(done.returncode, 75, done.stderr)
        self.assertEqual(done.stdout, f"srun --mpi=pmix --kill-on-bad-exit=1 {os.path.realpath(PROGRAM)} "
                         f"{os.path.realpath(self.path('tiny.yaml'))} train.lr=0.5 data.train=it's one.txt\n"
                         "scontrol requeue 17\n")

    def test_each_run_of_an_array_is_checked_and_written(self):
        text = self.script("-N", "1", "--ntasks-per-node", "4", "--array", "train.lr=1e-3; -np 2 run.seed=3", "train.shards=4")
        self.assertIn(" --array=1-2\n", text)
        self.assertIn("points='train.lr=1e-3\n -np 2 run.seed=3'\n", text)

    def test_what_cannot_run_is_not_written(self):
        config = self.write_tiny()
        for words, parts in (
                (["-N", "9"], ["9 ranks", "train.shards"]), ([], ["needs -N NODES"]), (["-N", "0"], ["1 to 4096"]),
                (["-N", "1", "--launcher", "ssh"], ["supervise, srun or mpirun"]), (["-N", "1", "--time", "1h"], ["hours"]),
                (["-N", "1", "--array", "train.lr=1; model.layer=3"], ["run 2 of --array", "model.layers"]),
                (["-N", "1", "--array", "-np 2"], ["1 to 1"]), (["-N", "1", "--array", "hello"], ["hello"]),
                (["-N", "1", "--array", "a=1", "--launcher", "srun"], ["leave --launcher srun out"]),
                (["-N", "1", "run.dir=runs/a\"b"], ["run.dir", "quote", "another name"]),
                (["-N", "1", "-o", "nowhere/x"], None)):
            outcome = self.run_program("slurm", config, *words)
            self.assert_error(outcome, 5 if parts is None else 2, *(parts or ["nowhere/x: cannot write"]))
            self.assertEqual(outcome.out, "", words)


if __name__ == "__main__":
    main()
