"""How evenly experts are used: what metrics, evaluation and inspect say of it."""
import json
import re

import h5py

from program import main
from run_test import RUN, RunTest


class RouterHealth(RunTest):
    def metrics(self, run):
        with open(self.path(f"{run}/metrics.jsonl")) as file:
            return [json.loads(line) for line in file]

    def digest(self, run):
        return self.run_program("inspect", "--digest", run).out

    def assert_rms(self, row, out):
        """The figure of a row is the root of the mean over both layers of what each line tells in three digits."""
        layers = [float(rms) for rms in re.findall(r", logit rms (\S+)$", out, re.MULTILINE)]
        self.assertEqual(len(layers), 2, out)
        mean = (layers[0] ** 2 + layers[1] ** 2) / 2
        self.assertGreater(row["router_logit_rms"], 0)
        self.assertAlmostEqual(mean ** 0.5 / row["router_logit_rms"], 1, places=2)

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
        self.assert_rms(rows[-1], out)

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
        self.assert_rms(row, out)

    def test_experts_of_attention_slots_and_keys_are_told_of(self):
        """Of each of these the figures of the last row are those of its line of `evaluate`, and the loads in the file sum to
        what the tokens of all steps asked for."""
        steps, tokens, unit = 3, 3 * 8 * 16, 1 << 20
        self.write("validation.txt", "In the beginning God created the heaven")
        self.write_tiny(**dict(RUN, data__validation="validation.txt", train__steps=str(steps), train__objective="masked"))
        for keys, loads in (
                (["model.mixer=moa", "attention.experts=5", "attention.kv_heads=1", "model.feed_forward=soft_moe", "moe.slots=3"],
                 (("attention", "attention", "attention_routed", 2), ("combine", "slots", "combine_mass", unit))),
                (["model.mixer=switchhead", "attention.experts=3", "model.feed_forward=peer", "peer.keys=4", "peer.heads=2",
                  "peer.top_k=3"],
                 (("value", "values", "value_routed", 4), ("output", "outputs", "output_routed", 4),
                  ("peer", "PEER", "expert_choices", 6)))):
            run = loads[0][0]
            self.train(run, *keys)
            row = [row for row in self.metrics(run) if "val_loss" in row][-1]
            told, shown = self.run_program("evaluate", run).out, self.inspect(run)
            for field, word, table, asked in loads:
                lines = re.findall(rf"^layer \d, {word}: max_vio (\S+), cv \S+, dead (\d+) \(", told, re.MULTILINE)
                self.assertEqual(len(lines), 2, told)
                self.assertAlmostEqual(max(float(vio) for vio, _ in lines), row[f"{field}_max_vio"], places=3)
                self.assertEqual(sum(int(dead) for _, dead in lines), row[f"{field}_dead_experts"])
                with h5py.File(self.path(self.step(run, steps))) as file:
                    rows = file[f"utilization/{table}"][()]
                for layer, sums in enumerate(rows.sum(axis=(0, 2))):
                    self.assertAlmostEqual(sums / (tokens * asked), 1, delta=1e-5 if asked == unit else 0)
                    last = rows[-1][layer]
                    self.assertIn(f"| max_vio {last.max() / last.mean() - 1:.3f}", shown)
        row = [row for row in self.metrics("attention") if "loss" in row][-1]
        with h5py.File(self.path(self.step("attention", steps))) as file:
            of_layers = file["utilization/slot_concentration"][-1]
        self.assertAlmostEqual(of_layers.mean(), row["slot_concentration"], places=8)
        self.assertTrue((of_layers > 1 / 16).all() and (of_layers < 1).all(), of_layers)  # of sequences of 16 tokens

    def test_an_expert_that_died_is_named_once_on_any_ranks_and_across_a_resume(self):
        self.write_tiny(**dict(RUN, train__steps="8", train__lr="1e-9", train__min_lr="0", moe__experts="32",
                               checkpoint__every="4"))

        def deaths(*runs):
            return [line for run in runs for line in re.findall(r"step \d+: layer .* dead, without a choice for \d+ steps", run.err)]

        keys = ["log.dead_expert_steps=3", "checkpoint.keep_last=0"]
        whole = deaths(self.train("r", *keys))
        self.assertRegex("\n".join(whole), r"step 3: layer 0, experts? \d+.*: dead, without a choice for 3 steps")
        self.assertRegex("\n".join(whole), r"step [5-8]: layer ")
        # An expert is named again only if it was chosen in between, and has died since.
        named = {}
        for line in whole:
            step, layer, experts = re.match(r"step (\d+): layer (\d+), experts? ([\d, ]+)", line).groups()
            for expert in experts.strip(" ,").split(", "):
                self.assertGreater(int(step) - named.get((layer, expert), -9), 3, line)
                named[layer, expert] = int(step)
        two = self.run_program("tiny.yaml", "run.dir=two", *keys, ranks=2)
        self.assert_done(two)
        self.assertEqual(deaths(two), whole)
        first = self.train("half", *keys, "train.steps=4", "train.warmup=1")
        self.assertEqual(deaths(first, self.train("half", *keys, "train.warmup=1")), whole)
        self.assertEqual(deaths(self.train("quiet", "log.dead_expert_steps=0")), [])
        self.assertEqual(self.digest("quiet"), self.digest("r"))

    def test_experts_of_attention_that_died_are_named(self):
        self.write_tiny(**dict(RUN, train__steps="2", train__lr="1e-9", train__min_lr="0"))
        for mixer, places, *keys in (("moa", ["attention"], "attention.kv_heads=1"), ("switchhead", ["values", "outputs"])):
            told = self.train(mixer, f"model.mixer={mixer}", "attention.experts=64", "log.dead_expert_steps=2", *keys).err
            for place in places:
                self.assertRegex(told, rf"step 2: layer 0, {place}, experts? \d+.*: dead, without a choice for 2 steps")
        peer = self.train("peer", "log.dead_expert_steps=1", "model.feed_forward=peer", "peer.keys=32")
        self.assertNotIn("dead, without", peer.err)

    def test_a_step_far_above_the_last_ones_changes_no_weight(self):
        self.write_tiny(**dict(RUN, train__steps="12", checkpoint__every="6", train__warmup="1"))
        keys = ["train.skip_z=0.8", "train.skip_window=6"]
        outcome = self.train("r", *keys)
        found = re.findall(r"step (\d+): (?:loss|gradient norm) .*: step skipped \(train.skip_z\)", outcome.err)
        rows = [row for row in self.metrics("r") if "loss" in row]
        self.assertTrue(found)
        self.assertEqual([row["outlier_steps"] for row in rows],
                         [sum(int(step) <= row["step"] for step in found) for row in rows])
        self.assertEqual(rows[-1]["skipped_steps"], 0)
        self.train("half", *keys, "train.steps=6")
        self.train("half", *keys)
        self.assertEqual(self.digest("half"), self.digest("r"))
        self.train("all", "train.skip_z=0")
        self.assertNotEqual(self.digest("all"), self.digest("r"))
        self.assertNotIn("outlier_steps", self.metrics("all")[0])
        # A window of another length begins anew.
        self.train("half", "train.skip_z=0.8", "train.skip_window=4", "train.steps=14")
        self.train("half", "train.skip_z=0", "train.steps=15")


if __name__ == "__main__":
    main()
