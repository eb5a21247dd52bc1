"""What analyse says of experts: the choices that a training step of the same tokens makes, counted."""
import os
import pathlib
import xml.dom.minidom

import h5py
import numpy

from program import main
from run_test import RUN, RunTest

TEXTS = {"train.txt": "In the beginning God created the heaven and the earth. " * 40,
         "a&b.txt": "".join(chr(97 + (i * i + i // 5) % 26) for i in range(8 * 16 + 1))}


class Analyse(RunTest):
    def setUp(self):
        super().setUp()
        for name, text in TEXTS.items():
            self.write(name, text)

    def trained(self, **changes):
        self.write_tiny(**dict(RUN, train__steps="4", **changes))
        self.train("r")

    def analyse(self, folder, *args, ranks=None, data="train.txt,a&b.txt"):
        done = self.run_program("analyse", "r", "--data", data, "-o", folder, *args, ranks=ranks)
        self.assert_done(done)
        with h5py.File(self.path(f"{folder}/tables.h5")) as file:
            tables = {}
            file.visititems(lambda path, item: tables.update({path: item[()]}) if isinstance(item, h5py.Dataset) else None)
            return tables

    def figures(self, folder):
        names = [name for name in sorted(os.listdir(self.path(folder))) if name.endswith(".svg")]
        self.assertEqual(names, ["coactivation.svg", "domains.svg", "vocabulary.svg"])
        return [pathlib.Path(self.path(f"{folder}/{name}")).read_text(encoding="utf-8") for name in names]

    def test_it_counts_what_a_training_step_of_the_same_tokens_chooses(self):
        self.trained(moe__zero_experts="1", moe__top_k="3", model__feed_forward="[moe, dense, moe]", model__layers="3")
        checkpoint = self.step("r", 4)
        # A step that is an epoch: seven windows, in another order, from an offset that is drawn.
        self.train("again", f"init={checkpoint}", "train.steps=1", "train.batch=7", "train.shards=1", "data.train=a&b.txt",
                   "moe.record=record.h5")
        begins = [self.write(f"from-{first}", TEXTS["a&b.txt"][first:first + 7 * 16 + 1]) for first in range(16)]
        chose, first_of = {}, {}
        with h5py.File(self.path("record.h5")) as file:
            for layer in (0, 2):
                ids = file[f"layers/{layer}"][0].reshape(-1, 3).astype(int)
                chose[layer] = numpy.zeros((len(ids), 5), int)
                numpy.put_along_axis(chose[layer], ids, 1, axis=1)
                first_of[layer] = numpy.bincount(ids[:, 0], minlength=5)
        domains = self.analyse("begins", data=",".join(begins))["layers/0/domains"]
        begin = [i for i in range(16) if (domains[i] == chose[0].sum(axis=0)).all()][0]
        one = self.analyse("one", data=begins[begin])
        tables = self.analyse("out", "eval.batches=0")
        tokens = {name: numpy.frombuffer(text.encode()[:-1], numpy.uint8) for name, text in TEXTS.items()}
        self.assertEqual(tables["data_sets"].tobytes().decode(), "train.txt\na&b.txt\n")
        self.assertEqual(tables["set_tokens"].tolist(), [len(tokens[name]) for name in TEXTS])
        both = numpy.concatenate(list(tokens.values()))
        self.assertTrue((tables["tokens"] == numpy.bincount(both, minlength=256)).all())
        self.assertEqual({name.split("/")[1] for name in tables if "/" in name}, {"0", "2"})
        for layer in (0, 2):
            self.assertTrue((one[f"layers/{layer}/coactivation"] == chose[layer].T @ chose[layer]).all())
            self.assertTrue((one[f"layers/{layer}/domains"] == chose[layer].sum(axis=0)).all())
            self.assertTrue((one[f"layers/{layer}/domains_first"] == first_of[layer]).all())
            together, domains, vocabulary = (tables[f"layers/{layer}/{name}"]
                                             for name in ("coactivation", "domains", "vocabulary"))
            self.assertTrue((vocabulary.sum(axis=1) == 3 * tables["tokens"]).all())
            self.assertTrue((vocabulary.sum(axis=0) == domains.sum(axis=0)).all())
            self.assertTrue((numpy.diag(together) == domains.sum(axis=0)).all())

    def test_with_hash_routing_the_tokens_alone_say_everything(self):
        self.trained(moe__router="hash")
        tables = self.analyse("out")
        for layer in range(2):
            vocabulary, tokens = tables[f"layers/{layer}/vocabulary"], tables["tokens"]
            chose = (vocabulary > 0).astype(int)
            self.assertTrue((vocabulary == chose * tokens[:, None]).all())
            self.assertTrue((tables[f"layers/{layer}/coactivation"] == chose.T @ (chose * tokens[:, None])).all())
            self.assertTrue((chose.sum(axis=1)[tokens > 0] == 2).all())

    def test_numbers_and_figures_are_the_same_on_any_ranks(self):
        self.trained(train__context="12")  # the last windows are shorter
        one = self.analyse("one", "eval.batches=0")
        two = self.analyse("two", "eval.batches=0", "train.batch=4", ranks=2)
        self.assertEqual(one.keys(), two.keys())
        for name in one:
            self.assertTrue((one[name] == two[name]).all(), name)
        for text, again in zip(self.figures("one"), self.figures("two")):
            self.assertEqual(text, again)
            xml.dom.minidom.parseString(text)
        self.assertIn("a&amp;b.txt", self.figures("one")[1])
        share = 100 * one["layers/1/domains"][1][2] / one["set_tokens"][1]
        self.assertIn(f"a&amp;b.txt: {share:.2f} % of its tokens chose expert 2<", self.figures("one")[1])
        together = one["layers/0/coactivation"]
        self.assertIn(f"{100 * together[1][3] / together[1][1]:.1f} % of expert 1's tokens chose 3 too", self.figures("one")[0])

    def test_of_a_masked_model_the_mask_is_a_token(self):
        self.trained(train__objective="masked")
        tables = self.analyse("out", "eval.batches=0")
        self.assertEqual(len(tables["tokens"]), 257)
        self.assertGreater(tables["tokens"][256], 10)
        self.assertIn("'[MASK]'", self.figures("out")[2])

    def test_mistakes_are_told_and_leave_nothing(self):
        self.trained()
        before = self.snapshot()
        for args, code, parts in (
                (["r"], 2, ["--data A,B"]),
                (["r", "--data", ","], 2, ["--data A,B"]),
                (["r", "--data", "train.txt,nowhere.txt", "-o", "new"], 3, ["nowhere.txt"]),
                (["r", "--data", "train.txt", "-o", "r"], 5, ["r exists"]),
                (["r", "--data", "train.txt", "-o", "new", "attention.heads=4"], 2, ["attention.heads"])):
            outcome = self.run_program("analyse", *args)
            self.assert_error(outcome, code, *parts)
            self.assertNotIn("nats a token", outcome.out, "nothing is read before all is found to be there")
            self.assertEqual(self.snapshot(), before)
        for changes, part in ((["moe.experts=0"], "no layer"),
                              (["moe.router=expert_choice", "moe.allow_noncausal=true"], "expert_choice")):
            self.train("other", "resume=never", "train.steps=1", *changes)
            self.assert_error(self.run_program("analyse", "other", "--data", "train.txt", "-o", "new"), 2, part)
            self.assertFalse(os.path.exists(self.path("new")))
            os.rename(self.path("other"), self.path(part))


if __name__ == "__main__":
    main()
