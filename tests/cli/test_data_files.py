"""Files of other programs as training data, what `data info` says of them, and mixes of several."""
import gzip
import json
import os
import pickle
import struct

import h5py
import numpy as np

from program import ProgramTest, main

TOKENS = (np.random.default_rng(1).pareto(0.4, 2000).astype(np.int64)) % 50257
TEXT = "In the beginning God created the heaven and the earth.\n" * 40
NUMBERS = {"data__vocab_size": "50257"}


class DataFiles(ProgramTest):
    def losses(self, train, *overrides, **changes):
        run = "run" + str(len(os.listdir(self.folder)))
        self.write_tiny(data__train=train, run__dir=run, log__every="1", **changes)
        self.assert_done(self.run_program("tiny.yaml", *overrides))
        with open(self.path(f"{run}/metrics.jsonl")) as file:
            rows = [json.loads(line) for line in file]
        return [(row["loss"], row["gradient_norm"]) for row in rows if "loss" in row]

    def save(self, name, array, version=None):
        with open(self.path(name), "wb") as file:
            np.lib.format.write_array(file, array, version=version)
        return name

    def megatron(self, name, tokens, dtype, code, lengths):
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * dtype().itemsize
        self.write(name + ".bin", tokens.astype(dtype).tobytes())
        self.write(name + ".idx", b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(lengths), len(lengths) + 1)
                   + np.array(lengths, np.int32).tobytes() + starts.astype(np.int64).tobytes()
                   + np.arange(len(lengths) + 1, dtype=np.int64).tobytes())
        return name

    def test_the_same_tokens_give_the_same_losses_from_every_file(self):
        self.write("raw.bin", TOKENS.astype("<u2").tobytes())
        wanted = self.losses("raw.bin", **NUMBERS)
        for name in (self.save("one.npy", TOKENS.astype("<u2")), self.save("wide.npy", TOKENS, (2, 0)),
                     self.save("rows.npy", TOKENS.astype("<u4").reshape(20, 100), (3, 0)),
                     self.megatron("corpus", TOKENS, np.uint16, 8, [500, 0, 1500])):
            with self.subTest(name):
                self.assertEqual(self.losses(name, **NUMBERS), wanted)
        # A folder of nanoGPT, and of llm.c the header for the larger vocabulary.
        os.mkdir(self.path("nano"))
        self.write("nano/train.bin", TOKENS.astype("<u2").tobytes())
        self.write("nano/val.bin", TOKENS[:99].astype("<u2").tobytes())
        self.write("nano/meta.pkl", pickle.dumps({"vocab_size": 50257}))
        outcome = self.run_program("tiny.yaml", "data.train=nano", "data.vocab_size=0", "run.dir=none")
        self.assert_error(outcome, 3, "a folder of nanoGPT", "set data.vocab_size", "meta.pkl")
        self.assertNotIn("as it is", outcome.err)  # which no folder is trained on
        self.assertEqual(self.losses("nano", data__validation="nano", **NUMBERS), wanted)
        self.write("llmc.bin", struct.pack("<256i", 20240801, 7, 2000, *[0] * 253) + TOKENS.astype("<u4").tobytes())
        self.assertEqual(self.losses("llmc.bin", **NUMBERS), wanted)

    def test_the_same_text_gives_the_same_losses_from_every_file(self):
        self.write("plain.txt", TEXT)
        wanted = self.losses("plain.txt")
        self.write("text.gz", gzip.compress(TEXT.encode()))
        lines = "".join(json.dumps({"id": i, "text": line}) + "\n" for i, line in enumerate(TEXT.split("\n")[:-1]))
        self.write("lines.jsonl", lines)
        self.write("lines.gz", gzip.compress(lines.encode()))
        for name in ("text.gz", "lines.jsonl", "lines.gz"):
            with self.subTest(name):
                self.assertEqual(self.losses(name), wanted)
        self.assertEqual(self.losses("text.gz", data__format="characters"), self.losses("plain.txt", data__format="characters"))
        self.write("other.jsonl", json.dumps({"content": TEXT}))
        self.write_tiny(data__train="other.jsonl", run__dir="other")
        self.assert_error(self.run_program("tiny.yaml"), 3, "no field 'text'", "'content'", "data.jsonl_field")
        self.assertEqual(self.losses("other.jsonl", data__jsonl_field="content"), wanted)

    def test_a_bomb_is_refused_with_its_sizes(self):
        self.write("bomb.gz", gzip.compress(bytes(5 << 20).replace(b"\0", b"a")))
        self.write_tiny(data__train="bomb.gz", data__expand_limit="4")
        self.assert_error(self.run_program("tiny.yaml"), 3, "bomb.gz", "expand to more than 4 MiB", "data.expand_limit")
        # A frame of zstd that asks for a window of 2 GiB, and one byte.
        self.write("wide.zst", b"\x28\xB5\x2F\xFD\x00\xA8\x09\x00\x00a")
        self.assert_error(self.run_program("tiny.yaml", "data.train=wide.zst"), 3, "wide.zst", "more than 128 MiB", "--long=31")

    def info(self, *args):
        outcome = self.run_program("data", "info", *args)
        self.assert_done(outcome)
        return outcome.out

    def test_info_says_what_a_file_is(self):
        self.save("rows.npy", TOKENS.astype("<i4").reshape(20, 100))
        said = self.info(self.path("rows.npy"))
        for part in ("NumPy array", "int32", "tokens       2000", "documents    20", f"largest token {TOKENS.max()}",
                     f"at least {TOKENS.max() + 1}", " ".join(map(str, TOKENS[:16]))):
            self.assertIn(part, said)
        self.write("lines.jsonl", '{"text": "caf\\u00e9"}\n{"text": "b"}\n')
        said = self.info(self.path("lines.jsonl"))
        for part in ("JSON lines", "documents    2", "8 as bytes", "7 as characters, of a vocabulary of 6", "café"):
            self.assertIn(part, said)
        self.write("raw.bin", TOKENS.astype("<u2").tobytes())
        self.assert_error(self.run_program("data", "info", self.path("raw.bin")), 3, "nothing is guessed", "data.format=uint16")
        said = self.info(self.path("raw.bin"), "data.format=uint16")
        self.assertIn("tokens       2000", said)
        self.assertIn("documents    unknown: data.document_end", said)
        parts = 1 + int((TOKENS[:-1] == 5).sum())
        self.assertIn(f"documents    {parts}\n", self.info(self.path("raw.bin"), "data.format=uint16", "data.document_end=5"))
        self.assert_error(self.run_program("data", "info", self.path("raw.bin"), "data.format=uint16", "data.document_end=<e>"), 2,
                          "name the number of the token")
        self.write("stories.txt", "one\n\ntwo\n\n\nthree\n")
        said = self.info(self.path("stories.txt"), r"data.document_end=\n\n")
        self.assertIn("documents    3\n", said)
        padding = 100 * (1 - (len("one\n\ntwo\n\n\nthree\n") - 3) / 512)  # a window with all but a byte of each
        self.assertIn(f"best_fit has {padding:.2f}% padding at a train.context of 512, ", said)
        self.write_tiny()
        self.assert_error(self.run_program("tiny.yaml", r"data.document_end=\x"), 2, "has a backslash that is none of")
        self.assert_done(self.run_program("train-tokenizer", "train.txt", "--vocab", "270", "-o", "t.json"))
        tokenizer = "data.tokenizer=" + self.path("t.json")
        self.assertRegex(self.info(self.path("train.txt"), tokenizer), r"\d+ as tokens of a vocabulary of 270, 1\.[1-9]")
        self.write("letters.bin", np.arange(32, 52, dtype="<u2").tobytes())  # the first tokens are bytes
        said = self.info(self.path("letters.bin"), tokenizer, "data.format=uint16")
        self.assertRegex(said, r"first +32 33 34 .*…\n +\S{16}\n")
        os.mkdir(self.path("nano"))
        for name in ("train", "val"):
            self.write(f"nano/{name}.bin", TOKENS.astype("<u2").tobytes())
        said = self.info(self.path("nano"))
        self.assertIn("nano/train.bin", said)
        self.assertIn("nano/val.bin", said)
        self.assert_error(self.run_program("data", "inform", "x"), 2, "info FILE")
        self.assert_error(self.run_program("data", "info", self.path("raw.bin"), "train.lr=1"), 2, "no key of data")


class Mix(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write("a.txt", "In the beginning God created the heaven and the earth. " * 40)
        self.write("b.txt", "abcdefgh" * 100)
        self.write("v.txt", "And the earth was without form, and void. " * 5)

    MIX = '[{path: a.txt, weight: 0.7}, {path: b.txt, weight: 0.3, name: "letters"}]'

    def rows(self, run):
        with open(self.path(f"{run}/metrics.jsonl")) as file:
            return [json.loads(line) for line in file]

    def test_metrics_have_the_loss_of_each_source_and_of_each_set(self):
        self.write_tiny(data__train=self.MIX, data__validation="[{path: v.txt, name: held}, {path: b.txt}]", run__dir="run",
                        train__steps="4", log__every="1", eval__every="4")
        outcome = self.run_program("tiny.yaml")
        self.assert_done(outcome)
        self.assertIn("70% of the windows", outcome.out + outcome.err)
        steps = [row for row in self.rows("run") if "loss" in row]
        windows = []  # of a.txt among the 8 of each step, as the losses say
        for row in steps:
            first, second = row["source_loss"]["a.txt"], row["source_loss"]["letters"]
            windows.append(8 * (row["loss"] - second) / (first - second))
            self.assertAlmostEqual(windows[-1], round(windows[-1]), places=2)  # sums in another order, of f32
        self.assertIn(round(sum(windows)), (22, 23))  # 0.7 of 32 is 22.4
        evaluations = [row["validation"] for row in self.rows("run") if "val_loss" in row]
        self.assertEqual(evaluations, ["held", "b.txt"])
        checkpoint = self.run_program("evaluate", "run")
        self.assert_done(checkpoint)
        self.assertIn("validation on held of step 4", checkpoint.out + checkpoint.err)

    def test_loads_of_each_source_are_those_of_its_windows(self):
        # dropped choices count, too; micro-batches and shards of two windows
        self.write_tiny(data__train=self.MIX, run__dir="run", train__steps="3", log__every="1", train__micro_batches="2",
                        train__shards="4", moe__capacity_factor="1", moe__record="routing.h5")
        self.assert_done(self.run_program("tiny.yaml"))
        with h5py.File(self.path("run/checkpoints/step-00000003.h5")) as file:
            loads, layers = file["utilization/source_load"][:], file["utilization/layers/source_load"][:, 0]
            self.assertTrue((file["utilization/routed"][:] + file["utilization/dropped"][:]).tolist() ==
                            loads.reshape(3, len(layers), 2, -1).sum(2).tolist())
        with h5py.File(self.path("routing.h5")) as file:
            chosen = {layer: file[f"layers/{layer}"][:].reshape(3, 8, -1) for layer in layers}  # by step and window
        shares = []
        for step, row in enumerate(row for row in self.rows("run") if "loss" in row):
            experts = loads.shape[2] // 2
            told = loads[step].reshape(len(layers), 2, experts)
            fits = []
            for of_letters in range(1 << 8):  # which of the windows are the letters'
                mask = np.array([of_letters >> window & 1 for window in range(8)], bool)
                if all(np.bincount(chosen[layer][step, mask == bool(source)].ravel(), minlength=experts).tolist() ==
                       told[i, source].tolist() for i, layer in enumerate(layers) for source in range(2)):
                    fits.append(mask)
            self.assertEqual(len(fits), 1)
            shares.append(int(fits[0].sum()))
            for source, name in enumerate(("a.txt", "letters")):
                own, all_of_them = told[:, source], told.sum(1)
                self.assertAlmostEqual(row["source_load_imbalance"][name], (own.max(1) / own.mean(1)).max(), places=6)
                apart = abs(own / own.sum(1, keepdims=True) - all_of_them / all_of_them.sum(1, keepdims=True)).sum(1) / 2
                self.assertAlmostEqual(row["source_load_distance"][name], apart.mean(), places=6)
        self.assertIn(sum(shares), (7, 8))  # 0.3 of 24 is 7.2
        self.write_tiny(data__train="a.txt", run__dir="alone")
        self.assert_done(self.run_program("tiny.yaml"))
        with h5py.File(self.path("alone/checkpoints/step-00000002.h5")) as file:
            self.assertNotIn("source_load", file["utilization"])

    def test_one_path_in_a_list_is_that_path(self):
        self.write_tiny(data__train="a.txt", run__dir="plain")
        self.assert_done(self.run_program("tiny.yaml"))
        plain = self.run_program("inspect", "--digest", "plain").out
        self.write_tiny(data__train="[{path: a.txt, weight: 3}]", run__dir="list")
        self.assert_done(self.run_program("tiny.yaml"))
        self.assertEqual(self.run_program("inspect", "--digest", "list").out, plain)
        printed = self.run_program("--print-config", "tiny.yaml", "data.train=[{path: a.txt}]").out
        self.assertIn(f'data.train: "{self.folder}/a.txt"', printed)

    def test_plan_tells_the_epochs_and_epochs_max_is_kept(self):
        self.write_tiny(data__train=self.MIX, train__steps="100")
        said = self.run_program("plan", "tiny.yaml", "-np", "1")
        self.assert_done(said)
        # 800 windows of 16 tokens: 560 of the 136 of a.txt, 240 of the 49 of b.txt.
        self.assertRegex(said.out, r"a\.txt +2200 tokens, +70\.0% of the windows, 4\.1[0-9] epochs")
        self.assertRegex(said.out, r"letters +800 tokens, +30\.0% of the windows, 4\.90 epochs")
        limited = self.MIX.replace("weight: 0.3", "weight: 0.3, epochs_max: 4")
        for words in (["tiny.yaml"], ["plan", "tiny.yaml", "-np", "1"]):
            self.assert_error(self.run_program(*words, f"data.train={limited}"), 2, "b.txt", "4.90 times", "epochs_max is 4")
        self.write_tiny(data__train="gone.txt")
        self.assertIn("not known", self.run_program("plan", "tiny.yaml", "-np", "1").out)

    def test_senseless_mixes_are_refused(self):
        for train, parts in (("[]", ["at least one file"]), ("[{path: a.txt}, {path: a.txt}]", ["two sources of the name a.txt"]),
                             ("[{path: a.txt, weight: 0}]", ["weight", "0.0001"]), ("[{weight: 1}]", ["'path' is missing"]),
                             ("[{path: a.txt, wieght: 1}]", ["did you mean 'weight'?"])):
            with self.subTest(train):
                self.write_tiny(data__train=train)
                self.assert_error(self.run_program("--print-config", "tiny.yaml"), 2, *parts)
        self.write_tiny(data__train=self.MIX, data__format="characters")
        self.assert_error(self.run_program("--print-config", "tiny.yaml"), 2, "one training text")

    def test_other_weights_hold_from_a_resume_on_and_other_files_are_other_data(self):
        self.write_tiny(data__train=self.MIX, run__dir="run")
        self.assert_done(self.run_program("tiny.yaml"))
        other = self.run_program("tiny.yaml", "train.steps=4", f"data.train={self.MIX.replace('b.txt', 'v.txt')}")
        self.assert_error(other, 3, "not the data")
        changed = self.MIX.replace("0.7", "0.2")
        # Of the first 16 windows 5 were the letters'; 0.6 of 80 more are 48, of 49 in an epoch.
        limited = changed.replace("weight: 0.3", "weight: 0.3, epochs_max: 1")
        before = sorted(os.listdir(self.path("run/checkpoints")))
        self.assert_error(self.run_program("tiny.yaml", "train.steps=12", f"data.train={limited}"), 2, "1.08 times")
        self.assertEqual(sorted(os.listdir(self.path("run/checkpoints"))), before)
        said = self.run_program("tiny.yaml", "train.steps=12", f"data.train={changed}")
        self.assert_done(said)
        self.assertIn("data after 2 steps: 40% a.txt, 60% letters of the windows (before: 70% a.txt, 30% letters)",
                      said.out + said.err)
        with h5py.File(self.path("run/checkpoints/step-00000012.h5")) as file:
            self.assertEqual(list(file["mix/shares"]), [2, 3])
            self.assertEqual([file["mix/begin"][0], *file["mix/before"]], [16, 11, 5])

    def test_a_curriculum_changes_the_weights_with_the_steps(self):
        later = "[{from: 3, source: letters, weight: 0}, {from: 5, source: letters, weight: 0.7}]"
        self.write_tiny(data__train=self.MIX, data__curriculum=later, run__dir="run", train__steps="7", log__every="1")
        said = self.run_program("plan", "tiny.yaml", "-np", "1")
        self.assert_done(said)
        # 24 windows at 0.7 to 0.3, 16 of a.txt, 16 at 0.5: 24.8 and 15.2 within 1 a range
        self.assertRegex(said.out, r"a\.txt .* 7[23]\.[0-9]% of the windows")
        for part in ("after 0        steps: 70% a.txt, 30% letters", "after 3        steps: 100% a.txt, 0% letters",
                     "after 5        steps: 50% a.txt, 50% letters"):
            self.assertIn(part, said.out)
        outcome = self.run_program("tiny.yaml")
        self.assert_done(outcome)
        self.assertIn("data after 3 steps: 100% a.txt, 0% letters", outcome.out + outcome.err)
        letters = [row["source_loss"]["letters"] for row in self.rows("run") if "loss" in row]
        self.assertEqual([loss is None for loss in letters], [False] * 3 + [True] * 2 + [False] * 2)
        for curriculum, part in (("[{from: 3, source: b.txt, weight: 1}]", "no source of data.train has that name"),
                                 ("[{from: 3, source: letters}]", "'weight' is missing"),
                                 ("[{from: 0, source: letters, weight: 0}, {from: 0, source: a.txt, weight: 0}]",
                                  "no source has a weight above 0")):
            self.assert_error(self.run_program("--print-config", "tiny.yaml", f"data.curriculum={curriculum}"), 2, part)


if __name__ == "__main__":
    main()
