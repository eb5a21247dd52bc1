"""What people write out of habit, and messages that stay one line whatever they repeat."""
import os
import subprocess

from program import PROGRAM, ProgramTest, main

COMMAND_LINES = [
    ("train tiny.yaml train.steps=3", ["leave 'train' out", "moetrain tiny.yaml"]),
    ("train", ["leave 'train' out"]),
    ("run tiny.yaml", ["leave 'run' out"]),
    ("eval x.h5", ["'eval'", "did you mean 'evaluate'"]),
    ("sample", ["did you mean 'generate'"]),
    ("version", ["did you mean '--version'"]),
    ("tiny.yaml other.yaml", ["'other.yaml' is one word too many", "key=value"]),
    ("tiny.yaml evaluate", ["a command stands first"]),
    ("generate x.h5 Hello", ["'Hello'", "--prompt"]),
    ("tiny.yaml --train.steps=3", ["key=value", "dashes", ": train.steps=3"]),
    ("tiny.yaml --train.steps 3", [": train.steps=3"]),
    ("tiny.yaml --steps 3", [": train.steps=3"]),
    ("tiny.yaml --batch-size=8", [": train.batch=8"]),
    ("tiny.yaml --learning_rate 1e-4", [": train.lr=1e-4"]),
    ("tiny.yaml -np 4", ["mpirun -np 4 moetrain tiny.yaml"]),
    ("tiny.yaml -n 4", ["mpirun -np 4 moetrain tiny.yaml"]),
    ("--config tiny.yaml", ["write only tiny.yaml"]),
    ("tiny.yaml --prompt x", ["--prompt", "belongs to generate"]),
    ("tiny.yaml train.steps = 3", ["key=value without spaces", "train.steps="]),
    ("tiny.yaml train.steps =3", ["train.steps=3"]),
    ("tiny.yaml train.steps= 3", ["'train.steps=' has no value", "train.steps=3"]),
    ("tiny.yaml train.steps:3", ["train.steps=3"]),
    ("tiny.yaml train.steps: 3", ["train.steps=3"]),
    ("tiny.yaml train.steps", ["train.steps=VALUE"]),
]

# A value, and what to write instead.
VALUES = [
    ("train.steps", "1_000", "write 1000"), ("train.steps", "1e3", "write 1000"), ("train.steps", "1k", "write 1000"),
    ("train.steps", "1,000", "write 1000"), ("train.steps", "010", "write 10"), ("train.steps", "2.0", "write 2"),
    ("train.steps", "+5", "write 5"), ("train.steps", "0x10", "write 16"), ("train.steps", "", "leave the key out"),
    ("train.steps", "null", "leave the key out"), ("train.steps", "None", "leave the key out"),
    ("train.lr", "1/10", "write 0.1"), ("train.lr", "10%", "write 0.1"), ("train.lr", "~", "leave the key out"),
    ("moe.first", "yes", "write true"), ("moe.first", "True", "write true"), ("moe.first", "off", "write false"),
    ("train.precision", "BF16", "write bf16"), ("train.precision", "float32", "write f32"), ("device", "gpu", "write cuda"),
    ("data.format", "text", "write bytes"), ("data.validation", "null", "leave the key out"),
    ("model.activation", "silu", "write swiglu"), ("moe.router", "Mixtral", "write softmax_topk"),
    ("model.mixer", "MLA", "write latent_attention"), ("train.optimizer", "adam", "write adamw"),
    ("train.objective", "MLM", "write masked"),
    ("moe.router", "base", "write sinkhorn"), ("model.feed_forward", "mlp", "write dense"), ("model.feed_forward", "MoE", "write moe"),
    ("moe.experts", "1_6", "write 16"), ("model.mixer", "self_attention", "write attention"),
    ("data.validation", "~", "leave the key out"), ("data.train", "~/x.txt", "the whole path"),
]

# Names of the same in Hugging Face's configurations, Megatron's options and papers.
FOREIGN_KEYS = {
    "model.norm": ["normalization", "norm_type"], "model.norm_eps": ["rms_norm_eps", "layernorm-epsilon"],
    "model.activation": ["hidden_act", "activation_function"], "model.bias": ["use_bias", "add-bias-linear"],
    "train.dropout": ["resid_pdrop", "hidden-dropout"], "moe.shared_experts": ["n_shared_experts"],
    "moe.zero_experts": ["zero_expert_num"], "moe.zero_kind": ["zero_expert_type"],
    "moe.shared_d_ff": ["moe-shared-expert-intermediate-size"], "model.logit_softcap": ["final_logit_softcapping"],
    "train.mask_share": ["mlm_probability", "mask-prob"], "moe.latent_width": ["moe-latent-size"],
    "model.d_ff": ["intermediate_size", "ffn-hidden-size"], "model.mixer": ["layer_types"],
    "model.feed_forward": ["mlp_layer_types", "first_k_dense_replace"], "model.tied_embeddings": ["tie_word_embeddings"],
    "attention.d_head": ["head_dim"], "attention.kv_heads": ["num_key_value_heads", "num-query-groups"],
    "attention.positions": ["position_embedding_type", "position-embedding-type"],
    "attention.softmax": ["softmax_type", "softmax-type"],
    "attention.window": ["sliding_window", "window-size"],
    "moe.experts": ["num_local_experts", "n_routed_experts", "num-experts"],
    "moe.top_k": ["num_experts_per_tok", "moe-router-topk"], "moe.d_ff": ["moe_intermediate_size"],
    "moe.every": ["decoder_sparse_step", "moe-layer-freq"], "moe.router": ["scoring_func"],
    "moe.scaling_factor": ["routed_scaling_factor"], "moe.bias_update": ["e_score_correction_bias"],
    "moe.bias_rate": ["moe-router-bias-update-rate"], "moe.balance_loss": ["router_aux_loss_coef"],
    "parallel.expert": ["expert-model-parallel-size"],
    "attention.q_rank": ["q_lora_rank"], "attention.kv_rank": ["kv-lora-rank"], "attention.d_rope": ["qk_rope_head_dim"],
    "attention.d_value": ["v_head_dim"], "moe.groups": ["n_group", "moe-router-num-groups"], "moe.top_groups": ["topk_group"],
    "moe.jitter": ["router_jitter_noise"], "moe.hash_layers": ["num_hash_layers"], "train.embedding_dropout": ["embd_pdrop"],
    "moe.force": ["moe-router-force-load-balancing"], "model.embedding_scale": ["embedding_multiplier"],
    "attention.rope_original_context": ["original_max_position_embeddings"], "attention.gate": ["attn_output_gate"],
    "train.ema": ["ema_decay"], "model.norm_place": ["sandwich_norm"],
}


class Habits(ProgramTest):
    def test_names_of_other_programs_are_understood(self):
        self.write_tiny()
        known = self.run_program("help").out
        for key, names in FOREIGN_KEYS.items():
            for name in names if f"\n  {key} " in known else []:
                with self.subTest(name):
                    self.assert_error(self.run_program("tiny.yaml", f"{name}=1"), 2, f"did you mean '{key}'?")

    def test_each_command_line_is_told_what_to_write(self):
        self.write_tiny()
        for line, parts in COMMAND_LINES:
            with self.subTest(line):
                self.assert_error(self.run_program(*line.split()), 2, "command line", *parts)

    def test_each_value_is_told_what_to_write(self):
        self.write_tiny()
        for key, value, advice in VALUES:
            with self.subTest(key=key, value=value):
                outcome = self.run_program("--print-config", "tiny.yaml", f"{key}={value}")
                self.assert_error(outcome, 2, key, f"'{value}'", advice)

    def test_the_advice_is_legal(self):
        self.write_tiny()
        for key, value, advice in VALUES:
            if advice.startswith("write "):
                self.assert_done(self.run_program("--print-config", "tiny.yaml", f"{key}={advice[6:]}"))

    def test_the_same_in_a_file(self):
        for text, parts in (
                ("train.steps:\n", ["train.steps is ''", "leave the key out"]),
                ("train.steps: ~\n", ["train.steps is '~'", "leave the key out"]),
                ("data.validation: ~\n", ["leave the key out"]),
                ("moe.first: on\n", ["write true"]),
                ("train.batch_size: 8\n", ["did you mean 'train.batch'"]),
                ("model:\n\tlayers: 2\n", ["begins with a tab", "spaces"]),
                ("train.steps:5\n", ["a space after each"]),
                ("train.steps: [5]\n", ["a list", "write one value"])):
            with self.subTest(text):
                self.write("bad.yaml", "data.train: train.txt\n" + text)
                self.assert_error(self.run_program("--print-config", "bad.yaml"), 2, "bad.yaml", *parts)

    def test_a_current_folder_that_was_removed(self):
        self.write_tiny(data__train=self.path("train.txt"))
        os.mkdir(self.path("gone"))
        for config in (self.path("tiny.yaml"), "tiny.yaml"):
            done = subprocess.run(
                ["sh", "-c", 'mkdir -p gone && cd gone && rmdir ../gone && exec "$0" --print-config "$1"', PROGRAM, config],
                cwd=self.folder, capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("the current folder", done.stderr)
            self.assertIn("was removed", done.stderr)


class OneLine(ProgramTest):
    """Line breaks, control characters and bytes that are not UTF-8 are shown as escapes wherever they stand."""

    def assert_one_line(self, outcome, code, *parts):
        self.assert_error(outcome, code, *parts)
        self.assertEqual(outcome.err.count("\n"), 1, repr(outcome.err))
        self.assertTrue(outcome.err[:-1].isprintable(), repr(outcome.err))

    def test_on_the_command_line(self):
        self.write_tiny()
        for args in (["a\nb.yaml"], ["tiny.yaml", "a\x1b[31m=1"], ["tiny.yaml", "train.steps=1\n2"], ["tiny.yaml", "a\nb"],
                     ["tiny.yaml", "--a\rb"], ["help", "a\x7fb"], ["tiny.yaml", "train.lr=\udcff"], ["\udcc3\u2028"],
                     ["inspect", "a\nb.h5"], ["evaluate", "\x9b\udc9b.h5"], ["generate", "x.h5", "--tokens", "1\n"],
                     ["plan", "tiny.yaml", "-np", "\t"], ["tiny.yaml", "data.train=a\nb"], ["\u202egnp.lmay"]):
            with self.subTest(args):
                outcome = self.run_program(*args)
                self.assert_one_line(outcome, outcome.code or -1)
                self.assertIn(outcome.code, (2, 4))

    def test_in_names_of_files(self):
        folder = "a\nb\x1b[2J"
        os.mkdir(self.path(folder))
        self.write(f"{folder}/c.yaml", "data.train: none.txt\nrun.dir: r\n")
        self.assert_one_line(self.run_program(f"{folder}/c.yaml"), 3, r"a\nb\x1b[2J", "none.txt")
        self.write(f"{folder}/d.yaml", "data.train: none.txt\nx: 1\n")
        self.assert_one_line(self.run_program(f"{folder}/d.yaml"), 2, r"a\nb\x1b[2J/d.yaml:2:1")

    def test_in_a_configuration(self):
        for text in ('train.steps: "1\\n2"\n', '"a\\nb": 1\n', 'run.dir: "a\\e[31mb"\n', "train.steps: !<a\x7f> 1\n",
                     'device: "\\u2028"\n'):
            with self.subTest(text):
                self.write("bad.yaml", "data.train: train.txt\n" + text)
                self.assert_one_line(self.run_program("--print-config", "bad.yaml"), 2)


if __name__ == "__main__":
    main()
