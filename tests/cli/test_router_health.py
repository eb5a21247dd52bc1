"""How evenly experts are used: what metrics, evaluation and inspect say of it."""
import json
import re

from program import main
from run_test import RUN, RunTest


class RouterHealth(RunTest):
    def metrics(self, run):
        with open(self.path(f"{run}/metrics.jsonl")) as file:
            return [json.loads(line) for line in file]

    def test_an_evaluation_counts_the_tokens_of_its_file_alone(self):
        # 7 targets in a window of 16: with one choice a token, the busiest of 4 experts has
        # (max_vio + 1) * 7 / 4 of them, a whole number unless what fills the window up is counted.
        self.write("validation.txt", "In the b")
        self.write_tiny(**dict(RUN, data__validation="validation.txt", moe__top_k="1", moe__router="topk_softmax"))
        self.train("r")
        rows = [row for row in self.metrics("r") if "val_loss" in row]
        self.assertTrue(rows)
        for row in rows:
            busiest = (row["max_vio"] + 1) * 7 / 4
            self.assertAlmostEqual(busiest, round(busiest), places=6)  # nine digits are written
            self.assertLessEqual(row["max_vio_mean"], row["max_vio"])
            self.assertLessEqual(row["dead_experts"], 3 * 2)
        out = self.run_program("evaluate", "r").out
        layers = re.findall(r"^layer (\d): max_vio (\S+), cv \S+, dead (\d+) \(", out, re.MULTILINE)
        self.assertEqual([layer for layer, _, _ in layers], ["0", "1"], out)
        self.assertAlmostEqual(max(float(vio) for _, vio, _ in layers), rows[-1]["max_vio"], places=3)
        self.assertEqual(sum(int(dead) for _, _, dead in layers), rows[-1]["dead_experts"])
        self.assertRegex(out, r"max_vio over layers: p50 \S+, p90 \S+, max ")

    def test_a_row_and_inspect_agree(self):
        self.write_tiny(**dict(RUN, train__steps="3"))
        self.train("r", "log.every=1", "moe.bias_update=sign", "moe.capacity_factor=1")
        row = [row for row in self.metrics("r") if "loss" in row][-1]
        self.assertAlmostEqual(row["max_vio"], row["load_imbalance"] - 1, places=7)
        self.assertGreater(row["drop_rate"], 0)  # loads are counted before dropping
        self.assertGreater(row["router_bias_max"], 0)
        out = self.run_program("inspect", "r").out
        loads = re.findall(r"\| max_vio (\S+), cv \S+, dead (\d+) \(", out)
        self.assertAlmostEqual(max(float(vio) for vio, _ in loads), row["max_vio"], places=3)
        self.assertEqual(sum(int(dead) for _, dead in loads), row["dead_experts"])
        self.assertIn(f"max {row['max_vio']:.3f}", out)


if __name__ == "__main__":
    main()
