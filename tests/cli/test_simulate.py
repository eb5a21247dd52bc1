"""`moetrain simulate`: a step on described clusters, what is recorded or measured for it, and files that are refused."""
import glob
import os
import unittest

from program import ProgramTest, main

CLUSTER = """rank: {gflops: 50, memory_gb_s: 10}
node: {ranks: 4}
inside: {latency_us: 2, bandwidth_gb_s: 4}
between: {latency_us: 20, bandwidth_gb_s: 3}
overlap: false
"""
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


class SimulateTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write_tiny()
        self.write("cluster.yaml", CLUSTER)

    def simulate(self, ranks, *words, cluster="cluster.yaml"):
        outcome = self.run_program("simulate", "tiny.yaml", "-np", str(ranks), "--cluster", cluster, *words)
        self.assert_done(outcome)
        table = [[cell.strip() for cell in line.strip("|").split("|")] for line in outcome.out.splitlines() if line[0] == "|"]
        names = [name.split(": ")[-1] for name in table[0]]
        return [dict(zip(names, row)) for row in table[2:]], outcome.out.splitlines()[-1]

    def refuse(self, text, *parts):
        self.write("bad.yaml", text)
        outcome = self.run_program("simulate", "tiny.yaml", "-np", "2", "--cluster", "bad.yaml")
        self.assert_error(outcome, 2, *parts)
        self.assertEqual(outcome.out, "")


class Tables(SimulateTest):
    def test_a_table_has_every_doubling_and_a_sentence(self):
        rows, sentence = self.simulate(8)
        self.assertEqual([row["ranks"] for row in rows], ["1", "2", "4", "8"])
        self.assertEqual(rows[0]["efficiency, %"], "100.0")
        for row in rows:
            parts = [float(row[part]) for part in ("compute", "imbalance", "wait", "exchange", "reduction", "other")]
            self.assertAlmostEqual(sum(parts), 100, delta=0.31)
        self.assertIn("in a second (1.5 would pay)", sentence)

    def test_a_number_between_doublings_is_the_last_row(self):
        rows, _ = self.simulate(3)
        self.assertEqual([row["ranks"] for row in rows], ["1", "2", "3"])
        self.assertGreater(float(rows[2]["imbalance"]), 0)  # three ranks share eight shards

    def test_a_thousand_ranks_want_as_many_shards(self):
        many = ("train.batch=1024", "train.shards=1024", "moe.max_expert_replicas=256")
        rows, _ = self.simulate(1024, *many)
        self.assertEqual(len(rows), 11)
        outcome = self.run_program("simulate", "tiny.yaml", "-np", "1024", "--cluster", "cluster.yaml")
        self.assert_error(outcome, 2, "1024 ranks are more than train.shards (8)", "use -np 8 or fewer", "more shards")

    def test_the_clusters_that_come_along_can_be_read(self):
        files = glob.glob(os.path.join(ROOT, "configs/clusters/*.yaml"))
        self.assertEqual(len(files), 2)
        for file in files:
            rows, _ = self.simulate(8, cluster=file)
            self.assertEqual(len(rows), 4, file)


class Loads(SimulateTest):
    def test_a_skewed_load_makes_ranks_wait(self):
        even, _ = self.simulate(4)
        skewed, _ = self.simulate(4, "--load", "skewed")
        self.assertEqual([row["imbalance"] for row in even], ["0.0"] * 3)
        self.assertGreater(float(skewed[2]["imbalance"]), 0)
        self.assertGreater(float(skewed[2]["ms a step"]), float(even[2]["ms a step"]))

    def test_a_recorded_load_is_that_of_the_run(self):
        self.assert_done(self.run_program("tiny.yaml", "run.dir=run", "moe.force=hot_rank"))
        recorded, _ = self.simulate(2, "--load", "run")
        self.assertGreater(float(recorded[1]["imbalance"]), 5)  # all of the experts' work is the first rank's
        two = ("simulate", "tiny.yaml", "-np", "2", "--cluster", "cluster.yaml", "--load")
        other = self.run_program(*two, "run", "moe.experts=8")
        self.assert_error(other, 4, "--load", "no loads of 8 experts", "checkpoint of this model")
        missing = self.run_program(*two, "nowhere")
        self.assert_error(missing, 4, "--load", "nowhere")


class Measured(SimulateTest):
    HEAD = "ranks,routing,batch,experts,runs,failed,step_ms,step_ms_p10\n"

    def test_the_first_measured_point_tells_the_speed_of_a_rank(self):
        measured = ("1,learned,8,4,3,0,7.5,7", "1,even,8,4,3,0,20,19", "4,even,8,4,3,0,10,9", "4,even,16,4,3,0,99,9")
        self.write("scale.csv", self.HEAD + "\n".join(measured) + "\n")
        rows, _ = self.simulate(4, "--measured", "scale.csv")
        self.assertEqual([row["measured ms"] for row in rows], ["20.00", "–", "10.00"])
        self.assertEqual(rows[0]["ms a step"], "20.00")
        off = 100 * (float(rows[2]["ms a step"]) / 10 - 1)
        self.assertAlmostEqual(float(rows[2]["simulated is off by, %"]), off, delta=0.2)
        rows, _ = self.simulate(4, "--measured", "scale.csv", "--load", "skewed")
        self.assertEqual(rows[0]["ms a step"], "7.50")

    def test_other_tables_are_refused(self):
        for text, parts in (("step,loss\n", ("scale.csv:1:1", "no table of `moetrain scale`")),
                            (self.HEAD + "1,even,16,4,3,0,20,19\n", ("scale.csv", "train.batch 8"))):
            self.write("scale.csv", text)
            outcome = self.run_program("simulate", "tiny.yaml", "-np", "2", "--cluster", "cluster.yaml",
                                       "--measured", "scale.csv")
            self.assert_error(outcome, 2, *parts)


class Here(SimulateTest):
    def measure(self, *words, ranks=None):
        return self.run_program("simulate", "tiny.yaml", "-np", "2", "--cluster", "here", *words, ranks=ranks)

    def test_this_machine_is_measured_and_written_as_a_file(self):
        outcome = self.measure("-o", "here.yaml", ranks=2)
        self.assert_done(outcome)
        self.assertIn("| 2 |", outcome.out)
        rows, _ = self.simulate(2, cluster="here.yaml")
        self.assertIn(f"| 1 | {rows[0]['ms a step']} |", outcome.out)

    def test_one_rank_says_that_messages_are_not_measured(self):
        outcome = self.measure()
        self.assert_done(outcome)
        self.assertIn("mpirun -np 2", outcome.err)

    def test_three_ranks_do_not_measure(self):
        outcome = self.measure(ranks=3)
        self.assert_error(outcome, 2, "--cluster here measures on 1 or 2 ranks", "mpirun -np 2")


class BadInput(SimulateTest):
    def test_a_wrong_cluster_is_one_line_with_the_place(self):
        for old, new, parts in (
                ("gflops: 50", "gflop: 50", ("bad.yaml:1:8", "'rank.gflop'", "did you mean 'rank.gflops'")),
                ("overlap: false", "speed: 3", ("bad.yaml:5:1", "'speed'", "configs/clusters")),
                ("gflops: 50", "gflops: -50", ("bad.yaml:1:8", "rank.gflops is '-50'", "a number from")),
                ("gflops: 50", "gflops: nan", ("bad.yaml:1:8", "'nan'")),
                ("gflops: 50", "gflops: [50]", ("bad.yaml:1:16", "is a list")),
                ("ranks: 4", "ranks: 0.5", ("bad.yaml:2:8", "node.ranks is '0.5'", "whole number from 1")),
                ("overlap: false", "overlap: maybe", ("bad.yaml:5:1", "true or false")),
                ("latency_us: 20, ", "", ("bad.yaml:4:11", "between.latency_us is missing", "add it")),
                ("overlap: false\n", "", ("bad.yaml:1:1", "overlap is missing")),
                ("node: {ranks: 4}", "node: {ranks: 4}\nnode.ranks: 5", ("bad.yaml:3:1", "given twice, first in line 2")),
                ("node:", "node", ("bad.yaml:2:",))):
            self.assertIn(old, CLUSTER)
            self.refuse(CLUSTER.replace(old, new), *parts)

    def test_a_wrong_command_line_names_the_fix(self):
        for words, parts in ((("-np", "2"), ("--cluster FILE.yaml", "configs/clusters")),
                             (("--cluster", "cluster.yaml"), ("-np N",)),
                             (("-np", "2", "--cluster", "none.yaml"), ("none.yaml", "No such file"))):
            self.assert_error(self.run_program("simulate", "tiny.yaml", *words), 2, *parts)


if __name__ == "__main__":
    main()
