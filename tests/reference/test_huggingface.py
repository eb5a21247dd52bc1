"""Models of Hugging Face's form in and out, against the tiny ones of configs/tiny-zoo and the logits that transformers has for
them. transformers itself is asked by huggingface_oracle.py."""
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/cli"))
from program import ProgramTest, main  # noqa: E402

ZOO = ROOT / "configs/tiny-zoo"
FAMILIES = ["qwen3_moe", "mixtral", "olmoe", "llama", "qwen3", "deepseek_v3", "qwen2_moe", "glm4_moe", "gpt_oss"]
# Both compute in f32, sums in another order: measured 1e-6 at most, of logits as large as the largest.
RELATIVE = 1e-5


def read_safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    data = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"],
                   data[8 + length + entry["data_offsets"][0]:8 + length + entry["data_offsets"][1]])
            for name, entry in header.items()}


def write_safetensors(path, tensors, edit=None, cut=0):
    """edit changes the header before it is written; cut bytes are left out at the end."""
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    if edit:
        edit(header)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data[:len(data) - cut])


def as_f32(dtype, values):
    if dtype == "F32":
        return values
    if dtype == "BF16":
        return b"".join(b"\0\0" + values[i:i + 2] for i in range(0, len(values), 2))
    return struct.pack(f"<{len(values) // 2}f", *struct.unpack(f"<{len(values) // 2}e", values))


class HuggingFaceTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write("tokens.bin", struct.pack("<4000H", *((i * i + i // 7) % 40 for i in range(4000))))

    def family(self, family, name=None):
        """A copy of the family's tiny model, to be changed."""
        folder = self.path(name or family)
        shutil.copytree(ZOO / family, folder)
        return pathlib.Path(folder)

    def config(self, folder, **changes):
        config = json.loads((folder / "config.json").read_text())
        config.update(changes)
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))

    def import_done(self, folder, checkpoint, *changes):
        done = self.run_program("import", "hf", str(folder), checkpoint, *changes)
        self.assert_done(done)
        return done

    def import_error(self, folder, code, *parts):
        self.assert_error(self.run_program("import", "hf", str(folder), "refused.h5"), code, *parts)
        left = [name for name in os.listdir(self.folder) if name.startswith("refused")]
        self.assertEqual(left, [], "a refused import leaves nothing")

    def digest(self, checkpoint):
        done = self.run_program("inspect", "--digest", checkpoint)
        self.assert_done(done)
        return done.out

    def logits(self, checkpoint, tokens):
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")
        done = subprocess.run([os.environ["PRINT_LOGITS"], checkpoint, *map(str, tokens)], cwd=self.folder, env=environment,
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [[float(x) for x in line.split()] for line in done.stdout.splitlines()]

    def assert_near(self, ours, theirs, what):
        largest = max(abs(x) for row in theirs for x in row)
        worst = max(abs(x - y) for a, b in zip(ours, theirs) for x, y in zip(a, b)) / largest
        self.assertEqual((len(ours), len(ours[0])), (len(theirs), len(theirs[0])), what)
        if os.environ.get("MOETRAIN_SHOW_ERRORS"):
            print(f"{what}: {worst:.2e} of {RELATIVE:.0e}")
        self.assertLess(worst, RELATIVE, what)
        return worst


class Zoo(HuggingFaceTest):
    def test_every_family_computes_what_transformers_does_and_comes_out_as_it_went_in(self):
        for family in FAMILIES:
            with self.subTest(family):
                golden = json.loads((ZOO / family / "golden.json").read_text())
                self.import_done(ZOO / family, f"{family}.h5")
                self.assert_near(self.logits(f"{family}.h5", golden["tokens"]), golden["logits"], family)
                out = self.run_program("export", "hf", f"{family}.h5", f"{family}-out")
                self.assert_done(out)
                self.assertIn(f"as {family}", out.out)
                self.assertIn("largest |difference| of logits 0,", out.out)
                self.assertIn("model.safetensors: ", out.out)
                theirs = read_safetensors(ZOO / family / "model.safetensors")
                ours = read_safetensors(self.path(f"{family}-out/model.safetensors"))
                self.assertEqual(sorted(theirs), sorted(ours))
                for name, (dtype, shape, values) in theirs.items():
                    self.assertEqual(ours[name], ("F32", shape, as_f32(dtype, values)), name)
                self.import_done(self.path(f"{family}-out"), f"{family}-again.h5")
                same = self.run_program("checkpoint", "diff", f"{family}.h5", f"{family}-again.h5")
                self.assert_done(same)  # and of the configuration only names of files differ
                changed = re.findall(r"(?:configuration: |, )([a-z]+\.[a-z_]+) ", same.out)
                self.assertEqual(changed, ["run.dir", "data.train"], same.out)

    def test_an_import_trains_on_any_ranks_evaluates_and_generates(self):
        for family in ("qwen3_moe", "deepseek_v3"):
            self.import_done(ZOO / family, f"{family}.h5")
            common = [f"{family}.yaml", "data.train=tokens.bin", "train.steps=3", "train.batch=4", "train.context=16",
                      "train.shards=4"]
            one = self.run_program(*common, "run.dir=one")
            self.assert_done(one)
            self.assertIn("begins with the weights of", one.err + one.out)
            self.assert_done(self.run_program(*common, "run.dir=two", ranks=2))
            last = "checkpoints/step-00000003.h5"
            self.assertEqual(self.digest(f"one/{last}"), self.digest(f"two/{last}"))
            self.assertNotEqual(self.digest(f"one/{last}"), self.digest(f"{family}.h5"))
            self.assert_done(self.run_program("export", "hf", f"one/{last}", f"{family}-trained"))
            greedy = ["generate", f"{family}.h5", "--prompt", "1 2 3", "--tokens", "6", "--temperature", "0"]
            cached, recomputed = self.run_program(*greedy), self.run_program(*greedy, "--recompute")
            self.assert_done(cached)
            self.assertEqual(cached.out, recomputed.out)
            self.assert_done(self.run_program("evaluate", f"{family}.h5", "data.validation=tokens.bin"))
            shutil.rmtree(self.path("one"))
            shutil.rmtree(self.path("two"))

    def test_files_of_bounded_size_have_an_index(self):
        self.import_done(ZOO / "mixtral", "mixtral.h5")
        done = self.run_program("export", "hf", "mixtral.h5", "many", "--shard-size", "4000")
        self.assert_done(done)
        index = json.loads(pathlib.Path(self.path("many/model.safetensors.index.json")).read_text())["weight_map"]
        files = sorted(set(index.values()))
        self.assertGreater(len(files), 3)
        for name in files:
            self.assertEqual(sorted(read_safetensors(self.path(f"many/{name}"))),
                             sorted(tensor for tensor, file in index.items() if file == name))
        self.import_done(self.path("many"), "again.h5")
        self.assertEqual(self.digest("mixtral.h5"), self.digest("again.h5"))

    def test_bf16_is_what_is_nearest(self):
        folder = self.family("llama")
        wide = read_safetensors(folder / "model.safetensors")
        dtype, shape, values = wide["model.embed_tokens.weight"]
        halves = struct.pack("<4I", 0x3f808000, 0x3f818000, 0xbf7f8000, 0xbf7f7fff)  # ties go to even numbers
        wide["model.embed_tokens.weight"] = (dtype, shape, halves + values[16:])
        write_safetensors(folder / "model.safetensors", wide)
        self.import_done(folder, "llama.h5")
        out = self.run_program("export", "hf", "llama.h5", "narrow", "--dtype", "bf16")
        self.assert_done(out)
        self.assertNotIn("of logits 0,", out.out)
        narrow = read_safetensors(self.path("narrow/model.safetensors"))
        self.assertEqual(narrow["model.embed_tokens.weight"][2][:8], struct.pack("<4H", 0x3f80, 0x3f82, 0xbf80, 0xbf7f))
        for name, (dtype, shape, values) in narrow.items():
            self.assertEqual((dtype, shape), ("BF16", wide[name][1]))
            exact = struct.unpack(f"<{len(values) // 2}I", wide[name][2])
            nearest = [(x + 0x7fff + (x >> 16 & 1)) >> 16 for x in exact]
            self.assertEqual(list(struct.unpack(f"<{len(values) // 2}H", values)), nearest, name)

    def test_a_trained_model_goes_out_and_its_average_too(self):
        self.write_tiny(train__ema=0.5)
        self.assert_done(self.run_program("tiny.yaml", "run.dir=run"))
        self.assert_done(self.run_program("export", "hf", "run", "trained"))
        self.assert_done(self.run_program("export", "hf", "run", "average", "eval.weights=ema"))
        self.import_done(self.path("trained"), "trained.h5", "data.format=bytes")
        text = ["--prompt", "In the ", "--tokens", "20", "--temperature", "0"]
        self.assertEqual(self.run_program("generate", "run", *text).out,
                         self.run_program("generate", "trained.h5", *text).out)
        trained, average = (read_safetensors(self.path(f"{name}/model.safetensors")) for name in ("trained", "average"))
        self.assertEqual(trained.keys(), average.keys())
        self.assertNotEqual(trained["model.norm.weight"], average["model.norm.weight"])


    def test_a_router_that_only_qwen_has_goes_out_with_a_shared_expert_of_zeros(self):
        self.write_tiny()
        self.assert_done(self.run_program("tiny.yaml", "run.dir=run", "moe.router=topk_softmax", "moe.top_k=1",
                                          "model.feed_forward=dense,moe", "model.d_model=32"))
        out = self.run_program("export", "hf", "run", "out")
        self.assert_done(out)
        self.assertIn("as qwen2_moe", out.out)
        self.assertIn("of logits 0,", out.out)
        dtype, shape, values = read_safetensors(self.path("out/model.safetensors"))[
            "model.layers.1.mlp.shared_expert.down_proj.weight"]
        self.assertEqual((shape, values), ([32, 16], bytes(4 * 32 * 16)))
        self.import_done(self.path("out"), "out.h5", "data.format=bytes")
        tokens = [ord(c) for c in "In the beginning"]
        self.assert_near(self.logits("out.h5", tokens), self.logits("run", tokens), "with zeros")

    def test_every_f16_is_read_exactly(self):
        folder = self.family("qwen3")
        weights = read_safetensors(folder / "model.safetensors")
        dtype, shape, _ = weights["lm_head.weight"]
        bits = [(i * 103) % 0x7c00 | (i % 2) << 15 for i in range(640)]  # finite; subnormal ones among them
        bits[:6] = 0, 0x8000, 1, 0x8001, 0x3ff, 0x7bff
        weights["lm_head.weight"] = (dtype, shape, struct.pack("<640H", *bits))
        write_safetensors(folder / "model.safetensors", weights)
        self.import_done(folder, "f16.h5")
        wanted = as_f32(dtype, weights["lm_head.weight"][2])
        self.assertIn(wanted, pathlib.Path(self.path("f16.h5")).read_bytes())


class Refusals(HuggingFaceTest):
    def test_a_model_that_no_family_holds_names_the_nearest(self):
        self.write_tiny()
        for changes, parts in (
                (["attention.gate=head"], ["attention.gate is head (mixtral: none)", "nearest is mixtral"]),
                (["attention.qk_norm=head", "attention.softcap=30"], ["attention.softcap is 30", "qwen3_moe: 0"]),
                (["model.norm=layernorm", "attention.positions=learned"], ["model.norm is layernorm",
                                                                           "attention.positions is learned"]),
                (["moe.router=sqrtsoftplus"], ["moe.router is sqrtsoftplus", "mixtral: softmax_topk"])):
            run = changes[0].replace("=", "-")
            self.assert_done(self.run_program("tiny.yaml", f"run.dir={run}", "train.steps=1", *changes))
            outcome = self.run_program("export", "hf", run, "out")
            self.assert_error(outcome, 2, *parts)
            self.assertFalse(os.path.exists(self.path("out")))
        self.assert_error(self.run_program("export", "hf", run, "out", ranks=2), 2)

    def test_words_of_the_command_line(self):
        self.assert_error(self.run_program("export", "gguf", "a", "b"), 2, "form hf")
        self.assert_error(self.run_program("export", "hf", "a"), 2, "a checkpoint and the name of a new folder")
        self.assert_error(self.run_program("import", "hf", "a", "b"), 2, "ends in .h5")
        self.assert_error(self.run_program("export", "hf", "a", "b", "--dtype", "f16"), 2, "f32 or bf16")
        self.import_done(ZOO / "mixtral", "mixtral.h5")
        self.assert_error(self.run_program("import", "hf", str(ZOO / "mixtral"), "mixtral.h5"), 5, "mixtral.h5 exists")
        self.assert_error(self.run_program("export", "hf", "mixtral.h5", "."), 5, "exists")

    def test_config_json_says_what_cannot_be_held(self):
        for number, (family, changes, parts) in enumerate((
                ("llama", {"hidden_act": "gelu"}, ['hidden_act is "gelu"', '"silu"']),
                ("llama", {"model_type": "gpt2"}, ['"gpt2"', "qwen3_moe"]),
                ("llama", {"hidden_size": "absent"}, ["hidden_size is missing"]),
                ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, ['"longrope"', "yarn or llama3"]),
                ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8, "high_freq_factor": 4,
                                               "original_max_position_embeddings": 64}}, ["low_freq_factor of llama3 is miss"]),
                ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2}},
                 ['rope_type is "dynamic"', "do not change while a text grows"]),
                ("llama", {"attention_bias": False}, ["mlp_bias is true", "false, or with both"]),
                ("olmoe", {"clip_qkv": 8.0}, ["clip_qkv is 8.0", "null"]),
                ("olmoe", {"head_dim": 6}, ["attention.d_head is 6"]),
                ("deepseek_v3", {"rms_norm_eps": 1e-5}, ["model.norm_eps is 1e-05 (deepseek_v3: 1e-06)"]),
                ("deepseek_v3", {"topk_group": 4}, ["moe.groups is 4"]),
                ("gpt_oss", {"swiglu_limit": 5.0}, ["swiglu_limit is 5.0"]),
                ("qwen3", {"quantization_config": {"bits": 4}}, ["quant_method missing"]),
                ("qwen3", {"quantization_config": {"quant_method": "mxfp4"}}, ["quant_method mxfp4", "only as fp8;"]),
                ("gpt_oss", {"quantization_config": {"quant_method": "gptq"}}, ["quant_method gptq", "fp8 or mxfp4"]),
                ("qwen3", {"quantization_config": {"quant_method": "fp8"}}, ["weight_block_size is not two lengths"]),
                ("qwen3", {"quantization_config": dict(FP8, weight_block_size=[128, 0])}, ["is not two lengths"]),
                ("qwen3", {"quantization_config": dict(FP8, fmt="e5m2")}, ["fmt is not e4m3"]))):
            folder = self.family(family, f"{family}-{number}")
            self.config(folder, **changes)
            self.import_error(folder, 2, *parts)
        (folder / "config.json").write_text("{")
        self.import_error(folder, 2, "config.json: line 1")

    def test_keys_that_nothing_reads_are_named(self):
        folder = self.family("mixtral")
        self.config(folder, embedding_multiplier=2)
        self.assertIn("embedding_multiplier: not read", self.import_done(folder, "a.h5").err)


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [5, 7]}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}


def from_e4m3(bits):
    """By the words of arXiv:2209.05433: a sign, an exponent of 4 bits with bias 7, 3 bits behind the point."""
    exponent, part = (bits >> 3 & 15).astype(int), (bits & 7) / 8.0
    size = np.where(exponent == 0, part * 2.0 ** -6, (1 + part) * 2.0 ** (exponent - 7))
    return np.where(bits & 128, -size, size)


def from_mxfp4(blocks, scales):
    """(experts, out, blocks, 16) and (experts, out, blocks) as (experts, in, out)."""
    sizes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = np.stack([blocks & 15, blocks >> 4], -1)  # the lower half first
    values = np.where(values & 8, -1, 1) * sizes[values & 7]
    values = values.reshape(*blocks.shape[:3], 32) * 2.0 ** (scales[..., None].astype(int) - 127)
    return values.reshape(*blocks.shape[:2], -1).transpose(0, 2, 1)


def f32_tensor(values):
    return "F32", list(values.shape), values.astype("<f4").tobytes()


class Quantized(HuggingFaceTest):
    """Quantised folders give the bits of folders that numpy has made f32, in double."""
    random = np.random.default_rng(5)

    def fp8_tensors(self, tensors, block):
        """Both folders' tensors: random weights where linear layers are, with scales by block."""
        few, many = {}, {}
        for name, (dtype, shape, values) in tensors.items():
            few[name] = many[name] = (dtype, shape, values)
            if len(shape) != 2 or "proj" not in name:
                continue
            bits = self.random.integers(0, 256, shape, np.uint8)
            bits[bits & 127 == 127] = 3  # no NaN
            scales = np.float32(self.random.uniform(0.001, 0.01, [-(-shape[axis] // block[axis]) for axis in (0, 1)]))
            whole = np.kron(scales.astype(float), np.ones(block))[:shape[0], :shape[1]]
            few[name] = ("F8_E4M3", shape, bits.tobytes())
            few[name + "_scale_inv"] = ("F32", list(scales.shape), scales.tobytes())
            many[name] = f32_tensor(from_e4m3(bits) * whole)
        return few, many

    def mxfp4_tensors(self):
        """gpt_oss of a width that has whole blocks."""
        few, width, experts, ff, heads, keys = {}, 64, 4, 32, 24, 12
        shapes = {"model.embed_tokens.weight": [40, width], "model.norm.weight": [width], "lm_head.weight": [40, width]}
        for layer in range(3):
            at = f"model.layers.{layer}."
            shapes.update({at + "input_layernorm.weight": [width], at + "post_attention_layernorm.weight": [width],
                           at + "self_attn.sinks": [4], at + "self_attn.o_proj.weight": [width, heads],
                           at + "self_attn.o_proj.bias": [width], at + "mlp.router.weight": [experts, width],
                           at + "mlp.router.bias": [experts], at + "mlp.experts.gate_up_proj_bias": [experts, 2 * ff],
                           at + "mlp.experts.down_proj_bias": [experts, width]})
            for part, rows in (("q", heads), ("k", keys), ("v", keys)):
                shapes[at + f"self_attn.{part}_proj.weight"] = [rows, width]
                shapes[at + f"self_attn.{part}_proj.bias"] = [rows]
        many = {name: f32_tensor(self.random.normal(0, 0.3, shape)) for name, shape in shapes.items()}
        few = dict(many)
        for layer in range(3):
            for part, rows, blocks in (("gate_up", 2 * ff, width // 32), ("down", width, ff // 32)):
                name = f"model.layers.{layer}.mlp.experts.{part}_proj"
                bits = self.random.integers(0, 256, [experts, rows, blocks, 16], np.uint8)
                scales = self.random.integers(120, 127, [experts, rows, blocks], np.uint8)
                few[name + "_blocks"] = ("U8", list(bits.shape), bits.tobytes())
                few[name + "_scales"] = ("U8", list(scales.shape), scales.tobytes())
                many[name] = f32_tensor(from_mxfp4(bits, scales))
        return few, many

    def folders(self, family, few, many, **changes):
        """Two folders, the quantised one in two files: tensors and their scales are apart."""
        quantised, plain = self.family(family, "few"), self.family(family, "many")
        for folder in (quantised, plain):
            self.config(folder, **{key: value for key, value in changes.items()
                                   if folder is quantised or key != "quantization_config"})
        write_safetensors(plain / "model.safetensors", many)
        (quantised / "model.safetensors").unlink()
        files = {name: "b.safetensors" if "scale" in name else "a.safetensors" for name in few}
        for file in set(files.values()):
            write_safetensors(quantised / file, {name: few[name] for name in few if files[name] == file})
        (quantised / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
        return quantised, plain

    def assert_same(self, quantised, plain):
        self.import_done(quantised, "few.h5")
        self.import_done(plain, "many.h5")
        self.assertEqual(self.digest("few.h5"), self.digest("many.h5"))

    def test_fp8_of_deepseek_with_scales_by_block(self):
        tensors = read_safetensors(ZOO / "deepseek_v3/model.safetensors")
        few, many = self.fp8_tensors(tensors, (5, 7))
        self.assertGreater(len(few), len(many) + 50)
        quantised, plain = self.folders("deepseek_v3", few, many, quantization_config=FP8)
        self.assert_same(quantised, plain)
        nan = b"\1" * 50 + b"\x7f" + b"\1" * 141
        for end, change, part in (
                ("kv_b_proj.weight_scale_inv", None, "kv_b_proj.weight_scale_inv is missing beside"),
                ("o_proj.weight_scale_inv", f32_tensor(np.ones([1, 1])), "none of scales for"),
                ("o_proj.weight_scale_inv", f32_tensor(np.full([4, 2], np.inf)), "weight_scale_inv[0, 0] is infinite"),
                ("o_proj.weight", ("F8_E4M3", [16, 12], nan), "o_proj.weight[4, 2] is not a number")):
            changed = {**few, next(name for name in few if name.endswith(end)): change}
            changed = {name: value for name, value in changed.items() if value}
            shutil.rmtree(quantised)
            shutil.rmtree(plain)
            quantised, plain = self.folders("deepseek_v3", changed, many, quantization_config=FP8)
            self.import_error(quantised, 4, part)

    def test_mxfp4_of_gpt_oss(self):
        few, many = self.mxfp4_tensors()
        changes = dict(hidden_size=64, intermediate_size=32, quantization_config=MXFP4)
        quantised, plain = self.folders("gpt_oss", few, many, **changes)
        self.assert_same(quantised, plain)
        scales = "model.layers.1.mlp.experts.down_proj_scales"
        dtype, shape, values = few[scales]
        for change, part in ((None, f"{scales} is missing"),
                             ((dtype, shape, values[:9] + b"\xff" + values[10:]), "down_proj[0, 0, 9] is not"),
                             (("U8", [4, 32, 2], values), "none of scales for")):
            changed = {name: value for name, value in dict(few, **{scales: change}).items() if value}
            shutil.rmtree(quantised)
            shutil.rmtree(plain)
            quantised, plain = self.folders("gpt_oss", changed, many, **changes)
            self.import_error(quantised, 4, part)
        self.config(quantised, quantization_config="absent")
        self.import_error(quantised, 4, "_blocks has dtype U8, and quantization_config")


class DamagedFolders(HuggingFaceTest):
    def setUp(self):
        super().setUp()
        self.tensors = read_safetensors(ZOO / "mixtral/model.safetensors")
        self.mixtral = self.family("mixtral")
        self.weights = self.mixtral / "model.safetensors"

    def refused(self, code, *parts, **how):
        write_safetensors(self.weights, self.tensors, **how)
        self.import_error(self.mixtral, code, *parts)
        self.tensors = read_safetensors(ZOO / "mixtral/model.safetensors")

    def test_files(self):
        norm = "model.norm.weight"

        def edit(change):
            def edited(header):
                change(header[norm])
            return edited
        self.refused(4, "truncated", cut=3)
        self.refused(4, "overlap", edit=edit(lambda entry: entry.update(
            data_offsets=[x - 2 for x in entry["data_offsets"]])))
        self.refused(4, "dtype F8_E5M2", edit=edit(lambda entry: entry.update(dtype="F8_E5M2")))
        self.refused(4, "dtype F8_E4M3, and quantization_config", edit=edit(lambda entry: entry.update(
            dtype="F8_E4M3", shape=[32])))
        self.refused(4, "has 32 bytes, but its dtype and shape want 34", edit=edit(lambda entry: entry.update(shape=[17])))
        self.refused(4, "cannot be", edit=edit(lambda entry: entry.update(shape=[2 ** 62, 16, 16])))
        self.refused(4, "cannot be", edit=edit(lambda entry: entry.update(shape=[-16])))
        self.refused(4, "no data_offsets", edit=edit(lambda entry: entry.update(data_offsets=[1])))
        for data, part in ((b"", "no safetensors file"), (b"\xff" * 64, "its header says"),
                           (struct.pack("<Q", 2) + b"[]" + b"0" * 8, "no JSON object")):
            self.weights.write_bytes(data)
            self.import_error(self.mixtral, 4, "model.safetensors", part)
        self.weights.unlink()
        self.import_error(self.mixtral, 5, "model.safetensors")
        (self.mixtral / "config.json").unlink()
        self.import_error(self.mixtral, 5, "config.json: there is none; name a folder")

    def test_tensors(self):
        expert = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
        dtype, shape, values = self.tensors[expert]
        self.tensors[expert] = (dtype, shape, values[:6] + struct.pack("<H", 0x7fc0) + values[8:])
        self.refused(4, f"{expert}[0, 3] is not a number")
        self.tensors[expert] = (dtype, shape, values[:-2] + struct.pack("<H", 0xff80))
        self.refused(4, f"{expert}[{shape[0] - 1}, {shape[1] - 1}] is infinite")
        del self.tensors[expert]
        self.refused(4, f"the tensor {expert} is missing")
        self.tensors["model.layers.0.self_attn.q_norm.weight"] = ("BF16", [6], b"\0" * 12)
        self.refused(4, "q_norm.weight has no place")
        self.config(self.mixtral, vocab_size=41)  # larger than the embedding
        self.refused(4, "model.embed_tokens.weight has shape (40, 16), but config.json says (41, 16)")

    def test_a_head_beside_a_tied_embedding_is_the_same_or_refused(self):
        folder = self.family("llama")
        weights = read_safetensors(folder / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        write_safetensors(folder / "model.safetensors", weights)
        self.import_done(folder, "tied.h5")
        dtype, shape, values = weights["lm_head.weight"]
        weights["lm_head.weight"] = (dtype, shape, values[4:] + values[:4])
        write_safetensors(folder / "model.safetensors", weights)
        self.import_error(folder, 4, "tie_word_embeddings")

    def test_indices(self):
        half = len(self.tensors) // 2
        names = list(self.tensors)
        parts = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
        self.weights.unlink()
        for file, own in parts.items():
            write_safetensors(self.mixtral / file, {name: self.tensors[name] for name in own})
        index = self.mixtral / "model.safetensors.index.json"
        whole = {name: file for file, own in parts.items() for name in own}
        index.write_text(json.dumps({"weight_map": whole}))
        self.import_done(self.mixtral, "whole.h5")
        shutil.copy(ZOO / "mixtral/model.safetensors", self.path("outside.safetensors"))
        for change, part in (({names[0]: "../outside.safetensors"}, "no name of a .safetensors file"),
                             ({names[0]: "sub/../../outside.safetensors"}, "no name of"),
                             ({names[0]: "/etc/passwd"}, "no name of"),
                             ({names[0]: ".safetensors"}, "no name of"),
                             ({names[0]: "b.safetensors"}, f"{names[0]} is not in b.safetensors"),
                             ({"nowhere": "b.safetensors"}, "nowhere is not in b.safetensors"),
                             ({names[0]: 7}, "names no file")):
            index.write_text(json.dumps({"weight_map": {**whole, **change}}))
            self.import_error(self.mixtral, 4, part)
        index.write_text(json.dumps({"weight_map": {k: v for k, v in whole.items() if k != names[0]}}))
        self.import_error(self.mixtral, 4, f"does not name {names[0]}")
        index.write_text("{}")
        self.import_error(self.mixtral, 4, "no weight_map")
        index.write_text(json.dumps({"weight_map": {name: "c.safetensors" for name in whole}}))
        self.import_error(self.mixtral, 5, "c.safetensors")

    def test_a_full_disk_leaves_nothing(self):
        self.import_done(self.mixtral, "mixtral.h5")
        before = sorted(os.listdir(self.folder))

        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1",
                           OMPI_MCA_btl="self")
        for words in (["export", "hf", "mixtral.h5", "out"], ["import", "hf", str(ZOO / "mixtral"), "new.h5"]):
            done = subprocess.run([os.environ["MOETRAIN"], *words], cwd=self.folder, env=environment, capture_output=True,
                                  preexec_fn=small_files, timeout=60, text=True)
            self.assertEqual(done.returncode, 5, done.stderr)
            self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_damaged_or_wrong_weights_do_not_go_out(self):
        self.import_done(self.mixtral, "mixtral.h5")
        path = pathlib.Path(self.path("mixtral.h5"))
        data = bytearray(path.read_bytes())
        embedding = as_f32("BF16", self.tensors["model.embed_tokens.weight"][2])
        data[data.index(embedding) + 5] ^= 16
        path.write_bytes(data)
        self.assert_error(self.run_program("export", "hf", "mixtral.h5", "out"), 4, "damaged")
        self.assertFalse([name for name in os.listdir(self.folder) if name.startswith("out")])


if __name__ == "__main__":
    main()
