#!/usr/bin/env python3
"""The model of bench_decode in llama.cpp, as PyPI has it built: `pip install ctransformers gguf numpy` (ctransformers 0.2.27
carries llama.cpp of September 2023). Writes a random model of the same shape and prints tokens a second, the best of some
rounds, to be read beside `bench_decode weights=fp16` (int8, f32) with as many threads.

  ggml_decode.py [f16|q8_0|f32] [--threads N] [--rounds N]"""
import argparse
import os
import tempfile
import time

import gguf
import numpy
from ctransformers import AutoModelForCausalLM

D, LAYERS, FF, HEADS, KV, VOCABULARY, CONTEXT, TOKENS = 1024, 4, 4096, 16, 4, 4096, 512, 24


def write_model(path, kind):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(D)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(D // HEADS)
    writer.add_tokenizer_model("llama")
    tokens = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{i:02X}>".encode() for i in range(256)]
    tokens += [f"\u2581t{i}".encode() for i in range(VOCABULARY - len(tokens))]
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (VOCABULARY - 259))
    random = numpy.random.default_rng(1)

    def matrix(name, rows, columns):
        x = (random.standard_normal((rows, columns)) * 0.02).astype(numpy.float32)
        if kind == "q8_0":
            q8_0 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(x, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(name, x.astype(numpy.float16) if kind == "f16" else x)

    matrix("token_embd.weight", VOCABULARY, D)
    writer.add_tensor("output_norm.weight", numpy.ones(D, numpy.float32))
    matrix("output.weight", VOCABULARY, D)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", numpy.ones(D, numpy.float32))
        for name, rows, columns in (("attn_q", D, D), ("attn_k", D // HEADS * KV, D), ("attn_v", D // HEADS * KV, D),
                                    ("attn_output", D, D), ("ffn_gate", FF, D), ("ffn_up", FF, D), ("ffn_down", D, FF)):
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open(path, "r+b") as file:  # version 3 says of such a file what version 2 did, which older readers take
        file.seek(4)
        file.write(b"\2")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=("f16", "q8_0", "f32"), default="f16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.gguf")
        write_model(path, arguments.kind)
        model = AutoModelForCausalLM.from_pretrained(path, model_type="llama", threads=arguments.threads,
                                                     context_length=CONTEXT)
        best = 0.0
        for _ in range(arguments.rounds):
            model.reset()
            model.eval([1, 300, 301], threads=arguments.threads)
            begin = time.perf_counter()
            for _ in range(TOKENS):
                model.eval([model.sample(top_k=40)], threads=arguments.threads)
            best = max(best, TOKENS / (time.perf_counter() - begin))
        print(f"llama.cpp, {arguments.kind}, {arguments.threads} threads: {best:.1f} tokens/s")


if __name__ == "__main__":
    main()
