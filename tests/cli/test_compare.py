"""`moetrain compare`: rows times seeds, their tables, and how a comparison goes on."""
import csv
import json
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
                ("grid: {moe.d_ff: [8, 16]}\nequal_flops: {reference: moe.d_ff=8, width: moe.d_ff}\n", "row moe.d_ff=16",
                 "the grid"),
                ("search: {trials: 1, keys: {moe.d_ff: [8, 9]}}\nrows: {a: }\nequal_flops: {reference: a, width: moe.d_ff}\n",
                 "row trial-1", "the search", "another width"),
                ("rows: {a: {width: train.lr}}\n", "rows.yaml:2:12", "train.lr", "whole number"),
                ("rows: {a: {width: moe.dff}}\n", "moe.d_ff"),
                ("rows: {a: }\nequal_flops: {tolerance: 2}\n", "rows.yaml:3:15", "0 to 1"),
                ("rows: {a: }\nequal_flops: {row: a}\n", "equal_flops has no 'row'")):
            self.refuse(config + text, *parts)


class Found(CompareTest):
    """Rows that are found: grids and searches."""
    SEARCH = """
seeds: [7]
set: {train.steps: 8}
search:
  kind: %s
  trials: %d
  seed: %d
  keys:
    train.lr: {min: 1e-4, max: 0.1, scale: log}
    moe.d_ff: {min: 1, max: 6}
    moe.top_k: [2, 3, 4]
"""

    def plan(self, text, *words):
        lines = self.compare(text, "--plan", *words).out.splitlines()
        return [line.split("|")[1].strip() for line in lines if line.startswith("| ") and not line.startswith("| |")]

    def test_a_grid_has_every_combination_of_every_row(self):
        grid = "grid: {moe.top_k: [2, 3], train.lr: [0.1, 0.01]}\n"
        cells = [f"moe.top_k={k},train.lr={lr}" for k in (2, 3) for lr in ("0.1", "0.01")]
        self.assertEqual(self.plan(grid), cells)
        rows = self.plan("rows: {a: , b: {moe.experts: 3}}\n" + grid)
        self.assertEqual(rows, [f"{row},{cell}" for row in "ab" for cell in cells])

    def test_trials_depend_on_the_seed_alone(self):
        few = self.plan(self.SEARCH % ("random", 5, 1))
        self.assertEqual(self.plan(self.SEARCH % ("random", 9, 1))[:5], few)
        self.assertEqual(self.plan("rows: {first: }\n" + self.SEARCH % ("random", 5, 1), "-np", "2"), ["first", *few])
        self.assertNotEqual(self.plan(self.SEARCH % ("random", 5, 2)), few)
        values = [dict(word.split("=") for word in name.split(",")[1:]) for name in self.plan(self.SEARCH % ("random", 60, 1))]
        self.assertEqual({value["moe.top_k"] for value in values}, {"2", "3", "4"})
        self.assertEqual({value["moe.d_ff"] for value in values}, set("123456"))
        rates = sorted(float(value["train.lr"]) for value in values)
        self.assertTrue(1e-4 <= rates[0] and rates[-1] <= 0.1, rates)
        self.assertTrue(10 < sum(rate < 10 ** -2.5 for rate in rates) < 50, rates)  # half of them, were there many

    def test_rounding_leaves_a_value_in_its_range(self):
        text = "search: {kind: random, trials: 3, keys: {train.lr: {min: 0.00100001, max: 0.00100004}}}\n"
        values = [float(name.split("=")[1]) for name in self.plan(text)]
        self.assertEqual(len(values), 3)
        self.assertTrue(all(0.00100001 <= value <= 0.00100004 for value in values), values)

    def test_a_draw_that_is_illegal_or_there_already_is_drawn_again(self):
        text = "search: {kind: random, trials: %d, keys: {moe.top_k: [2, 3, 9], moe.z_loss: [0, 1]}}\n"
        self.assertEqual(sorted(name.split(",", 1)[1] for name in self.plan(text % 4)),
                         sorted(f"moe.top_k={k},moe.z_loss={z}" for k in (2, 3) for z in (0, 1)))
        self.refuse("config: tiny.yaml\n" + text % 5, "4 of 5 trials", "moe.top_k")

    def test_halving_goes_on_with_the_best(self):
        text = self.SEARCH.replace("trials:", "steps: 2\n  factor: 2\n  trials:").replace("steps: 8", "steps: 8, log.every: 5")
        self.compare(text % ("halving", 4, 1))
        table = self.table()
        self.assertTrue(all(float(row["seconds"]) > 0 for row in table), table)
        self.assertEqual([row["steps"] for row in table], ["8", "4", "2", "2"])
        starts = [self.starts(f"{row['row']}/seed-7") for row in table]
        self.assertEqual(starts, [3, 2, 1, 1])

        def loss(row, step):
            with open(self.path(f"runs/rows/{row['row']}/seed-7/metrics.jsonl")) as file:
                rows = [json.loads(line) for line in file]
            return next(row["val_loss"] for row in rows if "val_loss" in row and row["step"] == step)

        self.assertLess(max(loss(row, 2) for row in table[:2]), min(loss(row, 2) for row in table[2:]))
        self.assertLess(loss(table[0], 4), loss(table[1], 4))
        # The winner is what it would be without a search: nothing but its steps was cut.
        with open(self.path("runs/rows/curves.svg")) as file:
            curves = file.read()
        self.assertIn(table[0]["row"], curves)
        whole = self.run_program(f"runs/rows/{table[0]['row']}/seed-7/compare.yaml", "run.dir=whole")
        self.assert_done(whole)
        digests = [self.run_program("inspect", "--digest", run).out for run in ("whole", f"runs/rows/{table[0]['row']}/seed-7")]
        self.assertEqual(digests[0], digests[1])
        again = self.run_program("compare", "rows.yaml", *ONE_RANK)
        self.assert_done(again)
        self.assertNotIn("run 1 of", again.out)

    def test_what_is_no_search_is_told(self):
        config, end = "config: tiny.yaml\n", ", keys: {moe.top_k: [2, 3]}}\n"
        for text, *parts in (
                ("grid: {moe.topk: [1]}\n", "rows.yaml:2:18", "moe.top_k"), ("grid: {moe.top_k: 1}\n", "a list of values"),
                ("grid: {moe.top_k: [1, 2, 1]}\n", "rows.yaml:2:19", "moe.top_k has 1 twice"),
                ("grid: {run.seed: [1, 2]}\n", "rows.yaml:2:18", "write seeds"),
                ("search: {trials: 2, keys: {run.dir: [a, b]}}\n", "rows.yaml:2:37", "below that of -o"),
                ("search: {trials: []" + end, "rows.yaml:2:18", "search.trials is a list"),
                ("search: {trials: 2, keys: {train.lr: {min: [], max: 1}}}\n", "train.lr.min is a list"),
                ("search: {kind: best, trials: 2" + end, "random or halving"), ("search: {kind: random" + end, "add trials"),
                ("search: {trials: 2, kind: random}\n", "add keys"), ("search: {trials: 0" + end, "rows.yaml:2:10", "'0'"),
                ("search: {kind: halving, trials: 2" + end, "needs steps"), ("search: {trial: 2" + end, "did you mean 'trials'"),
                ("search: {kind: random, steps: 9, trials: 2" + end, "steps is of kind: halving"),
                ("search: {kind: halving, steps: 2, trials: 2" + end, "set it to 1 or less"),
                ("search: {trials: 2, keys: {moe.d_ff: {min: 3}}}\n", "moe.d_ff needs min and max"),
                ("search: {trials: 2, keys: {moe.d_ff: {min: 3, max: 3}}}\n", "not below its max"),
                ("search: {trials: 2, keys: {train.lr: {min: 0, max: 3, scale: log}}}\n", "above 0"),
                ("search: {trials: 2, keys: {moe.router: {min: 0, max: 3}}}\n", "moe.router is no number"),
                ("search: {trials: 2, keys: {moe.d_ff: {min: 1.5, max: 3}}}\n", "whole number")):
            self.refuse(config + text, *parts)


class Jobs(CompareTest):
    ROWS = "seeds: [1, 2]\nrows: {dense: {model.feed_forward: dense}, 'top-3': {moe.top_k: 3}}\n"

    def test_a_task_does_its_run_and_tables_what_is_done(self):
        self.compare(self.ROWS, "--task", "3")
        outcome = self.run_program("compare", "rows.yaml", "-N", "1", "--time", "1:00:00", "--script", "job.sbatch", "train.lr=0.001")
        self.assert_done(outcome)
        with open(self.path("job.sbatch")) as file:
            script = file.read()
        for part in (" --array=1-4\n", "--signal=B:USR1@120\n", "rows.yaml' '-o' 'runs/rows' 'train.lr=0.001'\n", "#SBATCH --mem="):
            self.assertIn(part, script)
        self.assertFalse(os.path.exists(self.path("runs/rows/top-3")))
        self.do_task("job.sbatch", 2)
        self.assertEqual([(run["row"], run["seed"], run["done"]) for run in self.table("runs.csv")],
                         [("dense", "1", "0"), ("top-3", "1", "1"), ("dense", "2", "1"), ("top-3", "2", "0")])

    def test_what_is_no_array_is_told(self):
        halving = "search: {kind: halving, steps: 1, factor: 2, trials: 2, keys: {train.lr: [0.1, 0.2]}}\n"
        for text, words, *parts in (
                (self.ROWS, ["--task", "5"], "there are 4 runs"), (self.ROWS, ["--task", "0"], "from 1"),
                (halving, ["--task", "1"], "rows.yaml:2:", "kind: random"), (halving, ["-N", "1"], "kind: random"),
                (self.ROWS, ["--time", "9"], "add -N"), (self.ROWS, ["-N", "1", "--plan"], "leave --plan out"),
                (self.ROWS, ["-N", "1", "--time", "1h"], "--time"), (self.ROWS, ["-N", "9"], "9 ranks")):
            self.refuse("config: tiny.yaml\n" + text, *parts, words=words)


class Rows(CompareTest):
    def test_rows_times_seeds_become_tables(self):
        outcome = self.compare("""
seeds: [1, 2]
set: {train.lr: 0.01}
rows:
  dense: {model.feed_forward: dense}
  top-3:
    moe: {top_k: 3, balance: [{scope: shard, factor: 0.02}]}
    model: {layers: 2, mixer: moa}
    attention: {experts: 5, kv_heads: 1}
""")
        table, runs = self.table(), self.table("runs.csv")
        self.assertEqual([row["row"] for row in table], ["dense", "top-3"])
        self.assertEqual([(run["row"], run["seed"], run["steps"]) for run in runs],
                         [("dense", "1", "4"), ("top-3", "1", "4"), ("dense", "2", "4"), ("top-3", "2", "4")])
        losses = [float(run["val_loss"]) for run in runs]
        mean, deviation = (losses[0] + losses[2]) / 2, abs(losses[0] - losses[2]) / 2 ** 0.5
        self.assertGreater(deviation, 0)
        self.assertAlmostEqual(float(table[0]["val_loss"]), mean, 6)
        self.assertAlmostEqual(float(table[0]["val_loss_deviation"]), deviation, 6)
        self.assertIn(f"| dense | 4 | {mean:.4f} ± {deviation:.4f} |", outcome.out)
        self.assertEqual(table[0]["max_vio"], "")  # a dense layer has none
        for name in ("max_vio", "drop_rate", "seconds", "tokens_per_second", "peak_memory_mib", "parameters",
                     "val_tokens_per_second", "token_ms"):
            self.assertRegex(table[1][name], r"^\d", name)
        worst = []  # of both routers of a layer
        for seed in (1, 2):
            with open(self.path(f"runs/rows/top-3/seed-{seed}/metrics.jsonl")) as file:
                last = [row for row in map(json.loads, file) if "val_loss" in row][-1]
            worst.append(max(last["max_vio"], last["attention_max_vio"]))
        self.assertAlmostEqual(float(table[1]["max_vio"]), sum(worst) / 2, 6)
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
        self.assertEqual(self.table(), table)  # nor measured again: two clocks do not agree to nine digits
        self.assert_error(self.run_program("compare", "rows.yaml", *ONE_RANK, "train.lr=0.02"), 2, "runs/rows/dense/seed-1",
                          "train.lr 0.01", "0.02", "-o")

    def test_a_model_that_writes_no_text_has_no_time_for_it(self):
        self.compare("set: {train.objective: masked}\nrows: {masked: {model.feed_forward: dense}}\n")
        row, = self.table()
        self.assertEqual(row["token_ms"], "")
        told = self.run_program("inspect", "runs/rows/masked/seed-1337").out  # with its mask token
        self.assertRegex(told, rf"\b{row['parameters']}\b")
        with open(self.path("runs/rows/masked/seed-1337/compare.log")) as file:
            self.assertIn("masked", file.read().splitlines()[-1])

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
        self.assertIn("1 of 2 runs failed, runs/rows/lost/seed-1337 first: ", outcome.errors[0])
        self.assertRegex(outcome.errors[0], r"gone.txt: cannot be opened: .* permissions; see its compare.log")

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
