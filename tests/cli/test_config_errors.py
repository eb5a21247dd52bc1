"""Every kind of wrong configuration: exit code 2 and one line that names place, key, value and fix."""
from program import ProgramTest, main

# What the file holds beside data.train, and what the error must name. The place is where the key stands.
WRONG_FILES = [
    ("unknown key", "model:\n  d_modle: 64\n", ["bad.yaml:3:3:", "model.d_modle", "did you mean 'model.d_model'"]),
    ("key without its section", "top_k: 2\n", ["bad.yaml:2:1:", "'top_k'", "did you mean 'moe.top_k'"]),
    ("key in a foreign section", "model: {heads: 2}\n", ["bad.yaml:2:9:", "did you mean 'attention.heads'"]),
    ("unknown key like no other", "quux: 2\n", ["bad.yaml:2:1:", "'quux'", "moetrain help"]),
    ("section as a key", "moe: 8\n", ["bad.yaml:2:1:", "'moe' is a section"]),
    ("empty section", "moe: {}\n", ["bad.yaml:2", "'moe' is empty"]),
    ("key below a key", "train.lr: {max: 1}\n", ["bad.yaml:2:12:", "train.lr.max"]),
    ("word for a whole number", "train.steps: many\n", ["bad.yaml:2:1:", "train.steps", "'many'", "whole number"]),
    ("fraction for a whole number", "train.steps: 3.5\n", ["train.steps", "'3.5'", "whole number"]),
    ("exponent for a whole number", "train.steps: 1e3\n", ["train.steps", "'1e3'"]),
    ("underscore in a whole number", "train.steps: 1_000\n", ["train.steps", "'1_000'"]),
    ("leading zero, octal elsewhere", "train.steps: 010\n", ["train.steps", "'010'"]),
    ("whole number out of range", "train.steps: 0\n", ["train.steps", "'0'", "from 1 to"]),
    ("whole number of 30 digits", f"train.steps: {'9' * 30}\n", ["train.steps", "from 1 to"]),
    ("negative", "moe.top_k: -1\n", ["moe.top_k", "'-1'", "from 1 to 64"]),
    ("letters after a number", "train.lr: 0.1x\n", ["train.lr", "'0.1x'"]),
    ("not a number", "train.lr: .nan\n", ["train.lr", "'.nan'"]),
    ("infinite", "train.lr: 1e999\n", ["train.lr", "'1e999'"]),
    ("hexadecimal", "train.lr: 0x10\n", ["train.lr", "'0x10'"]),
    ("no value", "train.lr:\n", ["train.lr", "''"]),
    ("rational with too many places", "moe.capacity_factor: 1.00001\n", ["moe.capacity_factor", "at most 4 places"]),
    ("rational over zero", "moe.capacity_factor: 5/0\n", ["moe.capacity_factor", "'5/0'"]),
    ("yes for true", "moe.first: yes\n", ["moe.first", "'yes'", "true or false"]),
    ("unknown choice", "moe.drop: positon\n", ["moe.drop", "'positon'", "did you mean 'position'"]),
    ("unknown device", "device: gpu\n", ["device", "'gpu'", "auto, cpu or cuda"]),
    ("given twice", "train.lr: 1\ntrain: {lr: 2}\n", ["bad.yaml:3:9:", "train.lr", "twice", "line 2"]),
    ("section twice", "moe: {top_k: 2}\nmoe: {experts: 4}\n", ["bad.yaml:3:1:", "'moe' stands twice"]),
    ("list", "model:\n  layers: [2]\n", ["bad.yaml:3:11:", "list", "model.layers"]),
    ("anchor", "model: &m {layers: 2}\n", ["bad.yaml:2:8:", "&m"]),
    ("alias", "train.steps: &s 5\ntrain.batch: *s\n", ["bad.yaml:2:14:", "&s"]),
    ("tag", "train.steps: !!int 5\n", ["bad.yaml:2:14:", "tag"]),
    ("second document", "---\ntrain.steps: 5\n", ["bad.yaml:2:1:", "second document"]),
    ("NUL byte", "train.lr: 1\0\n", ["bad.yaml:2:12:", "NUL"]),
    ("not UTF-8", b"run.dir: \xff\n", ["bad.yaml", "not UTF-8"]),
    ("control character in a path", 'run.dir: "a\\x1bb"\n', ["run.dir", "control characters"]),
    ("path of 2000 bytes", f"run.dir: /{'a' * 2000}\n", ["bad.yaml:2:1:", "run.dir", "bytes"]),
    ("tab as indentation", "model:\n\tlayers: 2\n", ["bad.yaml:3:1:", "not valid YAML"]),
    ("unclosed bracket", "model: {layers: 2\n", ["bad.yaml:3:1:", "not valid YAML"]),
    ("a million brackets", "model: " + "[" * 1000000 + "\n", ["bad.yaml:2:8:", "list"]),
    ("larger than 1 MiB", "#" * (1 << 20) + "\n", ["bad.yaml", "larger than"]),
    ("uint16 data without a vocabulary", "data.format: uint16\n", ["data.vocab_size"]),
    ("vocabulary for text", "data.vocab_size: 100\ndata.format: bytes\n", ["bad.yaml:2:1:", "data.vocab_size (100)", "leave it out"]),
    ("vocabulary too large for uint16", "data: {format: uint16, vocab_size: 70000}\n", ["70000", "65536"]),
    ("evaluation without data", "eval.every: 5\n", ["bad.yaml:2:1:", "eval.every (5)", "data.validation"]),
    ("micro-batches do not divide", "train: {batch: 8, micro_batches: 3}\n",
     ["train.micro_batches (3)", "train.batch (8)", "1, 2, 4, 8"]),
    ("shards do not divide", "train: {batch: 8, shards: 16}\n", ["train.shards (16)", "train.batch (8)", "1, 2, 4, 8"]),
    ("micro-batches do not divide the shards", "train: {batch: 32, shards: 4, micro_batches: 8}\n",
     ["bad.yaml:2:", "train.micro_batches (8)", "train.shards (4)", "train.shards=32"]),
    ("shards of a micro-batch no power of two", "train: {batch: 24, shards: 24, micro_batches: 4}\n",
     ["train.shards (24)", "train.micro_batches (4)", "power of two", "train.shards=8"]),
    ("groups of expert gradients that a micro-batch shares", "train.micro_batches: 4\nmoe.max_expert_replicas: 2\n",
     ["bad.yaml:3:1:", "moe.max_expert_replicas (2)", "train.micro_batches (4)", "4, 8"]),
    ("shards no power of two", "train: {batch: 6, shards: 6}\n", ["train.shards (6)", "power of two", "train.shards=2"]),
    ("momentum of an optimizer without one", "train.momentum: 0.9\n",
     ["bad.yaml:2:1:", "train.momentum", "train.optimizer: sgd", "leave it out"]),
    ("eps of Lion", "train: {optimizer: lion, eps: 0.1}\n", ["bad.yaml:2:", "train.eps", "train.optimizer: adamw"]),
    ("beta of SGD", "train: {optimizer: sgd, beta2: 0.99}\n", ["bad.yaml:2:", "train.beta2", "adamw"]),
    ("Nesterov without momentum", "train: {optimizer: sgd, momentum: 0, nesterov: true}\n",
     ["bad.yaml:2:", "train.nesterov", "train.momentum=0.9"]),
    ("min_lr above lr", "train: {lr: 0.1, min_lr: 0.2}\n", ["train.min_lr (0.2)", "train.lr (0.1)"]),
    ("decay without wsd", "train.decay: 5\n", ["train.decay (5)", "wsd"]),
    ("warm-up and decay longer than the run", "train: {steps: 10, warmup: 5, decay: 6, schedule: wsd}\n",
     ["train.warmup (5)", "train.decay (6)", "at most 5"]),
    ("kv_heads do not divide", "attention: {heads: 4, kv_heads: 3}\n", ["attention.kv_heads (3)", "1, 2, 4"]),
    ("heads do not divide d_model", "attention.heads: 3\n", ["bad.yaml:2:1:", "attention.heads (3)", "attention.d_head"]),
    ("odd d_head", "attention.d_head: 5\n", ["attention.d_head (5)", "attention.d_head=6"]),
    ("top_k above experts", "moe: {experts: 2, top_k: 3}\n", ["bad.yaml:2:19:", "moe.top_k (3)", "moe.experts (2)", "at most 2"]),
    ("too few experts for the default top_k", "moe.experts: 1\n", ["bad.yaml:2:1:", "moe.top_k (2)", "moe.experts (1)"]),
    ("router without gradient", "moe.top_k: 1\n", ["bad.yaml:2:1:", "no gradient", "moe.router=topk_softmax"]),
    ("router without gradient by normalising", "moe: {top_k: 1, router: topk_softmax, normalize_top_k: true}\n",
     ["no gradient", "moe.normalize_top_k=false"]),
    ("scaling factor of another router", "moe.scaling_factor: 2\n",
     ["bad.yaml:2:1:", "moe.scaling_factor (2)", "moe.router=sigmoid"]),
    ("groups that do not divide", "moe: {experts: 8, groups: 3}\n", ["moe.groups (3)", "moe.experts (8)"]),
    ("groups that are too few", "moe: {experts: 8, groups: 4, top_groups: 1, top_k: 3}\n",
     ["moe.top_k (3)", "moe.top_groups to at least 2"]),
    ("more groups than there are", "moe: {groups: 2, top_groups: 3}\n", ["moe.top_groups (3)", "moe.groups (2)"]),
    ("noise of another router", "moe.noise_in_evaluation: true\n", ["moe.noise_in_evaluation", "moe.router=noisy_top_k"]),
    ("sinkhorn with a bias", "moe: {router: sinkhorn, bias_update: sign}\n", ["moe.bias_update=none"]),
    ("sinkhorn in groups", "moe: {router: sinkhorn, groups: 2, top_groups: 2}\n", ["moe.groups (2)"]),
    ("one choice of noisy logits", "moe: {router: noisy_top_k, top_k: 1}\n", ["moe.top_k (1)", "no gradient"]),
    ("scaling factor that is divided out", "moe: {router: sigmoid, scaling_factor: 2, renormalize_after_drop: true}\n",
     ["moe.renormalize_after_drop", "moe.scaling_factor (2)"]),
    ("experts that choose in a causal model", "moe.router: expert_choice\n",
     ["bad.yaml:2:1:", "moe.router=expert_choice", "moe.allow_noncausal=true"]),
    ("a masked model that predicts further", "mtp.layers: 2\ntrain.objective: masked\n",
     ["bad.yaml:2:1:", "mtp.layers (2)", "train.objective=causal"]),
    ("tokens that are known already", "mtp.layers: 1\nmoe: {router: expert_choice, allow_noncausal: true}\n",
     ["bad.yaml:2:1:", "mtp.layers (1)", "moe.router=expert_choice"]),
    ("slots and tokens further on", "mtp.layers: 1\nmodel.feed_forward: soft_moe\nmoe.allow_noncausal: true\n",
     ["bad.yaml:2:1:", "mtp.layers (1)", "model.feed_forward=soft_moe"]),
    ("modules beyond the window", "mtp.layers: 4\ntrain.context: 4\n",
     ["bad.yaml:2:1:", "mtp.layers (4)", "train.context (4)"]),
    ("a factor of no modules", "mtp.loss_factor: 0.3\n", ["bad.yaml:2:1:", "mtp.loss_factor", "mtp.layers=1"]),
    ("masks of a causal model", "train.mask_share: 0.3\n",
     ["bad.yaml:2:1:", "train.mask_share", "train.objective=masked"]),
    ("an objective's earlier name", "model.objective: causal\n", ["bad.yaml:2:1:", "model.objective", "train.objective"]),
    ("balance of experts that choose", "moe: {router: expert_choice, allow_noncausal: true, balance_loss: 0.1}\n",
     ["moe.balance_loss", "equally many"]),
    ("noncausal tokens that choose", "moe.allow_noncausal: true\n", ["moe.allow_noncausal", "moe.router=expert_choice"]),
    ("more hash layers than layers", "model.layers: 2\nmoe.hash_layers: 3\n",
     ["bad.yaml:3:1:", "moe.hash_layers (3)", "model.layers (2)"]),
    ("hash layers of a hash router", "moe: {router: hash, hash_layers: 1}\n", ["moe.hash_layers", "moe.router=hash"]),
    ("bias of a gate that is not there", "moe: {router: hash, bias_update: sign}\n",
     ["bad.yaml:2:21:", "moe.bias_update", "moe.router=hash"]),
    ("balance of a gate that is not there", "moe: {router: hash, balance_loss: 0.1}\n",
     ["moe.balance_loss", "moe.router=hash"]),
    ("noisy load without noise", "moe.balance: [{kind: noisy_load}]\n", ["kind: noisy_load", "moe.router=noisy_top_k"]),
    ("noisy load of experts that are all chosen", "moe: {router: noisy_top_k, top_k: 8, balance: [{kind: noisy_load}]}\n",
     ["moe.top_k (8)", "kind: importance"]),
    ("noisy load beside a bias", "moe: {router: noisy_top_k, bias_update: sign, balance: [{kind: noisy_load}]}\n",
     ["kind: noisy_load", "moe.bias_update"]),
    ("importance of a gate that is not there", "moe: {router: hash, balance: [{kind: importance}]}\n",
     ["bad.yaml:2:30:", "moe.balance acts", "moe.router=hash"]),
    ("balance of experts that choose, in a list",
     "moe: {router: expert_choice, allow_noncausal: true, balance: [{factor: 0.1}]}\n", ["moe.balance ", "equally many"]),
    ("jitter of a gate that is not there", "moe: {router: hash, jitter: 0.1}\n", ["moe.jitter", "set it to 0"]),
    ("the drops of a system and experts that choose", "compat: megatron\nmoe: {router: expert_choice, allow_noncausal: true}\n",
     ["moe.drop is of tokens that choose", "set it to position"]),
    ("the factor of a system and another router", "compat: deepseek_v3\nmoe.router: softmax_topk\n",
     ["moe.scaling_factor (2.5)", "moe.scaling_factor=1"]),
    ("weights of sinkhorn that sum to 1", "moe: {router: sinkhorn, normalize_top_k: true}\n",
     ["moe.normalize_top_k=false"]),
    ("iterations of another router", "moe.sinkhorn_iterations: 3\n", ["moe.sinkhorn_iterations", "moe.router=sinkhorn"]),
    ("a place of no dropout", "moe.dropout_at: output\n", ["moe.dropout_at", "set moe.dropout"]),
    ("rate of no bias", "moe.bias_rate: 0.1\n", ["bad.yaml:2:1:", "moe.bias_rate", "moe.bias_update=none"]),
    ("rate of quantiles", "moe: {bias_update: quantile, balance_loss: 0, bias_rate: 0.1}\n",
     ["moe.bias_rate", "moe.bias_update=quantile"]),
    ("ema of a sign", "moe: {bias_update: sign, bias_ema: 0.1}\n", ["moe.bias_ema", "moe.bias_update=sign"]),
    ("steps of no bias", "moe.bias_steps: 5\n", ["moe.bias_steps", "moe.bias_update=none"]),
    ("quantiles of groups", "moe: {bias_update: quantile, balance_loss: 0, groups: 2, top_groups: 1}\n",
     ["moe.bias_update: quantile", "moe.groups=1"]),
    ("yarn's context without yarn", "attention: {rope_scaling: linear, rope_factor: 2, rope_original_context: 64}\n",
     ["attention.rope_original_context", "attention.rope_scaling=yarn"]),
    ("yarn's pairs without yarn", "attention.rope_beta_fast: 16\n", ["attention.rope_beta_fast", "yarn"]),
    ("sigma of another force", "moe: {force: random, force_sigma: 2}\n", ["moe.force_sigma", "moe.force=skewed"]),
    ("hot experts of another force", "moe.hot_experts: 2\n", ["moe.hot_experts", "moe.force=hot_rank"]),
    ("fewer hot experts than choices", "moe: {force: hot_rank, top_k: 3, hot_experts: 2}\n",
     ["moe.hot_experts (2)", "moe.top_k (3)", "moe.experts (8)"]),
    ("two who choose", "moe: {force: random, replay: a.h5}\n", ["moe.replay", "moe.force"]),
    ("written and read", "moe: {record: a.h5, replay: a.h5}\n", ["moe.record", "moe.replay"]),
    ("routing of a dense model", "moe: {experts: 0, record: a.h5}\n", ["moe.record", "moe.experts"]),
    ("width of shared experts without any", "moe.shared_d_ff: 64\n",
     ["bad.yaml:2:1:", "moe.shared_experts is 0", "moe.shared_experts=1"]),
    ("gate of shared experts without any", "moe.shared_gate: true\n",
     ["bad.yaml:2:1:", "moe.shared_experts is 0", "moe.shared_gate=false"]),
    ("muP with SGD", "train.optimizer: sgd\nmodel.mup_base_width: 64\n",
     ["model.mup_base_width", "train.optimizer", "adamw"]),
    ("a base head without muP", "attention.mup_base_d_head: 4\n",
     ["bad.yaml:2:1:", "attention.mup_base_d_head (4)", "model.mup_base_width"]),
    ("dropout of everything", "train.dropout: 1\n", ["train.dropout", "0.99"]),
    ("no layer with experts", "model.layers: 2\nmoe: {every: 3, first: false}\n", ["moe.every (3)", "model.layers (2)"]),
    ("more ranks than experts", "parallel.expert: 9\n", ["bad.yaml:2:1:", "parallel.expert (9)", "moe.experts", "a divisor of the ranks, 8 at most"]),
    ("expert parallelism without experts", "parallel.expert: 2\nmoe.experts: 0\n", ["parallel.expert (2)", "moe.experts is 0"]),
    ("replicas no power of two", "moe.max_expert_replicas: 3\n", ["moe.max_expert_replicas (3)", "1, 2, 4, 8"]),
    ("too many choices for 32 bits", "train: {batch: 1048576, context: 65536}\n", ["2^31", "train.micro_batches"]),
]


class WrongConfiguration(ProgramTest):
    def test_each_wrong_file_is_one_clear_error(self):
        for what, text, parts in WRONG_FILES:
            with self.subTest(what):
                text = text if isinstance(text, bytes) else text.encode()
                self.write("bad.yaml", b"data.train: train.txt\n" + text)
                before = self.snapshot()
                outcome = self.run_program("--print-config", "bad.yaml")
                self.assert_error(outcome, 2, "bad.yaml", *parts)
                self.assertEqual(outcome.out, "", "nothing is printed beside the error")
                self.assertEqual(self.snapshot(), before, "nothing is written")

    def test_required_keys_are_named(self):
        self.write("bad.yaml", "train.steps: 5\n")
        self.assert_error(self.run_program("--print-config", "bad.yaml"), 2, "bad.yaml", "data.train is missing")

    def test_a_configuration_that_is_not_there(self):
        for name, why in (("none.yaml", "No such file"), (".", "folder")):
            self.assert_error(self.run_program("--print-config", name), 2, name, why)

    def test_wrong_overrides_name_the_command_line(self):
        self.write_tiny()
        for override, parts in (
            ("train.stepz=5", ["did you mean 'train.steps'"]),
            ("train.steps=x", ["train.steps", "'x'"]),
            ("moe.top_k=5", ["moe.top_k (5)", "moe.experts (4)"]),
            ("run.dir=\xe9\udcff", ["run.dir", "UTF-8"]),
        ):
            with self.subTest(override):
                outcome = self.run_program("--print-config", "tiny.yaml", override)
                self.assert_error(outcome, 2, "command line", *parts)

    def test_ranks_that_cannot_run_it(self):
        self.write_tiny()
        for ranks, overrides, parts in (
            (9, [], ["9 ranks", "train.shards (8)", "-np 8 or fewer"]),
            (4, ["parallel.expert=2", "moe.max_expert_replicas=1"], ["4 ranks", "2 times", "max_expert_replicas is 1"]),
            (3, ["train.micro_batches=4"], ["3 ranks", "train.micro_batches (4)", "-np 2 or fewer", "fewer train.micro_batches"]),
            (4, ["train.batch=12", "train.shards=6", "train.reproducible=run"], ["4 ranks", "train.shards (6)", "1, 2, 3, 6"]),
            (2, ["parallel.expert=4"], ["parallel.expert (4)", "2 ranks", "1, 2"]),
            (15, ["train.batch=16", "train.shards=16", "moe.experts=8", "parallel.expert=5"],
             ["parallel.expert (5) needs 32 shards", "15 ranks", "set it to one of 1"]),
            (8, ["moe.max_expert_replicas=1"], ["8 ranks", "2 times", "leave it out"]),
        ):
            with self.subTest(ranks=ranks, overrides=overrides):
                outcome = self.run_program("plan", "tiny.yaml", "-np", str(ranks), *overrides)
                self.assert_error(outcome, 2, *parts)

    def test_under_mpirun_rank_0_speaks_alone_and_all_leave_together(self):
        self.write_tiny(train__steps="x")
        self.assert_error(self.run_program("tiny.yaml", ranks=2), 2, "tiny.yaml:7:1:", "train.steps", "'x'")
        self.write_tiny(train__shards="2")
        self.assert_error(self.run_program("tiny.yaml", ranks=3), 2, "3 ranks", "-np 2 or fewer")
        self.assert_error(self.run_program("--print-config", "tiny.yaml", "x.y=1", ranks=2), 2, "x.y")


if __name__ == "__main__":
    main()
