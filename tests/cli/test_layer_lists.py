"""Keys with a value for each layer: a number or word, or a list that repeats over the layers."""
import re

from program import ProgramTest, main

SHAPES = ["model.layers=4", "model.feed_forward=[dense,moe]", "moe.experts=[2,8]", "moe.top_k=[2,3]",
          "moe.d_ff=8,16,24", "train.steps=2", "train.schedule=constant", "train.warmup=0"]


class LayerListsTest(ProgramTest):
    def printed(self, *changes, config=None):
        outcome = self.run_program("--print-config", config or self.write_tiny(), *changes)
        self.assert_done(outcome)
        return outcome.out

    def value(self, key, *changes, config=None):
        return re.search(rf"^{re.escape(key)}: (.*?) +# ", self.printed(*changes, config=config), re.MULTILINE)[1]

    def test_every_way_to_write_a_list(self):
        for text in ("moe.experts: [8, 16]\n", "moe.experts:\n- 8\n- 16\n", "moe: {experts: [8, 16]}\n",
                     "moe.experts: [8, 16, 8, 16]\n"):
            config = self.write("list.yaml", "data.train: train.txt\n" + text)
            self.assertEqual(self.value("moe.experts", config=config), "[8, 16]", text)
        for text in ("8,16", "[8,16]", "[8, 16]", "8,16,8,16"):
            self.assertEqual(self.value("moe.experts", f"moe.experts={text}"), "[8, 16]", text)
        self.assertEqual(self.value("moe.experts", "moe.experts=[8]"), "8")
        self.assertEqual(self.value("model.feed_forward", "model.feed_forward=dense,moe"), "[dense, moe]")

    def test_what_follows_is_said_as_a_list(self):
        for changes, list_ in (
                ([], "moe"), (["moe.experts=0"], "dense"), (["moe.every=2"], "[moe, dense]"),
                (["moe.every=2", "moe.first=false"], "[dense, moe]"), (["moe.experts=[0,4]"], "[dense, moe]"),
                (["moe.every=3", "moe.first=false", "moe.experts=[4,0]", "model.layers=3"],
                 "[dense, dense, moe, dense, dense, dense]"),
                (["moe.every=1024"], "[moe" + ", dense" * 1023 + "]"),
                (["moe.every=1023", "moe.experts=[4,0]"], "[moe, dense]")):  # what repeats is longer than can be
            self.assertEqual(self.value("model.feed_forward", *changes), list_, changes)
        self.assertEqual(self.value("moe.d_ff", "model.d_ff=24", config=self.write_tiny(moe__d_ff=None)), "24")

    def test_what_is_printed_reads_back_to_the_same(self):
        strip = re.compile(" +# .*$", re.MULTILINE)
        for changes in (SHAPES, ["moe.every=3", "moe.first=false", "model.layers=7", "moe.experts=[4,0]"],
                        ["model.layers=1024", "moe.every=1023", "moe.experts=[4,0]"],
                        ["model.layers=1024", "moe.experts=" + ",".join(map(str, range(2, 1026)))]):
            first = strip.sub("", self.printed(*changes))
            again = strip.sub("", self.printed(config=self.write("again.yaml", first)))
            self.assertEqual(first, again)

    def test_a_list_of_maps_is_read_and_told(self):
        wanted = "[{kind: load, scope: sequence, factor: 0.0001}, {kind: load, scope: step, factor: 0.01}]"
        text = "[{scope: sequence, factor: 1e-4}, {scope: step}]"
        for config in (f"moe.balance: {text}\n", f"moe: {{balance: {text}}}\n",
                       "moe:\n  balance:\n  - scope: sequence\n    factor: 1e-4\n  - scope: step\n"):
            config = self.write("maps.yaml", "data.train: train.txt\n" + config)
            self.assertEqual(self.value("moe.balance", config=config), wanted)
        self.assertEqual(self.value("moe.balance", f"moe.balance={text}"), wanted)
        short = ("moe.balance_scope=batch", "moe.balance_loss=0.5")
        self.assertEqual(self.value("moe.balance", *short), "[{kind: load, scope: batch, factor: 0.5}]")
        again = self.write("again.yaml", re.sub(" +# .*$", "", self.printed(*short), flags=re.MULTILINE))
        self.assertEqual(self.value("moe.balance", config=again), "[{kind: load, scope: batch, factor: 0.5}]")
        for text, parts in (
                ("moe.balance:\n- scope: step\n- factor: -1\n", ["bad.yaml:4:11:", "map 2 of moe.balance: factor is '-1'"]),
                ("moe.balance: [{scpoe: step}]\n", ["bad.yaml:2:23:", "unknown field 'scpoe'; did you mean 'scope'"]),
                ("moe.balance: [{scope: step}, {scope: step}]\n", ["bad.yaml:2:", "twice", "factors (0.02)"]),
                ("moe.balance: [{kind: importance, scope: step}]\n", ["bad.yaml:2:", "kind: importance", "scope: batch"]),
                ("moe.balance: {scope: step}\n", ["bad.yaml:2:", "'moe.balance.scope' is no key", "list"]),
                ("moe.balance: [{scope: step}]\nmoe.balance_loss: 0.1\n", ["bad.yaml:2:14:", "moe.balance_loss (0.1)"]),
                ("moe.experts: [{scope: step}]\n", ["bad.yaml:2:14:", "maps", "moe.experts"])):
            bad = self.write("bad.yaml", "data.train: train.txt\n" + text)
            self.assert_error(self.run_program("--print-config", bad), 2, *parts)

    def test_an_item_that_is_wrong_is_named_with_its_place(self):
        for text, parts in (
                ("moe.experts: [8, x]\n", ["bad.yaml:2:18:", "item 2 of moe.experts is 'x'", "from 0 to 65536"]),
                ("moe:\n  experts:\n  - 8\n  - 70000\n", ["bad.yaml:5:5:", "item 2", "'70000'"]),
                ("moe.experts: []\n", ["bad.yaml:2:14:", "empty list"]),
                ("moe.experts: x\n", ["bad.yaml:2:1:", "moe.experts is 'x'", "list"]),
                ("moe.experts: 8,16\n", ["bad.yaml:2:1:", "moe.experts is '8,16'", "brackets"]),  # not thousands
                ("moe.experts: [8, [16]]\n", ["bad.yaml:2:14:", "list"]),
                ("moe.top_k: [2, 1_0]\n", ["bad.yaml:2:16:", "item 2", "write 10"]),
                ("model.feed_forward: [dense, meo]\n", ["bad.yaml:2:29:", "item 2", "did you mean 'moe'"]),
                ("moe.experts: [" + "8, " * 1024 + "9]\n", ["bad.yaml:2:14:", "1025 items"]),
                ("model.layers: [2, 3]\n", ["bad.yaml:2:15:", "list", "model.layers"])):
            config = self.write("bad.yaml", "data.train: train.txt\n" + text)
            self.assert_error(self.run_program("--print-config", config), 2, *parts)
        for change, parts in (("moe.experts=8,x", ["command line", "item 2 of moe.experts is 'x'"]),
                              ("moe.d_ff=1,000", ["command line", "item 2", "'000'"]),
                              ("model.mixer=atention", ["did you mean 'attention'"])):
            self.assert_error(self.run_program("--print-config", self.write_tiny(), change), 2, *parts)

    def test_keys_that_no_layer_reads_are_named_and_change_nothing(self):
        sizes = ["moe.experts=8", "moe.d_ff=24", "moe.dropout=0.1", "moe.dropout_at=output"]
        gate = ["moe.router=sigmoid", "moe.scaling_factor=2", "moe.jitter=0.1", "moe.router_init_scale=2", "moe.gate_bias=true",
                "moe.bias_update=sign", "moe.bias_rate=0.1", "moe.z_loss=0.1"]
        balance = ["moe.balance_loss=0.5", "moe.balance_scope=sequence", "moe.balance_share=tokens", "moe.balance_choices=first"]
        routed = ["moe.top_k=3", "moe.shared_experts=1", "moe.shared_d_ff=8", "moe.shared_gate=true", "moe.capacity_factor=1.5",
                  "moe.capacity_rounding=floor", "moe.min_capacity=2", "moe.drop=random", "moe.routing_group=sequence",
                  "moe.dispatch=padded", "moe.force=balanced", "moe.zero_experts=2", "moe.zero_kind=null"]
        dense = "model.feed_forward=dense"
        self.write_tiny()
        for run, kind, unread in (
                ("dense", [dense], [*routed, *gate, *balance, *sizes, "peer.d_key=3"]),
                ("peer", ["model.feed_forward=peer"], [*routed, *gate, *balance, *sizes]),
                ("soft", ["model.feed_forward=soft_moe", "moe.allow_noncausal=true"], [*routed, *gate, *balance]),
                ("moa", [dense, "model.mixer=moa", "attention.experts=4"], [*routed, *sizes]),
                ("switchhead", [dense, "model.mixer=switchhead", "attention.experts=4"], [*routed, *gate, *sizes])):
            with self.subTest(run):
                self.assert_done(self.run_program("tiny.yaml", *kind, f"run.dir={run}"))
                beside = self.run_program("tiny.yaml", *kind, *unread, f"run.dir={run}-beside", ranks=2)
                self.assert_done(beside)
                told = [sorted(line.split(", ")) for line in re.findall(r"warning: (.*): no layer reads these keys", beside.err)]
                self.assertEqual(told, [sorted(word.split("=")[0] for word in unread)])
                digests = {self.run_program("inspect", "--digest", f"{of}/checkpoints/step-00000002.h5").out
                           for of in (run, f"{run}-beside")}
                self.assertEqual(len(digests), 1)
        # Nothing is said where something reads them, nor of what a resolved file says anyway.
        printed = self.run_program("--print-config", "tiny.yaml", "moe.experts=0", "moe.d_ff=96").out
        self.write("all.yaml", "".join(line.split(" #")[0] + "\n" for line in printed.splitlines()))
        for changes in ([], ["model.feed_forward=[dense,moe]"], ["model.feed_forward=pr_moe"]):
            self.assertNotIn("no layer reads", self.run_program("plan", "tiny.yaml", *changes, "-np", "1").err)
        self.assertIn("moe.d_ff: no layer reads this key (model.mixer: attention, model.feed_forward: dense)",
                      self.run_program("plan", "all.yaml", "moe.d_ff=24", "-np", "1").err)

    def test_layers_that_contradict_each_other(self):
        for changes, parts in (
                (["model.feed_forward=moe", "moe.experts=0"], ["layer 0", "moe.experts is 0"]),
                (["model.feed_forward=moe", "moe.experts=[4,0]"], ["layer 1", "moe.experts is 0"]),
                (["model.feed_forward=[dense,moe]", "moe.every=2"], ["dense for layer 0", "moe.every (2)"]),
                (["model.feed_forward=moe", "moe.first=false", "moe.every=2"], ["moe for layer 0", "(false)"]),
                (["moe.experts=[4,2]", "moe.top_k=3"], ["moe.top_k (3)", "moe.experts (2) in layer 1", "at most 2"]),
                (["moe.top_k=[2,1]"], ["moe.top_k (1) in layer 1", "topk_softmax"]),
                (["moe.experts=[8,12]", "parallel.expert=9"], ["parallel.expert (9)", "moe.experts", "8 at most"]),
                (["model.feed_forward=pr_moe", "moe.experts=[4,0]"], ["says pr_moe for layer 1", "moe.experts is 0"]),
                (["model.feed_forward=pr_moe", "moe.shared_gate=true"], ["moe.shared_gate", "pr_moe", "false"]),
                (["model.feed_forward=latent_moe", "moe.latent_width=16"], ["moe.latent_width (16)", "model.d_model (16)"]),
                (["moe.latent_width=7"], ["moe.latent_width", "model.feed_forward=latent_moe"]),
                (["model.feed_forward=soft_moe"], ["soft_moe", "moe.allow_noncausal=true"]),
                (["model.feed_forward=[soft_moe,moe]", "moe.allow_noncausal=true", "moe.experts=[0,4]"], ["layer 0", "is 0"]),
                (["moe.slots=2"], ["moe.slots", "model.feed_forward=soft_moe"]),
                (["model.mixer=moa"], ["attention.experts (0)", "attention.heads (2)", "set it to 8"]),
                (["model.mixer=[attention,moa]", "attention.experts=4", "attention.top_k=3"], ["attention.heads=3"]),
                (["model.mixer=moa", "attention.experts=4", "attention.kv_heads=2"], ["attention.kv_heads is 2", "moa"]),
                (["model.mixer=moa", "attention.experts=4", "attention.gate=head"], ["set attention.gate=none"]),
                (["model.mixer=moa", "attention.experts=4", "moe.router=hash"], ["moe.router=hash", "moa"]),
                (["model.mixer=moa", "attention.experts=4", "moe.groups=2"], ["moe.groups (2)", "moa"]),
                (["model.mixer=moa", "attention.experts=4", "attention.heads=1"], ["attention.heads 1", "topk_softmax"]),
                (["model.mixer=moa", "attention.experts=4", "train.qk_clip=1"], ["train.qk_clip (1)", "model.mixer=attention"]),
                (["model.mixer=[moa,latent_attention]", "attention.experts=4"], ["attention.kv_heads", "leave it out"]),
                (["model.mixer=switchhead"], ["attention.top_k (2)", "attention.experts (0)", "attention.experts=4"]),
                (["model.mixer=switchhead", "attention.experts=2", "attention.top_k=3"], ["attention.top_k (3)"]),
                (["model.mixer=switchhead", "attention.experts=4", "attention.kv_heads=1"], ["attention.kv_heads (1)", "switchhead"]),
                (["model.mixer=switchhead", "attention.experts=4", "attention.softmax=sink"], ["attention.softmax", "switchhead"]),
                (["model.mixer=switchhead", "attention.experts=4", "moe.experts=0", "moe.balance_loss=0.1"],
                 ["{kind: load, factor: 0.1}", "switchhead", "kind: importance"]),
                (["model.mixer=switchhead", "attention.experts=4", "model.feed_forward=dense",
                  "moe.balance=[{kind: importance}, {scope: sequence}]"], ["{kind: load, factor: 0.01}"]),
                (["model.mixer=[moa,switchhead]", "attention.experts=4"], ["moa and switchhead"]),
                (["attention.experts=4"], ["attention.experts", "model.mixer=moa"]),
                (["model.mixer=moa", "attention.experts=6", "parallel.expert=7"], ["(7)", "attention.experts", "4 at most"]),
                (["model.feed_forward=peer,moe", "moe.every=2"], ["says peer for layer 0", "moe.every (2)"]),
                (["model.feed_forward=peer", "peer.keys=8"], ["peer.top_k (16)", "peer.keys (8)"]),
                (["peer.heads=4"], ["peer.heads", "model.feed_forward=peer"]),
                (["peer.query_norm=batch"], ["peer.query_norm", "model.feed_forward=peer"]),
                (["model.feed_forward=peer", "peer.keys=5", "peer.top_k=4", "parallel.expert=2"],
                 ["parallel.expert (2)", "peer.keys^2", "1 at most"]),
                (["model.feed_forward=dense", "parallel.expert=2"], ["parallel.expert (2)", "no layer"])):
            self.assert_error(self.run_program("--print-config", self.write_tiny(), *changes), 2, *parts)
        # The key of a layer that has no experts is nobody's; and both ways may say the same.
        self.printed("model.feed_forward=[dense,moe]", "moe.experts=[0,4]", "moe.top_k=[64,2]")
        self.printed("model.feed_forward=[dense,moe]", "moe.every=2", "moe.first=false")
        self.printed("model.layers=1", "moe.experts=[0,4]")

    def test_layers_of_different_sizes_train_and_go_on(self):
        tiny = self.write_tiny()
        self.assert_done(self.run_program(tiny, "run.dir=r", *SHAPES))
        self.assert_done(self.run_program(tiny, "run.dir=r", *SHAPES, "train.steps=3"))
        self.assert_done(self.run_program(tiny, "run.dir=two", *SHAPES, "train.steps=3", ranks=2))
        digests = {self.run_program("inspect", "--digest", run).out for run in ("r", "two")}
        self.assertEqual(len(digests), 1)
        tensors = self.run_program("inspect", "r").out
        self.assertRegex(tensors, r"layers\.0\.ffn\.down +f32 \(16, 64\)")
        self.assertRegex(tensors, r"layers\.1\.moe\.experts\.down +f32 \(8, 16, 16\)")
        self.assertRegex(tensors, r"layers\.3\.moe\.experts\.down +f32 \(8, 16, 8\)")
        self.assert_done(self.run_program("generate", "r", "--tokens", "3"))

    def test_layers_of_different_sizes_send_what_was_planned(self):
        config = self.write_tiny()
        padded = [*SHAPES, "model.feed_forward=[moe,moe,dense]", "moe.dispatch=padded", "moe.capacity_factor=1",
                  "moe.balance_scope=batch", "parallel.exchange_chunks=4"]
        for precision in ("f32", "bf16"):
            changes = [*padded, f"train.precision={precision}"]
            trained = self.run_program(config, f"run.dir={precision}", *changes, ranks=2)
            self.assert_done(trained)
            planned = self.run_program("plan", config, "-np", "2", *changes).out
            lines = re.findall(r"^sent by rank 0 in a step, (\w+) +planned +(\d+) bytes, fact +(\d+) \| ",
                               trained.out, re.MULTILINE)
            self.assertEqual(len(lines), 5, trained)
            for kind, plan, fact in lines:
                self.assertEqual(plan, fact, f"{precision}: {kind}")
                self.assertRegex(planned, rf"(?m)^  {kind} +{plan}$")

    def test_generation_with_a_cache_and_without_it_say_the_same(self):
        self.assert_done(self.run_program(self.write_tiny(), "run.dir=r", *SHAPES, "model.init_std=0.3"))
        greedy = ["generate", "r", "--prompt", "In the ", "--tokens", "40", "--temperature", "0"]
        cached, recomputed = self.run_program(*greedy), self.run_program(*greedy, "--recompute")
        self.assert_done(cached)
        self.assertEqual(cached.out, recomputed.out)

    def test_every_layer_has_a_history_of_its_own(self):
        config = self.write_tiny(train__batch="8", train__context="16")
        self.assert_done(self.run_program(config, "run.dir=r", *SHAPES, "model.feed_forward=[moe,moe,dense]",
                                          "log.every=1", ranks=2))
        heat = self.run_program("inspect", "r").out
        rows = re.findall(r"^ *(\d+) \|(.*)\| max_vio", heat, re.MULTILINE)
        self.assertEqual([(layer, len(experts)) for layer, experts in rows], [("0", 2), ("1", 8), ("3", 8)], heat)

    def test_a_changed_list_is_another_function(self):
        tiny = self.write_tiny()
        self.assert_done(self.run_program(tiny, "run.dir=r", *SHAPES))
        for change, parts in (
                ("moe.top_k=2", ["moe.top_k [2, 3] -> 2", "resume.allow=moe.top_k"]),
                ("model.feed_forward=[moe,dense]", ["model.feed_forward [dense, moe] -> [moe, dense]"])):
            self.assert_error(self.run_program(tiny, "run.dir=r", *SHAPES, "train.steps=3", change), 2, *parts)
        self.assert_done(self.run_program(tiny, "run.dir=r", *SHAPES, "train.steps=3", "moe.top_k=[2,3,2,3]"))
        self.assert_done(self.run_program(tiny, "run.dir=e", "train.steps=2"))
        self.assert_error(self.run_program(tiny, "run.dir=e", "train.steps=3", "moe.every=2"), 2,
                          "moe.every 1 -> 2 (so model.feed_forward moe -> [moe, dense])")

    def test_lists_too_long_for_a_line_are_told_by_their_beginnings(self):
        tiny = self.write_tiny(model__layers=1)
        long = ["moe.d_ff=" + ",".join(str(1000 + n) for n in range(1024)).replace("1000", "16", 1)]
        self.assert_done(self.run_program(tiny, "run.dir=r", "train.steps=1", *long))
        self.assert_error(self.run_program(tiny, "run.dir=r", "train.steps=2"), 2, "[16, 1001, 1002,", "... -> 16",
                          "resume.allow=moe.d_ff")


if __name__ == "__main__":
    main()
