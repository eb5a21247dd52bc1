"""`moetrain compare`: rows times seeds, their tables, and how a comparison goes on."""
import csv
import os
import signal
import subprocess
import time
import unittest

from program import HANG_SECONDS, PROGRAM, ProgramTest, main

ONE_RANK = ("--launcher", "env")  # without mpirun


class CompareTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write_tiny(data__validation="train.txt", train__steps="4", model__layers="1", log__every="1", eval__every="2",
                        eval__batches="1", run__check_replicas_every="0")

    def compare(self, text, *words, code=0):
        self.write("rows.yaml", "config: tiny.yaml\n" + text)
        outcome = self.run_program("compare", "rows.yaml", *ONE_RANK, *words)
        self.assertEqual(outcome.code, code, str(outcome))
        return outcome

    def refuse(self, text, *parts, words=()):
        """One line of error with all parts, and nothing is begun."""
        self.write("rows.yaml", text)
        outcome = self.run_program("compare", "rows.yaml", *ONE_RANK, *words)
        self.assert_error(outcome, 2, *parts)
        self.assertFalse(os.path.exists(self.path("runs")), str(outcome))

    def table(self, name="table.csv", folder="runs/rows"):
        with open(self.path(f"{folder}/{name}"), newline="") as file:
            return list(csv.DictReader(file))

    def starts(self, run):
        with open(self.path(f"runs/rows/{run}/starts.jsonl")) as file:
            return len(file.readlines())


class EqualFlops(CompareTest):
    ROWS = """
rows:
  dense: {model.feed_forward: dense, model.d_ff: 64}
  top-3: {moe.top_k: 3}
  shared: {moe.shared_experts: 1, width: moe.shared_d_ff}
  free: {moe.top_k: 2, width: none}
"""

    def test_widths_make_active_flops_equal(self):
        outcome = self.compare(self.ROWS + "equal_flops: {reference: dense, width: moe.d_ff, tolerance: 0.02}\n", "--plan")
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in outcome.out.splitlines() if line.startswith("| ")]
        title, rows = cells[0], {row[0]: row for row in cells[1:]}
        flops = {name: float(row[title.index("MFLOP a token")]) for name, row in rows.items()}
        widths = {name: row[title.index("width")] for name, row in rows.items()}
        self.assertEqual([widths["dense"], widths["free"]], ["", ""])
        self.assertNotAlmostEqual(flops["free"], flops["dense"], delta=0.02 * flops["dense"])
        for name, key in (("top-3", "moe.d_ff"), ("shared", "moe.shared_d_ff")):
            self.assertAlmostEqual(flops[name], flops["dense"], delta=0.02 * flops["dense"] + 5e-4)
            self.assertTrue(widths[name].startswith(f"{key}="), widths)
        # What is trained has that width, and the plan of it alone says the same.
        changes = ["moe.top_k=3", widths["top-3"]]
        plan = self.run_program("plan", "tiny.yaml", "-np", "1", *changes).out
        self.assertIn(f"({flops['top-3']:.3f} MFLOP a token", plan)

    def test_what_cannot_be_made_equal_is_told(self):
        config = "config: tiny.yaml\n"
        for text, *parts in (
                (self.ROWS + "equal_flops: {reference: dense, width: moe.d_ff, multiple: 16}\n", "row top-3", "moe.d_ff",
                 "16 makes", "32 makes", "equal_flops.tolerance"),
                (self.ROWS + "equal_flops: {reference: sparse}\n", "'sparse', which is no row"),
                (self.ROWS + "equal_flops: {reference: dense}\n", "row top-3", "add width"),
                (self.ROWS, "row shared has a width", "add equal_flops"),
                ("rows: {a: {width: train.lr}}\n", "rows.yaml:2:12", "train.lr", "whole number"),
                ("rows: {a: {width: moe.dff}}\n", "moe.d_ff"),
                ("rows: {a: }\nequal_flops: {tolerance: 2}\n", "rows.yaml:3:15", "0 to 1"),
                ("rows: {a: }\nequal_flops: {row: a}\n", "equal_flops has no 'row'")):
            self.refuse(config + text, *parts)


class Rows(CompareTest):
    def test_rows_times_seeds_become_tables(self):
        outcome = self.compare("""
seeds: [1, 2]
set: {train.lr: 0.01}
rows:
  dense: {model.feed_forward: dense}
  top-3:
    moe: {top_k: 3, balance: [{scope: shard, factor: 0.02}]}
    model.layers: 2
""")
        table, runs = self.table(), self.table("runs.csv")
        self.assertEqual([row["row"] for row in table], ["dense", "top-3"])
        self.assertEqual([(run["row"], run["seed"], run["step"]) for run in runs],
                         [("dense", "1", "4"), ("top-3", "1", "4"), ("dense", "2", "4"), ("top-3", "2", "4")])
        losses = [float(run["val_loss"]) for run in runs]
        mean, deviation = (losses[0] + losses[2]) / 2, abs(losses[0] - losses[2]) / 2 ** 0.5
        self.assertGreater(deviation, 0)
        self.assertAlmostEqual(float(table[0]["val_loss"]), mean, 6)
        self.assertAlmostEqual(float(table[0]["val_loss_deviation"]), deviation, 6)
        self.assertIn(f"| dense | {mean:.4f} ± {deviation:.4f} |", outcome.out)
        self.assertEqual(table[0]["max_vio"], "")  # a dense layer has none
        for name in ("max_vio", "drop_rate", "seconds", "tokens_per_second", "peak_memory_mib", "parameters"):
            self.assertGreaterEqual(float(table[1][name]), 0, name)
        plan = self.run_program("plan", "runs/rows/top-3/seed-1/compare.yaml", "-np", "1").out
        self.assertIn(f"{table[1]['parameters']} parameters, {table[1]['active_parameters']} active", plan)
        printed = self.run_program("--print-config", "runs/rows/top-3/seed-2/compare.yaml").out
        for line in ("train.lr: 0.01 ", "run.seed: 2 ", "moe.balance: [{kind: load, scope: shard, factor: 0.02}]"):
            self.assertTrue(line in printed, line)
        with open(self.path("runs/rows/table.md")) as file:
            self.assertIn(file.read(), outcome.out)

        # Nothing is done again, and nothing else under the same name.
        again = self.run_program("compare", "rows.yaml", *ONE_RANK)
        self.assert_done(again)
        self.assertNotIn("run 1 of", again.out)
        self.assertEqual(self.starts("dense/seed-1"), 1)
        self.assert_error(self.run_program("compare", "rows.yaml", *ONE_RANK, "train.lr=0.02"), 2, "runs/rows/dense/seed-1",
                          "train.lr 0.01", "0.02", "-o")

    def test_what_was_stopped_goes_on_from_its_checkpoint(self):
        rows = "rows: {dense: {model.feed_forward: dense}}\n"
        self.compare(rows, "-o", "whole")
        outcome = self.compare(rows, "run.stop_at=2", code=75)
        self.assertIn("| 0 of 1 |", outcome.out)
        self.assertIn("run the same command again", outcome.out)
        self.compare(rows)
        with open(self.path("runs/rows/dense/seed-1337/compare.log")) as file:
            self.assertIn("at step 2", file.read())
        self.assertEqual(self.table()[0]["val_loss"], self.table(folder="whole")[0]["val_loss"])

    def test_asked_to_stop_it_saves_the_run_that_goes_on(self):
        self.write("rows.yaml", "config: tiny.yaml\nrows: {dense: {model.feed_forward: dense}}\n")
        process = subprocess.Popen(
            [PROGRAM, "compare", "rows.yaml", *ONE_RANK, "train.steps=100000000", "eval.every=0"], cwd=self.folder,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(process.kill)
        run = self.path("runs/rows/dense/seed-1337")
        deadline = time.monotonic() + HANG_SECONDS
        while not (os.path.exists(f"{run}/metrics.jsonl") and os.path.getsize(f"{run}/metrics.jsonl")):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=HANG_SECONDS)[0]
        self.assertEqual(process.returncode, 75, text)
        self.assertTrue(os.listdir(f"{run}/checkpoints"), text)

    def test_a_run_that_fails_holds_up_no_other(self):
        rows = "rows: {lost: {data.train: gone.txt}, dense: {model.feed_forward: dense}}\n"
        outcome = self.compare(rows, code=3)
        self.assertEqual([row["runs"] for row in self.table()], ["0", "1"])
        self.assertEqual(len(outcome.errors), 1, str(outcome))
        self.assertIn("1 of 2 runs failed, runs/rows/lost/seed-1337 first", outcome.errors[0])

    def test_a_plan_begins_nothing(self):
        outcome = self.compare("rows: {dense: {model.feed_forward: dense}}\n", "--plan")
        self.assertRegex(outcome.out, r"\| dense \|.*\| 0 of 1 \|")
        self.assertFalse(os.path.exists(self.path("runs")))

    def test_what_is_wrong_is_told_before_anything_begins(self):
        base = "config: tiny.yaml\n"
        for text, *parts in (
                ("rows: {a: {moe.top_k: 1}}\n", "config is missing"),
                (base, "nothing to compare"),
                (base + "rows: {a: {moe.topk: 1}}\n", "rows.yaml:2:12", "moe.topk", "moe.top_k"),
                (base + "rows:\n  a: {moe.top_k: 3}\n  b: {moe.top_k: 9}\n", "rows.yaml: row b: line 4: moe.top_k", "9"),
                (base + "rows: {a: {moe.top_k: x}}\n", "row a: line 2: moe.top_k is 'x'"),
                (base + "rows: {a: {moe.top_k: 3, moe: {top_k: 2}}}\n", "given twice"),
                (base + "rows: {a: nothing}\n", "rows.yaml:2:8", "no map of keys"),
                (base + "rows: {a: {run.seed: 1}}\n", "write seeds"),
                (base + "rows: {a: {run.dir: x}}\n", "-o"),
                (base + "seeds: [1, 2, 1]\nrows: {a: }\n", "rows.yaml:2:15", "1 twice"),
                (base + "seeds: [1, -2]\nrows: {a: }\n", "rows.yaml:2:12", "'-2'"),
                (base + "row: {a: }\n", "did you mean 'rows'"),
                (base + "moe.top_k: 2\nrows: {a: }\n", "set: {moe.top_k"),
                (base + "rows: {a: {data.validation: \"\", eval.every: 0}}\n", "row a", "data.validation is empty"),
                ("config: gone.yaml\nrows: {a: }\n", "rows.yaml: config", "gone.yaml")):
            self.refuse(text, *parts)
        self.refuse(base + "rows: {a: }\n", "seeds", words=["run.seed=3"])
        self.refuse(base + "rows: {a: }\n", "command line", "'x'", words=["train.steps=x"])


if __name__ == "__main__":
    main()
