"""Every key at its least and its greatest value, alone and in pairs: a plan, or exit code 2 and one line that says why."""
import array
import itertools
import re
from concurrent.futures import ThreadPoolExecutor

from program import ProgramTest, main

NUMBERS = ["data.format=uint32", "data.train=tokens.bin"]  # what the keys of token files need
# Keys whose values are multiplied with each other somewhere.
SIZES = re.compile(r"model\.(d_model|layers|d_ff)|attention\.(heads|kv_heads|d_head|d_value)|parallel\.\w+|"
                   r"moe\.(experts|top_k|d_ff|every|capacity_factor|min_capacity|max_expert_replicas)|"
                   r"train\.(batch|context|shards|micro_batches)|data\.vocab_size")


class KeyLimitsTest(ProgramTest):
    known = {}

    def limits(self):
        """Of every key with numbers: its least and greatest value, as `moetrain help KEY` says them. Asked once."""
        if KeyLimitsTest.known:
            return KeyLimitsTest.known
        names = re.findall(r"^  ([a-z][\w.]*) ", self.run_program("help").out, re.MULTILINE)
        limits = {}
        for name in names:
            legal = re.search(r"value: .*\bfrom (\S+) to ([^\s;,]+)", self.run_program("help", name).out)
            if legal:
                limits[name] = legal.groups()
        self.assertGreater(len(limits), 40)
        KeyLimitsTest.known = limits
        return limits

    def plan_all(self, cases):
        """cases: (ranks, changes). Nothing but a plan or an explained refusal."""
        self.write("tokens.bin", array.array("I", [n * n % 7 % 2 for n in range(3000)]).tobytes())
        tiny = self.write_tiny()

        def plan(case):
            ranks, changes = case
            return self.run_program("plan", tiny, "-np", str(ranks), *changes)

        with ThreadPoolExecutor(2) as pool:
            planned = 0
            for outcome in pool.map(plan, cases):
                self.assertIn(outcome.code, (0, 2), str(outcome))
                if outcome.code == 2:
                    self.assert_error(outcome, 2)
                    self.assertGreater(len(outcome.errors[0]), 40, str(outcome))
                else:
                    planned += 1
                    self.assertNotRegex(outcome.out.replace(self.folder, ""), r"nan|inf\b|-\d", str(outcome))
        return planned

    def test_each_key_alone(self):
        cases = []
        for key, ends in self.limits().items():
            more = NUMBERS if key.startswith("data.") else []
            if key == "data.bytes_per_token":
                more = [*more, "data.vocab_size=300"]
            cases += [(ranks, [f"{key}={value}", *more]) for value in ends for ranks in (1, 2)]
        self.assertGreater(self.plan_all(cases), len(cases) / 2)

    def test_pairs_of_sizes_at_their_greatest(self):
        greatest = {key: ends[1] for key, ends in self.limits().items() if SIZES.fullmatch(key)}
        self.assertGreater(len(greatest), 17)
        cases = []
        for pair in itertools.combinations(greatest, 2):
            cases.append((2, [f"{key}={greatest[key]}" for key in pair] +
                             (NUMBERS if "data.vocab_size" in pair else [])))
        self.plan_all(cases)

    def test_pairs_that_fit_together(self):
        """Greatest values that do not contradict each other get as far as the layout."""
        rows = ["moe.dispatch=padded", "moe.capacity_factor=1000"]
        huge = ["model.d_model=65536", "model.layers=1024", "model.d_ff=1000000", "moe.d_ff=1000000"]
        self.plan_all([
            (1, ["train.batch=65536", "train.shards=65536"]),
            (2, ["train.batch=65536", "train.shards=65536", "moe.experts=65536", "moe.top_k=64"]),
            (1, ["model.layers=1024", "moe.experts=0"]),
            (2, ["train.batch=1048576", "train.context=1000", "moe.top_k=1", "moe.router=topk_softmax"]),
            (2, ["moe.experts=65536", "train.batch=65536", *rows]),
            (2, ["moe.min_capacity=1000000000", "moe.capacity_factor=0.0001", "train.batch=8192"]),
            (2, ["moe.min_capacity=1000000000", *rows]),
            (2, [*huge, "moe.experts=65536"]),
            (2, [*huge, "moe.experts=65536", "data.vocab_size=2147483647", *NUMBERS]),
            (2, [*huge, "moe.experts=0", "train.batch=1073741824", "train.context=1000000", "train.micro_batches=512"]),
            (1, ["data.vocab_size=2147483647", "model.d_model=65536", "train.batch=4194304", *NUMBERS]),
        ])

    def test_a_thousand_layers_are_trained(self):
        tiny = self.write_tiny()
        self.assert_done(self.run_program(
            tiny, "run.dir=run", "train.steps=1", "model.layers=1024", "model.d_model=2", "attention.heads=1",
            "attention.d_head=2", "moe.d_ff=1", "moe.experts=2", "train.batch=1", "train.context=2"))

    def test_thousands_of_shards_are_trained(self):
        tiny = self.write_tiny()
        self.assert_done(self.run_program(tiny, "run.dir=run", "train.steps=1", "train.batch=4096",
                                          "train.shards=4096", "train.context=2"))

    def test_rows_that_cannot_be_numbered(self):
        """The advice names what makes them so many."""
        tiny = self.write_tiny()
        padded = self.run_program("plan", tiny, "-np", "2", "train.batch=1048576", "train.context=16",
                                  "moe.experts=1024", "moe.dispatch=padded", "moe.capacity_factor=1",
                                  "moe.min_capacity=1000000000")
        self.assert_error(padded, 2, "moe.min_capacity", "moe.dispatch=exact", "train.micro_batches")
        # An expert can be chosen once by a token, so a greater capacity costs nothing.
        plans = [self.run_program("plan", tiny, "-np", "2", "moe.dispatch=padded", "moe.capacity_factor=1",
                                  f"moe.min_capacity={least}") for least in ("16", "1000000000")]
        self.assert_done(plans[0])
        self.assertEqual(plans[0].out, plans[1].out)

    def test_a_model_beyond_counting(self):
        tiny = self.write_tiny()
        self.assert_error(self.run_program("plan", tiny, "-np", "1", "model.d_model=65536", "model.layers=1024",
                                           "moe.experts=65536", "moe.d_ff=1000000"),
                          2, "parameters is beyond what can be planned", "moe.experts")


if __name__ == "__main__":
    main()
