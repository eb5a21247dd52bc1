"""Wrong data, folders and checkpoints: one error from rank 0, the documented exit code, nothing overwritten."""
import os
import struct

import h5py

from program import ProgramTest, main


class RefusalTest(ProgramTest):
    def assert_refused(self, code, *parts, config="tiny.yaml", overrides=()):
        """On one rank and on two; the files stay as they are."""
        before = self.snapshot()
        for ranks in (None, 2):
            with self.subTest(ranks=ranks):
                self.assert_error(self.run_program(config, *overrides, ranks=ranks), code, *parts)
                self.assertEqual(self.snapshot(), before)


class BadInput(RefusalTest):
    def test_missing_training_data(self):
        self.write_tiny(data__train="none.txt")
        self.assert_refused(3, "none.txt", "No such file")

    def test_empty_training_data(self):
        self.write("train.txt", "")
        self.write_tiny()
        self.assert_refused(3, "train.txt", "empty")

    def test_a_folder_as_training_data(self):
        os.mkdir(self.path("folder"))
        self.write_tiny(data__train="folder")
        self.assert_refused(3, "folder")

    def test_training_data_shorter_than_a_sequence(self):
        self.write("train.txt", "too short")
        self.write_tiny()
        self.assert_refused(3, "train.txt", "9", "16")

    def test_missing_validation_data(self):
        self.write_tiny(data__validation="none.txt")
        self.assert_refused(3, "none.txt", "No such file")

    def test_token_outside_the_vocabulary(self):
        tokens = [1, 2, 3] * 200
        tokens[457] = 99  # byte 914
        self.write("train.bin", struct.pack("<600H", *tokens))
        self.write_tiny(data__train="train.bin", data__vocab_size="50")
        self.assert_refused(3, "train.bin", "byte 914", "token 99", "50")

    def test_token_file_of_odd_length(self):
        self.write("train.bin", b"\0" * 1001)
        self.write_tiny(data__train="train.bin", data__vocab_size="50")
        self.assert_refused(3, "train.bin", "1001")

    def test_broken_characters(self):
        self.write("train.txt", b"abc" * 200 + b"\xff" + b"abc" * 200)
        self.write_tiny(data__format="characters")
        self.assert_refused(3, "train.txt", "600")

    def test_a_run_folder_that_cannot_be_made(self):
        self.write("file", "in the way")
        self.write_tiny(run__dir="file/run")
        self.assert_refused(5, "file")

    def test_a_run_folder_that_is_a_file(self):
        self.write("file", "in the way")
        self.write_tiny(run__dir="file")
        self.assert_refused(5, "file")

    def test_device_that_is_not_built_in(self):
        self.write_tiny(device="cuda")
        self.assert_refused(7, "CUDA", "device: cpu")

    def test_must_resume_without_a_checkpoint(self):
        self.write_tiny(resume="must")
        self.assert_refused(4, "checkpoint")

    def test_resume_from_a_missing_checkpoint(self):
        self.write_tiny(resume="none.h5")
        self.assert_refused(4, "none.h5")


class BadCheckpoint(RefusalTest):
    def setUp(self):
        super().setUp()
        self.write_tiny()
        self.assert_done(self.run_program("tiny.yaml"))
        self.checkpoint = "runs/tiny/checkpoints/step-00000002.h5"

    def test_checkpoint_of_another_shape(self):
        self.assert_refused(2, "step-00000002.h5", "model.d_model 16 -> 32", "another run.dir", "resume.allow does not help",
                            overrides=["model.d_model=32", "train.steps=4"])
        self.assert_refused(2, "step-00000002.h5", "model.d_model 16 -> 32", "resume.allow does not help, as tensors differ",
                            overrides=["model.d_model=32", "train.steps=4", "resume.allow=model.d_model"])

    def test_checkpoint_of_other_data(self):
        self.write("train.txt", "Another text. " * 200)
        self.assert_refused(3, "train.txt", "step-00000002.h5", overrides=["train.steps=4"])

    def test_damaged_checkpoint_and_no_other(self):
        """A bit of a parameter: generation does not look at the optimizer's moments."""
        path = self.path(self.checkpoint)
        with h5py.File(path) as file:
            place = file["parameters/embedding"].id.get_offset()
        with open(path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        self.assert_refused(4, "checkpoints", "usable", overrides=["train.steps=4"])
        self.assert_error(self.run_program("inspect", "--digest", self.checkpoint), 4, "step-00000002.h5")
        self.assert_error(self.run_program("generate", self.checkpoint), 4, "step-00000002.h5")

    def test_text_as_a_checkpoint(self):
        self.write("text.h5", "not HDF5 at all " * 100)
        for args in (["inspect", "text.h5"], ["generate", "text.h5"], ["evaluate", "text.h5"]):
            self.assert_error(self.run_program(*args), 4, "text.h5")

    def test_evaluation_without_validation_data(self):
        self.assert_error(self.run_program("evaluate", self.checkpoint), 2, "data.validation")

    def test_generation_on_two_ranks(self):
        self.assert_error(self.run_program("generate", self.checkpoint, ranks=2), 2, "rank")


if __name__ == "__main__":
    main()
