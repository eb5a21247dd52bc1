"""A whole life: train, look, evaluate, generate, stop, resume, on one and two ranks."""
import json
import os
import re
import shutil
import signal
import subprocess

from program import PROGRAM, ProgramTest, main, without_comments

STEP_6 = "checkpoints/step-00000006.h5"
MASK_LINES = ("data.documents=mask", r"data.document_end=\n")


class Training(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write("validation.txt", "And the earth was without form, and void. " * 20)
        self.write_tiny(data__validation="validation.txt", train__steps="6", eval__every="3",
                        eval__batches="2", log__every="1", checkpoint__every="3",
                        moe__capacity_factor="1.1")

    def train(self, run, *overrides, ranks=None):
        outcome = self.run_program("tiny.yaml", f"run.dir={run}", *overrides, ranks=ranks)
        self.assert_done(outcome)
        return outcome

    def digest(self, run):
        outcome = self.run_program("inspect", "--digest", f"{run}/{STEP_6}")
        self.assert_done(outcome)
        self.assertRegex(outcome.out, r"^[0-9a-f]{32}\n$")
        return outcome.out

    def metrics(self, run):
        with open(self.path(f"{run}/metrics.jsonl"), encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def test_where_nothing_is_to_be_predicted_there_is_no_loss(self):
        self.write("short.txt", "ab")
        self.write("ends.txt", "\n" * 9)
        masked = ["train.objective=masked", "data.validation=short.txt"]
        documents = [*MASK_LINES, "data.validation=ends.txt"]
        for ranks, keys, parts in ((2, masked, ["short.txt", "masked"]), (None, documents, ["ends.txt", "of its document"])):
            self.assert_error(self.run_program("tiny.yaml", "run.dir=short", "resume=never", *keys, ranks=ranks), 3, *parts)
        self.train("long", masked[0])
        told = self.run_program("evaluate", "long", masked[1])
        self.assert_done(told)
        self.assertIn("validation of step 6: nothing is to be predicted\npseudo-perplexity", told.out)

    def test_a_step_without_targets_has_no_loss(self):
        self.write("ends.txt", "\n" * 2000)  # documents of one token
        told = self.train("ends", *MASK_LINES, "data.train=ends.txt", "data.format=bytes", "run.recheck=every",
                          "run.recheck_every=2").out
        self.assertIn("step 6/6 | loss none, without targets | ", told)
        self.assertNotIn("skipped", told)
        self.assertEqual([row["loss"] for row in self.metrics("ends") if "loss" in row], [None] * 6)

    def test_a_run_leaves_what_is_promised(self):
        outcome = self.train("run", ranks=2)
        self.assertEqual(len(re.findall(r"^step \d+/6 ", outcome.out, re.MULTILINE)), 6)
        rows = self.metrics("run")
        self.assertEqual([row["step"] for row in rows if "loss" in row], [1, 2, 3, 4, 5, 6])
        evaluations = [row for row in rows if "val_loss" in row]
        self.assertEqual([row["step"] for row in evaluations], [3, 6])
        self.assertGreater(evaluations[0]["val_bits_per_byte"], 0)

        printed = self.run_program("--print-config", "tiny.yaml", "run.dir=run").out
        again = self.run_program("--print-config", "run/config.yaml").out
        self.assertEqual(without_comments(printed), without_comments(again))

    def test_what_follows_from_a_key_follows_it_from_a_resolved_file_too(self):
        self.write_tiny()
        for kept, changes in (([], ["model.d_model=32"]), ([], ["train.lr=1e-5"]), ([], ["train.batch=4"]), ([], ["moe.every=2"]),
                              ([], ["model.mixer=latent_attention"]), ([], ["moe.balance_loss=0.5"]),
                              (["train.schedule=wsd"], ["train.schedule=cosine"]), (["train.optimizer=sgd"], ["train.optimizer=lion"]),
                              (["model.d_ff=40", "train.min_lr=1e-6", "train.shards=2"], ["model.d_model=32", "train.batch=4"])):
            printed = self.run_program("--print-config", "tiny.yaml", *kept)
            self.assert_done(printed)
            self.write("all.yaml", without_comments(printed.out))
            direct = self.run_program("--print-config", "tiny.yaml", *kept, *changes)
            again = self.run_program("--print-config", "all.yaml", *changes)
            self.assert_done(again)
            self.assertEqual(without_comments(again.out), without_comments(direct.out))
        # What a file without some key says is all given.
        self.write("most.yaml", without_comments(printed.out).replace("moe.z_loss", "#"))
        self.assert_error(self.run_program("--print-config", "most.yaml", "train.lr=1e-7"), 2, "train.min_lr (1e-06)")

    def test_rows_and_lines_come_every_log_every_steps(self):
        lines = {}
        for run, keys in (("each", ["log.every=1"]), ("few", ["log.every=4"]),
                          ("all", ["log.every=4", "log.every_row=true"])):
            outcome = self.train(run, *keys)
            lines[run] = [int(step) for step in re.findall(r"^step (\d+)/6 ", outcome.out, re.MULTILINE)]
        steps = {run: [row["step"] for row in self.metrics(run) if "loss" in row] for run in lines}
        self.assertEqual(lines, {"each": [1, 2, 3, 4, 5, 6], "few": [4, 6], "all": [4, 6]})
        self.assertEqual(steps, {"each": [1, 2, 3, 4, 5, 6], "few": [4, 6], "all": [1, 2, 3, 4, 5, 6]})
        exact = {run: {row["step"]: (row["loss"], row["tokens"], row["load_imbalance"])
                       for row in self.metrics(run) if "loss" in row} for run in lines}
        self.assertEqual(exact["all"], exact["each"])
        self.assertEqual(exact["few"], {step: exact["each"][step] for step in (4, 6)})
        for run in lines:
            self.assertEqual([row["step"] for row in self.metrics(run) if "val_loss" in row], [3, 6])
        # What was computed does not depend on how often it was told.
        self.train("wide", "log.every=4", "log.utilization_every=1")
        self.assertEqual(len({self.digest(run) for run in (*lines, "wide")}), 1)
        self.train("other", "log.every=4", "run.seed=5")
        self.assertNotEqual(self.digest("other"), self.digest("each"))

    def test_a_skipped_step_has_a_row_whatever_log_every_says(self):
        outcome = self.run_program("tiny.yaml", "run.dir=run", "log.every=1000", "train.steps=100", "eval.every=0",
                                   "train.lr=100", "train.weight_decay=100", "train.schedule=constant",
                                   "train.warmup=0", "train.max_skipped=3")
        self.assertEqual(outcome.code, 6, outcome)
        skipped = [row for row in self.metrics("run") if row.get("loss") is None or row["gradient_norm"] is None]
        self.assertEqual([row["skipped_steps"] for row in skipped], list(range(1, len(skipped) + 1)))
        self.assertGreaterEqual(len(skipped), 3)

    def test_lines_rows_and_starts_say_when_and_where(self):
        outcome = self.train("run", ranks=2)
        for line in outcome.out.splitlines():
            self.assertRegex(line, r" \| 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d$")
        os.environ["SLURM_JOB_ID"] = "4711"
        self.addCleanup(os.environ.pop, "SLURM_JOB_ID")
        outcome = self.train("run", "train.steps=8", "eval.every=0")
        host = os.uname().nodename[:63]
        self.assertRegex(outcome.out, rf"(?m)^1 host: {re.escape(host)} \| Slurm job 4711 \| pid \d+ \| ")
        times = [row["time"] for row in self.metrics("run")]
        for time in times:
            self.assertRegex(time, r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(times, sorted(times))
        with open(self.path("run/starts.jsonl"), encoding="utf-8") as file:
            starts = [json.loads(line) for line in file]
        self.assertEqual([(row["step"], row["ranks"], row["hosts"], row["job"]) for row in starts],
                         [(0, 2, {host: 2}, None), (6, 1, {host: 1}, "4711")])
        self.assertEqual(starts[0]["program_hash"], starts[1]["program_hash"])
        self.assertNotEqual(starts[0]["config_hash"], starts[1]["config_hash"])
        self.assertLess(starts[0]["time"], times[0])

    def test_runs_without_mpirun_share_no_folder(self):
        """Open MPI's own has the same name for all of them, and whoever ends would remove it under one that begins."""
        os.environ["OMPI_MCA_orte_tmpdir_base"] = self.path("train.txt")  # where there cannot be one
        self.addCleanup(os.environ.pop, "OMPI_MCA_orte_tmpdir_base")
        self.train("run", "train.steps=1")

    def test_two_ranks_and_one_give_the_same_bits(self):
        self.train("one")
        self.train("two", ranks=2)
        self.assertEqual(self.digest("one"), self.digest("two"))
        losses = [[row.get("loss", row.get("val_loss")) for row in self.metrics(run)] for run in ("one", "two")]
        self.assertEqual(*losses)

    def test_a_resumed_run_is_the_unbroken_run(self):
        self.train("whole")
        self.train("whole")  # complete: nothing to do
        subprocess.run(["cp", "-r", self.path("whole"), self.path("resumed")], check=True)
        os.remove(self.path(f"resumed/{STEP_6}"))
        outcome = self.train("resumed", ranks=2)
        self.assertIn("step-00000003.h5", outcome.out)
        self.assertEqual(self.digest("whole"), self.digest("resumed"))
        self.assertEqual([row["step"] for row in self.metrics("resumed") if "loss" in row], [1, 2, 3, 4, 5, 6])

    def test_a_signal_saves_and_asks_for_requeue(self):
        self.write_tiny(train__steps="1000000", log__every="1")
        process = subprocess.Popen([PROGRAM, "tiny.yaml", "run.dir=run"], cwd=self.folder, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        for line in process.stdout:
            if line.startswith("step "):
                break
        process.send_signal(signal.SIGUSR1)
        rest = process.stdout.read()
        self.assertEqual(process.wait(60), 75, rest)
        self.assertIn("checkpoints/step-", rest)

    def test_a_step_that_fails_is_no_part_of_what_was_sent(self):
        self.write_tiny(train__steps="1000000", log__every="1", moe__dispatch="padded", moe__capacity_factor="1")
        process = subprocess.Popen(["mpirun", "--oversubscribe", "--bind-to", "none", "-np", "2", PROGRAM, "tiny.yaml",
                                    "run.dir=run"], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, env=dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1",
                                                       OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1"))
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        for line in process.stdout:
            if line.startswith("step "):
                break
        self.write("train.txt", "")  # the next step cannot read its tokens
        rest = process.stdout.read()
        self.assertEqual(process.wait(60), 3, rest)
        sent = re.findall(r"^sent by rank 0 in a step, (\w+) +planned +(\d+) bytes, fact +(\d+) \|", rest, re.MULTILINE)
        self.assertEqual(len(sent), 5, rest)
        for kind, plan, fact in sent:
            self.assertEqual(plan, fact, f"{kind}\n{rest}")

    def test_verbs_on_a_checkpoint(self):
        self.train("run")
        checkpoint = f"run/{STEP_6}"
        inspected = self.run_program("inspect", checkpoint)
        self.assert_done(inspected)
        for word in ("parameters", "active", "expert load", "moe.capacity_factor: 1.1"):
            self.assertIn(word, inspected.out)
        evaluated = [self.run_program("evaluate", checkpoint, "eval.batches=0", ranks=ranks) for ranks in (None, 2)]
        losses = [re.search(r"loss ([0-9.]+)", outcome.out)[1] for outcome in evaluated]
        self.assertEqual(losses[0], losses[1])

        greedy = ["generate", checkpoint, "--prompt", "In the ", "--tokens", "12", "--temperature", "0"]
        cached, recomputed = self.run_program(*greedy), self.run_program(*greedy, "--recompute")
        self.assert_done(cached)
        self.assertEqual(cached.out, recomputed.out)
        self.assertTrue(cached.out.startswith("In the "), cached.out)
        sampled = [self.run_program("generate", checkpoint, "--seed", seed).out for seed in ("1", "1", "2")]
        self.assertEqual(sampled[0], sampled[1])
        self.assertNotEqual(sampled[0], sampled[2])

    def test_positions_of_every_kind_are_known_in_generation(self):
        all_losses = set()
        for positions in ("rope", "learned", "none"):
            self.train(positions, f"attention.positions={positions}", "model.init_std=0.3")
            checkpoint = f"{positions}/{STEP_6}"
            greedy = ["generate", checkpoint, "--prompt", "In the ", "--tokens", "50", "--temperature", "0"]
            cached, recomputed = self.run_program(*greedy), self.run_program(*greedy, "--recompute")
            self.assert_done(cached)
            self.assertEqual(cached.out, recomputed.out)
            losses = {re.search(r"loss ([0-9.]+)", self.run_program("evaluate", checkpoint, ranks=ranks).out)[1]
                      for ranks in (None, 2)}
            self.assertEqual(len(losses), 1, losses)
            all_losses |= losses
        self.assertEqual(len(all_losses), 3, all_losses)
        other = self.run_program("evaluate", f"learned/{STEP_6}", "train.context=8")
        self.assert_error(other, 4, "parameters/positions is f32 (", "here")

    def test_biases_of_every_kind_are_known_in_generation(self):
        kinds = {"qkv": ["attention.qkv"], "attention": ["attention.qkv", "attention.output"],
                 "true": ["attention.qkv", "attention.output", "moe.experts.gate_up", "moe.experts.down"],
                 "head": ["attention.qkv", "attention.output", "moe.experts.gate_up", "moe.experts.down", "head"],
                 "no_qkv": ["attention.output", "moe.experts.gate_up", "moe.experts.down", "head"]}
        self.train("false", "train.lr=0.1", "train.clip_norm=0")
        for kind, biased in kinds.items():
            self.train(kind, f"model.bias={kind}", "train.lr=0.1", "train.clip_norm=0")
            checkpoint = f"{kind}/{STEP_6}"
            inside = self.run_program("inspect", checkpoint).out
            named = set(re.findall(r"parameters/(?:layers\.\d+\.)?(\S+)\.bias ", inside))
            self.assertEqual(named, set(biased))
            greedy = ["generate", checkpoint, "--prompt", "In the ", "--tokens", "50", "--temperature", "0"]
            cached, recomputed = self.run_program(*greedy), self.run_program(*greedy, "--recompute")
            self.assert_done(cached)
            self.assertEqual(cached.out, recomputed.out)
        losses = {re.search(r"loss ([0-9.]+)", self.run_program("evaluate", f"{kind}/{STEP_6}").out)[1]
                  for kind in ["false", *kinds]}
        self.assertEqual(len(losses), 6, losses)
        without = ["tiny.yaml", "run.dir=qkv", "model.bias=false", "train.steps=7"]
        self.assert_error(self.run_program(*without), 2, "model.bias qkv -> false")
        self.assert_error(self.run_program(*without, "resume.allow=model.bias"), 2, "model.bias qkv -> false",
                          "resume.allow does not help, as tensors differ")

    def test_plan_needs_no_training(self):
        before = self.snapshot()
        outcome = self.run_program("plan", "tiny.yaml", "-np", "2")
        self.assert_done(outcome)
        for word in ("parameters", "active", "gradients", "dispatch"):
            self.assertIn(word, outcome.out)
        self.assertEqual(self.snapshot(), before)

    def test_a_padded_run_sends_what_was_planned(self):
        # Padded sizes do not depend on the routing, so that no byte is left to chance. Evaluation is not part of a step.
        for precision in ("f32", "bf16"):
            padded = ["moe.dispatch=padded", "moe.routing_group=sequence", "train.micro_batches=2",
                      "moe.balance_scope=batch", f"train.precision={precision}"]
            trained = self.train(precision, *padded, ranks=2)
            planned = self.run_program("plan", "tiny.yaml", "-np", "2", *padded).out
            lines = re.findall(r"^sent by rank 0 in a step, (\w+) +planned +(\d+) bytes, fact +(\d+) \| ",
                               trained.out, re.MULTILINE)
            self.assertEqual([kind for kind, _, _ in lines],
                             ["dispatch", "combine", "counts", "gradients", "statistics"])
            for kind, plan, fact in lines:
                self.assertEqual(plan, fact, f"{precision}: {kind}")
                self.assertRegex(planned, rf"(?m)^  {kind} +{plan}$")
                self.assertEqual(fact == "0", kind == "counts", f"{precision}: {kind} {fact}")

    def test_statistics_are_sent_as_planned_on_ranks_that_share_them_unevenly(self):
        for ranks, changes in ((3, ["attention.max_logits=true"]), (3, ["moe.balance_scope=step", "moe.bias_update=sign"]),
                               (5, [])):
            trained = self.run_program("tiny.yaml", "run.dir=r", "resume=never", *changes, ranks=ranks)
            self.assert_done(trained)
            plan, fact = re.search(r"in a step, statistics +planned +(\d+) bytes, fact +(\d+) \|", trained.out).groups()
            self.assertEqual(plan, fact, trained)
            shutil.rmtree(self.path("r"))

    def test_how_a_model_was_cut_for_training_binds_no_reader(self):
        self.write("validation.txt", "And God said, Let there be light: and there was light. " * 10)
        config = self.write_tiny(parallel__expert="2", data__validation="validation.txt")
        self.assert_done(self.run_program(config, ranks=2))
        checkpoint = "runs/tiny/checkpoints/step-00000002.h5"
        self.assert_done(self.run_program("generate", checkpoint, "--tokens", "3"))
        losses = []
        for ranks in (1, 2, 3):
            done = self.run_program("evaluate", checkpoint, ranks=ranks)
            self.assert_done(done)
            losses.append(re.search(r"loss ([\d.]+)", done.out + done.err)[1])
        self.assertEqual(len(set(losses)), 1, losses)
        # What is asked for on the line is meant.
        self.assert_error(self.run_program("evaluate", checkpoint, "parallel.expert=2", ranks=1), 2, "parallel.expert (2)")
        # Nor does it bind a run that goes on with other ranks.
        self.write_tiny(data__validation="validation.txt", train__steps="3")
        self.assert_done(self.run_program("tiny.yaml", ranks=1))


if __name__ == "__main__":
    main()
