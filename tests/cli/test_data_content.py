"""Data files that are something else than they are taken for, in training and validation."""
import gzip
import random
import struct

from program import ProgramTest, main

RANDOM = random.Random(1)
TOKENS = [min(int(RANDOM.paretovariate(0.4)) - 1, 50256) for _ in range(2000)]
UINT16 = struct.pack("<2000H", *TOKENS)
INT32 = struct.pack("<2000i", *TOKENS)
TEXT = b"In the beginning God created the heaven and the earth. " * 40
LLMC = struct.pack("<256i", 20240520, 1, 2000, *[0] * 253) + UINT16
NUMPY = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<u2', 'fortran_order': False, 'shape': (2000,), }".ljust(117) + b"\n" + UINT16
NUMBERS = {"data__vocab_size": "50257"}

# What is the matter, the file's name, its bytes, what else is configured, what the error names.
AS_TEXT = [
    ("NumPy array", "tokens.npy", NUMPY, ["NumPy array", "set data.vocab_size", "data.format=bytes"]),
    ("compressed numbers", "text.txt.gz", gzip.compress(UINT16), ["binary data, compressed", "gunzip"]),
    ("llm.c", "llmc.dat", LLMC, ["llm.c", "set data.vocab_size"]),
    ("UTF-16", "text.txt", TEXT.decode().encode("utf-16"), ["UTF-16", "iconv"]),
    ("token numbers", "tokens.dat", UINT16, ["uint16", "is read as text", "data.format=uint16"]),
    ("token numbers of 4 bytes", "tokens.dat", INT32, ["int32", "data.format=uint32"]),
]
AS_NUMBERS = [
    ("NumPy array", "tokens.npy", NUMPY[:-1], ["2000 numbers of 2 bytes", "3999 bytes"]),
    ("gzip", "tokens.bin", gzip.compress(UINT16), ["gzip"]),
    ("llm.c", "llmc.bin", LLMC[:-2], ["2000 tokens of 2 bytes", "3998 bytes"]),
    ("text", "text.bin", TEXT, ["is text", "uint16", "data.format=bytes"]),
    ("int32", "tokens.bin", INT32, ["int32", "set data.format=uint32"]),
    ("int64", "tokens.bin", struct.pack("<2000q", *TOKENS), ["int64", "np.fromfile('FILE', '<i8')"]),
    ("big-endian", "tokens.bin", struct.pack(">2000H", *TOKENS), ["big-endian", "'>u2'"]),
]


class Content(ProgramTest):
    def refuse(self, kinds, key, **changes):
        for what, name, content, parts in kinds:
            with self.subTest(what=what, key=key):
                self.write(name, content)
                self.write_tiny(**{**changes, key: name})
                self.assert_error(self.run_program("tiny.yaml"), 3, name, *parts)

    def test_training_text_that_is_something_else(self):
        self.refuse(AS_TEXT, "data__train")
        self.refuse(AS_TEXT[3:5], "data__train", data__format="characters")

    def test_training_tokens_that_are_something_else(self):
        self.refuse(AS_NUMBERS, "data__train", data__format="uint16", **NUMBERS)

    def test_validation_is_judged_by_its_own_content(self):
        self.refuse(AS_TEXT[:1] + AS_TEXT[4:5], "data__validation")
        self.write("train.bin", UINT16)
        self.refuse(AS_NUMBERS[2:5], "data__validation", data__train="train.bin", **NUMBERS)

    def test_a_path_that_is_no_file_is_told_what_to_name(self):
        for path, part in (("text/*.txt", "with cat"), ("a.txt,b.txt", "with cat"), ("$HOME/a.txt", "variables"),
                           ("https://example.org/a.txt", "download"), (".", "name one file in it")):
            with self.subTest(path):
                self.write_tiny(data__train=f'"{path}"')
                self.assert_error(self.run_program("tiny.yaml"), 3, part)

    def test_one_error_under_mpirun(self):
        self.write("train.bin", INT32)
        self.write_tiny(data__train="train.bin", **NUMBERS)
        self.assert_error(self.run_program("tiny.yaml", ranks=2), 3, "train.bin", "int32")

    def test_bytes_by_name_and_files_that_are_not_to_be_checked_are_trained_on(self):
        self.write("any.npy", NUMPY)
        self.write_tiny(data__train="any.npy", data__validation="any.npy", data__format="bytes", train__steps="1")
        self.assert_done(self.run_program("tiny.yaml"))
        self.write("pairs.bin", struct.pack("<2000H", *[number for pair in zip(TOKENS, [0] * 1000) for number in pair]))
        self.write_tiny(data__train="pairs.bin", train__steps="1", run__dir="other", **NUMBERS)
        self.assert_error(self.run_program("tiny.yaml"), 3, "int32", "data.check=false")
        self.assert_done(self.run_program("tiny.yaml", "data.check=false"))

    def test_honest_files_are_trained_on(self):
        for name, content, changes in (
                ("u16.bin", UINT16, NUMBERS), ("u32.dat", INT32, dict(NUMBERS, data__format="uint32")),
                ("latin.txt", "Gr\xf6\xdfe und \xc7a va. ".encode("latin-1") * 50, {}),
                ("small.bin", struct.pack("<40H", *TOKENS[:40]), NUMBERS)):
            with self.subTest(name):
                self.write(name, content)
                self.write_tiny(data__train=name, run__dir=name + ".run", train__steps="1", **changes)
                self.assert_done(self.run_program("tiny.yaml"))


if __name__ == "__main__":
    main()
