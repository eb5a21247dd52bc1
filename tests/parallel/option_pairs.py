#!/usr/bin/env python3
"""Every pair of options, each set to another value than its default, on a tiny model: it trains two steps with finite
loss and gradients, or is refused with exit 2 and a message that names one of the keys and what to do.

  option_pairs.py TRAIN_MANY                  all pairs
  option_pairs.py TRAIN_MANY --sample         every option, in few models; the rules are asked only of these
  option_pairs.py TRAIN_MANY KEY=VALUE …      these together, and what is said of them

The rules are asked of each pair alone. Of those that they accept several are trained in one model (cover); if it fails,
each of its pairs is trained alone, to name the one.

Keys, their types and words are the program's own (train_many --keys): a new one enters by itself. A number of which
another value than the next one should be tried gets a row of SAMPLES; what needs another key to mean anything, one of
COMPANIONS."""
import collections
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time

WORKERS = 2
HANG_SECONDS = 840  # only a hang takes this long, also on a busy machine under sanitizers
LINE = 8  # options that are trained together
SECTIONS = ("model.", "attention.", "moe.", "peer.", "mtp.", "train.", "eval.", "parallel.")

# The smallest model that has all parts; the text is one line, repeated.
BASE = """\
data.train: train.txt
data.validation: train.txt
run.dir: run
resume: never
model: {d_model: 16, layers: 2, d_ff: 16}
attention.heads: 2
moe: {experts: 4, d_ff: 8}
train: {steps: 2, batch: 4, context: 8}
eval.batches: 1
checkpoint.every: 0
"""

# Values of keys that are numbers or lists, beside the default (or BASE's).
SAMPLES = {
    "moe.hot_experts": ["3"], "moe.groups": ["2"], "moe.top_groups": ["2"], "moe.jitter": ["0.1"],
    "moe.router_init_scale": ["0.1"], "attention.softcap": ["5"], "attention.dropout": ["0.1"],
    "train.batch": ["8"], "train.context": ["5"], "train.micro_batches": ["2"], "train.shards": ["2"],
    "train.lr": ["0"], "train.min_lr": ["0"], "train.warmup": ["1"], "train.decay": ["1"], "train.beta1": ["0"],
    "train.beta2": ["0"], "train.eps": ["0.001"], "train.weight_decay": ["0"], "train.momentum": ["0.5"],
    "train.clip_norm": ["0"], "train.skip_z": ["3"], "train.skip_window": ["2"], "train.qk_clip": ["0.001"],
    "train.groups": ["[{match: \"*.attention.*\", lr_scale: 0.5, weight_decay: 0}]"],
    "model.d_model": ["18"], "model.layers": ["1", "3"], "model.d_ff": ["5"], "model.norm_eps": ["0.01"],
    "model.init_std": ["0.3"], "model.embedding_init_std": ["1"], "model.mup_base_width": ["8"],
    "model.embedding_scale": ["4"], "model.logit_scale": ["0.5"], "model.logit_softcap": ["5"],
    "train.dropout": ["0.1"], "train.mask_share": ["0.5"], "moe.dropout": ["0.1"], "moe.shared_experts": ["2"], "moe.shared_d_ff": ["6"],
    "attention.mup_base_d_head": ["4"], "model.feed_forward": ["dense,moe"],
    "attention.heads": ["1", "4"], "attention.kv_heads": ["1"], "attention.d_head": ["6", "7"],
    "attention.d_value": ["3"], "attention.scale": ["0.1"], "attention.rope_theta": ["100"],
    "attention.rope_factor": ["2"], "attention.rope_original_context": ["4"], "attention.rope_attention_factor": ["1.2"],
    "attention.rope_beta_fast": ["16"], "attention.d_rope": ["2"], "attention.kv_rank": ["3"], "attention.q_rank": ["5"],
    "attention.window": ["3", "2,0"], "attention.experts": ["6"], "attention.top_k": ["2"],
    "moe.experts": ["0", "6", "2,4"], "moe.top_k": ["1", "4", "1,2"], "moe.d_ff": ["12,8"], "moe.every": ["2"],
    "moe.zero_experts": ["1", "3"], "moe.scaling_factor": ["2.5"], "moe.capacity_factor": ["1", "0.5"], "moe.min_capacity": ["3"],
    "moe.balance_loss": ["0"], "moe.bias_rate": ["0.1"], "moe.bias_ema": ["0"], "moe.bias_steps": ["1"],
    "moe.bias_decay_steps": ["1"], "moe.z_loss": ["0"], "moe.max_expert_replicas": ["2"],
    "moe.balance": ["[{scope: step}, {scope: sequence}]", "[{kind: importance}, {kind: importance, scope: batch}]",
                    "[{kind: noisy_load}]"],
    "moe.latent_width": ["6"], "moe.slots": ["3"], "mtp.layers": ["1"], "mtp.loss_factor": ["0.5"], "peer.keys": ["5"], "peer.heads": ["2"], "peer.top_k": ["3"], "peer.d_key": ["7"],
    "parallel.expert": ["1"], "parallel.exchange_chunks": ["1"],
    "eval.every": ["1"], "eval.batches": ["2"], "eval.capacity_factor": ["1"],
}
# Keys whose values change where or how long a run is, or how far it goes back, not what it computes.
LEFT_OUT = ("train.steps", "train.max_skipped", "train.threads", "train.rollback_steps", "train.rollback_batches",
            "train.rollback_limit")

# Keys that say what parts a model has: options of a part that is not there would change nothing.
PARTS = ("model.feed_forward", "model.mixer", "moe.experts", "moe.router")

FEW_PEERS = ["peer.keys=5", "peer.heads=2", "peer.top_k=3"]  # in the place of a thousand

# What an option wants beside itself, unless the pair says something else about that key.
COMPANIONS = {
    "moe.top_groups=2": ["moe.groups=2"],
    "moe.balance=[{kind: noisy_load}]": ["moe.router=noisy_top_k"],
    "moe.noise_in_evaluation=true": ["moe.router=noisy_top_k"],
    "moe.router=expert_choice": ["moe.allow_noncausal=true"],
    "moe.allow_noncausal=true": ["moe.router=expert_choice"],
    "moe.hot_experts=3": ["moe.force=hot_rank"],
    "train.mask_share=0.5": ["train.objective=masked"],
    "moe.force_sigma=0.5": ["moe.force=skewed"],
    "model.d_model=18": ["attention.d_head=8"],
    "model.feed_forward=dense": ["moe.experts=0"],
    "mtp.loss_factor=0.5": ["mtp.layers=1"],
    **{option: ["model.feed_forward=peer", *FEW_PEERS] for option in (
        "model.feed_forward=peer", "peer.keys=5", "peer.heads=2", "peer.top_k=3", "peer.d_key=7", "peer.query_norm=batch",
        "peer.activation=relu", "peer.activation=gelu", "peer.activation=gelu_tanh", "peer.activation=geglu",
        "peer.activation=relu2", "peer.activation=swiglu_oai", "peer.activation=swiglu_limit")},
    "attention.d_head=7": ["attention.positions=none"],
    "attention.rope_scaling=linear": ["attention.rope_factor=2"],
    "attention.rope_scaling=ntk": ["attention.rope_factor=2"],
    "attention.rope_scaling=llama3": ["attention.rope_factor=2", "attention.rope_original_context=4"],
    "attention.rope_truncate=false": ["attention.rope_scaling=yarn", "attention.rope_factor=2", "attention.rope_original_context=4"],
    "attention.rope_scaling=yarn": ["attention.rope_factor=2", "attention.rope_original_context=4"],
    "attention.rope_factor=2": ["attention.rope_scaling=linear"],
    "attention.rope_original_context=4": ["attention.rope_scaling=yarn", "attention.rope_factor=2"],
    "attention.rope_beta_fast=16": ["attention.rope_scaling=yarn", "attention.rope_factor=2", "attention.rope_original_context=4"],
    "attention.rope_beta_slow=0.5": ["attention.rope_scaling=yarn", "attention.rope_factor=2", "attention.rope_original_context=4"],
    "moe.sinkhorn_iterations=9": ["moe.router=sinkhorn"],
    "attention.kv_rank=3": ["model.mixer=latent_attention"],
    "attention.q_rank=5": ["model.mixer=latent_attention"],
    "model.mixer=moa": ["attention.experts=6"],
    "model.mixer=switchhead": ["attention.experts=6"],
    "attention.experts=6": ["model.mixer=moa"],
    "attention.top_k=2": ["model.mixer=moa", "attention.experts=6"],
    "moe.top_k=1": ["moe.router=topk_softmax"],
    "moe.top_k=1,2": ["moe.router=topk_softmax"],
    "moe.normalize_top_k=true": ["moe.router=topk_softmax"],
    "moe.scaling_factor=2.5": ["moe.router=sigmoid"],
    "moe.dispatch=padded": ["moe.capacity_factor=1.25"],
    "moe.drop=probability": ["moe.capacity_factor=1"],
    "moe.drop=random": ["moe.capacity_factor=1"],
    "moe.renormalize_after_drop=true": ["moe.capacity_factor=1"],
    "moe.routing_group=sequence": ["moe.capacity_factor=1"],
    "moe.routing_group=document": ["moe.capacity_factor=1", "data.documents=mask", "data.document_end=."],
    "moe.balance_scope=document": ["data.documents=mask", "data.document_end=."],
    "moe.min_capacity=3": ["moe.capacity_factor=0.5"],
    "moe.shared_gate=true": ["moe.shared_experts=1"],
    "moe.latent_width=6": ["model.feed_forward=latent_moe"],
    "moe.slots=3": ["model.feed_forward=soft_moe", "moe.allow_noncausal=true"],
    "model.feed_forward=soft_moe": ["moe.allow_noncausal=true"],
    "moe.shared_d_ff=6": ["moe.shared_experts=1"],
    "moe.dropout_at=output": ["moe.dropout=0.1"],
    "moe.zero_kind=null": ["moe.zero_experts=3"],
    "attention.mup_base_d_head=4": ["model.mup_base_width=8"],
    "model.mup_base_width=8": ["train.optimizer=adamw"],
    "moe.bias_rate=0.1": ["moe.bias_update=sign"],
    "moe.bias_update=quantile": ["moe.balance_loss=0"],
    "moe.bias_ema=0": ["moe.bias_update=quantile", "moe.balance_loss=0"],
    "moe.bias_steps=1": ["moe.bias_update=sign"],
    "moe.bias_decay_steps=1": ["moe.bias_update=sign", "moe.bias_steps=1"],
    "moe.first=false": ["moe.every=2"],
    "train.skip_window=2": ["train.skip_z=3"],
    "train.spike_policy=log": ["train.skip_z=3"],
    "train.spike_policy=rollback": ["train.skip_z=3", "checkpoint.every=1"],
    "eval.weights=ema": ["train.ema=0.5"],
    "train.decay=1": ["train.schedule=wsd"],
    "train.momentum=0.5": ["train.optimizer=sgd"],
    "train.nesterov=true": ["train.optimizer=sgd"],
}

# What a message tells the reader to do.
FIX = re.compile(r"\b(set|leave|use|give|choose|raise|lower|reduce|say|write|take|keep|add|drop|remove|name)\b")


def key_of(option):
    return option.split("=", 1)[0]


def another_number(kind, default, least, most):
    """A legal one beside the default."""
    if kind in ("integer", "integers"):
        value = int(default or least) + 1
        return str(value if value <= most else int(most) - 1)
    value = float(default or least) / 2 or 0.5
    return f"{min(max(value, least), most):g}"


def options(program):
    """key=value of all options, from the program's keys."""
    found = []
    listed = subprocess.run([program, "--keys"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        key, kind, default, least, most, words = line.split("\t")
        if not key.startswith(SECTIONS) or key in LEFT_OUT:
            continue
        values = list(SAMPLES.get(key, []))
        if kind in ("choice", "choices", "word"):
            values += [word for word in words.split("|") if word != default]
        elif kind == "flag":
            values += ["false" if default == "true" else "true"]
        elif not values and kind in ("integer", "integers", "number", "rational"):
            values = [another_number(kind, default, float(least), float(most))]
        found += [f"{key}={value}" for value in values]
    keys = {line.split("\t")[0] for line in listed.splitlines()}
    for option in [*SAMPLES, *COMPANIONS, *itertools.chain(*COMPANIONS.values())]:
        assert key_of(option) in keys, f"{option}: there is no such key"
    for option in COMPANIONS:
        assert option in found, f"COMPANIONS has {option}, which is no option"
    return found


def together(*chosen):
    """The options and the companions that they leave room for."""
    line = list(chosen)
    for option in chosen:
        for companion in COMPANIONS.get(option, []):
            if key_of(companion) not in map(key_of, line):
                line.append(companion)
    return line


def parts(*chosen):
    return frozenset(option for option in together(*chosen) if key_of(option) in PARTS)


def agree(one, other):
    """Neither wants of a key what the other does not."""
    values = {key_of(option): option for option in together(one)}
    return all(values.get(key_of(option), option) == option for option in together(other))


def cover(pairs):
    """Lines of up to LINE options such that each pair is in one whose model has the parts that it has with the pair alone,
    and no two options of a line are no pair."""
    friends, lines = collections.defaultdict(set), []
    left = collections.defaultdict(lambda: collections.defaultdict(set))  # parts: option: with whom it is in no line yet
    for one, other in pairs:
        if agree(one, other):
            friends[one].add(other)
            friends[other].add(one)
            left[parts(one, other)][one].add(other)
            left[parts(one, other)][other].add(one)
        else:
            lines.append([one, other])
    needs = {option: parts(option) for option in friends}
    for wanted, partners in left.items():
        while any(partners.values()):
            line = [max(partners, key=lambda option: len(partners[option]))]
            able = {option for option in friends[line[0]] if needs[option] <= wanted}
            while able and len(line) < LINE:
                line.append(max(sorted(able), key=lambda option: (len(partners[option].intersection(line)), len(partners[option]))))
                able &= friends[line[-1]]
            for option in line:
                partners[option].difference_update(line)
            lines.append(line)
    return lines


class Worker:
    """A train_many that is given its lines at once; after a crash another one goes on behind the line."""

    def __init__(self, program, number):
        self.program, self.number = program, number
        self.scratch = tempfile.TemporaryDirectory(prefix="moetrain-pairs-")
        with open(self.path("train.txt"), "w") as file:
            file.write("In the beginning God created the heaven and the earth. " * 20)
        with open(self.path("base.yaml"), "w") as file:
            file.write(BASE)

    def path(self, name):
        return os.path.join(self.scratch.name, name)

    def open(self, verb, **streams):
        environment = dict(os.environ, OMP_NUM_THREADS="1", OMPI_MCA_mpi_yield_when_idle="1",
                           OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        return subprocess.Popen([self.program, *verb, "base.yaml"], cwd=self.scratch.name, env=environment, **streams)

    def start(self, lines, verb=()):
        self.lines, self.verb = lines, verb
        with open(self.path("lines"), "w") as file:
            file.writelines("\t".join(line) + "\n" for line in lines)
        with open(self.path("lines")) as given, open(self.path("answers"), "w") as answers, \
                open(self.path("errors"), "w") as errors:
            self.process = self.open(verb, stdin=given, stdout=answers, stderr=errors)

    def answers(self):
        """Of all lines."""
        found = []
        while True:
            code = self.process.wait(HANG_SECONDS)
            with open(self.path("answers")) as file:
                new = file.read().splitlines()
            found += list(zip(self.lines, new))
            if code == 0 and len(new) == len(self.lines):
                return found
            with open(self.path("errors"), errors="replace") as file:
                tail = file.read()[-2000:]
            if len(new) == len(self.lines):
                raise AssertionError(f"exit code {code} after the last answer\n{tail}")
            found.append((self.lines[len(new)], f"crashed {code} {tail}"))
            self.start(self.lines[len(new) + 1:], self.verb)


def run(program, lines, verb=()):
    """(line, answer) of all lines, in their order."""
    workers = [Worker(program, number) for number in range(WORKERS)]
    for worker in workers:
        worker.start(lines[worker.number::WORKERS], verb)
    answers = [None] * len(lines)
    for worker in workers:
        answers[worker.number::WORKERS] = worker.answers()
    return answers


class Rules:
    """A train_many --check that is asked one line after the other."""

    def __init__(self, program):
        self.worker = Worker(program, 0)
        self.process = self.worker.open(["--check"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def accept(self, line):
        self.process.stdin.write("\t".join(together(*line)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"crashed {self.process.wait(HANG_SECONDS)} at {' '.join(line)}"
        return answer == "accepted\n"

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(HANG_SECONDS) == 0, f"exit code {self.process.returncode} after the last answer"


def sample(program, table):
    """Lines that have every option in a model with the parts that it has with the option alone, filled up with others."""
    rules, lines = Rules(program), []
    missing = collections.defaultdict(list)  # parts: options
    for option in table:
        missing[parts(option)].append(option)
    fillers = collections.deque(missing[frozenset()])  # another line begins with others
    for wanted, left in missing.items():
        while left:
            line = [left[0]]
            for option in [*left[1:], *fillers]:
                if (len(line) < LINE and option not in line and parts(*line, option) == wanted
                        and all(agree(option, other) for other in line) and rules.accept([*line, option])):
                    line.append(option)
            left = [option for option in left if option not in line]
            fillers.rotate(-LINE)
            lines.append(line)
    rules.close()
    return lines


def complaint(line, answer):
    """What is wrong with the answer; None: nothing."""
    word, number, text = answer.split(" ", 2)
    if word == "trained":
        return None if number == "2" else f"{number} steps"
    if word != "refused":
        return answer
    keys = [key_of(option) for option in line]
    if number != "2":
        return f"exit code {number}, not 2: {text}"
    if not any(key in text for key in keys):
        return f"the message names none of the keys: {text}"
    return None if FIX.search(text) else f"the message says no way out: {text}"


def accepted(program, lines, failures):
    """Of lines of options those that the rules do not refuse."""
    found = []
    for chosen, (line, answer) in zip(lines, run(program, [together(*chosen) for chosen in lines], ["--check"])):
        if answer == "accepted":
            found.append(chosen)
        elif complaint(line, answer):
            failures.append((line, complaint(line, answer)))
    return found


def train(program, lines, failures):
    """Returns the options that have trained in some line."""
    trained = set()
    for chosen, (line, answer) in zip(lines, run(program, [together(*chosen) for chosen in lines])):
        if answer.startswith("trained 2 "):
            trained.update(chosen)
            continue
        known = len(failures)
        if len(chosen) > 2:  # which of them?
            trained |= train(program, list(itertools.combinations(chosen, 2)), failures)
        if len(failures) == known and complaint(line, answer):
            failures.append((line, complaint(line, answer)))
    return trained


def main():
    program, arguments = os.path.abspath(sys.argv[1]), sys.argv[2:]
    begin = time.monotonic()
    table = options(program)
    if arguments and arguments != ["--sample"]:
        (line, answer), = run(program, [together(*arguments)])
        print(" ".join(line), "|", answer)
        sys.exit(complaint(line, answer))
    failures = []
    if arguments:
        lines = sample(program, table)
        asked = "a sample"
    else:
        all_pairs = [pair for pair in itertools.combinations(table, 2) if key_of(pair[0]) != key_of(pair[1])]
        pairs = accepted(program, all_pairs, failures)
        covering = cover(pairs)
        whole = accepted(program, covering, failures)
        # what no two of them are refused for, three can be
        lines = whole + [pair for line in covering if line not in whole for pair in itertools.combinations(line, 2)]
        asked = f"{len(all_pairs)} pairs, {len(all_pairs) - len(pairs)} refused"
    for option in sorted(set(table) - train(program, lines, failures)):
        failures.append(([option], "it trains with nothing else, without what COMPANIONS may add"))
    for line, wrong in failures:
        print("FAILED", " ".join(line), "|", wrong)
    print(f"{len(table)} options, {asked}, in {len(lines)} models: {len(failures)} failures, {time.monotonic() - begin:.0f} s")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
