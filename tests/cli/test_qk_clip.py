"""QK-clip: which rows of which parameters a step scales, and by how much."""
import h5py
import numpy

from program import main
from run_test import RUN, RunTest

HEADS, KV_HEADS, D_HEAD = 4, 2, 4


class QueryKeyClip(RunTest):
    def setUp(self):
        super().setUp()
        # Each window is the same, so that a second step sees the scores of the first again. Weights move so little that
        # these stay, but biases are zero no longer.
        self.write("train.txt", "abcdefghijklmnop" * 200)
        self.write_tiny(**dict(RUN, train__steps="1", checkpoint__every="1", train__lr="1e-7", train__min_lr="0",
                               attention__heads=str(HEADS), attention__kv_heads=str(KV_HEADS), model__bias="true",
                               model__init_std="0.5"))

    def read(self, run, step):
        with h5py.File(self.path(self.step(run, step))) as file:
            values = {}
            file["parameters"].visititems(lambda path, item: values.update({path: item[()]})
                                          if isinstance(item, h5py.Dataset) else None)
            return values, file["utilization/max_attention_logit"][-1]

    def test_rows_of_a_group_are_scaled_by_the_root_of_what_is_too_much(self):
        for precision in ("f32", "bf16"):
            keys = ["attention.max_logits=true", f"train.precision={precision}"]
            self.train(f"a{precision}", *keys)
            before, scores = self.read(f"a{precision}", 1)
            threshold = float(scores.max()) * 0.65  # some heads lie above it, some below
            self.assertGreater(threshold, 0)
            self.train(f"b{precision}", *keys, f"train.qk_clip={threshold!r}", "train.steps=2")
            after, same = self.read(f"b{precision}", 1)
            self.assertTrue((same == scores).all())
            clipped = 0
            for layer, largest in enumerate(scores):
                groups = largest.reshape(KV_HEADS, -1).max(axis=1)
                gamma = numpy.where(groups > threshold, threshold / groups, 1)
                clipped += (gamma < 1).sum()
                queries = numpy.repeat(gamma, HEADS // KV_HEADS * D_HEAD)
                factors = numpy.concatenate([queries, numpy.repeat(gamma, D_HEAD), numpy.ones(KV_HEADS * D_HEAD)]) ** 0.5
                name = f"layers.{layer}.attention.qkv"
                for part, factor in ((name, factors[:, None]), (f"{name}.bias", factors)):
                    want = before.pop(part) * factor
                    got = after.pop(part)
                    # a rounding of the factor and one of the product
                    self.assertLessEqual((numpy.abs(got - want) / numpy.maximum(numpy.abs(want), 1e-30)).max(), 2**-22)
            self.assertIn(clipped, range(1, scores.shape[0] * KV_HEADS))
            self.assertGreater(numpy.count_nonzero(want), 0)  # of the last part, a bias
            for name, value in before.items():
                self.assertTrue((after[name] == value).all(), name)
            # The matrices' bf16 copy was refreshed: the same tokens have scores up to the threshold, but for rounding, in
            # the first layer, whose input no clipped score has changed.
            rounding = 1e-5 if precision == "f32" else 0.03
            _, again = self.read(f"b{precision}", 2)
            self.assertLessEqual(again[0].max(), threshold * (1 + rounding))

    def test_off_and_out_of_reach_are_one(self):
        self.train("off", "train.lr=0.001")
        self.train("far", "train.lr=0.001", "train.qk_clip=1000")
        digests = [self.run_program("inspect", run).out for run in ("off", "far")]
        self.assertNotIn("max_attention_logit", digests[0])
        with h5py.File(self.path(self.step("off", 1))) as off, h5py.File(self.path(self.step("far", 1))) as far:
            for name in off["parameters"]:
                self.assertEqual(off["parameters"][name][()].tobytes(), far["parameters"][name][()].tobytes())

    def test_a_norm_of_queries_and_keys_would_undo_it(self):
        self.assert_error(self.run_program("tiny.yaml", "run.dir=r", "train.qk_clip=100", "attention.qk_norm=head"), 2,
                          "train.qk_clip", "attention.qk_norm=none")

    def test_another_mixer_is_refused(self):
        self.assert_error(self.run_program("tiny.yaml", "run.dir=r", "train.qk_clip=100",
                                           "model.mixer=latent_attention", "attention.kv_heads=4"), 2,
                          "train.qk_clip", "model.mixer=attention")


if __name__ == "__main__":
    main()
