"""transformers itself: random models of every family come in with its logits, and what goes out loads there with ours and
writes the same greedy text. Run by a Python that has torch and transformers, MOETRAIN_TORCH_PYTHON; skipped, and said so,
where there is none."""
import importlib.util
import os
import shutil
import subprocess
import sys
import unittest

if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("torch") is None:
    other = os.environ.get("MOETRAIN_TORCH_PYTHON")
    if other:
        sys.exit(subprocess.run([other, "-B", *sys.argv], env={**os.environ, "MOETRAIN_TORCH_PYTHON": ""}).returncode)
    print("SKIPPED: no transformers in this Python. python3 -m venv V && V/bin/pip install torch transformers accelerate, then "
          "MOETRAIN_TORCH_PYTHON=V/bin/python", file=sys.stderr)
    sys.exit(77)

import torch  # noqa: E402
import transformers  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import test_huggingface  # noqa: E402
from test_huggingface import FAMILIES, ZOO, HuggingFaceTest, main, read_safetensors  # noqa: E402

spec = importlib.util.spec_from_file_location("make_zoo", ZOO / "make.py")
make_zoo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_zoo)
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


class Oracle(HuggingFaceTest):
    def load(self, folder, **how):
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32, attn_implementation="eager",
            experts_implementation="eager", **how)
        self.assertFalse(any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading)
        return model.eval()

    def greedy(self, model, tokens, count):
        """By logits, not by generate(): what ends a text is no matter here."""
        tokens = list(tokens)
        for _ in range(count):
            row = make_zoo.golden_of(model, tokens)[-1]
            tokens.append(row.index(max(row)))
        return tokens

    def test_the_fixtures_are_what_transformers_computes(self):
        for family in FAMILIES:
            golden = __import__("json").loads((ZOO / family / "golden.json").read_text())
            self.assert_near(make_zoo.golden_of(self.load(ZOO / family), golden["tokens"]), golden["logits"], family)

    # What no tiny model of the zoo has.
    VARIANTS = [("deepseek_v3", {"attention_bias": True}), ("llama", {"rope_parameters": make_zoo.LLAMA3}),
                ("qwen3_moe", {"rope_parameters": make_zoo.PARTS_OF_PAIRS})]

    def test_random_models_come_in_and_go_out(self):
        for family, seed, changes in [(f, seed, {}) for f in FAMILIES for seed in (1, 2)] + [(f, 3, c) for f, c in self.VARIANTS]:
            with self.subTest(family, seed=seed, **changes):
                name = f"{family}-{seed}"
                model = make_zoo.make_model(family, seed=seed, **changes)
                model.save_pretrained(self.path(name))
                tokens = [(5 * i * i + i + seed) % 40 for i in range(20)]
                theirs = make_zoo.golden_of(model, tokens)
                self.import_done(self.path(name), f"{name}.h5")
                worst = self.assert_near(self.logits(f"{name}.h5", tokens), theirs, name)
                self.assert_done(self.run_program("export", "hf", f"{name}.h5", f"{name}-out"))
                back = self.load(self.path(f"{name}-out"))
                self.assert_near(make_zoo.golden_of(back, tokens), theirs, f"{name} back")
                self.assertEqual(read_safetensors(self.path(f"{name}/model.safetensors")),
                                 read_safetensors(self.path(f"{name}-out/model.safetensors")))
                prompt = " ".join(map(str, tokens[:5]))
                text = self.run_program("generate", f"{name}.h5", "--prompt", prompt, "--tokens", "12", "--temperature",
                                        "0")
                self.assert_done(text)
                self.assertEqual(list(map(int, text.out.split())), self.greedy(back, tokens[:5], 12))
                print(f"{family:12} seed {seed}: largest relative difference of logits {worst:.1e}, round trip equal",
                      changes or "")

    @unittest.skipIf(importlib.util.find_spec("accelerate") is None, "SKIPPED: no accelerate, which transformers wants here")
    def test_quantised_weights_are_read_as_transformers_reads_them(self):
        quantised = test_huggingface.Quantized()
        quantised.folder = self.folder
        tokens = [(5 * i * i + i) % 40 for i in range(20)]
        few, many = quantised.fp8_tensors(read_safetensors(ZOO / "qwen3_moe/model.safetensors"), (2, 2))
        fp8 = dict(test_huggingface.FP8, weight_block_size=[2, 2])
        cases = [("qwen3_moe", few, many, {"quantization_config": fp8}, transformers.FineGrainedFP8Config),
                 ("gpt_oss", *quantised.mxfp4_tensors(), dict(hidden_size=64, intermediate_size=32,
                                                              quantization_config=test_huggingface.MXFP4),
                  transformers.Mxfp4Config)]
        for family, few, many, changes, how in cases:
            folder, _ = quantised.folders(family, few, many, **changes)
            self.import_done(folder, f"{family}.h5")
            shutil.rmtree(self.path("many"))
            there = self.load(folder, quantization_config=how(dequantize=True))
            worst = self.assert_near(self.logits(f"{family}.h5", tokens), make_zoo.golden_of(there.float(), tokens), family)
            print(f"{family:12} {changes['quantization_config']['quant_method']}: largest relative difference {worst:.1e}")
            shutil.rmtree(folder)

    def test_what_is_trained_here_loads_there(self):
        for changes in ([], ["model.tied_embeddings=false", "attention.qk_norm=head", "moe.router=topk_softmax"],
                        ["moe.router=topk_softmax", "model.feed_forward=dense,moe"]):
            self.write_tiny()
            run = f"run{len(changes)}"
            self.assert_done(self.run_program("tiny.yaml", f"run.dir={run}", *changes))
            self.assert_done(self.run_program("export", "hf", run, f"{run}-out"))
            tokens = [ord(c) for c in "In the beginning"]
            there = make_zoo.golden_of(self.load(self.path(f"{run}-out")), tokens)
            self.assert_near(there, self.logits(run, tokens), run)


if __name__ == "__main__":
    main()
