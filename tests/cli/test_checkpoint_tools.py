"""moetrain checkpoint verify, diff, export-npz, prune."""
import os
import zipfile

from program import ProgramTest, main

try:
    import numpy
except ImportError:
    numpy = None


class CheckpointTools(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write_tiny(checkpoint__every=1, checkpoint__keep_last=0, train__steps=6, train__ema=0.9,
                        checkpoint__keep_every=3, eval__every=0)
        self.assert_done(self.run_program("tiny.yaml", "run.dir=run"))

    def step(self, step):
        return self.path(f"run/checkpoints/step-{step:08}.h5")

    def steps(self):
        return [int(name[5:13]) for name in sorted(os.listdir(self.path("run/checkpoints"))) if name.endswith(".h5")]

    def damage(self, step, at=None):
        with open(self.step(step), "r+b") as file:
            file.seek(at or os.path.getsize(self.step(step)) // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 16]))

    def test_verify_tells_of_each_file(self):
        whole = self.run_program("checkpoint", "verify", "run")
        self.assert_done(whole)
        digest = self.run_program("inspect", "--digest", self.step(4)).out.strip()
        self.assertIn(f"step-00000004.h5: step 4 holds, digest {digest}", whole.out)
        self.assertEqual(whole.out.count(" holds, "), 6)
        self.damage(5)
        damaged = self.run_program("checkpoint", "verify", "run")
        self.assert_error(damaged, 4, "1 of the 6 checkpoints", "damaged")
        self.assertEqual(damaged.out.count(" holds, "), 5)
        self.assert_error(self.run_program("checkpoint", "verify", self.step(5)), 4, "step-00000005.h5", "damaged")
        os.remove(self.step(5))
        os.symlink("nowhere", self.step(5))
        self.assertEqual(self.run_program("checkpoint", "verify", "run").code, 4)  # gone
        os.remove(self.step(5))
        os.symlink("step-00000005.h5", self.step(5))  # a circle cannot be read: nothing is said of its bytes
        self.assertEqual(self.run_program("checkpoint", "verify", "run").code, 5)

    def test_diff_tells_what_differs(self):
        same = self.run_program("checkpoint", "diff", self.step(2), self.step(2))
        self.assert_done(same)
        self.assertIn("nothing differs", same.out)
        other = self.run_program("checkpoint", "diff", self.step(2), "run")
        self.assertEqual(other.code, 1, other)
        for part in ("state/step: 2 -> 6", "parameters/embedding: ", "elements differ, by ", "optimizer/m/"):
            self.assertIn(part, other.out)
        self.assert_done(self.run_program("tiny.yaml", "run.dir=wide", "model.d_model=32", "train.ema=0"))
        wide = self.run_program("checkpoint", "diff", "run", "wide")
        self.assertEqual(wide.code, 1, wide)
        for part in ("model.d_model 16 -> 32", "parameters/embedding: f32 (256, 16, 1) -> f32 (256, 32, 1)",
                     "ema/embedding: only in the first"):
            self.assertIn(part, wide.out)
        self.damage(2)
        self.assert_error(self.run_program("checkpoint", "diff", self.step(2), "run"), 4, "damaged")

    def test_export_is_what_numpy_reads(self):
        self.assert_done(self.run_program("checkpoint", "export-npz", "run", "out.npz"))
        with zipfile.ZipFile(self.path("out.npz")) as archive:
            self.assertIsNone(archive.testzip())  # every checksum
            names = archive.namelist()
            embedding = archive.read("parameters/embedding.npy")[256:]
        self.assertIn("parameters/embedding.npy", names)
        self.assertIn("ema/embedding.npy", names)
        self.assertFalse([name for name in names if name.startswith(("optimizer", "state", "about"))])
        self.assert_error(self.run_program("checkpoint", "export-npz", "run", "out.npz"), 5, "out.npz exists")
        with open(self.step(6), "rb") as file:
            self.damage(6, file.read().index(embedding) + 5)
        self.assert_error(self.run_program("checkpoint", "export-npz", self.step(6), "new.npz"), 4, "damaged")
        self.assertFalse([name for name in os.listdir(self.folder) if name.startswith("new")])
        if numpy is None:
            self.skipTest("no numpy")
        arrays = numpy.load(self.path("out.npz"))
        self.assertEqual(arrays["parameters/embedding"].shape, (256, 16))
        self.assertEqual(arrays["parameters/embedding"].dtype, numpy.float32)
        self.assertTrue(all(numpy.isfinite(arrays[name]).all() for name in arrays.files))

    def test_an_export_into_no_folder_says_which(self):
        self.assert_error(self.run_program("checkpoint", "export-npz", "run", "none/x.npz"), 5,
                          "none/x.npz: cannot be made in none: No such file or directory; make that folder")

    def test_prune_never_removes_the_newest_that_holds(self):
        self.damage(6)
        pruned = self.run_program("checkpoint", "prune", "run", "--keep-last", "1", "--keep-every", "2")
        self.assert_done(pruned)
        self.assertIn("step-00000006.h5", pruned.out)
        self.assertEqual(self.steps(), [2, 4, 5, 6])  # 6 is damaged and left alone
        self.damage(2), self.damage(4), self.damage(5)
        none = self.run_program("checkpoint", "prune", "run", "--keep-last", "1")
        self.assert_error(none, 4, "none of the 4", "none is removed")
        self.assertEqual(self.steps(), [2, 4, 5, 6])

    def test_a_run_keeps_multiples_of_keep_every(self):
        self.assert_done(self.run_program("tiny.yaml", "run.dir=kept", "checkpoint.keep_last=1"))
        names = sorted(name for name in os.listdir(self.path("kept/checkpoints")) if name.endswith(".h5"))
        self.assertEqual(names, ["step-00000003.h5", "step-00000006.h5"])

    def test_what_is_not_there_is_said_with_the_way_out(self):
        for verb, more in (("verify", []), ("diff", ["run"]), ("export-npz", ["out.npz"]), ("prune", ["--keep-last", "1"])):
            with self.subTest(verb):
                self.assert_error(self.run_program("checkpoint", verb, "nowhere", *more), 4, "nowhere",
                                  "RUN/checkpoints/step-00000100.h5", "a run's folder")

    def test_wrong_lines_are_explained(self):
        for args, parts in ((["verfy", "run"], ["verfy", "did you mean 'verify'"]), (["diff", "run"], ["two checkpoints"]),
                            (["prune", "run"], ["--keep-last"]), (["verify", "run", "--keep-last", "1"], ["prune"]),
                            (["prune", "run", "--keep-last", "0"], ["--keep-last", "'0'"]),
                            (["verify", "run", "run"], ["checkpoint verify needs"]), ([], ["verify, diff"])):
            with self.subTest(args):
                self.assert_error(self.run_program("checkpoint", *args), 2, "command line", *parts)


main()
