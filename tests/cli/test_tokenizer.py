"""train-tokenizer and tokenize, as a user types them."""
import array
import base64
import gzip
import json
import os
import resource
import signal
import subprocess

from program import PROGRAM, ProgramTest, main

TEXT = "In the beginning God created the heaven and the earth.\nAnd the earth was without form, and void; 1 2 22\n"


class TokenizerCommands(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write("text.txt", TEXT * 30)
        self.train = ["train-tokenizer", "text.txt", "train.txt", "--vocab", "300"]

    def test_a_tokenizer_is_the_same_for_any_number_of_threads_and_tokens_become_text_again(self):
        for threads in ("1", "3"):
            self.assert_done(self.run_program(*self.train, "--threads", threads, "-o", f"t{threads}.json",
                                              "--pattern", "qwen2", "--special", "<|end|>,<|pad|>"))
        files = self.snapshot()
        self.assertEqual(files["t1.json"], files["t3.json"])
        tokenizer = json.loads(files["t1.json"])
        self.assertEqual(tokenizer["normalizer"], {"type": "NFC"})
        self.assertEqual([row["content"] for row in tokenizer["added_tokens"]], ["<|end|>", "<|pad|>"])
        self.assertEqual(len(tokenizer["model"]["vocab"]), 300)

        self.write("new.txt", b"Something else, <|end|>\xff and the\0earth")
        outcome = self.run_program("tokenize", "new.txt", "--tokenizer", "t1.json", "-o", "new.bin")
        self.assert_done(outcome)
        self.assertIn("data.format=uint16 data.vocab_size=300 data.bytes_per_token=", outcome.out)
        printed = self.run_program("tokenize", "new.txt", "--tokenizer", "t1.json")
        self.assert_done(printed)
        with open(self.path("new.bin"), "rb") as file:
            tokens = list(array.array("H", file.read()))
        self.assertEqual([int(word) for word in printed.out.split()], tokens)
        self.assertIn(0, tokens)
        self.assert_done(self.run_program("tokenize", "--decode", "new.bin", "--tokenizer", "t1.json", "-o", "back.txt"))
        files = self.snapshot()
        self.assertEqual(files["back.txt"], files["new.txt"])
        self.assertEqual(sorted(name for name in files if "tmp" in name), [])

    def test_a_pipe_gives_what_a_file_gives(self):
        self.assert_done(self.run_program(*self.train, "-o", "t.json"))
        # Pieces of a mebibyte: lines to cut at, then one that is longer than a piece.
        text = TEXT * 12000 + "abc def " * 200000 + "\nThe end"
        self.write("long.txt", text)
        use = ["--tokenizer", "t.json"]
        self.assert_done(self.run_program("tokenize", "long.txt", *use, "-o", "long.bin"))
        said = self.run_program("tokenize", "-", *use, "-o", "piped.bin", stdin=text)
        self.assert_done(said)
        self.assertIn(f"tokens of {len(text)} bytes", said.out)
        files = self.snapshot()
        self.assertEqual(files["piped.bin"], files["long.bin"])
        # With a space before the text nothing may be cut.
        self.write("space.json", self.snapshot()["t.json"].replace(b'"add_prefix_space": false', b'"add_prefix_space": true'))
        self.assert_done(self.run_program("tokenize", "long.txt", "--tokenizer", "space.json", "-o", "space.bin"))
        self.assertEqual(self.run_bytes("tokenize", "-", "--tokenizer", "space.json", "-o", "-", stdin=text.encode()),
                         self.snapshot()["space.bin"])
        self.assertNotEqual(self.snapshot()["space.bin"], files["long.bin"])
        printed = self.run_program("tokenize", "-", *use, stdin=TEXT).out
        self.assertEqual([int(word) for word in printed.split()], list(array.array("H", self.run_bytes(
            "tokenize", "-", *use, "-o", "-", stdin=TEXT.encode()))))
        tokens = self.run_bytes("tokenize", "-", *use, "-o", "-", stdin=text.encode())
        self.assertEqual(tokens, files["long.bin"])
        self.assertEqual(self.run_bytes("tokenize", "--decode", "-", *use, stdin=tokens), text.encode())
        self.assertEqual(self.run_bytes("tokenize", "--decode", "long.bin", *use, "-o", "-"), text.encode())
        self.assert_error(self.run_program("tokenize", "-", *use), 3, "standard input: is empty")
        self.assert_error(self.run_program("tokenize", "--decode", "-", *use, stdin="\1\0\1"), 3, "standard input: 3 bytes are not whole")
        self.assert_error(self.run_program("tokenize", "--decode", "-", *use, stdin="ab"), 3, "token 25185 at byte 0")

    def test_texts_are_recognised_as_data_is(self):
        self.assert_done(self.run_program(*self.train, "-o", "t.json"))
        # A space before each document tells them apart.
        self.write("space.json", self.snapshot()["t.json"].replace(b'"add_prefix_space": false', b'"add_prefix_space": true'))
        use = ["--tokenizer", "space.json"]
        documents = ["In the beginning", "God created the heaven\n", "\u00fc"]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
        self.write("lines.jsonl", lines)
        self.write("lines.gz", gzip.compress(lines.encode()))
        self.write("text.gz", gzip.compress((TEXT * 30).encode()))
        apart = [self.run_program("tokenize", "-", *use, stdin=text.rstrip() + "\n").out.split() for text in documents]
        for name in ("lines.jsonl", "lines.gz"):
            printed = self.run_program("tokenize", name, *use)
            self.assert_done(printed)
            self.assertEqual(printed.out.split(), sum(apart, []), name)
        whole = self.run_bytes("tokenize", "text.txt", *use, "-o", "-")
        self.assertEqual(self.run_bytes("tokenize", "text.gz", *use, "-o", "-"), whole)
        train = ["train-tokenizer", "text.gz", "train.txt", "--vocab", "300", "-o", "again.json"]
        self.assert_done(self.run_program(*train))
        self.assertEqual(self.snapshot()["again.json"], self.snapshot()["t.json"])
        self.write("tokens.npy", b"\x93NUMPY\1\0\x46\0" + b"{'descr': '<u2', 'fortran_order': False, 'shape': (2,)}".ljust(69)
                   + b"\n\1\0\2\0")
        for words in (["tokenize", "tokens.npy", *use], [*train[:1], "tokens.npy", *train[2:]]):
            self.assert_error(self.run_program(*words), 3, "tokens.npy: is", "NumPy", "a text is read here")
        packed = subprocess.run([PROGRAM, "tokenize", "-", *use], cwd=self.folder, capture_output=True,
                                input=gzip.compress(TEXT.encode()))
        self.assertEqual((packed.returncode, packed.stdout), (3, b""))
        self.assertIn(b"standard input: is compressed; unpack it first", packed.stderr)

    def test_a_full_disk_is_said_by_the_file_and_leaves_none(self):
        self.assert_done(self.run_program(*self.train, "-o", "t.json"))
        use = ["--tokenizer", "t.json"]
        self.assert_done(self.run_program("tokenize", "train.txt", *use, "-o", "train.bin"))
        before = sorted(os.listdir(self.folder))

        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        for words in (["tokenize", "train.txt", *use, "-o", "new"], ["tokenize", "--decode", "train.bin", *use, "-o", "new"],
                      [*self.train, "-o", "new"]):
            done = subprocess.run([PROGRAM, *words], cwd=self.folder, capture_output=True, preexec_fn=small_files)
            self.assertEqual(done.returncode, 5, done.stderr)
            self.assertRegex(done.stderr, rb"error: new[.0-9a-z]*: cannot write.*: File too large\n")
            self.assertEqual(sorted(os.listdir(self.folder)), before)
        for words in (["train.txt"], ["train.txt", "-o", "-"], ["--decode", "train.bin"]):
            with open("/dev/full", "w") as full:
                done = subprocess.run([PROGRAM, "tokenize", *use, *words], cwd=self.folder, stdout=full, stderr=subprocess.PIPE)
            self.assertEqual(done.returncode, 5, done.stderr)
            self.assertIn(b"No space left on device\n", done.stderr)

    def run_bytes(self, *args, stdin=b""):
        return subprocess.run([PROGRAM, *args], cwd=self.folder, input=stdin, stdout=subprocess.PIPE, check=True).stdout

    def test_ranks_of_tiktoken_become_a_tokenizer(self):
        ranks = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" the"]
        self.write("ranks.tiktoken", b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(ranks)))
        self.write("short.txt", "the the<|end|>")
        convert = ["convert-tokenizer", "ranks.tiktoken", "-o", "t.json"]
        self.assert_error(self.run_program(*convert), 2, "needs --pattern NAME")
        self.assert_done(self.run_program(*convert, "--pattern", "llama3", "--special", "<|pad|>,<|end|>"))
        outcome = self.run_program("tokenize", "short.txt", "--tokenizer", "t.json")
        self.assertEqual(outcome.out, "257 258 260\n")
        outcome = self.run_program("tokenize", "short.txt", "--tokenizer", "ranks.tiktoken", "--pattern", "llama3")
        self.assertEqual(outcome.out.split()[:2], ["257", "258"])
        self.assert_error(self.run_program("convert-tokenizer", "t.json", "--pattern", "gpt2", "-o", "u.json"), 3, "no conversion")

    def test_wrong_words_and_files_are_told_apart(self):
        self.assert_error(self.run_program("train-tokenizer", "text.txt", "-o", "t.json"), 2, "needs --vocab N")
        self.assert_error(self.run_program(*self.train), 2, "needs -o FILE")
        nowhere = self.run_program(*self.train, "-o", "none/t.json")
        self.assert_error(nowhere, 5, "none/t.json: cannot be made in none: No such file or directory; make that folder")
        self.assertNotIn("counted", nowhere.out)  # before the work
        self.assert_error(self.run_program(*self.train, "-o", "t.json", "--pattern", "gpt5"), 2, "'gpt5'", "gpt2, llama3")
        self.assert_error(self.run_program("train-tokenizer", "text.txt", "--vocab", "9", "-o", "t.json"), 2, "from 256")
        self.assert_error(self.run_program("train-tokenizer", "text.txt", "--vocab", "256", "-o", "t.json"), 2, "at least 257")
        self.assert_error(self.run_program("train-tokenizer", "no.txt", "--vocab", "300", "-o", "t.json"), 3, "no.txt")
        self.assert_error(self.run_program(*self.train, "-o", "no/t.json"), 5, "no/t.json")
        self.assert_error(self.run_program("tokenize", "text.txt"), 2, "needs --tokenizer FILE")
        self.assert_error(self.run_program("tokenize", "text.txt", "--tokenizer", "text.txt"), 3, "text.txt", "name the pattern")
        self.write("bad.json", "{\"normalizer\": {\"type\": \"Lowercase\"}}")
        self.assert_error(self.run_program("tokenize", "text.txt", "--tokenizer", "bad.json"), 3, "bad.json: normalizer is")
        self.assertEqual([name for name in os.listdir(self.folder) if name.startswith("t.json")], [])


class TrainingWithATokenizer(ProgramTest):
    def setUp(self):
        super().setUp()
        with open(__file__) as file:  # a text with enough pairs
            self.write("train.txt", file.read())

    def tokenizer(self, name, *options):
        self.assert_done(self.run_program("train-tokenizer", "train.txt", "--vocab", "300", "-o", name, *options))

    def digest(self, run):
        outcome = self.run_program("inspect", "--digest", run)
        self.assert_done(outcome)
        return outcome.out

    def test_text_becomes_tokens_once_and_a_checkpoint_carries_the_tokenizer(self):
        self.tokenizer("t.json")
        self.write("held-out.txt", TEXT)
        self.write_tiny(data__tokenizer="t.json", data__validation="held-out.txt", eval__every="1")
        first = self.run_program("tiny.yaml", "run.dir=one")
        self.assert_done(first)
        self.assertIn("vocabulary 300", first.out)
        self.assertEqual(first.out.count("kept in"), 2)
        tokens = sorted(os.listdir(self.path("one/tokens")))
        self.assertEqual(len(tokens), 2)
        self.assert_done(self.run_program("tiny.yaml", "run.dir=two", ranks=2))
        self.assertEqual(self.digest("one"), self.digest("two"))
        self.assertEqual(sorted(os.listdir(self.path("two/tokens"))), tokens)
        again = self.run_program("tiny.yaml", "run.dir=one", "train.steps=3")
        self.assert_done(again)
        self.assertNotIn("kept in", again.out)

        tokenizer = self.snapshot()["t.json"]
        os.remove(self.path("t.json"))  # the checkpoint has it
        bits = again.out.split(" bits per byte")[0].split()[-1]
        evaluated = self.run_program("evaluate", "one")
        self.assert_done(evaluated)
        self.assertIn(f", {bits} bits per byte, ", evaluated.out)
        generated = self.run_program("generate", "one", "--prompt", "Größe \N{EURO SIGN}", "--tokens", "8")
        self.assert_done(generated)
        self.assertTrue(generated.out.startswith("Größe \N{EURO SIGN}"), generated.out)
        self.assert_done(self.run_program("export", "hf", "one", "folder"))
        self.assertEqual(self.snapshot()["folder/tokenizer.json"], tokenizer)
        self.assert_done(self.run_program("import", "hf", "folder", "back.h5"))
        greedy = ["--prompt", "self.", "--tokens", "9", "--temperature", "0"]
        self.assertEqual(self.run_program("generate", "one", *greedy).out, self.run_program("generate", "back.h5", *greedy).out)
        self.write("folder/tokenizer.json", tokenizer.replace(b'"ByteLevel"', b'"Metaspace"', 1))
        outcome = self.run_program("import", "hf", "folder", "numbers.h5")
        self.assert_done(outcome)
        self.assertIn("which this program does not honour", outcome.err)
        self.assertIn("data.format: uint16", self.snapshot()["numbers.yaml"].decode())
        self.assert_error(self.run_program("evaluate", "one", "data.tokenizer=x.json"), 2, "the tokenizer of", "leave")

        self.tokenizer("t.json", "--special", "<s>")
        for words in (["run.dir=one", "train.steps=4"], ["run.dir=new", "init=one/checkpoints/step-00000003.h5"]):
            self.assert_error(self.run_program("tiny.yaml", *words), 4, "t.json: not the tokenizer", "step-00000003.h5", "name that")

    def test_a_text_may_have_more_tokens_than_bytes(self):
        self.tokenizer("t.json")
        self.write("space.json", self.snapshot()["t.json"].replace(b'"add_prefix_space": false', b'"add_prefix_space": true'))
        self.write_tiny(data__tokenizer="space.json")
        self.assert_done(self.run_program("tiny.yaml", "run.dir=run"))
        letter = "\u0958"  # which NFC takes apart, from three bytes to six
        for prompt in ("Q", letter):
            self.assert_done(self.run_program("generate", "run", "--prompt", prompt, "--tokens", "2"))
        self.write("questions.jsonl", json.dumps({"context": letter, "choices": ["Q", letter], "gold": 0}) + "\n")
        self.assert_done(self.run_program("evaluate", "run", "--choices", "questions.jsonl"))

    def test_what_does_not_belong_to_a_tokenizer_is_refused(self):
        self.tokenizer("t.json")
        self.write_tiny(data__tokenizer="t.json")
        self.assert_error(self.run_program("tiny.yaml", "data.format=bytes"), 2, "data.format (bytes) says otherwise")
        self.assert_error(self.run_program("tiny.yaml", "data.tokenizer=", "data.format=tokenizer"), 2, "needs data.tokenizer")
        self.assert_error(self.run_program("tiny.yaml", "data.vocab_size=299"), 2, "has 300 tokens")
        self.assert_error(self.run_program("tiny.yaml", "data.tokenizer=train.txt"), 3, "data.tokenizer: ", "train.txt: is no tok")
        outcome = self.run_program("tiny.yaml", "data.vocab_size=320", "run.dir=wide")
        self.assert_done(outcome)
        self.assertIn("vocabulary 320", outcome.out)
        self.assert_done(self.run_program("generate", "wide", "--tokens", "9"))


if __name__ == "__main__":
    main()
